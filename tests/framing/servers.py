"""quern-api, nginx and HAProxy, each on a port of its own; the proxies in front of a recorder that says what it was handed."""

import asyncio
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

from quern import BUILD, free_port, to_yaml, until

WAIT_S = 2  # what each server gives a request that does not come to its end


async def recorder(reader, writer):
    """A server for proxies, which frame well: answers every request with its id (what was folded onto it is not it) and, as the body, its
    body."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method = head.split(" ", 1)[0]
            fields = dict(line.lower().split(":", 1) for line in head.split("\r\n")[1:] if ":" in line)
            body = b""
            if "chunked" in fields.get("transfer-encoding", ""):
                while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass
            elif "content-length" in fields:
                body = await reader.readexactly(int(fields["content-length"]))
            status = "405 No Tunnels" if method == "CONNECT" else "200 OK"
            writer.write((f"HTTP/1.1 {status}\r\nX-Recorder: 1\r\nX-Request-Id: {(fields.get('x-request-id') or '-').split()[0]}\r\n"
                          f"Content-Length: {len(body)}\r\n\r\n").encode("latin-1") + (b"" if method == "HEAD" else body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Servers:
    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="quern-framing-"))
        self.ports = {name: free_port() for name in ("quern", "nginx", "haproxy")}
        self.behind = free_port()
        self.processes = [self.quern(), self.nginx(), self.haproxy()]
        for name, port in self.ports.items():
            until(lambda: listening(port), f"{name} listens")

    def start(self, *command):
        log = (self.directory / "log").open("ab")
        return subprocess.Popen([shutil.which(command[0]) or f"/usr/sbin/{command[0]}", *map(str, command[1:])], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def quern(self):
        """The api alone: what is not HTTP it refuses before it needs a broker."""
        settings = self.directory / "quern.yaml"
        wait = WAIT_S * 1000
        settings.write_text(to_yaml({"quern": {"state_dir": str(self.directory)},
                                     "api": {"port": self.ports["quern"], "children": 1, "head_ms": wait, "body_ms": wait, "idle_ms": wait}}) + "\n")
        return self.start(str(BUILD / "quern-api"), "--settings", settings)

    def nginx(self):
        d, conf = self.directory, self.directory / "nginx.conf"
        conf.write_text(f"""daemon off; worker_processes 1; pid {d}/nginx.pid; error_log {d}/nginx.log;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
client_header_timeout {WAIT_S}; client_body_timeout {WAIT_S}; keepalive_timeout {WAIT_S}; client_max_body_size 0;
upstream recorder {{ server 127.0.0.1:{self.behind}; keepalive 32; }}
server {{ listen 127.0.0.1:{self.ports["nginx"]}; location / {{ proxy_pass http://recorder; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}""")
        return self.start("nginx", "-c", conf)

    def haproxy(self):
        conf = self.directory / "haproxy.cfg"
        conf.write_text(f"""global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client {WAIT_S}s
    timeout http-request {WAIT_S}s
    timeout http-keep-alive {WAIT_S}s
    timeout server 10s
frontend in
    bind 127.0.0.1:{self.ports["haproxy"]}
    default_backend recorder
backend recorder
    server recorder 127.0.0.1:{self.behind}
""")
        return self.start("haproxy", "-f", conf)

    def stop(self):
        for p in self.processes:
            p.terminate()
        deadline = time.monotonic() + 10
        for p in self.processes:
            try:
                p.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
