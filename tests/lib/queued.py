"""Many queued jobs, soon: pipelined submits on a few connections. Prompts are `queued <lane>-<n>`."""

import concurrent.futures
import json
import socket

LANES = 4


def fill_lane(port, lane, count):
    """Pipelined submits on one connection; the ids in order."""
    ids, got, sent = [], b"", 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        while len(ids) < count:
            while sent < count and sent - len(ids) < 16:
                body = json.dumps({"prompt": f"queued {lane}-{sent}"}).encode()
                s.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: q\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                sent += 1
            got += s.recv(262144)
            while (end := got.find(b"\r\n\r\n")) >= 0:
                head = got[:end].lower()
                assert head.startswith(b"http/1.1 202"), got[:300]
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                if len(got) < end + 4 + length:
                    break
                ids.append(json.loads(got[end + 4:end + 4 + length])["id"])
                got = got[end + 4 + length:]
    return ids


def fill(port, count):
    """The ids; of each lane in the order in which they were accepted."""
    with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
        return sum(pool.map(lambda lane: fill_lane(port, lane, count // LANES), range(LANES)), [])
