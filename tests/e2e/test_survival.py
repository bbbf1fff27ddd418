"""What one death costs, role by role (P1, P3). Many deaths under load: tests/chaos."""

import os
import signal
import time

from quern import Quern, until


def test_a_worker_child_killed_gives_its_jobs_back_uncharged():
    with Quern(workers=1) as q:
        job = q.submit("returned [[latency_ms=1500]]")
        until(lambda: q.upstream.stats()["in_flight"] == 1, "called")
        for pid in q.children("worker"):
            os.kill(pid, signal.SIGKILL)
        done = q.ended(job["id"])
        assert done["status"] == "completed"
        assert len(q.upstream.calls_with("returned")) == 2


def test_a_broker_killed_does_not_repeat_running_calls():
    with Quern() as q:
        ids = [q.submit(f"adopted {i} [[latency_ms=3000]]")["id"] for i in range(20)]
        until(lambda: q.upstream.stats()["in_flight"] == 20, "all run")
        q.restarted("broker", q.kill("broker"))
        for job_id in ids:
            done = q.ended(job_id)
            assert done["status"] == "completed" and done["attempt"] == 1, done
        assert len(q.upstream.calls_with("adopted")) == 20


def test_a_broker_held_still_for_longer_than_a_lease_repeats_no_call():
    with Quern({"broker": {"lease_ms": 1000}}) as q:
        ids = [q.submit(f"held {i} [[latency_ms=6000]]")["id"] for i in range(20)]
        until(lambda: q.upstream.stats()["in_flight"] == 20, "all run")
        with q.stopped("broker"):
            time.sleep(2.5)  # the fault itself
        for job_id in ids:
            done = q.ended(job_id)
            assert done["status"] == "completed" and done["attempt"] == 1, done
        assert len(q.upstream.calls_with("held")) == 20


def test_term_drains_and_loses_nothing():
    with Quern() as q:
        ids = [q.submit(f"drained {i} [[latency_ms=400]]")["id"] for i in range(50)]
        q.run.terminate()
        assert q.run.wait(30) == 0
        q.start()
        for job_id in ids:
            assert q.ended(job_id)["status"] == "completed"
        assert len(q.upstream.calls_with("drained")) == 50
