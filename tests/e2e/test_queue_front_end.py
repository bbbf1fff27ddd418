"""The queue front end: request and reply exactly as existing pages expect them (API.md, section 3)."""

import json
import time

import pytest

from quern import raw, until


def chat(system, **fields):
    reply = system.request("POST", "/api/chat", {"userId": "user-123", "prompt": "hello", **fields})
    assert reply.status == 200, reply
    assert set(reply.json) == {"success", "jobId", "message"}
    assert reply.json["success"] is True and reply.json["message"] == "Task queued successfully"
    return reply.json["jobId"]


def job(system, job_id):
    reply = system.request("GET", f"/api/job/{job_id}")
    assert reply.status == 200, reply
    assert set(reply.json) == {"jobId", "state", "progress", "result"} and reply.json["jobId"] == job_id
    return reply.json


def ended(system, job_id):
    return until(lambda: (j := job(system, job_id))["state"] in ("completed", "failed") and j, f"{job_id} has ended")


def test_a_chat_is_answered(system):
    before = time.time() * 1000
    done = ended(system, chat(system))
    assert done["state"] == "completed" and done["progress"] == 100
    assert set(done["result"]) == {"success", "response", "timestamp"}
    assert done["result"]["success"] is True and done["result"]["response"] == "echo: hello"
    assert before - 60000 < done["result"]["timestamp"] < time.time() * 1000 + 60000


def test_history_comes_before_the_prompt(system):
    history = [{"role": "user", "content": "my name is Ada"}, {"role": "assistant", "content": "hello Ada"}]
    prompt = "who am I? marker-history"
    job_id = chat(system, prompt=prompt, conversationHistory=history)
    ended(system, job_id)
    (call,) = system.upstream.calls_with("marker-history")
    assert call["prompt_head"] == prompt, "the prompt is the last of the user's messages"
    text = prompt + "".join(m["content"] for m in history)
    assert system.job(job_id)["usage"]["input_tokens"] == len(text) // 4, "the provider has counted all of them"


@pytest.mark.parametrize("priority, stored", [(1, 1), (5, 5), (10, 10)])
def test_priority_is_the_jobs(system, priority, stored):
    job_id = chat(system, priority=priority)
    assert system.job(job_id)["priority"] == stored and system.job(job_id)["user_id"] == "user-123"


def test_a_running_chat_is_active(system):
    job_id = chat(system, prompt="busy [[latency_ms=1500]]")
    seen = until(lambda: (j := job(system, job_id))["state"] == "active" and j, "active")
    assert 10 <= seen["progress"] < 100 and seen["result"] is None
    ended(system, job_id)


def test_a_scheduled_job_is_delayed(system):
    job_id = system.submit({"prompt": "later", "delay_ms": 60000})["id"]
    assert job(system, job_id)["state"] == "delayed"
    system.cancel(job_id)
    gone = job(system, job_id)
    assert gone["state"] == "failed" and gone["result"]["success"] is False and gone["result"]["error"] == "cancelled"


def test_a_failed_chat_says_why(system):
    done = ended(system, chat(system, prompt="no [[fault=status_400]]"))
    assert done["state"] == "failed" and done["result"]["success"] is False and done["result"]["error"]


def test_stats(system):
    ended(system, chat(system))
    reply = system.request("GET", "/api/queue/stats")
    assert reply.status == 200 and set(reply.json) == {"waiting", "active", "completed", "failed", "total"}
    assert reply.json["completed"] >= 1 and reply.json["total"] == reply.json["waiting"] + reply.json["active"]


def events(system, job_id):
    """Every event of the stream, to its end."""
    reply = raw(system.port, f"GET /stream/status/{job_id} HTTP/1.0\r\nHost: q\r\n\r\n".encode(), seconds=20)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0] and b"text/event-stream" in head
    frames = [f for f in body.decode().split("\n\n") if f and not f.startswith(":")]
    assert all(f.startswith("data: ") and "\n" not in f for f in frames), frames
    return [json.loads(f[6:]) for f in frames]


def test_the_stream_of_a_job(system):
    job_id = chat(system, prompt="follow me [[latency_ms=400]]")
    seen = events(system, job_id)
    assert all(e["type"] == "status" and e["jobId"] == job_id for e in seen)
    order = ["waiting", "active", "completed"]
    states = [order.index(e["state"]) for e in seen]
    assert states == sorted(states) and seen[-1]["state"] == "completed"
    assert seen[-1]["progress"] == 100 and seen[-1]["result"]["response"].startswith("echo: follow me")


def test_the_stream_of_an_ended_job(system):
    job_id = chat(system)
    ended(system, job_id)
    assert [e["state"] for e in events(system, job_id)] == ["completed"]


@pytest.mark.parametrize("body, param", [
    ({}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": "x", "userId": 7}, "userId"),
    ({"prompt": "x", "priority": 11}, "priority"),
    ({"prompt": "x", "conversationHistory": {}}, "conversationHistory"),
    ({"prompt": "x", "conversationHistory": [{"role": "pirate", "content": "arr"}]}, "conversationHistory[0].role"),
    ({"prompt": "x", "colour": "red"}, "colour"),
])
def test_what_is_wrong_is_named(system, body, param):
    reply = system.request("POST", "/api/chat", body)
    assert reply.status == 422, reply
    assert reply.json["success"] is False and reply.json["param"] == param and reply.json["error"] and reply.json["code"]


def test_unknown_jobs(system):
    for path in ("/api/job/job_00000000000000000000000000", "/stream/status/nonsense"):
        reply = system.request("GET", path)
        assert reply.status == 404 and reply.json["success"] is False and reply.json["code"] == "not_found"


def test_a_body_that_is_no_json(system):
    reply = system.request("POST", "/api/chat", "{", headers={"Content-Type": "application/json"})
    assert reply.status == 400 and reply.json["success"] is False and reply.json["error"].startswith("at byte 1: "), reply
