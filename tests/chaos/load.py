"""The load: callers that each have one job under way, readers who look at anybody's, and what they saw as history.

A caller is honest. Without an answer, or with `outcome_unknown`, it asks again under the same key until it knows; what was refused it
tries again, unless it is one of the hasty, who go away and must then have left nothing behind."""

import asyncio
import random

from aio import Http, pause
from history import TERMINAL, outcome_of
from plan import plan_of

REFUSALS = {"overloaded", "store_unavailable", "broker_unavailable", "draining", "out_of_memory", "limit_reached", "system_error", "bare 503"}
SUBMIT_WITHIN_S = 90


class Load:
    def __init__(self, port, history, seed, callers, readers=3, streams=None):
        self.port, self.history, self.seed = port, history, seed
        self.callers, self.readers = callers, readers
        self.streams = streams or (lambda plan: None)  # told of every accepted stream
        self.enough, self.over = asyncio.Event(), asyncio.Event()
        self.recent = []
        self.in_flight = self.peak = 0
        self.tasks = []

    def start(self):
        self.tasks = [asyncio.create_task(self.caller(i)) for i in range(self.callers)]
        self.tasks += [asyncio.create_task(self.reader(i)) for i in range(self.readers)]

    async def finish(self, seconds):
        """No new jobs; those under way come to their end. False when some did not in this time."""
        self.enough.set()
        _, late = await asyncio.wait(self.tasks[:self.callers], timeout=seconds)
        self.over.set()
        for task in late:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for task in self.tasks:
            if not task.cancelled() and task.exception():
                raise task.exception()
        return not late

    # ---- callers ----

    async def caller(self, index):
        rng, client = random.Random(f"{self.seed} caller {index}"), Http(self.port)
        await asyncio.sleep(rng.random())
        number = 0
        while not self.enough.is_set():
            number += 1
            plan = plan_of(rng, f"{self.seed}-{index}-{number}")
            self.history.add("submit", plan.name, prompt=plan.prompt, max_attempts=plan.max_attempts, may=plan.may)
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            await self.live(client, plan, rng)
            self.in_flight -= 1
        client.close()

    async def live(self, client, plan, rng):
        if plan.kind == "left":
            await self.leave(plan)
        if not await self.submit(client, plan):
            return
        if plan.kind == "stream":
            self.streams(plan)
        if plan.kind == "twice":
            await self.submit(client, plan)
        elif plan.kind == "other":
            await self.another_request(client, plan)
        elif plan.kind == "cancelled":
            await pause(rng.choice([0, 0, 0.02, 0.2, 1]))
            await self.cancel(client, plan)
        await self.follow(client, plan)
        if plan.kind == "forgotten":
            await self.forget(client, plan)

    async def submit(self, client, plan):
        """True when it is accepted. Whoever gives up has asked often, or is hasty."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SUBMIT_WITHIN_S
        while loop.time() < deadline:
            try:
                reply = await client.request("POST", "/v1/jobs", plan.body)
            except OSError as e:
                self.history.add("unknown", plan.name, why=type(e).__name__)
                await pause(0.1)
                continue
            if reply.status in (200, 202):
                return self.accepted(plan, reply.json)
            if reply.status == 410 and "gone" in plan.may:
                return False
            if not self.refused(plan, reply):
                return False
            if plan.kind == "hasty":
                return False
            await pause(0.2)
        self.history.add("odd", plan.name, sentence=f"no answer to its submit for {SUBMIT_WITHIN_S} s")
        return False

    def accepted(self, plan, shown):
        self.history.accepted(plan.name, shown["id"])
        plan.id = shown["id"]
        self.recent.append(plan)
        if len(self.recent) > 4000:
            del self.recent[:2000]
        return True

    def refused(self, plan, reply):
        """False when the answer is none of those that may be given."""
        code = reply.code
        if code == "outcome_unknown":
            self.history.add("unknown", plan.name, why=code)
        elif reply.status == 503 and code in REFUSALS:
            self.history.add("refused", plan.name, code=code)
        else:
            self.history.add("odd", plan.name, sentence=f"a submit was answered {reply}")
            return False
        if int(reply.headers.get("retry-after", 0)) < 1:
            self.history.add("odd", plan.name, sentence=f"a refusal without Retry-After: {reply}")
        return True

    async def leave(self, plan):
        """Submits, waits for the end, and hangs up instead."""
        client = Http(self.port, timeout=0.1)
        try:
            await client.request("POST", "/v1/jobs?wait=30s", plan.body)
        except OSError:
            pass
        self.history.add("unknown", plan.name, why="left")
        client.close()

    async def another_request(self, client, plan):
        try:
            reply = await client.request("POST", "/v1/jobs", {**plan.body, "prompt": plan.prompt + " but different"})
        except OSError:
            return
        if reply.status != 503:
            self.history.add("mismatch", plan.name, status=reply.status)

    async def cancel(self, client, plan):
        began = asyncio.get_running_loop().time()
        try:
            reply = await client.request("DELETE", f"/v1/jobs/{plan.id}")
        except OSError:
            return
        self.history.add("cancel", plan.name, id=plan.id, began=began, status=reply.status)
        if reply.status not in (200, 409, 503):
            self.history.add("odd", plan.name, sentence=f"a cancel was answered {reply}")

    async def forget(self, client, plan):
        try:
            reply = await client.request("DELETE", f"/v1/jobs/{plan.id}?forget=1")
        except OSError:
            return
        self.history.add("forget", plan.name, id=plan.id, status=reply.status)
        if reply.status not in (204, 410, 503):
            self.history.add("odd", plan.name, sentence=f"a forget was answered {reply}")

    async def follow(self, client, plan):
        """Waits for its end on the line, over every break."""
        while not self.over.is_set():
            status = await self.read(client, plan, "?wait=10s")
            if status in TERMINAL or status == "gone":
                return
            await pause(0.2 if status is None else 0)

    # ---- readers ----

    async def read(self, client, plan, how=""):
        """The status as seen; None when nothing was to be seen."""
        began = asyncio.get_running_loop().time()
        try:
            reply = await client.request("GET", f"/v1/jobs/{plan.id}{how}")
        except OSError:
            return None
        if reply.status == 200:
            shown = reply.json
            self.history.add("read", plan.name, id=plan.id, began=began, status=shown["status"], outcome=outcome_of(shown))
            return shown["status"]
        if reply.status == 410:
            self.history.add("read", plan.name, id=plan.id, began=began, status="gone", outcome=None)
            return "gone"
        if reply.status != 503:
            self.history.add("odd", plan.name, sentence=f"a read was answered {reply}")
        return None

    async def reader(self, index):
        rng, client = random.Random(f"{self.seed} reader {index}"), Http(self.port)
        while not self.over.is_set():
            if self.recent:
                await self.read(client, rng.choice(self.recent), rng.choice(["", "", "?wait=100ms"]))
            await pause(0.02)
        client.close()
