"""No descriptor or no memory left in one process (P6): it does not spin, it says no, others go on, and it is well again by itself."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from quern import Http, Quern, alive, until

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def busy_share(pid, seconds=2.0):
    before, began = cpu_s(pid), time.monotonic()
    time.sleep(seconds)  # what is measured is time that passes
    return (cpu_s(pid) - before) / (time.monotonic() - began)


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def limit(pid, count):
    subprocess.run(["prlimit", "--pid", str(pid), f"--nofile={count}:"], check=True)


@pytest.mark.long
def test_an_api_child_without_descriptors_serves_those_it_has():
    with Quern(workers=1, api_children=1) as q, contextlib.ExitStack() as stack:
        q.submit("before", wait="10s")
        (child,) = q.children("api")
        limit(child, descriptors(child) + 20)
        crowd = [stack.enter_context(socket.create_connection(("127.0.0.1", q.port), timeout=10)) for _ in range(300)]
        until(lambda: q.logs("api") is not None and descriptors(child) >= 20, "they are there")
        share = busy_share(child)
        print(f"\nan api child without descriptors: {share:.0%} of a core")
        assert share < 0.2
        assert q.submit("meanwhile", wait="10s")["status"] == "completed"  # on a connection it has
        crowd[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: q\r\n\r\n")
        limit(child, 4096)
        assert crowd[-1].recv(4096).startswith((b"HTTP/1.1 200", b"HTTP/1.1 503"))
        until(lambda: Http(q.port).request("GET", "/livez").status == 200, "new ones are served")
        assert q.children("api") == [child]


@pytest.mark.long
def test_a_worker_without_descriptors_fails_no_job():
    with Quern(workers=1) as q:
        workers = q.children("worker")
        limits = {pid: descriptors(pid) for pid in workers}
        for pid in workers:
            limit(pid, limits[pid])
        ids = [q.submit({"prompt": f"starved {n}", "backoff": {"base_ms": 100, "cap_ms": 500}})["id"] for n in range(20)]
        until(lambda: any(q.job(i)["attempt"] > 0 for i in ids), "it has tried")
        share = max(busy_share(pid, 1.0) for pid in workers)
        for pid in workers:
            limit(pid, 4096)
        ended = [q.ended(i, 60)["status"] for i in ids]
        print(f"\na worker child without descriptors: {share:.0%} of a core, {ended.count('completed')} of {len(ids)} completed")
        assert share < 0.3 and q.children("worker") == workers
        assert set(ended) == {"completed"}


@pytest.mark.long
def test_a_broker_without_descriptors_loses_nothing():
    """libzmq 4.3.4 gives up the process when it cannot accept (proto/README.md): the next broker has everything."""
    with Quern(workers=1) as q, contextlib.ExitStack() as stack:
        kept = q.submit({"prompt": "kept", "delay_ms": 3000})["id"]
        running = q.submit("running [[latency_ms=3000]]")["id"]
        broker = q.pid("broker")
        limit(broker, descriptors(broker) + 5)
        with contextlib.suppress(OSError):
            for _ in range(50):
                s = stack.enter_context(socket.socket(socket.AF_UNIX))
                s.connect(str(q.state / "worker.sock"))
        began = time.monotonic()
        until(lambda: not alive(broker) or q.pid("broker") != broker, "it has ended", 10)
        q.restarted("broker", broker)
        q.ready()
        print(f"\na broker without descriptors: served again {time.monotonic() - began:.1f} s later")
        for job in (kept, running):
            assert q.ended(job)["status"] == "completed"
        assert len(q.upstream.calls_with("running")) == 1  # adopted, not repeated


@pytest.mark.long
@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_parent_that_cannot_fork_tries_again(role):
    with Quern(workers=1) as q:
        parent, victim = q.pid(role), q.children(role)[0]
        calls = "clone,clone3,fork,vfork"
        tracer = subprocess.Popen(["strace", "-p", str(parent), "-qq", "-o", str(q.state / "strace.log"), "-e", f"trace={calls}",
                                   "-e", f"inject={calls}:error=EAGAIN"])
        try:
            until(lambda: "TracerPid:\t0\n" not in pathlib.Path(f"/proc/{parent}/status").read_text(), "it is traced")
            os.kill(victim, signal.SIGKILL)
            until(lambda: (q.state / "strace.log").read_text().count("EAGAIN") >= 2, "it has tried twice")
            share, tries = busy_share(parent), (q.state / "strace.log").read_text().count("EAGAIN")
            assert len(q.children(role)) == 1 and alive(parent)
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
        print(f"\na parent of {role} that cannot fork: {share:.0%} of a core, {tries} tries in some seconds")
        assert share < 0.1 and tries < 40
        until(lambda: len(q.children(role)) == 2, "the child is back", 30)
        assert q.submit("after", wait="20s")["status"] == "completed"


class MemoryGroup:
    """A memory cgroup, of whichever version this machine has."""

    def __init__(self):
        v1 = pathlib.Path("/sys/fs/cgroup/memory")
        self.old = (v1 / "memory.limit_in_bytes").exists()
        parent = v1 if self.old else pathlib.Path("/sys/fs/cgroup")
        if not self.old:
            (parent / "cgroup.subtree_control").write_text("+memory")
        self.path = parent / f"quern-test-{os.getpid()}"
        self.path.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        def gone():
            with contextlib.suppress(OSError):
                self.path.rmdir()
            return not self.path.exists()
        until(gone, "the cgroup is empty")

    def take(self, pid):
        (self.path / "cgroup.procs").write_text(str(pid))

    def limit(self, spare_bytes):
        used = int((self.path / ("memory.usage_in_bytes" if self.old else "memory.current")).read_text())
        (self.path / ("memory.limit_in_bytes" if self.old else "memory.max")).write_text(str(used + spare_bytes))

    def kills(self):
        text = (self.path / ("memory.oom_control" if self.old else "memory.events")).read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.split()[0] == "oom_kill"))


def test_one_job_that_eats_memory_is_poison_and_others_go_on():
    """The kernel kills whichever worker child has it: once in any child, once more, and then in the one-slot child kept for that."""
    with MemoryGroup() as group, Quern({"broker": {"return_ms": 200}}, workers=2) as q:
        old = q.children("worker")
        group.take(q.pid("worker"))
        for pid in old:  # those that follow are in the group from their first page on
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(new := q.children("worker")) == 3 and not set(new) & set(old), "new children")
        until(lambda: q.submit("warm", wait="10s")["status"] == "completed", "they serve")
        group.limit(8 << 20)
        poison = q.submit("poison [[tokens=900000]]")["id"]  # 3.6 MB, several times over while it is read
        others = [q.submit(f"other {n} [[latency_ms=300]]")["id"] for n in range(40)]
        done = q.ended(poison, 60)
        assert done["status"] == "failed" and done["error"]["code"] == "poison", done
        assert all(q.ended(i)["status"] == "completed" for i in others)
        print(f"\na job that eats memory: poison after {group.kills()} kills, {len(others)} others completed")
        assert group.kills() == 5
