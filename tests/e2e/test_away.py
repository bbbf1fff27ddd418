"""The broker, Redis or every worker away: a true 503 in bounded time, never a false 202, and everything well again afterwards."""

import concurrent.futures
import time

import pytest

from quern import Quern, until

SETTINGS = {"api": {"submit_ms": 1500}, "broker": {"stall_ms": 1000}}


def refused(reply, *codes):
    assert reply.status == 503, reply
    assert reply.error["code"] in codes, reply
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    return reply


def test_the_broker_stopped():
    with Quern(SETTINGS) as q:
        done = q.submit("before", wait="20s")
        with q.stopped("broker"):
            began = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                replies = list(pool.map(lambda i: q.request("POST", "/v1/jobs", {"prompt": f"lost {i}"}), range(8)))
            assert time.monotonic() - began < 8
            for reply in replies:
                refused(reply, "broker_unavailable", "outcome_unknown", "store_unavailable")
            assert q.get(done["id"]).json["status"] == "completed"  # ended jobs are read without the broker
            assert q.request("GET", "/livez").status == 200
            until(lambda: q.request("GET", "/readyz").status == 503, "not ready any more", 30)
            assert q.request("GET", "/health").json["status"] != "healthy"
        until(lambda: q.request("POST", "/v1/jobs?wait=20s", {"prompt": "after"}).status == 200, "well again")
        # of one whose outcome is unknown the withdrawal may come after its call; the others did nothing
        certain = [i for i, reply in enumerate(replies) if reply.error["code"] != "outcome_unknown"]
        assert not [i for i in certain if q.upstream.calls_with(f"lost {i}")], "a refused submit was called"
        until(lambda: q.stats()["waiting"] == 0 and q.stats()["active"] == 0, "nothing of them is left")


def test_redis_stopped():
    with Quern(SETTINGS) as q:
        running = q.submit("running [[latency_ms=1500]]")
        until(lambda: q.upstream.stats()["in_flight"] == 1, "a call runs")
        with q.stopped("redis"):
            began = time.monotonic()
            reply = q.request("POST", "/v1/jobs", {"prompt": "not stored"})
            refused(reply, "store_unavailable", "outcome_unknown")
            assert time.monotonic() - began < 6
            assert not q.upstream.calls_with("not stored")
            until(lambda: q.request("GET", "/readyz").status == 503, "not ready any more", 30)
            began = time.monotonic()
            refused(q.request("POST", "/v1/jobs", {"prompt": "not stored either"}), "store_unavailable", "outcome_unknown")
            assert time.monotonic() - began < 2
            refused(q.get(running["id"]), "store_unavailable", "broker_unavailable")
            refused(q.cancel(running["id"]), "store_unavailable", "broker_unavailable")
        done = q.ended(running["id"])
        assert done["status"] == "completed" and len(q.upstream.calls_with("running")) == 1
        until(lambda: q.request("POST", "/v1/jobs?wait=20s", {"prompt": "after"}).status == 200, "well again")
        assert not q.upstream.calls_with("not stored")


def test_no_worker():
    with Quern({"broker": {"lease_ms": 2000}}) as q:
        with q.stopped("run"):  # the supervisor does not restart what is killed meanwhile
            pids = q.children("worker")
            q.kill("worker")
            job = q.submit("unserved")
            seen = until(lambda: (j := q.job(job["id"]))["reason"] == "unserved" and j, "nobody serves it", 10)
            assert seen["status"] == "pending" and pids
            until(lambda: q.request("GET", "/readyz").status == 503, "not ready without workers", 30)
        assert q.ended(job["id"])["status"] == "completed"


@pytest.mark.parametrize("role", ["broker", "redis"])
def test_killed_and_back_within_seconds(role):
    with Quern() as q:
        ids = [q.submit(f"kept {i} [[latency_ms=200]]")["id"] for i in range(30)]
        if role == "redis":
            until(lambda: all(q.job(i)["status"] == "completed" for i in ids[:5]), "some have ended")
        q.restarted(role, q.kill(role))
        for job_id in ids:
            assert q.ended(job_id)["status"] == "completed"
        assert len(q.upstream.calls_with("kept")) == 30
