"""Peers, clients, providers and machines that do what none should: nothing is forged, lost or called without end, and others are served."""

import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import time

import quern_wire as wire
from quern import Http, Quern, until
from test_store import Shard, accepted, finish, has, submit

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + bytes(32)


def ready(kind):
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return b"\x04" + bytes([len(body)]) + body


def long_frame(size):
    return b"\x02" + struct.pack(">Q", size)


RAW = [b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x03\x00W1\x06\x00EVIL!", GREETING[:20], GREETING, GREETING + b"\x04\xff", GREETING + ready(b"PUSH"),
       GREETING + ready(b"DEALER") + long_frame(2**63), GREETING + ready(b"DEALER") + long_frame(2**40) + b"x" * 99,
       GREETING + ready(b"DEALER") + b"\x01\x05hello" * 50, GREETING + ready(b"DEALER") + b"\x04\x05\x04PING", GREETING + ready(b"SUB") + b"\x00\x01\x01" * 999]


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss_mib(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def unix(path, data):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    s.connect(str(path))
    with contextlib.suppress(OSError):
        s.sendall(data)
    return s


def test_bytes_that_are_not_zmtp():
    with Shard() as s:
        api = s.peer("api")
        before = descriptors(s.broker.process.pid)
        for name in ("api", "worker", "monitor", "feed"):
            for data in RAW:
                unix(s.broker.dir / f"{name}.sock", data).close()
        accepted(api)
        until(lambda: descriptors(s.broker.process.pid) <= before, "descriptors are back")
        assert s.broker.process.poll() is None


def test_a_subscription_of_megabytes_costs_nothing():
    with Shard() as s:
        api, size = s.peer("api"), 10 << 20
        sockets = [unix(s.broker.dir / "feed.sock", GREETING + ready(b"SUB") + long_frame(size) + b"\x01" + b"a" * (size - 1)) for _ in range(2)]
        accepted(api)
        assert rss_mib(s.broker.process.pid) < 100
        for sock in sockets:
            sock.close()


def test_frames_of_nonsense_in_good_sessions():
    rng = random.Random(7)
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        for role in ("api", "worker", "monitor"):
            p = s.peer(role)
            for parts in ([b""], [b"", b"", b""], [b"a"] * 50, [b"\xdd\xff\xff\xff\xff", b""], [b"\x91" * 100, b""], [b"x" * ((1 << 20) + 1), b""]):
                p.socket.send_multipart(parts)
            for _ in range(500):
                message = rng.choice([m for m in wire.MESSAGES if m != "drain"])
                header = bytearray(wire.encode(message, p.epoch))
                for _ in range(rng.randrange(1, 4)):
                    header[rng.randrange(len(header))] = rng.randrange(256)
                p.socket.send_multipart([bytes(header), os.urandom(rng.choice([0, 1, 100]))])
            p.close()
        accepted(api)
        finish(worker, worker.receive("job"))
        worker.receive("outcome_ack")
        assert s.broker.numbers()["frames_bad"] > 300  # of 1 500: what a socket still holds when it closes is lost


def outcome(worker, job_id, fence, result=b'"forged"'):
    worker.send("outcome", id=job_id, fence=fence, result_bytes=len(result), body=result)
    worker.receive("outcome_ack", where=lambda m: m.items[0]["id"] == job_id)


def test_a_worker_ends_its_own_runs_only():
    with Shard() as s:
        api, a, b = s.peer("api"), s.peer("worker", slots=1), s.peer("worker", slots=1)
        first, second = accepted(api, ref=1), accepted(api, ref=2)
        job_a, job_b = a.receive("job"), b.receive("job")
        outcome(b, job_a.id, job_a.fence)
        for fence in ((job_a.fence[0], job_a.fence[1] + 7), (2**64 - 1, 2**64 - 1), (0, 0), job_b.fence):
            outcome(a, job_a.id, fence)
        outcome(a, wire.job_id(), job_a.fence)
        b.send("progress", items=[{"id": job_a.id, "fence": job_a.fence, "progress": 99}])
        b.send("outcome", id=job_b.id, fence=job_b.fence, result_bytes=2**32 - 1, log_bytes=9, body=b"x")
        b.send("heartbeat", slots=1, leases=[{"id": job_a.id, "fence": job_a.fence}, {"id": job_b.id, "fence": job_b.fence}])
        assert [d["id"] for d in b.receive("heartbeat_ack").drop] == [job_a.id]
        for job_id in (first, second):
            view = has(api, job_id).view
            assert view["state"] == 2 and view["progress"] == 10
        finish(a, job_a, b'"true"')
        a.receive("outcome_ack", where=lambda m: m.items[0]["fence"] == job_a.fence)
        outcome(a, job_a.id, job_a.fence)
        assert wire.unpack_record(s.stored("r", job_a.id), "ended")[1].endswith(b'"true"')


def test_hellos_with_absurd_claims():
    with Shard() as s:
        api = s.peer("api")
        job_id = accepted(api)
        liar = s.peer("worker", slots=0, held=[{"id": job_id, "fence": (2**64 - 1, i), "run": 1, "log_bytes": 2**64 - 1} for i in range(20000)])
        assert {v["verdict"] for v in liar.welcome.verdicts} == {2} and len(liar.welcome.verdicts) == 20000
        s.peer("worker", slots=0, served=[{"name": f"d{i}", "hash": i} for i in range(4096)])
        for minor in (1, 65535):
            assert s.peer("api", hello=False).hello(minor=minor)
        other = s.peer("api", hello=False)
        other.socket.send_multipart([b"\x94\x02\x01\x00\x00", b""])
        assert other.receive("refused").error == 76
        assert s.peer("worker", slots=1).receive("job").id == job_id


def test_a_burst_does_not_overrun_the_memory_of_redis():
    with Shard() as s:
        api = s.peer("api")
        used = int(s.redis.command("INFO", "memory").decode().split("used_memory:")[1].split()[0])
        s.redis.command("CONFIG", "SET", "maxmemory", used + 3_000_000)
        until(lambda: s.broker.numbers()["redis_bytes_max"], "it is known")
        for ref in range(1, 300):
            submit(api, ref=ref, body=b"{}" + os.urandom(30000))
            if api.receive("ack", where=lambda m: m.ref == ref).error:
                break
        assert ref < 150
        assert int(s.redis.command("INFO", "memory").decode().split("used_memory:")[1].split()[0]) < used + 3_500_000


def test_a_redis_flushed_or_cut_off_again_and_again_loses_nothing():
    with Shard(stall_ms=500) as s:
        api, worker, ids = s.peer("api"), s.peer("worker", slots=64), []
        for ref in range(1, 41):
            ids.append(submit(api, ref=ref))
            if ref == 20:
                s.redis.command("FLUSHALL")
            if ref % 4 == 0:
                s.redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert api.receive("ack", where=lambda m: m.ref == ref, seconds=20).error == 0
        for _ in ids:
            finish(worker, worker.receive("job", seconds=20))
        until(lambda: all(s.stored("r", i) for i in ids), "every end is stored")


def test_a_lease_shorter_than_the_call_is_renewed():
    with Quern({"broker": {"lease_ms": 1000}}, workers=1) as q:
        done = q.submit({"prompt": "long [[latency_ms=3000]]", "max_attempts": 1}, wait="20s")
        assert done["status"] == "completed" and len(q.upstream.calls_with("long")) == 1


def test_a_child_stopped_beyond_its_lease_is_refused_by_its_fence():
    with Quern({"broker": {"lease_ms": 1000}}, workers=1) as q:
        job = q.submit("late [[latency_ms=1200]]")
        until(lambda: q.upstream.stats()["in_flight"] == 1, "the call runs")
        stopped = q.children("worker")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: q.job(job["id"])["status"] != "processing", "the lease has lapsed", 15)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        done = q.ended(job["id"])
        assert done["status"] == "completed" and done["result"]["content"] == "echo: late [[latency_ms=1200]]"
        assert len(q.upstream.calls_with("late")) == 2
        until(lambda: (n := numbers(q))["slots"] == n["slots_free"] == 65, "every slot is free")


def numbers(q):
    return json.loads(q.ctl("stats", "--json").stdout)["numbers"]


def limit(pid, count):
    subprocess.run(["prlimit", "--pid", str(pid), f"--nofile={count}:"], check=True)


def test_peers_without_descriptors_live_on():
    with Quern(workers=1) as q:
        pids = q.children("api") + q.children("worker")
        limits = {pid: descriptors(pid) for pid in pids}
        for pid in pids:
            limit(pid, limits[pid])
        q.restarted("broker", q.kill("broker"))
        for pid in q.children("worker"):
            until(lambda: "no_socket" in q.logs("worker") or "link.up" in q.logs("worker").split("link.down")[-1], "the link was tried")
        for pid in pids:
            limit(pid, 4096)
        q.ready()
        assert q.submit("after", wait="20s")["status"] == "completed"
        assert q.children("api") + q.children("worker") == pids


def test_floods_of_requests_leave_others_served():
    with Quern({"api": {"write_ms": 1500}}, workers=1, api_children=1) as q, contextlib.ExitStack() as stack:
        child = q.children("api")[0]

        def connect(data):
            s = stack.enter_context(socket.create_connection(("127.0.0.1", q.port), timeout=10))
            s.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while data:
                    data = data[s.send(data):]
            return s
        before = descriptors(child)
        slow = q.submit("slow [[latency_ms=1500]]")["id"].encode()
        get = b"GET /v1/jobs/%s?wait=20s HTTP/1.1\r\nHost: q\r\n\r\n" % slow
        for _ in range(10):
            connect(b"GET /health HTTP/1.1\r\nHost: q\r\n\r\n" * 20000)
        for _ in range(500):
            connect(get * 20)
        for _ in range(200):
            connect(b"POST /v1/jobs HTTP/1.1\r\nHost: q\r\nExpect: 100-continue\r\nContent-Length: 8000000\r\n\r\n")
        began = time.monotonic()
        assert Http(q.port).request("POST", "/v1/jobs?wait=10s", {"prompt": "meanwhile"}).status == 200
        assert time.monotonic() - began < 3 and rss_mib(child) < 300
        stack.close()
        until(lambda: descriptors(child) <= before + 4, "descriptors are back")
        assert q.children("api")[0] == child
