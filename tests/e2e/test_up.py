"""`make up` and `make down`: the scripts behind them, with the real programs."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from quern import BUILD, ROOT, Http, Upstream, alive, children, free_port, until

KEY = "sk-test-0123456789abcdefghij"


class Instance:
    def __init__(self, **environment):
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="quern-up-"))
        self.state = self.top / "state"
        self.port = free_port()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "QUERN_"))}
        self.environment.update(BUILD=str(BUILD), STATE=str(self.state), PORT=str(self.port), **environment)

    def script(self, name, **more):
        return subprocess.run(["sh", str(ROOT / "systemd" / name)], text=True, capture_output=True, timeout=120,
                              env={**self.environment, **more}, stdin=subprocess.DEVNULL)

    def up(self, **more):
        out = self.script("up.sh", **more)
        assert out.returncode == 0, out.stdout + out.stderr
        assert out.stdout.splitlines()[-1] == f"ready http://127.0.0.1:{self.port}"
        return out.stdout

    def pid(self, name):
        return int((self.state / "run" / f"{name}.pid").read_text())

    def processes(self):
        out = []
        for name in ("run", "redis", "broker", "worker", "api"):
            out += [self.pid(name), *children(self.pid(name))]
        return set(out)

    def close(self):
        self.script("down.sh")
        shutil.rmtree(self.top, ignore_errors=True)


@pytest.fixture
def instance():
    i = Instance()
    yield i
    i.close()


def test_up_again_heals_and_down_ends_that_one_alone(instance):
    other = Instance()
    try:
        first = instance.up()
        assert '"hello" -> "' in first and "provider: " in first
        before = instance.processes()
        other.up()
        assert instance.processes() == before

        assert "runs already" in instance.up()
        assert instance.processes() == before

        os.kill(instance.pid("run"), signal.SIGKILL)
        instance.up()
        assert not before & instance.processes()

        every = instance.processes()
        os.kill(instance.pid("run"), signal.SIGSTOP)
        for pid in every:
            with contextlib.suppress(ProcessLookupError):  # a role's children end with it
                os.kill(pid, signal.SIGKILL)
        instance.up()

        every = instance.processes()
        out = instance.script("down.sh")
        assert out.returncode == 0 and "stopped" in out.stdout
        assert not any(alive(pid) for pid in every)
        assert instance.script("down.sh").returncode == 0
        assert Http(other.port).request("GET", "/readyz").status == 200
    finally:
        other.close()


def test_a_key_reaches_workers_by_a_file_only(instance):
    upstream = Upstream(instance.top)
    try:
        stdout = instance.up(OPENAI_BASE_URL=upstream.base_url + "/", OPENAI_API_KEY=KEY, OPENAI_MODEL="model-of-mine")
        assert f"openai at {upstream.base_url}, model model-of-mine" in stdout
        calls = upstream.calls()
        assert len(calls) == 1 and "hello" in calls[0]["prompt_head"]
        key_file = instance.state / "openai.key"
        assert key_file.read_text() == KEY + "\n" and key_file.stat().st_mode & 0o777 == 0o600
        for pid in instance.processes():
            for name in ("environ", "cmdline"):
                assert KEY.encode() not in pathlib.Path(f"/proc/{pid}/{name}").read_bytes(), (pid, name)
        for path in instance.state.rglob("*"):
            if path.is_file() and path != key_file:
                assert KEY.encode() not in path.read_bytes(), path
    finally:
        upstream.stop()


def test_settings_of_ones_own_win(instance):
    mine = instance.top / "mine.yaml"
    mine.write_text("deployments: [{name: mine, provider: echo}]\nroutes: [{name: '*', deployments: [mine]}]\napi: {children: 3}\n")
    instance.up(SETTINGS=str(mine))
    until(lambda: len(children(instance.pid("api"))) == 3, "three api children")


def test_bad_settings_are_said_at_once(instance):
    mine = instance.top / "mine.yaml"
    mine.write_text("api:\n  prot: 1\n")
    out = instance.script("up.sh", SETTINGS=str(mine))
    assert out.returncode == 1 and f"{mine}:2: api.prot: there is no such setting" in out.stderr


def test_a_port_in_use_is_said_at_once(instance):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", instance.port))
        taken.listen()
        out = instance.script("up.sh")
    assert out.returncode == 1 and f"port {instance.port} is in use" in out.stderr
    assert not (instance.state / "run" / "run.pid").exists()


def test_another_port_is_refused_while_it_runs(instance):
    instance.up()
    out = instance.script("up.sh", PORT=str(free_port()))
    assert out.returncode == 1 and f"runs already, at http://127.0.0.1:{instance.port}" in out.stderr
