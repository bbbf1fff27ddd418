"""Providers that answer as none should: each call ends with a name for what was wrong, in bounded memory, and others are served meanwhile."""

import contextlib
import gzip
import json
import re
import socket
import struct
import threading
import time

import pytest

from quern import Quern

AT_ONCE = 16
RESULT_MAX = 256 << 10
WHOLE_MAX = 4 * RESULT_MAX + (64 << 10)  # what a child keeps of one whole answer (worker/README.md)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MIB = b"a" * (1 << 20)
BOMB = gzip.compress(bytes(100 << 20), 9)  # 100 KB that would be 100 MB


def chunked(*parts):
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts)


def event(**delta):
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


def endless(first, again):
    def act(s):
        s.sendall(first)
        while True:
            s.sendall(again)
    return act


def once(data, after=None):
    def act(s):
        s.sendall(data)
        if after:
            after(s)
    return act


def half_close(s):
    s.shutdown(socket.SHUT_WR)
    while s.recv(65536):
        pass


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def drip(s):
    s.sendall(OK + b"Content-Length: 100000\r\n\r\n")
    while True:
        s.sendall(b" ")
        time.sleep(0.05)


def good(s):
    body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}]}).encode()
    s.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)


# name: (what it does, whether the job asks for a stream)
ACTS = {
    "ten_gigabytes": (endless(OK + b"Content-Length: 10737418240\r\n\r\n", MIB), False),
    "endless_chunks": (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", chunked(MIB)), False),
    "endless_error": (endless(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(MIB)), False),
    "endless_line": (endless(SSE, chunked(MIB)), True),
    "endless_event": (endless(SSE, chunked(b"data: " + MIB + b"\n")), True),
    "endless_comments": (endless(SSE, chunked(b": ping\n\n" * 1000)), True),
    "endless_content": (endless(SSE, chunked(event(content="x" * 1000) * 100)), True),
    "endless_tools": (endless(SSE, chunked(event(tool_calls=[{"index": 1, "id": "c", "function": {"name": "f", "arguments": "x" * 1000}}]) * 100)), True),
    "many_tools": (once(SSE + chunked(*(event(tool_calls=[{"index": i, "id": "c"}]) for i in (0, 127, 128, -1, 2**31, 2**63)))), True),
    "header_of_a_megabyte": (once(OK + b"X-A: " + MIB + b"\r\n\r\n{}"), False),
    "endless_headers": (endless(OK, b"X-A: " + b"a" * 1000 + b"\r\n"), False),
    "endless_interim": (endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100), False),
    "endless_trailers": (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"{}") + b"0\r\n", b"X-A: " + b"a" * 1000 + b"\r\n"), False),
    "endless_extension": (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 65536), False),
    "gzip_bomb": (once(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB), False),
    "redirect_to_itself": (once(b"HTTP/1.1 302 Found\r\nLocation: /v1/chat/completions\r\nContent-Length: 0\r\n\r\n"), False),
    "redirect_to_a_file": (once(b"HTTP/1.1 301 Moved\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"), False),
    "half_close": (once(OK + b"Content-Length: 1000\r\n\r\n{", half_close), False),
    "half_close_of_a_stream": (once(SSE + chunked(event(content="a")), half_close), True),
    "reset": (once(OK + b"Content-Length: 1000\r\n\r\n{", reset), False),
    "silence_and_close": (once(b""), False),
    "no_http": (once(b"SSH-2.0-OpenSSH_9.2\r\n"), False),
    "http_09": (once(b"<html>no head at all</html>\n" * 100), False),
    "http_2": (once(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)), False),
    "upgrade": (once(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n\x00"), False),
    "length_negative": (once(OK + b"Content-Length: -1\r\n\r\n{}"), False),
    "chunk_of_2_63": (once(OK + b"Transfer-Encoding: chunked\r\n\r\n8000000000000000\r\n{}"), False),
    "deep_json": (once(OK + b"Content-Length: 200000\r\n\r\n" + b"[" * 200000), False),
    "nul_bytes": (once(OK + b"Content-Length: 100000\r\n\r\n" + bytes(100000)), False),
    "not_utf8": (once(SSE + chunked(b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n', b"data: [DONE]\n\n")), True),
    "drip": (drip, False),
}


class Provider:
    """One thread per connection; the model that is asked for says how to answer."""

    def __init__(self):
        self.calls, self.listener = [], socket.create_server(("127.0.0.1", 0), backlog=256)
        self.base_url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def serve(self, s):
        with s, contextlib.suppress(OSError):
            s.settimeout(30)
            request = b""
            while b'"model":"' not in request or not request.rstrip().endswith(b"}"):
                data = s.recv(65536)
                if not data:
                    return
                request += data
            name = re.search(rb'"model":"(\w+)"', request).group(1).decode()
            self.calls.append(name)
            good(s) if name == "good" else ACTS[name][0](s)

    def close(self):
        self.listener.close()


def peak_mib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1)) >> 10


def forget_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w") as f:
        f.write("5")


@pytest.fixture(scope="module")
def hostile():
    provider = Provider()
    settings = {"credentials": [{"name": "c", "base_url": provider.base_url}],
                "deployments": [{"name": "d", "provider": "openai", "credential": "c"}], "routes": [{"name": "*", "deployments": ["d"]}],
                "worker": {"children": 1, "result_max_bytes": RESULT_MAX, "first_token_timeout_ms": 3000, "idle_timeout_ms": 3000}}
    with Quern(settings, workers=1, upstream=False) as q:
        q.provider = provider
        assert q.submit({"prompt": "x", "model": "good"}, wait="20s")["status"] == "completed"
        yield q
    provider.close()


@pytest.mark.parametrize("name", ACTS)
def test_a_hostile_answer_costs_bounded_memory_and_has_a_name(hostile, name):
    children = hostile.children("worker")
    for pid in children:
        forget_peak(pid)
    before = {pid: peak_mib(pid) for pid in children}
    jobs = [hostile.submit({"prompt": "x", "model": name, "stream": ACTS[name][1], "max_attempts": 1, "timeout_ms": 4000})["id"] for _ in range(AT_ONCE)]
    began = time.monotonic()
    assert hostile.submit({"prompt": "x", "model": "good"}, wait="20s")["status"] == "completed"
    assert time.monotonic() - began < 8, "another call was held up"
    for job in jobs:
        done = hostile.ended(job)
        assert done["status"] == "failed" and done["error"]["class"] not in ("", "internal", None), done
        assert len(done["attempts"]) == 1 and len(json.dumps(done)) < 20000, "the evidence is cut"
    assert hostile.provider.calls.count(name) <= AT_ONCE, "a call was made twice"  # fewer: some met a connection that it had closed
    assert hostile.children("worker") == children, "a child died"
    grown = max(peak_mib(pid) - before[pid] for pid in children)
    print(f"{name}: {grown} MiB more in the child of {AT_ONCE} such calls")
    assert grown <= 24 + (AT_ONCE * WHOLE_MAX >> 20)
