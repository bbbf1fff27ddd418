#!/usr/bin/python3
"""make chaos-syscalls: one job's life again and again, and each time a process dies at another of the system calls that it makes for it.

    syscalls.py [--role api|broker|worker] [--life plain|stream|retry|cancel] [--part 1/1] [--at ROLE/THREAD/CALL/N]

First the life is traced: every call of every thread of the api child, the broker and the worker child. Then each is a site: strace, attached
to that thread alone, kills the process (signal=KILL) as it enters its nth call of that name. The caller is honest, as in load.py, and
what became of the job is judged like any history. A site that is not come to again (a wake-up that did not happen) is counted as such.
`--part 3/20` takes every twentieth site from the third on; `--at` one of them."""

import argparse
import asyncio
import contextlib
import pathlib
import re
import subprocess
import sys
import time
from collections import Counter, namedtuple

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib")]

from aio import Http, pause  # noqa: E402
from checker import check, report  # noqa: E402
from load import Load  # noqa: E402
from plan import Plan  # noqa: E402
from quern import alive, process_name, until  # noqa: E402
from world import World, run_to_end  # noqa: E402

ROLES = ("api", "broker", "worker")
KILLS_PER_ROLE = 4  # in one Quern: then supervisors would wait longer and longer before they start it again
WORLDS = 3          # at once
THREADS = 3         # of each role: its loop, ZeroMQ's reaper and its I/O thread
TAIL_S = 0.1        # a life goes on a little after its end was seen: acknowledgements, what is forgotten
ENTERED = re.compile(r"^(\d+)\s+(\w+)\(")
LIVES = {"plain": ("[[latency_ms=20]]", {}), "stream": ("[[tokens_per_s=500]]", {"stream": True}),
         "retry": ("[[fault=status_503 fail_first=1]]", {}), "cancel": ("[[latency_ms=300]]", {})}


class Site(namedtuple("Site", "role thread call nth")):
    def __str__(self):
        return f"{self.role}/{self.thread}/{self.call}/{self.nth}"


def process_of(q, role):
    """The one that has to do with the job: the broker, or the child that is not the one-slot child."""
    if role == "broker":
        return q.pid(role)
    return next((pid for pid in q.children(role) if process_name(pid).endswith(":0")), None)


def threads_of(pid):
    """Thread ids in the order in which they were made, which is the same in every process of a role; none of one that is gone."""
    with contextlib.suppress(OSError):
        return sorted(int(task.name) for task in pathlib.Path(f"/proc/{pid}/task").iterdir())
    return []


class Strace:
    """Attached when made."""

    def __init__(self, *args):
        self.process = subprocess.Popen(["strace", *args], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        line = self.process.stderr.readline()
        assert "attached" in line, f"strace: {line}"

    def detach(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate()


class Stage:
    """One Quern, and the lives of jobs on it."""

    def __init__(self, world, name, life):
        self.world, self.q, self.name, self.life = world, world.q, name, life
        self.history = world.history()
        self.load = Load(self.q.port, self.history, name, 0, 0)
        self.client = Http(self.q.port)
        self.number = 0

    async def ready(self):
        await asyncio.to_thread(until, lambda: all(len(threads_of(process_of(self.q, role))) == THREADS for role in ROLES), "all roles are there", 30)
        await asyncio.to_thread(self.q.ready)

    async def live(self):
        self.number += 1
        script, more = LIVES[self.life]
        kind = "cancelled" if self.life == "cancel" else "plain"
        name = f"{self.name}-{self.number}"
        plan = Plan(name, kind, f"{name} {self.life} {script}", more)
        self.history.add("submit", name, prompt=plan.prompt, max_attempts=3, may=plan.may)
        if await self.load.submit(self.client, plan):
            if self.life == "cancel":
                await pause(0.05)
                await self.load.cancel(self.client, plan)
            await self.load.follow(self.client, plan)
        await asyncio.sleep(TAIL_S)
        return plan

    async def trace(self):
        """The sites of one life, in each role."""
        sites = []
        await self.live()  # what is done once is done
        for role in ROLES:
            pid = process_of(self.q, role)
            threads, out = threads_of(pid), self.q.state / f"trace-{role}"
            strace = await asyncio.to_thread(Strace, "-f", "-p", str(pid), "-o", str(out))
            await self.live()
            await asyncio.to_thread(strace.detach)
            seen = Counter()
            for match in filter(None, map(ENTERED.match, out.read_text().splitlines())):
                thread = threads.index(int(match[1]))
                seen[thread, match[2]] += 1
                sites.append(Site(role, thread, match[2], seen[thread, match[2]]))
        return sites

    async def kill_at(self, site):
        """True when the process came to it and died."""
        await self.ready()
        pid, began = process_of(self.q, site.role), time.monotonic()
        inject = f"inject={site.call}:signal=KILL:when={site.nth}"
        strace = await asyncio.to_thread(Strace, "-p", str(threads_of(pid)[site.thread]), "-e", inject, "-o", "/dev/null")
        plan = await self.live()
        died = not alive(pid)
        await asyncio.to_thread(strace.detach)
        await self.world.calls(self.history)
        if died:
            ports = [c["port"] for c in self.history.lines if c["op"] == "call" and c["job"] == plan.name] if site.role == "worker" else []
            self.history.add("fault", t=began, what="kill", role=site.role, child=site.role != "broker", pid=pid, ports=ports, until=time.monotonic(),
                             site=str(site))
        return died

    async def judge(self):
        await self.ready()
        self.client.close()
        await self.world.finals(self.history)
        await self.world.calls(self.history)
        await self.world.found(self.history)
        return check(self.history.lines)


class Sweep:
    def __init__(self, sites, life):
        self.left, self.life, self.worlds = list(sites), life, 0
        self.swept, self.missed, self.wrong = Counter(), [], 0

    def batch(self):
        """Some sites of every role, no more than one Quern bears."""
        out, counts = [], Counter()
        for site in self.left:
            if counts[site.role] < KILLS_PER_ROLE:
                counts[site.role] += 1
                out.append(site)
        self.left = [site for site in self.left if site not in out]
        return out

    async def work(self):
        while self.left:
            batch = self.batch()
            self.worlds += 1
            name = f"s{self.worlds}"
            async with World(children=1, wires=()) as world:
                stage = Stage(world, name, self.life)
                await stage.live()
                for site in batch:
                    if await stage.kill_at(site):
                        self.swept[site.role] += 1
                    else:
                        self.missed.append(site)
                wrong = await stage.judge()
                if wrong:
                    self.wrong += len(wrong)
                    print(f"history and logs: {world.keep(stage.history, f'syscalls-{name}')}\n{report(stage.history.lines, wrong)}")
                    print(f"among these: make chaos-syscalls LIFE={self.life} AT={{{','.join(map(str, batch))}}}", flush=True)


def chosen(sites, a):
    part, parts = map(int, a.part.split("/"))
    some = [site for site in sites if a.role in (None, site.role)]
    if a.at:
        return [Site(role, int(thread), call, int(nth)) for role, thread, call, nth in (at.split("/") for at in a.at.split(","))]
    return some[part - 1::parts]


async def run(a):
    async with World(children=1, wires=()) as world:
        sites = await Stage(world, "trace", a.life).trace()
    sweep = Sweep(chosen(sites, a), a.life)
    wanted = Counter(site.role for site in sweep.left)
    await asyncio.gather(*(sweep.work() for _ in range(WORLDS)))
    for role in ROLES:
        made = sum(site.role == role for site in sites)
        print(f"{role}: {made} system calls in one {a.life} life; killed at {sweep.swept[role]} of the {wanted[role]} tried")
    if sweep.missed:
        print("not come to again: " + ", ".join(map(str, sweep.missed[:8])) + (f" and {len(sweep.missed) - 8} more" if len(sweep.missed) > 8 else ""))
    print(f"{sweep.wrong} things are wrong")
    return bool(sweep.wrong) or not sum(sweep.swept.values())


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--role", choices=ROLES)
    args.add_argument("--life", choices=LIVES, default="plain")
    args.add_argument("--part", default="1/1")
    args.add_argument("--at", help="role/thread/call/n, more of them after commas")
    sys.exit(run_to_end(run(args.parse_args())))


if __name__ == "__main__":
    main()
