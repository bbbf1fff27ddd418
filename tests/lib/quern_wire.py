"""Quern's frames, spoken by tests: the messages of proto/messages.def over a plain ZeroMQ DEALER.

    w = Peer(endpoint, "worker", slots=4)     # says HELLO, waits for WELCOME
    w.send("heartbeat", slots=4)
    m = w.receive("job")                       # m.fields, m.body; other messages are kept for later

Fields that are not given are zero. Job ids are 16 bytes, fences are (epoch, n)."""

import os
import pathlib
import re
import struct
import time

import msgpack
import zmq

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAJOR = int(re.search(r"PROTO_MAJOR (\d+)", (ROOT / "proto/limits.h").read_text()).group(1))
MINOR = int(re.search(r"PROTO_MINOR (\d+)", (ROOT / "proto/limits.h").read_text()).group(1))
ROLES = {"api": 2, "worker": 3, "monitor": 4}


def _tables():
    records, messages, rows = {}, {}, None
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "proto/messages.def").read_text(), flags=re.S)
    for kind, args in re.findall(r"^(\w+)\(((?:[^()\"]|\"(?:[^\"\\]|\\.)*\")*)\)", text, flags=re.M | re.S):
        parts = [a.strip() for a in re.sub(r"\"(?:[^\"\\]|\\.)*\"", '""', args).split(",")]
        if kind == "RECORD":
            rows = records.setdefault(parts[0], [])
        elif kind == "MESSAGE":
            rows = []
            messages[parts[1]] = (int(parts[2]), rows)
        elif not kind.startswith("END_"):
            rows.append((kind, parts[0], parts[1]))
    return records, messages


RECORDS, MESSAGES = _tables()
NAMES = {number: name for name, (number, _) in MESSAGES.items()}


def _pack(rows, given):
    given = dict(given)
    out = []
    for kind, name, arg in rows:
        value = given.pop(name, None)
        if kind in ("U8", "U16", "U32", "U64", "I64", "WORDNUM"):
            out.append(value or 0)
        elif kind == "FLAG":
            out.append(bool(value))
        elif kind == "JOBID":
            out.append(value or bytes(16))
        elif kind == "FENCE":
            out.append(struct.pack(">QQ", *(value or (0, 0))))
        elif kind == "FIXED":
            out.append(value or bytes(int(arg)))
        elif kind == "TEXT":
            out.append(value or "")
        elif kind == "BIN":
            out.append(value or b"")
        elif kind == "NEST":
            out.append(_pack(RECORDS[arg], value or {}))
        elif kind == "LIST":
            out.append([_pack(RECORDS[arg], item) for item in value or []])
    assert not given, f"no such field: {list(given)}"
    return out


def _unpack(rows, values):
    out = {}
    for i, (kind, name, arg) in enumerate(rows):
        value = values[i] if i < len(values) else None
        if kind == "NEST":
            value = _unpack(RECORDS[arg], value or [])
        elif kind == "LIST":
            value = [_unpack(RECORDS[arg], item) for item in value or []]
        elif kind == "FENCE":
            value = struct.unpack(">QQ", value or bytes(16))
        out[name] = value
    return out


def job_id(shard=0, version=1):
    """A fresh id (common/id.h); its tag is of nobody."""
    ms = int(time.time() * 1000).to_bytes(6, "big")
    return ms + (shard << 4 | version).to_bytes(2, "big") + os.urandom(8)


def deployment_hash(name, provider="echo", model="", credential=""):
    """What a worker and the broker compare: FNV-1a over the texts and their NULs."""
    value = 0xCBF29CE484222325
    for text in (name, provider, model, credential):
        for byte in text.encode() + b"\0":
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


ECHO = {"name": "echo", "hash": deployment_hash("echo")}


def encode(message, epoch=0, received=0, **fields):
    number, rows = MESSAGES[message]
    return msgpack.packb([MAJOR, number, epoch, received, *_pack(rows, fields)], use_bin_type=True)


class Message:
    def __init__(self, header, body):
        values = msgpack.unpackb(header, raw=False)
        self.name = NAMES[values[1]]
        self.epoch, self.received = values[2], values[3]
        self.fields = _unpack(MESSAGES[self.name][1], values[4:])
        self.body = body

    def __getattr__(self, name):
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self):
        return f"<{self.name} {self.fields} {self.body[:60]!r}>"


def unpack_record(record, kind):
    """A stored record (proto/record.h): its fields and its body."""
    assert record[:1] == b"Q" and record[1] == {"job": 1, "ended": 2, "idem": 3}[kind], record[:12]
    length = int.from_bytes(record[8:12], "little")
    return _unpack(RECORDS[kind], msgpack.unpackb(record[12:12 + length], raw=False)), record[12 + length:]


class Peer:
    context = None

    def __init__(self, endpoint, role, hello=True, instance=None, name=None, keys=None, **fields):
        """keys: over TCP, (our public key, our secret key, the broker's public key), each Z85."""
        Peer.context = Peer.context or zmq.Context()
        self.endpoint, self.role, self.hello_fields, self.keys = endpoint, role, fields, keys
        self.instance = instance or os.urandom(16)
        self.name = name or f"test:{role}"
        self.socket, self.epoch, self.received, self.kept = None, 0, 0, []
        self.connect()
        if hello:
            self.hello()

    def connect(self):
        if self.socket is not None:
            self.socket.close(0)
        self.socket = Peer.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if self.keys:
            self.socket.curve_publickey, self.socket.curve_secretkey, self.socket.curve_serverkey = [k.encode() for k in self.keys]
        self.socket.connect(self.endpoint)
        self.kept = []

    def say_hello(self, **more):
        fields = {"minor": MINOR, "role": ROLES[self.role], "instance": self.instance, "name": self.name, "version": "test",
                  **self.hello_fields, **more}
        self.socket.send_multipart([encode("hello", **fields), b""])

    def hello(self, seconds=10, **more):
        """Says HELLO until WELCOME, as a peer whose broker may be about to start."""
        self.received = 0
        deadline = time.monotonic() + seconds
        while True:
            self.say_hello(**more)
            welcome = self.receive("welcome", "refused", seconds=0.5, missing=None)
            if welcome:
                self.epoch, self.received = welcome.epoch, 0
                self.welcome = welcome
                return welcome
            assert time.monotonic() < deadline, "no WELCOME"

    def again(self, **more):
        """A new session of the same instance on a new transport."""
        self.connect()
        return self.hello(**more)

    def send(self, message, body=b"", epoch=None, **fields):
        header = encode(message, self.epoch if epoch is None else epoch, self.received, **fields)
        self.socket.send_multipart([header, body])

    def _next(self, seconds):
        if not self.socket.poll(max(0, int(seconds * 1000))):
            return None
        header, body = self.socket.recv_multipart()
        message = Message(header, body)
        if message.name not in ("welcome", "refused", "hello_wanted"):
            self.received += len(header) + len(body)
        return message

    def receive(self, *names, seconds=10, missing="fail", where=lambda m: True):
        """The next message of one of these names; others but PROBE wait their turn."""
        for i, message in enumerate(self.kept):
            if message.name in names and where(message):
                return self.kept.pop(i)
        deadline = time.monotonic() + seconds
        while True:
            message = self._next(deadline - time.monotonic())
            if message is None:
                assert missing != "fail", f"no {names} within {seconds} s; kept: {self.kept}"
                return missing
            if message.name in names and where(message):
                return message
            if message.name != "probe":
                self.kept.append(message)

    def nothing(self, *names):
        """Everything the broker had to say has been said (an answer to something else came), and none of these was in it."""
        self.send("stats", ref=4242) if self.role == "api" else self.send("heartbeat", slots=self.hello_fields.get("slots", 0))
        self.receive("stats_answer" if self.role == "api" else "heartbeat_ack")
        assert not [m for m in self.kept if m.name in names], self.kept

    def close(self):
        self.socket.close(0)
