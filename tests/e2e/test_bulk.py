"""Many submits in one body: each is answered in its place, and one line's fault refuses that line only."""

import json

import pytest

from quern import Quern, until


def ndjson(system, lines, **headers):
    body = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return system.request("POST", "/v1/jobs/bulk", body, headers={"Content-Type": "application/x-ndjson", **headers})


def answers(reply):
    assert reply.status == 200 and reply.headers["content-type"] == "application/x-ndjson", reply
    return [json.loads(line) for line in reply.body.decode().splitlines()]


def test_lines_are_answered_in_order(system):
    got = answers(ndjson(system, [{"prompt": f"line {i}", "tags": [f"t{i}"]} for i in range(50)]))
    assert len(got) == 50 and len({a["id"] for a in got}) == 50 and all(a["ack"] == "stored" for a in got)
    for i, answer in enumerate(got):
        done = system.ended(answer["id"])
        assert done["tags"] == [f"t{i}"] and done["result"]["content"] == f"echo: line {i}"


def test_an_array_is_answered_as_an_array(system):
    reply = system.request("POST", "/v1/jobs/bulk", [{"prompt": "a"}, {"prompt": ""}, {"prompt": "c", "priority": 10}])
    assert reply.status == 200 and reply.headers["content-type"] == "application/json"
    first, bad, last = reply.json
    assert bad["error"]["code"] == "invalid_field" and bad["error"]["param"] == "prompt" and "id" not in bad
    assert system.ended(first["id"])["status"] == "completed" and system.ended(last["id"])["priority"] == 10


def test_a_bad_line_refuses_that_line_only(system):
    got = answers(ndjson(system, [{"prompt": "good"}, "{", {"prompt": "x", "colour": 1}, "", {"prompt": "good too"}]))
    assert [a.get("error", {}).get("code") for a in got] == [None, "invalid_json", "unknown_field", None]
    assert got[2]["error"]["param"] == "colour"
    assert all(system.ended(got[i]["id"])["status"] == "completed" for i in (0, 3))


def test_keys_hold_within_and_across_bodies(system):
    lines = [{"prompt": "once", "idempotency_key": "bulk-1"}, {"prompt": "once", "idempotency_key": "bulk-1"},
             {"prompt": "other", "idempotency_key": "bulk-1"}]
    first, again, other = answers(ndjson(system, lines))
    assert again["id"] == first["id"] and again["existing"] is True
    assert other["error"]["code"] == "idempotency_mismatch"
    system.ended(first["id"])
    (later,) = answers(ndjson(system, lines[:1]))
    assert later["id"] == first["id"] and later["existing"] is True


def test_ten_thousand_lines(system):
    got = answers(ndjson(system, [{"prompt": "p"}] * 10000))
    assert len({a["id"] for a in got}) == 10000
    until(lambda: system.stats()["waiting"] + system.stats()["active"] == 0, "all have ended", 60)
    assert ndjson(system, [{"prompt": "p"}] * 10001).status == 422


def test_a_full_queue_refuses_the_lines_that_do_not_fit():
    with Quern({"broker": {"tenant_jobs_max": 10}}) as system:
        got = answers(ndjson(system, [{"prompt": "later", "delay_ms": 60000}] * 20))
        refused = [a["error"] for a in got if "error" in a]
        assert refused and {e["code"] for e in refused} == {"queue_full"} and all(e["retry_after_ms"] >= 1000 for e in refused)
        assert len(got) - len(refused) <= 10
        for answer in got:
            if "id" in answer:
                system.cancel(answer["id"])


def test_who_may_come_again_is_told_when():
    with Quern({"api": {"submit_ms": 300}}) as system:
        with system.stopped("broker"):
            got = answers(ndjson(system, [{"prompt": "x"}] * 3))
        assert {a["error"]["code"] for a in got} <= {"outcome_unknown", "broker_unavailable"}
        assert all(a["error"]["retry_after_ms"] > 0 for a in got), got


def test_a_line_s_ack_that_the_store_cannot_give_is_named(system):
    (answer,) = answers(ndjson(system, [{"prompt": "x", "ack": "synced"}]))
    assert answer["error"]["code"] == "ack_unavailable" and answer["error"]["param"] == "ack", answer


def test_where_an_array_is_no_json_is_said(system):
    reply = system.request("POST", "/v1/jobs/bulk", '[{"prompt":"x"},}]', headers={"Content-Type": "application/json"})
    assert reply.status == 400 and reply.error["message"].startswith("at byte 16: "), reply


@pytest.mark.parametrize("body, type_, status", [
    ("", "application/x-ndjson", 422), ("\n \n", "application/x-ndjson", 422), ("{}", "application/json", 422), ("[]", "application/json", 422),
    ("[", "application/json", 400), ("{}", "text/plain", 415)])
def test_what_is_no_bulk(system, body, type_, status):
    reply = system.request("POST", "/v1/jobs/bulk", body, headers={"Content-Type": type_})
    assert reply.status == status, reply


def test_the_header_key_is_for_one_job(system):
    reply = ndjson(system, [{"prompt": "x"}], **{"Idempotency-Key": "k"})
    assert reply.status == 422 and reply.error["param"] == "Idempotency-Key"
