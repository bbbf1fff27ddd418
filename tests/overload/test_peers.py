"""Clients that take without end or give nothing (P6): others are served as before, memory is bounded, and what they held comes back."""

import contextlib
import os
import resource
import selectors
import socket
import struct
import threading
import time

import pytest

from quern import Http, Quern, until

IDLE = 10000


def usual(alone_ms, busy_ms):
    """As fast as without them, for a machine that does other things too."""
    return busy_ms < max(4 * alone_ms, 150)


def p99(port, seconds, path="/livez"):
    """Of a client that asks every few ms, in ms."""
    client, took, end = Http(port), [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        assert client.request("GET", path).status == 200
        took.append((time.monotonic() - began) * 1000)
        time.sleep(0.004)
    client.close()
    return sorted(took)[int(len(took) * 0.99)]


def memory_kib(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            total += next(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    return total


def descriptors(pids):
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


class Crowd:
    """Raw connections, and a thread that acts for all of them every so often."""

    def __init__(self, port, count, first=b"", receive_bytes=None):
        self.sockets, self.stop = [], threading.Event()
        for _ in range(count):
            s = socket.socket()
            if receive_bytes:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            s.connect(("127.0.0.1", port))
            s.setblocking(False)
            if first:
                with contextlib.suppress(BlockingIOError):
                    s.send(first)
            self.sockets.append(s)

    def drip(self, data, every):
        def act():
            while not self.stop.wait(every):
                for s in self.sockets:
                    with contextlib.suppress(OSError):
                        s.send(data)
        self.thread = threading.Thread(target=act, daemon=True)
        self.thread.start()
        return self

    def ended(self):
        """How many the other side has ended; what they were told first is thrown away."""
        ended = 0
        for s in self.sockets:
            try:
                while s.recv(65536):
                    pass
                ended += 1
            except BlockingIOError:
                pass
            except OSError:
                ended += 1
        return ended

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop.set()
        for s in self.sockets:
            s.close()


def get(job):
    return b"GET /v1/jobs/%s HTTP/1.1\r\nHost: q\r\n\r\n" % job.encode()


def large_job(q):
    return q.submit({"prompt": "large [[tokens=900000]]"}, wait="30s")["id"]  # 3.6 MB


@pytest.mark.long
def test_ten_thousand_idle_connections():
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with Quern(workers=1) as q:
        q.submit("warm", wait="10s")
        alone, children = p99(q.port, 2), q.children("api")
        before = memory_kib(children)
        with Crowd(q.port, IDLE, b"GET /livez HTTP/1.1\r\nHost: q\r\n\r\n") as crowd:
            until(lambda: descriptors(children) > IDLE, "all are taken")
            busy = p99(q.port, 2)
            after = memory_kib(children)
            assert crowd.ended() == 0
            print(f"\n{IDLE} idle connections: p99 {alone:.1f} ms without, {busy:.1f} ms with; {(after - before) / IDLE:.2f} KiB each")
            assert usual(alone, busy) and (after - before) / IDLE < 2
        until(lambda: descriptors(children) < 200, "they are gone")
        assert q.children("api") == children


@pytest.mark.long
@pytest.mark.parametrize("first, drop, what", [
    (b"POST /v1/jobs HTTP/1.1\r\nHost: q\r\n", b"X", "head"),
    (b"POST /v1/jobs HTTP/1.1\r\nHost: q\r\nContent-Length: 100000\r\n\r\n{", b" ", "body")], ids=["head", "body"])
def test_requests_that_never_end_are_ended(first, drop, what):
    """One byte at a time does not start the clock again."""
    with Quern({"api": {"head_ms": 1500, "body_ms": 1500}}, workers=1, api_children=1) as q:
        alone, children = p99(q.port, 1), q.children("api")
        with Crowd(q.port, 1000, first) as crowd:
            crowd.drip(drop, 0.2)
            busy = p99(q.port, 1)
            until(lambda: crowd.ended() == 1000, f"every {what} is given up", 5, every=0.1)
        print(f"\nslow {what}: p99 {alone:.1f} ms without, {busy:.1f} ms with a thousand of them")
        assert usual(alone, busy)
        until(lambda: descriptors(children) < 100, "they are gone")


@pytest.mark.long
def test_readers_that_take_nothing_are_cut():
    with Quern({"api": {"write_ms": 1500}}, workers=1, api_children=1) as q:
        job, alone, children = large_job(q), p99(q.port, 1), q.children("api")
        most = 0
        with Crowd(q.port, 50, get(job) * 16, receive_bytes=4096):
            began = time.monotonic()
            while time.monotonic() - began < 3:
                most = max(most, memory_kib(children))
                time.sleep(0.05)
            until(lambda: descriptors(children) < 100, "they are cut", 10)
        busy = p99(q.port, 1)
        print(f"\n50 readers of 16 x 3.6 MB that take nothing: at most {most >> 10} MiB")
        assert most < 400 << 10 and usual(alone, busy)


@pytest.mark.long
def test_one_who_pipelines_large_answers_does_not_hold_a_child():
    with Quern(workers=1, api_children=1) as q:
        job, small, stop, got = large_job(q), q.submit("small", wait="10s")["id"], threading.Event(), [0]
        alone = p99(q.port, 1, f"/v1/jobs/{small}")

        def hog():
            with socket.create_connection(("127.0.0.1", q.port)) as s, selectors.DefaultSelector() as ready:
                s.setblocking(False)
                ready.register(s, selectors.EVENT_READ | selectors.EVENT_WRITE)
                while not stop.is_set():
                    for _, what in ready.select(0.5):
                        with contextlib.suppress(BlockingIOError):
                            if what & selectors.EVENT_WRITE:
                                s.send(get(job))
                            if what & selectors.EVENT_READ:
                                got[0] += len(s.recv(1 << 20))
        thread = threading.Thread(target=hog, daemon=True)
        thread.start()
        until(lambda: got[0] > 50e6, "it is at work")
        busy = p99(q.port, 4, f"/v1/jobs/{small}")
        stop.set()
        thread.join(10)
        print(f"\nbeside one that pipelines 3.6 MB answers: p99 {busy:.1f} ms, {alone:.1f} ms without")
        assert busy < 300


@pytest.mark.long
def test_clients_that_leave_at_every_byte():
    """A request that was whole is a job, whoever waits for its answer; half a one is nothing; and no descriptor is left behind."""
    with Quern(workers=1, api_children=1) as q:
        q.submit("warm", wait="10s")
        children, before = q.children("api"), descriptors(q.children("api"))

        def request(key):
            body = b'{"prompt":"left"}'
            return (b"POST /v1/jobs HTTP/1.1\r\nHost: q\r\nIdempotency-Key: %s\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (key.encode(), len(body), body))
        size = len(request("000"))
        for n in range(size + 1):
            with socket.create_connection(("127.0.0.1", q.port)) as s:
                s.sendall(request(f"{n:03}")[:n])
                if n < size:  # gone for good; the whole one closes in order, and has been read
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: len(q.upstream.calls_with("left")) == 1, "the whole one is a job")
        again = q.request("POST", "/v1/jobs", {"prompt": "left"}, {"Idempotency-Key": f"{size:03}"})
        assert again.status == 200 and q.ended(again.json["id"])["status"] == "completed"
        assert len(q.upstream.calls_with("left")) == 1
        until(lambda: descriptors(children) <= before + 1, "descriptors are back")
