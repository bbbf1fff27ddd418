"""Each kind of failure: how often it is called, when it is tried again, and what its caller is told."""

import json

import pytest

from quern import Quern, http_date, until


@pytest.fixture(scope="module")
def system():
    """As everywhere, but impatient: short clocks, so that hanging providers are noticed soon."""
    with Quern({"worker": {"connect_timeout_ms": 1000, "first_token_timeout_ms": 2000, "idle_timeout_ms": 1500,
                           "result_max_bytes": 1048576}}) as q:
        yield q


FAST = {"base_ms": 1, "cap_ms": 20}

# fault -> (kind it is reported as, calls made with max_attempts 3)
RETRIED = {
    "status_500": "overload", "status_502_html": "overload", "status_503": "overload", "status_504": "overload", "status_529": "overload",
    "hang": "sent", "hang_headers": "sent", "reset": "sent", "early_close": "sent",
    "garbage": "bad_frame", "truncated_json": "bad_frame", "wrong_length": "stream_cut", "chunk_overflow": "bad_frame",
}
FINAL = {
    "status_400": "client", "status_404": "client", "status_413": "client", "status_422": "client",
    "status_401": "auth", "status_403": "auth", "quota_429": "quota", "status_402": "quota", "redirect": "client",
}


def failed(system, text, **fields):
    done = system.ended(system.submit({"prompt": text, "backoff": FAST, **fields})["id"])
    assert done["status"] == "failed", done
    assert done.get("result") is None and done["error"]["message"]
    return done


@pytest.mark.parametrize("fault", RETRIED)
def test_a_passing_fault_is_tried_again_and_then_given_up(system, fault):
    text = f"retried {fault} [[fault={fault}]]"
    done = failed(system, text)
    assert len(system.upstream.calls_with(f"retried {fault} ")) == 3
    assert done["attempt"] == 3 and len(done["attempts"]) == 3
    kinds = {a["error"]["class"] if "error" in a else a["class"] for a in done["attempts"]}
    assert done["error"]["class"] in (RETRIED[fault], "sent", "stream_cut", "bad_frame") and len(kinds) == 1
    if fault.startswith("status_"):
        assert done["error"]["class"] == RETRIED[fault] and done["error"]["http_status"] == int(fault.split("_")[1])


@pytest.mark.parametrize("fault", RETRIED)
def test_a_fault_that_passes_costs_one_more_call(system, fault):
    text = f"passing {fault} [[fault={fault} fail_first=1]]"
    done = system.ended(system.submit({"prompt": text, "backoff": FAST})["id"])
    assert done["status"] == "completed" and done["result"]["content"] == "echo: " + text
    assert done["attempt"] == 2 and len(system.upstream.calls_with(f"passing {fault} ")) == 2


@pytest.mark.parametrize("fault", FINAL)
def test_a_final_fault_is_called_once(system, fault):
    done = failed(system, f"final {fault} [[fault={fault}]]")
    assert len(system.upstream.calls_with(f"final {fault} ")) == 1
    assert done["error"]["class"] == FINAL[fault] and done["attempt"] == 1


@pytest.mark.parametrize("fault, kinds", [
    ("cut", {"stream_cut"}), ("stall", {"stall"}), ("error_midstream", {"overload", "bad_frame", "stream_cut", "client"}),
    ("malformed_line", {"bad_frame"}),
])
def test_half_an_answer_is_never_shown_as_whole(system, fault, kinds):
    done = failed(system, f"half {fault} and some words to say [[fault={fault} after_tokens=2]]", stream=True, max_attempts=2)
    assert done["error"]["class"] in kinds, done["error"]


@pytest.mark.parametrize("fault", ["keepalive_comments", "crlf", "split", "slow_drip", "no_usage", "finish_length", "status_1xx_flood"])
@pytest.mark.parametrize("stream", [False, True])
def test_odd_but_whole_answers_are_taken(system, fault, stream):
    text = f"odd {fault} {stream} [[fault={fault} drip_ms=1]]"
    done = system.ended(system.submit({"prompt": text, "stream": stream, "backoff": FAST})["id"])
    assert done["status"] == "completed", done
    assert done["result"]["content"] == "echo: " + text
    assert len(system.upstream.calls_with(f"odd {fault} {stream} ")) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_come_back_whole(system, stream):
    done = system.ended(system.submit({"prompt": f"tools {stream} [[fault=tool_calls]]", "stream": stream})["id"])
    call = done["result"]["tool_calls"][0]
    assert done["result"]["finish_reason"] == "tool_calls" and isinstance(json.loads(call["function"]["arguments"]), dict)


def test_an_error_inside_a_200_is_a_failure(system):
    done = failed(system, "quiet [[fault=error_200]]", max_attempts=1)
    assert done["error"]["message"]


def test_an_endless_answer_is_cut_off(system):
    done = failed(system, "huge [[fault=huge_body bytes=50000000]]")
    assert done["error"]["class"] == "answer_too_large"
    call, = system.upstream.calls_with("huge ")
    assert call["bytes_sent"] < 20_000_000


def test_the_total_clock(system):
    done = failed(system, "drip [[fault=slow_drip drip_ms=100]]", timeout_ms=700, max_attempts=1)
    assert done["error"]["class"] in ("timeout", "stall")


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_and_costs_no_attempt(system, form):
    value = "2" if form == "seconds" else f'"{http_date(3)}"'
    text = f"throttled {form} [[fault=status_429 fail_first=2 retry_after={value}]]"
    job = system.submit({"prompt": text, "max_attempts": 1, "backoff": FAST})
    seen = until(lambda: (j := system.job(job["id"]))["status"] == "retrying" and j, "retrying")
    assert seen["retry_at"] > seen["created_at"]
    done = system.ended(job["id"])
    assert done["status"] == "completed" and done["attempt"] == 3
    first, second, third = system.upstream.calls_with(f"throttled {form} ")
    if form == "seconds":
        assert second["wall_ms"] - first["wall_ms"] >= 2000 and third["wall_ms"] - second["wall_ms"] >= 2000
    else:
        assert second["wall_ms"] - first["wall_ms"] >= 1000


def test_a_retry_after_beyond_the_deadline_ends_at_once(system):
    done = failed(system, "never [[fault=status_429 retry_after=3600]]", max_wait_ms=5000)
    assert done["error"]["class"] == "throttled" and len(system.upstream.calls_with("never ")) == 1


@pytest.mark.parametrize("value", ["-5", "0", "soon", "999999999999", "1e3"])
def test_absurd_retry_after_values_do_no_harm(system, value):
    text = f"absurd {value} [[fault=status_429 fail_first=1 retry_after={value}]]"
    job = system.submit({"prompt": text, "backoff": FAST})
    if value == "999999999999":
        until(lambda: system.job(job["id"])["status"] == "retrying", "waits, capped")
        assert system.cancel(job["id"]).status == 200
    else:
        assert system.ended(job["id"])["status"] == "completed"


def test_a_refused_connection():
    with Quern({"credentials": [{"name": "upstream", "base_url": "http://127.0.0.1:9/v1"}]}) as q:
        done = q.ended(q.submit({"prompt": "x", "backoff": FAST})["id"])
        assert done["status"] == "failed" and done["error"]["class"] == "connect" and done["attempt"] == 3


def test_the_backoff_doubles_and_is_bounded(system):
    text = "backoff [[fault=status_503]]"
    failed_job = system.ended(system.submit({"prompt": text, "max_attempts": 5, "backoff": {"base_ms": 100, "cap_ms": 400, "jitter": False}})["id"])
    calls = [c["wall_ms"] for c in system.upstream.calls_with("backoff ")]
    waits = [b - a for a, b in zip(calls, calls[1:])]
    assert failed_job["attempt"] == 5
    for wait, least in zip(waits, [100, 200, 400, 400]):
        assert least - 5 <= wait < least + 1500, waits


def test_keys_never_show(tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text("sk-very-secret-0123456789\n")
    key_file.chmod(0o600)
    with Quern(start=False) as q:
        text = q.settings.read_text()
        q.settings.write_text(text.replace("  - name: \"upstream\"\n    base_url", f"  - name: \"upstream\"\n    key_file: \"{key_file}\"\n    base_url"))
        assert str(key_file) in q.settings.read_text()
        q.start()
        done = q.submit("with a key [[fault=status_401]]", wait="20s")
        good = q.submit("with a key too", wait="20s")
        assert good["status"] == "completed"
        everything = str(done) + str(good) + "".join(q.logs(r) for r in q.ROLES) + q.redis("--scan")
        assert "sk-very-secret" not in everything
        for role in q.ROLES:
            for pid in [q.pid(role), *q.children(role)]:
                assert b"sk-very-secret" not in open(f"/proc/{pid}/cmdline", "rb").read()
                assert b"sk-very-secret" not in open(f"/proc/{pid}/environ", "rb").read()
