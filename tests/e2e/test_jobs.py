"""One job, end to end: what a caller of the native interface sees."""

import json
import re
import threading
import time

import pytest

from quern import Quern, until

ID = re.compile(r"job_[0-7][0-9a-hjkmnp-tv-z]{25}$")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


def test_the_smallest_request_is_answered(system):
    reply = system.request("POST", "/v1/jobs", {"prompt": "hello"})
    assert reply.status == 202, reply
    job = reply.json
    assert ID.match(job["id"]) and job["ack"] == "stored"
    assert job["urls"]["self"].endswith(f"/v1/jobs/{job['id']}")
    assert set(job["urls"]) == {"self", "events", "cancel"}
    assert reply.headers["x-request-id"]

    done = system.ended(job["id"])
    assert done["status"] == "completed" and done["progress"] == 100 and done["attempt"] == 1
    assert done["result"]["content"] == "echo: hello" and done["result"]["finish_reason"] == "stop"
    assert done["usage"]["input_tokens"] > 0 and done["usage"]["output_tokens"] > 0
    for name in ("created_at", "started_at", "completed_at"):
        assert TIME.match(done[name]), (name, done[name])
    assert done["created_at"] <= done["started_at"] <= done["completed_at"]


def test_wait_answers_with_the_ended_job(system):
    reply = system.request("POST", "/v1/jobs?wait=20s", {"prompt": "now"})
    assert reply.status == 200 and reply.json["status"] == "completed"
    assert reply.json["result"]["content"] == "echo: now"


def test_wait_that_is_over_answers_202_and_the_job_goes_on(system):
    reply = system.request("POST", "/v1/jobs?wait=100ms", {"prompt": "slow [[latency_ms=600]]"})
    assert reply.status == 202, reply
    held = system.get(reply.json["id"], wait="20s")
    assert held.status == 200 and held.json["status"] == "completed"


def test_get_waits_until_the_end(system):
    job = system.submit("later [[latency_ms=300]]")
    reply = system.get(job["id"], wait="20s")
    assert reply.json["status"] == "completed" and reply.json["result"]["content"].startswith("echo: later")


def test_a_running_job_is_shown_as_processing(system):
    job = system.submit("busy [[latency_ms=1500]]")
    seen = until(lambda: (j := system.job(job["id"]))["status"] == "processing" and j, "processing")
    assert 10 <= seen["progress"] < 100 and seen["attempt"] == 1 and seen.get("result") is None
    assert system.ended(job["id"])["status"] == "completed"


def test_a_streamed_call_gives_the_same_result(system):
    done = system.submit({"prompt": "a stream of several words", "stream": True}, wait="20s")
    assert done["status"] == "completed" and done["result"]["content"] == "echo: a stream of several words"
    assert any(c["stream"] for c in system.upstream.calls_with("a stream of several words"))


def test_everything_sent_reaches_the_provider(system):
    job = system.submit({"model": "some/model:7b", "messages": [{"role": "user", "content": "seven"}], "system": "be brief",
                         "params": {"temperature": 0.5, "x_custom": [1, {"y": None}]}, "tags": ["a", "b"],
                         "metadata": {"order": 12345678901234567, "nested": {"deep": True}}}, wait="20s")
    assert job["status"] == "completed", job
    assert job["tags"] == ["a", "b"] and job["metadata"] == {"order": 12345678901234567, "nested": {"deep": True}}
    call, = system.upstream.calls_with("seven")
    assert call["model"] == "some/model:7b"


def test_unicode_travels_both_ways(system):
    text = "Grüße, 世界, 🦉, \"quotes\" \\ and \t tabs\n"
    assert system.submit({"prompt": text}, wait="20s")["result"]["content"] == "echo: " + text


def test_one_connection_many_pipelined_jobs(system):
    ids = [system.submit(f"job {i}")["id"] for i in range(200)]
    assert len(set(ids)) == 200 and ids == sorted(ids, key=lambda i: ids.index(i))
    for i, job_id in enumerate(ids):
        assert system.ended(job_id)["result"]["content"] == f"echo: job {i}"


def test_delay_holds_a_job_back(system):
    job = system.submit({"prompt": "delayed", "delay_ms": 700})
    seen = system.job(job["id"])
    assert seen["status"] == "pending" and seen["reason"] == "scheduled"
    assert not system.upstream.calls_with("delayed")
    done = system.ended(job["id"])
    call, = system.upstream.calls_with("delayed")
    assert done["status"] == "completed" and call["wall_ms"] / 1000 > 0


def test_max_wait_expires_a_job_that_never_ran(system):
    job = system.submit({"prompt": "too late", "delay_ms": 60000, "max_wait_ms": 300})
    done = system.ended(job["id"])
    assert done["status"] == "expired" and not system.upstream.calls_with("too late")


# -- idempotency --

def test_the_same_key_and_body_give_the_first_job(system):
    headers = {"Idempotency-Key": "order-1"}
    first = system.request("POST", "/v1/jobs", {"prompt": "once"}, headers)
    again = system.request("POST", "/v1/jobs", {"prompt": "once"}, headers)
    assert first.status == 202 and again.status == 200 and again.json["id"] == first.json["id"]
    system.ended(first.json["id"])
    third = system.request("POST", "/v1/jobs", {"prompt": "once", "idempotency_key": "order-1"})
    assert third.status == 200 and third.json["id"] == first.json["id"]
    assert len(system.upstream.calls_with("once")) == 1


def test_the_same_key_with_another_body_is_refused(system):
    headers = {"Idempotency-Key": "order-2"}
    assert system.request("POST", "/v1/jobs", {"prompt": "one thing"}, headers).status == 202
    reply = system.request("POST", "/v1/jobs", {"prompt": "another thing"}, headers)
    assert reply.status == 422 and reply.error["code"] == "idempotency_mismatch"


def test_one_key_from_many_callers_at_once_makes_one_job(system):
    replies = []

    def caller():
        replies.append(system.request("POST", "/v1/jobs", {"prompt": "raced"}, {"Idempotency-Key": "race"}))

    threads = [threading.Thread(target=caller) for _ in range(16)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert {r.status for r in replies} <= {200, 202} and len({r.json["id"] for r in replies}) == 1
    system.ended(replies[0].json["id"])
    assert len(system.upstream.calls_with("raced")) == 1


# -- ids --

def test_unknown_and_foreign_ids_are_the_same_404(system):
    real = system.submit("mine", wait="20s")["id"]
    letter = "0" if real[-1] != "0" else "1"
    never = [f"job_{'0' * 26}", real[:-1] + letter, real[:10] + ("1" if real[10] != "1" else "2") + real[11:]]
    replies = [system.get(i) for i in never]
    for reply in replies:
        assert reply.status == 404 and reply.error["code"] == "not_found"
    assert len({str({k: v for k, v in r.error.items() if k != "request_id"}) for r in replies}) == 1
    assert system.get("job_short").status == 404 and system.get(real.upper()).status == 404


def test_a_forgotten_job_is_gone(system):
    job = system.submit("secret", wait="20s")
    reply = system.request("DELETE", f"/v1/jobs/{job['id']}?forget=1")
    assert reply.status == 204 and reply.body == b""
    until(lambda: system.get(job["id"]).status == 410, "410")
    assert system.get(job["id"]).error["code"] == "forgotten"
    assert "secret" not in system.redis("--scan") and not system.redis("EXISTS", f"{{q0}}:r:{job['id'][4:]}").strip("0")


def test_a_result_expires_and_is_then_gone(system):
    job = system.submit({"prompt": "brief", "result_ttl_s": 1}, wait="20s")
    until(lambda: system.get(job["id"]).status == 410, "the result has expired", 10)


# -- health and numbers --

def test_health(system):
    health = system.request("GET", "/health").json
    assert health["status"] == "healthy" and set(health) >= {"status", "service", "version", "checks"}
    assert set(health["checks"]) >= {"redis", "broker", "workers"}
    assert system.request("GET", "/livez").status == 200 and system.request("GET", "/readyz").status == 200


def test_stats_count_what_happened(system):
    before = system.stats()
    for i in range(5):
        system.submit(f"counted {i}", wait="20s")
    bad = system.submit("counted bad [[fault=status_400]]", wait="20s")
    assert bad["status"] == "failed"
    after = system.stats()
    assert after["completed"] - before["completed"] == 5 and after["failed"] - before["failed"] == 1
    assert set(after) >= {"waiting", "active", "completed", "failed", "cancelled", "total", "success_rate", "failure_rate", "mean_ms",
                          "p50_ms", "p99_ms", "per_minute", "queue_size", "workers", "uptime_s"}
    assert after["workers"] >= 2 and 0 <= after["success_rate"] <= 1


def test_quernctl_sees_the_same(system):
    job = system.submit("for the operator", wait="20s")
    out = system.ctl("job", job["id"], "--json")
    shown = json.loads(out.stdout)
    assert shown["id"] == job["id"] and shown["state"] == "completed"
    assert "for the operator" not in out.stdout
    stats = json.loads(system.ctl("stats", "--json").stdout)["numbers"]
    assert stats["completed"] >= 1 and stats["workers"] >= 2
    assert system.ctl("job", "job_" + "0" * 26, check=False).returncode == 3
    assert system.ctl("nonsense", check=False).returncode == 2


# -- order --

def test_priority_and_arrival_decide_who_is_next():
    with Quern({"worker": {"slots": 1}}, workers=1) as q:
        blocker = q.submit("blocker [[latency_ms=800]]")
        until(lambda: q.job(blocker["id"])["status"] == "processing", "the slot is taken")
        ids = []
        for i, priority in enumerate([1, 5, 5, 10, 1, 7]):
            ids.append(q.submit({"prompt": f"ordered {i} p{priority}", "priority": priority})["id"])
        for job_id in ids:
            q.ended(job_id)
        heads = [c["prompt_head"] for c in q.upstream.calls() if "ordered" in c["prompt_head"]]
        assert [int(h.split()[1]) for h in heads] == [3, 5, 1, 2, 0, 4]


def test_each_tenant_and_queue_bound_answers_429_with_a_time():
    with Quern({"broker": {"tenant_jobs_max": 10}, "worker": {"slots": 1}}, workers=1) as q:
        q.upstream.script(latency_ms=300)
        replies = [q.request("POST", "/v1/jobs", {"prompt": f"n {i}"}) for i in range(14)]
        refused = [r for r in replies if r.status == 429]
        assert len(refused) >= 3 and refused[0].error["code"] == "queue_full"
        assert 1 <= int(refused[0].headers["retry-after"]) <= 60
        q.upstream.script()
        for r in replies:
            if r.status == 202:
                assert q.ended(r.json["id"])["status"] == "completed"
        assert q.submit("room again")


@pytest.mark.parametrize("stream", [False, True])
def test_a_large_prompt_and_answer(system, stream):
    text = "x" * 1_000_000
    done = system.submit({"prompt": text, "stream": stream}, wait="30s")
    assert done["status"] == "completed" and done["result"]["content"] == "echo: " + text


def test_large_answers_do_not_wait_for_heartbeats():
    with Quern(workers=1, api_children=1) as q:
        took, text = [], "y" * 1_900_000

        def caller():
            began = time.monotonic()
            assert q.submit({"prompt": text}, wait="30s")["status"] == "completed"
            took.append(time.monotonic() - began)

        threads = [threading.Thread(target=caller) for _ in range(6)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert len(took) == 6 and max(took) < 4.5, took  # a heartbeat is 5 s; 4 MiB may be unacknowledged
