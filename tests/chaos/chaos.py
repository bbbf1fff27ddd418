#!/usr/bin/python3
"""make chaos: a thousand jobs under way while every role is killed, held, ended, reloaded and cut off by a seeded hand; then peace, and
the history is judged (checker.py).

    chaos.py [--seconds 60] [--seed N] [--callers 1200] [--keep]

The seed fixes the schedule of the hand and what is asked for; the machine's timing is its own, so a replay finds a fault again that is
no accident of a millisecond. What failed is kept as build/chaos/chaos-SEED.jsonl, the logs beside it; checker.py reads it."""

import argparse
import asyncio
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib")]

from checker import check, report  # noqa: E402
from history import jobs_of  # noqa: E402
from peace import broken_peace  # noqa: E402
from world import World, run_to_end  # noqa: E402

COMPLETED_SHARE = 0.9
IN_FLIGHT = 1000


def completed_share(lines):
    """Of the accepted jobs, those that were completed, whether or not they are still kept."""
    accepted = [job for job in jobs_of(lines).values() if job.ids]
    done = sum(any(line["status"] == "completed" for line in (*job.of("final"), *job.of("read"))) for job in accepted)
    return done / max(1, len(accepted)), len(accepted)


def harms(hand):
    return ", ".join(f"{n} × {what} {role}{' child' if child else ''}" for (what, role, child), n in sorted(hand.done.items()))


def hurting(seconds):
    async def hurt(hand, load):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await hand.once()
    return hurt


async def run(a):
    async with World() as world:
        began = time.monotonic()
        history, hand, load, reader = await world.round(a.seed, hurting(a.seconds), a.callers)
        took = time.monotonic() - began
        wrong, share, accepted = check(history.lines), *completed_share(history.lines)
        calls = sum(line["op"] == "call" for line in history.lines)
        refused = sum(line["op"] in ("refused", "unknown") for line in history.lines)
        print(f"seed {a.seed}: {accepted} jobs accepted in {took:.1f} s, up to {load.peak} under way, {100 * share:.1f} % completed, {calls} calls, "
              f"{refused} submits to be asked again, streams: {reader.whole} heard whole over {reader.breaks} breaks\n  {harms(hand)}")
        sentences = await asyncio.to_thread(broken_peace, world.q)
        if load.peak < min(IN_FLIGHT, a.callers):
            sentences.append(f"only {load.peak} jobs were under way at once")
        if share < COMPLETED_SHARE:
            sentences.append(f"only {100 * share:.1f} % of the accepted jobs were completed")
        sentences += [line["sentence"] for line in history.lines if line["op"] == "odd" and line["job"] is None]
        if wrong or sentences or a.keep:
            print(f"history and logs: {world.keep(history, f'chaos-{a.seed}')}")
        if wrong:
            print(report(history.lines, wrong))
        for sentence in sentences:
            print("  " + sentence)
        if wrong or sentences:
            print(f"again: make chaos SECONDS={a.seconds:g} SEED={a.seed}")
        return bool(wrong or sentences)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--seconds", type=float, default=60)
    args.add_argument("--seed", type=int, default=int(time.time()))
    args.add_argument("--callers", type=int, default=1200)
    args.add_argument("--keep", action="store_true", help="keep the history of a good run too")
    sys.exit(run_to_end(run(args.parse_args())))


if __name__ == "__main__":
    main()
