"""GET /v1/jobs/{id}/events: what a reader sees of a job's life, in order, shaped as api/README.md says."""

import json
import socket
import subprocess

import pytest

from quern import Quern, until
from sse import Sse, follow


@pytest.fixture(scope="module")
def q():
    with Quern() as quern:
        yield quern


def streaming(q, prompt, **fields):
    return q.submit({"prompt": prompt, "stream": True, **fields})["id"]


def test_a_job_from_its_first_state_to_its_end(q):
    job = q.submit({"prompt": "hello [[latency_ms=200 tokens=12 tokens_per_s=100]]", "stream": True, "delay_ms": 1000})
    with Sse(q.port, job["urls"]["events"]) as events:
        assert events.status == 200 and events.headers["content-type"] == "text/event-stream"
        assert events.headers["cache-control"] == "no-store" and events.headers["x-accel-buffering"] == "no"
        seen = events.all()
        assert events.ended == "end"
    assert [e.json["status"] for e in seen if e.name == "status"] == ["pending", "processing"]
    assert seen[0].json == {"id": job["id"], "status": "pending", "reason": "scheduled", "progress": 0, "attempt": 0}
    assert seen[0].id == "0-0"
    started = next(e for e in seen if e.json.get("status") == "processing")
    assert started.json == {"id": job["id"], "status": "processing", "reason": None, "progress": 10, "attempt": 1}
    assert started.id == "1-0"
    tokens = [e for e in seen if e.name == "token"]
    assert [e.json["index"] for e in tokens] == list(range(len(tokens))) and len(tokens) > 3
    assert all(set(e.json) == {"text", "index"} for e in tokens)
    done = seen[-1]
    assert done.name == "done" and done.json == q.job(job["id"]) and done.json["status"] == "completed"
    assert events.text() == done.json["result"]["content"]
    assert done.id == tokens[-1].id  # nothing is behind the last token
    assert set(e.name for e in seen) <= {"status", "progress", "token", "done"}


def test_progress_grows(q):
    with follow(q, streaming(q, "slow [[tokens=60 tokens_per_s=40]]", params={"max_tokens": 60})) as events:
        shown = [e.json["progress"] for e in events.all() if e.name == "progress"]
    assert shown == sorted(set(shown)) and len(shown) >= 2 and 10 < shown[0] and shown[-1] <= 99


def test_a_job_that_is_not_streamed_has_states_and_an_end(q):
    with follow(q, q.submit("plain [[latency_ms=200]]")["id"]) as events:
        names = [e.name for e in events.all()]
    assert names[-1] == "done" and set(names) == {"status", "done"} and events.ended == "end"


def test_a_job_that_has_ended(q):
    job = q.submit({"prompt": "over", "stream": True}, wait="20s")
    with follow(q, job["id"]) as events:
        seen = events.all()
    assert [e.name for e in seen][-1] == "done" and {e.name for e in seen[:-1]} == {"token"}
    assert events.text() == job["result"]["content"] == "echo: over"
    with follow(q, job["id"], last=seen[-1].id) as events:
        assert events.all() == [seen[-1]]


def test_a_job_that_fails_or_is_cancelled(q):
    with follow(q, streaming(q, "bad [[fault=status_400]]")) as events:
        done = events.all()[-1]
    assert done.name == "done" and done.json["status"] == "failed" and done.json["error"]["class"] == "client"
    job_id = streaming(q, "long [[tokens=500 tokens_per_s=20]]")
    with follow(q, job_id) as events:
        events.until("token")
        assert q.cancel(job_id).status == 200
        done = events.all()[-1]
    assert done.name == "done" and done.json["status"] == "cancelled" and done.json["result"] is None


def test_a_job_that_is_tried_again(q):
    q.ctl("pause", "--queue", "again")  # until somebody reads
    job_id = streaming(q, "again [[fault=cut after_tokens=5 fail_first=1 tokens=10 tokens_per_s=50]]", queue="again",
                       backoff={"base_ms": 200, "cap_ms": 200})
    with follow(q, job_id) as events:
        events.until("status", status="pending")
        q.ctl("resume", "--queue", "again")
        seen = events.all()
    restarted = [e for e in seen if e.name == "attempt.restarted"]
    assert [(e.id, e.json) for e in restarted] == [("2-0", {"run": 2, "discard_from": "1-0"})]
    states = [e.json["status"] for e in seen if e.name in ("status", "done")]
    assert states == ["pending", "processing", "retrying", "pending", "processing", "completed"]
    assert events.text() == seen[-1].json["result"]["content"]


@pytest.mark.parametrize("header, query, param", [
    (None, "?after=x", "after"), (None, "?after=", "after"), (None, "?after=1", "after"), (None, "?after=1-", "after"),
    (None, "?after=-1", "after"), (None, "?after=1-2-3", "after"), (None, "?after=1--2", "after"), (None, "?after=%201-2", "after"),
    (None, "?after=4294967296-0", "after"), (None, "?after=1-18446744073709551616", "after"), ("x", "?after=1-0", "Last-Event-ID"),
])
def test_a_position_that_is_none(q, header, query, param):
    job = q.submit("position")
    headers = {"Last-Event-ID": header} if header else {}
    reply = q.request("GET", job["urls"]["events"] + query, headers=headers)
    assert reply.status == 400 and reply.error["code"] == "bad_request" and reply.error["param"] == param


def test_jobs_that_are_not_there(q):
    job = q.submit("forgotten", wait="20s")
    assert q.request("DELETE", f"/v1/jobs/{job['id']}?forget=1").status == 204
    assert q.request("GET", f"/v1/jobs/{job['id']}/events").error["code"] == "forgotten"
    for other in ("job_00000000000000000000000000", "nothing", job["id"][:-1] + ("0" if job["id"][-1] != "0" else "1")):
        reply = q.request("GET", f"/v1/jobs/{other}/events")
        assert reply.status == 404 and reply.error["code"] == "not_found", reply
    assert q.request("POST", f"/v1/jobs/{job['id']}/events").headers["allow"] == "GET, HEAD"
    reply = q.request("GET", f"/v1/jobs/{job['id']}/events?since=1")
    assert reply.status == 422 and reply.error["param"] == "since"


def test_what_is_said_of_a_job_by_head_and_in_http_1_0(q):
    job = q.submit({"prompt": "old", "stream": True}, wait="20s")
    with follow(q, job["id"], method="HEAD") as events:
        assert events.status == 200 and events.headers["content-type"] == "text/event-stream"
    with follow(q, job["id"], version="1.0") as events:
        assert "transfer-encoding" not in events.headers and events.headers["connection"] == "close"
        assert events.all()[-1].name == "done"


def test_a_connection_goes_on_after_a_stream(q):
    job = q.submit({"prompt": "kept", "stream": True, "delay_ms": 200})
    with follow(q, job["id"]) as events:
        events.sock.sendall(b"GET /livez HTTP/1.1\r\nHost: q\r\n\r\n")  # pipelined behind it
        assert events.all()[-1].name == "done" and events.ended == "end"
        assert events._until(b"\r\n").startswith(b"HTTP/1.1 200")


def test_curl_and_an_eventsource_see_standard_framing(q):
    job_id = streaming(q, "line\nbreaks \u2028 and \"quotes\" é [[tokens=20 tokens_per_s=100 latency_ms=100]]")
    out = subprocess.run(["curl", "-sN", f"http://127.0.0.1:{q.port}/v1/jobs/{job_id}/events"], capture_output=True, timeout=20)
    assert out.returncode == 0 and b"\r" not in out.stdout
    blocks = out.stdout.decode().split("\n\n")
    assert blocks[-1] == ""
    for block in blocks[:-1]:
        id_, name, data = block.split("\n")
        assert id_.startswith("id: ") and name.startswith("event: ") and data.startswith("data: ") and json.loads(data[6:])


def test_silence_is_filled():
    with Quern({"api": {"heartbeat_ms": 150}}) as q:
        with follow(q, q.submit({"prompt": "later", "delay_ms": 60000})["id"]) as events:
            events.until("status")
            for _ in range(3):
                events.comment()
            assert len(events.seen) == 1


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_job_whose_last_reader_leaves_is_cancelled_if_it_asked_for_it(q, how):
    job_id = streaming(q, f"left {how} [[tokens=500 tokens_per_s=20]]", on_disconnect="cancel")
    first, second = follow(q, job_id), follow(q, job_id)
    first.until("token")
    first.close()
    second.until("token")
    second.until("token")  # one reader is left, so it goes on
    assert q.job(job_id)["status"] == "processing"
    if how == "half":
        second.sock.shutdown(socket.SHUT_WR)
        second.all()
        assert second.ended == "end"
    else:
        (second.reset if how == "reset" else second.close)()
    assert until(lambda: q.job(job_id)["status"] == "cancelled", "it is cancelled", 2)
    call = until(lambda: (c := q.upstream.calls_with(f"left {how}")) and c[0]["ended"] == "client_closed", "the call is closed", 2)
    assert call


def test_a_reader_who_leaves_does_not_end_a_job(q):
    job_id = streaming(q, "left alone [[tokens=20 tokens_per_s=50]]")
    with follow(q, job_id) as events:
        events.until("token")
    assert q.ended(job_id)["status"] == "completed"


def test_leaving_is_noticed(q):
    job_id = q.submit({"prompt": "later", "delay_ms": 60000})["id"]
    readers = [follow(q, job_id) for _ in range(20)]
    for events in readers:
        events.until("status")
    assert 1 <= q.counter("watchers") <= 2  # one for each child, however many read
    for i, events in enumerate(readers):
        (events.reset if i % 2 else events.close)()
    until(lambda: q.counter("watchers") == 0, "the broker knows that nobody reads any more", 2)
