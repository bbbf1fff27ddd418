"""No room for Redis, on its disk or in its memory: nothing more is acknowledged, nothing is lost, and it goes on by itself once there is
room (P1, P6)."""

import contextlib
import http.client
import os
import signal
import time

import pytest

import disks
from quern import alive, until

FAST = {"broker": {"lease_ms": 1500, "stall_ms": 500}, "api": {"submit_ms": 1500}}


@contextlib.contextmanager
def quern_on(mebibytes, **more):
    with disks.image(mebibytes) as image, disks.Quern(image, settings=FAST, workers=1, **more) as q:
        yield q


def submit(q, prompt, **more):
    """The reply, or None when the connection broke."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return q.request("POST", "/v1/jobs", {"prompt": prompt, **more})


def accepted_until_refused(q, name, size, seconds=30, **more):
    """Jobs of `size` bytes until one is refused; ids of the others by prompt, and the refusal."""
    jobs, deadline = {}, time.monotonic() + seconds
    while time.monotonic() < deadline:
        prompt = f"{name} {len(jobs)} " + "x" * size
        reply = submit(q, prompt, **more)
        if reply is not None and reply.status == 202:
            jobs[reply.json["id"]] = prompt
        elif reply is not None:
            return jobs, reply
    raise AssertionError(f"{len(jobs)} jobs, and none was refused")


def leave_room(directory, kibibytes):
    """A file that takes all but so much of the disk."""
    path = os.path.join(directory, "ballast")
    room = os.statvfs(directory)
    with open(path, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, room.f_bavail * room.f_frsize - (kibibytes << 10))
    return path


def all_there(q, jobs):
    for job, prompt in jobs.items():
        assert q.ended(job)["result"]["content"] == "echo: " + prompt


@pytest.mark.parametrize("fsync", ["everysec", pytest.param("always", marks=pytest.mark.long)])
def test_a_full_disk_stops_submits_and_nothing_else(fsync):
    # everysec may hold megabytes of accepted jobs back before it finds the disk full: afterwards there must be room for those
    with quern_on(128, redis=f"--appendfsync {fsync}") as q:
        done = q.submit("before", wait="10s")["id"]
        ballast = leave_room(q.data, 512)
        jobs, refusal = accepted_until_refused(q, fsync, 20000, delay_ms=500)
        assert refusal.status == 503 and refusal.error["code"] in ("store_unavailable", "outcome_unknown"), refusal
        assert int(refusal.headers["retry-after"]) >= 1
        assert len(jobs) > 3 and "Short write while writing to the AOF" in q.logs("redis")
        until(lambda: (r := submit(q, "at once")) and r.status == 503 and r.error["code"] == "store_unavailable", "it knows", 10)
        began = time.monotonic()
        assert submit(q, "at once").status == 503 and time.monotonic() - began < 1
        if fsync == "everysec":  # with `always` Redis ends itself: there is nothing to read from
            assert q.get(done).status == 200
        os.unlink(ballast)
        began = time.monotonic()
        until(lambda: (r := submit(q, "after")) and r.status == 202, "there is room again", 30, every=0.05)
        print(f"\n{fsync}: submits are taken again {time.monotonic() - began:.1f} s after there is room")
        all_there(q, jobs)
        q.halt()  # from what is on the disk alone
        q.start()
        all_there(q, jobs)
        assert q.job(done)["status"] == "completed"


@pytest.mark.long
def test_full_memory_stops_submits_while_outcomes_are_stored():
    with disks.Quern(settings={"broker": {"jobs_max": 100000}}, redis="--maxmemory 12mb", workers=1) as q:
        until(lambda: q.number("redis_bytes_max"), "the bound is known")
        running = [q.submit({"prompt": f"running {n} [[latency_ms=3000]]"})["id"] for n in range(20)]
        until(lambda: q.upstream.stats()["in_flight"] == 20, "all run")
        jobs, refusal = accepted_until_refused(q, "filler", 30000, delay_ms=2000, result_ttl_s=1)
        assert refusal.status == 503 and refusal.error["code"] == "overloaded", refusal
        used, most = (int(q.redis("INFO", "memory").split(f"\n{name}:")[1].split()[0]) for name in ("used_memory", "maxmemory"))
        assert 0.7 * most < used < 0.95 * most
        for job in running:
            assert q.ended(job)["status"] == "completed"
        for job in jobs:  # they end too, which makes room: they are kept for a second
            until(lambda j=job: (r := q.get(j)).status == 410 or r.json["status"] == "completed", f"{job} has ended", 30)
        began = time.monotonic()
        until(lambda: submit(q, "after").status == 202, "there is room again", 30, every=0.05)
        print(f"\nmaxmemory: {len(jobs)} jobs taken, refused at {used / most:.0%}; taken again {time.monotonic() - began:.1f} s after "
              "the last end")


@pytest.mark.long
def test_an_end_that_redis_could_not_write_outlives_redis():
    """Redis answers before it finds the disk full, and keeps what it could not write in memory: the ring keeps it as well."""
    with quern_on(64) as q:
        job = q.submit({"prompt": "large [[tokens=50000]]", "delay_ms": 300})["id"]  # 200 KB
        ballast = leave_room(q.data, 64)
        done = q.ended(job)
        assert done["status"] == "completed"
        until(lambda: "Short write" in q.logs("redis"), "Redis finds no room")
        time.sleep(6)  # longer than the ring keeps what is stored: RING_KEEP_MAX_MS
        redis = q.pid("redis")
        os.kill(q.run.pid, signal.SIGSTOP)  # or it would start Redis before there is room
        os.kill(redis, signal.SIGKILL)
        until(lambda: not alive(redis), "Redis is dead")
        os.unlink(ballast)
        os.kill(q.run.pid, signal.SIGCONT)
        again = q.ended(job)
        assert again["status"] == "completed" and again["result"] == done["result"]
