"""A reader of streams who loses its line again and again and goes on where it was (I11).

It speaks the broker's own frames, as an api child does: it watches every stream of the load with its tokens, asks again from its
position after each break, and notes every piece in the order in which a user behind it would have it."""

import json
import queue
import random
import threading
import time

import quern_wire as wire
from history import id_number

TOKEN, ENDED = 3, 5
SILENCE_S = 1.2


class Stream:
    """What a user has of one run's log."""

    def __init__(self, name):
        self.name, self.run, self.log = name, 0, b""


class Reader(threading.Thread):
    def __init__(self, endpoint, history, seed):
        super().__init__(daemon=True)
        self.endpoint, self.history, self.rng = endpoint, history, random.Random(f"{seed} streams")
        self.wanted, self.streams, self.stopping = queue.SimpleQueue(), {}, threading.Event()
        self.breaks = self.gaps = self.whole = 0
        self.failure = None

    def watch(self, plan):
        self.wanted.put(plan)

    def stop(self):
        self.stopping.set()
        self.join(20)
        if self.failure:
            raise self.failure

    # ---- the thread ----

    def run(self):
        try:
            self.peer = wire.Peer(self.endpoint, "api", hello=False, name="chaos:reader")
            self.begin()
            while not self.stopping.is_set():
                self.turn()
            self.peer.close()
        except Exception as e:  # said by stop(), where somebody listens
            self.failure = e

    def begin(self):
        """A session, and in it every stream from where it is."""
        self.peer.connect()
        self.peer.hello(seconds=60)
        self.heard_at, self.beat_at = time.monotonic(), 0
        self.break_at = time.monotonic() + self.rng.expovariate(1 / 2)
        for job_id in self.streams:
            self.ask(job_id)

    def ask(self, job_id):
        stream = self.streams[job_id]
        self.peer.send("watch", ref=1, id=job_id, tenant="default", tokens=True, run=stream.run, offset=len(stream.log))

    def turn(self):
        while not self.wanted.empty():
            plan = self.wanted.get()
            job_id = id_number(plan.id).to_bytes(16, "big")
            self.streams[job_id] = Stream(plan.name)
            self.ask(job_id)
        now = time.monotonic()
        if now > self.beat_at:
            self.beat_at = now + 0.3
            self.peer.send("heartbeat")
        message = self.peer.receive("events", "answer", "heartbeat_ack", "hello_wanted", seconds=0.05, missing=None)
        self.peer.kept.clear()
        if message:
            self.heard_at = time.monotonic()
        lost = time.monotonic() - self.heard_at > SILENCE_S or (message and (message.name == "hello_wanted" or message.epoch != self.peer.epoch))
        if lost or now > self.break_at:
            self.breaks += 1
            self.begin()
        elif message and message.name == "events":
            self.events(message)
        elif message and message.name == "answer" and message.error:
            self.streams.pop(message.id, None)

    def events(self, message):
        body = message.body
        for item in message.items:
            piece, body = body[:item["bytes"]], body[item["bytes"]:]
            stream = self.streams.get(item["id"])
            if stream and item["event"] == TOKEN:
                self.token(item, stream, piece)
            elif stream and item["event"] == ENDED:
                self.ended(item, self.streams.pop(item["id"]), piece)

    def token(self, item, stream, piece):
        if item["run"] > stream.run:
            stream.run, stream.log = item["run"], b""
        if item["run"] == stream.run and item["offset"] > len(stream.log):  # left out for want of room: asked for again
            self.gaps += 1
            self.ask(item["id"])
        else:
            self.tell(stream, item["run"], item["offset"], piece)

    def tell(self, stream, run, offset, piece):
        """What the user does not have yet. What is said twice must be the same both times."""
        known = stream.log[offset:] if run == stream.run else b""
        overlap = min(len(known), len(piece))
        if known[:overlap] != piece[:overlap]:
            self.history.add("odd", stream.name, sentence=f"run {run} said {known[:overlap]!r} at {offset}, and then {piece[:overlap]!r}")
        new = piece[overlap:]
        if not new:
            return
        text = "".join(json.loads(line).get("text", "") for line in new.decode().splitlines())
        self.history.add("events", stream.name, run=run, offset=offset + overlap, bytes=len(new), text=text)
        stream.log += new

    def ended(self, item, stream, record):
        """The record of the end has the whole log: what was not heard is read there."""
        fields, body = wire.unpack_record(record, "ended") if record else ({"log_bytes": 0, "run": 0}, b"")
        if not fields["log_bytes"]:
            return
        if fields["run"] > stream.run:
            stream.run, stream.log = fields["run"], b""
        self.tell(stream, fields["run"], 0, body[-fields["log_bytes"]:])
        self.whole += 1
        self.history.add("ended", stream.name, run=stream.run, offset=len(stream.log))
