"""One shard spread over hosts: api, broker, perhaps its standby, workers, Redis and the provider each on their own, CURVE between roles, TLS to
Redis, keys that are listed and no others."""

import contextlib
import http.client
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile

import net
import pki
from quern import BUILD, Http, alive, children, to_yaml, until

API, WORKER, MONITOR, HTTP, REDIS, PROVIDER = 5570, 5571, 5572, 8080, 6379, 9000
BROKER_RIGHTS = "~{q*}* +@read +@write +@connection -@dangerous +evalsha +script|load +info +config|get +wait"
API_RIGHTS = "%R~{q*}* +@read +@connection -@dangerous -scan -randomkey -dbsize"


class Caller(Http):
    """One keep-alive connection from one host to another."""

    def __init__(self, source, address, port, timeout=40):
        super().__init__(port, timeout)
        self.source, self.address = source, address

    def connect(self):
        conn = http.client.HTTPConnection(self.address, self.port, timeout=self.timeout)
        with self.source.inside():
            conn.connect()
        return conn


class Role:
    """One program on one host with settings, log and directory of its own."""

    def __init__(self, host, program, settings, directory, name=None):
        self.host, self.program, self.name, self.dir = host, program, name or host.name, directory
        self.dir.mkdir(mode=0o700, exist_ok=True)
        self.settings_file, self.log_file, self.process = directory / "settings.yaml", directory / "log", None
        self.write(settings)

    def write(self, settings):
        self.settings = settings
        self.settings_file.write_text(to_yaml(settings) + "\n")

    def start(self, env=None):
        with self.log_file.open("ab") as log:
            self.process = self.host.start([BUILD / self.program, "--settings", self.settings_file], log, env)
        return self

    @property
    def pid(self):
        return self.process.pid

    def signal(self, number):
        """To the role and its children alike."""
        for pid in [self.pid, *children(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def logged(self, event):
        return [line for line in self.log().splitlines() if f"event={event} " in line + " "]


class Redis:
    """A Redis that listens with TLS on its host; `command` reaches it by its unix socket, whatever the network does."""

    def __init__(self, shard, host, master=None):
        self.shard, self.host, self.dir = shard, host, shard.dir / host.name
        self.dir.mkdir(mode=0o700, exist_ok=True)
        self.socket, self.process = str(self.dir / "redis.sock"), None
        key, pem = shard.authority.certificate(host.name, host.address)
        (self.dir / "users.acl").write_text(
            "user default off resetpass ~* &* +@all\n"
            f"user broker on >{shard.passwords['broker']} resetchannels {BROKER_RIGHTS}\n"
            f"user api on >{shard.passwords['api']} resetchannels {API_RIGHTS}\n"
            f"user peer on >{shard.passwords['peer']} allchannels ~* +@all\n")
        self.options = {
            "port": 0, "tls-port": REDIS, "bind": host.address, "tls-cert-file": pem, "tls-key-file": key,
            "tls-ca-cert-file": shard.authority.dir / "ca.pem", "tls-auth-clients": "no", "tls-replication": "yes", "aclfile": self.dir / "users.acl",
            "unixsocket": self.socket, "dir": self.dir, "save": '""', "appendonly": "yes", "maxmemory-policy": "noeviction", "loglevel": "notice",
            "masteruser": "peer", "masterauth": shard.passwords["peer"], "repl-diskless-sync-delay": 0, "repl-timeout": 5,
            "repl-ping-replica-period": 1}
        if master:
            self.options["replicaof"] = f"{master.host.address} {REDIS}"
        (self.dir / "redis.conf").write_text("".join(f"{k} {v}\n" for k, v in self.options.items()))

    def start(self):
        with (self.dir / "redis.log").open("ab") as log:
            self.process = self.host.start(["redis-server", self.dir / "redis.conf"], log)
        until(self.answers, f"redis on {self.host.name} answers")
        return self

    def answers(self):
        with contextlib.suppress(OSError, RuntimeError):
            return self.command("PING") == "PONG"
        return False

    def command(self, *args):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(self.socket)
            f = s.makefile("rb")
            for words in (("AUTH", "peer", self.shard.passwords["peer"]), args):
                parts = [str(w).encode() for w in words]
                s.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
                reply = self._reply(f)
            return reply

    def info(self, name):
        """One line of INFO."""
        found = [line for line in self.command("INFO").splitlines() if line.startswith(name + ":")]
        return found[0].split(":", 1)[1].strip() if found else None

    def _reply(self, f):
        line = f.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:].decode()
        if kind == b"*":
            return [self._reply(f) for _ in range(int(rest))]
        if kind == b"$":
            return None if rest == "-1" else f.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind in b"+:" and kind:
            return rest
        raise RuntimeError(rest or "closed")

    def kill(self):
        self.process.kill()
        self.process.wait(10)


class Provider:
    """quern-upstream on a host of its own."""

    def __init__(self, shard, host):
        self.host = host
        port_file = shard.dir / "provider.port"
        host.start([BUILD / "quern-upstream", "--listen", f"{host.address}:{PROVIDER}", "--port-file", port_file, "--quiet"], subprocess.DEVNULL)
        until(lambda: port_file.exists() and port_file.read_text().strip(), "the provider listens")
        self.http = Caller(shard.users, host.address, PROVIDER)
        self.base_url = f"http://{host.address}:{PROVIDER}/v1"

    def calls(self):
        return self.http.request("GET", "/_calls?since=0").json["calls"]

    def in_flight(self):
        return self.http.request("GET", "/_stats").json["in_flight"]


class Shard:
    """brokers: names of hosts that each run one. workers: likewise. Everything is started; the first broker named leads."""

    def __init__(self, brokers=("broker",), workers=("work1",), settings=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="quern-hosts-"))
        self.over = settings or {}
        self.net = net.Net()
        try:
            self.users = self.net.host("users")
            self.passwords = {name: secrets.token_hex(16) for name in ("broker", "api", "peer", "sentinel")}
            for name, password in self.passwords.items():
                (self.dir / f"{name}.password").write_text(password + "\n")
            self.authority = pki.Authority(self.dir)
            self.provider = Provider(self, self.net.host("provider"))
            self.make_hosts(brokers, workers)
            self.make_stores()
            self.make_roles(brokers, workers)
        except BaseException:
            self.close()
            raise

    # -- making --

    def make_hosts(self, brokers, workers):
        for name in (*brokers, *workers, "api"):
            self.net.host(name)
        self.keys = {name: pki.keygen(self.dir / f"{name}.key") for name in (*brokers, *workers, "api", "person")}

    def make_stores(self):
        self.redis = Redis(self, self.net.host("redis")).start()
        self.redis_settings = {"host": self.redis.host.address, "port": REDIS}

    def common(self, name):
        """What the settings of every role have."""
        store = {**self.redis_settings, "tls": True, "tls_ca_file": str(self.dir / "ca.pem"), "user": "broker",
                 "password_file": str(self.dir / "broker.password"), "reader_user": "api",
                 "reader_password_file": str(self.dir / "api.password"), **self.over.get("redis", {})}
        return {"quern": {"state_dir": str(self.dir / name)}, "redis": store,
                "credentials": [{"name": "provider", "base_url": self.provider.base_url}],
                "deployments": [{"name": "provider", "provider": "openai", "credential": "provider"}],
                "routes": [{"name": "*", "deployments": ["provider"]}]}

    def at_brokers(self, port):
        return ",".join(f"tcp://{host.address}:{port}" for host in self.broker_hosts)

    def public_keys(self, brokers):
        return ",".join(self.keys[name] for name in brokers)

    def make_roles(self, brokers, workers):
        hosts = self.net.hosts
        self.broker_hosts = [hosts[name] for name in brokers]
        public = {"public_key": self.public_keys(brokers)}
        peers = [{"name": name, "public_key": self.keys[name], "role": "api" if name == "api" else "worker"} for name in ("api", *workers)]
        peers.append({"name": "person", "public_key": self.keys["person"], "role": "monitor"})
        self.brokers = [Role(hosts[name], "quern-broker", {
            **self.common(name), "peers": peers,
            "broker": {"name": name, "api": f"tcp://{hosts[name].address}:{API}", "worker": f"tcp://{hosts[name].address}:{WORKER}",
                       "monitor": f"tcp://{hosts[name].address}:{MONITOR}", "key_file": str(self.dir / f"{name}.key"), **self.over.get("broker", {})},
        }, self.dir / name) for name in brokers]
        self.workers = [Role(hosts[name], "quern-worker", {
            **self.common(name), "broker": public,
            "worker": {"broker": self.at_brokers(WORKER), "key_file": str(self.dir / f"{name}.key"), "children": 1, "slots": 64, "stop_ms": 1000,
                       **self.over.get("worker", {})},
        }, self.dir / name) for name in workers]
        self.api = Role(hosts["api"], "quern-api", {
            **self.common("api"), "broker": public,
            "api": {"host": hosts["api"].address, "port": HTTP, "broker": self.at_brokers(API), "key_file": str(self.dir / "api.key"), "children": 2,
                    "submit_ms": 1500, **self.over.get("api", {})},
        }, self.dir / "api")
        self.brokers[0].start()
        until(lambda: self.brokers[0].logged("role.ready"), "the first broker leads")
        for role in (*self.brokers[1:], *self.workers, self.api):
            role.start()
        self.ready()

    # -- words for tests --

    def caller(self, timeout=40):
        """A user's connection to the api."""
        return Caller(self.users, self.net.hosts["api"].address, HTTP, timeout)

    def ask(self, method, path, body=None, timeout=40):
        caller = self.caller(timeout)
        try:
            return caller.request(method, path, body)
        finally:
            caller.close()

    def ready(self, seconds=20):
        def check():
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.ask("GET", "/readyz", timeout=2).status == 200
            return False
        until(check, "ready", seconds, every=0.05)

    def ended(self, job_id, seconds=60):
        def check():
            with contextlib.suppress(OSError, http.client.HTTPException):
                reply = self.ask("GET", f"/v1/jobs/{job_id}?wait=2s")
                if reply.status == 200 and reply.json["status"] in ("completed", "failed", "cancelled", "expired"):
                    return reply.json
                assert reply.status in (200, 503), reply
            return None
        return until(check, f"{job_id} has ended", seconds)

    def ctl(self, *args, broker=0, check=True, key="person", broker_key=None):
        """quernctl on the users' host, over TCP with a key of its own. broker: which one is asked; None: whichever leads."""
        hosts = self.broker_hosts if broker is None else [self.broker_hosts[broker]]
        endpoints, keys = (",".join(x) for x in zip(*((f"tcp://{h.address}:{MONITOR}", self.keys[h.name]) for h in hosts)))
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.users.name}", str(BUILD / "quernctl"), "--json", "--endpoint", endpoints,
             "--key", str(self.dir / f"{key}.key"), "--broker-key", broker_key or keys, *args], capture_output=True, text=True, timeout=20)
        if not check:
            return done
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def numbers(self, broker=0):
        return self.ctl("stats", broker=broker)["numbers"]

    def leader(self):
        """The broker that serves, by its own log."""
        for role in self.brokers:
            events = [line for line in role.log().splitlines() if "event=role.ready" in line or "event=store.fenced" in line or "event=role.start" in line]
            if role.process and alive(role.pid) and events and "event=role.ready" in events[-1]:
                return role
        return None

    def tails(self, lines=25):
        out = []
        for path in sorted([*self.dir.glob("*/log"), *self.dir.glob("*/*.log")]):
            out += [f"--- {path.parent.name}/{path.name}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(out)

    # -- end --

    def close(self):
        for role in getattr(self, "workers", []):
            if role.process and role.process.poll() is None:
                role.kill()
        self.net.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0] is not None:
            print(self.tails())
        self.close()
