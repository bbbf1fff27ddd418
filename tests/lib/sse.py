"""A reader of event streams that takes the standards at their word: HTTP/1.1 chunks (RFC 9112, 7.1), server-sent events (HTML
standard, 9.2). Whatever they do not allow is an AssertionError. One socket, so that a test can stall, half-close or reset it."""

import json
import os
import socket
import struct

from quern import children


class Event:
    def __init__(self, id_, name, data):
        self.id, self.name, self.data = id_, name, data

    @property
    def json(self):
        return json.loads(self.data)

    def __eq__(self, other):
        return (self.id, self.name, self.data) == (other.id, other.name, other.data)

    def __repr__(self):
        return f"<{self.id} {self.name} {self.data[:120]}>"


class Sse:
    """ended: None while it goes on, then "end" (as the protocol says) or "cut" (the connection broke before that)."""

    def __init__(self, port, path, last=None, headers=None, timeout=20, version="1.1", rcvbuf=None, method="GET"):
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(timeout)
        self.sock.connect(("127.0.0.1", port))
        lines = [f"{method} {path} HTTP/{version}", "Host: q", "Accept: text/event-stream"]
        lines += [f"Last-Event-ID: {last}"] if last is not None else []
        lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.raw, self.body, self.comments, self.seen, self.ended = b"", b"", 0, [], None
        self.fields, self.last_id, self.left = {}, "", 0  # left: of a chunk
        self._head()

    # -- HTTP --

    def _more(self):
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        self.raw += data
        return bool(data)

    def _until(self, end):
        while end not in self.raw:
            if not self._more():
                return None
        line, self.raw = self.raw.split(end, 1)
        return line

    def _head(self):
        head = self._until(b"\r\n\r\n")
        assert head is not None, "no head"
        first, *rest = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in rest)}
        self.chunked = self.headers.get("transfer-encoding") == "chunked"

    def _piece(self):
        """The next bytes of the body; None when there are no more."""
        if self.ended:
            return None
        if not self.chunked:
            length = self.headers.get("content-length")
            if length is not None and len(self.raw) >= int(length):
                self.ended = "end"
            elif not self._more():
                self.ended = "end" if length is None else "cut"
            if length is not None and not self.ended:
                return b""
            piece, self.raw = self.raw, b""
            return piece
        if not self.left:
            line = self._until(b"\r\n")
            self.left = 0 if line is None else int(line, 16)
            if not self.left:
                self.ended = "cut" if line is None or self._until(b"\r\n") != b"" else "end"
                return None
        if not self.raw and not self._more():
            self.ended = "cut"
            return None
        piece, self.raw = self.raw[:self.left], self.raw[self.left:]
        self.left -= len(piece)
        if not self.left:
            end = self._until(b"\r\n")
            assert end in (b"", None), "a chunk without its end"
        return piece

    # -- events --

    def _line(self, line):
        if not line:
            event = Event(self.last_id, self.fields.get("event", "message"), self.fields.get("data"))
            self.fields = {}
            return event if event.data is not None else None
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "":
            self.comments += 1
        elif name == "id":
            self.last_id = value
        elif name == "data" and "data" in self.fields:
            self.fields["data"] += "\n" + value
        else:
            assert name in ("event", "data", "retry"), line
            self.fields[name] = value
        return None

    def next(self):
        """The next event; None: the stream has ended. socket.timeout when nothing comes."""
        while True:
            while b"\n" in self.body:
                line, self.body = self.body.split(b"\n", 1)
                event = self._line(line.decode())
                if event:
                    self.seen.append(event)
                    return event
            piece = self._piece()
            if piece is None:
                return None
            self.body += piece

    def comment(self):
        """Waits for the next comment."""
        before = self.comments
        while self.comments == before:
            piece = self._piece()
            assert piece is not None, "the stream ended"
            self.body += piece
            while b"\n" in self.body:
                line, self.body = self.body.split(b"\n", 1)
                assert self._line(line.decode()) is None, "an event instead"

    def until(self, name, **fields):
        """Reads on to an event of that name whose data has these members."""
        while event := self.next():
            if event.name == name and all(event.json.get(k) == v for k, v in fields.items()):
                return event
        raise AssertionError(f"no {name} {fields} before the {self.ended}: {self.seen[-3:]}")

    def all(self):
        """Reads to the end; every event since the beginning."""
        while self.next():
            pass
        return self.seen

    def text(self):
        """The answer as a reader shows it: texts in order, without those that a restart made void."""
        parts = []
        for event in self.seen:
            if event.name == "attempt.restarted":
                run, offset = map(int, event.json["discard_from"].split("-"))
                parts = [p for p in parts if p[0] < (run, offset)]
            elif event.name == "token":
                parts.append((tuple(map(int, event.id.split("-"))), event.json.get("text", "")))
        return "".join(text for _, text in parts)

    # -- the connection --

    def child(self, q):
        """The pid of the api child that serves it."""
        mine, theirs = (self.sock.getsockname()[1], self.sock.getpeername()[1])
        with open("/proc/net/tcp") as f:
            rows = [line.split() for line in f.readlines()[1:]]
        inode = next(row[9] for row in rows if row[1].endswith(f":{theirs:04X}") and row[2].endswith(f":{mine:04X}"))
        for pid in q.children("api"):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == f"socket:[{inode}]":
                        return pid
                except OSError:
                    pass
        raise AssertionError(f"nobody serves it: {children(q.pid('api'))}")

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def follow(q, job_id, **options):
    """The events of a job."""
    return Sse(q.port, f"/v1/jobs/{job_id}/events", **options)
