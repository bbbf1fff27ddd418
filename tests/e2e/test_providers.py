"""Every provider that an answer can come from: streamed and whole, with tools and usage, and its failures by their name."""

import json

import pytest

from quern import Quern
from sse import follow

FAST = {"base_ms": 1, "cap_ms": 20}
NETWORK = ("openai", "ollama")


def settings(state):
    """A route for each, by the provider's name."""
    base_url = f"http://127.0.0.1:{(state / 'upstream.port').read_text().strip()}"
    names = (*NETWORK, "echo")
    return {
        "credentials": [{"name": "openai", "base_url": base_url + "/v1"}, {"name": "ollama", "base_url": base_url}],
        "deployments": [{"name": n, "provider": n, **({"credential": n} if n in NETWORK else {}), "model": "m"} for n in names],
        "routes": [{"name": n, "deployments": [n]} for n in names],
        "worker": {"first_token_timeout_ms": 2000, "idle_timeout_ms": 1000},
    }


@pytest.fixture(scope="module")
def q():
    with Quern(settings) as quern:
        yield quern


def run(q, provider, prompt, **fields):
    words = {"prompt": prompt} if prompt else {}
    return q.submit({"model": provider, "backoff": FAST, **words, **fields}, wait="20s")


@pytest.mark.parametrize("provider", ["openai", "ollama", "echo"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer(q, provider, stream):
    job = run(q, provider, "héllo \"you\" \u2028 and more", stream=stream)
    assert job["status"] == "completed", job
    result = job["result"]
    assert result["content"].endswith("héllo \"you\" \u2028 and more")
    assert (result["provider"], result["finish_reason"]) == (provider, "stop")
    with follow(q, job["id"]) as events:
        events.all()
    assert events.text() == (result["content"] if stream else "")
    if provider in NETWORK:
        assert job["usage"]["source"] == "provider" and job["usage"]["input_tokens"] > 0 and job["usage"]["output_tokens"] > 0


@pytest.mark.parametrize("provider, params", [("openai", {}), ("ollama", {}), ("echo", {"latency_ms": 100, "token_ms": 30})])
def test_an_answer_comes_piece_by_piece(q, provider, params):
    prompt = "one two three four five six seven eight" + (" [[tokens=12 tokens_per_s=40]]" if provider in NETWORK else "")
    job = q.submit({"model": provider, "prompt": prompt, "stream": True, "params": params})
    with follow(q, job["id"]) as events:
        first = events.until("token")
        assert q.job(job["id"])["status"] == "processing" and first.json["index"] == 0
        done = events.all()[-1].json
    assert len([e for e in events.seen if e.name == "token"]) >= 6 and events.text() == done["result"]["content"]


@pytest.mark.parametrize("provider", NETWORK)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call(q, provider, stream):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    job = run(q, provider, "call it [[fault=tool_calls]]", stream=stream, params={"tools": tools})
    calls = job["result"]["tool_calls"]
    assert job["result"]["finish_reason"] == "tool_calls" and len(calls) == 1
    assert calls[0]["function"]["name"] == "weather" and isinstance(json.loads(calls[0]["function"]["arguments"]), dict)
    with follow(q, job["id"]) as events:
        pieces = [e.json["tool_call"] for e in events.all() if e.name == "token" and "tool_call" in e.json]
    assert "".join(p.get("arguments", "") for p in pieces) == (calls[0]["function"]["arguments"] if stream else "")
    again = run(q, provider, None, stream=stream, messages=[
        {"role": "user", "content": "call it"}, {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "sunny"}, {"role": "user", "content": "so?"}])
    assert again["status"] == "completed" and again["result"]["content"].endswith("so?")


@pytest.mark.parametrize("provider", NETWORK)
@pytest.mark.parametrize("stream, fault, kind", [
    (True, "cut", "stream_cut"), (True, "truncated_json", None), (True, "malformed_line", "bad_frame"), (True, "garbage", None),
    (True, "error_midstream", "overload"), (True, "error_200", "overload"), (True, "stall", "stall"), (True, "status_503", "overload"),
    (False, "cut", "stream_cut"), (False, "truncated_json", None), (False, "error_200", "overload"), (False, "status_500", "overload"),
    (False, "status_502_html", "overload"), (False, "status_404", "client"), (False, "status_401", "auth"),
])
def test_a_failure_has_a_name(q, provider, stream, fault, kind):
    job = run(q, provider, f"fails [[fault={fault}]]", stream=stream, max_attempts=1)
    assert job["status"] == "failed" and job["result"] is None
    assert job["error"]["class"] in ([kind] if kind else ["stream_cut", "bad_frame"]), job["error"]


@pytest.mark.parametrize("provider", NETWORK)
@pytest.mark.parametrize("fault", ["crlf", "split", "keepalive_comments", "no_usage", "finish_length"])
def test_what_is_right_in_another_shape(q, provider, fault):
    job = run(q, provider, f"shape [[fault={fault} drip_ms=5]]", stream=True)
    assert job["status"] == "completed", job
    assert job["result"]["finish_reason"] == ("length" if fault == "finish_length" else "stop")
    assert job["result"]["content"].startswith("echo: shape")


def test_what_ollama_has_no_word_for_is_refused(q):
    job = run(q, "ollama", "unspeakable", params={"logit_bias": {"1": 2}})
    assert job["status"] == "failed" and job["error"]["class"] == "client" and "logit_bias" in job["error"]["message"]
    assert not q.upstream.calls_with("unspeakable")
