"""framing.py [--cases N] [--seed S] [--case K]: the same bytes to Quern's api, nginx and HAProxy, which must not read different requests in
them (README.md). Exit 1 with the case where they do."""

import argparse
import asyncio
import collections
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import cases  # noqa: E402
import reading  # noqa: E402
from servers import Servers, recorder  # noqa: E402

AT_ONCE = 48

# What a server may refuse as a matter of taste, since it moves no boundary: where both do, Quern need not.
TASTE = {"CONNECT", "TRACE", "post", "blanks around the length", "blanks around chunked", "absolute form, another host"}


def is_lax(case, verdicts):
    return set(verdicts.values()) == {"laxer"} and not TASTE & set(case.oddities)


class Tally:
    def __init__(self):
        self.verdicts = {"nginx": collections.Counter(), "haproxy": collections.Counter()}
        self.laxer = {"nginx": collections.Counter(), "haproxy": collections.Counter()}
        self.failures = []

    def add(self, case, readings):
        verdicts = {other: reading.compare(readings["quern"], readings[other]) for other in self.verdicts}
        if is_lax(case, verdicts):
            self.failures.append((case, "both", "refuse what Quern takes", readings))
        for other, verdict in verdicts.items():
            word = verdict if verdict in ("same", "stricter", "laxer") else "different"
            self.verdicts[other][word] += 1
            if word == "laxer":
                self.laxer[other].update(case.oddities)
            if word == "different":
                self.failures.append((case, other, verdict, readings))


async def read_all(servers, case):
    names = list(servers.ports)
    found = await asyncio.gather(*(reading.read(n, servers.ports[n], case) for n in names))
    return dict(zip(names, found))


async def run(servers, todo, tally):
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(case):
        async with gate:
            readings = await read_all(servers, case)
        return case, readings
    again = []
    for case, readings in await asyncio.gather(*(one(c) for c in todo)):
        once = Tally()
        once.add(case, readings)
        if once.failures:
            again.append(case)
        else:
            tally.add(case, readings)
    for case in again:  # alone: a busy machine's silence is not a server's
        tally.add(case, await read_all(servers, case))


def show(case, readings, args):
    print(f"\ncase {case.number} ({', '.join(case.oddities) or 'nothing odd'})\n  {case.data!r}")
    for name, r in readings.items():
        print(f"  {name:8} {r}")
    print(f"  again: make framing SEED={args.seed} CASE={case.number}")


async def main(args):
    servers, tally, began = Servers(), Tally(), time.monotonic()
    try:
        listener = await asyncio.start_server(recorder, "127.0.0.1", servers.behind, limit=1 << 20)
        numbers = [args.case] if args.case is not None else range(args.cases)
        todo = [cases.case(args.seed, n) for n in numbers]
        await run(servers, todo, tally)
        if args.case is not None:
            show(todo[0], await read_all(servers, todo[0]), args)
        listener.close()
    finally:
        servers.stop()
    for case, other, verdict, readings in tally.failures:
        show(case, readings, args)
        print(f"  {other}: {verdict}")
    print(f"{len(todo)} cases from seed {args.seed} in {time.monotonic() - began:.1f} s")
    for other, counts in tally.verdicts.items():
        print(f"  {other:8} {counts['different']} read differently, {counts['same']} the same, {counts['stricter']} refused by Quern alone, "
              f"{counts['laxer']} by {other} alone")
    if args.laxer:
        for other, counts in tally.laxer.items():
            print(f"  {other} alone refuses: " + ", ".join(f"{name} {n}" for name, n in counts.most_common(25)))
    return 1 if tally.failures else 0


parser = argparse.ArgumentParser()
parser.add_argument("--cases", type=int, default=3000)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--case", type=int)
parser.add_argument("--laxer", action="store_true", help="which oddities the others refuse and Quern takes")
sys.exit(asyncio.run(main(parser.parse_args())))
