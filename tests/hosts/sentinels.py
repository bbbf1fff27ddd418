"""A shard whose Redis is three: a master and two replicas, each with a Sentinel beside it. `synced` means that a replica has it (WAIT)."""

import subprocess

from quern import until
from shard import REDIS, Redis, Shard

SENTINEL = 26379
MASTER = "q0"


class Sentinel:
    def __init__(self, shard, host, master):
        self.shard, self.host, self.process = shard, host, None
        self.conf = shard.dir / host.name / "sentinel.conf"
        self.log_file = self.conf.with_suffix(".log")
        self.conf.write_text("\n".join([
            "port 0", f"tls-port {SENTINEL}", f"bind {host.address}", "tls-auth-clients no", "tls-replication yes", "protected-mode no",
            f"tls-cert-file {shard.dir / (host.name + '.pem')}", f"tls-key-file {shard.dir / (host.name + '.key')}",
            f"tls-ca-cert-file {shard.dir / 'ca.pem'}", f"dir {shard.dir / host.name}", f"requirepass {shard.passwords['sentinel']}",
            f"sentinel sentinel-pass {shard.passwords['sentinel']}",
            f"sentinel monitor {MASTER} {master.host.address} {REDIS} 2", f"sentinel auth-user {MASTER} peer",
            f"sentinel auth-pass {MASTER} {shard.passwords['peer']}", f"sentinel down-after-milliseconds {MASTER} 1000",
            f"sentinel failover-timeout {MASTER} 4000", f"sentinel parallel-syncs {MASTER} 2", ""]))

    def start(self):
        with self.log_file.open("ab") as log:
            self.process = self.host.start(["redis-server", self.conf, "--sentinel"], log)
        return self

    def ask(self, *words):
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.host.name}", "redis-cli", "-h", self.host.address, "-p", str(SENTINEL), "--tls", "--cacert",
             str(self.shard.dir / "ca.pem"), "-a", self.shard.passwords["sentinel"], "--no-auth-warning", *words], capture_output=True, text=True,
            timeout=10)
        return done.stdout.split()

    def kill(self):
        self.process.kill()
        self.process.wait(10)


class SentinelShard(Shard):
    def make_stores(self):
        names = ("redis1", "redis2", "redis3")
        hosts = [self.net.host(name) for name in names]
        first = Redis(self, hosts[0])
        self.stores = [first, *(Redis(self, host, master=first) for host in hosts[1:])]
        for store in self.stores:
            store.start()
        until(lambda: first.info("connected_slaves") == "2", "both replicas are there")
        until(lambda: all(s.info("master_link_status") == "up" for s in self.stores[1:]), "both have caught up")
        self.sentinels = [Sentinel(self, host, first).start() for host in hosts]
        until(lambda: all(self.knows_all(s) for s in self.sentinels), "every Sentinel knows all", 30)
        self.redis_settings = {"sentinels": ",".join(f"{host.address}:{SENTINEL}" for host in hosts), "master": MASTER, "replicas": 1,
                               "sentinel_password_file": str(self.dir / "sentinel.password")}

    def knows_all(self, sentinel):
        told = sentinel.ask("sentinel", "master", MASTER)
        facts = dict(zip(told[::2], told[1::2]))
        return facts.get("num-slaves") == "2" and facts.get("num-other-sentinels") == "2" and facts.get("flags") == "master"

    def master(self, sentinel=None):
        """The store that the Sentinels name."""
        told = (sentinel or self.sentinels[-1]).ask("sentinel", "get-master-addr-by-name", MASTER)
        return next((s for s in self.stores if told and s.host.address == told[0]), None)
