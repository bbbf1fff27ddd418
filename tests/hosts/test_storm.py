"""Everything that may go wrong between and on hosts, one thing after another by a seeded hand, under load: two brokers, two workers, three Redises
with their Sentinels. Then peace, and the judgement of all the other tests.

QUERN_STORM_SECONDS makes it longer (40), QUERN_STORM_SEED another one. A failure prints what was done."""

import os
import random
import signal
import time

import figures
from load import Load, drained, judge, served_again
from net import KINDS
from quern import until
from sentinels import SentinelShard

SECONDS = float(os.environ.get("QUERN_STORM_SECONDS", 40))
SEED = int(os.environ.get("QUERN_STORM_SEED", 20261128))
BROKERS, WORKERS, STORES = ("broker1", "broker2"), ("work1", "work2"), ("redis1", "redis2", "redis3")


class Hand:
    """One misfortune at a time. Counts the calls that may have been made again for it: those of a worker that was away for too long."""

    def __init__(self, shard, rng):
        self.shard, self.rng, self.log, self.again_max = shard, rng, [], 0

    def once(self):
        rng = self.rng
        act = rng.choice([self.cut, self.cut, self.cut, self.isolate, self.kill_broker, self.stop_broker, self.kill_store, self.kill_sentinel])
        began = time.monotonic()
        said = act(rng)
        self.log.append(f"{began - self.began:.1f}: {said} ({time.monotonic() - began:.1f} s)")

    def last(self, rng):
        """How long it lasts."""
        time.sleep(rng.choice([0.1, 0.4, 0.4, 2, 5]))

    def touch(self, *names):
        if set(names) & set(WORKERS):
            self.again_max += self.shard.provider.in_flight() + 8
        if set(names) & set(STORES):
            self.stores_settled()

    def stores_settled(self):
        """A replica that lags is one that a failover may not do without: the promise is about one misfortune at a time."""
        def check():
            master = self.shard.master()
            others = [s for s in self.shard.stores if s is not master]
            return master and master.info("connected_slaves") == "2" and all(s.info("master_link_status") == "up" for s in others)
        until(lambda: all(s.answers() for s in self.shard.stores) and check(), "the stores are in order", 60, every=0.1)

    def cut(self, rng):
        pair = rng.sample(("api", *BROKERS, *WORKERS, *STORES), 2)
        if not set(pair) & set(BROKERS + STORES):
            pair[0] = rng.choice(BROKERS)
        kind = rng.choice(KINDS)
        self.touch(*pair)
        with self.shard.net.cut(*(self.shard.net.hosts[name] for name in pair), kind):
            self.last(rng)
        return f"cut {'-'.join(pair)} {kind}"

    def isolate(self, rng):
        name = rng.choice((*BROKERS, *WORKERS, *STORES))
        self.touch(name)
        with self.shard.net.isolate(self.shard.net.hosts[name]):
            self.last(rng)
        return f"isolate {name}"

    def kill_broker(self, rng):
        broker = rng.choice(self.shard.brokers)
        broker.kill()
        time.sleep(rng.choice([0, 1, 4]))
        broker.start()
        return f"kill {broker.name}"

    def stop_broker(self, rng):
        broker = rng.choice(self.shard.brokers)
        broker.signal(signal.SIGSTOP)
        self.last(rng)
        broker.signal(signal.SIGCONT)
        return f"stop {broker.name}"

    def kill_store(self, rng):
        store = rng.choice(self.shard.stores)
        self.touch(store.host.name)
        store.kill()
        time.sleep(rng.choice([0, 3]))
        store.start()
        return f"kill {store.host.name}"

    def kill_sentinel(self, rng):
        sentinel = rng.choice(self.shard.sentinels)
        sentinel.kill()
        time.sleep(rng.choice([0, 2]))
        sentinel.start()
        return f"kill the Sentinel of {sentinel.host.name}"


def test_a_storm_over_every_cable_and_host():
    with SentinelShard(brokers=BROKERS, workers=WORKERS) as shard:
        hand = Hand(shard, random.Random(SEED))
        hand.began = time.monotonic()
        try:
            with Load(shard, "storm", ack="synced") as load:
                load.under_way()
                while time.monotonic() < hand.began + SECONDS:
                    hand.once()
                    time.sleep(hand.rng.choice([0.2, 1, 3]))
                peace = time.monotonic()
                heal_ms = served_again(shard, "storm", peace, 60)
            finals, drain_ms = drained(shard, load, peace, 120)
            again = judge(shard, load, finals, hand.again_max)
        except BaseException:
            print(f"seed {SEED}:", *hand.log, sep="\n  ")
            raise
        figures.note("storm", seed=SEED, seconds=SECONDS, misfortunes=len(hand.log), accepted=len(load.accepted), refused=len(load.refused),
                     calls_again=again, heal_ms=heal_ms, drain_ms=drain_ms)
