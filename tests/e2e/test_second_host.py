"""Workers on another host: CURVE over TCP, listed keys only (S10)."""

import os
import shutil
import socket
import subprocess
import tempfile
import pathlib

import pytest

from quern import BUILD, Quern, free_port, to_yaml, until


def keygen(path):
    out = subprocess.run([str(BUILD / "quernctl"), "keygen", str(path)], capture_output=True, text=True, timeout=10)
    assert out.returncode == 0, out
    key = next(word for word in out.stdout.split() if len(word) == 40)
    assert path.stat().st_mode & 0o077 == 0
    return key


class Host:
    """A worker with settings and keys of its own; nothing shared but the broker's address and public key."""

    def __init__(self, q, broker_public, port, key_file):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="quern-host-"))
        settings = self.directory / "worker.yaml"
        settings.write_text(to_yaml({
            "quern": {"state_dir": str(self.directory)},
            "broker": {"public_key": broker_public},
            "worker": {"broker": f"tcp://127.0.0.1:{port}", "key_file": str(key_file), "children": 1},
            "credentials": [{"name": "upstream", "base_url": q.upstream.base_url}],
            "deployments": [{"name": "upstream", "provider": "openai", "credential": "upstream"}],
            "routes": [{"name": "*", "deployments": ["upstream"]}],
        }) + "\n")
        self.log = self.directory / "log"
        self.process = subprocess.Popen([str(BUILD / "quern-worker"), "--settings", str(settings)], stdin=subprocess.DEVNULL,
                                        stderr=self.log.open("wb"))

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture()
def far(tmp_path):
    """A broker that only listens to workers over TCP, and no worker of its own that it would let in."""
    broker, listed, unlisted = (tmp_path / n for n in ("broker.key", "listed.key", "unlisted.key"))
    public = {n.stem: keygen(n) for n in (broker, listed, unlisted)}
    port = free_port()
    settings = {
        "broker": {"worker": f"tcp://127.0.0.1:{port}", "key_file": str(broker), "public_key": public["broker"]},
        "worker": {"broker": f"tcp://127.0.0.1:{port}", "key_file": str(unlisted)},
        "peers": [{"name": "host-2", "public_key": public["listed"], "role": "worker"}],
    }
    with Quern(settings, start=False) as q:
        q.start(ready=False)
        yield q, public["broker"], port, listed


def answers(q):
    try:
        return q.request("GET", "/livez").status == 200
    except OSError:
        return False


def test_a_listed_key_works_and_others_are_refused(far):
    q, broker_public, port, listed = far
    until(lambda: answers(q), "the api listens")
    until(lambda: q.request("POST", "/v1/jobs", {"prompt": "over tcp"}).status == 202, "the broker takes jobs")
    until(lambda: q.children("worker"), "unlisted workers try")
    until(lambda: q.stats()["waiting"] >= 1, "it waits")
    assert q.stats()["workers"] == 0, "a key that is not listed was let in"
    host = Host(q, broker_public, port, listed)
    try:
        until(lambda: q.stats()["waiting"] == 0 and q.stats()["active"] == 0, "the listed host has done it")
        done = q.submit("again over tcp", wait="20s")
        assert done["status"] == "completed" and done["result"]["content"] == "echo: again over tcp"
    finally:
        host.stop()


def test_scanners_and_plain_sockets_get_nothing_through(far):
    q, broker_public, port, listed = far
    until(lambda: answers(q), "the api listens")
    forged = [b"\x03\x00W1\x06\x00EVIL!", b"GET / HTTP/1.1\r\n\r\n", b"\xff" + b"\0" * 8 + b"\x7f\x03\x00NULL" + b"\0" * 48, b"\x01\x00" * 500]
    for i in range(200):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
            s.sendall(forged[i % len(forged)] + os.urandom(i))
    until(lambda: q.request("POST", "/v1/jobs", {"prompt": "still here"}).status == 202, "the broker serves")
    assert q.stats()["workers"] == 0
    host = Host(q, broker_public, port, listed)
    try:
        assert q.submit("and works", wait="20s")["status"] == "completed"
    finally:
        host.stop()


def test_a_partition_heals(far):
    q, broker_public, port, listed = far
    until(lambda: answers(q), "the api listens")
    host = Host(q, broker_public, port, listed)
    try:
        until(lambda: q.stats()["workers"] >= 1, "the worker is there")
        job = q.submit("held through it [[latency_ms=1500]]")
        until(lambda: q.upstream.stats()["in_flight"] == 1, "it runs")
        q.restarted("broker", q.kill("broker"))
        done = q.ended(job["id"])
        assert done["status"] == "completed" and len(q.upstream.calls_with("held through it")) == 1
    finally:
        host.stop()
