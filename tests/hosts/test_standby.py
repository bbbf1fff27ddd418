"""A standby broker on another host: it takes over when `leader` lapses, goes on with the calls that run, and the one before it, should it come
back, is fenced, believed by nobody, and waits as the standby."""

import contextlib
import os
import signal
import socket
import time

import pytest

import figures
from load import Load, drained, judge, served_again
from quern import until
from shard import Shard

TAKEOVER_S = 5.0
ROUNDS = int(os.environ.get("QUERN_TAKEOVERS", 3))


@pytest.fixture()
def shard():
    with Shard(brokers=("broker1", "broker2"), workers=("work1",), settings={"worker": {"slots": 8}}) as it:
        yield it


def first_call_after(shard, at, seconds=30):
    """When the provider got the first call after `at` that nobody had sent before: both on the monotonic clock, in seconds."""
    def check():
        reply = shard.provider.http.request("GET", "/_calls?since=0&open=1").json
        times = [c["at_ms"] / 1000 for c in reply["calls"] + reply["open"] if c["at_ms"] / 1000 > at]
        return min(times, default=None)
    return until(check, "a call after the takeover", seconds, every=0.02)


def backlog(shard, name):
    """Accepted at once, more than there are slots: some run longer than a takeover takes, and there is always something to dispatch."""
    ids = {}
    http_ = shard.caller()
    for i in range(32):
        prompt = f"{name}-backlog-{i} [[latency_ms={5000 if i < 4 else 1000}]]"
        reply = http_.request("POST", "/v1/jobs", {"prompt": prompt})
        assert reply.status == 202, reply
        ids[reply.json["id"]] = prompt
    http_.close()
    return ids


class Backlog:
    """What `judge` wants to know of a load, for jobs that were submitted beforehand."""

    def __init__(self, name, accepted):
        self.name, self.accepted, self.refused = name, accepted, {}


def take_over(shard, how, name):
    """The leader goes away under a backlog. Returns how long nothing was dispatched."""
    leader = shard.leader()
    standby = next(role for role in shard.brokers if role is not leader)
    until(lambda: standby.logged("store.waits"), "the other waits")
    jobs = backlog(shard, name)
    until(lambda: shard.provider.in_flight() == 8, "every slot is taken")
    gone_at = time.monotonic()
    leader.signal(how)
    until(lambda: shard.leader() is standby if how == signal.SIGKILL else standby.logged("role.ready"), "the standby leads", 15)
    # A JOB that had left already may still arrive a moment later; leadership takes longer than that to lapse.
    first = first_call_after(shard, gone_at + 1.0) - gone_at
    return leader, standby, Backlog(name, jobs), gone_at, first


def at(shard, broker):
    """How many sessions were ever opened with this broker."""
    return sum(broker.host.address in line for role in (*shard.workers, shard.api) for line in role.logged("link.up"))


@pytest.mark.brief
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_standby_takes_over_and_running_calls_go_on(shard, how):
    leader, standby, load, gone_at, first = take_over(shard, how, "takeover")
    finals, drain_ms = drained(shard, load, gone_at)
    again = judge(shard, load, finals)
    heal_ms = served_again(shard, "takeover", gone_at)
    figures.note("takeover", how=how.name, first_dispatch_ms=round(first * 1000), new_job_ms=heal_ms, drain_ms=drain_ms, calls_again=again)
    assert first <= TAKEOVER_S
    if how == signal.SIGSTOP:
        sessions = at(shard, leader)
        leader.signal(signal.SIGCONT)
        until(lambda: leader.logged("store.fenced"), "the old leader is fenced")
        until(lambda: leader.log().rsplit("event=store.fenced", 1)[1].count("event=store.waits"), "it waits as the standby")
        job = shard.ask("POST", "/v1/jobs?wait=10s", {"prompt": "after"})
        assert job.status == 200 and shard.leader() is standby
        assert at(shard, leader) == sessions, "nobody went back to it"


@pytest.mark.parametrize("standby", ["well", "silent"])
def test_a_blink_is_no_reason_to_go_elsewhere(shard, standby):
    """The worker's connection breaks for less than half a second, again and again, while its other place refuses it or does not even do that."""
    leader = shard.brokers[0]
    worker = shard.workers[0]
    until(lambda: shard.brokers[1].logged("store.waits"), "the other waits")
    with contextlib.ExitStack() as stack:
        if standby == "silent":
            stack.enter_context(shard.net.isolate(shard.brokers[1].host))
        with Load(shard, f"blink-{standby}", callers=2, latency_ms=1500, pace_s=0.5) as load:
            load.under_way(8)
            for i in range(15):
                with shard.net.cut(leader.host, worker.host, "reset"):
                    time.sleep(0.45)  # how long it is cut is what is tried
                until(lambda: len(shard.ctl("peers", "--role", "worker")["peers"]) == 2, "both children are there")
        finals, drain_ms = drained(shard, load, time.monotonic())
    figures.note("blinks", standby=standby, cuts=15, accepted=len(load.accepted), calls_again=judge(shard, load, finals))


@pytest.mark.brief
def test_a_leader_that_redis_alone_does_not_answer_is_left_by_its_peers(shard):
    """It serves everyone but can store nothing, and cannot know that another leads. Its peers find out."""
    leader, standby = shard.brokers
    until(lambda: standby.logged("store.waits"), "the other waits")
    with Load(shard, "deaf") as load:
        load.under_way()
        with shard.net.cut(leader.host, shard.redis.host) as cut:
            until(lambda: standby.logged("role.ready"), "the standby leads", 15)
            heal_ms = served_again(shard, "deaf", cut.began)
            assert not leader.logged("store.fenced"), "it cannot know"
        until(lambda: leader.logged("store.fenced"), "now it does")
        until(lambda: leader.log().rsplit("event=store.fenced", 1)[1].count("event=store.waits"), "it waits as the standby")
    finals, drain_ms = drained(shard, load, cut.healed)
    figures.note("takeover.deaf", first_dispatch_ms=heal_ms, calls_again=judge(shard, load, finals), refused=len(load.refused))
    assert heal_ms <= 8000


def test_a_leader_that_is_cut_off_from_everyone_comes_back_as_the_standby(shard):
    leader, standby = shard.brokers
    until(lambda: standby.logged("store.waits"), "the other waits")
    with Load(shard, "island", latency_ms=1000) as load:
        load.under_way()
        began = time.monotonic()
        with shard.net.isolate(leader.host):
            until(lambda: standby.logged("role.ready"), "the standby leads", 15)
            heal_ms = served_again(shard, "island", began)
        until(lambda: leader.logged("store.fenced"), "the old leader is fenced")
    finals, drain_ms = drained(shard, load, time.monotonic())
    figures.note("takeover.island", first_dispatch_ms=heal_ms, calls_again=judge(shard, load, finals), refused=len(load.refused))
    assert heal_ms <= 8000


def test_a_standby_is_ready_while_it_waits(shard):
    """A service manager that waits for READY=1 must not end a standby as one that failed to start."""
    leader, standby = shard.brokers
    until(lambda: standby.logged("store.waits"), "the other waits")
    standby.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = str(shard.dir / "notify")
        manager.bind(path)
        manager.settimeout(10)
        standby.start(env={"NOTIFY_SOCKET": path})
        said = ""
        while "READY=1" not in said:
            said += manager.recv(4096).decode() + "\n"
        assert "STATUS=standby: broker1 leads shard 0" in said
        leader.kill()
        while "STATUS=leading shard 0" not in said:
            said += manager.recv(4096).decode() + "\n"


def test_quernctl_finds_whichever_broker_leads(shard):
    leader, standby = shard.brokers
    until(lambda: standby.logged("store.waits"), "the other waits")
    before = shard.ctl("stats", broker=None)["epoch"]
    assert shard.ctl("stats", broker=1, check=False).returncode == 4, "a standby does not answer"
    leader.kill()
    until(lambda: standby.logged("role.ready"), "the standby leads")
    assert shard.ctl("stats", broker=None)["epoch"] > before
    with shard.net.isolate(leader.host):  # a host that answers nothing at all
        assert shard.ctl("stats", broker=None)["epoch"] > before


def test_the_worst_of_several_takeovers(shard):
    """Back and forth: each goes away in turn, killed or stopped, and comes back as the standby."""
    worst = {}
    for i in range(ROUNDS):
        for how in (signal.SIGKILL, signal.SIGSTOP):
            leader, standby, load, gone_at, first = take_over(shard, how, f"round-{i}-{how.name}")
            finals, drain_ms = drained(shard, load, gone_at)
            judge(shard, load, finals)
            worst[how.name] = max(worst.get(how.name, 0), round(first * 1000))
            waits = len(leader.logged("store.waits"))
            leader.start() if how == signal.SIGKILL else leader.signal(signal.SIGCONT)
            until(lambda: len(leader.logged("store.waits")) > waits, "it is back, as the standby", 15)
    figures.note("takeover.worst", rounds=ROUNDS, **{k.lower() + "_ms": v for k, v in worst.items()})
    assert max(worst.values()) <= TAKEOVER_S * 1000
