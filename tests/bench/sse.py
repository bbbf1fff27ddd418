#!/usr/bin/python3
"""make bench-sse: what it costs to have many readers of event streams.

Idle: memory of the roles without readers, with all readers at one job, and with each at a job of its own. Fan-out: one job whose answer
comes token by token; for every token and reader the time from the provider's sending to the reader's receiving, and the CPU that a
delivery costs. Readers (bench-sse), provider and Redis share the machine with Quern."""

import argparse
import datetime
import json
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time

from bench import cpu_ns, memory_kb
from quern import BUILD, Quern, until

ROLES = ("api", "broker", "worker")


class Readers:
    """bench-sse with its streams open."""

    def __init__(self, q, job_ids, count):
        self.paths = tempfile.NamedTemporaryFile("w", suffix=".paths")
        self.paths.write("".join(f"/v1/jobs/{i}/events\n" for i in job_ids))
        self.paths.flush()
        self.process = subprocess.Popen([str(BUILD / "bench-sse"), "--port", str(q.port), "--paths", self.paths.name, "--readers",
                                         str(count)], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("ready "):
            raise SystemExit("the readers did not begin")
        self.connect_ms = float(line.split()[1])

    def result(self):
        out = self.process.stdout.read()
        if self.process.wait(60):
            raise SystemExit("the readers failed")
        return json.loads(out)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def pids(q):
    return {role: [q.pid(role), *q.children(role)] for role in ROLES}


def memory(q):
    by_role = {}
    for role, of_role in pids(q).items():
        by_role[role] = {field.lower(): memory_kb(of_role, field) / 1024 for field in ("Pss", "Rss", "Private_Dirty")}
    by_role["all"] = {field: sum(by_role[r][field] for r in ROLES) for field in ("pss", "rss", "private_dirty")}
    return by_role


def held_jobs(q, count):
    """Jobs that are stored and wait."""
    return [q.submit({"prompt": f"idle {i}", "delay_ms": 3600000})["id"] for i in range(count)]


def sockets_gone(q):
    """No stream is open any more."""
    until(lambda: q.counter("watchers") == 0, "nobody reads", 60)


def idle(q, count):
    rows = {"without readers": memory(q)}
    one = held_jobs(q, 1)
    for name, ids in (("at one job", one), ("each at its own job", None)):
        if ids is None:
            ids = held_jobs(q, count)
            rows["without readers, with the jobs"] = memory(q)
        readers = Readers(q, ids, count)
        before = {role: cpu_ns(p) for role, p in pids(q).items()}
        began = time.monotonic()
        time.sleep(16)  # one heartbeat of every stream is part of being idle
        spent = {role: (cpu_ns(p) - before[role]) / 1e7 / (time.monotonic() - began) for role, p in pids(q).items()}
        rows[name] = memory(q)
        rows[name]["cpu_percent"] = spent
        rows[name]["connect_ms"] = readers.connect_ms
        readers.stop()
        sockets_gone(q)
    return rows


def fan_out(q, count, tokens, per_second):
    """Each token is sent by the provider at a known instant: the first byte's, and then one every 1/per_second s."""
    q.ctl("pause", "--queue", "fan")
    job = q.submit({"prompt": f"fan out [[latency_ms=500 tokens={tokens} tokens_per_s={per_second}]]", "stream": True, "queue": "fan"})
    readers = Readers(q, [job["id"]], count)
    before = {role: cpu_ns(p) for role, p in pids(q).items()}
    q.ctl("resume", "--queue", "fan")
    result = readers.result()
    spent = {role: cpu_ns(p) - before[role] for role, p in pids(q).items()}
    call = q.upstream.calls_with("fan out")[-1]
    assert [t[0] for t in result["tokens"]] == [count] * tokens and result["done"][0] == count, "an event did not reach everybody"
    sent = [call["first_byte_ms"] + k * 1000 / per_second for k in range(tokens)]
    deliveries = count * (tokens + 2)  # status and done too
    return {
        "p50_ms": statistics.median(t[2] - s for t, s in zip(result["tokens"], sent)),
        "p99_ms": statistics.median(t[3] - s for t, s in zip(result["tokens"], sent)),
        "max_ms": max(t[4] - s for t, s in zip(result["tokens"], sent)),
        "us_per_delivery": {role: ns / 1000 / deliveries for role, ns in spent.items()},
        "deliveries": deliveries, "tokens": tokens, "connect_ms": readers.connect_ms,
    }


def show_memory(name, row):
    parts = ", ".join(f"{role} {row[role]['pss']:.1f}" for role in ROLES)
    print(f"  {name:32} {row['all']['pss']:6.1f} MB PSS, {row['all']['rss']:6.1f} RSS ({parts})")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--readers", type=int, default=10000)
    args.add_argument("--tokens", type=int, default=20)
    args.add_argument("--per-second", type=int, default=2)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--out")
    a = args.parse_args()
    settings = {"api": {"connections": a.readers + 64}}
    with Quern(settings, workers=1) as q:
        rows = idle(q, a.readers)
        print(f"{a.readers} idle readers:")
        for name, row in rows.items():
            show_memory(name, row)
        for name in ("at one job", "each at its own job"):
            more = rows[name]["all"]["pss"] - rows["without readers"]["all"]["pss"]
            cpu = sum(rows[name]["cpu_percent"].values())
            print(f"  {name}: {more:.1f} MB more than without, {cpu:.1f} % of a CPU with a heartbeat every 15 s [best rival: 166 MB]")
    with Quern(settings, workers=1) as q:
        fans = [fan_out(q, a.readers, a.tokens, a.per_second) for _ in range(a.rounds)]
    print(f"an event to {a.readers} readers of one job, {a.rounds} rounds of {a.tokens}:")
    for f in fans:
        us = f["us_per_delivery"]
        print(f"  p50 {f['p50_ms']:.0f}, p99 {f['p99_ms']:.0f}, slowest {f['max_ms']:.0f} ms; {sum(us.values()):.1f} us CPU per delivery "
              f"(api {us['api']:.1f}, broker {us['broker']:.2f}, worker {us['worker']:.2f}) [best rival: 116, 539; 20]")
    if a.out:
        pathlib.Path(a.out).write_text(json.dumps({"date": datetime.date.today().isoformat(), "cpus": os.cpu_count(), "readers": a.readers,
                                                   "idle": rows, "fan_out": fans}, indent=1) + "\n")


if __name__ == "__main__":
    main()
