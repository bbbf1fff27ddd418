"""The HTTP edge against bytes no client should send (RFC 9112), and clients that are slow or leave."""

import contextlib
import socket
import time

import pytest

from quern import Quern, Http, raw, until

BODY = b'{"prompt":"hi"}'


def status(reply):
    return int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/1.") else None


def post(*lines, body=BODY, length=True):
    head = [b"POST /v1/jobs HTTP/1.1", b"Host: q", b"Content-Type: application/json", *lines]
    if length:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


MALFORMED = {
    "two equal lengths": post(b"Content-Length: 15"),
    "two different lengths": post(b"Content-Length: 3"),
    "a list of lengths": post(b"Content-Length: 15, 15", length=False),
    "a signed length": post(b"Content-Length: +15", length=False),
    "a hex length": post(b"Content-Length: 0xf", length=False),
    "a negative length": post(b"Content-Length: -1", length=False),
    "a length that overflows": post(b"Content-Length: 99999999999999999999", length=False),
    "an empty length": post(b"Content-Length:", length=False),
    "length and chunked": post(b"Transfer-Encoding: chunked"),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked", length=False),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked", length=False),
    "an unknown coding": post(b"Transfer-Encoding: identity", length=False),
    "a coding in quotes": post(b'Transfer-Encoding: "chunked"', length=False),
    "a space before the colon": post(b"X-A : b"),
    "a folded line": post(b"X-A: b\r\n c"),
    "a bare LF": b"POST /v1/jobs HTTP/1.1\nHost: q\nContent-Length: 15\n\n" + BODY,
    "a bare CR": post(b"X-A: b\rc"),
    "a NUL in a value": post(b"X-A: b\0c"),
    "a control byte in a name": post(b"X\x01A: b"),
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a line without a colon": post(b"nonsense"),
    "an empty name": post(b": b"),
    "a space in the path": b"GET /live z HTTP/1.1\r\nHost: q\r\n\r\n",
    "no version": b"GET /livez\r\nHost: q\r\n\r\n",
    "a lower-case method and junk": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a signed chunk": post(b"Transfer-Encoding: chunked", body=b"+f\r\n" + BODY + b"\r\n0\r\n\r\n", length=False),
    "a 0x chunk": post(b"Transfer-Encoding: chunked", body=b"0xf\r\n" + BODY + b"\r\n0\r\n\r\n", length=False),
    "a chunk that overflows": post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n" + BODY, length=False),
    "a chunk without its end": post(b"Transfer-Encoding: chunked", body=b"f\r\n" + BODY + b"XX0\r\n\r\n", length=False),
    "a chunk ended by LF": post(b"Transfer-Encoding: chunked", body=b"f\n" + BODY + b"\n0\n\n", length=False),
    "an empty chunk size": post(b"Transfer-Encoding: chunked", body=b"\r\n" + BODY + b"\r\n0\r\n\r\n", length=False),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_refused_and_the_connection_closed(system, name):
    reply = raw(system.port, MALFORMED[name] + b"GET /livez HTTP/1.1\r\nHost: q\r\n\r\n")
    assert status(reply) == 400, reply[:200]
    assert reply.count(b"HTTP/1.1 ") == 1, "what followed was taken for a request"
    assert b"connection: close" in reply.lower()


@pytest.mark.parametrize("request_, expected", [
    (b"GET /livez HTTP/2.0\r\nHost: q\r\n\r\n", 505),
    (b"GET /livez HTTP/1.1\r\nHost: q\r\nX-A: " + b"a" * 20000 + b"\r\n\r\n", 431),
    (b"GET /livez HTTP/1.1\r\nHost: q\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(200)) + b"\r\n", 431),
    (post(b"Expect: a-miracle"), 417),
])
def test_limits_have_their_own_answers(system, request_, expected):
    assert status(raw(system.port, request_)) == expected


LIMIT = 8 << 20  # api.body_bytes


@pytest.mark.parametrize("request_", [
    post(b"Content-Length: %d" % (LIMIT + 1), body=b"", length=False),
    post(b"Content-Length: %d" % (LIMIT + 1), b"Expect: 100-continue", body=b"", length=False),
    post(b"Content-Length: 999999999999999999", body=b"", length=False),
    post(b"Transfer-Encoding: chunked", body=b"%x\r\n" % (LIMIT + 1), length=False),
    post(b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\nffffffffffffffff\r\n", length=False),
])
def test_a_body_too_large_is_refused_before_it_is_sent(system, request_):
    began = time.monotonic()
    reply = raw(system.port, request_)
    assert status(reply) == 413 and reply.count(b"HTTP/1.1 ") == 1 and b"connection: close" in reply.lower(), reply[:300]
    assert time.monotonic() - began < 2


def padded(head, size):
    """`head` with one field that makes it `size` bytes long."""
    return head[:-2] + b"X-Pad: " + b"a" * (size - len(head) - 9) + b"\r\n\r\n"


@pytest.mark.parametrize("what, request_, expected", [
    ("line", b"GET /livez?%s HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n" % (b"a" * (8192 - 20)), 200),
    ("longer line", b"GET /livez?%s HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n" % (b"a" * (8193 - 20)), 431),
    ("head", padded(b"GET /livez HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n", 16384), 200),
    ("longer head", padded(b"GET /livez HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n", 16385), 431),
    ("fields", b"GET /livez HTTP/1.1\r\nHost: q\r\nConnection: close\r\n" + b"X: y\r\n" * 62 + b"\r\n", 200),
    ("more fields", b"GET /livez HTTP/1.1\r\nHost: q\r\nConnection: close\r\n" + b"X: y\r\n" * 63 + b"\r\n", 431),
])
def test_the_limits_of_a_head_are_where_they_are_said_to_be(system, what, request_, expected):
    reply = raw(system.port, request_)
    assert status(reply) == expected, reply[:300]


WORST = {
    "empty arrays": b'{"prompt":"x","metadata":{"a":[' + b"[],[]," * (LIMIT // 6 - 12) + b"[]]}}",
    "empty objects": b'{"prompt":"x","params":{"a":[' + b"{},{}," * (LIMIT // 6 - 12) + b"{}]}}",
    "keys": b'{"prompt":"x","params":{' + b",".join(b'"%x":0' % i for i in range(LIMIT // 11)) + b"}}",
    "equal keys at the end": b'{"prompt":"x","params":{' + b",".join(b'"%x":0' % i for i in range(LIMIT // 11)) + b',"0":1}}',
    "escapes": b'{"prompt":"' + b"\\u00e9" * (LIMIT // 6 - 9) + b'"}',
    "numbers": b'{"prompt":"x","params":{"a":[' + b"1e1," * (LIMIT // 4 - 12) + b"1]}}",
    "long numbers": b'{"prompt":"x","params":{"a":[' + (b"1" * 400 + b",") * (LIMIT // 401 - 1) + b"1]}}",
    "one long number": b'{"prompt":"x","params":{"a":' + b"1" * (LIMIT - 40) + b"}}",
    "depth at the end": b'{"prompt":"x","params":{"a":[' + b"0," * (LIMIT // 2 - 100) + b"[" * 60,
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_json_is_weighed_in_time_while_others_are_served(system, name):
    body = WORST[name]
    assert len(body) <= LIMIT
    with socket.create_connection(("127.0.0.1", system.port), timeout=20) as s:
        began = time.monotonic()
        s.sendall(post(b"Connection: close", body=body))
        assert system.request("GET", "/livez").status == 200
        code = status(s.recv(1000))
        assert code in (202, 400, 422) and time.monotonic() - began < 5, code


def test_an_http2_preface_is_no_request(system):
    reply = raw(system.port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    assert status(reply) in (400, 505) and reply.count(b"\r\n\r\n") == 1


def test_chunked_bodies_are_understood(system):
    body = b"5\r\n" + BODY[:5] + b"\r\nA;x=y\r\n" + BODY[5:] + b"\r\n0\r\nTrailer: t\r\n\r\n"
    reply = raw(system.port, post(b"Transfer-Encoding: chunked", b"Connection: close", body=body, length=False))
    assert status(reply) == 202, reply[:300]


def test_expect_100_continue(system):
    with socket.create_connection(("127.0.0.1", system.port), timeout=10) as s:
        s.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: q\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 15\r\n\r\n")
        assert s.recv(100).startswith(b"HTTP/1.1 100 ")
        s.sendall(BODY)
        assert s.recv(1000).startswith(b"HTTP/1.1 202 ")


def test_pipelined_requests_are_answered_in_order(system):
    slow = b'{"prompt":"first [[latency_ms=300]]"}'
    data = (b"POST /v1/jobs?wait=10s HTTP/1.1\r\nHost: q\r\nContent-Type: application/json\r\nX-Request-Id: r1\r\nContent-Length: %d\r\n\r\n" % len(slow) + slow
            + b"GET /livez HTTP/1.1\r\nHost: q\r\nX-Request-Id: r2\r\n\r\n"
            + b"GET /nowhere HTTP/1.1\r\nHost: q\r\nX-Request-Id: r3\r\nConnection: close\r\n\r\n")
    reply = raw(system.port, data, seconds=15)
    order = [reply.lower().find(b"x-request-id: r%d\r\n" % i) for i in (1, 2, 3)]
    assert -1 not in order and order == sorted(order), reply
    assert [int(part[:3]) for part in reply.split(b"HTTP/1.1 ")[1:]] == [200, 200, 404]


def test_one_byte_at_a_time(system):
    with socket.create_connection(("127.0.0.1", system.port), timeout=10) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(b"Connection: close"):
            s.sendall(bytes([byte]))
        assert s.recv(1000).startswith(b"HTTP/1.1 202 ")


def test_a_half_closed_client_still_gets_its_answer(system):
    reply = raw(system.port, b"GET /livez HTTP/1.1\r\nHost: q\r\n\r\n", shutdown=True)
    assert status(reply) == 200


def test_slow_heads_and_bodies_are_cut_and_others_are_served():
    with Quern({"api": {"head_ms": 500, "body_ms": 600, "idle_ms": 900}}, api_children=1) as q:
        with contextlib.ExitStack() as stack:
            def connect(data):
                s = stack.enter_context(socket.create_connection(("127.0.0.1", q.port), timeout=10))
                s.sendall(data)
                return s

            heads = [connect(b"GET /livez HTTP/1.1\r\nX-Slow: ") for _ in range(20)]
            bodies = [connect(b"POST /v1/jobs HTTP/1.1\r\nHost: q\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{") for _ in range(20)]
            idle = [connect(b"") for _ in range(20)]
            began = time.monotonic()
            for s in heads:  # a byte now and then does not buy more time
                s.sendall(b"a")
            assert q.submit("meanwhile", wait="20s")["status"] == "completed"
            for s in heads + bodies:
                got = s.recv(1000)
                assert got == b"" or status(got) == 408, got
            for s in idle:
                assert s.recv(1000) == b""
            assert time.monotonic() - began < 8


def test_a_caller_that_leaves_does_not_take_its_job_along(system):
    with socket.create_connection(("127.0.0.1", system.port), timeout=10) as s:
        body = b'{"prompt":"left alone [[latency_ms=300]]"}'
        s.sendall(b"POST /v1/jobs?wait=30s HTTP/1.1\r\nHost: q\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: system.upstream.calls_with("left alone") or system.stats()["active"] > 0, "the call runs")
    until(lambda: any(c["ended"] == "answered" for c in system.upstream.calls_with("left alone")), "the call was finished")


def test_many_idle_connections_cost_others_nothing(system):
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(socket.create_connection(("127.0.0.1", system.port), timeout=10))
        assert system.submit("in a crowd", wait="20s")["status"] == "completed"


def test_more_connections_than_allowed_wait_their_turn():
    with Quern({"api": {"connections": 16, "idle_ms": 1000}}, api_children=1) as q:
        with contextlib.ExitStack() as stack:
            for _ in range(64):
                stack.enter_context(socket.create_connection(("127.0.0.1", q.port), timeout=10))
            late = Http(q.port, timeout=30)
            assert late.request("GET", "/livez").status == 200
