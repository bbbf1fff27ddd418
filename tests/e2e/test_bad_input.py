"""What is refused says which field and why, and costs nothing."""

import json

import pytest


def refused(system, body, status, code, param=None, headers=None):
    reply = system.request("POST", "/v1/jobs", body, headers)
    assert reply.status == status, reply
    assert reply.error["code"] == code, reply
    if param is not None:
        assert reply.error["param"] == param, reply
    assert reply.error["message"] and reply.error["request_id"] == reply.headers["x-request-id"]
    return reply


@pytest.mark.parametrize("job, param", [
    ({"prompt": "x", "nonsense": 1}, "nonsense"),
    ({"prompt": "x", "backoff": {"speed": 1}}, "backoff.speed"),
    ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages[0].colour"),
])
def test_unknown_fields_are_named(system, job, param):
    refused(system, job, 422, "unknown_field", param)


@pytest.mark.parametrize("job, param", [
    ({"prompt": ""}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({}, "prompt"),
    ({"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, None),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "emperor", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"prompt": "x", "priority": 0}, "priority"),
    ({"prompt": "x", "priority": 11}, "priority"),
    ({"prompt": "x", "priority": 2.5}, "priority"),
    ({"prompt": "x", "priority": "soon"}, "priority"),
    ({"prompt": "x", "type": "haiku"}, "type"),
    ({"prompt": "x", "class": "royal"}, "class"),
    ({"prompt": "x", "queue": "no spaces"}, "queue"),
    ({"prompt": "x", "queue": ""}, "queue"),
    ({"prompt": "x", "timeout_ms": 0}, "timeout_ms"),
    ({"prompt": "x", "timeout_ms": -1}, "timeout_ms"),
    ({"prompt": "x", "timeout_ms": 1e30}, "timeout_ms"),
    ({"prompt": "x", "timeout_ms": 10**12}, "timeout_ms"),
    ({"prompt": "x", "max_attempts": 0}, "max_attempts"),
    ({"prompt": "x", "max_attempts": 2, "max_retries": 2}, None),
    ({"prompt": "x", "delay_ms": -5}, "delay_ms"),
    ({"prompt": "x", "run_at": "tomorrow"}, "run_at"),
    ({"prompt": "x", "deadline": "2001-01-01T00:00:00Z"}, "deadline"),
    ({"prompt": "x", "stream": "yes"}, "stream"),
    ({"prompt": "x", "tags": "a"}, "tags"),
    ({"prompt": "x", "tags": [1]}, "tags[0]"),
    ({"prompt": "x", "metadata": []}, "metadata"),
    ({"prompt": "x", "params": "hot"}, "params"),
    ({"prompt": "x", "params": {"model": "y"}}, "params.model"),
    ({"prompt": "x", "ack": "carved"}, "ack"),
    ({"prompt": "x", "result_ttl_s": 0}, "result_ttl_s"),
    ({"prompt": "x", "idempotency_key": ""}, "idempotency_key"),
    ({"prompt": "x", "after": ["job_1"]}, "after"),
    ({"prompt": "x", "callback": {"url": "http://127.0.0.1/"}}, "callback"),
    ([], None),
    ("text", None),
])
def test_wrong_values_are_named(system, job, param):
    refused(system, json.dumps(job), 422, "invalid_field", param, {"Content-Type": "application/json"})


@pytest.mark.parametrize("body", [
    b"", b"{", b"nul", b'{"prompt":"x"', b'{"prompt":"x"}}', b'{"prompt":"x",}', b"{'prompt':'x'}", b'{"prompt":"\xff"}', b'{"prompt":"\\ud800"}',
    b'{"prompt":"a\x00b"}', b'{"prompt":"\\u0000"}', b'{"prompt":"x","prompt":"y"}', b'{"priority":01,"prompt":"x"}', b'{"prompt":NaN}',
    b'{"a":' * 40 + b"1" + b"}" * 40, b"[" * 100000,
])
def test_what_is_not_json_is_400(system, body):
    refused(system, body, 400, "invalid_json", headers={"Content-Type": "application/json"})


def test_a_body_too_large_is_413_with_the_limit(system):
    reply = refused(system, b'{"prompt":"' + b"x" * (8 << 20) + b'"}', 413, "too_large", headers={"Content-Type": "application/json"})
    assert "8388608" in reply.error["message"]


def test_other_media_types_are_refused(system):
    refused(system, "prompt=hello", 415, "unsupported_media_type", headers={"Content-Type": "application/x-www-form-urlencoded"})


def test_more_durability_than_the_store_has_is_refused(system):
    refused(system, {"prompt": "x", "ack": "synced"}, 422, "ack_unavailable")


def test_a_bad_wait_is_named(system):
    for wait in ("soon", "-1s", "1e9s", "11m"):
        reply = system.request("POST", f"/v1/jobs?wait={wait}", {"prompt": "x"})
        assert reply.status == 422 and reply.error["param"] == "wait", reply


def test_paths_and_methods(system):
    assert system.request("GET", "/nowhere").status == 404
    reply = system.request("PUT", "/v1/jobs", {"prompt": "x"})
    assert reply.status == 405 and "POST" in reply.headers["allow"]


def test_nothing_refused_was_called(system):
    before = system.stats()
    refused(system, {"prompt": "never called", "nonsense": 1}, 422, "unknown_field")
    assert not system.upstream.calls_with("never called")
    assert system.stats()["total"] == before["total"]
