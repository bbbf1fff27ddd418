"""A Quern whose Redis keeps its data on a disk of its own, and the disks that are taken away from it, filled, slowed and cut."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import quern  # noqa: E402
from quern import until  # noqa: E402


def run(*args):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(done.args)}: {done.stderr.strip()} (these tests need root, loop devices and /dev/fuse)"
    return done.stdout.strip()


def make_ext4(path):
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", path)


@contextlib.contextmanager
def mounted(image, at):
    """An image as a directory that only its owner may enter."""
    device = run("losetup", "--find", "--show", image)
    try:
        at.mkdir(mode=0o700, parents=True, exist_ok=True)
        run("mount", "-t", "ext4", device, at)
        try:
            at.chmod(0o700)
            yield at
        finally:
            until(lambda: subprocess.run(["umount", str(at)], capture_output=True).returncode == 0, f"{at} is free", 20, every=0.05)
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def image(mebibytes):
    """A file with an empty ext4 in it."""
    with tempfile.NamedTemporaryFile(prefix="quern-test-", suffix=".img") as f:
        f.truncate(mebibytes << 20)
        make_ext4(f.name)
        yield f.name


class Platter:
    """The disk that can lose power (platter.c)."""

    def __init__(self, mebibytes=192):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="quern-test-platter-"))
        self.process = subprocess.Popen([str(quern.BUILD / "platter"), str(self.dir), str(mebibytes)], stdin=subprocess.DEVNULL)
        self.disk = self.dir / "disk"
        self.cuts = 0

    def __enter__(self):
        def there():
            assert self.process.poll() is None, "platter has ended (these tests need root and /dev/fuse)"
            return self.disk.exists()
        until(there, "the disk is there")
        make_ext4(self.disk)
        return self

    def __exit__(self, *exc):
        run("umount", self.dir)
        self.process.wait(10)
        self.dir.rmdir()

    def cut(self, path, seed):
        """What is found at `path` when the power fails now."""
        fd = os.open(self.dir / "control", os.O_WRONLY)
        try:
            os.write(fd, f"cut {path} {seed}".encode())
        finally:
            os.close(fd)


class Quern(quern.Quern):
    """disk: what Redis's data is on; None: a directory like any other. redis: words added to its command line. wrap: what it is
    started under (strace). Both hold from the next start of Redis on when they are changed by redis_with()."""

    def __init__(self, disk=None, redis="", wrap="", **more):
        super().__init__(start=False, **more)
        self.disk = contextlib.ExitStack()
        self.data = self.state / "redis"
        try:
            if disk:
                self.disk.enter_context(mounted(disk, self.data))
            self.bin = self.state / "bin"
            self.bin.mkdir()
            (self.bin / "redis-server").write_text(f'#!/bin/sh\n. "{self.bin}/how"\nexec $WRAP {shutil.which("redis-server")} "$@" $MORE\n')
            (self.bin / "redis-server").chmod(0o755)
            self.redis_with(redis, wrap)
            self.start()
        except BaseException:
            self.close()
            raise

    def redis_with(self, redis="", wrap=""):
        (self.bin / "how").write_text(f"MORE='{redis}'\nWRAP='{wrap}'\n")

    def start(self, ready=True):
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{self.bin}:{path}"
        try:
            super().start(ready)
        finally:
            os.environ["PATH"] = path

    def halt(self):
        """Stopped in good order, to be started again."""
        self.run.terminate()
        assert self.run.wait(30) == 0
        self.local = threading.local()

    def number(self, name):
        return json.loads(self.ctl("stats", "--json").stdout)["numbers"][name]

    def close(self):
        self.stop()
        self.disk.close()
        super().close()
