"""fsync that is slow or fails: what was promised as `stored` and `synced` is kept when processes die meanwhile (P1)."""

import contextlib
import http.client
import os
import signal
import threading
import time

import pytest

import disks
from quern import Http, alive, until

pytestmark = pytest.mark.long
FAST = {"broker": {"lease_ms": 1500}}
SLOW = "delay_enter=1500000"


def under_strace(how):
    return f"strace -D -f --seccomp-bpf -qq -o /dev/null -e trace=fsync,fdatasync -e inject=fsync,fdatasync:{how}"


class Submitter:
    """Submits all the time; knows what was acknowledged."""

    def __init__(self, q, ack):
        self.q, self.ack, self.accepted, self.refused, self.stop = q, ack, [], [], threading.Event()
        self.thread = threading.Thread(target=self.go, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.thread.join(30)

    def go(self):
        client = Http(self.q.port, timeout=20)
        while not self.stop.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                reply = client.request("POST", "/v1/jobs", {"prompt": f"job {len(self.accepted)}", "delay_ms": 100})
                if reply.status == 202 and reply.json["ack"] == self.ack:
                    self.accepted.append(reply.json["id"])
                else:
                    self.refused.append(reply)
            time.sleep(0.002)

    def more(self, count):
        n = len(self.accepted) + count
        until(lambda: len(self.accepted) >= n, f"{count} more are acknowledged", 40)


def unwritten(q):
    return "aof_buffer_length:0\r" not in q.redis("INFO", "persistence") + "\r"


def all_there(q, jobs):
    q.ready()
    for job in jobs:
        assert q.ended(job)["status"] == "completed"


@pytest.mark.parametrize("order", [("broker", "redis"), ("redis", "broker")], ids="-then-".join)
def test_stored_jobs_outlive_two_deaths_while_fsync_is_slow(order):
    """Under `everysec` Redis may not even write(2) while an fsync takes long: the one that lives has what the other had not written."""
    with disks.Quern(wrap=under_strace(SLOW), settings=FAST, workers=1) as q:
        with Submitter(q, "stored") as s:
            s.more(50)
            until(lambda: unwritten(q), "Redis holds writes back", 20, every=0.002)
            s.more(5)
            first, second = order
            q.restarted(first, q.kill(first))
            if first == "broker":  # the new one serves when all that the old one had acknowledged is written
                q.ready()
            else:  # what it lost is in the ring
                until(lambda: q.number("store_older") and not q.number("store_stalled"), "it is healed", 30)
            q.restarted(second, q.kill(second))
            s.more(5)
        all_there(q, s.accepted)


def test_synced_jobs_outlive_the_death_of_everything_while_fsync_is_slow():
    with disks.Quern(redis="--appendfsync always", wrap=under_strace("delay_enter=200000"), settings=FAST, workers=1) as q:
        with Submitter(q, "synced") as s:
            s.more(10)
            pids = [q.pid("broker"), q.pid("redis")]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            until(lambda: not any(map(alive, pids)), "both are dead")
            s.more(2)
        all_there(q, s.accepted)


@pytest.mark.parametrize("fsync, ack", [("everysec", "stored"), ("always", "synced")])
def test_an_fsync_that_fails_once_acknowledges_nothing(fsync, ack):
    """`always`: Redis ends itself before it answers. `everysec`: it refuses writes until the next fsync; commits are sent again."""
    with disks.Quern(redis=f"--appendfsync {fsync}", wrap=under_strace("error=EIO:when=4"), settings=FAST, workers=1) as q:
        with Submitter(q, ack) as s:
            word = "Can't persist AOF" if fsync == "always" else "MISCONF"
            until(lambda: word in q.logs("redis") + q.logs("broker") or "Fail to fsync" in q.logs("redis"), "it has failed", 20)
            q.redis_with(f"--appendfsync {fsync}")  # should Redis start again, its disk is well
            s.more(20)
        all_there(q, s.accepted)
