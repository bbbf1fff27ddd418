"""A small HTTP/1.1 client for asyncio: one kept connection, one request at a time. A thousand of these cost less than one Quern."""

import asyncio
import json
import random


class Reply:
    __slots__ = ("status", "headers", "body")

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body) if self.body else {}

    @property
    def code(self):
        """The error's name; of a refusal without a body, its status."""
        return self.json.get("error", {}).get("code", f"bare {self.status}")

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


class Connection(asyncio.Protocol):
    def __init__(self):
        self.transport, self.buffer, self.waiter, self.closed = None, bytearray(), None, False

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, why):
        self.closed = True
        self.fail(why or ConnectionResetError("closed"))

    def fail(self, why):
        waiter, self.waiter = self.waiter, None
        if waiter and not waiter.done():
            waiter.set_exception(why if isinstance(why, OSError) else ConnectionResetError(str(why)))

    def data_received(self, data):
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:])}
        whole = end + 4 + int(headers.get("content-length", 0))
        if len(self.buffer) < whole:
            return
        reply = Reply(int(head[0][9:12]), headers, bytes(self.buffer[end + 4:whole]))
        del self.buffer[:whole]
        if headers.get("connection") == "close":
            self.closed = True
            self.transport.close()
        waiter, self.waiter = self.waiter, None
        if waiter and not waiter.done():
            waiter.set_result(reply)


class Http:
    """OSError (TimeoutError among them) when no answer came: what was asked for may or may not have been done."""

    def __init__(self, port, timeout=40):
        self.port, self.timeout, self.connection = port, timeout, None

    async def connect(self):
        if self.connection is None or self.connection.closed:
            loop = asyncio.get_running_loop()
            _, self.connection = await loop.create_connection(Connection, "127.0.0.1", self.port)
        return self.connection

    async def request(self, method, path, body=None):
        data = b"" if body is None else json.dumps(body).encode()
        more = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        return await self.send(f"{method} {path} HTTP/1.1\r\nHost: q\r\n{more}\r\n".encode() + data)

    async def send(self, request):
        connection = await self.connect()
        loop = asyncio.get_running_loop()
        connection.waiter = waiter = loop.create_future()
        connection.transport.write(request)
        bell = loop.call_later(self.timeout, connection.fail, TimeoutError(f"no answer within {self.timeout} s"))
        try:
            return await waiter
        except OSError:
            self.close()
            raise
        finally:
            bell.cancel()

    def close(self):
        if self.connection:
            self.connection.closed = True
            self.connection.transport.abort()
            self.connection = None


async def pause(seconds):
    """Between two tries, not all callers at once."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
