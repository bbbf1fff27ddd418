"""The hand that hurts: kills, holds, ends, cuts, reloads, seeded, one act after the other. Each act is a line of the history.

What it keeps to is what is promised. `stored` outlives any one process, so between deaths of broker and Redis pass the three seconds that
a commit stays in the broker's ring. A job is given up as poison when the one-slot child has died with it three times, whoever killed
that child; so that one is killed so seldom that no job is in it twice."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter

from quern import alive, process_name

WINDOW_S = 3.2
BACK_WITHIN_S = 30
SOLO_EVERY_S = 15.0

# Who, and how often. A child is picked among its siblings.
KILLS = {("worker", True): 6, ("api", True): 5, ("broker", False): 4, ("redis", False): 2, ("worker", False): 2, ("api", False): 2}
STOPS = {("worker", True): 6, ("api", True): 3, ("broker", False): 3, ("redis", False): 2, ("worker", False): 1, ("api", False): 1}
ENDS = {("worker", False): 2, ("api", False): 2, ("broker", False): 2, ("redis", False): 1}
ACTS = {"kill": 12, "stop": 6, "cut": 4, "end": 2, "drop": 1, "storm": 1, "reload": 1}
STOPS_S = (0.3, 1.5, 3.5)
HELD_AT_ONCE = 2
LAG_S = 0.4
LOOK_S = 0.25
CUTS_S = (0.0, 0.05, 0.25, 2.0)  # shorter and longer than a worker may be away (broker.return_ms); figures.py measures the edge
STORMS = ({"fault": "status_429", "retry_after": "1"}, {"latency_ms": 1500})


def provider_sockets(provider_port):
    """Every socket of this machine to the provider: inode -> local port."""
    out, mark = {}, f":{provider_port:04X}"
    with open("/proc/net/tcp") as f:
        for line in f:
            fields = line.split()
            if fields[2].endswith(mark):
                out[fields[9]] = int(fields[1].split(":")[1], 16)
    return out


def ports_of(pid, sockets):
    """The local ports of this process's sockets to the provider: how the provider's record knows whose call it was."""
    ports = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{fd}")
                if link.startswith("socket:[") and link[8:-1] in sockets:
                    ports.add(sockets[link[8:-1]])
    return ports


class Hand:
    def __init__(self, q, history, seed, children, wires=(), acts=None):
        self.q, self.history, self.children, self.wires = q, history, children, list(wires)
        self.solo_at = 0.0
        self.holding = set()
        self.ports = {}  # of every worker child, all that it was seen with
        self.acts = acts or ACTS
        self.seed, self.number, self.rng = seed, 0, None
        self.deaths = {"broker": 0.0, "redis": 0.0}
        self.done = Counter()  # (what, role, child)

    def look(self):
        """Whose sockets are whose, before they are closed."""
        sockets = provider_sockets(self.q.upstream.port)
        for pid in self.q.children("worker"):
            self.ports.setdefault(pid, set()).update(ports_of(pid, sockets))

    async def keep_looking(self):
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def ports_of(self, pid):
        return self.ports.get(pid, set()) | ports_of(pid, provider_sockets(self.q.upstream.port))

    def pick(self, weights):
        return self.rng.choices(list(weights), list(weights.values()))[0]

    async def once(self, pauses=(0.05, 0.3, 1.0)):
        """The next act, and a pause. Each draws from a generator of its own: what became of the one before changes nothing."""
        self.number += 1
        self.rng = random.Random(f"{self.seed} act {self.number}")
        pause = self.rng.choice(pauses)
        await getattr(self, self.pick(self.acts))()
        await asyncio.sleep(pause)

    def note(self, what, role, child=False, pid=None, ports=(), began=None):
        until = time.monotonic()
        self.done[what, role, child] += 1
        self.history.add("fault", t=began or until, what=what, role=role, child=child, pid=pid, ports=list(ports), until=until)

    # ---- processes ----

    def pid_of(self, role, child):
        pids = [p for p in (self.q.children(role) if child else [self.q.pid(role)]) if p and alive(p)]
        return self.rng.choice(pids) if pids else None

    def is_solo(self, role, pid):
        """The worker's last child, by its process's name."""
        return role == "worker" and process_name(pid).endswith(f":{self.children}")

    def spared(self, role, pid):
        if not self.is_solo(role, pid):
            return False
        last, self.solo_at = self.solo_at, time.monotonic()
        if self.solo_at - last >= SOLO_EVERY_S:
            return False
        self.solo_at = last
        return True

    async def may_die(self, role):
        """False when the death of this one, now, would be a second death at once."""
        if role not in self.deaths:
            return True
        other = "redis" if role == "broker" else "broker"
        await asyncio.sleep(max(0.0, self.deaths[other] + WINDOW_S - time.monotonic()))
        return bool(self.q.pid(other)) and alive(self.q.pid(other))

    async def back(self, role, pid):
        if role in self.deaths:
            await asyncio.to_thread(self.q.restarted, role, pid, BACK_WITHIN_S)
            self.deaths[role] = time.monotonic()

    async def kill(self):
        role, child = self.pick(KILLS)
        if not await self.may_die(role):
            return
        pid = self.pid_of(role, child)
        if not pid or self.spared(role, pid):
            return
        ports = []
        with contextlib.suppress(ProcessLookupError):
            if role == "worker" and child:  # held while its sockets are looked at: none may come after the look
                os.kill(pid, signal.SIGSTOP)
                ports = self.ports_of(pid)
            os.kill(pid, signal.SIGKILL)
            self.note("kill", role, child, pid, ports)
        if not child:
            await self.back(role, pid)

    async def stop(self):
        """Held still, and let go while the hand is already at something else."""
        role, child = self.pick(STOPS)
        pid, seconds = self.pid_of(role, child), self.rng.choice(STOPS_S)
        if not pid or self.spared(role, pid) or len(self.holding) >= HELD_AT_ONCE:
            return
        self.holding.add(task := asyncio.create_task(self.hold(role, child, pid, seconds)))
        task.add_done_callback(self.holding.discard)

    async def hold(self, role, child, pid, seconds):
        began = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            ports = self.ports_of(pid) if role == "worker" and child else ()
            try:
                await asyncio.sleep(seconds)
            finally:
                self.note("stop", role, child, pid, ports, began)
                os.kill(pid, signal.SIGCONT)

    async def rest(self):
        """Lets go of everything."""
        await asyncio.gather(*self.holding)

    async def end(self):
        """One role is stopped in order, as an upgrade does, and starts again."""
        role, child = self.pick(ENDS)
        if not await self.may_die(role):
            return
        pid = self.pid_of(role, child)
        if not pid:
            return
        self.note("end", role, child, pid)
        os.kill(pid, signal.SIGTERM)
        await self.back(role, pid)

    async def reload(self):
        self.note("reload", "all")
        os.kill(self.q.run.pid, signal.SIGHUP)

    # ---- lines ----

    async def watch_lag(self):
        """Wires are as still as the loop that they are on: a machine too busy for it cuts them as a hand would."""
        before = time.monotonic()
        while self.wires:
            await asyncio.sleep(LAG_S / 4)
            now = time.monotonic()
            if now - before > LAG_S:
                for role, _ in self.wires:
                    self.note("lag", role, began=before)
            before = now

    async def cut(self):
        if not self.wires:
            return
        name, wire = self.rng.choice(self.wires)
        began = time.monotonic()
        await wire.cut(self.rng.choice(CUTS_S))
        self.note("cut", name, began=began)

    async def drop(self):
        """Redis hangs up on everybody."""
        self.note("drop", "redis")
        await asyncio.to_thread(self.q.redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def storm(self):
        """The provider has a bad second."""
        began = time.monotonic()
        script = self.rng.choice(STORMS)
        await asyncio.to_thread(self.q.upstream.script, numbered=1, **script)
        await asyncio.sleep(self.rng.choice([0.3, 1.0]))
        await asyncio.to_thread(self.q.upstream.script, numbered=1)
        self.note("storm", script.get("fault", "slow"), began=began)
