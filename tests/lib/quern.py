"""A whole Quern on private paths and ports, for tests: started, watched, hurt and stopped.

Everything waits for an event with a deadline (`until`), never for time to pass."""

import contextlib
import email.utils
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))


def until(condition, what, seconds=20.0, every=0.01):
    """The first true value of condition(); AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


def free_port():
    """Below the ports that the kernel gives out by itself: one of those would soon be somebody's again. Test processes that run side
    by side draw from numbers of their own."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        port = random.SystemRandom().randrange(20000 + mine, 32000, processes)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(p) for p in f.read().split()]
    except OSError:
        return []


def process_name(pid):
    """What it calls itself: "quern-worker:0"; empty once it is gone."""
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


class Http:
    """One keep-alive connection."""

    def __init__(self, port, timeout=40):
        self.port, self.timeout, self.conn = port, timeout, None

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)

    def request(self, method, path, body=None, headers=None):
        if self.conn is None:
            self.conn = self.connect()
        send = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            send.setdefault("Content-Type", "application/json")
        try:
            self.conn.request(method, path, body, send)
            reply = self.conn.getresponse()
            return Reply(reply.status, dict((k.lower(), v) for k, v in reply.getheaders()), reply.read())
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.conn is not None:
            self.conn.close()
            self.conn = None


def raw(port, data, seconds=5.0, shutdown=False):
    """Send bytes, give back everything that came until the other end closed or `seconds` passed."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as s:
        s.sendall(data)
        if shutdown:
            s.shutdown(socket.SHUT_WR)
        got = b""
        with contextlib.suppress(socket.timeout, ConnectionError):
            while chunk := s.recv(65536):
                got += chunk
        return got


class Upstream:
    """quern-upstream: the scripted provider (tests/upstream/README.md)."""

    def __init__(self, directory, log=False):
        self.port_file = pathlib.Path(directory) / "upstream.port"
        args = [str(BUILD / "quern-upstream"), "--port-file", str(self.port_file), "--quiet"]
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL)
        self.port = int(until(lambda: self.port_file.exists() and self.port_file.read_text().strip(), "the upstream listens"))
        self.http = Http(self.port)

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def calls(self, since=0):
        return self.http.request("GET", f"/_calls?since={since}").json["calls"]

    def stats(self):
        return self.http.request("GET", "/_stats").json

    def script(self, **directives):
        reply = self.http.request("POST", "/_script", directives)
        assert reply.status == 200, reply

    def reset(self):
        self.http.request("POST", "/_reset", {})

    def calls_with(self, text):
        return [c for c in self.calls() if text in c["prompt_head"]]

    def stop(self):
        self.http.close()
        self.process.terminate()
        self.process.wait(10)


def to_yaml(value, indent=0):
    """Enough YAML for settings: maps, lists of maps or scalars, scalars."""
    pad = "  " * indent
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{pad}{key}:", to_yaml(item, indent + 1)]
        elif isinstance(item, list):
            lines.append(f"{pad}{key}:")
            for row in item:
                if isinstance(row, dict):
                    body = to_yaml(row, indent + 2).lstrip()
                    lines.append(f"{pad}  - {body}")
                else:
                    lines.append(f"{pad}  - {json.dumps(row)}")
        else:
            lines.append(f"{pad}{key}: {json.dumps(item)}")
    return "\n".join(lines)


def merged(base, over):
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


class Quern:
    """All roles under `quernctl run`, calling the scripted upstream by the name of any model. settings: a map, or what makes one of
    the state directory."""

    ROLES = ("redis", "broker", "worker", "api")

    def __init__(self, settings=None, workers=2, api_children=2, upstream=True, start=True):
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="quern-test-"))
        self.port = free_port()
        self.upstream = Upstream(self.state) if upstream else None
        base = {"worker": {"children": workers, "slots": 64}, "api": {"port": self.port, "children": api_children}}
        if self.upstream:
            base["credentials"] = [{"name": "upstream", "base_url": self.upstream.base_url}]
            base["deployments"] = [{"name": "upstream", "provider": "openai", "credential": "upstream"}]
            base["routes"] = [{"name": "*", "deployments": ["upstream"]}]
        if callable(settings):
            settings = settings(self.state)
        self.settings = self.state / "test.yaml"
        self.settings.write_text(to_yaml(merged(base, settings or {})) + "\n")
        self.local = threading.local()
        self.run = None
        if start:
            self.start()

    # -- life --

    def start(self, ready=True):
        self.run = subprocess.Popen(
            [str(BUILD / "quernctl"), "run", "--settings", str(self.settings), "--state", str(self.state)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.state / "run.log").open("ab"))
        if ready:
            self.ready()

    def ready(self, seconds=30):
        def check():
            assert self.run is None or self.run.poll() is None, "quernctl run ended:\n" + self.log_tail()
            with contextlib.suppress(OSError, http.client.HTTPException):
                http_ = Http(self.port, timeout=2)
                try:
                    return http_.request("GET", "/readyz").status == 200
                finally:
                    http_.close()
            return False
        try:
            until(check, "ready", seconds, every=0.05)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.log_tail()}") from None

    def stop(self):
        if self.run is not None and self.run.poll() is None:
            self.run.terminate()
            try:
                self.run.wait(30)
            except subprocess.TimeoutExpired:
                self.run.kill()
                self.run.wait(5)
        for role in self.ROLES:
            pid = self.pid(role)
            if pid and alive(pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        if self.upstream:
            self.upstream.stop()

    def close(self):
        self.stop()
        shutil.rmtree(self.state, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0] is not None:
            print(self.log_tail(60))
        self.close()

    # -- processes --

    def pid(self, role):
        try:
            return int((self.state / "run" / f"{role}.pid").read_text())
        except (OSError, ValueError):
            return None

    def children(self, role):
        pid = self.pid(role)
        return children(pid) if pid else []

    def signal(self, role, signo):
        os.kill(self.pid(role), signo)

    def kill(self, role):
        """kill -9 of the role's parent; gives back the pid that died."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), f"{role} {pid} is dead")
        return pid

    def restarted(self, role, old, seconds=15):
        return until(lambda: self.pid(role) not in (None, old) and alive(self.pid(role)) and self.pid(role),
                     f"{role} runs again", seconds)

    @contextlib.contextmanager
    def stopped(self, role):
        """SIGSTOP for the duration of the block."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGCONT)

    def log_tail(self, lines=25):
        out = []
        for path in [self.state / "run.log", *sorted(self.state.glob("logs/*.log"))]:
            with contextlib.suppress(OSError):
                out.append(f"--- {path.name}")
                out += path.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(out)

    def logs(self, role):
        with contextlib.suppress(OSError):
            return (self.state / "logs" / f"{role}.log").read_text(errors="replace")
        return ""

    # -- requests; one kept connection per thread --

    def request(self, method, path, body=None, headers=None):
        if not hasattr(self.local, "http"):
            self.local.http = Http(self.port)
        return self.local.http.request(method, path, body, headers)

    def submit(self, job, wait=None, headers=None, expect=(202, 200)):
        if isinstance(job, str):
            job = {"prompt": job}
        reply = self.request("POST", "/v1/jobs" + (f"?wait={wait}" if wait else ""), job, headers)
        assert reply.status in expect, reply
        return reply.json

    def get(self, job_id, wait=None):
        return self.request("GET", f"/v1/jobs/{job_id}" + (f"?wait={wait}" if wait else ""))

    def job(self, job_id):
        reply = self.get(job_id)
        assert reply.status == 200, reply
        return reply.json

    def ended(self, job_id, seconds=30):
        """The job once it is terminal; rides over restarts of any role."""
        def check():
            with contextlib.suppress(OSError, http.client.HTTPException):
                reply = self.get(job_id, wait="5s")
                if reply.status == 200 and reply.json["status"] in ("completed", "failed", "cancelled", "expired"):
                    return reply.json
                assert reply.status in (200, 503), reply
            return None
        return until(check, f"{job_id} has ended", seconds, every=0.02)

    def cancel(self, job_id):
        return self.request("DELETE", f"/v1/jobs/{job_id}")

    def stats(self):
        reply = self.request("GET", "/v1/stats")
        assert reply.status == 200, reply
        return reply.json

    def counter(self, name):
        """A number of the broker's, its store's or its peers', which say theirs with every heartbeat: 0 until they have."""
        for line in self.ctl("stats").stdout.splitlines():
            found = re.fullmatch(rf"\s*{re.escape(name)}\s*(-?\d+)", line)
            if found:
                return int(found[1])
        return 0

    def ctl(self, *args, check=True):
        out = subprocess.run([str(BUILD / "quernctl"), "--settings", str(self.settings), *args], capture_output=True, text=True,
                             timeout=30, env={**os.environ, "QUERN_QUERN_STATE_DIR": str(self.state)})
        if check:
            assert out.returncode == 0, out
        return out

    def redis(self, *command):
        """One command as the broker's own user."""
        password = (self.state / "redis-broker.password")
        args = ["redis-cli", "-s", str(self.state / "redis.sock"), "--no-auth-warning"]
        if password.exists():
            args += ["--user", "broker", "-a", password.read_text().strip()]
        return subprocess.run([*args, *command], capture_output=True, text=True, timeout=30).stdout.strip()


def http_date(seconds_from_now):
    return email.utils.formatdate(time.time() + seconds_from_now, usegmt=True)
