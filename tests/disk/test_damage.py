"""Files of Redis that were damaged while it was down: what is lost is said, and nobody is given what nobody wrote (P1, P2)."""

import os
import signal

import pytest

import disks
from quern import alive, until


class Quern(disks.Quern):
    @property
    def files(self):
        return self.data / "appendonlydir"

    @property
    def tail(self):
        return max(self.files.glob("*.incr.aof"))

    def cut_tail(self, text=None):
        """By five bytes, or in the middle of the last place where these are."""
        os.truncate(self.tail, self.tail.read_bytes().rindex(text) + 2 if text else self.tail.stat().st_size - 5)

    def flip(self, text):
        """One bit of the last place where these bytes are."""
        data = bytearray(self.tail.read_bytes())
        data[data.rindex(text)] ^= 4
        self.tail.write_bytes(data)

    def does_not_start(self):
        self.start(ready=False)
        with pytest.raises(AssertionError, match="not within"):
            self.ready(1.5)


def later(text, **more):
    return {"prompt": text, "delay_ms": 1500, **more}


@pytest.mark.long
def test_a_tail_that_ends_inside_a_commit_costs_that_commit_only():
    with Quern(workers=1) as q:
        ids = [q.submit(later(f"kept {n}"))["id"] for n in range(20)]
        last = q.submit(later("the last"))["id"]
        q.halt()
        q.cut_tail(b"the last")
        q.start()
        assert q.get(last).status == 410
        assert all(q.ended(i)["status"] == "completed" for i in ids)


def test_a_tail_cut_while_the_broker_lives_costs_nothing():
    """Redis alone lost its last bytes: the ring has them."""
    with Quern(workers=1) as q:
        job, redis = q.submit(later("healed"))["id"], q.pid("redis")
        os.kill(q.run.pid, signal.SIGSTOP)  # or it would start Redis before the cut
        os.kill(redis, signal.SIGKILL)
        until(lambda: not alive(redis), "Redis is dead")
        q.cut_tail()
        os.kill(q.run.pid, signal.SIGCONT)
        assert q.ended(job)["result"]["content"] == "echo: healed"
        assert q.number("store_older") == 1


def test_damaged_records_are_noticed_and_never_served():
    with Quern(workers=1) as q:
        result = q.submit("the result of this one", wait="10s")["id"]
        body, state, whole = (q.submit(later(f"the {w} of this one", queue=f"queue-of-{w}"))["id"] for w in ("body", "state", "other"))
        q.halt()
        for text in (b"echo: the result", b"the body of this one", b"queue-of-state"):
            q.flip(text)
        q.start()
        for job in (result, state):
            reply = q.get(job)
            assert reply.status == 500 and reply.error["code"] == "corrupt_record" and "retry-after" not in reply.headers, reply
        lost = q.ended(body)
        assert lost["status"] == "failed" and lost["error"]["code"] == "lost", lost
        assert q.ended(whole)["result"]["content"] == "echo: the other of this one"
        assert [c["prompt_head"] for c in q.upstream.calls()] == ["the result of this one", "the other of this one"]
        assert q.number("records_corrupt") >= 2 and "store.corrupt" in q.logs("broker")


def test_redis_is_not_started_on_data_without_its_manifest():
    """Redis 7.0 would start empty, and every job would be a 404."""
    with Quern(workers=1) as q:
        job = q.submit(later("found again"))["id"]
        q.halt()
        manifest = q.files / "appendonly.aof.manifest"
        saved = manifest.read_bytes()
        manifest.unlink()
        q.does_not_start()
        assert "event=run.data" in (q.state / "run.log").read_text()
        manifest.write_bytes(saved)
        q.ready()
        assert q.ended(job)["status"] == "completed"


@pytest.mark.long
def test_a_tail_of_other_bytes_stops_the_start():
    with Quern(workers=1) as q:
        job = q.submit(later("found again"))["id"]
        q.halt()
        saved = q.tail.read_bytes()
        q.tail.write_bytes(saved + bytes(100))
        q.does_not_start()
        assert "Bad file format" in q.logs("redis")
        q.tail.write_bytes(saved)
        q.ready()
        assert q.ended(job)["status"] == "completed"
