#!/usr/bin/python3
"""make chaos-kills: kill -9 of every role, again and again under load, until there were KILLS of them; and what that cost.

    kills.py [--kills 1000] [--seed N] [--callers 1200] [--per-round 100]

The load goes on in rounds on one Quern; after each its jobs come to their end and its history is judged. A call made again is laid to the
killed worker child that had it, by the child's sockets (hand.py); what cannot be laid to one is wrong (I4)."""

import argparse
import asyncio
import pathlib
import sys
import time
from collections import Counter

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib")]

from chaos import completed_share  # noqa: E402
from checker import Run, check, report  # noqa: E402
from history import jobs_of  # noqa: E402
from peace import broken_peace  # noqa: E402
from world import World, run_to_end  # noqa: E402

PAUSES_S = (0.1, 0.3, 0.5)
LEASE_MS = 5000  # nobody is held still here: a machine that is too busy should not look as if somebody were


def killing(kills):
    async def hurt(hand, load):
        while sum(hand.done.values()) < kills:
            await hand.once(PAUSES_S)
    return hurt


def cause(run, job, call, following):
    """Why this call was made again."""
    fault = run.laid_to(call, following["at"])
    if not fault:
        return "made for a submit that was then withdrawn as outcome_unknown" if run.withdrawn(job, call) else "nothing"
    if fault["t"] <= call["closed"]:
        return "running in a worker child that was killed"
    return "answered to a worker child that was killed before its outcome was stored"


class Tally:
    """What the rounds add up to."""

    def __init__(self):
        self.kills, self.again = Counter(), Counter()
        self.accepted = self.lost = self.second = self.calls = self.running = self.wrong = 0
        self.completed = 0.0

    def add(self, lines, wrong):
        jobs, run = jobs_of(lines), Run(lines)
        share, accepted = completed_share(lines)
        self.accepted += accepted
        self.completed += share * accepted
        self.lost += sum(w.rule == "I1" and w.sentence.startswith("lost") for w in wrong)
        self.second += sum("second outcome" in w.sentence or "went back" in w.sentence for w in wrong)
        self.wrong += len(wrong)
        for fault in run.faults:
            self.kills[fault["role"] + (" child" if fault["child"] else "")] += 1
        calls = [line for line in lines if line["op"] == "call"]
        self.calls += len(calls)
        self.running += sum(any(c["port"] in f["ports"] and c["at"] <= f["t"] <= c["closed"] for f in run.workers) for c in calls)
        for job in jobs.values():
            made = job.of("call")
            for call, following in zip(made, made[1:]):
                if call["fault"] == "none":
                    self.again[cause(run, job, call, following)] += 1

    def __str__(self):
        kills = ", ".join(f"{n} × {who}" for who, n in self.kills.most_common())
        again = "".join(f"\n  {n} × {why}" for why, n in self.again.most_common())
        return (f"{sum(self.kills.values())} kills: {kills}\n"
                f"{self.accepted} accepted jobs: {self.lost} lost, {self.second} second outcomes, "
                f"{100 * self.completed / max(1, self.accepted):.2f} % completed\n"
                f"{self.calls} provider calls, {self.running} of them running in worker children when those were killed; "
                f"made again, by cause:{again or ' none'}")


async def run(a):
    tally, number, bad = Tally(), 0, []
    async with World(children=3, wires=(), lease_ms=LEASE_MS) as world:
        while sum(tally.kills.values()) < a.kills and not bad:
            number += 1
            seed, began = f"{a.seed}.{number}", time.monotonic()
            wanted = min(a.per_round, a.kills - sum(tally.kills.values()))
            history, hand, load, _ = await world.round(seed, killing(wanted), a.callers, {"kill": 1})
            wrong = check(history.lines)
            bad = wrong or [line for line in history.lines if line["op"] == "odd"]
            tally.add(history.lines, wrong)
            took = time.monotonic() - began
            print(f"round {seed}: {took:.0f} s, up to {load.peak} jobs under way, {len(wrong)} wrong; so far\n{tally}", flush=True)
            if bad:
                print(f"history and logs: {world.keep(history, f'kills-{seed}')}\n{report(history.lines, wrong)}")
        sentences = await asyncio.to_thread(broken_peace, world.q)
    print("\n".join(sentences))
    if bad or sentences:
        print(f"again: make chaos-kills KILLS={a.kills} SEED={a.seed}")
    return bool(bad or sentences)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--kills", type=int, default=1000)
    args.add_argument("--seed", type=int, default=int(time.time()))
    args.add_argument("--callers", type=int, default=1200)
    args.add_argument("--per-round", type=int, default=100)
    sys.exit(run_to_end(run(args.parse_args())))


if __name__ == "__main__":
    main()
