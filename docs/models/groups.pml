/*
 * The groups: who may begin, and what wakes those that wait. One group, in one shard of one queue.
 *
 * Sessions:
 *   claimer     claims one or two jobs, again and again. A claim may roll back once it has written: it leaves nothing,
 *               or does it all again with the snapshot that it has, as where the server refuses a row.
 *   worker      ends an attempt in a transaction that stays open for as long as it likes, and commits or rolls back.
 *               Two may answer for one attempt. The job completes, waits for its retry, is given back, or fails.
 *   mixed       ends an attempt, claims, and ends another one while its claim goes on, in one transaction.
 *   producer    enqueues the last job at any time; the others are there from the beginning.
 *   promoter    makes a job ready whose retry is due.
 *   canceller   cancels a job, wherever it is, in a transaction that stays open, and commits or rolls back.
 *   operator    retries or deletes a job that failed for good, and keeps its group (halt).
 *   configurer  changes the limit: of the queue, or of the group alone (OWN), in a transaction that stays open.
 *   folder      removes the state of the group while it is idle; may roll back.
 *   dropper     drops the queue. A job that is enqueued later brings it back.
 *
 * A claim is three steps: lock and snapshot; settings, slots, holders and turns; the lanes, up to its commit. What the
 * last one finds of other sessions are the rows of limited_jobs: some are gone, some are locked. What it writes nobody
 * sees before its commit, so it rolls back, or commits, in the same step: to wait in between would only be to write
 * later. Places come from a sequence, and are not given again.
 *
 * Settings: LIMIT is how many may run at once, NEXT what it is changed to: 0 a pause, NONE no limit. ORDER is 0 for
 * start, 1 for strict, 2 for halt. AGAIN attempts end, at most, so that their job comes again.
 *
 * Left out: the windows of entries (see ready_log: a claim reads what its snapshot shows), what closes an attempt (see
 * close), priorities, rates, expiry, limits of the queue as a whole (they are read with the same slots, and put nothing
 * aside), other shards, a change of the order, and restores. Cleaning is left out since it comes to none of these
 * tables: slots and their cursor go with a drop alone.
 *
 * check   ends       -DJOBS=3 -DLIMIT=2
 * check   comes_back -DJOBS=3 -DLIMIT=1 -DAGAIN=1
 * check   given_back -DJOBS=3 -DLIMIT=2 -DAGAIN=1 -DWORKERS=1
 * check   strict     -DJOBS=3 -DLIMIT=1 -DORDER=1 -DAGAIN=1 -DWORKERS=1 -DCANCELS
 * check   halt       -DJOBS=3 -DLIMIT=1 -DORDER=2 -DAGAIN=2 -DWORKERS=1
 * check   paused     -DJOBS=3 -DLIMIT=1 -DORDER=1 -DAGAIN=1 -DWORKERS=1 -DOWN -DNEXT=0 -DCHANGES=2
 * check   limits     -DJOBS=3 -DLIMIT=2 -DNEXT=1 -DWORKERS=1
 * check   own_limit  -DJOBS=3 -DLIMIT=2 -DNEXT=0 -DCHANGES=2 -DWORKERS=1 -DOWN
 * check   unlimited  -DJOBS=3 -DLIMIT=2 -DNEXT=NONE -DCHANGES=2 -DWORKERS=1
 * check   cancels    -DJOBS=3 -DLIMIT=1 -DCANCELS -DWORKERS=1
 * check   turns      -DJOBS=3 -DLIMIT=2 -DMOST=1 -DWORKERS=1
 * check   mixed      -DJOBS=3 -DLIMIT=2 -DMIXES -DWORKERS=1
 * check   fold       -DJOBS=3 -DLIMIT=1 -DFOLDS=2 -DWORKERS=1
 * check   drop       -DJOBS=3 -DLIMIT=1 -DDROPS -DWORKERS=1
 * small   small      -DJOBS=2 -DLIMIT=1 -DORDER=1 -DAGAIN=1 -DCANCELS -DWORKERS=1
 * live    progress   -DJOBS=3 -DLIMIT=1 -DORDER=1 -DAGAIN=1 -DWORKERS=1
 * broken  STALE_FREES            slot_once     -DJOBS=2 -DLIMIT=1
 * broken  RAISE_FREES            slot_once     -DJOBS=2 -DLIMIT=1 -DNEXT=2
 * broken  CURSOR_BY_NUMBER       slot_once     -DJOBS=3 -DLIMIT=2
 * broken  CURSOR_STAYS           slot_once     -DJOBS=2 -DLIMIT=1
 * broken  OWN_ID_VISIBLE         slot_once     -DJOBS=3 -DLIMIT=2 -DMIXES
 * broken  DROP_KEEPS_SLOTS       slot_once     -DJOBS=2 -DLIMIT=1 -DDROPS
 * broken  DROP_WAITS_FOR_NOBODY  slot_once     -DJOBS=2 -DLIMIT=1 -DDROPS
 * broken  VOID_TURN_KEPT         slot_once     -DJOBS=3 -DLIMIT=2 -DCANCELS -DWORKERS=1
 * broken  FOLDS_BY_GROUP         slot_once     -DJOBS=2 -DLIMIT=1 -DFOLDS=1
 * broken  NO_LOOK_AT_VOID        is_woken      -DJOBS=3 -DLIMIT=1 -DCANCELS -DWORKERS=1
 * broken  NO_LOOK_AT_LINES       is_woken      -DJOBS=3 -DLIMIT=1 -DNEXT=2 -DWORKERS=1
 * broken  NO_LOOK_AGAIN          is_woken      -DJOBS=3 -DLIMIT=2 -DAGAIN=1
 * broken  NO_TURNS_BACK          limit_holds   -DJOBS=3 -DLIMIT=1 -DNEXT=2 -DCHANGES=2 -DWORKERS=1
 * broken  CHANGE_UNTOLD          limit_holds   -DJOBS=3 -DLIMIT=1 -DNEXT=2 -DCHANGES=2 -DWORKERS=1 -DOWN
 * broken  LOCKED_IS_GONE         no_lost_job   -DJOBS=3 -DLIMIT=1 -DCANCELS -DWORKERS=1
 * broken  TURNS_BEFORE_FRONT     in_order      -DJOBS=2 -DLIMIT=1 -DAGAIN=1
 * broken  PASSES_LINE            in_order      -DJOBS=3 -DLIMIT=1 -DNEXT=2 -DWORKERS=1 -DOWN
 * broken  KEEPS_LATER            holder_comes  -DJOBS=2 -DLIMIT=1 -DORDER=1 -DAGAIN=1
 * broken  HOLDER_COMES_LAST      in_order      -DJOBS=2 -DLIMIT=1 -DORDER=1 -DAGAIN=1 -DOWN -DNEXT=0 -DCHANGES=2
 * broken  LEAVES_ANYHOW          in_order      -DJOBS=3 -DLIMIT=1 -DORDER=1 -DAGAIN=1 -DCANCELS -DWORKERS=1
 * broken  NO_LEAVES              holder_comes  -DJOBS=2 -DLIMIT=1 -DORDER=1 -DAGAIN=1 -DCANCELS
 */

#ifndef ORDER
#define ORDER 0
#endif
#ifndef ROLLBACKS
#define ROLLBACKS 1 /* of claims and of answers */
#endif
#ifndef AGAIN
#define AGAIN 0
#endif
#ifndef NEXT
#define NEXT LIMIT
#endif
#ifndef CHANGES
#define CHANGES 1
#endif
#ifndef MOST
#define MOST JOBS /* turns that a group gets at once */
#endif
#ifndef WORKERS
#define WORKERS 2
#endif

#define IDS 15  /* of transactions. They are counted from one again once nothing is left of the first ones */
#define NONE 9  /* no limit */
#define UNKNOWN 10
#define IN_LINE 16 /* places from here on are behind what was given back */

/* Where a job is */
#define NOWHERE 0
#define LOG 1     /* ready_entries: in the lane of its priority */
#define FRONT 2   /* in the front lane */
#define LINE 3    /* limited_jobs */
#define RUNS 4    /* an open attempt */
#define WAITS 5   /* deferred_jobs */
#define DEAD 6    /* failed for good, and keeps its group */
#define ENDED 7

/* Sessions that have transactions of more than one step */
#define CLAIMER 0
#define MIXED_ONE 1
#define CANCELLER 2
#define CONFIGURER 3
#define DROPPER 4
#define OTHER 5
#define FIRST_WORKER 6

typedef Snapshot {
  byte xmax;
  short xip /* those in progress below xmax: bit x - 1 is for id x */
};

typedef Group { /* of the group: the newest row of group_states. All 0: there is none */
  byte running;
  bool has_line;
  bool has_front;
  byte taken;       /* places up to here have got turns */
  byte front_taken;
  byte holder       /* a job, or 0 */
};

byte next_xid = 1;
byte completed;  /* the newest id that has ended */
short running;   /* ids */
byte own[FIRST_WORKER + WORKERS]; /* the id of each session */

byte home[JOBS + 1];
byte entry_xid[JOBS + 1]; /* of its entry in the log; 0: older than all */
byte place[JOBS + 1];     /* in limited_jobs */
byte held_by[JOBS + 1];   /* the session, plus one, that has closed its attempt, or locked its row */
byte attempt[JOBS + 1];
byte holds;               /* jobs whose attempts hold a slot: bit j - 1 */

byte freed[IDS + 1];      /* slots, by the transaction that wrote the rows */
byte keeps[IDS + 1];
byte leaves[IDS + 1];
short written, changed, for_good; /* transactions that have rows; for_good is of those in keeps */

Group state, mine; /* as committed, and as the claim that is at work will leave it */
bool is_locked, is_working;
Snapshot read_until, now;  /* of the state of the shard, and of the claim */
byte known_limit = UNKNOWN; /* by which the groups were looked at */
byte turn[JOBS + 1];       /* places, the next one first */
byte turns;
byte turn_then[JOBS + 1];  /* as committed, while a claim is at work */
byte turns_then;
short deleted;             /* slots, by the claim that is at work: ids */
byte waiting_ids;

byte limit = LIMIT;        /* as committed */
byte max, limit_then;      /* as the claim has read it, and at its snapshot */
byte room;                 /* for jobs, of the claim */
bool is_named, has_front_entries;
bool more;                 /* the next claim is to look again */

byte rollbacks, comes_again;
byte touched;              /* jobs that sessions have changed besides: their order is not told */
#ifdef FOLDS
bool is_folding, is_replaced;
#endif

#define bit(x) (1 << ((x) - 1))
#define sees(s, x) ((x) < s.xmax && !(s.xip & bit(x)))
#define is_over_for(j) (home[j] == ENDED)
#if JOBS == 2
#define is_over (is_over_for(1) && is_over_for(2))
#else
#define is_over (is_over_for(1) && is_over_for(2) && is_over_for(3))
#endif
#define in_log(j) (home[j] == LOG || home[j] == FRONT)
/* Whether a claim finds anything. */
#define has_work (turns || known_limit != limit || in_log(1) || in_log(2) || in_log(JOBS) || (written & ~running))

/* Rows of slots that a claim will still read. */
#ifdef CURSOR_BY_NUMBER
#define is_unread(x) ((x) >= read_until.xmax)
#else
#define is_unread(x) ((x) >= read_until.xmax || (read_until.xip & bit(x)))
#endif
#define is_deleted(x) (deleted & bit(x))
#define is_written(x) (written & bit(x))
#define is_committed(x) (!(running & bit(x)))

/* The invariants. They are variables, so that a failure has a name. */
hidden byte limit_holds, slot_once, in_order, no_lost_job, is_woken, holder_comes;

hidden byte x, n, j, k, t, at, voids, of_group, gone, come, most, count, rooms;
hidden byte line_before, front_before, takes, finds;
hidden byte holder_before;
hidden byte home_then[JOBS + 1], entry_then[JOBS + 1], place_then[JOBS + 1], attempt_then[JOBS + 1];
hidden byte holds_then, room_then;

inline get_xid(me) {
  own[me] = next_xid;
  running = running | bit(next_xid);
  next_xid++;
  assert(next_xid <= IDS)
}

inline end_xid(me) {
  running = running & ~bit(own[me]);
  completed = (own[me] > completed -> own[me] : completed);
  own[me] = 0
}

/* While no claim uses its snapshot. */
inline tidy() {
  if
  :: !is_locked -> forget_ids()
  :: else
  fi
}

inline roll_back(me) {
  freed[own[me]] = 0;
  keeps[own[me]] = 0;
  leaves[own[me]] = 0;
  written = written & ~bit(own[me]);
  changed = changed & ~bit(own[me]);
  for_good = for_good & ~bit(own[me]);
  end_xid(me)
}

/* awa._snapshot(), for a session whose transaction has the id own[me], or 0. */
inline take_snapshot(me) {
  now.xmax = completed + 1;
  now.xip = running & (bit(completed + 1) - 1);
#ifdef OWN_ID_VISIBLE
  if
  :: own[me] -> now.xip = now.xip & ~bit(own[me])
  :: else
  fi
#endif
}

#define has_turn(j) ((turns > 0 && turn[0] == place[j]) || (turns > 1 && turn[1] == place[j]) || \
  (turns > 2 && turn[2] == place[j]))
#define now_running (is_working -> mine.running : state.running)
#define now_has_line (is_working -> mine.has_line : state.has_line)
#define now_has_front (is_working -> mine.has_front : state.has_front)
#define now_taken (is_working -> mine.taken : state.taken)
#define now_front_taken (is_working -> mine.front_taken : state.front_taken)
#define now_holder (is_working -> mine.holder : state.holder)

/* As awa._limit_problems, the view that audit reads, has it. */
inline check_books() {
  count = turns;
  k = 1;
  do
  :: k <= JOBS ->
    count = count + (home[k] == RUNS && (holds & bit(k)));
    if
    :: home[k] == LINE && !has_turn(k) ->
      no_lost_job = (place[k] >= IN_LINE && now_has_line && place[k] > now_taken) ||
        (place[k] < IN_LINE && now_has_front && place[k] > now_front_taken);
      assert(no_lost_job)
    :: else
    fi;
    k++
  :: else -> break
  od;
  finds = false;
  x = 1;
  do
  :: x < next_xid ->
    if
    :: is_committed(x) && is_unread(x) && !is_deleted(x) ->
      count = count + freed[x];
      finds = finds || (leaves[x] && leaves[x] == now_holder)
    :: else
    fi;
    x++
  :: else -> break
  od;
  slot_once = now_running == count;
  assert(slot_once);
  if
  :: now_holder && !finds ->
    holder_comes = in_log(now_holder) || home[now_holder] == WAITS || (home[now_holder] == DEAD && ORDER == 2);
    assert(holder_comes)
  :: else
  fi;
  k = 0; x = 0; count = 0
}

/* awa._read_slots(): whole transactions, which are visible in now, and were not in the snapshot of the last claim. */
inline read_slots() {
  n = 0;
  gone = 0;
  come = 0;
  finds = false;
  x = 1;
  do
  :: x < next_xid ->
    if
    :: sees(now, x) && is_unread(x) && is_written(x) ->
      finds = true;
      n = n + freed[x];
      gone = gone | (leaves[x] -> bit(leaves[x]) : 0);
#if ORDER
      come = come | (keeps[x] && (ORDER == 2 || !(for_good & bit(x))) -> bit(keeps[x]) : 0);
#endif
#ifndef CHANGE_UNTOLD
      of_group = of_group || (changed & bit(x));
#endif
      deleted = deleted | bit(x)
    :: else
    fi;
    x++
  :: else -> break
  od
}

/* awa._change_holders(). */
inline change_holders() {
#if ORDER
  if
#ifdef LEAVES_ANYHOW
  :: mine.holder && gone -> mine.holder = 0
#else
  :: mine.holder && (gone & bit(mine.holder)) -> mine.holder = 0
#endif
  :: else
  fi;
  k = 1;
  do
  :: k <= JOBS && !mine.holder ->
    if
    :: (come & bit(k)) && !(gone & bit(k)) -> mine.holder = k
    :: else
    fi;
    k++
  :: else -> break
  od
#else
  skip
#endif
}

/* awa._take_turns_back(): the jobs with turns are first in line again. */
inline take_turns_back() {
  do
  :: turns > 0 ->
    turns--;
    mine.running--;
    at = turn[turns];
    turn[turns] = 0;
    if
    :: at >= IN_LINE ->
      mine.has_line = true;
      mine.taken = (at - 1 < mine.taken -> at - 1 : mine.taken)
    :: else ->
      mine.has_front = true;
      mine.front_taken = (at - 1 < mine.front_taken -> at - 1 : mine.front_taken)
    fi
  :: else -> break
  od
}

/* awa._deal_turns(): takes slots back, and gives turns to the first ones in line. */
inline give_turns(slots, deals) {
  most = 0;
  if
  :: deals && (mine.has_line || mine.has_front) && !mine.holder && max + slots > mine.running ->
    most = max - mine.running + slots;
    most = (most > MOST -> MOST : most)
  :: else
  fi;
  mine.running = mine.running - slots;
  if
  :: most || slots ->
    count = 0;
    line_before = false;
    t = 1; /* places */
    do
    :: t <= IN_LINE + waiting_ids && count < most ->
      k = 1;
      do
      :: k <= JOBS ->
        if
        :: home[k] == LINE && place[k] == t && t > (t < IN_LINE -> mine.front_taken : mine.taken) && count < most ->
          turn[turns] = t;
          turns++;
          mine.running++;
          count++;
          if
          :: t < IN_LINE -> mine.front_taken = t
          :: else -> mine.taken = t; line_before = true
          fi;
          k = JOBS
        :: else
        fi;
        k++
      :: else -> break
      od;
      t++
    :: else -> break
    od;
    mine.has_line = mine.has_line && count == most;
    mine.has_front = mine.has_front && (most == 0 || (!line_before && count == most));
    if
    :: count && count == most && mine.running < max -> more = true /* the next claim goes on */
    :: else
    fi
  :: else
  fi
}

/* A job begins. In order: what was given back is served; those that came before have begun; and where the order is
   kept, they have ended. */
inline begin(job) {
  k = 1;
  do
  :: k <= JOBS ->
#if ORDER
    in_order = k >= job || home[k] == ENDED;
#else
    in_order = k >= job || attempt[job] || attempt[k] || home[k] == ENDED || (touched & bit(k));
    assert(in_order);
    in_order = home[k] != LINE || place[k] >= IN_LINE || has_turn(k) || k == job || (touched & bit(k)) ||
      max != 1 || limit_then != 1 || NEXT == NONE || home[job] == FRONT || (home[job] == LINE && place[job] < IN_LINE);
#endif
    assert(in_order);
    k++
  :: else -> break
  od;
  home[job] = RUNS;
  attempt[job]++;
  entry_xid[job] = 0;
  place[job] = 0
}

inline check_limit() {
  count = 0;
  k = 1;
  do
  :: k <= JOBS -> count = count + (home[k] == RUNS && (holds & bit(k))); k++
  :: else -> break
  od;
  limit_holds = count <= max || count <= limit_then;
  assert(limit_holds)
}

/* awa._next_turns() and awa._begin_turns(): of the turns that there were when this began. */
inline serve_turns() {
  n = turns;
  do
  :: n > 0 && room > 0 ->
    n--;
    at = turn[0];
    t = 0;
    do
    :: t < JOBS -> turn[t] = turn[t + 1]; t++
    :: else -> break
    od;
    turns--;
    j = 1;
    do
    :: j <= JOBS && !(home[j] == LINE && place[j] == at) -> j++
    :: else -> break
    od;
    if
    :: j > JOBS -> /* its job has gone */
#ifdef VOID_TURN_KEPT
      skip
#else
      voids++;
#ifndef NO_LOOK_AT_VOID
      is_named = true
#endif
#endif
    :: j <= JOBS && held_by[j] -> /* another session is changing it */
#ifdef LOCKED_IS_GONE
      voids++;
      is_named = true
#else
      turn[turns] = at;
      turns++
#endif
    :: else ->
      begin(j);
      holds = holds | bit(j);
      room--;
      check_limit()
    fi
  :: else -> break
  od
}

/* awa._admit_part() with awa._admission(): the entries of a lane, in their order. */
inline admit(lane) {
  rooms = (max == NONE -> NONE : (max > mine.running -> max - mine.running : 0));
  holder_before = mine.holder;
  line_before = mine.has_line;
  front_before = mine.has_front;
  n = 0;
  t = 0;
  do
  :: room > 0 && t < IDS ->
    j = 1;
    do
    :: j <= JOBS && room > 0 ->
      if
      :: home[j] == lane && entry_xid[j] == t && (t == 0 || sees(now, t)) ->
        n++;
        if
        :: j == holder_before -> takes = rooms > 0
        :: j != holder_before && holder_before -> takes = false
#ifdef PASSES_LINE
        :: !holder_before -> takes = n <= rooms
#else
        :: !holder_before -> takes = !front_before && (!line_before || lane == FRONT) && n <= rooms
#endif
        fi;
        if
        :: takes ->
          begin(j);
          room--;
          if
          :: max != NONE -> mine.running++; holds = holds | bit(j); check_limit()
          :: else -> holds = holds & ~bit(j)
          fi
        :: else ->
          waiting_ids++;
          home[j] = LINE;
          entry_xid[j] = 0;
          if
#ifdef HOLDER_COMES_LAST
          :: lane == FRONT ->
#else
          :: lane == FRONT || j == holder_before ->
#endif
            place[j] = waiting_ids;
            mine.has_front = true
          :: else -> place[j] = IN_LINE + waiting_ids; mine.has_line = true
          fi
        fi;
        mine.holder = (j == holder_before -> 0 : mine.holder)
      :: else
      fi;
      j++
    :: else -> break
    od;
    t++
  :: else -> break
  od
}

/* awa._limits_now(), and the first turns of awa._take_limited(). */
inline read_limits() {
  is_working = true;
  copy(mine, state);
  t = 0;
  do
  :: t <= JOBS -> turn_then[t] = turn[t]; t++
  :: else -> break
  od;
  turns_then = turns;
  max = limit;
  is_named = false;
  of_group = false;
  more = false;
  read_slots();
  is_named = finds;
  change_holders();
#ifdef OWN
  if
  :: of_group ->
#else
  if
  :: known_limit != max ->
#endif
#ifndef NO_TURNS_BACK
    take_turns_back();
#endif
#ifndef NO_LOOK_AT_LINES
    is_named = true
#endif
  :: else
  fi;
  has_front_entries = false;
  j = 1;
  do
  :: j <= JOBS ->
    has_front_entries = has_front_entries || (home[j] == FRONT && (!entry_xid[j] || sees(now, entry_xid[j])));
    j++
  :: else -> break
  od;
#ifdef TURNS_BEFORE_FRONT
  has_front_entries = false;
#endif
  if
  :: is_named -> give_turns(n, !has_front_entries)
  :: else
  fi;
  clear()
}

/* The rest of awa._take_limited(). */
inline go_through_lanes() {
  voids = 0;
#ifdef TURNS_BEFORE_FRONT
  has_front_entries = true;
#endif
  if
  :: has_front_entries -> admit(FRONT)
  :: else
  fi;
  if
  :: has_front_entries && !room ->
#ifdef NO_LOOK_AGAIN
    skip
#else
    more = more || is_named /* awa._look_again() */
#endif
  :: else ->
    if
    :: has_front_entries && is_named -> give_turns(0, true)
    :: else
    fi;
    is_named = false;
    come = 1; /* rounds */
    do
    :: come <= 3 && room > 0 && (come == 1 || is_named) ->
      if
      :: come > 1 -> give_turns(voids, true); voids = 0; is_named = false
      :: else
      fi;
      serve_turns();
      if
      :: room > 0 -> admit(LOG)
      :: else
      fi;
      come++
    :: else -> break
    od;
    if
    :: voids -> give_turns(voids, is_named)
    :: else
    fi
  fi
}

inline clear() {
  x = 0; n = 0; j = 0; k = 0; t = 0; at = 0; of_group = 0; gone = 0; come = 0; most = 0; count = 0; rooms = 0;
  line_before = false; front_before = false; takes = false; finds = false; holder_before = 0
}

inline copy(to, from) {
  to.running = from.running;
  to.has_line = from.has_line;
  to.has_front = from.has_front;
  to.taken = from.taken;
  to.front_taken = from.front_taken;
  to.holder = from.holder
}

/* After a claim, whoever is in line waits for room, for a holder, or the next claim looks at the group. */
inline check_woken() {
  finds = mine.holder || mine.running >= max;
  x = 1;
  do
  :: x < next_xid -> finds = finds || (is_committed(x) && is_unread(x) && is_written(x)); x++
  :: else -> break
  od;
  k = 1;
  do
  :: k <= JOBS ->
    is_woken = home[k] != LINE || has_turn(k) || finds;
    assert(is_woken);
    k++
  :: else -> break
  od
}

/* The commit of a claim, in a transaction that has an id, or none. */
inline commit_claim(me) {
  known_limit = max;
  if
  :: deleted -> read_until.xmax = now.xmax; read_until.xip = now.xip
  :: else
  fi;
  x = 1;
  do
  :: x < next_xid ->
    if
    :: is_deleted(x) -> freed[x] = 0; keeps[x] = 0; leaves[x] = 0
    :: else
    fi;
    x++
  :: else -> break
  od;
  written = written & ~deleted;
  changed = changed & ~deleted;
  for_good = for_good & ~deleted;
  if
  :: more ->
    if
    :: !own[me] -> get_xid(me)
    :: else
    fi;
    written = written | bit(own[me]);
    more = false
  :: else
  fi;
  if
  :: own[me] -> end_xid(me)
  :: else
  fi;
  check_woken();
#ifdef FOLDS
  if
  :: mine.running != state.running || mine.has_line != state.has_line || mine.has_front != state.has_front ->
    is_replaced = is_folding
  :: else
  fi;
#endif
  copy(state, mine);
  let_go();
  check_books();
  forget_ids()
}

/* A claim goes through the lanes, and all that it has written is undone. */
inline undo_claim() {
  j = 1;
  do
  :: j <= JOBS ->
    home_then[j] = home[j]; entry_then[j] = entry_xid[j]; place_then[j] = place[j]; attempt_then[j] = attempt[j];
    j++
  :: else -> break
  od;
  holds_then = holds;
  room_then = room;
  go_through_lanes();
  j = 1;
  do
  :: j <= JOBS ->
    home[j] = home_then[j]; entry_xid[j] = entry_then[j]; place[j] = place_then[j]; attempt[j] = attempt_then[j];
    home_then[j] = 0; entry_then[j] = 0; place_then[j] = 0; attempt_then[j] = 0;
    j++
  :: else -> break
  od;
  holds = holds_then;
  room = room_then;
  holds_then = 0;
  room_then = 0;
  t = 0;
  do
  :: t <= JOBS -> turn[t] = turn_then[t]; t++
  :: else -> break
  od;
  turns = turns_then;
  more = false;
#ifdef CURSOR_STAYS
  if
  :: deleted -> read_until.xmax = now.xmax; read_until.xip = now.xip
  :: else
  fi;
#endif
  end_work();
  check_books()
}

inline end_work() {
  is_working = false;
  mine.running = 0; mine.has_line = false; mine.has_front = false; mine.taken = 0; mine.front_taken = 0;
  mine.holder = 0;
  t = 0;
  do
  :: t <= JOBS -> turn_then[t] = 0; t++
  :: else -> break
  od;
  turns_then = 0;
  deleted = 0; max = 0; is_named = false; has_front_entries = false;
  clear()
}

inline let_go() {
  is_locked = false;
  now.xmax = 0; now.xip = 0; limit_then = 0; room = 0;
  end_work()
}

/* So that there are few states: ids, and places, are counted from one again. No row has those that are left out. */
inline forget_ids() {
  read_until.xip = read_until.xip & (running | written);
  do
  :: next_xid > 1 && !(running & 1) && !is_written(1) && !(in_log(1) && entry_xid[1] == 1) &&
     !(in_log(2) && entry_xid[2] == 1) && !(in_log(JOBS) && entry_xid[JOBS] == 1) ->
    next_xid--;
    completed = completed - (completed > 0);
    running = running >> 1;
    written = written >> 1;
    changed = changed >> 1;
    for_good = for_good >> 1;
    read_until.xmax = (read_until.xmax > 1 -> read_until.xmax - 1 : read_until.xmax);
    read_until.xip = read_until.xip >> 1;
    x = 1;
    do
    :: x < IDS -> freed[x] = freed[x + 1]; keeps[x] = keeps[x + 1]; leaves[x] = leaves[x + 1]; x++
    :: else -> break
    od;
    freed[IDS] = 0; keeps[IDS] = 0; leaves[IDS] = 0;
    x = 0;
    do
    :: x < FIRST_WORKER + WORKERS -> own[x] = own[x] - (own[x] > 0); x++
    :: else -> break
    od;
    x = 1;
    do
    :: x <= JOBS -> entry_xid[x] = entry_xid[x] - (entry_xid[x] > 0); x++
    :: else -> break
    od
  :: else -> break
  od;
  if
  :: !turns && home[1] != LINE && home[2] != LINE && home[JOBS] != LINE ->
    waiting_ids = 0;
    state.taken = IN_LINE;
    state.front_taken = 0
  :: else
  fi;
  x = 0
}

/* The slot of an attempt that the caller has closed: awa._free_slots(). */
inline free_slot(me, job) {
  if
  :: holds & bit(job) -> freed[own[me]]++; written = written | bit(own[me])
  :: else
  fi
}

inline end_attempt(job, to) {
  home[job] = to;
  holds = holds & ~bit(job);
  held_by[job] = 0
}

inline keep_place(me, job) {
  if
#ifdef KEEPS_LATER
  :: holds & bit(job) -> later = job
#else
  :: holds & bit(job) -> keeps[own[me]] = job; written = written | bit(own[me])
#endif
  :: else
  fi
}

inline leave_place(me, job) {
#ifndef NO_LEAVES
  leaves[own[me]] = job;
  written = written | bit(own[me])
#else
  skip
#endif
}

/* Locks the shard, and takes a snapshot under the lock. */
inline begin_claim(me) {
  is_locked = true;
  take_snapshot(me);
  limit_then = limit;
  if
  :: room = 1
  :: room = 2
  fi
}

proctype claimer() {
  do
  :: d_step {
      is_over && !has_work && !is_locked ->
      slot_once = state.running == 0 && !state.holder;
      assert(slot_once)
    };
    break
  :: atomic { has_work && !is_locked -> begin_claim(CLAIMER) };
    do
    :: d_step { read_limits() };
      if
      :: d_step { go_through_lanes(); commit_claim(CLAIMER) }; break
      :: d_step { rollbacks < ROLLBACKS -> rollbacks++; undo_claim(); let_go(); forget_ids() }; break
      :: d_step { rollbacks < ROLLBACKS -> rollbacks++; undo_claim() } /* awa._claim_limited(): again */
      fi
    od
  od
}

#define is_open(j) (home[j] == RUNS && held_by[j] != me + 1)

/* complete, fail, release, discard: awa._close_item(), and awa._note_holders(). Of two answers the second one waits. */
proctype worker(byte me) {
  byte job, nth;
#ifdef KEEPS_LATER
  byte later;
#endif
  do
  :: is_over -> break
#ifdef KEEPS_LATER
  :: d_step {
      later ->
      get_xid(me);
      keeps[own[me]] = later;
      written = written | bit(own[me]);
      end_xid(me);
      later = 0
    }
#endif
  :: atomic {
      if
      :: is_open(1) -> job = 1
      :: is_open(2) -> job = 2
      :: is_open(JOBS) -> job = JOBS
      fi;
      nth = attempt[job];
      get_xid(me);
      !held_by[job];
      if
      :: d_step { home[job] == RUNS && attempt[job] == nth -> held_by[job] = me + 1; free_slot(me, job) }
      :: d_step {
          else -> /* it is stale */
#ifdef STALE_FREES
          freed[own[me]]++;
          written = written | bit(own[me]);
#endif
          end_xid(me);
          check_books();
          tidy();
          job = 0
        }
      fi
    };
    if
    :: job ->
      atomic {
        if
        :: d_step { end_attempt(job, ENDED) }
#if AGAIN
        :: d_step { comes_again < AGAIN -> comes_again++; keep_place(me, job); end_attempt(job, WAITS) }
        :: d_step {
            comes_again < AGAIN ->
            comes_again++;
            keep_place(me, job);
            entry_xid[job] = own[me];
            end_attempt(job, FRONT)
          }
#if ORDER
        :: d_step {
            comes_again < AGAIN ->
            comes_again++;
            keep_place(me, job);
            for_good = for_good | (keeps[own[me]] -> bit(own[me]) : 0);
            end_attempt(job, (ORDER == 2 -> DEAD : ENDED))
          }
#endif
#endif
        :: d_step { rollbacks < ROLLBACKS -> rollbacks++; held_by[job] = 0; roll_back(me) }
        fi;
        d_step {
          if
          :: own[me] -> end_xid(me)
          :: else
          fi;
          check_books();
          tidy();
          job = 0;
          nth = 0
        }
      }
    :: else -> nth = 0
    fi
  od
}

#ifdef MIXES
/* It completes an attempt, claims, completes another one, and commits. */
proctype mixed() {
  byte job, first;
  byte me = MIXED_ONE;
  if
  :: is_over
  :: atomic {
      if
      :: is_open(1) && !held_by[1] -> job = 1
      :: is_open(2) && !held_by[2] -> job = 2
      fi;
      get_xid(me);
      d_step { held_by[job] = me + 1; free_slot(me, job); first = job; job = 0 }
    };
    atomic { !is_locked -> begin_claim(me) };
    d_step { read_limits() };
    atomic {
      if
      :: is_open(1) && !held_by[1] -> job = 1
      :: is_open(2) && !held_by[2] -> job = 2
      :: is_open(JOBS) && !held_by[JOBS] -> job = JOBS
      :: true
      fi;
      d_step {
        if
        :: job -> held_by[job] = me + 1; free_slot(me, job)
        :: else
        fi
      }
    };
    if
    :: d_step {
        go_through_lanes();
        end_attempt(first, ENDED);
        if
        :: job -> end_attempt(job, ENDED)
        :: else
        fi;
        commit_claim(me);
      }
    :: d_step {
        rollbacks < ROLLBACKS ->
        rollbacks++;
        undo_claim();
        held_by[first] = 0;
        held_by[job] = 0;
        roll_back(me);
        let_go();
        check_books();
        forget_ids()
      }
    fi
  fi
}
#endif

proctype producer() {
  d_step {
    get_xid(OTHER);
    home[JOBS] = LOG;
    entry_xid[JOBS] = own[OTHER];
    end_xid(OTHER)
  }
}

#if AGAIN
#define may_promote(j) (home[j] == WAITS && !held_by[j])
/* promote_due. */
proctype promoter() {
  byte job;
  do
  :: is_over -> break
  :: atomic {
      if
      :: may_promote(1) -> job = 1
      :: may_promote(2) -> job = 2
      :: may_promote(JOBS) -> job = JOBS
      fi;
      d_step {
        get_xid(OTHER);
        home[job] = LOG;
        entry_xid[job] = own[OTHER];
        end_xid(OTHER);
        job = 0
      }
    }
  od
}
#endif

#if ORDER == 2 && AGAIN
/* retry and delete_job, of one that failed for good. */
proctype operator() {
  byte job;
  do
  :: is_over -> break
  :: atomic {
      if
      :: home[1] == DEAD -> job = 1
      :: home[2] == DEAD -> job = 2
      :: home[JOBS] == DEAD -> job = JOBS
      fi;
      get_xid(OTHER);
      if
      :: d_step { home[job] = LOG; entry_xid[job] = own[OTHER] }
      :: d_step { home[job] = ENDED; leave_place(OTHER, job) }
      fi;
      d_step { end_xid(OTHER); check_books(); job = 0 }
    }
  od
}
#endif

#ifdef CANCELS
#define is_cancellable(j) (home[j] >= LOG && home[j] <= WAITS)
#define takes_row (was == LINE || was == WAITS || was == RUNS)
/* cancel: of a job that is ready, or waits, or runs. */
proctype canceller() {
  byte job, was, me = CANCELLER;
  atomic {
    if
    :: is_cancellable(1) -> job = 1
    :: is_cancellable(2) -> job = 2
    :: is_cancellable(JOBS) -> job = JOBS
    :: is_over -> goto done
    fi;
    was = home[job];
    touched = touched | bit(job);
    get_xid(me);
    if
    :: takes_row -> !held_by[job]
    :: else
    fi;
    d_step {
      if
      :: takes_row && home[job] != was -> roll_back(me); job = 0 /* it looks again, in another call */
      :: takes_row && home[job] == was ->
        held_by[job] = me + 1;
        if
        :: was == RUNS -> free_slot(me, job)
        :: was != RUNS && attempt[job] -> leave_place(me, job)
        :: else
        fi
      :: else -> leave_place(me, job)
      fi
    }
  };
  if /* whichever it is, it commits or rolls back */
  :: job && takes_row -> /* the row, or the attempt, is its own */
    d_step { end_attempt(job, ENDED); place[job] = 0; end_xid(me); check_books(); tidy() }
  :: job && !takes_row -> /* awa._resolve_change() */
    atomic {
      !is_locked;
      d_step {
        if
        :: (home[job] == RUNS && held_by[job]) || home[job] == ENDED || home[job] == WAITS || home[job] == DEAD ->
          roll_back(me)
        :: else ->
          if
          :: home[job] == RUNS -> free_slot(me, job)
          :: else
          fi;
          end_attempt(job, ENDED);
          place[job] = 0;
          end_xid(me)
        fi;
        check_books();
        tidy()
      }
    }
  :: job -> d_step { held_by[job] = (held_by[job] == me + 1 -> 0 : held_by[job]); roll_back(me); check_books(); tidy() }
  :: else
  fi;
done:
  job = 0; was = 0
}
#endif

#if NEXT != LIMIT
/* configure_queue, or set_group_limit and pause_group. */
proctype configurer() {
  byte changes;
  do
#ifdef OWN
  :: d_step { changes < CHANGES -> get_xid(CONFIGURER) };
    d_step {
      limit = (limit == NEXT -> LIMIT : NEXT);
      changed = changed | bit(own[CONFIGURER]);
      written = written | bit(own[CONFIGURER]);
      end_xid(CONFIGURER);
      changes++
    }
#else
  :: d_step {
      changes < CHANGES ->
#ifdef RAISE_FREES
      get_xid(CONFIGURER);
      freed[own[CONFIGURER]] = (limit < NEXT -> NEXT - limit : 0);
      written = written | bit(own[CONFIGURER]);
      end_xid(CONFIGURER);
#endif
      limit = (limit == NEXT -> LIMIT : NEXT);
      changes++
    }
#endif
  :: changes == CHANGES -> break
  od
}
#endif

#ifdef FOLDS
#define is_idle (!state.running && !state.has_line && !state.has_front && !state.holder)
/* fold: awa._forget_idle_groups(). It deletes the row that it has found idle, unless that is gone. */
proctype folder() {
  byte folds;
  do
  :: d_step { folds < FOLDS && is_idle -> is_folding = true; is_replaced = false };
    if
    :: d_step {
#ifdef FOLDS_BY_GROUP
        true ->
        state.running = 0; state.has_line = false; state.has_front = false; state.holder = 0;
#endif
        if
        :: !is_replaced -> state.taken = IN_LINE; state.front_taken = 0
        :: else
        fi;
        check_books();
        is_folding = false; is_replaced = false; folds++
      }
    :: d_step { is_folding = false; is_replaced = false; folds++ }
    fi
  :: folds == FOLDS -> break
  od
}
#endif

#ifdef DROPS
#ifdef DROP_WAITS_FOR_NOBODY
#define is_free true
#else
#define is_free (!held_by[1] && !held_by[2] && !held_by[JOBS])
#endif
/* drop_queue, with force. It waits for those that have closed attempts, or locked rows, or gives up. */
proctype dropper() {
  atomic { !is_locked -> is_locked = true; get_xid(DROPPER) };
  if
  :: d_step {
      is_free ->
      end_xid(DROPPER);
      j = 1;
      do
      :: j <= JOBS ->
        home[j] = (home[j] == NOWHERE -> NOWHERE : ENDED);
        place[j] = 0;
        entry_xid[j] = 0;
        turn[j - 1] = 0;
        j++
      :: else -> break
      od;
      turns = 0;
      holds = 0;
      state.running = 0; state.has_line = false; state.has_front = false; state.holder = 0;
      state.taken = IN_LINE; state.front_taken = 0;
#ifndef DROP_KEEPS_SLOTS
      x = 1;
      do
      :: x < next_xid ->
        if
        :: is_committed(x) -> freed[x] = 0; keeps[x] = 0; leaves[x] = 0; written = written & ~bit(x);
          changed = changed & ~bit(x); for_good = for_good & ~bit(x)
        :: else
        fi;
        x++
      :: else -> break
      od;
#endif
      read_until.xmax = 1;
      read_until.xip = 0;
      known_limit = UNKNOWN;
      is_locked = false;
      clear();
      check_books();
      forget_ids()
    }
  :: d_step { !is_free -> end_xid(DROPPER); is_locked = false }
  fi
}
#endif

init {
  atomic {
    state.taken = IN_LINE;
    read_until.xmax = 1;
    byte i = 1;
    do
    :: i < JOBS -> home[i] = LOG; i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < WORKERS -> run worker(FIRST_WORKER + i); i++
    :: else -> break
    od;
    run claimer();
    run producer();
#if AGAIN
    run promoter();
#endif
#if ORDER == 2 && AGAIN
    run operator();
#endif
#ifdef MIXES
    run mixed();
#endif
#ifdef CANCELS
    run canceller();
#endif
#if NEXT != LIMIT
    run configurer();
#endif
#ifdef FOLDS
    run folder();
#endif
#ifdef DROPS
    run dropper()
#endif
  }
}

/* Progress: where workers answer and claims go on, each job begins and ends. */
ltl progress { <> is_over }
