"""A systemd booted in systemd-nspawn on an installation of this tree; no image, no network but its own loopback."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
PORT = 8080
UNITS = {"redis": "quern-redis@0.service", "broker": "quern-broker@0.service", "worker": "quern-worker@0.service", "api": "quern-api.service"}
WATCHDOG_S = 3


def until(what, condition, seconds=30):
    """Waits for an event: what `condition` returns once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


class Machine:
    def __init__(self):
        if os.geteuid() != 0:
            raise RuntimeError("a booted systemd-nspawn needs root: run `make check-systemd` as root")
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="quern-systemd-"))
        self.root, self.installed = self.dir / "root", self.dir / "installed"
        self.install()
        self.make_root()
        self.console = open(self.dir / "console.log", "wb")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "--quiet", f"--directory={self.root}", "--register=no", "--keep-unit", "--private-network",
             f"--overlay=/usr:{self.installed}/usr:/usr", "--tmpfs=/var", "--machine=quern-test", "--boot"],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}, stdin=subprocess.DEVNULL, stdout=self.console, stderr=subprocess.STDOUT, start_new_session=True)
        self.init = until("systemd runs", self.find_init)
        until("systemd answers", lambda: self.run("systemctl", "show", "--property=Version", check=False).returncode == 0)

    # --- making it ---

    def install(self):
        subprocess.run(["make", "-s", "-C", REPO, "install", f"DESTDIR={self.installed}"], check=True, stdout=subprocess.DEVNULL)

    def make_root(self):
        for name in ("etc/systemd/system/multi-user.target.wants", "var", "run", "tmp", "proc", "sys",
                     "dev", "usr", "root"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        etc = self.root / "etc"
        shutil.copy("/etc/os-release", etc / "os-release")
        (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (etc / "group").write_text("root:x:0:\n")
        shutil.copytree(self.installed / "etc/quern", etc / "quern")
        (etc / "systemd/system/multi-user.target.wants/quern.target").symlink_to("/usr/lib/systemd/system/quern.target")
        for unit in ("quern-broker@", "quern-worker@", "quern-api"):
            drop_in = etc / f"systemd/system/{unit}.service.d/watchdog.conf"
            drop_in.parent.mkdir()
            drop_in.write_text(f"[Service]\nWatchdogSec={WATCHDOG_S}\n")
        self.mask_the_hosts_units()

    def mask_the_hosts_units(self):
        """What this machine has installed is no part of the test."""
        for unit in pathlib.Path("/usr/lib/systemd/system").glob("*.service"):
            if not unit.name.startswith(("systemd-", "dbus", "quern")) and not unit.is_symlink():
                (self.root / "etc/systemd/system" / unit.name).symlink_to("/dev/null")

    def find_init(self):
        if self.nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended:\n{(self.dir / 'console.log').read_text(errors='replace')[-3000:]}")
        children = pathlib.Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        for pid in children:
            if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return int(pid)
        return None

    # --- in it ---

    def enter(self, *args):
        return ["nsenter", f"--target={self.init}", "-m", "-u", "-i", "-n", "-p", "-C", "--", *args]

    def run(self, *args, check=True, timeout=60):
        done = subprocess.run(self.enter(*args), capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.journal()}")
        return done

    def systemctl(self, *args, **kw):
        return self.run("systemctl", *args, **kw).stdout.strip()

    def show(self, role, what):
        return self.systemctl("show", UNITS[role], f"--property={what}", "--value")

    def main_pid(self, role):
        """Of the unit's first process, as this machine numbers it."""
        return next((p for p in self.pids(role) if self.inner(p) == int(self.show(role, "MainPID"))), None)

    def pids(self, role):
        """Every process of the unit, as this machine numbers them, the parent first."""
        inside = self.run("cat", f"/sys/fs/cgroup{self.show(role, 'ControlGroup')}/cgroup.procs", check=False).stdout.split()
        wanted = {int(pid) for pid in inside}
        found = [int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit() and self.is_ours(p) and self.inner(int(p.name)) in wanted]
        return sorted(found)

    def is_ours(self, proc):
        try:
            return os.readlink(proc / "ns/pid") == os.readlink(f"/proc/{self.init}/ns/pid")
        except OSError:
            return False

    @staticmethod
    def inner(pid):
        """Its number inside."""
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return None
        return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])

    def journal(self, *args):
        return subprocess.run(self.enter("journalctl", "--no-pager", "--lines=150", *args), capture_output=True, text=True, timeout=20).stdout

    def request(self, path, body=None, timeout=30):
        """One HTTP request by curl: (status, JSON or text)."""
        args = ["curl", "-sS", "-m", str(timeout), "-w", "\n%{http_code}", f"http://127.0.0.1:{PORT}{path}"]
        if body is not None:
            args += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        done = self.run(*args, check=False, timeout=timeout + 10)
        text, _, status = done.stdout.rpartition("\n")
        try:
            return int(status), json.loads(text)
        except ValueError:
            return int(status or 0), text

    def completes(self, prompt="hi"):
        status, job = self.request("/v1/jobs?wait=20s", {"prompt": prompt})
        assert status == 200 and job["status"] == "completed", (status, job, self.journal())
        return job

    def load(self):
        return Load(self)

    def stop(self):
        os.kill(self.nspawn.pid, signal.SIGKILL)
        try:
            os.kill(self.init, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.nspawn.wait(20)
        self.console.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Load:
    """Requests without a pause, on new and on kept connections, until stopped; every one is accounted for."""

    def __init__(self, machine):
        self.process = subprocess.Popen(["nsenter", f"--target={machine.init}", "-n", "--", sys.executable, str(pathlib.Path(__file__).with_name("load.py")),
                                         str(PORT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.line()  # the first request was answered

    def line(self):
        return json.loads(self.process.stdout.readline())

    def done_so_far(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()["done"]

    def goes_on(self, count=200):
        """Returns when as many requests more were answered."""
        goal = self.done_so_far() + count
        until(f"{count} requests are answered", lambda: self.done_so_far() >= goal, 60)

    def stop(self):
        self.process.stdin.close()
        result = self.line()
        self.process.wait(60)
        return result
