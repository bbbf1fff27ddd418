"""Cancel in every state (P8): the caller's reply is the truth, and a running upstream call is closed within 100 ms."""

import json
import socket
import threading
import time

import pytest

from quern import Quern, until


def cancelled(system, job_id):
    reply = system.cancel(job_id)
    assert reply.status == 200, reply
    done = system.job(job_id)
    assert done["status"] == "cancelled" and done.get("result") is None
    again = system.cancel(job_id)
    assert again.status == 409 and again.error["code"] == "already_ended"
    return done


def test_scheduled(system):
    job = system.submit({"prompt": "cancel scheduled", "delay_ms": 60000})
    cancelled(system, job["id"])
    assert not system.upstream.calls_with("cancel scheduled")


@pytest.mark.parametrize("text, stream", [("hang", False), ("stall", True)])
def test_running(system, text, stream):
    job = system.submit({"prompt": f"cancel running {text} [[fault={text} after_tokens=2]] more words", "stream": stream})
    until(lambda: system.upstream.stats()["in_flight"] > 0, "the call is made")
    began = time.monotonic() * 1000
    cancelled(system, job["id"])
    call = until(lambda: (c := system.upstream.calls_with(f"cancel running {text}")) and c[0], "the upstream saw it close")
    assert call["ended"] == "client_closed" and call["closed_ms"] - began <= 100 + 50, (call, began)
    until(lambda: system.stats()["active"] == 0, "the slot is free")


def test_between_two_attempts(system):
    job = system.submit({"prompt": "cancel retrying [[fault=status_503]]", "backoff": {"base_ms": 60000, "cap_ms": 60000, "jitter": False}})
    until(lambda: system.job(job["id"])["status"] == "retrying", "retrying")
    done = cancelled(system, job["id"])
    assert done["attempt"] == 1 and len(system.upstream.calls_with("cancel retrying")) == 1


def test_waiting_for_a_slot():
    with Quern({"worker": {"slots": 1}}, workers=1) as q:
        first = q.submit("holds the slot [[latency_ms=1000]]")
        until(lambda: q.job(first["id"])["status"] == "processing", "the slot is taken")
        job = q.submit("cancel ready")
        assert q.job(job["id"])["reason"] == "ready"
        cancelled(q, job["id"])
        last = q.submit("after it")
        assert q.ended(last["id"])["status"] == "completed" and not q.upstream.calls_with("cancel ready")


def test_ended(system):
    job = system.submit("cancel too late", wait="20s")
    reply = system.cancel(job["id"])
    assert reply.status == 409 and reply.error["code"] == "already_ended"
    assert system.job(job["id"])["status"] == "completed"


def test_a_waiting_caller_is_told(system):
    job = system.submit("cancel watched [[fault=hang]]")
    until(lambda: system.job(job["id"])["status"] == "processing", "processing")
    got = []
    waiter = threading.Thread(target=lambda: got.append(system.get(job["id"], wait="20s")))
    waiter.start()
    assert system.request("POST", f"/v1/jobs/{job['id']}/cancel").status == 200
    waiter.join(10)
    assert got and got[0].json["status"] == "cancelled"


def test_unknown(system):
    assert system.cancel("job_" + "0" * 26).status == 404


def test_leaving_cancels_when_asked(system):
    body = json.dumps({"prompt": "cancel on leave [[fault=hang]]", "on_disconnect": "cancel"}).encode()
    with socket.create_connection(("127.0.0.1", system.port), timeout=10) as s:
        s.sendall(b"POST /v1/jobs?wait=30s HTTP/1.1\r\nHost: q\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: system.upstream.stats()["in_flight"] > 0, "the call is made")
    call = until(lambda: (c := system.upstream.calls_with("cancel on leave")) and c[0], "the call is closed")
    assert call["ended"] == "client_closed"
