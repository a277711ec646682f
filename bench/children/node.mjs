// A child of the benchmark (bench/systems/child.go has the protocol): node node.mjs graphile-worker|pg-boss|bullmq
import { createInterface } from "node:readline";
import pg from "pg";

const send = (reply) => process.stdout.write(JSON.stringify(reply) + "\n");
const now = () => Math.round((performance.timeOrigin + performance.now()) * 1000); // µs since 1970

// Acknowledged jobs are collected for a moment, and reported together.
let done = [];
const flush = () => {
  if (done.length > 0) send({ done });
  done = [];
};
const report = (job, picked, ended) => {
  if (done.length === 0) setTimeout(flush, 1);
  done.push([job.n, job.t, picked, ended]);
};

const queues = (env) => Array.from({ length: env.Queues }, (_, i) => `q${i}`);

let pad;
const args = ([n, t, fails]) => (fails ? { n, t, f: 1, pad } : { n, t, pad });

const graphileWorker = () => {
  let lib, utils, runner, env;
  const picked = new Map();
  const queue = "bench"; // graphile-worker has task identifiers, no queues that run side by side
  return {
    async install(url) {
      lib = await import("graphile-worker");
      await (await lib.makeWorkerUtils({ connectionString: url })).migrate();
    },
    async open(given) {
      env = given;
      lib = await import("graphile-worker");
      utils = await lib.makeWorkerUtils({ connectionString: env.URL, maxPoolSize: env.Enqueue + 2 });
    },
    async enqueue(jobs, { priority, delay_ms }) {
      const runAt = delay_ms ? new Date(Date.now() + delay_ms) : undefined;
      await utils.addJobs(jobs.map((j) => ({ identifier: queue, payload: args(j), priority, runAt, maxAttempts: 25 })));
    },
    async work() {
      const events = new (await import("node:events")).EventEmitter();
      events.on("job:complete", ({ job, error }) => {
        if (!error) report(job.payload, picked.get(job.payload.n), now());
        picked.delete(job.payload.n);
      });
      runner = await lib.run({
        preset: {
          worker: {
            connectionString: env.URL, maxPoolSize: 20, concurrentJobs: env.Slots, pollInterval: 2000,
            localQueue: { size: Math.max(env.Slots + 1, 500) }, completeJobBatchDelay: 0, failJobBatchDelay: 0,
          },
        },
        logger: new lib.Logger(() => () => {}),
        noHandleSignals: true,
        events,
        taskList: {
          [queue]: async (job, helpers) => {
            if (job.f && helpers.job.attempts === 1) throw new Error("it failed");
            picked.set(job.n, now());
          },
        },
      });
    },
    async stop() { await runner.stop(); },
    async books(db) {
      const { rows } = await db.query("select count(*)::int as n from graphile_worker._private_jobs");
      return { left: rows[0].n, ended: -1 }; // a job that has ended is deleted
    },
    async close() { await utils.release(); },
  };
};

const pgBoss = () => {
  let boss, env, working, loops;
  const start = async (url, max) => {
    const { PgBoss } = await import("pg-boss");
    boss = new PgBoss({ connectionString: url, max });
    boss.on("error", (e) => process.stderr.write(`pg-boss: ${e.message}\n`));
    await boss.start();
  };
  return {
    async install(url) { await start(url, 4); await boss.stop(); },
    async open(given) {
      env = given;
      await start(env.URL, env.Enqueue + env.Workers + 4);
      for (const q of queues(env)) await boss.createQueue(q);
    },
    async enqueue(jobs, { queue, priority, delay_ms }) {
      const startAfter = delay_ms ? new Date(Date.now() + delay_ms) : undefined;
      await boss.insert(queue, jobs.map((j) => ({
        data: args(j), priority: priority ? 4 - priority : undefined, startAfter, retryDelay: 1,
      })));
    },
    // fetch and complete, which pg-boss offers beside work: work waits for its polling interval of at least 0.5 s.
    async work() {
      working = true;
      const consume = async (i) => {
        while (working) {
          let found = 0;
          for (let q = i % env.Queues; q < env.Queues; q += env.Workers) {
            const jobs = await boss.fetch(`q${q}`, { batchSize: env.Batch });
            const at = now();
            found += jobs.length;
            const bad = jobs.filter((j) => j.data.f && !failed.has(j.data.n));
            for (const j of bad) failed.add(j.data.n);
            const good = bad.length > 0 ? jobs.filter((j) => !bad.includes(j)) : jobs;
            if (bad.length > 0) await boss.fail(`q${q}`, bad.map((j) => j.id));
            if (good.length > 0) await boss.complete(`q${q}`, good.map((j) => j.id));
            const ended = now();
            for (const j of good) report(j.data, at, ended);
          }
          if (found === 0) await new Promise((r) => setTimeout(r, 2));
        }
      };
      const failed = new Set();
      loops = Array.from({ length: env.Workers }, (_, i) => consume(i));
      for (const l of loops) l.catch((e) => { process.stderr.write(`pg-boss: ${e.stack}\n`); process.exit(1); });
    },
    async stop() { working = false; await Promise.all(loops); },
    async books(db) {
      const { rows } = await db.query(`select count(*) filter (where state <> 'completed')::int as left,
        count(*) filter (where state = 'completed')::int as ended from pgboss.job where name ~ '^q[0-9]+$'`);
      return rows[0];
    },
    async close() { await boss.stop({ graceful: false }); },
  };
};

const bullMQ = () => {
  let lib, env, all, workers;
  const start = async (url) => {
    lib = await import("bullmq");
    return lib.withBackend(lib.createPostgresBackend);
  };
  const connection = (url, max) => ({ connectionString: url, max, migrate: true });
  return {
    async install(url) {
      const { Queue } = await start(url);
      const queue = new Queue("q0", { connection: connection(url, 2) });
      await queue.waitUntilReady();
      await queue.close();
    },
    async open(given) {
      env = given;
      const { Queue } = await start(env.URL);
      all = new Map();
      for (const q of queues(env)) all.set(q, new Queue(q, { connection: connection(env.URL, env.Enqueue + 2) }));
      for (const q of all.values()) await q.waitUntilReady();
    },
    async enqueue(jobs, { queue, priority, delay_ms }) {
      const opts = { priority, delay: delay_ms || undefined, attempts: 2, backoff: { type: "fixed", delay: 1000 } };
      if (jobs.length === 1) await all.get(queue).add("bench", args(jobs[0]), opts);
      else await all.get(queue).addBulk(jobs.map((j) => ({ name: "bench", data: args(j), opts })));
    },
    async work() {
      const { Worker } = await start(env.URL);
      const picked = new Map();
      workers = [...all.keys()].map((q) => {
        const w = new Worker(q, async (job) => {
          if (job.data.f && job.attemptsMade === 0) throw new Error("it failed");
          picked.set(job.data.n, now());
        }, { connection: connection(env.URL, 50), concurrency: Math.max(1, Math.floor(env.Slots / env.Queues)) });
        w.on("completed", (job) => {
          report(job.data, picked.get(job.data.n), now());
          picked.delete(job.data.n);
        });
        w.on("error", (e) => process.stderr.write(`bullmq: ${e.message}\n`));
        return w;
      });
      await Promise.all(workers.map((w) => w.waitUntilReady()));
    },
    async stop() { await Promise.all(workers.map((w) => w.close())); },
    async books() {
      const sum = { left: 0, ended: 0 };
      for (const q of all.values()) {
        const { completed, ...rest } = await q.getJobCounts("waiting", "prioritized", "active", "delayed", "completed");
        sum.ended += completed;
        sum.left += Object.values(rest).reduce((a, b) => a + b, 0);
      }
      return sum;
    },
    async close() { for (const q of all.values()) await q.close(); },
  };
};

const system = { "graphile-worker": graphileWorker, "pg-boss": pgBoss, bullmq: bullMQ }[process.argv[2]]();
let db; // for the books
const answer = {
  install: ({ url }) => system.install(url),
  open: async ({ env }) => {
    pad = "x".repeat(Math.max(0, env.Payload - 60));
    db = new pg.Pool({ connectionString: env.URL, max: 1 });
    await system.open(env);
  },
  enqueue: ({ jobs, set }) => system.enqueue(jobs, set),
  work: () => system.work(),
  stop: async () => { await system.stop(); flush(); },
  books: () => system.books(db),
};
const lines = createInterface({ input: process.stdin });
lines.on("line", async (line) => {
  const request = JSON.parse(line);
  try {
    send({ id: request.id, ...(await answer[request.op](request)) });
  } catch (e) {
    send({ id: request.id, error: `${e.message ?? e}` });
  }
});
lines.on("close", async () => {
  const late = setTimeout(() => process.exit(0), 5000);
  try {
    if (db) { await system.close(); await db.end(); }
  } catch { /* the harness has what it needs */ }
  clearTimeout(late);
  process.exit(0);
});
