"""One Quern for as long as it takes, with wires that can be cut between its roles, and rounds of load and harm on it."""

import asyncio
import contextlib
import gc
import json
import shutil
import signal
import time

from aio import Http
from cut import Wire
from hand import Hand
from history import History, outcome_of
from load import Load
from quern import BUILD, Quern, until
from streams import Reader

LEASE_MS = 2000  # shorter than the longest time for which the hand holds a worker still
STOP_MS = 60000  # longer than the store is ever away: what a draining child has finished is stored before it leaves
END_WITHIN_S = 120  # jobs that met two crashes queue for the one-slot child
WIRED = ("api", "worker")


class World:
    """wires: sides of the broker whose sockets can be cut."""

    def __init__(self, children=2, wires=WIRED, lease_ms=LEASE_MS):
        def settings(state):
            out = {"broker": {"lease_ms": lease_ms}, "api": {"submit_ms": 3000}, "worker": {"stop_ms": STOP_MS}}
            for role in wires:
                out[role]["broker"] = f"ipc://{state}/cut-{role}.sock"
            return out
        self.lease_s = lease_ms / 1000
        self.q = Quern(settings, workers=children, api_children=children, start=False)
        self.wires = [(role, Wire(self.q.state / f"cut-{role}.sock", self.q.state / f"{role}.sock")) for role in wires]
        self.children = children
        self.known = set()  # ids of rounds before
        self.read_calls = 0

    async def __aenter__(self):
        gc.disable()  # a history has no cycles, and looking for them among a million lines holds the wires still for seconds
        self.q.start(ready=False)
        for _, wire in self.wires:
            await wire.open()
        self.q.upstream.script(numbered=1)
        await asyncio.to_thread(self.q.ready)
        return self

    async def __aexit__(self, *exc):
        for _, wire in self.wires:
            wire.close()
        await asyncio.to_thread(self.q.close)

    async def calls(self, history):
        """The provider's record since the last look."""
        page = await asyncio.to_thread(lambda: self.q.upstream.http.request("GET", f"/_calls?since={self.read_calls}").json)
        assert not page["lost"], "the provider's record is longer than it keeps"
        self.read_calls = page["next"]
        for c in page["calls"]:
            name = c["prompt_head"].split(" ", 1)[0]
            closed = c["closed_ms"] / 1000
            history.add("call", name, t=closed, n=c["n"], at=c["at_ms"] / 1000, wall=c["wall_ms"], closed=closed, ended=c["ended"],
                        status=c["status"], fault=c["fault"], port=c["peer_port"])

    async def finals(self, history):
        """The last read of every job that was accepted."""
        left = list(history.names.items())

        async def reader():
            client = Http(self.q.port)
            while left:
                job_id, name = left.pop()
                history.add("final", name, id=job_id, **await final_of(client, job_id))
            client.close()
        await asyncio.gather(*(reader() for _ in range(8)))

    async def found(self, history):
        """Ended jobs in the store that no caller was told of."""
        keys = await asyncio.to_thread(self.q.redis, "--scan", "--pattern", "{q0}:r:*")
        client = Http(self.q.port)
        for key in keys.split():
            job_id = "job_" + key.rsplit(":", 1)[1]
            if job_id in history.names or job_id in self.known:
                continue
            reply = await client.request("GET", f"/v1/jobs/{job_id}")
            if reply.status == 200:
                history.add("found", (reply.json["metadata"] or {}).get("name", job_id), id=job_id)
            self.known.add(job_id)
        client.close()

    def history(self):
        history = History()
        history.add("settings", lease_s=self.lease_s)
        return history

    def keep(self, history, name):
        """What a bad run leaves for whoever looks into it."""
        directory = BUILD / "chaos"
        history.save(directory / f"{name}.jsonl")
        shutil.copytree(self.q.state / "logs", directory / f"{name}.logs", dirs_exist_ok=True)
        return directory / f"{name}.jsonl"

    async def round(self, seed, hurt, callers=1200, acts=None):
        """Load, harm by `hurt(hand, load)`, and everything that is known afterwards. The history, the hand, and what it saw."""
        history = self.history()
        reader = Reader(f"ipc://{self.q.state}/api.sock", history, seed)
        load = Load(self.q.port, history, seed, callers, streams=reader.watch)
        hand = Hand(self.q, history, seed, self.children, self.wires, acts)
        reader.start()
        load.start()
        watching = [asyncio.create_task(hand.watch_lag()), asyncio.create_task(hand.keep_looking())]
        try:
            await hurt(hand, load)
        finally:
            await hand.rest()
            for task in watching:
                task.cancel()
            ended = await load.finish(END_WITHIN_S)
        await asyncio.to_thread(self.q.ready)
        await asyncio.to_thread(reader.stop)
        if not ended:
            history.add("odd", None, sentence=f"callers had jobs under way for more than {END_WITHIN_S} s")
        with contextlib.suppress(AssertionError):
            await asyncio.to_thread(until, lambda: not self.q.upstream.stats()["in_flight"], "calls have ended", 20)
        await self.finals(history)
        await self.calls(history)
        await self.found(history)
        self.known.update(history.names)
        return history, hand, load, reader


def run_to_end(work):
    """The result of a coroutine. SIGTERM unwinds it, so that no Quern is left behind."""
    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
        return await work
    return asyncio.run(main())


async def final_of(client, job_id):
    deadline = time.monotonic() + 30
    seen = None
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, json.JSONDecodeError):
            reply = await client.request("GET", f"/v1/jobs/{job_id}?wait=5s")
            if reply.status == 410:
                return {"status": "gone", "outcome": None, "content": None}
            if reply.status == 200:
                seen = shown = reply.json
                if outcome_of(shown):
                    return {"status": shown["status"], "outcome": outcome_of(shown), "content": (shown["result"] or {}).get("content"),
                            "code": (shown["error"] or {}).get("code")}
        await asyncio.sleep(0.05)
    return {"status": (seen or {}).get("status", "not answered"), "outcome": None, "content": None}
