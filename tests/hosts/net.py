"""Hosts on one switch: network namespaces, their cables, and what may go wrong between two of them.

Runs under private.sh, whose namespaces hold everything made here, so that nothing is left behind and no name can be taken already."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time

CLONE_NEWNET = 0x40000000
KINDS = ("drop", "reset", "one-way", "flapping")

_libc = ctypes.CDLL(None, use_errno=True)
_home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)  # where tests live: the switch is here


def sh(*words, feed=None):
    done = subprocess.run(words, input=feed, capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def enter(namespace):
    """This thread's sockets are from now on made there."""
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Host:
    """One machine: its namespace, its address, the processes started on it."""

    def __init__(self, net, name, number):
        self.net, self.name, self.address = net, name, f"10.77.0.{number}"
        self.processes = []
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "link", "set", f"v-{name}", "master", "switch", "up")
        sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        self.namespace = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def inside(self):
        """Sockets made in the block belong to this host. They may be used anywhere afterwards."""
        enter(self.namespace)
        try:
            yield self
        finally:
            enter(_home)

    def start(self, args, log, env=None):
        """A process on this host. Its pid is the program's own: nsenter becomes it."""
        process = subprocess.Popen(["nsenter", f"--net=/run/netns/{self.name}", *map(str, args)], stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, env={**os.environ, **(env or {})}, start_new_session=True)
        self.processes.append(process)
        return process

    def rules(self, text):
        """nft's own words, in this host's kernel tables."""
        sh("ip", "netns", "exec", self.name, "nft", "-f", "-", feed=text)


class Cut:
    """What is wrong between two hosts, until `heal`. Each host filters by itself, as if the cable between the two alone were bad."""

    def __init__(self, net, a, b, kind):
        assert kind in KINDS, kind
        self.net, self.a, self.b, self.kind = net, a, b, kind
        self.began, self.healed = time.monotonic(), None
        self.stop, self.thread = threading.Event(), None
        self.table = f"cut_{net.next_number()}"
        if kind == "flapping":
            self.thread = threading.Thread(target=self._flap)
            self.thread.start()
        else:
            self._down()

    def _down(self):
        if self.kind == "one-way":  # what b says arrives; what a says does not
            self._filter(self.b, self.a, "drop", hooks=("input",))
            return
        for at, other in ((self.a, self.b), (self.b, self.a)):
            self._filter(at, other, "meta l4proto tcp reject with tcp reset" if self.kind == "reset" else "drop")

    def _filter(self, at, other, verdict, hooks=("input", "output")):
        chains = (f"chain {hook} {{\ntype filter hook {hook} priority 0;\nip {'saddr' if hook == 'input' else 'daddr'} {other.address} {verdict}\n}}\n"
                  for hook in hooks)
        at.rules(f"table inet {self.table} {{\n{''.join(chains)}}}\n")

    def _up(self):
        for at in (self.a, self.b):
            at.rules(f"table inet {self.table}\ndelete table inet {self.table}\n")

    def _flap(self):
        """Down and up for a third of a second each, ending up."""
        while True:
            self._down()
            ended = self.stop.wait(0.35)
            self._up()
            if ended or self.stop.wait(0.35):
                return

    def heal(self):
        if self.healed is not None:
            return self
        if self.thread:
            self.stop.set()
            self.thread.join(10)
        else:
            self._up()
        self.healed = time.monotonic()
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.heal()


class Net:
    """A switch and the hosts on it."""

    def __init__(self):
        self.hosts, self.number, self.lock = {}, 0, threading.Lock()
        sh("ip", "link", "add", "switch", "type", "bridge")
        sh("ip", "link", "set", "switch", "up")

    def next_number(self):
        with self.lock:
            self.number += 1
            return self.number

    def host(self, name):
        self.hosts[name] = Host(self, name, len(self.hosts) + 1)
        return self.hosts[name]

    def cut(self, a, b, kind="drop"):
        return Cut(self, a, b, kind)

    def isolate(self, host, but=()):
        """Cut off from every other host but those named."""
        stack = contextlib.ExitStack()
        for other in self.hosts.values():
            if other is not host and other not in but:
                stack.enter_context(self.cut(host, other))
        return stack

    def close(self):
        for host in self.hosts.values():
            for process in host.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
            os.close(host.namespace)
            sh("ip", "link", "del", f"v-{host.name}")  # a namespace goes when its last process is gone; its cable goes now
            sh("ip", "netns", "del", host.name)
        sh("ip", "link", "del", "switch")
