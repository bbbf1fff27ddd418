"""The units as installed, under a real systemd (README.md here)."""

import os
import signal
import subprocess

import pytest

from machine import UNITS, WATCHDOG_S, Machine, until

ROLES = list(UNITS)
EXPOSURE = 12  # tenths


@pytest.fixture(scope="module")
def machine():
    m = Machine()
    try:
        until("the target is reached", lambda: m.run("systemctl", "is-active", "quern.target", check=False).stdout.strip() == "active", 60)
        yield m
    finally:
        m.stop()


def restarts(machine, role):
    return int(machine.show(role, "NRestarts") or 0)


def is_up(machine, role):
    return machine.show(role, "ActiveState") == "active"


def all_up(machine):
    for role in ROLES:
        until(f"{role} is active", lambda: is_up(machine, role))
    until("the api is ready", lambda: machine.request("/readyz")[0] == 200)


def test_units_are_valid(machine):
    done = machine.run("systemd-analyze", "verify", *[f"/usr/lib/systemd/system/{u}" for u in UNITS.values()], "/usr/lib/systemd/system/quern-api.socket",
                       "/usr/lib/systemd/system/quern.target", check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "quern" in line]
    assert not ours and done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_exposure(machine, role):
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", f"--root={machine.installed}", UNITS[role]],
                          capture_output=True, text=True, timeout=60)
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout


def test_first_job(machine):
    all_up(machine)
    assert machine.completes("hello")["result"]["content"] == "echo: hello"


def test_quernctl_as_the_account_of_the_roles(machine):
    done = machine.run("setpriv", "--reuid=quern", "--regid=quern", "--clear-groups", "quernctl", "--settings", "/etc/quern/quern.yaml", "stats")
    assert "jobs" in done.stdout


def test_nobody_else_reaches_the_sockets(machine):
    done = machine.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "quernctl", "--settings", "/etc/quern/quern.yaml", "--within",
                       "1000", "stats", check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("role", ROLES)
def test_a_killed_role_is_back(machine, role):
    all_up(machine)
    machine.completes("before")
    before = restarts(machine, role)
    os.kill(machine.main_pid(role), signal.SIGKILL)
    until(f"{role} was restarted", lambda: restarts(machine, role) > before)
    all_up(machine)
    machine.completes("after")


@pytest.mark.parametrize("role", ["broker", "worker", "api"])
def test_a_hung_role_is_killed_by_the_watchdog(machine, role):
    all_up(machine)
    before = restarts(machine, role)
    os.kill(machine.main_pid(role), signal.SIGSTOP)
    until(f"{role} was restarted", lambda: restarts(machine, role) > before, 5 * WATCHDOG_S)
    all_up(machine)
    machine.completes("after")


@pytest.mark.parametrize("role", ["worker", "api"])
def test_a_hung_child_is_replaced(machine, role):
    all_up(machine)
    parent = machine.main_pid(role)
    children = [p for p in machine.pids(role) if p != parent]
    for child in children:
        os.kill(child, signal.SIGSTOP)
    until("every child is another", lambda: not set(children) & set(machine.pids(role)), 5 * WATCHDOG_S)
    all_up(machine)
    assert machine.main_pid(role) == parent
    machine.completes("after")


def test_a_providers_key_is_a_credential(machine):
    keys, settings = machine.root / "etc/quern/keys", machine.root / "etc/quern/quern.yaml"
    (keys / "openai").write_text("sk-test\n")
    (keys / "openai").chmod(0o600)
    settings.write_text(settings.read_text().replace("\ndeployments:\n", """
credentials:
  - {name: openai, base_url: "http://127.0.0.1:9/v1", key_file: "key_openai"}
deployments:
  - {name: openai, provider: openai, credential: openai}
""", 1))
    since = machine.run("date", "+%F %T").stdout.strip()
    machine.systemctl("restart", UNITS["worker"])
    until("the deployment is served", lambda: "deployments=2" in machine.journal("--unit=" + UNITS["worker"], f"--since={since}"))
    assert "deployment.off" not in machine.journal("--unit=" + UNITS["worker"], f"--since={since}")
    machine.systemctl("reload", UNITS["broker"])
    all_up(machine)


@pytest.mark.parametrize("role", ["api", "worker", "broker"])
def test_reload_under_load_fails_no_request(machine, role):
    all_up(machine)
    load = machine.load()
    for _ in range(2):
        machine.systemctl("reload", UNITS[role])
        load.goes_on()
    result = load.stop()
    print(result)
    assert result["failed_count"] == 0, f"{result}\n{machine.journal()}"


def test_upgrade_under_load_fails_no_request(machine):
    """New programs, and every role but Redis restarted, one after another."""
    all_up(machine)
    load = machine.load()
    machine.install()
    machine.systemctl("daemon-reload")
    for role in ("broker", "worker", "api"):
        before = machine.main_pid(role)
        machine.systemctl("restart", UNITS[role], timeout=120)
        assert machine.main_pid(role) != before
        load.goes_on()
    result = load.stop()
    print(result)
    assert result["failed_count"] == 0, f"{result}\n{machine.journal()}"


def test_stop_and_start(machine):
    all_up(machine)
    machine.systemctl("stop", "quern.target", timeout=120)
    for role in ROLES:
        until(f"{role} is inactive", lambda: machine.show(role, "ActiveState") == "inactive", 60)
        assert machine.show(role, "Result") == "success"
    machine.systemctl("start", "quern.target", timeout=120)
    all_up(machine)
    machine.completes("again")
