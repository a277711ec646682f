/*
 * Segments: rotate, clean and truncate, beside writers that come late and readers with old snapshots.
 *
 * There is one lane, and a ring of three segments (in Awa four; the third is enough for a current one, one that is on
 * its way out, and an empty one). Sessions:
 *   writer      one transaction that looks up the current segment, appends an entry there, and commits or rolls back.
 *   claimer     locks the shard, takes a snapshot, reads ring, then the entries of all segments; takes all there is.
 *   worker      ends open attempts: it needs the body, from the entry or from leases.
 *   maintainer  one pass after the other, under the lock of ring's row: rotates, cleans the oldest segment, at once or
 *               after moves of one entry, and truncates its entries, then its claims, in transactions of their own.
 *   reader      takes a snapshot, and reads all tables later, in the same transaction.
 *
 * Where an entry is twice, only one row may count: for each reader, and for each claim.
 *
 * Left out: tombstones and arrivals (their late rows are carried as entries are), counts, other shards, and the size
 * and age that make rotation due.
 *
 * check   late_writers  -DWRITERS=3 -DROTATIONS=1
 * check   two_turns     -DWRITERS=2 -DROTATIONS=5
 * check   old_readers   -DWRITERS=2 -DROTATIONS=2 -DREADER
 * check   moves         -DWRITERS=2 -DROTATIONS=1 -DREADER -DMOVES
 * small   small         -DWRITERS=1 -DROTATIONS=2 -DREADER -DMOVES
 * live    progress      -DWRITERS=1 -DROTATIONS=2 -DREADER -DLIVE
 * broken  CURSOR_NOT_CARRIED    no_double_claim    -DWRITERS=2 -DROTATIONS=2
 * broken  LATE_NOT_COPIED       source_not_pruned  -DWRITERS=2 -DROTATIONS=2
 * broken  NO_LATE_LOOK          source_not_pruned  -DWRITERS=2 -DROTATIONS=2
 * broken  NO_SHARE_LOCK         source_not_pruned  -DWRITERS=2 -DROTATIONS=2
 * broken  NO_WAIT_FOR_READERS   one_state          -DWRITERS=1 -DROTATIONS=2 -DREADER
 * broken  ALL_COUNT             no_double_claim    -DWRITERS=2 -DROTATIONS=2
 * broken  NONE_COUNTS           source_not_pruned  -DWRITERS=2 -DROTATIONS=2
 * broken  NO_SHARD_LOCK         no_double_claim    -DWRITERS=2 -DROTATIONS=2
 * broken  NO_LEASES             source_not_pruned  -DWRITERS=1 -DROTATIONS=2
 */

#define SEGMENTS 3
#define NOWHERE 9
#define bit(x) (1 << ((x) - 1))
#define at(s) (1 << (s))

typedef Snapshot { byte xmax; byte xip };

/* Transactions of writers, with the ids 1 to WRITERS. */
byte next_xid = 1;
byte completed;
byte running;
byte committed;

/* Entries, by the id of their transaction. */
byte entry[4];              /* segments in which there is a row: bit s */
byte open;                  /* claimed, and not ended: bit x - 1 */
byte ended;
byte leased;                /* open attempts that have rows in leases */
byte answering;             /* open attempts whose worker holds the claim */
byte claim_in[WRITERS + 1]; /* the segment of the claim of an open attempt */

/* awa.ring */
byte current;
byte cleaned = NOWHERE;
Snapshot cleaned_until;
bool is_cleaned;            /* cleaned_by is not null */

/* The newest claim of the lane. */
Snapshot cursor;
byte cursor_in = NOWHERE;
byte claims_in;             /* segments with rows of claims: bit s */

bool shard_lock;

/* The reader. */
bool is_reading, has_locks, is_old;
byte seen[WRITERS + 1];     /* the segment of the row that counts in its snapshot */

byte writers_ended;
bool is_over;

hidden byte no_lost_job, no_double_claim, source_not_pruned, one_state, one_current;
hidden byte x, s, counts;

#define sees(snapshot, x) ((x) < snapshot.xmax && !(snapshot.xip & bit(x)))
#define is_committed(x) (committed & bit(x))

inline take_snapshot(to) {
  to.xmax = completed + 1;
  to.xip = running & (bit(completed + 1) - 1)
}

/* Whether the row of an entry in a segment counts: awa._entries. */
#ifdef ALL_COUNT
#define counts_in(x, s) ((entry[x] & at(s)) != 0)
#elif defined(NONE_COUNTS)
#define counts_in(x, s) ((entry[x] & at(s)) != 0 && (s) != cleaned)
#else
#define counts_in(x, s) ((entry[x] & at(s)) != 0 && !((s) == cleaned && sees(cleaned_until, x)))
#endif
#define rows(x) (counts_in(x, 0) + counts_in(x, 1) + counts_in(x, 2))

/* Nothing is left but in the current segment. */
#define is_used(s) ((claims_in & at(s)) || has_entries(s))
#define has_entries(s) (((entry[1] & at(s)) && is_committed(1)) || \
  ((entry[2] & at(s)) && is_committed(2)) || \
  ((entry[3] & at(s)) && is_committed(3)))
#define is_empty(s) (!is_used(s) && cleaned != (s))
#define next_of(s) (((s) + 1) % SEGMENTS)
#define is_pruned (is_empty(next_of(current)) && is_empty(next_of(current + 1)))

/* Whether an entry is there that no cursor has passed: awa._available. */
#define is_available(x, s) (is_committed(x) && counts_in(x, s) && !sees(cursor, x))

#define anything_available (is_available(1, 0) || is_available(1, 1) || is_available(1, 2) || \
  is_available(2, 0) || is_available(2, 1) || is_available(2, 2) || \
  is_available(3, 0) || is_available(3, 1) || is_available(3, 2))

/* Writers that have put a row there, and have not ended. */
#define is_written(s) (((entry[1] & at(s)) && (running & 1)) || \
  ((entry[2] & at(s)) && (running & 2)) || \
  ((entry[3] & at(s)) && (running & 4)))

#ifdef NO_SHARE_LOCK
#define is_blocked(s) (is_reading && has_locks)
#else
#define is_blocked(s) (is_written(s) || (is_reading && has_locks))
#endif

/* Late rows, for which a segment has to be cleaned again. */
#define is_late(x, s) (is_committed(x) && (entry[x] & at(s)) && !sees(cleaned_until, x))

proctype writer() {
  byte own, segment;
  segment = current; /* awa._current_segment(): a statement of its own, so the insert may come late */
  atomic {
    own = next_xid;
    next_xid++;
    running = running | bit(own);
    entry[own] = at(segment)
  };
  if
  :: d_step { committed = committed | bit(own) }
  :: d_step { entry[own] = 0 }
  fi;
  d_step {
    running = running & ~bit(own);
    completed = (own > completed -> own : completed);
    writers_ended++;
    own = 0;
    segment = 0
  }
}

/* awa.claim(). */
proctype claimer() {
  byte segment, from, taken;
  Snapshot now, until;
end: do
  :: is_over -> break
#ifdef LIVE /* locks are given in their order, so that empty claims keep nobody waiting for ever: leave them out */
  :: !is_over && anything_available ->
#else
  :: !is_over ->
#endif
#ifdef NO_SHARD_LOCK
    d_step { take_snapshot(now) };
#else
    d_step { !shard_lock -> shard_lock = true; take_snapshot(now) };
#endif
    /* awa._claim_terms(): ring, after the snapshot */
    d_step { segment = current; from = cleaned; until.xmax = cleaned_until.xmax; until.xip = cleaned_until.xip };
    d_step {
      taken = 0;
      x = 1;
      do
      :: x <= WRITERS ->
        if
        :: is_committed(x) && sees(now, x) && !sees(cursor, x) ->
          s = 0;
          counts = 0;
          do
          :: s < SEGMENTS ->
            if
#ifdef ALL_COUNT
            :: entry[x] & at(s) -> counts++
#elif defined(NONE_COUNTS)
            :: (entry[x] & at(s)) && s != from -> counts++
#else
            :: (entry[x] & at(s)) && !(s == from && sees(until, x)) -> counts++
#endif
            :: else
            fi;
            s++
          :: else -> break
          od;
          no_double_claim = counts <= 1;
          assert(no_double_claim);
          taken = taken | (counts -> bit(x) : 0)
        :: else
        fi;
        x++
      :: else -> break
      od;
      no_double_claim = !(taken & (open | ended));
      assert(no_double_claim);
      /* the claim, and its commit */
      if
      :: taken ->
        open = open | taken;
        x = 1;
        do
        :: x <= WRITERS ->
          if
          :: taken & bit(x) -> claim_in[x] = segment
          :: else
          fi;
          x++
        :: else -> break
        od;
        cursor.xmax = now.xmax;
        cursor.xip = now.xip;
        cursor_in = segment;
        claims_in = claims_in | at(segment)
      :: else
      fi;
      x = 1;
      do
      :: x <= WRITERS ->
        no_lost_job = !is_committed(x) || !sees(cursor, x) || ((open | ended) & bit(x));
        assert(no_lost_job);
        x++
      :: else -> break
      od;
      shard_lock = false;
      segment = 0; from = 0; taken = 0; now.xmax = 0; now.xip = 0; until.xmax = 0; until.xip = 0;
      x = 0; s = 0; counts = 0
    }
  od
}

/* awa.fail(), say: the claim's lock, then the body, then the commit. */
proctype worker() {
  byte job;
end: do
  :: is_over -> break
  :: d_step {
      open ->
      job = 1;
      do
      :: !(open & bit(job)) -> job++
      :: else -> break
      od;
      answering = answering | bit(job)
    };
    d_step {
      source_not_pruned = (leased & bit(job)) || rows(job) == 1;
      assert(source_not_pruned);
      open = open & ~bit(job);
      leased = leased & ~bit(job);
      ended = ended | bit(job);
      answering = 0;
      claim_in[job] = 0;
      job = 0
    }
  :: d_step {
      writers_ended == WRITERS && !open && ended == committed && is_pruned && !is_reading -> is_over = true
    }
  od
}

/* awa._clean() with awa._carry_all(). */
inline clean() {
#ifdef MOVES
  /* awa._carry(): one entry, in a transaction of its own. */
  if
  :: true
  :: atomic {
      !shard_lock && cleaned == NOWHERE ->
      x = 1;
      do
      :: x <= WRITERS && !is_available(x, segment) -> x++
      :: else -> break
      od;
      if
      :: x <= WRITERS -> entry[x] = (entry[x] & ~at(segment)) | at(current)
      :: else
      fi;
      if
      :: cursor_in == segment -> cursor_in = current; claims_in = claims_in | at(current)
      :: else
      fi;
      x = 0
    }
  fi;
#endif
  /* first the copies of what it sees, without a lock */
  d_step {
    take_snapshot(before);
    copied = 0;
    x = 1;
    do
    :: x <= WRITERS ->
      copied = copied | ((is_available(x, segment) && sees(before, x)) -> bit(x) : 0);
      x++
    :: else -> break
    od;
    x = 0
  };
  if
#ifdef NO_SHARD_LOCK
  :: d_step { skip ->
#else
  :: d_step {
      !shard_lock && !(answering & ~leased) -> /* else it gives up: another session is answering */
#endif
      take_snapshot(until);
      x = 1;
      do
      :: x <= WRITERS ->
        /* open attempts: of claims in it, and of entries in it */
#ifndef NO_LEASES
        if
        :: (open & bit(x)) && (claim_in[x] == segment || counts_in(x, segment)) -> leased = leased | bit(x)
        :: else
        fi;
#endif
        /* what was committed meanwhile, claimed or not */
#ifndef LATE_NOT_COPIED
        if
        :: is_committed(x) && (entry[x] & at(segment)) && sees(until, x) && !sees(before, x) -> copied = copied | bit(x)
        :: else
        fi;
#endif
        x++
      :: else -> break
      od;
      x = 1;
      do
      :: x <= WRITERS ->
        if
        :: copied & bit(x) -> entry[x] = entry[x] | at(current)
        :: else
        fi;
        x++
      :: else -> break
      od;
#ifndef CURSOR_NOT_CARRIED
      if
      :: cursor_in == segment -> cursor_in = current; claims_in = claims_in | at(current)
      :: else
      fi;
#endif
      cleaned = segment;
      cleaned_until.xmax = until.xmax;
      cleaned_until.xip = until.xip;
      is_cleaned = true;
      is_old = is_reading; /* its snapshot does not see this transaction */
      x = 0
    }
#ifndef LIVE
  :: shard_lock || answering /* another session has the shard, or a claim, for too long */
#endif
  fi;
  d_step { segment = 0; copied = 0; before.xmax = 0; before.xip = 0; until.xmax = 0; until.xip = 0 }
}

/* awa._truncate(): entries, then claims. */
inline truncate() {
  if
  :: d_step {
#ifdef NO_WAIT_FOR_READERS
      !is_blocked(cleaned) ->
#else
      !is_blocked(cleaned) && !is_old ->
#endif
      counts = 0;
#ifndef NO_LATE_LOOK
      x = 1;
      do
      :: x <= WRITERS ->
        counts = counts + is_late(x, cleaned);
        x++
      :: else -> break
      od;
#endif
      if
      :: counts -> is_cleaned = false
      :: else ->
        x = 1;
        do
        :: x <= WRITERS ->
          source_not_pruned = !(entry[x] & at(cleaned)) || (ended & bit(x)) || (leased & bit(x)) ||
            (entry[x] & ~at(cleaned)) != 0;
          assert(source_not_pruned);
          one_state = !is_reading || seen[x] != cleaned;
          assert(one_state);
          entry[x] = entry[x] & ~at(cleaned);
          x++
        :: else -> break
        od
      fi;
      x = 0;
      counts = 0
    }
  :: is_blocked(cleaned) || is_old -> goto later
  fi;
  if
  :: !is_cleaned
  :: d_step {
      is_cleaned && !has_locks ->
      counts = 0;
#if !defined(NO_CURSOR_LOOK) && !defined(CURSOR_NOT_CARRIED)
      counts = cursor_in == cleaned;
#endif
#ifndef NO_LEASES
      x = 1;
      do
      :: x <= WRITERS ->
        counts = counts + ((open & ~leased & bit(x)) && claim_in[x] == cleaned);
        x++
      :: else -> break
      od;
#endif
      if
      :: counts -> is_cleaned = false
      :: else ->
        if
        :: cursor_in == cleaned -> cursor_in = NOWHERE; cursor.xmax = 1; cursor.xip = 0
        :: else
        fi;
        claims_in = claims_in & ~at(cleaned);
        if
        :: !has_entries(cleaned) && !is_written(cleaned) -> /* all its tables are empty */
          cleaned = NOWHERE;
          cleaned_until.xmax = 0;
          cleaned_until.xip = 0;
          is_cleaned = false
        :: else -> /* a late one, since its entries were truncated: from the beginning */
          skip
        fi
      fi;
      x = 0;
      counts = 0
    }
  :: is_cleaned && has_locks
  fi;
later: skip
}

/* awa.run_maintenance(), with awa.rotate() and awa.prune_oldest(). */
proctype maintainer() {
  Snapshot before, until;
  byte segment, copied, left;
end: do
  :: is_over -> break
  :: d_step {
      /* rotate: the next segment is empty. */
      is_empty(next_of(current)) && left < ROTATIONS ->
      left++;
      current = next_of(current);
      one_current = current != cleaned; /* exactly one current segment, and that not on its way out */
      assert(one_current)
    }
  :: d_step {
      /* prune_oldest: one that was cleaned first, then the oldest */
      (!is_empty(next_of(current)) || !is_empty(next_of(current + 1))) && !(cleaned != NOWHERE && is_cleaned) ->
      segment = (is_empty(next_of(current)) -> next_of(current + 1) : next_of(current));
      segment = (cleaned != NOWHERE -> cleaned : segment)
    };
    clean()
  :: cleaned != NOWHERE && is_cleaned -> truncate()
  od
}

#ifdef READER
proctype reader() {
  d_step {
    is_reading = true;
    x = 1;
    do
    :: x <= WRITERS ->
      seen[x] = NOWHERE;
      if
      :: is_committed(x) && !(ended & bit(x)) && !(leased & bit(x)) ->
        one_state = rows(x) == 1;
        assert(one_state);
        s = 0;
        do
        :: s < SEGMENTS ->
          seen[x] = (counts_in(x, s) -> s : seen[x]);
          s++
        :: else -> break
        od
      :: else
      fi;
      x++
    :: else -> break
    od;
    x = 0;
    s = 0
  };
  has_locks = true; /* it reads: from here on its locks keep the tables */
  d_step {
    is_reading = false;
    has_locks = false;
    is_old = false;
    x = 1;
    do
    :: x <= WRITERS -> seen[x] = 0; x++
    :: else -> break
    od;
    x = 0
  }
}
#endif

init {
  atomic {
    cursor.xmax = 1;
    byte i = 0;
    do
    :: i < WRITERS -> run writer(); i++
    :: else -> break
    od;
    run claimer();
    run worker();
    run maintainer();
#ifdef READER
    run reader();
#endif
    skip
  }
}

/* Progress: all jobs end, and the full segments are pruned once the reader lets go. */
ltl progress { <> is_over }
