/*
 * The ticks of one schedule: what fires at its nominal times, and that once.
 *
 * Sessions:
 *   clock       reaches one nominal time after the other.
 *   maintainer  calls fire_due again and again: finds the schedule due, locks its row unless another session has it,
 *               then enqueues, and notes the ticks, in one transaction. It may be killed before the commit.
 *   backfill    enqueues the first two ticks, as far as they have not run, under the lock of the row.
 *   trigger     enqueues a job now, under the lock of the row.
 *   pauser      pauses and resumes the schedule. What was due and had not fired is missed.
 *   worker      ends jobs.
 *
 * OVERLAP is 0 for allow, 1 for skip, 2 for wait. A row that has changed between the snapshot of fire_due and its lock
 * is looked at again in its newest version, as PostgreSQL does at READ COMMITTED.
 *
 * Left out: ticks that are missed by age, replace (a cancel, see close and unique_keys), many schedules at once (each
 * has its own row), clocks that are set back, and failures (they roll back to a savepoint, and put the schedule off).
 *
 * check   allow     -DOVERLAP=0
 * check   skip      -DOVERLAP=1
 * check   wait      -DOVERLAP=2
 * check   pause     -DOVERLAP=2 -DPAUSES -DDEATHS=0
 * small   small     -DOVERLAP=1 -DDEATHS=0
 * live    progress  -DOVERLAP=2
 * broken  TICK_AFTER_COMMIT   once_per_tick   -DOVERLAP=0
 * broken  TICK_BEFORE_COMMIT  no_lost_tick    -DOVERLAP=0
 * broken  NO_ROW_LOCK         once_per_tick   -DOVERLAP=0
 * broken  NO_SECOND_LOOK      once_per_tick   -DOVERLAP=0
 * broken  STATE_BEFORE_LOCK   no_overlap      -DOVERLAP=1
 * broken  BACKFILLS_ALL       once_per_tick   -DOVERLAP=0
 * broken  WAITS_FOR_NOBODY    progress        -DOVERLAP=2
 */

#define TICKS 3
#ifndef DEATHS
#define DEATHS 1
#endif

typedef Schedule { /* a row of awa.schedules */
  byte next_tick; /* all before it are decided */
  byte waiting;   /* waiting_tick, or 0 */
  byte last_job;  /* 0: none */
  byte ran;       /* ticks: bit t - 1 */
  bool is_paused
};

hidden Schedule none;
Schedule row; /* as committed */
bool is_locked;
byte now;      /* the last nominal time that has come */
byte fired[TICKS + 2]; /* jobs of each tick that are committed; TICKS + 1 is the one that was triggered */
byte left_out; /* ticks that were skipped, or missed */
byte live;     /* jobs that have not ended: bit of the tick */
byte deaths;
byte others; /* sessions besides that are not done yet */
bool is_over;

#define bit(t) (1 << ((t) - 1))

hidden byte once_per_tick, no_lost_tick, no_overlap;
hidden byte t, first, rest;

/* Whether awa._fire() has something to do with a row. */
#ifdef WAITS_FOR_NOBODY
#define is_due(r) (!r.is_paused && r.next_tick <= now)
#else
#define is_due(r) (!r.is_paused && (r.next_tick <= now || r.waiting))
#endif

inline copy(to, from) {
  to.next_tick = from.next_tick;
  to.waiting = from.waiting;
  to.last_job = from.last_job;
  to.ran = from.ran;
  to.is_paused = from.is_paused
}

inline enqueue(tick) {
  fired[tick]++;
  once_per_tick = fired[tick] <= 1;
  assert(once_per_tick);
  live = live | bit(tick)
}

/* Each tick before the next one has fired, waits, or was left out. */
inline check_ticks() {
  t = 1;
  do
  :: t < row.next_tick ->
    no_lost_tick = fired[t] || row.waiting == t || (left_out & bit(t));
    assert(no_lost_tick);
    t++
  :: else -> break
  od;
  t = 0
}

/* awa._fire() with awa._due_ticks(): the ticks from waiting, or next_tick, to now that have not run. Enqueues, and
   notes it in mine. has_lived: what it knows of the last job. */
inline fire() {
  first = 0; /* the first one that is due */
  rest = 0;  /* the others */
  if
  :: mine.waiting && !(mine.ran & bit(mine.waiting)) -> first = mine.waiting
  :: else
  fi;
  do
  :: mine.next_tick <= now && mine.next_tick <= TICKS ->
    if
    :: mine.ran & bit(mine.next_tick)
    :: else ->
      if
      :: first -> rest = rest | bit(mine.next_tick)
      :: else -> first = mine.next_tick
      fi
    fi;
    mine.next_tick++
  :: else -> break
  od;
  mine.waiting = 0;
  if
  :: !first
#if OVERLAP == 0
  :: first -> enqueue_in(first); mine.last_job = first; mine.ran = mine.ran | bit(first);
    t = 1;
    do
    :: t <= TICKS ->
      if
      :: rest & bit(t) -> enqueue_in(t); mine.last_job = t; mine.ran = mine.ran | bit(t)
      :: else
      fi;
      t++
    :: else -> break
    od;
    t = 0
#else
  :: first && has_lived ->
#if OVERLAP == 2
    mine.waiting = first;
    skipping = skipping | rest
#else
    skipping = skipping | bit(first) | rest
#endif
  :: first && !has_lived ->
    no_overlap = !(mine.last_job && (live & bit(mine.last_job)));
    assert(no_overlap);
    enqueue_in(first);
    mine.last_job = first;
    mine.ran = mine.ran | bit(first);
#if OVERLAP == 2
    t = 1;
    do
    :: t <= TICKS && !mine.waiting ->
      if
      :: rest & bit(t) -> mine.waiting = t; rest = rest & ~bit(t)
      :: else
      fi;
      t++
    :: else -> break
    od;
    t = 0;
#endif
    skipping = skipping | rest
#endif
  fi;
  first = 0;
  rest = 0
}

inline enqueue_in(tick) { jobs = jobs | bit(tick) }

inline commit_jobs() {
  t = 1;
  do
  :: t <= TICKS ->
    if
    :: jobs & bit(t) -> enqueue(t)
    :: else
    fi;
    t++
  :: else -> break
  od;
  t = 0;
  jobs = 0
}

inline commit_row() {
  copy(row, mine);
  left_out = left_out | skipping;
  skipping = 0
}

#define lives(r) (r.last_job && (live & bit(r.last_job)))

inline forget() { copy(mine, none); jobs = 0; skipping = 0; has_lived = false }



/* awa.fire_due(): in each round one transaction. */
proctype maintainer() {
  Schedule mine;
  byte jobs, skipping;
  bool has_lived;
  do
  :: is_over -> break
  :: !is_over ->
    /* awa._due_schedules(): what its snapshot shows, then the lock, or the next schedule. */
    if
    :: atomic { is_due(row) -> copy(mine, row); has_lived = lives(row) };
      if
#ifdef NO_ROW_LOCK
      :: true
#else
      :: atomic {
          !is_locked -> is_locked = true;
#ifndef NO_SECOND_LOOK
          if
          :: is_due(row) -> copy(mine, row)
          :: else -> is_locked = false; forget(); goto again
          fi
#endif
        }
      :: atomic { is_locked -> forget(); goto again }
#endif
      fi;
#ifndef STATE_BEFORE_LOCK
      has_lived = lives(mine); /* awa._last_states(), a statement of its own */
#endif
      if
#ifdef TICK_AFTER_COMMIT
      :: d_step { fire(); commit_jobs(); is_locked = false }; /* and another transaction for the row */
        if
        :: d_step { commit_row(); check_ticks() }
        :: deaths < DEATHS -> deaths++
        fi
#elif defined(TICK_BEFORE_COMMIT)
      :: d_step { fire(); commit_row(); is_locked = false };
        if
        :: d_step { commit_jobs(); check_ticks() }
        :: d_step { deaths < DEATHS -> deaths++; jobs = 0; check_ticks() }
        fi
#else
      :: d_step {
          fire();
          commit_jobs();
          commit_row();
          check_ticks();
#ifndef NO_ROW_LOCK
          is_locked = false
#endif
        }
      :: d_step { deaths < DEATHS -> deaths++; is_locked = false } /* it is killed before the commit */
#endif
      fi;
      forget()
    :: !is_due(row) || is_over
    fi;
again: skip
  od
}

proctype clock() {
  do
  :: now < TICKS -> now++
  :: else -> break
  od
}

proctype worker() {
  byte job = 1;
  do
  :: is_over -> break
  :: d_step { live -> 
      do
      :: !(live & bit(job)) -> job++
      :: else -> break
      od;
      live = live & ~bit(job);
      job = 1
    }
  :: d_step {
      /* All is decided, and has ended. */
      row.next_tick > TICKS && !row.waiting && !live && !is_locked && others == 0 -> is_over = true
    }
  od
}

/* awa.backfill_schedule(), for the first two ticks. */
proctype backfill() {
  atomic {
    now >= 2 && !is_locked -> is_locked = true
  };
  d_step {
    t = 1;
    do
    :: t <= 2 ->
      if
#ifndef BACKFILLS_ALL
      :: row.ran & bit(t)
#endif
      :: else ->
        enqueue(t);
        row.ran = row.ran | bit(t)
      fi;
      t++
    :: else -> break
    od;
    t = 0;
    check_ticks();
    is_locked = false;
    others--
  }
}

/* awa.trigger_schedule(). */
proctype trigger() {
  atomic {
    !is_locked -> is_locked = true
  };
  d_step {
    enqueue(TICKS + 1);
    row.last_job = TICKS + 1;
    is_locked = false;
    others--
  }
}

#ifdef PAUSES
/* awa.pause_schedule() with awa._without_due(), then awa.resume_schedule(). */
proctype pauser() {
  atomic { !is_locked -> is_locked = true };
  d_step {
    do
    :: row.next_tick <= now && row.next_tick <= TICKS -> left_out = left_out | bit(row.next_tick); row.next_tick++
    :: else -> break
    od;
    row.is_paused = true;
    check_ticks();
    is_locked = false
  };
  atomic { !is_locked -> is_locked = true };
  d_step {
    do
    :: row.next_tick <= now && row.next_tick <= TICKS -> left_out = left_out | bit(row.next_tick); row.next_tick++
    :: else -> break
    od;
    row.is_paused = false;
    check_ticks();
    is_locked = false;
    others--
  }
}
#endif

init {
  atomic {
    row.next_tick = 1;
    others = 2;
    run maintainer();
    run maintainer();
    run clock();
    run worker();
    run backfill();
    run trigger();
#ifdef PAUSES
    others = 3;
    run pauser()
#endif
  }
}

/* Progress: with a maintainer that is not killed, each tick is decided, and its job ends. */
ltl progress { <> is_over }
