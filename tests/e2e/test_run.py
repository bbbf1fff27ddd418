"""`quernctl run` itself: what it starts, starts again, ends, and in which order. The roles are stand-ins, so that each can be told
to be slow, stubborn or broken; Redis is real."""

import contextlib
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile

import pytest

from quern import BUILD, Http, alive, children, until

STAND_IN = '''#!/usr/bin/python3
import http.server, os, signal, sys, threading
role = os.path.basename(sys.argv[0]).split("-")[1]
plan = os.environ.get("PLAN", "").split()
done = threading.Event()
def term(*_):
    print(role, "asked", flush=True)
    if "stubborn:" + role not in plan:
        done.set()
signal.signal(signal.SIGTERM, term)
signal.signal(signal.SIGHUP, lambda *_: print(role, "reload", flush=True))
print(role, "up", *sys.argv[1:], flush=True)
if "broken:" + role in plan:
    sys.exit(1)
if os.fork() == 0:  # what a killed parent leaves behind
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
if role == "api":
    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            self.send_response(503 if os.path.exists(os.environ["QUERN_QUERN_STATE_DIR"] + "/not-ready") else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()
        def log_message(self, *_):
            pass
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = os.environ["QUERN_API_PORT_FILE"]
    with open(path + ".new", "w") as f:
        f.write(f"{server.server_port}\\n")
    os.rename(path + ".new", path)
while not done.wait(0.05):
    pass
os._exit(0)
'''

ROLES = ("redis", "broker", "worker", "api")


class Run:
    """A state directory, and quernctl beside stand-ins for the roles."""

    def __init__(self):
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="quern-run-"))
        self.state = self.top / "state"
        self.ctl = self.top / "quernctl"
        shutil.copy(BUILD / "quernctl", self.ctl)
        for role in ROLES[1:]:
            path = self.top / f"quern-{role}"
            path.write_text(STAND_IN)
            path.chmod(0o755)
        self.plan = ""
        self.process = None

    def start(self, *args, fds=()):
        self.process = subprocess.Popen([str(self.ctl), "run", "--state", str(self.state), *args], text=True,
                                        env={**os.environ, "PLAN": self.plan}, stdin=subprocess.DEVNULL, pass_fds=fds,
                                        stdout=subprocess.PIPE, stderr=(self.top / "run.log").open("a"))
        return self

    def ready(self, *args, fds=()):
        self.start(*args, fds=fds)
        spoken = select.select([self.process.stdout], [], [], 20)[0]
        line = self.process.stdout.readline() if spoken else "nothing"
        assert line == f"ready http://127.0.0.1:{self.port()}\n", line + (self.top / "run.log").read_text()
        for role in ROLES[1:]:
            until(lambda: f"{role} up" in self.log(role), f"{role} is up")
        return self

    def once(self, *args):
        return subprocess.run([str(self.ctl), "run", "--state", str(self.state), *args], text=True, capture_output=True,
                              timeout=60, env={**os.environ, "PLAN": self.plan}, stdin=subprocess.DEVNULL)

    def pid(self, name):
        with contextlib.suppress(OSError, ValueError):
            return int((self.state / "run" / f"{name}.pid").read_text())
        return None

    def pids(self):
        return {role: self.pid(role) for role in ROLES}

    def everyone(self):
        return [each for pid in self.pids().values() if pid for each in [pid, *children(pid)]]

    def log(self, name):
        with contextlib.suppress(OSError):
            return (self.state / "logs" / f"{name}.log").read_text()
        return ""

    def port(self):
        return int((self.state / "run" / "api.port").read_text())

    def close(self):
        self.once("--stop")
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait(10)
        shutil.rmtree(self.top, ignore_errors=True)


@pytest.fixture
def run():
    r = Run()
    yield r
    r.close()


def gone(pids):
    return not any(alive(pid) for pid in pids)


def test_it_starts_everything_privately(run):
    settings = run.top / "a.yaml"
    settings.write_text("worker: {slots: 3}\n")
    run.ready("--settings", str(settings), "--workers", "5", "--port", "0")
    assert all(alive(pid) for pid in run.pids().values())
    assert run.state.stat().st_mode & 0o777 == 0o700
    secrets = [run.state / name for name in ("redis-broker.password", "redis-api.password", "redis.acl", "redis.conf")]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in secrets)
    assert run.log("worker").startswith(f"worker up --settings {settings}\n")
    environment = pathlib.Path(f"/proc/{run.pid('worker')}/environ").read_bytes().split(b"\0")
    assert b"QUERN_WORKER_CHILDREN=5" in environment
    password = secrets[0].read_text().strip()
    for role in ROLES:
        for name in ("cmdline", "environ"):
            assert password.encode() not in pathlib.Path(f"/proc/{run.pid(role)}/{name}").read_bytes()
    assert password not in secrets[2].read_text()


def redis(run, user, *command):
    password = (run.state / f"redis-{user}.password").read_text().strip()
    out = subprocess.run(["redis-cli", "-s", str(run.state / "redis.sock"), "--no-auth-warning", "--user", user, *command],
                         capture_output=True, text=True, timeout=10, env={**os.environ, "REDISCLI_AUTH": password})
    return out.stdout.strip()


def test_redis_has_two_users_and_each_its_rights(run):
    run.ready("--port", "0")
    assert redis(run, "broker", "SET", "{q0}:j:x", "1") == "OK"
    assert redis(run, "broker", "CONFIG", "GET", "appendonly").split() == ["appendonly", "yes"]
    assert "aof_enabled:1" in redis(run, "broker", "INFO", "persistence")
    assert redis(run, "api", "GET", "{q0}:j:x") == "1"
    for user, *command in [("broker", "SET", "other", "1"), ("broker", "FLUSHALL"), ("broker", "CONFIG", "SET", "appendonly", "no"),
                           ("broker", "KEYS", "*"), ("broker", "SHUTDOWN"), ("broker", "ACL", "LIST"), ("broker", "EVAL", "return 1", "0"),
                           ("api", "SET", "{q0}:j:x", "2"), ("api", "DEL", "{q0}:j:x"), ("api", "GET", "other"), ("api", "SCAN", "0"),
                           ("api", "INFO"), ("api", "EVAL", "return 1", "0")]:
        assert "NOPERM" in redis(run, user, *command), (user, command)
    out = subprocess.run(["redis-cli", "-s", str(run.state / "redis.sock"), "PING"], capture_output=True, text=True, timeout=10)
    assert "NOAUTH" in out.stdout
    assert redis(run, "api", "GET", "{q0}:j:x") == "1"


@pytest.mark.parametrize("role", ROLES)
def test_what_dies_is_started_again(run, role):
    run.ready("--port", "0")
    before = run.pids()
    os.kill(before[role], signal.SIGKILL)
    until(lambda: run.pid(role) not in (None, before[role]) and alive(run.pid(role)), f"{role} runs again", 5)
    after = run.pids()
    assert all(after[other] == before[other] for other in ROLES if other != role)


def test_what_never_starts_is_tried_ever_more_slowly(run):
    run.plan = "broken:worker"
    run.start("--port", "0")
    until(lambda: run.log("worker").count("worker up") >= 5, "five tries", 10)
    lines = [line for line in (run.top / "run.log").read_text().splitlines() if "child.start" in line and "name=worker" in line]
    seconds = [float(line.split("T")[1].split("Z")[0].split(":")[-1]) for line in lines[:5]]
    waits = [(b - a) % 60 for a, b in zip(seconds, seconds[1:])]
    assert waits[1] >= 0.1 and waits[2] >= 0.2 and waits[3] >= 0.4
    assert alive(run.pid("api")) and alive(run.pid("broker"))


def test_it_stops_in_order(run):
    run.ready("--port", "0")
    everyone = run.everyone()
    run.process.terminate()
    assert run.process.wait(20) == 0
    lines = (run.top / "run.log").read_text().splitlines()
    ended = [line.split("name=")[1].split()[0] for line in lines if "child.exit" in line]
    assert ended == ["api", "worker", "broker", "redis"]
    until(lambda: gone(everyone), "everything is gone")
    assert not list((run.state / "run").glob("*.pid"))


def test_a_second_signal_stops_at_once(run):
    run.plan = "stubborn:api"
    run.ready("--port", "0")
    everyone = run.everyone()
    run.process.terminate()
    until(lambda: "api asked" in run.log("api"), "api was asked")
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(2) == 0
    until(lambda: gone(everyone), "everything is gone")


def test_a_stubborn_role_is_killed(run):
    run.plan = "stubborn:worker"
    run.ready("--port", "0")
    worker = run.pid("worker")
    run.process.terminate()
    assert run.process.wait(25) == 0
    assert not alive(worker)
    assert "child.kill" in (run.top / "run.log").read_text()


def test_a_hangup_is_a_reload(run):
    run.ready("--port", "0")
    run.process.send_signal(signal.SIGHUP)
    for role in ("broker", "api"):  # the broker tells the workers
        until(lambda: f"{role} reload" in run.log(role), f"{role} reads again")
    assert run.process.poll() is None


def test_one_run_per_directory(run):
    run.ready("--port", "0")
    before = run.pids()
    second = run.once("--port", "0")
    assert second.returncode == 3 and f"process {run.process.pid} runs it already" in second.stderr
    assert run.pids() == before and all(alive(pid) for pid in before.values())
    assert run.once("--alive").returncode == 0


def test_a_killed_supervisor_takes_its_roles_along_and_the_next_run_ends_what_is_left(run):
    run.ready("--port", "0")
    everyone, roles = run.everyone(), list(run.pids().values())
    run.process.kill()
    run.process.wait(5)
    until(lambda: gone(roles), "the roles end with it")
    assert not gone(everyone)  # the stand-ins' children are deaf
    run.ready("--port", "0")
    until(lambda: gone(everyone), "everything is gone", 2)
    assert not set(run.pids().values()) & set(roles)


def test_a_directory_where_everything_was_killed_serves_again(run):
    run.ready("--port", "0")
    assert redis(run, "broker", "SET", "{q0}:j:x", "kept") == "OK"
    run.process.send_signal(signal.SIGSTOP)  # so that it starts nothing again
    for pid in run.everyone():
        with contextlib.suppress(ProcessLookupError):  # a role's children end with it
            os.kill(pid, signal.SIGKILL)
    run.process.kill()
    run.process.wait(5)
    assert (run.state / "redis.sock").exists() and run.pid("api")
    run.ready("--port", "0")
    assert redis(run, "broker", "GET", "{q0}:j:x") == "kept"


def test_a_daemon_returns_when_users_are_served_and_stop_when_all_is_gone(run):
    out = run.once("--daemon", "--port", "0")
    assert out.returncode == 0, out.stderr
    assert out.stdout == f"ready http://127.0.0.1:{run.port()}\n"
    assert Http(run.port()).request("GET", "/readyz").status == 200
    everyone, supervisor = run.everyone(), run.pid("run")
    assert run.once("--daemon").returncode == 3
    assert "role.ready" in run.log("run")
    assert run.once("--stop").returncode == 0
    until(lambda: gone([*everyone, supervisor]), "everything is gone", 2)  # the kernel may still be tearing one down
    again = run.once("--stop")
    assert again.returncode == 0 and "nothing runs there" in again.stdout
    assert run.once("--alive").returncode == 1


def test_a_daemon_keeps_nothing_of_its_caller_open(run):
    ours, theirs = os.pipe()
    with subprocess.Popen([str(run.ctl), "run", "--state", str(run.state), "--daemon", "--port", "0"], pass_fds=[theirs],
                          stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        assert process.wait(30) == 0
    said, chunk = b"", b"?"
    while chunk:
        assert select.select([ours], [], [], 5)[0], "somebody still has it open"
        chunk = os.read(ours, 4096)
        said += chunk
    os.close(ours)
    assert said == f"ready http://127.0.0.1:{run.port()}\n".encode()


def test_roles_get_no_descriptor_that_is_not_theirs(run):
    ours, theirs = os.pipe()
    run.ready("--port", "0", fds=[theirs])
    inode = os.fstat(theirs).st_ino
    for role in ROLES:
        fds = pathlib.Path(f"/proc/{run.pid(role)}/fd")
        assert all(os.readlink(fd) != f"pipe:[{inode}]" for fd in fds.iterdir()), role
    os.close(ours)
    os.close(theirs)


def test_ready_is_said_when_users_are_served_and_not_before(run):
    run.state.mkdir(mode=0o700)
    (run.state / "not-ready").touch()
    run.start("--port", "0")
    until(lambda: (run.state / "run" / "api.port").exists() and Http(run.port()).request("GET", "/readyz").status == 503,
          "the api answers")
    assert not select.select([run.process.stdout], [], [], 0.3)[0]
    (run.state / "not-ready").unlink()
    assert select.select([run.process.stdout], [], [], 10)[0]
    assert run.process.stdout.readline() == f"ready http://127.0.0.1:{run.port()}\n"


def test_two_directories_do_not_know_each_other(run):
    other = Run()
    try:
        run.ready("--port", "0")
        other.ready("--port", "0")
        assert run.once("--stop").returncode == 0
        assert all(alive(pid) for pid in other.pids().values())
        assert Http(other.port()).request("GET", "/readyz").status == 200
    finally:
        other.close()


def test_what_cannot_run_is_refused_before_anything_starts(run):
    bad = run.top / "bad.yaml"
    bad.write_text("api:\n  port: 70000\n")
    out = run.once("--settings", str(bad))
    assert out.returncode == 2 and f"{bad}:2: api.port: 70000 is above 65535" in out.stderr
    out = run.once("--workers", "0")
    assert out.returncode == 2 and "QUERN_WORKER_CHILDREN: worker.children: 0 is below 1" in out.stderr
    run.state.chmod(0o755)
    out = run.once()
    assert out.returncode == 1 and "open to others" in out.stderr
    run.state.chmod(0o700)
    (run.top / "quern-worker").unlink()
    out = run.once("--daemon")
    assert out.returncode == 1 and "quern-worker" in out.stderr + run.log("run")
