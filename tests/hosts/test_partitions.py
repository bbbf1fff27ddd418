"""A cable between two hosts fails under load, in each of the ways cables do, and heals. No accepted job is lost, none has two ends, nothing
that was refused is called, and calls are made again only where a worker was away for longer than it may be."""

import time

import pytest

import figures
import pki
from load import Load, drained, judge, served_again
from net import KINDS
from quern import until
from shard import Shard

PAIRS = (("api", "broker"), ("broker", "work1"), ("broker", "redis"))
BLINK_S, LONG_S = 0.4, 6.0


@pytest.fixture(scope="module")
def shard():
    with Shard(workers=("work1", "work2")) as it:
        yield it


def mended(shard, pair, name, since):
    """How long after `since` the two work together again, in ms."""
    if pair == ("broker", "work1"):  # the other worker may serve alone: the first is back when it has its sessions
        until(lambda: len([p for p in shard.ctl("peers", "--role", "worker")["peers"]]) == 4, "both workers' sessions", 30, every=0.02)
        return round((time.monotonic() - since) * 1000)
    return served_again(shard, name, since)


def partition(shard, pair, kind, seconds):
    """The load, the ends of its jobs, how many calls were made when the cut began, and what is reported."""
    a, b = (shard.net.hosts[name] for name in pair)
    name = f"{pair[0]}-{pair[1]}-{kind}-{seconds:g}"
    with Load(shard, name) as load:
        load.under_way()
        in_flight = shard.provider.in_flight() + len(load.threads)
        with shard.net.cut(a, b, kind) as cut:
            time.sleep(seconds)  # how long it is cut is what is tried
        heal_ms = mended(shard, pair, name, cut.healed)
    finals, drain_ms = drained(shard, load, cut.healed)
    return load, finals, in_flight, {"between": f"{pair[0]}-{pair[1]}", "kind": kind, "seconds": seconds, "heal_ms": heal_ms, "drain_ms": drain_ms}


def report(load, again, row):
    figures.note("partition", **row, accepted=len(load.accepted), refused=len(load.refused), unheard=len(load.unheard), calls_again=again,
                 slowest_answer_ms=round(load.slowest_s * 1000))


@pytest.mark.brief
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_mended_at_once_makes_no_call_again(shard, pair, kind):
    load, finals, in_flight, row = partition(shard, pair, kind, BLINK_S)
    report(load, judge(shard, load, finals), row)
    assert not load.refused, load.refused


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_a_long_cut_loses_nothing(shard, pair, kind):
    load, finals, in_flight, row = partition(shard, pair, kind, LONG_S)
    # A worker that is away for longer than return_ms loses its leases: what it had in flight, and no more, may be called elsewhere.
    report(load, judge(shard, load, finals, in_flight if pair == ("broker", "work1") else 0), row)


def test_only_listed_keys_are_let_in_over_the_network(shard):
    """The three TCP sockets of a broker, each asked by every key but its own: no session."""
    listed = shard.ctl("peers")["peers"]
    for name in ("work1", "api"):
        done = shard.ctl("stats", check=False, key=name)
        assert done.returncode == 4, done
    stranger = pki.keygen(shard.dir / "stranger.key")
    assert stranger and shard.ctl("stats", check=False, key="stranger").returncode == 4
    assert shard.ctl("stats", check=False, broker_key=stranger).returncode == 4, "a broker that is another's was talked to"
    assert {p["role"] for p in shard.ctl("peers")["peers"]} == {p["role"] for p in listed}
