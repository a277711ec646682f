/*
 * Unique keys: which job holds one, while sessions enqueue, replace, cancel, retry, claim, end and promote.
 *
 * Each session is one transaction (the worker: one for the claim, one for the end):
 *   enqueue   enqueue_unique of a job, for one key or for two.
 *   replace   cancel_by_unique_key, then enqueue_unique, for one key or for two: the new job is the heir of the old
 *             one where that was available, since its key is let go of at the commit alone.
 *   cancel    cancel of job 1.
 *   retry     retry of job 1, where it was cancelled.
 *   worker    claims what is available, all at once, then completes or fails all of it. A failed job waits.
 *   promote   makes the jobs ready that wait.
 *
 * A key has one row here: absent, free, or held by a job. Behind it are the two rows of the decision record 0017, of
 * which the newest counts; to let go leaves no row, or one that is free. Who has written a row keeps it until its
 * transaction ends: then others see it.
 *
 * By default a job holds its key in all states in which it has not ended. With -DPAUSES job 1 does not hold it while it
 * runs: it lets go when it is claimed, and takes the key again after a failure, if that is free.
 *
 * Left out: periods (a key that outlasts its job), and the row of the job that was completed.
 *
 * check   one_key      -DENQUEUE=1 -DSECOND=1 -DREPLACE=1 -DCANCEL -DWORKER
 * check   retries      -DENQUEUE=1 -DREPLACE=1 -DCANCEL -DRETRY
 * check   two_keys     -DENQUEUE=3 -DREPLACE=3 -DWORKER
 * check   pauses       -DENQUEUE=1 -DREPLACE=1 -DWORKER -DPROMOTE -DPAUSES
 * check   both         -DENQUEUE=3 -DSECOND=2 -DWORKER -DPROMOTE -DPAUSES -DCANCEL
 * small   small        -DENQUEUE=1 -DREPLACE=1 -DCANCEL -DWORKER
 * broken  NO_INDEX            key_held           -DENQUEUE=2 -DSECOND=2
 * broken  NO_INHERITANCE      key_held           -DREPLACE=1
 * broken  HEIR_OF_ANOTHER     only_replace_fails -DENQUEUE=1 -DSECOND=1 -DCANCEL
 * broken  NO_RESOLVE          key_held           -DCANCEL -DWORKER -DENQUEUE=1
 * broken  CANCEL_LETS_GO      no_deadlock        -DCANCEL -DWORKER -DPAUSES
 * broken  RETRY_WITHOUT_KEY   key_held           -DENQUEUE=1 -DCANCEL -DRETRY
 * broken  PROMOTES_UNASKED    key_held           -DENQUEUE=1 -DWORKER -DPROMOTE -DPAUSES
 * broken  ENDS_WITH_KEY       key_held           -DWORKER
 */

#define JOBS 7 /* 1 and 2 are there; the others are those of the sessions */
#define NONE 0
#define FREE 9
#define bit(n) (1 << (n))

mtype = { new, available, running, waiting, ended };

mtype state[JOBS + 1] = new;
byte key_of[JOBS + 1];
byte row[3];      /* of keys 1 and 2, as committed */
byte writer[3];   /* the session that has written it */
byte buried[JOBS + 1];  /* tombstones: the session that has written it; of those that are committed the job has ended */
byte answering[JOBS + 1]; /* the closure of the running attempt: the session that has written it */
byte queue_lock;

hidden byte key_held, only_replace_fails;
hidden byte i, k;

#define lives(j) (state[j] == available || state[j] == running || state[j] == waiting)
#ifdef PAUSES
#define holds(j, s) ((s) == available || (s) == waiting || ((s) == running && (j) != 1))
#else
#define holds(j, s) ((s) == available || (s) == waiting || (s) == running)
#endif

/* Key held: exactly while its job is in a state that holds it. A job that has let go may not get it again. */
inline check_keys() {
  k = 1;
  do
  :: k <= 2 ->
    key_held = row[k] == NONE || row[k] == FREE || (key_of[row[k]] == k && holds(row[k], state[row[k]]));
    assert(key_held);
    k++
  :: else -> break
  od;
  i = 1;
  do
  :: i <= JOBS ->
#ifdef PAUSES
    key_held = i == 1 || !lives(i) || row[key_of[i]] == i;
#else
    key_held = !lives(i) || row[key_of[i]] == i;
#endif
    assert(key_held);
    i++
  :: else -> break
  od;
  i = 0;
  k = 0
}

/* What a session has done, and commits. */
typedef Session {
  byte mine[3];    /* the rows of keys that it has written */
  byte wrote;      /* keys: bit k */
  byte heir[3];    /* by the key: the job that it has enqueued in the place of one that leaves */
  byte enqueued;   /* jobs: bit j */
  byte cancelled;  /* jobs that were available */
  byte closed;     /* jobs that were running */
  byte failed      /* of these: that wait now */
};

#define sees(key) ((session.wrote & bit(key)) -> session.mine[key] : row[key])
#define is_mine(key) (writer[key] == 0 || writer[key] == _pid)

inline write(key, value) {
  writer[key] = _pid;
  session.wrote = session.wrote | bit(key);
  session.mine[key] = value
}

/* awa._take_key() with awa._holder(), for a job that does not hold the key yet. */
inline take_key(key, job) {
  taken = false;
  do
  :: d_step {
      holder = sees(key);
      leaves = holder != NONE && holder != FREE && (session.cancelled & bit(holder))
    };
#ifdef HEIR_OF_ANOTHER
    leaves = holder != NONE && holder != FREE && ((session.cancelled & bit(holder)) || state[holder] == ended);
#endif
    if
    :: leaves && session.heir[key] -> break /* an heir of this transaction */
    :: leaves && !session.heir[key] -> d_step { session.heir[key] = job; taken = true }; break
    :: !leaves && (holder == NONE || holder == FREE) ->
      /* insert, or update of the free row: waits for who has written it, and looks again where it has changed */
#ifdef NO_INDEX
      d_step { row[key] = job; taken = true };
      break
#else
      if
      :: atomic { is_mine(key) && sees(key) == holder -> write(key, job); taken = true }; break
      :: atomic { is_mine(key) && sees(key) != holder -> skip }
      fi
#endif
    :: !leaves && holder == job -> taken = true; break
    :: else ->
      /* another job has it: waits for a transaction that is about to let go of it */
      if
      :: atomic { is_mine(key) && sees(key) == holder -> skip }; break
      :: atomic { is_mine(key) && sees(key) != holder -> skip }
      fi
    fi
  od;
  holder = 0;
  leaves = false
}

/* awa._let_go(). */
inline let_go(key, job) {
  if
  :: atomic {
      sees(key) == job && is_mine(key) ->
      if
      :: write(key, NONE)
      :: write(key, FREE)
      fi
    }
  :: sees(key) != job
  fi
}

/* awa._change_state(), to a state that holds the key: waits for some milliseconds. */
inline take_again(key, job) {
  if
#ifdef PROMOTES_UNASKED
  :: atomic { is_mine(key) && sees(key) != job -> write(key, job) }
#else
  :: atomic { is_mine(key) && (sees(key) == NONE || sees(key) == FREE) -> write(key, job) }
#endif
  :: !is_mine(key) || (sees(key) != NONE && sees(key) != FREE)
  fi
}

/* awa._cancel(): by what the state is. */
inline cancel_job(job) {
  do
  :: state[job] == available && !buried[job] ->
    if
    :: atomic {
        state[job] == available && buried[job] == 0 ->
        buried[job] = _pid;
        session.cancelled = session.cancelled | bit(job)
      };
#ifdef CANCEL_LETS_GO
      let_go(key_of[job], job);
#endif
      break
    :: state[job] != available || buried[job]
    fi
  :: buried[job] == _pid -> break
  :: buried[job] && buried[job] != _pid -> buried[job] == 0 /* the same tombstone: waits for it */
  :: state[job] == running ->
    if
    :: atomic {
        state[job] == running && answering[job] == 0 ->
        answering[job] = _pid;
        session.closed = session.closed | bit(job)
      };
      let_go(key_of[job], job);
      break
    :: state[job] != running /* waits for who answers for it */
    fi
  :: state[job] == waiting ->
    if
    :: atomic {
        state[job] == waiting && answering[job] == 0 ->
        answering[job] = _pid;
        session.closed = session.closed | bit(job)
      };
      let_go(key_of[job], job);
      break
    :: state[job] != waiting
    fi
  :: state[job] == ended || state[job] == new -> break
  od
}

/* The commit, with the deferred triggers: awa._resolve_change(), then awa._inherit(). */
inline commit() {
  if
  :: session.cancelled ->
    atomic { queue_lock == 0 -> queue_lock = _pid };
    job = 1;
    do
    :: job <= JOBS ->
      if
      :: session.cancelled & bit(job) ->
#ifdef NO_RESOLVE
        let_go(key_of[job], job)
#else
        if
        :: state[job] == available -> let_go(key_of[job], job)
        :: atomic { state[job] == running && answering[job] == 0 ->
            answering[job] = _pid;
            session.closed = session.closed | bit(job)
          };
          let_go(key_of[job], job)
        :: state[job] == running && answering[job] != 0 && answering[job] != _pid -> goto fails /* 40001 */
        :: state[job] != running && state[job] != available -> goto fails
        fi
#endif
      :: else
      fi;
      job++
    :: else -> break
    od;
    job = 0
  :: else
  fi;
  skip;
#ifndef NO_INHERITANCE
  key = 1;
  do
  :: key <= 2 ->
    if
    :: session.heir[key] ->
      if
      :: atomic { is_mine(key) && (sees(key) == NONE || sees(key) == FREE) -> write(key, session.heir[key]) }
      :: !is_mine(key) || (sees(key) != NONE && sees(key) != FREE) ->
        only_replace_fails = session.cancelled | session.closed;
        assert(only_replace_fails);
        goto fails /* 40001 */
      fi
    :: else
    fi;
    key++
  :: else -> break
  od;
  key = 0;
#endif
  skip;
  d_step { end(true); check_keys() };
  goto done;
fails: skip;
  d_step { end(false); check_keys() };
done: skip
}

inline end(commits) {
  i = 1;
  do
  :: i <= JOBS ->
    if
    :: commits && (session.enqueued & bit(i)) -> state[i] = available
    :: else
    fi;
    if
    :: commits && (session.cancelled & bit(i)) && !(session.closed & bit(i)) -> state[i] = ended
    :: else
    fi;
    if
    :: commits && (session.closed & bit(i)) -> state[i] = ((session.failed & bit(i)) -> waiting : ended)
    :: else
    fi;
    buried[i] = (buried[i] == _pid -> 0 : buried[i]);
    answering[i] = (answering[i] == _pid -> 0 : answering[i]);
    i++
  :: else -> break
  od;
  k = 1;
  do
  :: k <= 2 ->
    if
    :: session.wrote & bit(k) ->
      if
      :: commits -> row[k] = session.mine[k]
      :: else
      fi;
      writer[k] = 0
    :: else
    fi;
    session.mine[k] = 0;
    session.heir[k] = 0;
    k++
  :: else -> break
  od;
  queue_lock = (queue_lock == _pid -> 0 : queue_lock);
  session.wrote = 0; session.enqueued = 0; session.cancelled = 0; session.closed = 0; session.failed = 0;
  job = 0; key = 0; i = 0; k = 0
}

inline enqueue_one(k1, j) {
  take_key(k1, j);
  d_step { session.enqueued = session.enqueued | (taken -> bit(j) : 0); taken = false }
}

inline finish() {
  if
  :: commit()
  :: d_step { end(false) }
  fi
}

/* keys: bit 0 is for key 1, bit 1 for key 2; with the jobs first, and first + 1. */
proctype enqueue(byte keys; byte first) {
  Session session;
  byte holder, job, key;
  bool taken, leaves;
  if
  :: keys & 1 -> enqueue_one(1, first)
  :: else
  fi;
  if
  :: keys & 2 -> enqueue_one(2, first + 1)
  :: else
  fi;
  finish()
}

inline replace_one(k1, j) {
  d_step {
    old = sees(k1);
    old = (old == FREE -> 0 : old)
  };
  if
  :: old -> cancel_job(old)
  :: else
  fi;
  old = 0;
  enqueue_one(k1, j)
}

#ifdef REPLACE
proctype replace(byte keys; byte first) {
  Session session;
  byte holder, job, key, old;
  bool taken, leaves;
  if
  :: keys & 1 -> replace_one(1, first)
  :: else
  fi;
  if
  :: keys & 2 -> replace_one(2, first + 1)
  :: else
  fi;
  finish()
}
#endif

#ifdef CANCEL
proctype cancel() {
  Session session;
  byte job, key;
  cancel_job(1);
  finish()
}
#endif

#ifdef RETRY
/* awa._retry(): locks the row of the job that has ended, then takes the key. */
proctype retry() {
  Session session;
  byte holder, job, key;
  bool taken, leaves;
  if
  :: atomic { state[1] == ended && answering[1] == 0 -> answering[1] = _pid };
#ifdef RETRY_WITHOUT_KEY
    taken = true;
#else
    take_key(key_of[1], 1);
#endif
    d_step { session.enqueued = (taken -> bit(1) : 0); taken = false };
    finish()
  :: state[1] != ended
  fi
}
#endif

#ifdef WORKER
proctype worker() {
  Session session;
  byte job, key, claimed;
  /* awa.claim(): what is not buried, under the lock of the queue */
  atomic { queue_lock == 0 -> queue_lock = _pid };
  d_step {
    i = 1;
    do
    :: i <= JOBS ->
      claimed = claimed | (state[i] == available -> bit(i) : 0);
      i++
    :: else -> break
    od;
    i = 0
  };
#ifdef PAUSES
  if
  :: claimed & bit(1) -> let_go(key_of[1], 1)
  :: else
  fi;
#endif
  d_step {
    i = 1;
    do
    :: i <= JOBS ->
      if
      :: claimed & bit(i) -> state[i] = running
      :: else
      fi;
      i++
    :: else -> break
    od;
    end(true);
    check_keys()
  };
  /* complete_many, or fail_many: those that are open */
  d_step {
    i = 1;
    do
    :: i <= JOBS ->
      if
      :: (claimed & bit(i)) && state[i] == running && answering[i] == 0 ->
        answering[i] = _pid;
        session.closed = session.closed | bit(i)
      :: else
      fi;
      i++
    :: else -> break
    od;
    i = 0;
    claimed = 0
  };
  if
  :: true ->
#ifndef ENDS_WITH_KEY
    /* in the order of the keys */
    key = 1;
    do
    :: key <= 2 ->
      job = 1;
      do
      :: job <= JOBS ->
        if
        :: (session.closed & bit(job)) && key_of[job] == key -> let_go(key, job)
        :: else
        fi;
        job++
      :: else -> break
      od;
      key++
    :: else -> break
    od
#endif
  :: session.failed = session.closed;
#ifdef PAUSES
    if
    :: session.closed & bit(1) -> take_again(key_of[1], 1)
    :: else
    fi
#endif
  fi;
  job = 0;
  key = 0;
  finish()
}
#endif

#ifdef PROMOTE
/* awa.promote_due(): rows that others hold are skipped. A job that waits has its key, or it is free to take it. */
proctype promote() {
  Session session;
  byte job, key;
  if
  :: atomic { state[1] == waiting && answering[1] == 0 -> answering[1] = _pid };
    take_again(key_of[1], 1);
    session.enqueued = bit(1);
    finish()
  :: state[1] != waiting || answering[1]
  fi
}
#endif

init {
  atomic {
    key_of[1] = 1; key_of[2] = 2; key_of[3] = 1; key_of[4] = 2; key_of[5] = 1; key_of[6] = 2;
    key_of[7] = 1;
    state[1] = available;
    row[1] = 1;
#ifdef REPLACE
    if
    :: REPLACE == 3 -> state[2] = available; row[2] = 2
    :: else
    fi;
    run replace(REPLACE, 5);
#endif
#ifdef ENQUEUE
    run enqueue(ENQUEUE, 3);
#endif
#ifdef SECOND
    key_of[7] = SECOND;
    run enqueue(SECOND, 8 - SECOND);
#endif
#ifdef CANCEL
    run cancel();
#endif
#ifdef RETRY
    run retry();
#endif
#ifdef WORKER
    run worker();
#endif
#ifdef PROMOTE
    run promote();
#endif
    skip
  }
}
