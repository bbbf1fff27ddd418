"""10^5 queued jobs and a broker killed: all survive, the first dispatch comes within a second of the restart, in order."""

import concurrent.futures
import json
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


def heads(q):
    return [c["prompt_head"] for c in q.upstream.calls() if c["prompt_head"].startswith("queued")]


def in_order(seen):
    """With one slot the provider sees each connection's jobs in the order in which they were accepted."""
    last = {}
    for head in seen:
        lane, n = map(int, head.split()[1].split("-"))
        if n <= last.get(lane, -1):
            return False
        last[lane] = n
    return True


def test_a_hundred_thousand_queued_jobs_survive_the_broker():
    with Quern({"worker": {"slots": 1}}, workers=1) as q:
        q.upstream.script(latency_ms=150)  # slow enough to leave nearly all of them queued
        with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
            ids = sum(pool.map(lambda lane: fill(q.port, lane, JOBS // LANES), range(LANES)), [])
        assert len(set(ids)) == JOBS
        before = q.stats()["waiting"]
        assert before > JOBS * 0.9
        old = q.kill("broker")
        began, calls = time.monotonic(), q.upstream.stats()["arrived"]
        q.restarted("broker", old)
        until(lambda: q.upstream.stats()["arrived"] > calls + 1, "a new call", 10, every=0.005)
        took = time.monotonic() - began
        print(f"two more calls {1000 * took:.0f} ms after kill -9, one of them running at 150 ms each")
        assert took < 1.0 + 2 * 0.150 + 0.5
        assert q.stats()["waiting"] >= before - 40, "jobs are missing"
        q.upstream.script()
        until(lambda: len(heads(q)) >= 1500, "1 500 calls", 60, every=0.1)
        seen = heads(q)
        assert in_order(seen), "out of order"
        assert len(seen) == len(set(seen)), "a call was made twice"
