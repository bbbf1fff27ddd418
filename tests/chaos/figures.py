#!/usr/bin/python3
"""make chaos-figures: what deaths and cuts cost, measured, each beside its bound.

    figures.py [redelivery] [dispatch] [cuts] [calm]      all of them without a name"""

import argparse
import asyncio
import os
import pathlib
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib")]

from checker import check, report  # noqa: E402
from hand import ports_of, provider_sockets  # noqa: E402
from history import jobs_of  # noqa: E402
from queued import fill  # noqa: E402
from quern import Quern, until  # noqa: E402
from world import World, run_to_end  # noqa: E402

QUEUED = 100_000
CUT_MAX_S = 0.5
STEADY_S = 10.5  # a role that lived this long is started again at once (broker/run_roles.c)
BETWEEN_CUTS_S = 1.5  # a session that stood for a second forgives the tries before it (proto/session.c)


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def say(name, values, bound, unit="ms"):
    """One figure; false when it misses its bound."""
    p50, p99, most = quantile(values, 0.5), quantile(values, 0.99), max(values)
    kept = p99 <= bound
    print(f"{name}: p50 {p50:.0f}, p99 {p99:.0f}, most {most:.0f} {unit} of {len(values)} (bound: p99 {bound:g} {unit}{'' if kept else ', MISSED'})",
          flush=True)
    return kept


# ---- a worker child dies ----


def killed_with_jobs(q, jobs, name, latency_ms):
    """One child dies with its share of the jobs; for each of them, how long until it was called again."""
    until(lambda: len(q.children("worker")) == 3 and q.stats()["workers"] == 3, "every child is there", 30)
    before = q.upstream.stats()["arrived"]
    ids = [q.submit(f"{name}-{i} [[latency_ms={latency_ms}]]")["id"] for i in range(jobs)]
    until(lambda: q.upstream.stats()["arrived"] == before + jobs, "all are called")
    sockets = provider_sockets(q.upstream.port)
    shares = {pid: ports_of(pid, sockets) for pid in q.children("worker")}
    victim = max(shares, key=lambda pid: len(shares[pid]))
    os.kill(victim, signal.SIGKILL)
    killed_ms = time.monotonic() * 1000
    for job_id in ids:
        assert q.ended(job_id)["status"] == "completed"
    calls = {}
    for call in q.upstream.calls_with(name):
        calls.setdefault(call["prompt_head"], []).append(call["at_ms"])
    return [at[1] - killed_ms for at in calls.values() if len(at) > 1]


def redelivery(rounds=40):
    """Up to eight jobs that met one crash run in any child at once: so many are meant to find credit elsewhere."""
    few, many = [], []
    with Quern() as q:
        for n in range(rounds):
            few += killed_with_jobs(q, 12, f"few{n}", 1000)
        for n in range(4):
            many += killed_with_jobs(q, 100, f"many{n}", 1000)
    kept = say("a worker child's first crash to the next call, credit free elsewhere", few, 1000)
    print(f"  with 50 jobs in the child, of which eight at a time may run elsewhere: p50 {quantile(many, 0.5):.0f}, "
          f"p99 {quantile(many, 0.99):.0f} ms")
    return kept


# ---- the broker dies ----


def age_s(pid):
    with open(f"/proc/{pid}/stat") as f:
        began = int(f.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def first_dispatch(q):
    old = q.kill("broker")
    killed_ms = time.monotonic() * 1000
    q.restarted("broker", old)

    def first():
        page = q.upstream.http.request("GET", "/_calls?open=1&since=0").json
        later = [c["at_ms"] for c in (*page["calls"], *page["open"]) if c["at_ms"] > killed_ms]
        return min(later) if later else None
    at_ms = until(first, "a call", 20, every=0.02)
    return at_ms - killed_ms


def dispatch(kills=5):
    """One slot, so that nothing is on its way to a worker when the broker dies: the next call is the next broker's."""
    with Quern({"worker": {"slots": 1}}, workers=1) as q:
        q.upstream.script(latency_ms=100)
        fill(q.port, QUEUED)
        took = []
        for _ in range(kills):
            q.upstream.reset()
            q.upstream.script(latency_ms=100)
            until(lambda: q.upstream.stats()["ended"] > 3 and age_s(q.pid("broker")) > STEADY_S, "calls go on", 30, every=0.1)
            took.append(first_dispatch(q))
        waiting = q.stats()["waiting"]
    print(f"  {waiting} of {QUEUED} were still queued at the last; each time includes what was left of the call of 100 ms that ran through the kill")
    return say(f"broker kill -9 to the first dispatch, {QUEUED} queued", took, 1000)


# ---- cuts, and calm ----


def made_again(lines):
    return sum(call["fault"] == "none" for job in jobs_of(lines).values() for call in job.of("call")[:-1])


async def count_made_again(name, hurt, seed):
    async with World() as world:
        history, hand, load, _ = await world.round(seed, hurt, callers=200, acts={"kill": 1})
    calls, again = sum(line["op"] == "call" for line in history.lines), made_again(history.lines)
    print(f"{name}: {again} of {calls} provider calls were made again (bound: 0{', MISSED' if again else ''})", flush=True)
    wrong = [w for w in check(history.lines) if w.rule != "I4"]
    if wrong:
        print(report(history.lines, wrong))
    return not again and not wrong


def cuts(number=60):
    async def hurt(hand, load):
        wire = dict(hand.wires)["worker"]
        for n in range(number):
            await wire.cut(CUT_MAX_S if n % 2 else CUT_MAX_S * n / number)
            hand.note("cut", "worker")
            await asyncio.sleep(BETWEEN_CUTS_S)
    return run_to_end(count_made_again(f"{number} cuts of all workers, half of them {CUT_MAX_S * 1000:.0f} ms and the others shorter", hurt, 11))


def calm(seconds=20):
    async def hurt(hand, load):
        await asyncio.sleep(seconds)
    return run_to_end(count_made_again(f"{seconds} s without faults", hurt, 12))


FIGURES = {"redelivery": redelivery, "dispatch": dispatch, "cuts": cuts, "calm": calm}


def main():
    args = argparse.ArgumentParser()
    args.add_argument("names", nargs="*", choices=[*FIGURES, []], default=[])
    kept = [FIGURES[name]() for name in args.parse_args().names or FIGURES]
    sys.exit(not all(kept))


if __name__ == "__main__":
    main()
