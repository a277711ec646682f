/*
 * The ready log: producers append entries, claims read them through windows of snapshots.
 *
 * Sessions:
 *   producer  one transaction that appends one or two entries, and commits or rolls back. It may stay open for as long
 *             as it likes, so that transactions commit in any order.
 *   mixed     a producer that claims between its two entries, in the same transaction.
 *   claimer   claims one or two jobs, or none, again and again; a claim may roll back. Its commit does not wait for
 *             the disk.
 *   server    writes to the disk what has been committed, and crashes: it forgets the claims that are not on the disk.
 *
 * A claim is two steps: lock and snapshot, then all the rest up to its commit. So everything may happen between the
 * snapshot and the reads. What it reads after that depends on the snapshot alone.
 *
 * Left out: the ids of transactions that only claim (they have no entries), tombstones, the byte budget (it ends a
 * claim as its number of jobs does), and the front lane (a lane like others).
 *
 * check   one_shard    -DPRODUCERS=2 -DMIXED=1 -DCLAIMERS=2
 * check   late         -DPRODUCERS=3 -DMIXED=0 -DCLAIMERS=1
 * check   two_shards   -DPRODUCERS=2 -DMIXED=0 -DCLAIMERS=2 -DSHARDS=2 -DROLLBACKS=0
 * check   crash        -DPRODUCERS=2 -DMIXED=1 -DCLAIMERS=1 -DCRASHES=1 -DROLLBACKS=0
 * check   receipts     -DPRODUCERS=2 -DMIXED=0 -DCLAIMERS=2 -DCRASHES=1 -DCLOSES
 * small   small        -DPRODUCERS=2 -DMIXED=0 -DCLAIMERS=2 -DROLLBACKS=0
 * live    progress     -DPRODUCERS=1 -DMIXED=1 -DCLAIMERS=2 -DCRASHES=1 -DLIVE
 * broken  OWN_ID_VISIBLE        no_lost_job     -DPRODUCERS=1 -DMIXED=1 -DCLAIMERS=1
 * broken  SNAPSHOT_BEFORE_LOCK  no_double_claim -DPRODUCERS=2 -DMIXED=0 -DCLAIMERS=2
 * broken  READS_PAST_HI         no_double_claim -DPRODUCERS=2 -DMIXED=0 -DCLAIMERS=1
 * broken  ALWAYS_EXTENDS        no_lost_job     -DPRODUCERS=3 -DMIXED=0 -DCLAIMERS=1
 * broken  NO_LATE_COMMITS       no_lost_job     -DPRODUCERS=2 -DMIXED=0 -DCLAIMERS=1
 * broken  CURSOR_BY_NUMBER      no_lost_job     -DPRODUCERS=2 -DMIXED=0 -DCLAIMERS=1
 * broken  NO_LOCK               no_double_claim -DPRODUCERS=1 -DMIXED=0 -DCLAIMERS=2
 * broken  ONE_SNAPSHOT          no_double_claim -DPRODUCERS=2 -DMIXED=0 -DCLAIMERS=2 -DSHARDS=2
 * broken  RECEIPT_ALONE         completed_was_run -DPRODUCERS=2 -DMIXED=0 -DCLAIMERS=2 -DCRASHES=1 -DCLOSES
 */

#ifndef SHARDS
#define SHARDS 1
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef ROLLBACKS
#define ROLLBACKS 1 /* of claims */
#endif

#define WRITERS (PRODUCERS + MIXED) /* each has one transaction, and that an id from 1 on */

typedef Snapshot {
  byte xmax;
  byte xip /* those in progress below xmax: bit x - 1 is for id x */
};

typedef Cursor {
  Snapshot hi;
  bool is_open; /* lo is not null */
  Snapshot lo;
  byte pos_xid;
  byte pos_id
};

byte next_xid = 1;
byte completed;  /* the newest id that has ended */
byte running;    /* ids: bit x - 1 */
byte committed;
byte inserted;   /* jobs: bit 2 * (x - 1) + n - 1 is for job n, 1 or 2, of id x */
byte owed;       /* jobs whose transactions have committed */
byte claimed;    /* jobs that a claim holds */
Cursor cursor[SHARDS];
bool is_locked[SHARDS];
byte earlier[WRITERS + 1]; /* ids that had committed when this one began */

#if CRASHES /* as they are on the disk */
byte disk_claimed;
byte disk_completed;
Cursor disk_cursor[SHARDS];
#endif

byte epoch; /* how often the server has crashed */
byte rollbacks;
byte begun;      /* producers: they begin in an order, since they are all alike */
byte writers_ended;
byte all_ended;

#define bit(x) (1 << ((x) - 1))
#define job(x, n) (1 << (2 * ((x) - 1) + (n) - 1))
#define sees(s, x) ((x) < s.xmax && !(s.xip & bit(x)))
#if SHARDS == 1
#define is_in(shard, n) true
#else
/* The first job of each transaction goes to one shard, the second to the other. */
#define is_in(shard, n) ((n) == (shard) + 1)
#endif

/* Whether a claim has gone past a job: _resolve_change asks so, and _available. */
#define is_passed(c, x, n) \
  ((!c.is_open && sees(c.hi, x)) || (c.is_open && (sees(c.lo, x) || \
    (sees(c.hi, x) && ((x) < c.pos_xid || ((x) == c.pos_xid && (n) <= c.pos_id))))))

/* The invariants. They are variables, so that a failure has a name. */
hidden byte no_lost_job, no_double_claim, no_ghost, in_order, completed_was_run;

hidden byte x, n, s, late, to_xid, at_xid, at_id, entries, limit;
hidden byte is_newest, is_read, is_claimed, is_done, is_moved;
hidden Cursor none;
hidden Snapshot lo, hi;

#define committed_job(x, n) ((committed & bit(x)) && (inserted & job(x, n)))

inline check_books() {
  s = 0;
  do
  :: s < SHARDS ->
    x = 1;
    do
    :: x <= WRITERS ->
      n = 1;
      do
      :: n <= 2 ->
        if
        :: is_in(s, n) && committed_job(x, n) ->
          no_lost_job = (claimed & job(x, n)) || !is_passed(cursor[s], x, n);
          assert(no_lost_job);
          no_double_claim = !(claimed & job(x, n)) || is_passed(cursor[s], x, n);
          assert(no_double_claim)
        :: else
        fi;
        n++
      :: else -> break
      od;
      x++
    :: else -> break
    od;
    s++
  :: else -> break
  od;
  x = 0; n = 0; s = 0
}

#ifdef CLOSES
#define RECEIPTS (4 * WRITERS + 4)
byte claim_ids, disk_claim_ids; /* the sequence: a crash takes it back */
byte job_at[RECEIPTS];          /* for each receipt, 2 * claim + item: the job, or 0 where there is no such claim */
int disk_receipts, is_closed;   /* receipts */
byte was_run;                   /* jobs whose handler has ended */
byte done;                      /* jobs that are completed */
#endif

inline flush() {
#if CRASHES
  disk_claimed = claimed;
  disk_completed = completed;
  s = 0;
  do
  :: s < SHARDS -> copy(disk_cursor[s], cursor[s]); s++
  :: else -> break
  od;
  s = 0;
#ifdef CLOSES
  disk_claim_ids = claim_ids;
  do
  :: s < RECEIPTS ->
    if
    :: job_at[s] -> disk_receipts = disk_receipts | (1 << s)
    :: else
    fi;
    s++
  :: else -> break
  od;
  s = 0;
#endif
#else
  skip
#endif
}

inline copy_snapshot(to, from) {
  to.xmax = from.xmax;
  to.xip = from.xip
}

inline copy(to, from) {
  copy_snapshot(to.hi, from.hi);
  copy_snapshot(to.lo, from.lo);
  to.is_open = from.is_open;
  to.pos_xid = from.pos_xid;
  to.pos_id = from.pos_id
}

/* The transaction gets an id with the first row that it writes. */
inline get_xid() {
  own = next_xid;
  next_xid++;
  running = running | bit(own);
  earlier[own] = committed
}

inline end_xid() {
  running = running & ~bit(own);
  completed = (own > completed -> own : completed)
}

/* awa._snapshot(), for a session whose transaction has the id own, or 0. */
inline take_snapshot(now) {
  now.xmax = completed + 1;
  now.xip = running & (bit(completed + 1) - 1);
#ifdef OWN_ID_VISIBLE
  if
  :: own -> now.xip = now.xip & ~bit(own) /* as PostgreSQL has it */
  :: else
  fi
#endif
}

/* Whether the session's statements see the entries of a transaction at all. */
#define is_there(x) ((committed & bit(x)) || (x) == own)

/* awa._open_window(). */
inline open_window(c, now) {
  is_newest = true;
  at_xid = 0;
  at_id = 0;
  if
  :: !c.is_open -> copy_snapshot(lo, c.hi); copy_snapshot(hi, now)
  :: else ->
    copy_snapshot(lo, c.lo);
    copy_snapshot(hi, c.hi);
    at_xid = c.pos_xid;
    at_id = c.pos_id;
    is_newest = at_xid >= lo.xmax;
#ifndef ALWAYS_EXTENDS
    x = 1;
    do
    :: x <= at_xid ->
      is_newest = is_newest && !((hi.xip & bit(x)) && sees(now, x));
      x++
    :: else -> break
    od;
#endif
    if
    :: is_newest -> copy_snapshot(hi, now)
    :: else
    fi
  fi;
  to_xid = hi.xmax - 1;
  late = 0
}

/* awa._late_part(). */
inline late_part(shard) {
  late = 0;
#ifndef NO_LATE_COMMITS
  x = 1;
  do
  :: x < lo.xmax && !late ->
    if
    :: (lo.xip & bit(x)) && x >= at_xid && sees(hi, x) && is_there(x) &&
       ((is_in(shard, 1) && (inserted & job(x, 1)) && (x > at_xid || at_id < 1)) ||
         (is_in(shard, 2) && (inserted & job(x, 2)) && (x > at_xid || at_id < 2))) -> late = x
    :: else
    fi;
    x++
  :: else -> break
  od;
#endif
  if
  :: late ->
    at_id = (late == at_xid -> at_id : 0);
    at_xid = late;
    to_xid = late
  :: else ->
    at_xid = lo.xmax;
    at_id = 0;
    to_xid = hi.xmax - 1
  fi
}

#ifdef READS_PAST_HI
#define is_readable(x) is_there(x)
#elif defined(CURSOR_BY_NUMBER)
#define is_readable(x) is_there(x)
#else
#define is_readable(x) (is_there(x) && sees(hi, x))
#endif

/* The statement of awa.claim(): reads a part, and appends the claim, which is the cursor from then on. */
inline read_part(shard, c) {
  entries = 0;
  limit = room;
  is_claimed = false;
  x = (at_xid -> at_xid : 1);
#ifdef READS_PAST_HI
  to_xid = (late -> late : WRITERS);
#endif
  do
  :: x <= to_xid && entries < limit ->
    n = 1;
    do
    :: n <= 2 && entries < limit ->
      if
      :: is_in(shard, n) && (x > at_xid || n > at_id) && (inserted & job(x, n)) && is_readable(x) ->
        no_ghost = committed & bit(x);
#ifdef OWN_ID_VISIBLE
        no_ghost = no_ghost || x == own; /* not what this variant is about */
#endif
        assert(no_ghost);
        no_double_claim = !((claimed | taken) & job(x, n));
#ifndef NO_LOCK /* it shows at the commit */
        assert(no_double_claim);
#endif
        check_order(shard, x);
        taken = taken | job(x, n);
#ifdef CLOSES
        got_job[got] = job(x, n);
        got_receipt[got] = 2 * claim_ids + entries;
        got++;
#endif
        entries++;
        c.pos_xid = x;
        c.pos_id = n
      :: else
      fi;
      n++
    :: else -> break
    od;
    x++
  :: else -> break
  od;
  if
  :: entries ->
    is_claimed = true;
#ifdef CLOSES
    claim_ids++;
#endif
    c.is_open = late || entries == limit;
    copy_snapshot(c.hi, hi);
#ifdef CURSOR_BY_NUMBER
    c.hi.xip = 0;
    c.is_open = false;
    c.hi.xmax = c.pos_xid + 1;
#endif
    if
    :: c.is_open -> copy_snapshot(c.lo, lo)
    :: else -> c.lo.xmax = 0; c.lo.xip = 0; c.pos_xid = 0; c.pos_id = 0
    fi
  :: else
  fi;
  n = 0
}

/* First in, first out: what had committed before this one began is claimed before it. */
inline check_order(shard, at) {
  s = 1;
  do
  :: s <= WRITERS ->
    in_order = !(earlier[at] & bit(s)) ||
      ((!is_in(shard, 1) || !(inserted & job(s, 1)) || ((claimed | taken) & job(s, 1))) &&
        (!is_in(shard, 2) || !(inserted & job(s, 2)) || ((claimed | taken) & job(s, 2))));
#ifndef NO_LOCK
    assert(in_order);
#endif
    s++
  :: else -> break
  od;
  s = 0
}

/* The loop of awa.claim() over the parts of a lane, with awa._next_part(). */
inline claim_lane(shard, c, now) {
  open_window(c, now);
  is_moved = false;
  is_done = false;
  do
  :: !is_done ->
    if
    :: at_xid < lo.xmax -> late_part(shard)
    :: else
    fi;
    read_part(shard, c);
    room = room - entries;
    if
    :: room == 0 -> is_moved = true; is_done = true
    :: else ->
      if
      :: is_claimed ->
        is_moved = true;
        at_xid = c.pos_xid;
        at_id = c.pos_id;
        is_read = !c.is_open
      :: else -> is_read = true
      fi;
      if
      :: is_read && is_newest -> is_done = true
      :: is_read && !is_newest ->
        copy_snapshot(lo, hi);
        copy_snapshot(hi, now);
        at_xid = 0;
        at_id = 0;
        is_newest = true
      :: else
      fi
    fi
  :: else -> break
  od;
  x = 0; n = 0; late = 0; to_xid = 0; at_xid = 0; at_id = 0; entries = 0; limit = 0;
  is_newest = false; is_read = false; is_claimed = false;
  lo.xmax = 0; lo.xip = 0; hi.xmax = 0; hi.xip = 0
}

#ifdef CLOSES
#define FORGET_RECEIPTS got = 0; got_job[0] = 0; got_job[1] = 0; got_receipt[0] = 0; got_receipt[1] = 0
#else
#define FORGET_RECEIPTS skip
#endif

/* awa.claim(), up to its last read. */
inline claim() {
  atomic {
#if SHARDS > 1
    if
    :: !is_locked[0] -> shard = 0
    :: !is_locked[1] -> shard = 1
    fi;
#endif
#ifndef SNAPSHOT_BEFORE_LOCK
    lock_shard();
#endif
    take_snapshot(now);
    if
    :: room = 1
    :: room = 2
    fi
  };
#ifdef SNAPSHOT_BEFORE_LOCK
  atomic { lock_shard() };
#endif
#if SHARDS > 1
  atomic { read_lane() };
  if
  :: room -> /* it only tries the other one */
    shard = 1 - shard;
    if
    :: atomic {
        lock_shard();
#ifndef ONE_SNAPSHOT
        take_snapshot(now)
#endif
      }
    :: is_locked[shard] -> room = 0
    fi
  :: else
  fi
#endif
}

inline lock_shard() {
#ifndef NO_LOCK
  !is_locked[shard] -> is_locked[shard] = true;
#endif
  held = held | (1 << shard);
  copy(mine[shard], cursor[shard])
}

inline read_lane() {
  if
  :: room ->
    d_step { claim_lane(shard, mine[shard], now) };
    if
    :: !is_moved -> /* where that took long: awa._move_cursor() */
      copy_snapshot(mine[shard].hi, now);
      mine[shard].is_open = false;
      mine[shard].lo.xmax = 0; mine[shard].lo.xip = 0; mine[shard].pos_xid = 0; mine[shard].pos_id = 0
    :: true
    fi
  :: else
  fi
}

inline commit_claim() {
  no_double_claim = !(claimed & taken);
  assert(no_double_claim);
  claimed = claimed | taken;
  s = 0;
  do
  :: s < SHARDS ->
    if
    :: held & (1 << s) -> copy(cursor[s], mine[s])
    :: else
    fi;
    s++
  :: else -> break
  od;
  s = 0;
#ifdef CLOSES
  do
  :: s < got -> job_at[got_receipt[s]] = got_job[s]; s++
  :: else -> break
  od;
  s = 0;
#endif
  let_go()
}

inline let_go() {
  s = 0;
  do
  :: s < SHARDS ->
    if
    :: held & (1 << s) -> is_locked[s] = false
    :: else
    fi;
    s++
  :: else -> break
  od;
  s = 0;
  clear()
}

inline clear() {
  s = 0;
  do
  :: s < SHARDS -> copy(mine[s], none); s++
  :: else -> break
  od;
  s = 0;
  held = 0; taken = 0; room = 0; shard = 0; now.xmax = 0; now.xip = 0; since = 0
}

inline commit_own() {
  committed = committed | bit(own);
  owed = owed | (inserted & (job(own, 1) | job(own, 2)));
  end_xid()
}

inline rollback_own() {
  inserted = inserted & ~(job(own, 1) | job(own, 2));
  end_xid()
}

proctype producer(byte number) {
  byte own, since;
  {
    atomic { begun == number -> begun++; since = epoch; get_xid(); inserted = inserted | job(own, 1) };
    atomic {
#ifndef CLOSES
      if
      :: inserted = inserted | job(own, 2)
      :: true
      fi;
#endif
      if
      :: d_step { commit_own(); check_books(); flush() }
      :: d_step { rollback_own() }
      fi
    }
  } unless {
    own && since != epoch /* the server has forgotten it */
  };
  d_step { own = 0; since = 0; writers_ended++; all_ended++ }
}

#if MIXED
proctype mixed() {
  byte own, since, room, shard, held, taken;
  Snapshot now;
  Cursor mine[SHARDS];
  {
    atomic { since = epoch; get_xid(); inserted = inserted | job(own, 1) };
    claim();
    atomic { read_lane() };
    atomic {
      inserted = inserted | job(own, 2);
      if
      :: d_step { commit_own(); commit_claim(); check_books(); flush() }
      :: d_step { rollback_own(); let_go() }
      fi
    }
  } unless {
    own && since != epoch
  };
  d_step { clear(); own = 0; writers_ended++; all_ended++ }
}
#endif

#ifdef CLOSES
/* awa.complete(): the claim has to hold that job at that place. */
inline complete() {
  d_step {
    if
#ifdef RECEIPT_ALONE
    :: job_at[got_receipt[got]] && !(is_closed & (1 << got_receipt[got])) ->
#else
    :: job_at[got_receipt[got]] == got_job[got] && !(is_closed & (1 << got_receipt[got])) ->
#endif
      is_closed = is_closed | (1 << got_receipt[got]);
      done = done | job_at[got_receipt[got]];
      completed_was_run = !(done & ~was_run);
      assert(completed_was_run);
      flush()
    :: else
    fi
  }
}
#endif

#if CRASHES
#define is_all_claimed (writers_ended == WRITERS && claimed == owed && disk_claimed == claimed)
#else
#define is_all_claimed (writers_ended == WRITERS && claimed == owed)
#endif

proctype claimer() {
  byte own, since, room, shard, held, taken;
  Snapshot now;
  Cursor mine[SHARDS];
#ifdef CLOSES
  byte got, got_job[2], got_receipt[2];
#endif
  do
  :: is_all_claimed -> break
#ifdef LIVE /* locks are given in their order, so that empty claims keep nobody waiting for ever: leave them out */
  :: (owed & ~claimed) != 0 ->
#else
  :: else ->
#endif
    since = epoch;
    {
      claim();
      atomic {
        read_lane();
        if
        :: d_step { commit_claim(); check_books() }
        :: d_step { rollbacks < ROLLBACKS -> rollbacks++; let_go(); FORGET_RECEIPTS }
        fi
      }
    } unless {
      d_step { since != epoch -> clear(); FORGET_RECEIPTS }
    };
#ifdef CLOSES
    do
    :: d_step { got > 0 -> got--; was_run = was_run | got_job[got] };
      if
      :: complete()
      :: true /* the worker dies first */
      fi;
      d_step { got_job[got] = 0; got_receipt[got] = 0 }
    :: else -> break
    od
#endif
  od;
  all_ended++
}

#if CRASHES
proctype server() {
  do
  :: d_step { disk_claimed != claimed -> flush() }
  :: d_step {
      epoch < CRASHES ->
      epoch++;
      /* The ids that are not on the disk come again. */
      inserted = inserted & owed;
      running = 0;
      committed = committed & (bit(disk_completed + 1) - 1);
      completed = disk_completed;
      next_xid = disk_completed + 1;
      claimed = disk_claimed;
      s = 0;
      do
      :: s < SHARDS -> copy(cursor[s], disk_cursor[s]); is_locked[s] = false; s++
      :: else -> break
      od;
      s = 0;
#ifdef CLOSES
      claim_ids = disk_claim_ids;
      do
      :: s < RECEIPTS ->
        if
        :: !(disk_receipts & (1 << s)) -> job_at[s] = 0
        :: else
        fi;
        s++
      :: else -> break
      od;
      s = 0;
#endif
      check_books()
    }
  :: all_ended == WRITERS + CLAIMERS -> break
  od
}
#endif

init {
  atomic {
    /* Before the first transaction that there can be. */
    cursor[0].hi.xmax = 1;
#if SHARDS > 1
    cursor[1].hi.xmax = 1;
#endif
    flush();
    byte i = 0;
    do
    :: i < PRODUCERS -> run producer(i); i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < CLAIMERS -> run claimer(); i++
    :: else -> break
    od;
#if MIXED
    run mixed();
#endif
#if CRASHES
    run server()
#endif
  }
}

/* Progress: with a claimer that does not die, every committed job is claimed, and that is known to the disk. */
ltl progress { <> (all_ended == WRITERS + CLAIMERS) }
