"""What must be so when everything has ended and nobody hurts anybody any more: nothing is owed, held, kept or busy."""

import json
import os
import time

from quern import until

LASTING = {"epoch", "last", "leader", "tagkey", "tagkey_before"}
FDS_MAX = 100
CPU_MS_IN_2_S = 100
OWED = ("jobs", "job_bytes", "pending", "processing", "retrying", "ending", "flows", "lookups_waiting", "watchers", "waiting_commits",
        "waiting_bytes", "held_bytes", "stalled", "store_stalled")


def owed(q):
    """What somebody still owes or holds."""
    numbers = json.loads(q.ctl("stats", "--json").stdout)["numbers"]
    out = {k: numbers[k] for k in OWED if numbers[k]}
    if numbers["slots"] != numbers["slots_free"] or numbers["peers_worker"] != numbers["workers"]:
        out["slots"] = {k: numbers[k] for k in ("slots", "slots_free", "workers", "peers_worker")}
    if q.upstream.stats()["in_flight"]:
        out["calls"] = q.upstream.stats()["in_flight"]
    return out


def left_in_redis(q):
    """Keys of jobs that are no more, and keys that would stay for ever."""
    keys = q.redis("--scan").split()
    left = [k for k in keys if ":j:" in k or k.endswith(":live")]
    return left + endless(q, [k for k in keys if k.split(":", 1)[1] not in LASTING and k not in left])


def endless(q, keys):
    """Of these keys, those without an end of life."""
    out = []
    for i in range(0, len(keys), 500):
        some = keys[i:i + 500]
        ttls = q.redis("EVAL", "local t = {} for i, k in ipairs(KEYS) do t[i] = redis.call('PTTL', k) end return t", str(len(some)), *some)
        out += [k for k, ttl in zip(some, ttls.split()) if ttl == "-1"]
    return out[:10]


def cpu_ms(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 // os.sysconf("SC_CLK_TCK")


def everyone(q):
    return {pid: f"{role}{' child' if n else ''}" for role in q.ROLES for n, pid in enumerate([q.pid(role), *q.children(role)])}


def busy_or_leaking(q):
    """Who uses the processor or keeps descriptors with nothing to do. The two seconds are the measure itself."""
    people = everyone(q)
    before = {pid: cpu_ms(pid) for pid in people}
    time.sleep(2)
    out = []
    for pid, who in people.items():
        used, fds = cpu_ms(pid) - before[pid], len(os.listdir(f"/proc/{pid}/fd"))
        if who != "redis" and used > CPU_MS_IN_2_S:
            out.append(f"{who} {pid} used {used} ms in 2 s with nothing to do")
        if fds > FDS_MAX:
            out.append(f"{who} {pid} keeps {fds} descriptors")
    return out


def broken_peace(q, seconds=20):
    """Sentences about what is not at peace; it has that long to come."""
    wrong = []
    try:
        until(lambda: not owed(q), "nothing is owed", seconds, every=0.2)
    except AssertionError:
        wrong.append(f"still owed after {seconds} s: {owed(q)}")
    left = left_in_redis(q)
    if left:
        wrong.append(f"left in Redis: {left[:10]} ({len(left)})")
    return wrong + busy_or_leaking(q)
