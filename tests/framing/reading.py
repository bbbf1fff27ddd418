"""How a server read the bytes of a case: the requests it took, in order, with their bodies as far as it tells, and how it ended."""

import asyncio
import json
import time

from servers import WAIT_S

# Quern's own words for bytes that do not follow HTTP; any other answer means that the request was read.
REFUSALS = {"bad_request", "header_too_large", "too_large", "http_version", "expectation_failed", "request_timeout"}


class Reading:
    def __init__(self):
        self.taken = []  # (id, body or None)
        self.end = "closed"  # refused, closed, or waiting: for bytes that the case does not have
        self.said = b""

    def __str__(self):
        return f"{' '.join(i + ('' if b is None else f'({len(b)})') for i, b in self.taken) or 'nothing'}, then {self.end}"


async def exchange(port, data):
    """Everything a server says, and how long it was silent before it closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said, heard_at = b"", time.monotonic()
    try:
        writer.write(data)
        while chunk := await asyncio.wait_for(reader.read(1 << 16), 4 * WAIT_S):
            said, heard_at = said + chunk, time.monotonic()
    except (ConnectionError, asyncio.TimeoutError):
        pass
    finally:
        writer.close()
    return said, time.monotonic() - heard_at


def replies(said, methods):
    """(status, fields, body) one by one; interim replies are left out."""
    while said.startswith(b"HTTP/1."):
        head, _, said = said.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        fields = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:] if ":" in line)}
        if status < 200:
            continue
        if methods.get(fields.get("x-request-id")) == "HEAD" or status == 204:
            body = b""
        elif "content-length" in fields:
            n = int(fields["content-length"])
            body, said = said[:n], said[n:]
        else:
            body, said = said, b""
        yield status, fields, body


def quern_took(status, body):
    """(refused, the body as far as the answer tells)"""
    if not body:  # to HEAD
        return status in (400, 413, 417, 431, 505), None
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError):
        return False, None
    if error["code"] in REFUSALS:
        return True, None
    if error["code"] == "unknown_field":
        return False, b'{"%s":1}' % error["param"].encode()
    return False, None


async def read(name, port, case):
    r = Reading()
    r.said, silence = await exchange(port, case.data)
    waits = silence > WAIT_S * 0.6
    for status, fields, body in replies(r.said, case.methods):
        ident = fields.get("x-request-id")
        if name == "quern":
            refused, known = quern_took(status, body)
            refused = refused or ident not in case.methods
        else:
            refused, known = "x-recorder" not in fields, body
        if refused:
            r.end = "waiting" if status == 408 else "refused"
            return r
        if case.methods[ident] == "HEAD":
            known = None
        r.taken.append((ident, None if known is None else known.rstrip(b" ")))
    if waits:
        r.end = "waiting"
    return r


def compare(quern, other):
    """"same", "stricter" (Quern refuses what the other takes), "laxer" (the other refuses what Quern takes), or, in words, why the two would
    see different requests in the same bytes."""
    for (a, body_a), (b, body_b) in zip(quern.taken, other.taken):
        if a != b:
            return f"a request that only one of them sees: {a} or {b}"
        if body_a is not None and body_b is not None and body_a != body_b:
            return f"{a} has two bodies: {body_a!r} or {body_b!r}"
    if len(quern.taken) < len(other.taken):
        return "Quern waits for more of what the other has taken" if quern.end == "waiting" else "stricter" if quern.end == "refused" else "same"
    if len(quern.taken) > len(other.taken):
        return "the other waits for more of what Quern has taken" if other.end == "waiting" else "laxer" if other.end == "refused" else "same"
    if "refused" in (quern.end, other.end) and quern.end != other.end:
        return "stricter" if quern.end == "refused" else "laxer"
    return "same"
