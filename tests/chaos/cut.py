"""A wire that can be cut: a unix socket in front of another one, whose connections all break at once, and which nobody can reach for
as long as the cut lasts."""

import asyncio
import os
import socket


class End(asyncio.Protocol):
    """One side of one connection; what comes in here goes out at the other."""

    def __init__(self, wire, other=None):
        self.wire, self.other, self.transport, self.early = wire, other, None, []

    def connection_made(self, transport):
        self.transport = transport
        self.wire.ends.add(self)
        if self.other is None:
            self.wire.tasks.add(task := asyncio.ensure_future(self.reach()))
            task.add_done_callback(self.wire.tasks.discard)

    async def reach(self):
        try:
            _, self.other = await asyncio.get_running_loop().create_unix_connection(lambda: End(self.wire, self), self.wire.target)
        except OSError:
            self.transport.abort()
            return
        for data in self.early:
            self.other.transport.write(data)
        if self.transport.is_closing():
            self.other.transport.close()

    def data_received(self, data):
        if self.other is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, why):
        self.wire.ends.discard(self)
        if self.other and self.other.transport and not self.other.transport.is_closing():
            self.other.transport.close()


class Wire:
    def __init__(self, path, target):
        self.path, self.target = str(path), str(target)
        self.ends, self.tasks, self.server = set(), set(), None

    async def open(self):
        listener = socket.socket(socket.AF_UNIX)
        if os.path.exists(self.path):
            os.unlink(self.path)
        listener.bind(self.path)
        os.chmod(self.path, 0o700)
        self.server = await asyncio.get_running_loop().create_unix_server(lambda: End(self), sock=listener, backlog=1024)

    async def cut(self, seconds):
        self.close()
        await asyncio.sleep(seconds)
        await self.open()

    def close(self):
        if self.server:
            self.server.close()
            self.server = None
            os.unlink(self.path)
        for end in list(self.ends):
            end.transport.abort()
