"""Redis with replicas, and Sentinels that promote one when the master goes: nothing that was accepted as `synced` is lost, what an old master still
takes does not count, and for how long nothing could be accepted is reported."""

import time

import pytest

import figures
from load import Load, drained, judge, served_again
from quern import until
from sentinels import SentinelShard


@pytest.fixture()
def shard():
    with SentinelShard() as it:
        yield it


def gap_ms(load, since):
    """The longest time, from just before `since` on, in which no job was accepted."""
    times = [since] + [t for t in load.accepted_at if t > since]
    return round(max(b - a for a, b in zip(times, times[1:])) * 1000)


def go_on(shard, load, old, sentinel=None):
    """Another master is named and the load is accepted again; that master."""
    new = until(lambda: (now := shard.master(sentinel)) and now is not old and now, "the Sentinels promote a replica", 30)
    enough = len(load.accepted) + 40
    until(lambda: len(load.accepted) >= enough, "the load goes on", 30)
    return new


def report(shard, load, how, began, **more):
    finals, drain_ms = drained(shard, load, began)
    again = judge(shard, load, finals)
    figures.note("failover", how=how, unavailable_ms=gap_ms(load, began), accepted=len(load.accepted), refused=len(load.refused), calls_again=again,
                 **more)


@pytest.mark.brief
def test_the_master_is_killed(shard):
    old = shard.master()
    with Load(shard, "killed", ack="synced") as load:
        load.under_way()
        began = time.monotonic()
        old.kill()
        new = go_on(shard, load, old)
    report(shard, load, "killed", began)
    assert new.info("role") == "master"
    broker = shard.brokers[0]
    assert len(broker.logged("role.start")) == 1, "the broker itself went on"
    assert len(broker.logged("redis.down")) <= 4 and len(shard.api.logged("redis.down")) <= 8, "what lasts is said once"


def test_the_master_is_cut_off_while_the_broker_still_reaches_it(shard):
    """It goes on taking writes, and its Sentinel goes on naming it. Neither counts: no replica has what it takes."""
    old = shard.master()
    broker = shard.brokers[0].host
    with Load(shard, "lonely", ack="synced") as load:
        load.under_way()
        began = time.monotonic()
        with shard.net.isolate(old.host, but=(broker,)):
            new = go_on(shard, load, old, sentinel=shard.sentinels[-1])
            assert shard.master(shard.sentinels[0]) is old, "its own Sentinel knows no better"
            assert old.info("role") == "master" and old.command("SET", "{q0}:canary", "sings") == "OK", "it is writable all the time"
            there = {job_id: new.command("EXISTS", f"{{q0}}:r:{job_id[4:]}", f"{{q0}}:j:{job_id[4:]}") for job_id in list(load.accepted)}
            assert all(count != "0" for count in there.values()), "every accepted job is on the new master"
        until(lambda: old.info("role") == "slave" and old.info("master_link_status") == "up", "the old master has become a replica", 30)
    report(shard, load, "cut off, reached by the broker", began)
    assert old.command("EXISTS", "{q0}:canary") == "0", "what it took alone is gone"


def test_the_master_is_cut_off_together_with_the_broker():
    """The side that has neither replicas nor the other Sentinels: its broker acknowledges nothing. The standby goes on with the rest."""
    with SentinelShard(brokers=("broker1", "broker2")) as shard:
        leader, standby = shard.brokers
        until(lambda: standby.logged("store.waits"), "the other waits")
        old = shard.master()
        with Load(shard, "side", ack="synced", latency_ms=1000) as load:
            load.under_way()
            began = time.monotonic()
            with shard.net.isolate(old.host, but=(leader.host,)), shard.net.isolate(leader.host, but=(old.host,)):
                until(lambda: standby.logged("role.ready"), "the standby leads", 30)
                heal_ms = served_again(shard, "side", began)
                assert not leader.logged("store.fenced")
            until(lambda: leader.logged("store.fenced"), "the old leader is fenced", 30)
        report(shard, load, "cut off with the broker", began, new_job_ms=heal_ms)


def test_a_broker_shows_nothing_that_no_replica_has(shard):
    """It starts on a master whose replicas are away: what it reads back may be on that one Redis alone."""
    broker, old = shard.brokers[0], shard.master()
    for store in shard.stores:
        if store is not old:
            store.kill()
    broker.kill()
    broker.start()
    until(lambda: len(broker.logged("store.recovered")) == 2, "it has read everything")
    until(lambda: broker.logged("store.refused"), "it says what it waits for")
    assert "too few replicas" in broker.logged("store.refused")[-1]
    assert shard.ask("POST", "/v1/jobs", {"prompt": "nowhere"}).status == 503
    assert len(broker.logged("role.ready")) == 1
    next(store for store in shard.stores if store is not old).start()
    until(lambda: len(broker.logged("role.ready")) == 2, "a replica has it", 30)
    shard.ready()


def test_a_user_that_may_not_wait_for_replicas_is_told_which_permission_it_lacks(shard):
    broker = shard.brokers[0]
    for store in shard.stores:
        assert store.command("ACL", "SETUSER", "broker", "-wait") == "OK"
    broker.kill()
    broker.start()
    until(lambda: broker.logged("store.refused"), "it says so")
    for _ in range(10):
        assert shard.ask("POST", "/v1/jobs", {"prompt": "never stored"}).status == 503
    refused = broker.logged("store.refused")
    assert len(refused) == 1 and "NOPERM" in refused[0] and "wait" in refused[0], refused
    assert len(broker.logged("role.ready")) == 1 and not shard.provider.calls()
    for store in shard.stores:
        assert store.command("ACL", "SETUSER", "broker", "+wait") == "OK"
    shard.ready()


def test_no_sentinel_answers():
    """A connection that stands goes on without them. It is said once, not at every try; and once that they are back."""
    with SentinelShard() as shard:
        with Load(shard, "blind", ack="synced") as load:
            load.under_way()
            for sentinel in shard.sentinels:
                sentinel.kill()
            broker = shard.brokers[0]
            until(lambda: broker.logged("sentinels.away"), "it is said", 15)
            before = len(load.accepted)
            until(lambda: len(load.accepted) > before + 50, "jobs are taken all the same")
            shard.stores[0].command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            until(lambda: broker.logged("redis.down"), "nobody says where the master is")
            time.sleep(6)  # as long as a flood takes to be one
            assert len(broker.logged("sentinels.away")) == 1
            assert len(broker.logged("redis.down")) <= 2, broker.logged("redis.down")
            for sentinel in shard.sentinels:
                sentinel.start()
            until(lambda: broker.logged("sentinels.back"), "they are back")
            healed = time.monotonic()
            heal_ms = served_again(shard, "blind", healed)
        finals, drain_ms = drained(shard, load, healed)
        judge(shard, load, finals)
        figures.note("sentinels.away", heal_ms=heal_ms, drain_ms=drain_ms)
