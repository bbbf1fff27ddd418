"""Peers, clients, providers and machines that do what none should: nothing is forged, lost or called without end, and others are served."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import tempfile
import time

import pytest
import zmq

import quern_wire as wire
from quern import BUILD, Http, Quern, free_port, until
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


SOCKETS = ("api", "worker", "monitor", "feed")


class Guarded(Shard):
    """A broker whose sockets are TCP with CURVE: one listed key per role."""

    def __init__(self):
        key_file = os.path.join(tempfile.mkdtemp(prefix="quern-test-keys-"), "broker.key")
        made = subprocess.run([str(BUILD / "quernctl"), "keygen", key_file], capture_output=True, text=True, check=True)
        self.public = next(word for word in made.stdout.split() if len(word) == 40)
        self.keys = {role: [k.decode() for k in zmq.curve_keypair()] for role in ("api", "worker", "monitor")}
        self.ports = {name: free_port() for name in SOCKETS}
        super().__init__(key_file=key_file, public_key=self.public, **{n: f"tcp://127.0.0.1:{p}" for n, p in self.ports.items()},
                         peers=[{"name": role, "public_key": pair[0], "role": role} for role, pair in self.keys.items()])

    def peer(self, role, at=None, keys=None, **fields):
        fields = {**({"slots": 4, "served": [wire.ECHO]} if role == "worker" else {}), **fields}
        peer = wire.Peer(f"tcp://127.0.0.1:{self.ports[at or role]}", role, keys=(*(keys or self.keys[role]), self.public), **fields)
        self.peers.append(peer)
        return peer

    def numbers(self, api):
        api.send("stats", ref=9)
        answer = api.receive("stats_answer", where=lambda m: m.ref == 9)
        return {c["name"]: c["value"] for c in answer.counters}


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


def nonsense(rng):
    """What a scanner, an old ZeroMQ, another protocol, or someone who means harm sends to a socket."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 300))
    if kind == 1:  # ZMTP/1.0, which has no handshake
        return b"\x03\x00W%d" % rng.randrange(10) + b"".join(b"%c\x01" % (len(b) + 1) + b for b in (rng.randbytes(rng.randrange(1, 40)) for _ in range(4)))
    if kind == 2:
        return b"GET /%d HTTP/1.1\r\nHost: q\r\n\r\n" % rng.randrange(1000)
    if kind == 3:  # a message without end
        return GREETING + ready(b"DEALER") + b"\x01\x01a" * rng.randrange(1, 2000)
    if kind == 4:
        return GREETING + ready(rng.choice([b"DEALER", b"SUB", b"REQ", b"PUSH"])) + long_frame(1 << rng.randrange(20, 63)) + rng.randbytes(50)
    if kind == 5:  # a frame as a peer would send it, without being one
        header = wire.encode("heartbeat", 1, slots=4)
        return GREETING + ready(b"DEALER") + b"\x03" + struct.pack(">Q", len(header)) + header + b"\x00\x00"
    if kind == 6:  # a CURVE greeting and a HELLO of noise
        return GREETING[:12] + b"CURVE" + bytes(47) + b"\x04\xc8\x05HELLO" + rng.randbytes(194)
    return GREETING[:rng.randrange(64)]


def five_hundred(connect, seed):
    """500 connections to each socket, none of which has a key; some stay open for a while."""
    rng, kept = random.Random(seed), []
    for name in SOCKETS:
        for i in range(500):
            s = connect(name, nonsense(rng))
            if i % 10:
                s.close()
            else:
                kept.append(s)
    for s in kept:
        s.close()


def tcp(port, data):
    s = socket.create_connection(("127.0.0.1", port), timeout=5)
    with contextlib.suppress(OSError):
        s.sendall(data)
    return s


def strangers_told(log):
    lines = [line for line in log.splitlines() if "event=peer.stranger" in line]
    return len(lines), sum(int(line.split(" count=")[1]) for line in lines)


def test_five_hundred_strangers_at_every_tcp_socket_reach_no_session():
    with Guarded() as s:
        api, worker = s.peer("api"), s.peer("worker")
        before, open_before, began = s.numbers(api), descriptors(s.broker.process.pid), time.monotonic()
        five_hundred(lambda name, data: tcp(s.ports[name], data), 11)
        for name in SOCKETS:  # ZeroMQ itself, with a key that is not listed, one that is for another role, and without one
            for keys in ([k.decode() for k in zmq.curve_keypair()], s.keys["worker" if name != "worker" else "api"], None):
                forger = zmq.Context.instance().socket(zmq.DEALER)
                forger.linger = 0
                if keys:
                    forger.curve_publickey, forger.curve_secretkey, forger.curve_serverkey = (k.encode() for k in (*keys, s.public))
                forger.connect(f"tcp://127.0.0.1:{s.ports[name]}")
                forger.send_multipart([wire.encode("hello", minor=wire.MINOR, role=wire.ROLES["worker"], instance=os.urandom(16), name="forger"), b""])
                s.peers.append(forger)
        until(lambda: s.numbers(api)["strangers"] >= 2000, "every stranger is counted")
        job_id = accepted(api)
        finish(worker, worker.receive("job", where=lambda m: m.id == job_id))
        worker.receive("outcome_ack")
        after = s.numbers(api)
        assert {k: after[k] - before[k] for k in ("sessions", "sessions_refused", "frames_bad", "frames_stale", "hello_wanted")} == dict.fromkeys(
            ("sessions", "sessions_refused", "frames_bad", "frames_stale", "hello_wanted"), 0), "something was forged"
        lines, told = strangers_told(s.broker.log())
        assert told > 0 and lines <= 4 * (time.monotonic() - began + 1), "a line per socket and second"
        until(lambda: descriptors(s.broker.process.pid) <= open_before + 12, "descriptors are back")
        assert rss_mib(s.broker.process.pid) < 100


def test_five_hundred_strangers_at_every_local_socket_reach_no_session():
    """Over ipc the directory is the guard and there is no key: frames may arrive, but none opens or speaks in a session."""
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        before, open_before, began = s.broker.numbers(), descriptors(s.broker.process.pid), time.monotonic()
        five_hundred(lambda name, data: unix(s.broker.dir / f"{name}.sock", data), 12)
        job_id = accepted(api)
        finish(worker, worker.receive("job", where=lambda m: m.id == job_id))
        worker.receive("outcome_ack")
        until(lambda: descriptors(s.broker.process.pid) <= open_before, "descriptors are back")
        after = s.broker.numbers()
        assert after["sessions"] - before["sessions"] == 1, "a session was forged"  # the one is quernctl's, who asks
        assert after["frames_bad"] - before["frames_bad"] + after["hello_wanted"] - before["hello_wanted"] > 0, "some arrived"
        lines = len([line for line in s.broker.log().splitlines() if "event=frame.bad" in line])
        assert lines <= 4 * (time.monotonic() - began + 2)
        assert rss_mib(s.broker.process.pid) < 100


def test_a_key_opens_the_sockets_of_its_role_only():
    with Guarded() as s:
        api = s.peer("api")
        for role, at in (("worker", "api"), ("monitor", "worker"), ("api", "monitor"), ("worker", "feed")):
            other = s.peer(role, at=at, hello=False)
            other.say_hello()
            assert other.receive("welcome", "refused", seconds=0.3, missing=None) is None
        until(lambda: s.numbers(api)["strangers"] >= 4, "they are strangers there")
        impostor = s.peer("worker", at="worker", hello=False)  # the worker's key, the api's role
        impostor.say_hello(role=wire.ROLES["api"])
        assert impostor.receive("refused").error == 15


def sayers():
    """Of each message, who may say it to a broker."""
    text = (wire.ROOT / "proto/messages.def").read_text()
    rows = re.findall(r"^MESSAGE\(\w+, (\w+), \d+, ([^,]+), ([^,]+),", text, flags=re.M)
    peers = {"FROM_PEER": {"api", "worker", "monitor"}, "FROM_API": {"api"}, "FROM_WORKER": {"worker"}, "FROM_MONITOR": {"monitor"}}
    return {name: set().union(*(peers.get(f.strip(), set()) for f in said.split("|"))) if "TO_BROKER" in heard else set()
            for name, said, heard in rows}


def test_every_message_from_the_wrong_role_is_dropped():
    with Shard() as s:
        api = s.peer("api")
        job_id = accepted(api)
        for role in ("api", "worker", "monitor"):
            wrong = [m for m, roles in sayers().items() if role not in roles]
            assert len(wrong) > 15
            before, peer = s.broker.numbers()["frames_bad"], s.peer(role, **({"slots": 0} if role == "worker" else {}))
            for message in wrong:
                id_field = {"id": job_id} if any(name == "id" for _, name, _ in wire.MESSAGES[message][1]) else {}
                peer.send(message, **id_field)
            until(lambda: s.broker.numbers()["frames_bad"] - before == len(wrong), f"all of the {role}'s are bad")
        assert has(api, job_id).view["state"] == 1


def test_results_that_are_too_large_or_lie_about_their_length_end_nothing():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        job_id = accepted(api)
        job = worker.receive("job")
        before = s.broker.numbers()["frames_bad"]
        lies = [(5 << 20, 0, b'"' + b"a" * ((5 << 20) - 2) + b'"'), (0, 5 << 20, b"l" * (5 << 20)), (2**32 - 1, 2**32 - 1, b"x"), (2, 0, b"x"), (0, 0, b"x")]
        for result_bytes, log_bytes, body in lies:
            worker.send("outcome", id=job.id, fence=job.fence, result_bytes=result_bytes, log_bytes=log_bytes, body=body)
        for total in (1, 2**32 - 1):
            worker.send("run_events", items=[{"id": job.id, "fence": job.fence, "offset": 2**64 - 1, "bytes": total}] * 3, body=b"x")
        until(lambda: s.broker.numbers()["frames_bad"] - before == len(lies) + 2, "all are bad")
        assert has(api, job_id).view["state"] == 2
        finish(worker, job)
        until(lambda: s.stored("r", job_id), "the honest one ends it")


def test_absurd_counts_of_foreign_things_cost_little():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        job_id = accepted(api)
        job = worker.receive("job")
        foreign = [{"id": wire.job_id(), "fence": (2**64 - 1, i)} for i in range(9000)]
        began = time.monotonic()
        for _ in range(5):
            worker.send("heartbeat", slots=2**32 - 1, leases=foreign)
            worker.send("progress", items=[{**f, "progress": 255} for f in foreign])
            worker.send("run_events", items=[{**f, "offset": 2**63, "bytes": 0} for f in foreign])
            for verb in ("cancel", "forget", "ask", "unwatch", "withdraw", "watch"):
                known = {name for _, name, _ in wire.MESSAGES[verb][1]}
                api.send(verb, **{k: v for k, v in {"ref": 5, "id": wire.job_id(), "tenant": "nobody"}.items() if k in known})
        assert len(worker.receive("heartbeat_ack", seconds=20).drop) == 9000
        finish(worker, job)
        worker.receive("outcome_ack", where=lambda m: m.items[0]["id"] == job_id, seconds=20)
        assert time.monotonic() - began < 15 and rss_mib(s.broker.process.pid) < 200
        assert s.broker.numbers()["slots"] <= 65536


def test_readers_of_the_feed_that_never_read_hold_nobody_up():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker", slots=64)
        open_before, readers = descriptors(s.broker.process.pid), []
        subscribe = GREETING + ready(b"SUB") + b"\x00\x01\x01"

        def jobs(count, ref):
            began = time.monotonic()
            for i in range(count):
                submit(api, ref=ref + i, watch=False)
            for _ in range(count):
                finish(worker, worker.receive("job"))
            for i in range(count):
                assert api.receive("ack", where=lambda m: m.ref == ref + i).error == 0
            return time.monotonic() - began
        alone = jobs(200, 1000)
        try:
            for _ in range(400):
                readers.append(unix(s.broker.dir / "feed.sock", subscribe))
            s.peer("monitor")  # somebody is there, so changes are published
            assert jobs(200, 2000) < 5 * alone + 3 and rss_mib(s.broker.process.pid) < 200
        finally:
            for reader in readers:
                reader.close()
        until(lambda: descriptors(s.broker.process.pid) <= open_before + 2, "descriptors are back")


def test_a_monitor_asks_no_end_of_questions():
    """Over TCP a monitor may look and not act; questions about nothing, in floods, are answered and cost others nothing."""
    with Guarded() as s:
        api, worker, monitor = s.peer("api"), s.peer("worker"), s.peer("monitor")
        job_id = accepted(api)
        known = [*range(1, 11), *range(32, 37)]
        asked = known * 100
        for ref, question in enumerate(asked):
            monitor.send("question", ref=ref, question=question, id="job_" + "z" * 26, name="tenant:" + "x" * 50, limit=2**32 - 1)
        answers = [monitor.receive("reply") for _ in asked]
        assert {m.ref for m in answers} == set(range(len(asked))), "every question has one answer"
        assert all(m.error == 15 for m in answers if asked[m.ref] >= 32), "acts are for those in the directory"
        finish(worker, worker.receive("job", where=lambda m: m.id == job_id))
        worker.receive("outcome_ack")
        assert rss_mib(s.broker.process.pid) < 100


def test_a_peer_that_is_refused_again_and_again_does_not_fill_the_log():
    with Shard() as s:
        api, began = s.peer("api"), time.monotonic()
        liar = s.peer("worker", hello=False)
        for _ in range(2000):
            liar.say_hello(role=wire.ROLES["api"])
        until(lambda: s.broker.numbers()["sessions_refused"] >= 2000, "all are refused")
        lines = [line for line in s.broker.log().splitlines() if "event=peer.refused" in line]
        assert 1 <= len(lines) <= time.monotonic() - began + 2
        accepted(api)


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
