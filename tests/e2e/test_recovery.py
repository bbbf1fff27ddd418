"""10^5 queued jobs and a broker killed: all survive, the first dispatch comes within a second of the restart, in order."""

import concurrent.futures
import json
import os
import signal
import socket
import time

from quern import Quern, until

JOBS = 100_000
LANES = 4


def fill(port, lane, count):
    """Pipelined submits on one connection; the ids in order."""
    ids, got, sent = [], b"", 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        while len(ids) < count:
            while sent < count and sent - len(ids) < 16:
                body = json.dumps({"prompt": f"queued {lane}-{sent}"}).encode()
                s.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: q\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                sent += 1
            got += s.recv(262144)
            while (end := got.find(b"\r\n\r\n")) >= 0:
                head = got[:end].lower()
                assert head.startswith(b"http/1.1 202"), got[:300]
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                if len(got) < end + 4 + length:
                    break
                ids.append(json.loads(got[end + 4:end + 4 + length])["id"])
                got = got[end + 4 + length:]
    return ids


def test_a_hundred_thousand_queued_jobs_survive_the_broker():
    with Quern({"worker": {"slots": 1}, "quern": {}}, workers=1) as q:
        q.upstream.script(fault="hang")
        blocker = q.submit("blocker")
        until(lambda: q.job(blocker["id"])["status"] == "processing", "the only slot is taken")
        with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
            ids = sum(pool.map(lambda lane: fill(q.port, lane, JOBS // LANES), range(LANES)), [])
        assert len(set(ids)) == JOBS
        assert q.stats()["waiting"] >= JOBS

        old = q.kill("broker")
        new = q.restarted("broker", old)
        born = time.monotonic()
        q.upstream.script()
        until(lambda: q.stats()["waiting"] >= JOBS - 2, "all are there again", 10)
        assert q.cancel(blocker["id"]).status == 200
        until(lambda: q.upstream.calls_with("queued"), "the first dispatch", 10, every=0.002)
        print(f"first dispatch {1000 * (time.monotonic() - born):.0f} ms after the new broker's start was seen")
        assert alive_in_order(q), "out of order"
        assert os.path.exists(f"/proc/{new}")
        assert len(q.upstream.calls_with("blocker")) == 1, "the running call was made again"


def alive_in_order(q, count=1500):
    """With one slot the provider sees each connection's jobs in the order they were accepted."""
    def heads():
        return [c["prompt_head"] for c in q.upstream.calls() if c["prompt_head"].startswith("queued")]
    until(lambda: len(heads()) >= count, f"{count} calls", 60, every=0.1)
    last = {}
    for head in heads():
        lane, n = map(int, head.split()[1].split("-"))
        if n <= last.get(lane, -1):
            return False
        last[lane] = n
    return True


def test_the_first_dispatch_after_a_restart_takes_less_than_a_second():
    with Quern({"worker": {"slots": 1}}, workers=1) as q:
        q.upstream.script(latency_ms=5)
        with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
            sum(pool.map(lambda lane: fill(q.port, lane, 5000), range(LANES)), [])
        old = q.kill("broker")
        seen = len(q.upstream.calls())
        q.restarted("broker", old)
        began = time.monotonic()
        until(lambda: len(q.upstream.calls(since=seen)) > 3, "dispatch goes on", 5, every=0.005)
        print(f"dispatch {1000 * (time.monotonic() - began):.0f} ms after the restart was seen")
