"""One real broker on a real Redis, its peers played frame by frame: what is shown when, and what faults of Redis, of the broker and of
peers change. The store alone is in tests/unit/test_store.c."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

import quern
import quern_wire as wire
from quern import until

TTL = {"tenant": "acme", "queue": "q", "route": "m"}


class Redis:
    def __init__(self, directory, *more, env=None):
        self.dir, self.more, self.env, self.process = pathlib.Path(directory), more, env, None
        self.socket = str(self.dir / "redis.sock")
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", str(self.dir), "--save", "", "--appendonly", "yes",
             "--logfile", str(self.dir / "redis.log"), *self.more], env={**os.environ, **(self.env or {})})
        until(lambda: self.try_ping(), "redis answers")

    def try_ping(self):
        with contextlib.suppress(OSError, RuntimeError):  # not there, or loading
            return self.command("PING") == "PONG"
        return False

    def command(self, *args):
        """One command on a connection of its own. Bulk strings as bytes, errors raised."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(self.socket)
            parts = [a if isinstance(a, bytes) else str(a).encode() for a in args]
            s.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
            f = s.makefile("rb")
            return self._reply(f)

    def _reply(self, f):
        line = f.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if rest == b"-1":
                return None
            return f.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply(f) for _ in range(int(rest))]
        raise RuntimeError(line.decode() or "closed")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def copy(self, name):
        shutil.copytree(self.dir / "appendonlydir", self.dir / name)

    def restart_from(self, name, killed=False):
        if not killed:
            self.kill()
        shutil.rmtree(self.dir / "appendonlydir")
        shutil.copytree(self.dir / name, self.dir / "appendonlydir")
        self.start()


class Broker:
    def __init__(self, directory, redis_socket, name="", peers=(), **settings):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(mode=0o700, exist_ok=True)
        self.settings = self.dir / "settings.yaml"
        self.write({"quern": {"state_dir": str(self.dir)}, "redis": {"socket": redis_socket}, "broker": {"name": name, **settings},
                    **({"peers": peers} if peers else {})})
        self.process = None
        self.start()

    def write(self, settings):
        self.values = settings
        self.settings.write_text(quern.to_yaml(settings) + "\n")

    def start(self):
        self.process = subprocess.Popen([str(quern.BUILD / "quern-broker"), "--settings", str(self.settings)],
                                        stdin=subprocess.DEVNULL, stderr=(self.dir / "log").open("ab"))

    def endpoint(self, name):
        return f"ipc://{self.dir}/{name}.sock"

    def log(self):
        return (self.dir / "log").read_text(errors="replace")

    def ctl(self, *args, check=True):
        done = subprocess.run([str(quern.BUILD / "quernctl"), "--settings", str(self.settings), "--json", *args],
                              capture_output=True, text=True, timeout=20)
        if check:
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout) if done.stdout else None
        return done

    def numbers(self):
        return self.ctl("stats")["numbers"]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()


class Shard:
    def __init__(self, redis=(), **settings):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="quern-test-store-"))
        os.chmod(self.dir, 0o700)
        self.redis = redis(self.dir) if callable(redis) else Redis(self.dir, *redis)
        self.peers, self.brokers = [], []
        self.broker = self.add_broker("a", **settings)

    def add_broker(self, directory, redis_socket=None, **settings):
        broker = Broker(self.dir / directory, redis_socket or self.redis.socket, **settings)
        self.brokers.append(broker)
        return broker

    def peer(self, role, broker=None, **fields):
        if role == "worker":
            fields.setdefault("slots", 4)
            fields.setdefault("served", [wire.ECHO])
        peer = wire.Peer((broker or self.broker).endpoint(role), role, **fields)
        self.peers.append(peer)
        return peer

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0]:
            for broker in self.brokers:
                print(broker.log()[-4000:])
        for peer in self.peers:
            peer.close()
        for broker in self.brokers:
            broker.stop()
        self.redis.process.send_signal(signal.SIGCONT)
        self.redis.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def key(self, kind, job_id):
        """The one key of this kind and job, or None."""
        digits, n = "", int.from_bytes(job_id, "big")
        for _ in range(26):
            digits, n = "0123456789abcdefghjkmnpqrstvwxyz"[n & 31] + digits, n >> 5
        return f"{{q0}}:{kind}:{digits}"

    def stored(self, kind, job_id):
        return self.redis.command("GET", self.key(kind, job_id))


def submit(api, ref=1, job_id=None, watch=True, body=b'{}{"prompt":"x"}', **more):
    job_id = job_id or wire.job_id()
    api.send("submit", ref=ref, id=job_id, watch=watch, spec={**TTL, "display_bytes": 2}, body=body, **more)
    return job_id


def accepted(api, **more):
    job_id = submit(api, **more)
    ack = api.receive("ack", where=lambda m: m.id == job_id)
    assert ack.error == 0, ack
    return job_id


def finish(worker, job, result=b'"yes"'):
    worker.send("outcome", id=job.id, fence=job.fence, result_bytes=len(result), body=result)


def has(api, job_id):
    api.send("ask", ref=77, id=job_id, tenant="acme")
    return api.receive("answer", where=lambda m: m.ref == 77)


# ---- the ordinary ----


def test_a_job_from_submit_to_end():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        job_id = accepted(api)
        job = worker.receive("job")
        assert job.id == job_id and job.body == b'{"prompt":"x"}' and job.epoch == api.epoch == job.fence[0]
        assert s.stored("j", job_id) and s.stored("b", job_id)
        finish(worker, job)
        acked = worker.receive("outcome_ack")
        assert [(i["id"], i["fence"]) for i in acked.items] == [(job_id, job.fence)]
        events = api.receive("events")
        assert [e["event"] for e in events.items] == [5]
        fields, body = wire.unpack_record(events.body, "ended")
        assert fields["state"] == 4 and body == b'{}"yes"'
        assert s.stored("r", job_id) == events.body
        assert s.stored("j", job_id) is None and s.stored("b", job_id) is None
        assert has(api, job_id).error == 80


def test_bulk_is_answered_in_its_order():
    with Shard() as s:
        api = s.peer("api")
        ids = [wire.job_id() for _ in range(1000)]
        items = [{"id": i, "spec": {**TTL, "tenant": "" if n == 7 else "acme"}, "body_bytes": 3} for n, i in enumerate(ids)]
        api.send("bulk", ref=5, items=items, body=b"123" * 1000)
        acks = api.receive("acks")
        assert acks.ref == 5 and [i["id"] for i in acks.items] == ids
        assert [n for n, i in enumerate(acks.items) if i["error"]] == [7]
        assert s.redis.command("SCARD", "{q0}:live") == 999


def test_an_idempotency_key_leads_to_the_first_job():
    with Shard() as s:
        api = s.peer("api")
        key = {"idem": b"k" * 32, "body_hash": b"h" * 32}
        first = accepted(api, **key)
        s.broker.kill()
        s.broker.start()
        api.again()
        api.send("submit", ref=2, id=wire.job_id(), spec=TTL, body=b"x", **key)
        ack = api.receive("ack")
        assert ack.error == 0 and ack.existing and ack.id == first
        api.send("submit", ref=3, id=wire.job_id(), spec=TTL, body=b"x", idem=key["idem"], body_hash=b"other" + bytes(27))
        assert api.receive("ack").error == 13


# ---- sessions ----


def test_who_may_speak():
    with Shard() as s:
        api = s.peer("api")
        other = s.peer("api", hello=False)
        other.send("stats", epoch=api.epoch, ref=1)
        assert other.receive("hello_wanted").epoch == api.epoch
        other.say_hello(role=3)
        assert other.receive("refused").error == 15
        other.hello()
        # A HELLO said again before anything else is the same HELLO; the core has one worker then.
        before = s.broker.numbers()
        worker = s.peer("worker", hello=False)
        worker.say_hello()
        worker.say_hello()
        first, second = worker.receive("welcome"), worker.receive("welcome")
        assert (first.fields, first.epoch) == (second.fields, second.epoch)
        worker.epoch = first.epoch
        # one session more, and quernctl's own
        assert s.broker.numbers()["sessions"] == before["sessions"] + 2
        # A second session of the same instance takes the place of the first.
        twin = s.peer("worker", instance=worker.instance)
        assert s.broker.numbers()["workers"] == 1
        worker.send("heartbeat", slots=4)
        worker.receive("hello_wanted")
        accepted(api)
        twin.receive("job")
        # Of another epoch: ignored, and so is nonsense.
        api.send("stats", epoch=api.epoch - 1, ref=8)
        api.socket.send_multipart([b"\x93\x01\xcc\xff", b""])
        api.socket.send_multipart([b"", b""])
        api.send("stats", ref=9)
        assert api.receive("stats_answer").ref == 9
        numbers = s.broker.numbers()
        assert numbers["frames_stale"] == 1 and numbers["frames_bad"] == 2


def test_a_worker_that_dies_gives_its_jobs_back():
    with Shard(probe_ms=50, return_ms=100) as s:
        api = s.peer("api")
        first = s.peer("worker")
        job_id = accepted(api)
        first.receive("job")
        second = s.peer("worker")
        first.close()
        job = second.receive("job")
        assert job.id == job_id and job.run == 2
        finish(second, job)
        api.receive("events", where=lambda m: m.items[-1]["event"] == 5)


def test_running_calls_survive_their_broker():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        job_id = accepted(api)
        job = worker.receive("job")
        s.broker.kill()
        s.broker.start()
        held = [{"id": job.id, "fence": job.fence, "run": job.run}, {"id": wire.job_id(), "fence": (1, 1), "run": 1}]
        welcome = worker.again(held=held)
        assert [v["verdict"] for v in welcome.verdicts] == [1, 2] and welcome.epoch > job.epoch
        api.again()
        assert has(api, job_id).view["state"] == 2
        finish(worker, job)
        worker.receive("outcome_ack")
        until(lambda: s.stored("r", job_id), "the end is stored")
        # Acknowledged and dropped: an outcome of a job that is no more.
        finish(worker, job)
        worker.receive("outcome_ack")


def test_events_wait_for_a_reader_that_is_behind():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        submit(api, watch=False)
        job_id = api.receive("ack").id
        job = worker.receive("job")
        api.send("watch", ref=3, id=job_id, tenant="acme", tokens=True)
        api.receive("answer")
        piece, received = b"x" * 60000, api.received
        api.received = 0  # it reads and acknowledges nothing
        for n in range(200):
            worker.send("run_events", items=[{"id": job_id, "fence": job.fence, "offset": n * len(piece), "bytes": len(piece)}], body=piece)
        finish(worker, job)
        worker.receive("outcome_ack")
        numbers = until(lambda: (lambda n: n if n["events_dropped"] else None)(s.broker.numbers()), "tokens were left out")
        assert numbers["events_dropped"] >= 50
        got, ended = 0, False
        api.received = received

        def read():
            nonlocal got, ended
            while not ended:
                events = api.receive("events")
                got += sum(e["bytes"] for e in events.items if e["event"] == 3)
                ended = any(e["event"] == 5 for e in events.items)
                api.send("stats", ref=1)
                api.receive("stats_answer", missing=None)
        read()
        assert 4 << 20 <= got < 200 * len(piece)


def test_over_tcp_a_key_says_who_may_speak_and_as_what():
    import zmq
    with Shard() as s:
        ports = {role: quern.free_port() for role in ("api", "worker")}
        server = s.broker.ctl("keygen", str(s.dir / "broker.key"))["public_key"]
        keys = {name: tuple(k.decode() for k in zmq.curve_keypair()) for name in ("one", "two", "worker", "stranger")}
        roles = {"one": "api", "two": "api", "worker": "worker"}

        def settings(names):
            return {**s.broker.values,
                    "broker": {"name": "", "key_file": str(s.dir / "broker.key"),
                               **{role: f"tcp://127.0.0.1:{port}" for role, port in ports.items()}},
                    "peers": [{"name": n, "public_key": keys[n][0], "role": roles[n]} for n in names]}
        s.broker.kill()
        s.broker.write(settings(roles))
        s.broker.start()

        def peer(role, name, **more):
            p = wire.Peer(f"tcp://127.0.0.1:{ports[role]}", role, keys=(*keys[name], server), hello=False, **more)
            s.peers.append(p)
            return p
        api = peer("api", "one")
        api.hello()
        peer("worker", "worker", slots=1, served=[wire.ECHO]).hello()
        accepted(api)
        # Not at all, not as that, not in another's name.
        for role, name in (("api", "stranger"), ("worker", "one")):
            other = peer(role, name)
            other.say_hello()
            assert other.receive("welcome", "refused", seconds=0.5, missing=None) is None
        thief = peer("api", "two", instance=api.instance)
        thief.say_hello()
        assert thief.receive("welcome", "refused").error == 15
        accepted(api, ref=2)
        # A key taken back is not heard any more, connection or not.
        s.broker.write(settings(["two", "worker"]))
        s.broker.process.send_signal(signal.SIGHUP)
        until(lambda: "settings.reloaded" in s.broker.log(), "the settings are read")
        late = submit(api, ref=3)
        second = peer("api", "two")
        second.hello()
        accepted(second, ref=4)
        assert s.stored("j", late) is None
        until(lambda: s.broker.numbers()["frames_bad"] >= 1, "its frame was dropped")


# ---- Redis in trouble ----


def test_while_redis_is_stopped_nothing_is_shown():
    with Shard(stall_ms=300) as s:
        api, worker = s.peer("api"), s.peer("worker")
        running = accepted(api)
        job = worker.receive("job")
        s.redis.process.send_signal(signal.SIGSTOP)
        waiting = submit(api, ref=10)
        finish(worker, job)
        api.nothing("ack", "events")
        worker.nothing("outcome_ack", "job")
        until(lambda: s.broker.numbers()["store_stalled"], "the stall is noticed")
        refused = submit(api, ref=11)
        ack = api.receive("ack")
        assert ack.id == refused and ack.error == 44 and ack.retry_after_ms
        assert has(api, wire.job_id()).error == 44  # who knows
        api.nothing("events")
        worker.nothing("outcome_ack", "job")
        s.redis.process.send_signal(signal.SIGCONT)
        assert api.receive("ack").id == waiting
        worker.receive("outcome_ack")
        assert worker.receive("job").id == waiting
        api.receive("events")
        assert s.stored("r", running)
        assert s.stored("j", refused) is None


def test_while_redis_is_away_no_job_is_said_to_be_nowhere():
    with Shard(stall_ms=60000) as s:
        api = s.peer("api")
        assert has(api, wire.job_id()).error == 80  # there is none
        s.redis.kill()
        until(lambda: "redis.down" in s.broker.log(), "it is noticed")
        assert has(api, wire.job_id()).error == 44  # who knows
        s.redis.start()
        until(lambda: has(api, wire.job_id()).error == 80, "it is back")


class Proxy:
    """Between broker and Redis: can let requests through and lose their replies."""

    def __init__(self, path, target):
        self.path, self.target, self.losing, self.lost = path, target, False, 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.target)
                threading.Thread(target=self.pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self.pump, args=(server, client, True), daemon=True).start()

    def pump(self, source, sink, replies):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if replies and self.losing:
                    self.losing, self.lost = False, self.lost + 1
                    break
                sink.sendall(data)
        for s in (source, sink):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)


def test_a_lost_reply_is_no_lost_job():
    with Shard() as s:
        proxy = Proxy(str(s.dir / "proxy.sock"), s.redis.socket)
        s.broker.kill()
        broker = s.add_broker("b", redis_socket=proxy.path)
        api, worker = s.peer("api", broker), s.peer("worker", broker)
        for n in range(1, 6):
            proxy.losing = True
            job_id = accepted(api, ref=n)
            until(lambda: proxy.lost == n, "a reply was lost", every=0.001)
            job = worker.receive("job")
            assert job.id == job_id
            finish(worker, job)
            worker.receive("outcome_ack")
        worker.nothing("job")
        assert broker.numbers()["dispatched"] == 5 and broker.numbers()["store_breaks"] == 5


def test_refused_commits_are_followed_by_none():
    with Shard(stall_ms=300) as s:
        api, worker = s.peer("api"), s.peer("worker")
        first = accepted(api)
        job = worker.receive("job")
        # The end's index cannot be written: ZADD on a string.
        hours = int(time.time()) // 3600
        for hour in (hours, hours + 1):
            for name in s.redis.command("KEYS", "*ix*") + [f"{{q0}}:ix:acme:{hour}"]:
                s.redis.command("SET", name, "thorn")
        finish(worker, job)
        worker.nothing("outcome_ack")
        second = submit(api, ref=2)
        until(lambda: s.broker.numbers()["commits_refused"] > 2, "commits are refused")
        if not s.stored("r", first) and not s.stored("j", second):
            api.nothing("ack", "events")
        assert s.stored("j", second) is None
        assert "store.refused" in s.broker.log()
        for hour in (hours, hours + 1):
            s.redis.command("DEL", f"{{q0}}:ix:acme:{hour}")
        worker.receive("outcome_ack")
        assert api.receive("ack", seconds=15).id == second


def test_a_nearly_full_redis_takes_no_new_jobs_and_ends_the_old():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        accepted(api)
        job = worker.receive("job")
        s.redis.command("CONFIG", "SET", "maxmemory", "1000kb")
        until(lambda: s.broker.numbers()["store_full"], "it is noticed")
        submit(api, ref=2)
        assert api.receive("ack").error == 43
        finish(worker, job)
        worker.receive("outcome_ack")
        s.redis.command("CONFIG", "SET", "maxmemory", "0")
        until(lambda: not s.broker.numbers()["store_full"], "there is room")
        accepted(api, ref=3)


@pytest.mark.parametrize("setting,word", [(("appendonly", "no"), "AOF is off"), (("maxmemory-policy", "allkeys-lru"), "noeviction")])
def test_a_redis_that_may_lose_jobs_is_refused(setting, word):
    with Shard() as s:
        s.peer("api")
        s.broker.kill()
        s.redis.command("CONFIG", "SET", *setting)
        s.broker.start()
        assert s.broker.process.wait(10) == 1
        assert word in s.broker.log() and "store.unfit" in s.broker.log()
        s.broker.write({**s.broker.values, "redis": {"socket": s.redis.socket, "allow_unsafe": True}})
        s.broker.start()
        s.peer("api")
        assert "store.unsafe" in s.broker.log()


# ---- older data sets ----


def test_an_older_data_set_is_healed():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        s.redis.copy("older")
        first, second = accepted(api, ref=1), accepted(api, ref=2)
        job = worker.receive("job", where=lambda m: m.id == first)
        finish(worker, job)
        worker.receive("outcome_ack")
        s.redis.restart_from("older")
        until(lambda: s.broker.numbers()["store_older"] == 1 and not s.broker.numbers()["store_stalled"], "it is healed")
        assert s.stored("r", first) and s.stored("j", second) and s.stored("j", first) is None
        assert int(s.redis.command("GET", "{q0}:epoch")) == api.epoch
        accepted(api, ref=3)


def test_beyond_the_ring_everything_live_is_written_anew():
    with Shard(ring_bytes=1 << 20, stall_ms=60000) as s:
        api, worker = s.peer("api"), s.peer("worker")
        gone = accepted(api, ref=99)
        job = worker.receive("job")
        s.redis.copy("older")
        finish(worker, job)
        worker.receive("outcome_ack")
        worker.send("bye")
        first = accepted(api, ref=1)
        large = b"{}" + b"x" * 400000
        for n in range(2, 5):
            accepted(api, ref=n, body=large)
        until(lambda: s.broker.numbers()["ring_bytes"] < 1 << 20, "the ring has forgotten the first", every=0.1)
        epoch = api.epoch
        s.redis.restart_from("older")
        until(lambda: "store.rewrite" in s.broker.log(), "it is too old")
        assert api.receive("hello_wanted", seconds=15).epoch > epoch
        api.again()
        until(lambda: not s.broker.numbers()["store_stalled"], "all is written")
        assert s.stored("j", first) and s.stored("b", first)
        until(lambda: s.redis.command("SCARD", "{q0}:live") == 4, "live is what is live")
        # What ended since does not come to life again.
        until(lambda: "store.swept" in s.broker.log() and s.stored("j", gone) is None, "the older data set's own jobs are removed")
        worker = s.peer("worker")
        assert worker.receive("job", where=lambda m: m.id == first).fence[0] == api.epoch
        accepted(api, ref=9)


SLOW_DISK = """
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int fd) { usleep(1500000); return (int)syscall(SYS_fdatasync, fd); }
"""


def slow_redis(directory):
    """A Redis whose fsync takes 1.5 s. Meanwhile it answers and does not even write(2)."""
    (directory / "slow.c").write_text(SLOW_DISK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(directory / "slow.so"), str(directory / "slow.c")], check=True)
    return Redis(directory, env={"LD_PRELOAD": str(directory / "slow.so")})


def test_what_the_broker_before_wrote_outlives_redis_too():
    """Broker, then Redis: two processes die one after the other, and everything that was answered is there."""
    with Shard(redis=slow_redis) as s:
        api = s.peer("api")

        def unwritten():
            accepted(api)
            info = s.redis.command("INFO", "persistence").decode()
            return "aof_buffer_length:0\r" not in info
        until(unwritten, "Redis holds writes back", every=0.005)
        ids = [accepted(api) for _ in range(20)]
        s.broker.kill()
        s.broker.start()
        api.again()
        s.redis.kill()
        s.redis.env = {}
        s.redis.start()
        assert all(s.stored("j", i) and s.stored("b", i) for i in ids)
        until(lambda: not s.broker.numbers()["store_stalled"], "it goes on")
        assert s.broker.numbers()["store_rewrites"] == 0
        worker = s.peer("worker", slots=1000)
        for _ in ids:
            worker.receive("job", where=lambda m: m.id in ids)


# ---- who leads ----


def test_a_resumed_ex_leader_changes_nothing():
    with Shard(name="first") as s:
        api, worker = s.peer("api"), s.peer("worker")
        old = accepted(api)
        job = worker.receive("job")
        os.kill(s.broker.process.pid, signal.SIGSTOP)
        # These wait in its sockets, to become commits when it wakes.
        late = submit(api, ref=2)
        finish(worker, job, b'"late"')
        second = s.add_broker("b", name="second")
        api2 = s.peer("api", second)  # after `leader` has lapsed
        assert api2.epoch > api.epoch
        os.kill(s.broker.process.pid, signal.SIGCONT)
        until(lambda: "store.fenced" in s.broker.log(), "it learns that it was replaced")
        until(lambda: "store.waits" in s.broker.log(), "it waits as a standby")
        assert s.stored("j", late) is None and s.stored("r", old) is None
        assert api.receive("ack", "events", seconds=0.2, missing=None) is None
        assert has(api2, old).error == 0 and has(api2, late).error == 80
        # It is the next one, then.
        second.process.terminate()
        assert second.process.wait(10) == 0
        api.again(seconds=15)
        assert has(api, old).error == 0


def test_a_standby_takes_over_when_the_leader_dies():
    with Shard(name="first") as s:
        api = s.peer("api")
        job_id = accepted(api)
        second = s.add_broker("b", name="second")
        until(lambda: "store.waits" in second.log(), "it waits")
        s.broker.kill()
        began = time.monotonic()
        api2 = s.peer("api", second)
        assert time.monotonic() - began < 5
        assert has(api2, job_id).error == 0


def test_a_redis_that_came_back_older_is_left_to_the_leader_that_can_heal_it():
    """The leader has what it lacks; a standby that took over because it was connected first would lose it."""
    with Shard(name="first") as s:
        api = s.peer("api")
        second = s.add_broker("b", name="second")
        until(lambda: "store.waits" in second.log(), "it waits")
        s.redis.copy("older")
        ids = [accepted(api, ref=n) for n in range(5)]
        s.redis.kill()
        time.sleep(3.2)  # `leader` lapses
        os.kill(s.broker.process.pid, signal.SIGSTOP)  # the standby shall be first
        ups = second.log().count("redis.up")
        s.redis.restart_from("older", killed=True)
        until(lambda: second.log().count("redis.up") > ups, "the standby is there")
        time.sleep(0.3)
        os.kill(s.broker.process.pid, signal.SIGCONT)
        until(lambda: s.broker.numbers()["store_older"] == 1 and not s.broker.numbers()["store_stalled"], "it is healed")
        assert all(s.stored("j", i) for i in ids)
        assert "store.leads" not in second.log()


# ---- starting, stopping, settings ----


@pytest.mark.heavy
def test_a_hundred_thousand_jobs_are_back_in_a_moment():
    with Shard() as s:
        api = s.peer("api")
        ids = []
        for batch in range(100):
            some = [wire.job_id() for _ in range(1000)]
            ids += some
            api.send("bulk", ref=batch, items=[{"id": i, "spec": TTL, "body_bytes": 10} for i in some], body=b"0123456789" * 1000)
            if batch >= 4:
                api.receive("acks", where=lambda m: m.ref == batch - 4, seconds=30)
        for batch in range(96, 100):
            api.receive("acks", where=lambda m: m.ref == batch, seconds=30)
        s.broker.kill()
        began = time.monotonic()
        s.broker.start()
        api.again()
        took = time.monotonic() - began
        assert s.broker.numbers()["jobs"] == 100000
        assert took < (2 if "asan" not in str(quern.BUILD) else 20), took
        worker = s.peer("worker", slots=2)
        assert worker.receive("job").id in ids[:1000] and worker.receive("job").body == b"0123456789"


def test_sigterm_stores_all_and_leaves():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker")
        accepted(api)
        job = worker.receive("job")
        s.broker.process.terminate()
        assert s.broker.process.wait(10) == 0
        api.receive("drain")
        worker.receive("drain")
        assert s.redis.command("EXISTS", "{q0}:leader") == 0
        s.broker.start()
        assert worker.again(held=[{"id": job.id, "fence": job.fence, "run": 1}]).verdicts[0]["verdict"] == 1


def test_sigterm_waits_for_a_slow_store():
    with Shard(stall_ms=60000) as s:
        api = s.peer("api")
        s.redis.process.send_signal(signal.SIGSTOP)
        waiting = submit(api, ref=10)
        api.nothing("ack")
        s.broker.process.terminate()
        api.receive("drain")
        s.redis.process.send_signal(signal.SIGCONT)
        assert api.receive("ack").id == waiting
        assert s.broker.process.wait(10) == 0
        assert s.stored("j", waiting)


def test_settings_are_read_again():
    with Shard() as s:
        api = s.peer("api")
        s.broker.write({**s.broker.values, "deployments": [{"name": "other", "provider": "echo"}],
                        "routes": [{"name": "*", "deployments": ["other"]}]})
        s.broker.process.send_signal(signal.SIGHUP)
        reload = api.receive("reload")
        api.send("reloaded", revision=reload.revision, error=79, detail="no")
        until(lambda: "peer.reloaded" in s.broker.log(), "the answer is logged")
        worker = s.peer("worker", served=[{"name": "other", "hash": wire.deployment_hash("other")}])
        accepted(api)
        assert worker.receive("job").deployment == "other"
        s.broker.settings.write_text("broker: {nonsense: 1}\n")
        s.broker.process.send_signal(signal.SIGHUP)
        until(lambda: "settings.bad" in s.broker.log(), "it is refused")
        accepted(api, ref=2)


def test_a_reader_too_far_behind_is_told_to_begin_again():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker", slots=1)
        ids = [accepted(api, ref=n) for n in range(24)]
        api.received = 0
        result, seen = b'"' + b"x" * 4_000_000 + b'"', []
        for _ in ids:  # 96 MB of ends, of which it acknowledges none
            job = worker.receive("job")
            finish(worker, job, result)
            worker.receive("outcome_ack")
            seen.append(job.id)
        assert api.receive("hello_wanted", seconds=5).epoch == api.epoch
        api.again()
        assert sorted(seen) == sorted(ids) and s.broker.numbers()["completed"] == 24


# ---- the monitor ----


def test_quernctl():
    with Shard() as s:
        api, worker = s.peer("api"), s.peer("worker", name="w:1")
        job_id = accepted(api)
        text = "job_" + s.key("j", job_id).rsplit(":", 1)[1]
        job = worker.receive("job")
        live = s.broker.ctl("job", text)
        assert live["live"] and live["state"] == "processing" and live["attempts"][0]["worker"] == "w:1"
        finish(worker, job, b'"secret"')
        worker.receive("outcome_ack")
        ended = s.broker.ctl("job", text)
        assert not ended["live"] and ended["state"] == "completed" and "result" not in ended
        assert s.broker.ctl("job", text, "--result")["result"] == '"secret"'
        stats = s.broker.ctl("stats")
        assert stats["numbers"]["completed"] == 1 and stats["ack"] == "stored"
        assert s.broker.ctl("stats", "--tenant", "acme")["numbers"]["completed"] == 1
        assert [p["name"] for p in s.broker.ctl("peers", "--role", "worker")["peers"]] == ["w:1"]
        assert s.broker.ctl("job", "job_" + "0" * 26, check=False).returncode == 3
        assert s.broker.ctl("job", "nonsense", check=False).returncode == 2
        assert s.broker.ctl("nonsense", check=False).returncode == 2
        other = accepted(api, ref=2)
        cancelled = s.broker.ctl("cancel", "job_" + s.key("j", other).rsplit(":", 1)[1])
        assert cancelled["state"] == "cancelled"
        s.broker.kill()
        assert s.broker.ctl("--within", "300", "stats", check=False).returncode == 4


def test_the_feed_numbers_every_change():
    with Shard() as s:
        import zmq
        monitor, api, worker = s.peer("monitor"), s.peer("api"), s.peer("worker")
        feed = wire.Peer.context.socket(zmq.SUB)
        feed.setsockopt(zmq.SUBSCRIBE, b"")
        feed.connect(s.broker.endpoint("feed"))
        seen = []

        def read(name, where=lambda m: True):
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                if feed.poll(1000):
                    message = wire.Message(*feed.recv_multipart())
                    seen.append(message)
                    if message.name == name and where(message):
                        return message
            raise AssertionError(f"no {name} on the feed")

        start = read("snapshot")
        assert {c["name"] for c in start.counters} >= {"jobs", "commits", "frames_bad", "turns"}
        job_id = accepted(api)
        finish(worker, worker.receive("job"))
        read("change", lambda m: m.state == 4 and m.id == job_id)
        changes = [m.seq for m in seen if m.name == "change"]
        assert changes == list(range(start.seq + 1, start.seq + 1 + len(changes)))
        monitor.send("heartbeat")
        monitor.receive("heartbeat_ack")
        feed.close(0)


def test_quernctl_tells_how_it_ended():
    """Exit codes 0 to 4, and with --json a JSON value on every path."""
    with Shard() as s:
        api = s.peer("api")
        job_id = "job_" + s.key("j", accepted(api)).rsplit(":", 1)[1]

        def run(code, *args):
            done = s.broker.ctl(*args, check=False)
            assert done.returncode == code, (args, done)
            shown = json.loads(done.stdout)
            assert bool(code) == ("error" in shown) == bool(done.stderr), (args, done)
            return shown

        for acts in (["stats"], ["peers"], ["pause", "--queue", "q"], ["resume", "--queue", "q"], ["reload"], ["job", job_id]):
            run(0, *acts)
        run(0, "cancel", job_id)
        assert run(1, "cancel", job_id)["error"]["code"] == "already_ended"
        key = s.dir / "key"
        public = run(0, "keygen", str(key))["public_key"]
        before = key.read_bytes()
        assert public.encode() in before and key.stat().st_mode & 0o777 == 0o600
        assert "exists" in run(1, "keygen", str(key))["error"]["message"] and key.read_bytes() == before
        for wrong in (["nonsense"], ["job"], ["job", "nonsense"], ["pause"], ["peers", "--role", "x"], ["--within", "1x", "stats"],
                      ["--nonsense", "stats"], ["--settings", str(key), "stats"]):
            run(2, *wrong)
        run(3, "job", "job_" + "0" * 26)
        run(3, "cancel", "job_" + "0" * 26)
        for stop in (lambda: s.broker.process.send_signal(signal.SIGSTOP), s.broker.kill):
            stop()
            began = time.monotonic()
            assert s.broker.endpoint("monitor") in run(4, "stats")["error"]["message"]
            assert time.monotonic() - began < 3


def test_the_feeds_keys_are_read_again():
    import zmq
    port = quern.free_port()
    with Shard(feed="", key_file="") as s:
        key = str(s.dir / "server.key")
        server, mine = s.broker.ctl("keygen", key)["public_key"], zmq.curve_keypair()
        s.broker.kill()
        s.broker.values["broker"].update(feed=f"tcp://127.0.0.1:{port}", key_file=key)
        s.broker.write(s.broker.values)
        s.broker.start()
        s.peer("monitor")  # while there is one the feed is made

        def hears(ms):
            feed = wire.Peer.context.socket(zmq.SUB)
            feed.curve_serverkey, (feed.curve_publickey, feed.curve_secretkey) = server.encode(), mine
            feed.setsockopt(zmq.SUBSCRIBE, b"")
            feed.connect(f"tcp://127.0.0.1:{port}")
            heard = feed.poll(ms)
            feed.close(0)
            return heard
        assert not hears(1500)
        s.broker.write({**s.broker.values, "peers": [{"role": "monitor", "name": "m", "public_key": mine[0].decode()}]})
        s.broker.process.send_signal(signal.SIGHUP)
        until(lambda: "settings.reloaded" in s.broker.log(), "settings are read again")
        assert hears(10000)
