"""A child of the benchmark (bench/systems/child.go has the protocol) for the Rust awa, by its Python package awa-pg."""

import asyncio
import datetime
import json
import sys
import time
from dataclasses import dataclass

import awa


@dataclass
class Bench:
    n: int
    t: int
    f: int
    pad: str


def now() -> int:
    return time.time_ns() // 1000


class Child:
    def __init__(self) -> None:
        self.client = None
        self.done: list[list[int]] = []

    def send(self, reply: dict) -> None:
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()

    async def install(self, r: dict) -> None:
        client = awa.AsyncClient(r["url"])
        await client.migrate()
        await client.install_queue_storage()  # the fast storage, which bulk insert needs
        await client.close()

    async def open(self, r: dict) -> None:
        self.env = r["env"]
        self.pad = "x" * max(0, self.env["Payload"] - 70)
        self.client = awa.AsyncClient(self.env["URL"], max_connections=self.env["Enqueue"] + 20)

    async def enqueue(self, r: dict) -> None:
        common = r["set"]
        jobs = [Bench(n, t, f, self.pad) for n, t, f in r["jobs"]]
        run_at = None
        if common.get("delay_ms"):
            run_at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(milliseconds=common["delay_ms"])
        options = {"queue": common["queue"], "priority": common.get("priority", 2), "run_at": run_at}
        if len(jobs) == 1:
            await self.client.insert(jobs[0], **options)
        else:
            await self.client.enqueue_many_copy(jobs, **options)

    async def work(self, _: dict) -> None:
        queues = [f"q{i}" for i in range(self.env["Queues"])]

        async def handle(job):
            if job.args.f and job.attempt == 1:
                return awa.RetryAfter(1.0)
            if not self.done:
                asyncio.get_running_loop().call_later(0.001, self.flush)
            at = now()
            self.done.append([job.args.n, job.args.t, at, at])

        for queue in queues[:1]:
            self.client.task(Bench, queue=queue)(handle)
        slots = max(1, self.env["Slots"] // len(queues))
        await self.client.start([(q, slots) for q in queues], poll_interval_ms=50)

    def flush(self) -> None:
        if self.done:
            done, self.done = self.done, []
            self.send({"done": done})

    async def stop(self, _: dict) -> None:
        await self.client.shutdown(timeout_ms=10000)
        self.flush()

    async def books(self, _: dict) -> dict:
        left = 0
        for q in await self.client.queue_stats():
            left += q.scheduled + q.available + q.retryable + q.running
        return {"left": left, "ended": -1}

    async def answer(self, line: bytes) -> None:
        r = json.loads(line)
        try:
            result = await getattr(self, r["op"])(r) or {}
            self.send({"id": r["id"], **result})
        except Exception as e:  # the harness decides
            self.send({"id": r["id"], "error": f"{type(e).__name__}: {e}"})

    async def run(self) -> None:
        reader = asyncio.StreamReader(limit=1 << 24)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        tasks = set()
        while line := await reader.readline():
            task = asyncio.create_task(self.answer(line))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if self.client:
            await self.client.close()


asyncio.run(Child().run())
