"""quern-upstream on the wire: every fault, directive and promise of README.md, byte by byte.

    /usr/bin/python3 -m pytest tests/upstream/selftest.py

Runs $QUERN_BUILD/quern-upstream (default build/).  Raw sockets on purpose: a client library would
hide the very bytes that are checked here.  Nothing sleeps to synchronise; waiting is done by
reading a socket or by GET /_calls with wait_ms.
"""
import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.path.join(os.environ.get("QUERN_BUILD", os.path.join(ROOT, "build")), "quern-upstream")
CHAT = "/v1/chat/completions"
PATIENCE = 20  # seconds after which a test gives up


# --- the process and a client ----------------------------------------------------------------------


class Upstream:
    def __init__(self, directory, *options):
        port_file = os.path.join(directory, "port")
        self.clients = []
        self.process = subprocess.Popen([BINARY, "--port-file", port_file, *options], stderr=subprocess.PIPE)
        deadline = time.monotonic() + PATIENCE
        while not os.path.exists(port_file):
            assert self.process.poll() is None and time.monotonic() < deadline, "did not start"
            time.sleep(0.005)
        with open(port_file) as f:
            self.port = int(f.read())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err.decode()

    def control(self, method, path, body=b""):
        reply = self.connect().ask(method, path, body).reply()
        assert reply.status == 200, reply.body
        return json.loads(reply.body)

    def calls(self, ended=1, **query):
        """The ended calls, once there are that many."""
        query = {"wait_ms": PATIENCE * 1000, "min": ended, **query}
        found = self.control("GET", "/_calls?" + "&".join(f"{k}={v}" for k, v in query.items()))
        assert len(found["calls"]) >= ended, "the call did not end in time"
        return found["calls"]

    def arrived(self, count):
        """The open calls, once that many calls have arrived."""
        return self.control("GET", f"/_calls?open=1&arrived={count}&wait_ms={PATIENCE * 1000}")["open"]

    def stats(self):
        return self.control("GET", "/_stats")

    def connect(self):
        self.clients.append(Client(self.port))
        return self.clients[-1]

    def hang_up(self):
        while self.clients:
            self.clients.pop().close()
        deadline = time.monotonic() + PATIENCE
        while (s := self.stats())["in_flight"] or s["connections"] > 1:
            assert time.monotonic() < deadline
            self.clients.pop().close()

    def chat(self, prompt="hello", **options):
        return self.connect().chat(prompt, **options)


class Reply:
    def __init__(self, status, headers, body, chunks, complete):
        self.status, self.headers, self.body, self.chunks, self.complete = status, headers, body, chunks, complete

    def json(self):
        return json.loads(self.body)

    def events(self):
        """The data of every SSE event, [DONE] included."""
        lines = self.body.decode().replace("\r\n", "\n").split("\n")
        return [line[6:] for line in lines if line.startswith("data: ")]

    def deltas(self):
        return [json.loads(e)["choices"][0]["delta"] for e in self.events() if '"delta"' in e]

    def text(self):
        return "".join(d.get("content") or "" for d in self.deltas())


class Client:
    """One connection.  What it has read and not used is in self.held."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.held = bytearray()

    def send(self, data):
        self.sock.sendall(data)
        return self

    def ask(self, method, path, body=b"", *headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: upstream", f"Content-Length: {len(body)}", *headers, "", ""]
        return self.send("\r\n".join(lines).encode() + body)

    def chat(self, prompt="hello", headers=(), model="m", **options):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], **options}
        return self.ask("POST", CHAT, body, "Content-Type: application/json", *headers)

    def read(self):
        """More bytes; False at the end of the connection."""
        data = self.sock.recv(65536)
        self.held += data
        return bool(data)

    def until(self, mark):
        while mark not in self.held:
            if not self.read():
                raise EOFError(self.held)
        before, self.held = self.held.split(mark, 1)
        return bytes(before)

    def exactly(self, n):
        while len(self.held) < n:
            if not self.read():
                raise EOFError(self.held)
        data = bytes(memoryview(self.held)[:n])
        del self.held[:n]
        return data

    def rest(self):
        while self.read():
            pass
        data, self.held = bytes(self.held), bytearray()
        return data

    def head(self):
        lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        return int(lines[0].split(" ")[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}

    def chunk(self):
        n = int(self.until(b"\r\n"), 16)
        data = self.exactly(n)
        assert self.exactly(2) == b"\r\n"
        return data

    def body(self, headers):
        """(body, chunks, whether it was complete)"""
        chunks = []
        if "content-length" in headers:
            n = int(headers["content-length"])
            try:
                return self.exactly(n), [], True
            except EOFError:
                return bytes(self.held), [], False
        if headers.get("transfer-encoding") != "chunked":
            return self.rest(), [], True
        try:
            while not chunks or chunks[-1]:
                chunks.append(self.chunk())
            return b"".join(chunks), chunks[:-1], True
        except EOFError:
            return b"".join(chunks), chunks, False

    def reply(self):
        status, headers = self.head()
        return Reply(status, headers, *self.body(headers))

    def closed(self):
        """Nothing more comes: the connection ended in order."""
        return not self.held and not self.read()

    def silent(self, seconds=0.15):
        """Nothing comes, and the connection stays open.  The one thing only time can show."""
        self.sock.settimeout(seconds)
        try:
            return self.read() and False
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)

    def close(self):
        self.sock.close()

    def abort(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    u = Upstream(str(tmp_path_factory.mktemp("upstream")))
    yield u
    code, err = u.stop()
    assert code == 0, err


@pytest.fixture
def up(process):
    process.control("POST", "/_reset")
    yield process
    process.hang_up()


# --- answers ---------------------------------------------------------------------------------------


def test_whole_answer_echoes_and_counts(up):
    r = up.chat("hello [[latency_ms=0]] é").reply()
    assert r.status == 200 and r.headers["content-type"] == "application/json"
    j = r.json()
    assert j["object"] == "chat.completion" and j["model"] == "m"
    assert j["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "refusal": None, "content": "echo: hello [[latency_ms=0]] é"},
        "finish_reason": "stop",
    }
    u = j["usage"]
    assert u["total_tokens"] == u["prompt_tokens"] + u["completion_tokens"] and u["prompt_tokens"] == 25 // 4


def test_stream_has_the_shape_of_the_protocol(up):
    r = up.chat("hi there", stream=True, stream_options={"include_usage": True}).reply()
    assert r.headers["content-type"].startswith("text/event-stream") and r.complete
    events = r.events()
    assert events[-1] == "[DONE]"
    chunks = [json.loads(e) for e in events[:-1]]
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"} and len({c["id"] for c in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(c["usage"] is None for c in chunks[:-1])
    assert chunks[-2]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 4
    assert r.text() == "echo: hi there" and len(r.chunks) == len(chunks) - 1  # usage, [DONE] and finish in one


def test_stream_without_usage_does_not_mention_it(up):
    assert b"usage" not in up.chat(stream=True).reply().body


def test_tokens_never_split_a_character(up):
    prompt = "aé€😀" * 20
    r = up.chat(prompt, stream=True).reply()
    assert r.text() == "echo: " + prompt and b"fffd" not in r.body


def test_last_user_message_counts_and_parts_are_joined(up):
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "no"},
    ]
    r = up.connect().ask("POST", CHAT, {"model": "m", "messages": messages}).reply()
    assert r.json()["choices"][0]["message"]["content"] == "echo: ab"


def test_models(up):
    r = up.connect().ask("GET", "/v1/models").reply()
    assert r.json()["object"] == "list" and r.json()["data"][0]["object"] == "model"


@pytest.mark.parametrize("method,path,status", [("GET", CHAT, 405), ("POST", "/v1/nothing", 404)])
def test_unserved_paths(up, method, path, status):
    assert up.connect().ask(method, path, b"").reply().status == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"m"}', b'{"messages":[]}', b'{"model":"m","messages":[{}]}'])
def test_bad_bodies_are_refused(up, body):
    r = up.connect().ask("POST", CHAT, body).reply()
    assert r.status == 400 and r.json()["error"]["code"] == "bad_request"


def test_invalid_utf8_is_answered_with_valid_json(up):
    body = b'{"model":"m","messages":[{"role":"user","content":"a\xff\xc0\xafb"}]}'
    r = up.connect().ask("POST", CHAT, body).reply()
    assert r.json()["choices"][0]["message"]["content"] == "echo: a\ufffd\ufffd\ufffdb"


# --- directives ------------------------------------------------------------------------------------


def took(call):
    return call["first_byte_ms"] - call["at_ms"]


def test_latency_is_before_the_first_byte(up):
    up.chat("[[latency_ms=60]]").reply()
    assert 60 <= took(up.calls()[0]) < 1000


def test_jitter_adds_at_most_itself(up):
    for _ in range(8):
        up.chat("[[latency_ms=10 latency_jitter_ms=20]]").reply()
    times = [took(c) for c in up.calls(8)]
    assert all(10 <= t < 500 for t in times) and max(times) - min(times) > 1


def test_token_rate_paces_a_stream(up):
    r = up.chat("[[tokens_per_s=200 tokens=21]]", stream=True).reply()
    call = up.calls()[0]
    assert len(r.chunks) >= 22 and call["tokens_sent"] == 21
    assert call["closed_ms"] - call["first_byte_ms"] >= 99


def test_token_rate_delays_a_whole_answer(up):
    up.chat("[[tokens_per_s=200 tokens=20]]").reply()
    assert took(up.calls()[0]) >= 100


@pytest.mark.parametrize("tokens", [0, 1, 500])
def test_tokens_sets_the_length(up, tokens):
    for stream in (False, True):
        r = up.chat(f"[[tokens={tokens}]]", stream=stream, stream_options={"include_usage": True}).reply()
        text = r.text() if stream else r.json()["choices"][0]["message"]["content"]
        usage = (json.loads(r.events()[-2]) if stream else r.json())["usage"]
        assert len(text) == 4 * tokens and usage["completion_tokens"] == tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_numbered_answer_says_which_call_it_is_of(up, stream):
    up.chat("before").reply()
    r = up.chat("hello [[numbered=1]]", stream=stream).reply()
    assert (r.text() if stream else r.json()["choices"][0]["message"]["content"]) == "echo 2: hello [[numbered=1]]"


def test_directives_in_the_model_name(up):
    r = up.chat("x", model="m?fault=status_429&retry_after=Wed,+21+Oct+2026%2007:28:00+GMT").reply()
    assert r.status == 429 and r.headers["retry-after"] == "Wed, 21 Oct 2026 07:28:00 GMT"


def test_the_prompt_wins_over_the_model_and_the_model_over_the_default(up):
    assert up.control("POST", "/_script", {"fault": "status_500", "retry_after": 7}) == {"fault": "status_500", "retry_after": "7"}
    assert up.chat("x").reply().status == 500
    assert up.chat("x", model="m?fault=status_503").reply().status == 503
    r = up.chat("[[fault=status_404]]", model="m?fault=status_503").reply()
    assert r.status == 404 and r.headers["retry-after"] == "7"
    assert up.connect().ask("GET", "/v1/models").reply().status == 500
    up.control("POST", "/_script", {})
    assert up.control("GET", "/_script") == {} and up.chat("x").reply().status == 200


@pytest.mark.parametrize(
    "script", ["fault=nosuch", "nosuch=1", "latency_ms=-1", "latency_ms=1x", "latency_ms=", "tokens=99999999999", "a=b=c", 'key="open']
)
def test_a_misspelt_script_is_refused(up, script):
    r = up.chat(f"[[{script}]]").reply()
    assert r.status == 400 and "script" in r.json()["error"]["message"]
    assert up.calls()[0]["fault"] == "bad_request"


@pytest.mark.parametrize("prompt", ["[[1,2],[3,4]]", "[[wiki link]]", "[[", "]] [[a", "[[]]"])
def test_other_brackets_are_text(up, prompt):
    assert up.chat(prompt).reply().status == 200


def test_a_header_cannot_be_injected(up):
    assert up.chat('[[fault=status_429 retry_after="1\r\nx: y"]]').reply().status == 400


def test_fail_first_counts_by_key(up):
    def status(prompt):
        return up.chat(prompt).reply()

    first = "[[fault=status_503 retry_after=1 fail_first=2 key=abc]]"
    replies = [status(first), status(first + "!"), status(first), status("[[fault=status_503 fail_first=2 key=other]]")]
    assert [r.status for r in replies] == [503, 503, 200, 503]
    assert "retry-after" in replies[0].headers and "retry-after" not in replies[2].headers
    assert [c["fault"] for c in up.calls(4)] == ["status_503", "status_503", "none", "status_503"]
    assert up.calls(4)[0]["key"] == "abc"


def test_fail_first_counts_by_prompt_without_a_key(up):
    prompt = "[[fault=status_500 fail_first=1]]"
    assert [up.chat(p).reply().status for p in (prompt, prompt, prompt + " other")] == [500, 200, 500]


@pytest.mark.parametrize("value", ["0", "-5", "99999999999999", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_retry_after_is_sent_as_it_is(up, value):
    r = up.chat(f'[[fault=status_429 retry_after="{value}" retry_after_ms=1500]]').reply()
    assert r.headers["retry-after"] == value and r.headers["retry-after-ms"] == "1500"


def test_ratelimit_headers(up):
    h = up.chat("[[ratelimit=500/499/120ms,30000//6m0s]]").reply().headers
    assert {k[12:]: v for k, v in h.items() if k.startswith("x-ratelimit-")} == {
        "limit-requests": "500",
        "remaining-requests": "499",
        "reset-requests": "120ms",
        "limit-tokens": "30000",
        "reset-tokens": "6m0s",
    }


# --- faults ----------------------------------------------------------------------------------------

STATUSES = {f"status_{n}": n for n in (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 503, 504, 529)}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault,status", [*STATUSES.items(), ("quota_429", 429), ("slow_down", 429)])
def test_status_faults(up, fault, status, stream):
    c = up.connect()
    r = c.chat(f"[[fault={fault}]]", stream=stream).reply()
    assert r.status == status and r.headers["content-type"] == "application/json"
    assert set(r.json()["error"]) == {"message", "type", "param", "code"}
    assert c.chat().reply().status == 200, "the connection stays usable"
    call = up.calls(2)[0]
    assert (call["status"], call["fault"], call["ended"], call["stream"]) == (status, fault, "answered", stream)


def test_quota_names_itself(up):
    e = up.chat("[[fault=quota_429]]").reply().json()["error"]
    assert e["type"] == e["code"] == "insufficient_quota"


def test_502_is_html(up):
    r = up.chat("[[fault=status_502_html]]").reply()
    assert r.status == 502 and r.headers["content-type"] == "text/html" and r.body.startswith(b"<html>")


def test_redirect_and_whoever_follows_is_seen(up):
    r = up.chat("[[fault=redirect]]").reply()
    assert r.status == 307
    assert up.connect().ask("POST", r.headers["location"], b"{}").reply().status == 404
    assert up.calls(2)[1]["path"] == "/redirected"


@pytest.mark.parametrize("leave", [Client.close, Client.abort])
@pytest.mark.parametrize("stream", [False, True])
def test_hang_says_nothing_and_notices_the_caller_leave(up, stream, leave):
    c = up.chat("[[fault=hang key=k]]", stream=stream)
    (seen,) = up.arrived(1)
    assert (seen["key"], seen["ended"], seen["closed_ms"]) == ("k", None, None) and c.silent()
    assert up.stats()["in_flight"] == 1
    left = time.monotonic() * 1000
    leave(c)
    call = up.calls()[0]
    assert call["ended"] == "client_closed" and call["status"] is None and call["first_byte_ms"] is None
    assert call["bytes_sent"] == 0 and left <= call["closed_ms"] < left + 500
    assert up.stats()["in_flight"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_hang_headers(up, stream):
    c = up.chat("[[fault=hang_headers]]", stream=stream)
    status, headers = c.head()
    assert status == 200 and ("transfer-encoding" in headers) == stream and c.silent()
    c.close()
    call = up.calls()[0]
    assert call["ended"] == "client_closed" and call["status"] == 200 and call["tokens_sent"] == 0


def test_stall_in_a_stream(up):
    c = up.chat("hello [[fault=stall after_tokens=3]]", stream=True)
    c.head()
    chunks = [c.chunk() for _ in range(4)]
    assert b'"role"' in chunks[0] and c.silent()
    c.close()
    call = up.calls()[0]
    assert (call["ended"], call["tokens_sent"]) == ("client_closed", 3)


def test_stall_in_a_whole_answer(up):
    c = up.chat("[[fault=stall]]")
    _, headers = c.head()
    n = int(headers["content-length"])
    c.exactly(n // 2)
    assert c.silent()
    c.close()
    assert up.calls()[0]["ended"] == "client_closed"


def test_cut_in_a_stream(up):
    c = up.chat("[[fault=cut after_tokens=2]]", stream=True)
    r = c.reply()
    assert not r.complete and len(r.chunks) == 3 and "[DONE]" not in r.events()
    call = up.calls()[0]
    assert (call["ended"], call["tokens_sent"]) == ("cut", 2)


def test_cut_before_the_first_and_after_the_last_token(up):
    assert up.chat("[[fault=cut after_tokens=0]]", stream=True).reply().text() == ""
    r = up.chat("[[fault=cut after_tokens=999]]", stream=True).reply()
    assert r.text() == "echo: [[fault=cut after_tokens=999]]" and not r.complete and "stop" not in r.body.decode()


def test_cut_in_a_whole_answer(up):
    r = up.chat("[[fault=cut]]").reply()
    assert not r.complete and len(r.body) == int(r.headers["content-length"]) // 2
    assert up.calls()[0]["ended"] == "cut"


def test_reset_before_the_first_byte(up):
    c = up.chat("[[fault=reset]]")
    with pytest.raises(ConnectionResetError):
        c.read()
    call = up.calls()[0]
    assert call["ended"] == "reset" and call["bytes_sent"] == 0 and call["status"] is None


def test_reset_in_mid_stream(up):
    c = up.chat("[[fault=reset after_tokens=2 tokens_per_s=50]]", stream=True)
    with pytest.raises(ConnectionResetError):
        c.reply()
    assert up.calls()[0]["tokens_sent"] == 2


def test_early_close(up):
    assert up.chat("[[fault=early_close latency_ms=60000]]").closed()
    assert up.calls()[0]["ended"] == "cut"


@pytest.mark.parametrize("stream", [False, True])
def test_garbage(up, stream):
    r = up.chat("[[fault=garbage]]", stream=stream).reply()
    assert r.status == 200 and r.complete
    with pytest.raises(ValueError):
        r.json()
    assert b"data:" not in r.body


def test_truncated_json(up):
    r = up.chat("[[fault=truncated_json]]").reply()
    assert r.complete
    with pytest.raises(ValueError):
        r.json()
    r = up.chat("[[fault=truncated_json after_tokens=1]]", stream=True).reply()
    assert r.complete and len(r.events()) == 3 and "[DONE]" not in r.events()
    with pytest.raises(ValueError):
        json.loads(r.events()[-1])


@pytest.mark.parametrize("stream", [False, True])
def test_wrong_length(up, stream):
    c = up.chat("[[fault=wrong_length]]", stream=stream)
    r = c.reply()
    assert not r.complete and int(r.headers["content-length"]) > len(r.body)
    assert (r.events()[-1] == "[DONE]") if stream else r.json()
    assert up.calls()[0]["ended"] == "cut"


@pytest.mark.parametrize("stream", [False, True])
def test_chunk_overflow(up, stream):
    c = up.chat("[[fault=chunk_overflow after_tokens=0]]", stream=stream)
    _, headers = c.head()
    assert headers["transfer-encoding"] == "chunked"
    c.chunk()
    assert int(c.until(b"\r\n"), 16) > 2**64
    c.rest()
    assert up.calls()[0]["ended"] == "cut"


def test_slow_drip_sends_the_head_at_once_and_then_single_bytes(up):
    c = up.chat("[[fault=slow_drip drip_ms=2]]")
    _, headers = c.head()
    sizes = []
    while sum(sizes) < int(headers["content-length"]):
        c.read()
        sizes.append(len(c.held))
        c.held.clear()
    assert len(sizes) > sum(sizes) // 2, "mostly one byte per read"
    call = up.calls()[0]
    assert call["closed_ms"] - call["first_byte_ms"] >= 2 * (sum(sizes) - 1)


def test_leaving_a_drip_is_noticed(up):
    c = up.chat("[[fault=slow_drip drip_ms=60000]]")
    c.head()
    c.close()
    assert up.calls()[0]["ended"] == "client_closed"


@pytest.mark.parametrize("stream", [False, True])
def test_split_is_the_same_answer_in_single_bytes(up, stream):
    c = up.chat("é [[fault=split]]", stream=stream)
    reads = 0
    while not c.held.endswith(b"0\r\n\r\n" if stream else b'"default"}'):
        c.read()
        reads += 1
    size = len(c.held)
    r = c.reply()
    assert (r.text() if stream else r.json()["choices"][0]["message"]["content"]) == "echo: é [[fault=split]]"
    assert reads > size // 10, "the kernel may join some, not most"


@pytest.mark.parametrize("size", [1000, 5_000_000])
def test_huge_body_has_the_asked_size(up, size):
    r = up.chat(f"[[fault=huge_body bytes={size}]]").reply()
    assert len(r.body) == size and r.json()["usage"]["completion_tokens"] == size // 4
    r = up.chat(f"[[fault=huge_body bytes={size}]]", stream=True).reply()
    assert len(r.body) == size and r.events()[-1] == "[DONE]" and len(r.text()) < size


def rss_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def sanitized():
    with open(BINARY, "rb") as f:
        return b"__asan_init" in f.read()


@pytest.mark.skipif(sanitized(), reason="the sanitizer keeps what was freed")
def test_huge_body_is_not_held_in_memory(up):
    before = rss_kib(up.process.pid)
    c = up.chat("[[fault=huge_body bytes=20000000000]]")
    c.head()
    for _ in range(200):
        c.held.clear()
        c.read()
    assert rss_kib(up.process.pid) - before < 8 * 1024
    c.close()
    assert up.calls()[0]["ended"] == "client_closed"


@pytest.mark.parametrize("stream", [False, True])
def test_huge_header(up, stream):
    r = up.chat("[[fault=huge_header bytes=300000]]", stream=stream).reply()
    assert len(r.headers["x-filler"]) == 299999 and r.complete


def test_error_in_a_200(up):
    for stream in (False, True):
        r = up.chat("[[fault=error_200]]", stream=stream).reply()
        assert r.status == 200 and r.headers["content-type"] == "application/json" and r.json()["error"]["message"]


def test_error_in_mid_stream(up):
    r = up.chat("[[fault=error_midstream after_tokens=2]]", stream=True).reply()
    assert r.complete and len(r.events()) == 4 and "error" in json.loads(r.events()[-1])
    assert "error" in up.chat("[[fault=error_midstream]]").reply().json()


def test_no_usage(up):
    assert "usage" not in up.chat("[[fault=no_usage]]").reply().json()
    r = up.chat("[[fault=no_usage]]", stream=True, stream_options={"include_usage": True}).reply()
    assert b"prompt_tokens" not in r.body and r.events()[-1] == "[DONE]"


def test_keepalive_comments(up):
    r = up.chat("[[fault=keepalive_comments]]", stream=True).reply()
    assert r.body.startswith(b"\n\n: keep-alive\n\n") and r.text().startswith("echo: ") and r.events()[-1] == "[DONE]"
    r = up.chat("[[fault=keepalive_comments]]").reply()
    assert r.body.startswith(b"\n\n") and r.json()["choices"]


@pytest.mark.parametrize("stream", [False, True])
def test_keepalive_comments_come_while_the_first_token_is_awaited(up, stream):
    c = up.chat("[[fault=keepalive_comments latency_ms=60000 drip_ms=20]]", stream=stream)
    c.head()
    for _ in range(4):
        assert c.chunk().strip() in (b"", b": keep-alive")
    c.close()
    assert up.calls()[0]["tokens_sent"] == 0


def test_crlf(up):
    r = up.chat("[[fault=crlf]]", stream=True).reply()
    assert r.body.count(b"\n") == r.body.count(b"\r\n") > 4 and r.events()[-1] == "[DONE]"


def test_malformed_line_then_good_ones(up):
    r = up.chat("[[fault=malformed_line after_tokens=1]]", stream=True).reply()
    with pytest.raises(ValueError):
        json.loads(r.events()[2])
    good = [json.loads(e) for i, e in enumerate(r.events()[:-1]) if i != 2]
    text = "".join(g["choices"][0]["delta"].get("content", "") for g in good)
    assert r.complete and text == "echo: [[fault=malformed_line after_tokens=1]]" and r.events()[-1] == "[DONE]"


def test_finish_length(up):
    assert up.chat("[[fault=finish_length]]").reply().json()["choices"][0]["finish_reason"] == "length"
    assert '"finish_reason":"length"' in up.chat("[[fault=finish_length]]", stream=True).reply().body.decode()


def test_ollama(up):
    def ask(prompt, **options):
        body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **options}
        return up.connect().ask("POST", "/api/chat", body).reply()

    def lines(reply):
        assert reply.headers["content-type"] == "application/x-ndjson" and reply.complete
        return [json.loads(line) for line in reply.body.decode().splitlines() if line]

    streamed = lines(ask("hi there"))
    assert "".join(o["message"]["content"] for o in streamed) == "echo: hi there"
    assert [o["done"] for o in streamed] == [False] * (len(streamed) - 1) + [True]
    assert streamed[-1]["done_reason"] == "stop" and streamed[-1]["eval_count"] == len(streamed) - 1
    whole = ask("hi there", stream=False).json()
    assert whole["message"]["content"] == "echo: hi there" and whole["done"] is True
    called = lines(ask("hi [[fault=tool_calls]]", tools=[{"function": {"name": "f"}}]))
    assert called[-2]["message"]["tool_calls"][0]["function"]["name"] == "f" and called[0]["message"]["thinking"]
    assert "error" in lines(ask("hi [[fault=error_midstream after_tokens=1]]"))[-1]
    assert lines(ask("hi [[fault=finish_length]]"))[-1]["done_reason"] == "length"
    refused = ask("hi [[fault=status_404]]")
    assert refused.status == 404 and isinstance(refused.json()["error"], str)
    assert up.connect().ask("GET", "/api/tags").reply().json()["models"][0]["name"] == "echo:latest"
    assert up.connect().ask("POST", "/api/chat", {"model": "m"}).reply().status == 400


def test_tool_calls(up):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    prompt = 'say "é" [[fault=tool_calls]]'
    choice = up.chat(prompt, tools=tools).reply().json()["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    assert call["function"]["name"] == "weather" and json.loads(call["function"]["arguments"]) == {"text": prompt}

    r = up.chat(prompt, tools=tools, stream=True).reply()
    pieces = [d["tool_calls"][0] for d in r.deltas() if "tool_calls" in d]
    assert pieces[0]["id"] and pieces[0]["function"] == {"name": "weather", "arguments": ""}
    assert all("id" not in p for p in pieces[1:]) and len(pieces) > 4
    assert json.loads("".join(p["function"]["arguments"] for p in pieces)) == {"text": prompt}
    assert '"finish_reason":"tool_calls"' in r.events()[-2]


def test_1xx_flood(up):
    c = up.chat("[[fault=status_1xx_flood bytes=20000]]")
    early = 0
    while (status := c.head()[0]) == 103:
        early += 1
    assert status == 200 and early * 53 >= 20000


def test_every_fault_is_in_the_readme_and_tested():
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "fault.def")) as f:
        rows = f.read().split("/* Not for scripts")[0]
    names = [line.split('"')[1] for line in rows.split("\n") if line.startswith("FAULT(")]
    with open(os.path.join(here, "README.md")) as f:
        readme = f.read()
    with open(__file__) as f:
        tests = f.read()
    assert len(names) > 40
    assert [n for n in names if f"`{n}`" not in readme] == []
    assert [n for n in names if n not in ("none", *STATUSES) and n not in tests] == []


# --- the calls' memory -----------------------------------------------------------------------------


def test_a_call_is_described(up):
    headers = ("Authorization: Bearer sk-secret", "Idempotency-Key: i-1", "X-Request-Id: r-1", "traceparent: 00-ab-cd-01")
    caller = up.connect()
    caller.chat("x" * 199 + "é [[key=k]]", headers=headers).reply()
    (call,) = up.calls()
    assert call["prompt_head"] == "x" * 199 and call["key"] == "k" and call["model"] == "m"
    assert (call["idempotency_key"], call["x_request_id"], call["traceparent"]) == ("i-1", "r-1", "00-ab-cd-01")
    assert call["authorization"] == len("Bearer sk-secret") and "secret" not in json.dumps(call)
    assert call["n"] == 1 and call["method"] == "POST" and call["path"] == CHAT
    assert call["at_ms"] <= call["first_byte_ms"] <= call["closed_ms"] <= time.monotonic() * 1000
    assert abs(call["wall_ms"] - time.time() * 1000) < 60000
    assert call["peer_port"] == caller.sock.getsockname()[1]


def test_calls_are_read_on_from_a_position(up):
    for i in range(3):
        up.chat(f"p{i}").reply()
    page = up.control("GET", "/_calls?since=1&limit=1")
    assert page["next"] == 2 and page["lost"] == 0 and page["calls"][0]["prompt_head"] == "p1"
    assert up.control("GET", "/_calls?since=3")["calls"] == []


def test_calls_are_ordered_by_their_end(up):
    slow = up.chat("slow [[fault=hang]]")
    up.arrived(1)
    up.chat("fast").reply()
    slow.close()
    assert [(c["n"], c["prompt_head"][:4]) for c in up.calls(2)] == [(2, "fast"), (1, "slow")]


@pytest.mark.parametrize("what", ["min=2", "arrived=2"])
def test_whoever_waits_is_answered_when_it_happens(up, what):
    waiting = up.connect().ask("GET", f"/_calls?wait_ms=600000&{what}")
    up.chat("one").reply()
    assert waiting.silent()
    up.chat("two").reply()
    assert len(json.loads(waiting.reply().body)["calls"]) >= 1


def test_waiting_for_calls_ends_by_itself(up):
    assert up.control("GET", "/_calls?wait_ms=20") == {"next": 0, "lost": 0, "calls": []}
    c = up.connect().ask("GET", "/_calls?wait_ms=60000")
    c.close()
    assert up.chat().reply().status == 200


def test_stats_add_up(up):
    up.chat().reply()
    up.chat("[[fault=status_500]]").reply()
    up.chat("[[fault=cut]]").reply()
    hanging = up.chat("[[fault=hang]]")
    up.arrived(4)
    s = up.stats()
    assert (s["arrived"], s["ended"], s["in_flight"], s["peak_in_flight"]) == (4, 3, 1, 1)
    assert s["by_status"] == {"200": 2, "500": 1} and s["by_fault"] == {"none": 1, "status_500": 1, "cut": 1}
    assert s["by_ended"] == {"answered": 2, "cut": 1} and s["connections"] >= 2
    hanging.close()


def test_reset_forgets_even_calls_still_open(up):
    hanging = up.chat("[[fault=hang]]")
    up.arrived(1)
    up.control("POST", "/_reset")
    assert up.stats()["in_flight"] == 1
    hanging.close()
    up.chat("new").reply()
    (call,) = up.calls()
    assert call["n"] == 1 and call["prompt_head"] == "new"
    while up.stats()["in_flight"]:
        pass


def test_the_log_has_the_same_calls_and_stop_is_clean(tmp_path):
    log = tmp_path / "log"
    u = Upstream(str(tmp_path), "--log", str(log), "--threads", "no")
    u.chat("one", headers=("Authorization: Bearer sk-secret",)).reply()
    one = u.calls()
    hanging = u.chat("[[fault=hang]]")
    u.arrived(2)
    assert [json.loads(line) for line in log.read_text().splitlines()] == one
    code, err = u.stop()
    assert code == 0 and err == f"quern-upstream: listening on port {u.port}\n"
    assert [json.loads(line)["ended"] for line in log.read_text().splitlines()] == ["answered", "shutdown"]
    assert "secret" not in log.read_text() and hanging.closed()


def test_quiet_keeps_the_ring_and_writes_nothing(tmp_path):
    u = Upstream(str(tmp_path), "--quiet", "--log", str(tmp_path / "log"))
    u.chat().reply()
    assert len(u.calls()) == 1 and not (tmp_path / "log").exists()
    assert u.stop() == (0, "")


@pytest.mark.parametrize("options", [["--listen", "nowhere"], ["--threads", "2"], ["--nosuch"], ["extra"], ["--log", "/nonexistent/log"]])
def test_bad_options_are_refused(options):
    assert subprocess.run([BINARY, *options], capture_output=True, timeout=PATIENCE).returncode == 1


# --- HTTP ------------------------------------------------------------------------------------------

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()


def request(*headers, body=BODY, line=f"POST {CHAT} HTTP/1.1"):
    return "\r\n".join([line, "Host: h", *headers, "", ""]).encode() + body


def chunked(*pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def test_keep_alive_and_pipelining(up):
    accepted = up.stats()["accepted"]
    c = up.connect().send(request(f"Content-Length: {len(BODY)}") * 50)
    assert [c.reply().status for _ in range(50)] == [200] * 50
    assert c.chat("again").reply().status == 200
    assert up.stats()["accepted"] == accepted + 2  # c, and who asks


def test_pipelined_requests_wait_for_the_answer_before(up):
    c = up.chat("[[latency_ms=50]]").chat("second")
    assert "latency" in c.reply().body.decode() and "second" in c.reply().body.decode()


@pytest.mark.parametrize("fault", ["cut", "early_close"])
def test_what_was_pipelined_behind_a_cut_is_not_answered(up, fault):
    c = up.chat(f"[[fault={fault} latency_ms=50]]").chat("second")
    try:
        assert b"second" not in c.rest()
    except ConnectionResetError:
        pass
    assert up.stats()["arrived"] == 1


def test_leaving_is_noticed_behind_pipelined_bytes(up):
    c = up.chat("[[fault=hang]]")
    up.arrived(1)
    for _ in range(4):
        c.send(b"x" * 30_000)  # more than is read ahead; the socket's buffer holds the rest
        up.stats()
    c.close()
    assert up.calls()[0]["ended"] == "client_closed"


def test_chunked_request(up):
    data = request("Transfer-Encoding: chunked", body=chunked(BODY[:1], BODY[1:7], BODY[7:]))
    assert up.connect().send(data).reply().status == 200
    c = up.connect()
    for i in range(len(data)):  # every boundary
        c.send(data[i : i + 1])
    c.send(data)
    assert c.reply().status == c.reply().status == 200


def test_chunk_extensions_and_trailers_are_passed_over(up):
    body = b"%x;a=b\r\n%s\r\n0\r\nX-Trailer: y\r\n\r\n" % (len(BODY), BODY)
    c = up.connect().send(request("Transfer-Encoding: chunked", body=body))
    assert c.reply().status == 200 and c.chat().reply().status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_expect_continue(up, framing):
    header = f"Content-Length: {len(BODY)}" if framing == "length" else "Transfer-Encoding: chunked"
    c = up.connect().send(request(header, "Expect: 100-continue", body=b""))
    assert c.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
    c.send(BODY if framing == "length" else chunked(BODY))
    assert c.reply().status == 200


def big_body(size):
    front, back = b'{"model":"m","messages":[{"role":"user","content":"', b'"}]}'
    return front + b"x" * (size - len(front) - len(back)) + back


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_of_32_mib_is_taken(up, framing):
    body = big_body(32 * 1024 * 1024)
    header = f"Content-Length: {len(body)}" if framing == "length" else "Transfer-Encoding: chunked"
    pieces = [body[i : i + 1_000_000] for i in range(0, len(body), 1_000_000)]
    c = up.connect().send(request(header, body=body if framing == "length" else chunked(*pieces)))
    r = c.reply()
    assert r.status == 200 and r.json()["usage"]["prompt_tokens"] > 8_000_000


def test_a_larger_body_is_refused_and_the_refusal_arrives(up):
    c = up.connect().send(request(f"Content-Length: {32 * 1024 * 1024 + 1}", body=b"x" * 100_000))
    assert c.reply().status == 413 and c.closed()
    c = up.connect().send(request("Transfer-Encoding: chunked", body=b"ffffffff\r\n"))
    assert c.reply().status == 413


def test_http_1_0(up):
    c = up.connect().send(request(f"Content-Length: {len(BODY)}", line=f"POST {CHAT} HTTP/1.0"))
    r = c.reply()
    assert r.status == 200 and r.headers["connection"] == "close" and c.closed()
    body = BODY.replace(b'"m"', b'"m","stream":true')
    c = up.connect().send(request(f"Content-Length: {len(body)}", line=f"POST {CHAT} HTTP/1.0", body=body))
    r = c.reply()
    assert "transfer-encoding" not in r.headers and r.events()[-1] == "[DONE]"


def test_connection_close_is_obeyed(up):
    c = up.chat(headers=("Connection: close",))
    r = c.reply()
    assert r.headers["connection"] == "close" and c.closed()


N = len(BODY)
REFUSED = {
    "no host": b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), N) + BODY,
    "two hosts": request("Host: g", f"Content-Length: {N}"),
    "differing lengths": request(f"Content-Length: {N}", "Content-Length: 5"),
    "length with sign": request("Content-Length: +5"),
    "length and chunked": request(f"Content-Length: {N}", "Transfer-Encoding: chunked"),
    "odd transfer coding": request("Transfer-Encoding: gzip, chunked"),
    "space before colon": request(f"Content-Length : {N}"),
    "folded header": request("X-A: b", " c"),
    "NUL in a value": request("X-A: b\0c"),
    "bare LF": request("X-A: b\nX-B: c"),
    "no version": request(line=f"POST {CHAT}"),
    "HTTP/2": request(line=f"POST {CHAT} HTTP/2.0"),
    "not a path": request(line="POST http://h/ HTTP/1.1"),
    "hex prefix in chunk": request("Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk not ended": request("Transfer-Encoding: chunked", body=b"5\r\nhelloXX0\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_http_is_refused(up, name):
    c = up.connect().send(REFUSED[name])
    assert c.reply().status == 400 and c.closed()
    s = up.stats()
    assert s["arrived"] == 0 and s["refused_requests"] >= 1


def test_a_head_without_end_is_refused(up):
    assert up.connect().send(b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000).reply().status == 431


def test_a_caller_who_leaves_in_mid_request_is_counted(up):
    before = up.stats()["incomplete_requests"]
    up.connect().send(b"POST /v1/chat").close()
    deadline = time.monotonic() + PATIENCE
    while up.stats()["incomplete_requests"] == before:
        assert time.monotonic() < deadline
    assert up.stats()["arrived"] == 0


def test_many_connections(up):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        clients = [up.chat("[[fault=hang]]") for _ in range(count)]
        assert len(up.arrived(count)) == count and up.stats()["peak_connections"] >= count
        for c in clients:
            c.close()
        assert {c["ended"] for c in up.calls(count)} == {"client_closed"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
