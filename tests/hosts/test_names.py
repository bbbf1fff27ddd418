"""Peers that know their brokers by one name with several addresses, as a headless service or a DNS record gives them."""

import subprocess
import time

import figures
from load import served_again
from quern import until
from shard import Shard

NAME = "broker.quern.test"


class NamedShard(Shard):
    """Its brokers share one key, since behind one name nobody knows which of them answers."""

    def make_hosts(self, brokers, workers):
        super().make_hosts(brokers, workers)
        for name in brokers[1:]:
            (self.dir / f"{name}.key").write_bytes((self.dir / f"{brokers[0]}.key").read_bytes())
            self.keys[name] = self.keys[brokers[0]]
        self.hosts_file = self.dir / "hosts"
        self.hosts_file.write_text("127.0.0.1 localhost\n" + "".join(f"{self.net.hosts[name].address} {NAME}\n" for name in brokers))
        subprocess.run(["mount", "--bind", str(self.hosts_file), "/etc/hosts"], check=True)  # of this run's mount namespace

    def at_brokers(self, port):
        return f"tcp://{NAME}:{port}"

    def public_keys(self, brokers):
        return self.keys[brokers[0]]

    def close(self):
        if hasattr(self, "hosts_file"):
            subprocess.run(["umount", "/etc/hosts"], check=True)
        super().close()


def test_a_name_is_tried_at_each_of_its_addresses():
    with NamedShard(brokers=("broker1", "broker2")) as shard:
        leader, standby = shard.brokers
        until(lambda: standby.logged("store.waits"), "the other waits")
        leader.kill()
        killed = time.monotonic()
        until(lambda: standby.logged("role.ready"), "the standby leads")
        figures.note("takeover.name", new_job_ms=served_again(shard, "name", killed))
        for role in (*shard.workers, shard.api):
            assert NAME in role.logged("link.up")[-1], "logs say what the settings say"
