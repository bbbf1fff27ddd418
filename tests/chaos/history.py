"""What happened in a run: lines, in the order in which they became known, and the jobs they are about.

A line is a dict with `t` (monotonic seconds, the clock the provider's record has too) and `op`:

    settings   lease_s, away_s                        how long a silent worker keeps its leases, and one that is cut off
    submit     job, prompt, max_attempts, may, text   a caller begins to submit it; `may`: the states it may end in
    accepted   job, id                                200 or 202
    refused    job, code                              an answer that says: nothing was done
    unknown    job, why                               a broken connection, or outcome_unknown
    mismatch   job, status                            the same key with another body was answered so
    read       job, id, began, status, outcome        what a reader saw, `t` when the answer was there; status "gone" is 410
    cancel     job, id, began, status                 the answer to a cancel
    forget     job, id, status                        the answer to a forget
    events     job, run, offset, bytes, text          a piece of a stream as a reader has it, in its order
    ended      job, run, offset                       the end of that stream
    call       job, n, at, wall, closed, ended, status, fault, port    the provider's record; wall: ms since 1970
    fault      what, role, child, pids, ports, until  `t` when it began; ports: of worker children, their sockets to the provider
    found      job, id                                the store has this ended job after the run
    final      job, id, status, outcome, content, code           the last read, when all is well again
    odd        job, sentence                          an answer that no promise allows

`job` is the caller's own name for it: the first word of its prompt, and its idempotency key."""

import json
import time

TERMINAL = ("completed", "failed", "cancelled", "expired")


class History:
    def __init__(self, lines=None):
        self.lines = lines if lines is not None else []
        self.names = {}  # id -> name, while the run goes on

    def add(self, op, job=None, t=None, **more):
        line = {"t": time.monotonic() if t is None else t, "op": op, "job": job, **more}
        self.lines.append(line)
        return line

    def accepted(self, job, job_id):
        self.names[job_id] = job
        self.add("accepted", job, id=job_id)

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as f:
            for line in self.lines:
                f.write(json.dumps(line) + "\n")

    @staticmethod
    def load(path):
        with open(path) as f:
            return History([json.loads(line) for line in f])


class Job:
    """One job's lines, by op."""

    def __init__(self, name):
        self.name, self.lines, self.by_op = name, [], {}

    def add(self, line):
        self.lines.append(line)
        self.by_op.setdefault(line["op"], []).append(line)

    def of(self, op):
        return self.by_op.get(op, ())

    @property
    def plan(self):
        submits = self.of("submit")
        return submits[0] if submits else None

    @property
    def ids(self):
        return sorted({line["id"] for line in self.of("accepted")})


def jobs_of(lines):
    jobs = {}
    for line in lines:
        if line["job"] is not None:
            jobs.setdefault(line["job"], Job(line["job"])).add(line)
    for job in jobs.values():
        job.by_op.get("call", []).sort(key=lambda c: c["n"])
    return jobs


DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


def id_number(job_id):
    n = 0
    for c in job_id[4:]:
        n = n << 5 | DIGITS.index(c)
    return n


def born_ms(job_id):
    """When an id was made, since 1970: its first 48 bits."""
    return id_number(job_id) >> 80


def outcome_of(shown):
    """What makes two outcomes different: an answer can look the same, the instant of an end cannot."""
    if shown["status"] not in TERMINAL:
        return None
    return [shown["status"], shown["completed_at"], (shown["result"] or {}).get("content"), len(shown["attempts"])]


# ---- stories ----

QUIET = ("t", "op", "job", "began", "text", "prompt")


def sentence(line, zero):
    began = line.get("began", line.get("at"))
    when = f"{line['t'] - zero:8.3f}" + (f" (since {began - zero:.3f})" if began is not None else "")
    return f"{when}  {line['op']:<9} " + " ".join(f"{k}={v}" for k, v in line.items() if k not in QUIET and v is not None)


def story(lines, name):
    """One job's life, with the faults around it."""
    own = [line for line in lines if line["job"] == name]
    if not own:
        return f"--- {name}: nothing is known of it"
    first, last = min(line["t"] for line in own), max(line["t"] for line in own if line["op"] not in ("final", "found"))
    faults = [line for line in lines if line["op"] == "fault" and first - 1 <= line["t"] <= last + 1]
    told = sorted(own + [{k: v for k, v in f.items() if k != "ports"} for f in faults], key=lambda line: line["t"])
    zero = lines[0]["t"]
    plan = next((line["prompt"] for line in own if line["op"] == "submit"), "")
    return "\n".join([f"--- {name}: {plan}", *(sentence(line, zero) for line in told)])
