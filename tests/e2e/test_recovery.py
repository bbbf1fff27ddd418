"""10^5 queued jobs and a broker killed: all survive, the first dispatch comes within a second of the restart, in order."""

import time

import pytest

from queued import fill
from quern import Quern, until

JOBS = 100_000


def heads(q):
    return [c["prompt_head"] for c in q.upstream.calls() if c["prompt_head"].startswith("queued")]


def in_order(seen):
    """With one slot the provider sees each connection's jobs in the order in which they were accepted."""
    last = {}
    for head in seen:
        lane, n = map(int, head.split()[1].split("-"))
        if n <= last.get(lane, -1):
            return False
        last[lane] = n
    return True


@pytest.mark.heavy
def test_a_hundred_thousand_queued_jobs_survive_the_broker():
    with Quern({"worker": {"slots": 1}}, workers=1) as q:
        q.upstream.script(latency_ms=150)  # slow enough to leave nearly all of them queued
        ids = fill(q.port, JOBS)
        assert len(set(ids)) == JOBS
        before = q.stats()["waiting"]
        assert before > JOBS * 0.9
        old = q.kill("broker")
        began, calls = time.monotonic(), q.upstream.stats()["arrived"]
        q.restarted("broker", old)
        until(lambda: q.upstream.stats()["arrived"] > calls + 1, "a new call", 10, every=0.005)
        took = time.monotonic() - began
        print(f"two more calls {1000 * took:.0f} ms after kill -9, one of them running at 150 ms each")
        assert took < 1.0 + 2 * 0.150 + 0.5
        assert q.stats()["waiting"] >= before - 40, "jobs are missing"
        q.upstream.script()
        until(lambda: len(heads(q)) >= 1500, "1 500 calls", 60, every=0.1)
        seen = heads(q)
        assert in_order(seen), "out of order"
        assert len(seen) == len(set(seen)), "a call was made twice"
