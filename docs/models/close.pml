/*
 * Closing attempts: whoever ends an attempt, or gives it a row of its own, and which locks keep them apart.
 *
 * There is one claim, of ITEMS jobs, all of them open at first. Each session is one transaction, which may stay open
 * between any two of its statements, and commits or rolls back:
 *   single       complete, fail, snooze, discard, cancel_attempt or release of the first item, as _close() does
 *   repeatable   the same at REPEATABLE READ, with a snapshot from before
 *   many, again  complete_many or fail_many of all items; the second is the same answer, sent again
 *   crowd        the same, of a call that answers for more than 64 claims
 *   cancel       an operator's cancel of the first item
 *   rescue, crowd_rescue  of all items, which are overdue; the second has tried more than 64 claims before this one
 *   materialize  of all items
 *   deregister   of the worker, which holds all items
 *
 * A statement sees what had committed when it began, and is one step, except for its waits: for an advisory lock, for a
 * session that has written a row under the same unique key, or for the lock of a row. No wait ends by a timeout here
 * but those of rescue and materialize, which leave the item alone. So the model shows that no two sessions wait for
 * each other.
 *
 * Left out: the claim's bodies and keys (see unique_keys), other claims, and the tombstone of a cancel at commit, which
 * closes the item as the cancel of a running job does.
 *
 * check   singles      -DITEMS=2 -DSINGLE -DREPEATABLE -DCANCEL -DMATERIALIZE -DRESCUE
 * check   batches      -DITEMS=2 -DSINGLE -DMANY -DAGAIN -DMATERIALIZE -DRESCUE -DCANCEL
 * check   ends         -DITEMS=2 -DMANY -DREPEATABLE -DDEREGISTER -DCANCEL -DMATERIALIZE
 * check   crowds       -DITEMS=2 -DMANY -DCROWD -DCROWD_RESCUE -DSINGLE -DMATERIALIZE
 * check   one_item     -DITEMS=1 -DSINGLE -DMANY -DREPEATABLE -DRESCUE -DMATERIALIZE -DDEREGISTER
 * small   small        -DITEMS=2 -DSINGLE -DMANY -DMATERIALIZE -DRESCUE
 * broken  NO_SECOND_LOOK      stale_loses  -DITEMS=2 -DMANY -DRESCUE
 * broken  LOOK_BEFORE_LOCK    stale_loses  -DITEMS=2 -DMANY -DSINGLE
 * broken  NO_SHARED_LOCK      stale_loses  -DITEMS=2 -DMANY -DSINGLE
 * broken  NO_CLAIM_LOCK       stale_loses  -DITEMS=2 -DMANY -DRESCUE
 * broken  NO_UNIQUE_ITEM      stale_loses  -DITEMS=2 -DSINGLE -DCANCEL
 * broken  NO_LEASE_LOCK       stale_loses  -DITEMS=2 -DSINGLE -DMATERIALIZE -DRESCUE
 * broken  NO_COLLISION        stale_loses  -DITEMS=2 -DREPEATABLE -DMANY
 * broken  NO_CROWD_LOOK       stale_loses  -DITEMS=2 -DMANY -DCROWD
 * broken  LEASE_LATER         one_state    -DITEMS=2 -DMATERIALIZE -DSINGLE
 * broken  NO_LEASE_LOOK       answer_holds -DITEMS=2 -DMATERIALIZE -DSINGLE
 * broken  LOCKS_UNORDERED     no_deadlock  -DITEMS=2 -DMANY -DAGAIN -DMATERIALIZE -DBY_ITEM
 */

#define ALL ((1 << ITEMS) - 1)
#define COMMITTED 99
#define bit(n) (1 << (n))

/* Advisory locks of the claim, and of those that answer for too many. Sessions are 1 to 10. */
byte exclusive;
short shared;
short crowd;

/* Rows of closures: of one item each, and batch rows by their number. Who has written them, or COMMITTED. */
byte row[ITEMS];
#define BATCHES 4
byte batch[BATCHES];
byte batch_items[BATCHES];
/* Rows of leases, and who has locked them. */
byte leased; /* items: bit i */
byte lease_lock[ITEMS];
/* What followed the attempts, as committed: rows of done_entries, deferred_jobs, ready_entries, or the closure. */
byte ends[ITEMS];

hidden byte stale_loses, one_state, answer_holds;
hidden byte i, k;

/* The committed closures of an item. */
#define is_batched(n) ( \
  (batch[0] == COMMITTED && (batch_items[0] & bit(n))) || (batch[1] == COMMITTED && (batch_items[1] & bit(n))) || \
  (batch[2] == COMMITTED && (batch_items[2] & bit(n))) || (batch[3] == COMMITTED && (batch_items[3] & bit(n))))
#define is_closed(n) (row[n] == COMMITTED || is_batched(n))
#define closed_items ((is_closed(0) -> 1 : 0) | ((ITEMS > 1 && is_closed(ITEMS - 1)) -> 2 : 0))
#define batched_items ((is_batched(0) -> 1 : 0) | ((ITEMS > 1 && is_batched(ITEMS - 1)) -> 2 : 0))
#define batch_rows ((batch[0] == COMMITTED) + (batch[1] == COMMITTED) + (batch[2] == COMMITTED) + \
  (batch[3] == COMMITTED))

/* What a session has written, and will commit. */
typedef Writes {
  byte ended;        /* items that it ends */
  byte materialized; /* items for which it inserts a row into leases */
  byte gone          /* items whose rows in leases it deletes */
};

inline commit() {
  d_step {
    i = 0;
    do
    :: i < ITEMS ->
      if
      :: w.ended & bit(i) -> ends[i]++
      :: else
      fi;
      if
      :: row[i] == _pid -> row[i] = COMMITTED
      :: else
      fi;
      if
      :: lease_lock[i] == _pid -> lease_lock[i] = 0
      :: else
      fi;
      i++
    :: else -> break
    od;
    leased = (leased | w.materialized) & ~w.gone;
    k = 0;
    do
    :: k < BATCHES ->
      if
      :: batch[k] == _pid -> batch[k] = COMMITTED
      :: else
      fi;
      k++
    :: else -> k = 0; break
    od;
    unlock();
    check_states()
  }
}

inline rollback() {
  d_step {
    i = 0;
    do
    :: i < ITEMS ->
      if
      :: row[i] == _pid -> row[i] = 0
      :: else
      fi;
      if
      :: lease_lock[i] == _pid -> lease_lock[i] = 0
      :: else
      fi;
      i++
    :: else -> i = 0; break
    od;
    k = 0;
    do
    :: k < BATCHES ->
      if
      :: batch[k] == _pid -> batch[k] = 0; batch_items[k] = 0
      :: else
      fi;
      k++
    :: else -> k = 0; break
    od;
    unlock()
  }
}

inline unlock() {
  exclusive = (exclusive == _pid -> 0 : exclusive);
  shared = shared & ~bit(_pid);
  crowd = crowd & ~bit(_pid);
  w.ended = 0; w.materialized = 0; w.gone = 0
}

inline end() {
  if
  :: commit()
  :: rollback()
  fi
}

/* A job is in one state: its attempt is open in the ledger, or in leases, or it has ended, and that once. */
inline check_states() {
  i = 0;
  do
  :: i < ITEMS ->
    stale_loses = ends[i] <= 1;
    assert(stale_loses);
    one_state = (is_closed(i) -> 1 : 0) == ends[i] + ((leased & bit(i)) -> 1 : 0);
    assert(one_state);
    i++
  :: else -> break
  od;
  i = 0
}

/* awa._join_claim(). */
inline join_claim() {
#ifndef NO_SHARED_LOCK
  atomic { exclusive == 0 || exclusive == _pid -> shared = shared | bit(_pid) }
#else
  skip
#endif
}

#ifdef NO_CLAIM_LOCK
#define can_take true
#else
#define can_take ((exclusive == 0 || exclusive == _pid) && (shared & ~bit(_pid)) == 0)
#endif

/* insert into lease_claim_closures ... on conflict do nothing, of one item: waits for who has written the same. */
inline insert_item(n) {
#ifdef NO_UNIQUE_ITEM
  atomic { row[n] = (row[n] == 0 -> _pid : row[n]); done = done | bit(n) }
#else
  if
  :: atomic { row[n] == 0 -> row[n] = _pid; done = done | bit(n) }
  :: row[n] == COMMITTED || row[n] == _pid
  fi
#endif
}

/* select from leases ... for update. */
inline lock_lease(n) {
#ifdef NO_LEASE_LOCK
  d_step { done = done | ((leased & bit(n)) -> bit(n) : 0); w.gone = w.gone | (leased & bit(n)) }
#else
  if
  :: atomic {
      (leased & bit(n)) && lease_lock[n] == 0 ->
      lease_lock[n] = _pid;
      w.gone = w.gone | bit(n);
      done = done | bit(n)
    }
  :: !(leased & bit(n))
  fi
#endif
}

/* Writes what follows the attempts that were closed: _record_failures(), _record_releases(), _end() ... */
inline follow() { w.ended = w.ended | done; done = 0 }

/* awa._close() and awa._close_item(), of the first item. */
inline close_single() {
  join_claim();
  d_step { looked = batched_items };
  if
  :: looked & 1
  :: else -> insert_item(0)
  fi;
  if
  :: done & 1
#ifdef NO_LEASE_LOOK
  :: else
#else
  :: else -> lock_lease(0)
#endif
  fi
}

#ifdef SINGLE
proctype single() {
  Writes w;
  byte looked, done;
  close_single();
  if
  :: done & 1 -> follow(); end()
  :: else ->
    /* JQ001 is an answer, too: only when the attempt has ended. */
    answer_holds = ends[0] > 0;
    assert(answer_holds);
    rollback()
  fi
}
#endif

#ifdef REPEATABLE
proctype repeatable() {
  Writes w;
  byte looked, done, rows, seen, leases;
  d_step { looked = batched_items; rows = batch_rows; seen = (row[0] == COMMITTED); leases = leased };
  join_claim();
  if
  :: looked & 1
  :: else ->
#ifndef NO_COLLISION
    if
    :: ITEMS > 1 -> /* an empty batch row: it collides with one that the snapshot does not see */
      if
      :: atomic { batch[rows] == 0 -> batch[rows] = _pid }
      :: batch[rows] == COMMITTED -> goto fails /* 40001 */
      fi
    :: else
    fi;
#endif
    if
    :: atomic { row[0] == 0 -> row[0] = _pid; done = 1 }
    :: row[0] == COMMITTED && !seen -> goto fails /* 40001 */
    :: row[0] == COMMITTED && seen
    fi
  fi;
  if
  :: done
  :: !done && !(leases & 1) -> goto fails /* JQ001, or 40001 */
  :: !done && (leases & 1) ->
    if
    :: atomic { (leased & 1) && lease_lock[0] == 0 -> lease_lock[0] = _pid; w.gone = 1; done = 1 }
    :: !(leased & 1) -> goto fails /* 40001 */
    fi
  fi;
  follow();
  end();
  goto ends_here;
fails:
  rollback();
ends_here: skip
}
#endif

/* awa._is_crowded(): a batch writer asks when it has its lock. */
#ifdef NO_CROWD_LOOK
#define is_crowded false
#else
#define is_crowded ((crowd & ~bit(_pid)) != 0)
#endif

/* awa._lock_claims(). */
inline lock_claims() {
  by_item = false;
#if ITEMS == 1
  by_item = true;
#else
#ifdef BY_ITEM
  by_item = true;
  join_claim();
#else
  if
  :: atomic {
      can_take -> exclusive = _pid;
    };
    by_item = is_crowded
  :: atomic { !can_take -> by_item = true };
    join_claim()
  fi;
#endif
#endif
}

/* awa._close_items(): what is open by a statement that begins after the lock, then a batch row, or a row for each. */
inline close_items(items) {
#ifndef LOOK_BEFORE_LOCK
  d_step { open = items & ~closed_items; rows = batch_rows };
#endif
  if
  :: by_item ->
#ifdef LOCKS_UNORDERED
    if
    :: _pid % 2 -> insert_each(1, 0)
    :: else -> insert_each(0, 1)
    fi
#else
    insert_each(0, ITEMS - 1)
#endif
  :: !by_item && open ->
    /* a unique violation fails the call, and is not waited for under the exclusive lock */
    atomic { batch[rows] == 0 -> batch[rows] = _pid; batch_items[rows] = open; done = open }
  :: else
  fi
}

inline insert_each(one, other) {
  if
  :: open & bit(one) -> insert_item(one)
  :: else
  fi;
  if
  :: one != other && (open & bit(other)) -> insert_item(other)
  :: else
  fi
}

/* awa._close_many(). */
inline close_many(items) {
#ifdef LOOK_BEFORE_LOCK
  d_step { open = items & ~closed_items; rows = batch_rows };
#endif
  lock_claims();
  close_items(items);
  d_step { open = items & leased & ~done };
  if
  :: open & 1 -> lock_lease(0)
  :: else
  fi;
  if
  :: ITEMS > 1 && (open & 2) -> lock_lease(ITEMS - 1)
  :: else
  fi;
  open = 0
}

#if defined(MANY) || defined(AGAIN)
proctype many() {
  Writes w;
  byte open, done, rows;
  bool by_item;
#if ITEMS > 1 && !defined(LOOK_BEFORE_LOCK) && !defined(BY_ITEM)
  /* awa._close_batches(): at once, where nobody is in the way, and all items are open. */
  if
  :: atomic { can_take -> exclusive = _pid };
    if
    :: !is_crowded ->
      d_step { open = closed_items; rows = batch_rows };
      if
      :: !open ->
        atomic { batch[rows] == 0 -> batch[rows] = _pid; batch_items[rows] = ALL; done = ALL };
        goto closed
      :: else
      fi
    :: is_crowded
    fi
  :: !can_take
  fi;
#endif
  close_many(ALL);
closed:
  follow();
  end()
}
#endif

#ifdef CROWD
proctype crowded() {
  Writes w;
  byte open, done, rows;
  bool by_item = true;
  /* awa._try_join_claim(), for the 65th claim of a call: one lock for all, then the claim's own has to be free. */
  atomic { crowd = crowd | bit(_pid) };
  if
  :: atomic { exclusive == 0 -> skip }
  :: atomic { exclusive != 0 -> skip };
    join_claim()
  fi;
  close_items(ALL);
  d_step { open = leased & ~done };
  if
  :: open & 1 -> lock_lease(0)
  :: else
  fi;
  if
  :: ITEMS > 1 && (open & 2) -> lock_lease(ITEMS - 1)
  :: else
  fi;
  follow();
  end()
}
#endif

#ifdef CANCEL
/* awa._cancel(): looks where the job is, acts there, and looks again where it has left meanwhile. */
proctype cancel() {
  Writes w;
  byte looked, done;
  do
  :: ends[0] == 0 ->
    /* awa._cancel_running(): no look at batch rows is needed before the lock */
    close_single();
    if
    :: done & 1 -> follow(); end(); break
    :: else
    fi
  :: ends[0] > 0 -> rollback(); break /* JQ005 */
  od
}
#endif

/* awa._take_items(), of one item: waits for some milliseconds, then leaves it alone. */
inline take_item(n) {
  if
  :: (open & bit(n)) ->
    if
    :: atomic { row[n] == 0 -> row[n] = _pid; done = done | bit(n) }
    :: row[n] != 0
    fi
  :: else
  fi
}

/* awa._take_open(). */
inline take_open() {
  d_step { open = ALL & ~closed_items }; /* awa._open_items */
  if
  :: open ->
    if
    :: atomic { !by_crowd && can_take -> exclusive = _pid }
    /* beside answers for single items */
    :: atomic { !by_crowd && !can_take && exclusive == 0 -> shared = shared | bit(_pid) }
    :: atomic { by_crowd -> crowd = crowd | bit(_pid) };
      if
      :: can_take
      :: !can_take -> open = 0
      fi
    :: !by_crowd && exclusive != 0 && exclusive != _pid -> open = 0
    fi;
#ifndef NO_SECOND_LOOK
    d_step { open = open & ~batched_items };
#endif
    take_item(0);
    take_item(ITEMS - 1);
    open = 0
  :: else
  fi
}

/* The rows of leases that are overdue: for update skip locked. */
inline take_leases() {
  atomic {
    i = 0;
    do
    :: i < ITEMS ->
      if
#ifdef NO_LEASE_LOCK
      :: (leased & bit(i)) ->
#else
      :: (leased & bit(i)) && lease_lock[i] == 0 ->
        lease_lock[i] = _pid;
#endif
        w.gone = w.gone | bit(i);
        done = done | bit(i)
      :: else
      fi;
      i++
    :: else -> i = 0; break
    od
  }
}

#if defined(RESCUE) || defined(CROWD_RESCUE)
proctype rescue(bool by_crowd) {
  Writes w;
  byte open, done;
  take_leases();
  take_open();
  follow();
  end()
}
#endif

#ifdef MATERIALIZE
proctype materialize() {
  Writes w;
  byte open, done;
  bool by_crowd;
  take_open();
#ifdef LEASE_LATER
  w.materialized = 0;
#else
  w.materialized = done;
#endif
  end()
}
#endif

#ifdef DEREGISTER
/* awa.deregister_worker() with awa._release_open(). */
proctype deregister() {
  Writes w;
  byte open, done, rows, items;
  bool by_item;
  d_step { items = (ALL & ~closed_items) | leased };
  if
  :: items ->
    close_many(items);
    follow()
  :: else
  fi;
  end()
}
#endif

init {
  atomic {
#ifdef SINGLE
    run single();
#endif
#ifdef REPEATABLE
    run repeatable();
#endif
#ifdef MANY
    run many();
#endif
#ifdef AGAIN
    run many();
#endif
#ifdef CROWD
    run crowded();
#endif
#ifdef CANCEL
    run cancel();
#endif
#ifdef RESCUE
    run rescue(false);
#endif
#ifdef CROWD_RESCUE
    run rescue(true);
#endif
#ifdef MATERIALIZE
    run materialize();
#endif
#ifdef DEREGISTER
    run deregister();
#endif
    skip
  }
}
