"""Everything at once, for a while: a mixed load while processes of every role are killed, stopped and resumed by a seeded hand. Then
peace, and what must be true after it: P1, P2, P3, P6 and nothing left behind.

QUERN_CHAOS_SECONDS makes it longer (40), QUERN_CHAOS_SEED another one. A failure names its seed."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import threading
import time

import pytest

from quern import Http, Quern, alive, until

SECONDS = float(os.environ.get("QUERN_CHAOS_SECONDS", 40))
SEED = int(os.environ.get("QUERN_CHAOS_SEED", 20261122))
CALLERS, JOBS_PER_S, READERS = 8, 60, 2
TERMINAL = ("completed", "failed", "cancelled", "expired")
WINDOW = 3.2  # `stored` outlives any one process: between deaths of broker and Redis the ring's three seconds pass
FAST = {"base_ms": 20, "cap_ms": 200}
LASTING = {"epoch", "last", "leader", "tagkey", "tagkey_before"}


class History:
    """What callers saw: jobs with what they were promised, and reads with the time they took."""

    def __init__(self):
        self.lock = threading.Lock()
        self.jobs, self.ids, self.reads, self.wrong, self.bounced = {}, [], [], [], 0

    def accepted(self, job_id, plan):
        with self.lock:
            before = self.jobs.setdefault(job_id, plan)
            if before is not plan and before["prompt"] != plan["prompt"]:
                self.wrong.append(f"one id for two jobs: {job_id}: {before['prompt']} and {plan['prompt']}")
            if plan.setdefault("id", job_id) != job_id:
                self.wrong.append(f"one key, two jobs: {plan['id']} and {job_id} ({plan['prompt']})")
            if before is plan:
                self.ids.append(job_id)

    def read(self, job_id, began, status):
        with self.lock:
            self.reads.append((job_id, began, time.monotonic(), status))

    def say(self, sentence):
        with self.lock:
            self.wrong.append(sentence)


def plan_of(rng, name):
    """One job and what may become of it."""
    kind = rng.choices(["plain", "stream", "delayed", "cancelled", "twice", "passing", "failing", "final", "forgotten", "brief", "left"],
                       [30, 10, 8, 12, 8, 8, 4, 4, 4, 4, 3])[0]
    latency = rng.choice([0, 5, 40, 300, 1500])
    prompt, may, body = f"{name} {kind} [[latency_ms={latency}]]", ("completed",), {}
    if kind == "stream":
        prompt, body = f"{name} stream of a few words to say [[tokens_per_s=200]]", {"stream": True}
    elif kind == "delayed":
        body = {"delay_ms": rng.randrange(1, 3000)}
    elif kind in ("cancelled", "left"):
        may = ("completed", "cancelled")
    elif kind == "passing":
        prompt = f"{name} passing [[fault={rng.choice(['status_503', 'reset', 'garbage', 'early_close'])} fail_first={rng.choice([1, 2])}]]"
    elif kind == "failing":
        prompt, may = f"{name} failing [[fault=status_500]]", ("failed",)
    elif kind == "final":
        prompt, may = f"{name} final [[fault=status_400]]", ("failed",)
    elif kind == "brief":
        body = {"result_ttl_s": 1}
    if kind == "left":
        body = {"on_disconnect": "cancel"}
    body = {"prompt": prompt, "priority": rng.randrange(1, 11), "class": rng.choice(["interactive", "standard", "background"]),
            "backoff": FAST, "idempotency_key": name, **body}
    return {"kind": kind, "prompt": prompt, "may": may, "body": body, "calls_max": 1 if kind == "final" else 3}


def leave(q, plan):
    """Submits, waits for the end and hangs up instead."""
    body = json.dumps(plan["body"]).encode()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", q.port), timeout=5) as s:
        s.sendall(b"POST /v1/jobs?wait=30s HTTP/1.1\r\nHost: q\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.05)


def submit(q, client, history, plan):
    """Until its fate is known: 503 and broken connections are asked about again under the same key."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            reply = client.request("POST", "/v1/jobs", plan["body"])
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
            continue
        if reply.status in (200, 202):
            return history.accepted(reply.json["id"], plan)
        if reply.status != 503 or int(reply.headers.get("retry-after", 0)) < 1:
            return history.say(f"submit: {reply} {reply.headers}")
        history.bounced += 1
        time.sleep(0.05)
    history.say(f"no answer for a minute: {plan['prompt']}")


def act(client, history, plan, rng):
    """What the plan does to its job after it was accepted."""
    job_id = plan.get("id")
    if not job_id:
        return
    with contextlib.suppress(OSError, http.client.HTTPException):
        if plan["kind"] == "cancelled":
            time.sleep(rng.choice([0, 0, 0.02, 0.2]))
            reply = client.request("DELETE", f"/v1/jobs/{job_id}")
            if reply.status not in (200, 409, 503):
                history.say(f"cancel: {job_id} {reply}")
            plan["cancel"] = reply.status
        elif plan["kind"] == "forgotten":
            if client.request("GET", f"/v1/jobs/{job_id}?wait=3s").json.get("status") in TERMINAL:
                reply = client.request("DELETE", f"/v1/jobs/{job_id}?forget=1")
                if reply.status not in (204, 409, 410, 503):
                    history.say(f"forget: {job_id} {reply}")
                if reply.status == 204:
                    plan["forgotten_at"] = time.monotonic()


def caller(q, index, history, enough):
    rng, client = random.Random(f"{SEED} caller {index}"), Http(q.port, timeout=20)
    n = 0
    while not enough.is_set():
        n += 1
        plan = plan_of(rng, f"chaos-{index}-{n}")
        if plan["kind"] == "left":
            leave(q, plan)
        submit(q, client, history, plan)
        if plan["kind"] == "twice":
            submit(q, client, history, plan)
        act(client, history, plan, rng)
        time.sleep(rng.expovariate(JOBS_PER_S / CALLERS))


def reader(q, index, history, stop):
    rng, client = random.Random(f"{SEED} reader {index}"), Http(q.port, timeout=20)
    while not stop.is_set():
        if not history.ids:
            time.sleep(0.01)
            continue
        job_id = rng.choice(history.ids[-200:] if rng.random() < 0.8 else history.ids)
        began = time.monotonic()
        with contextlib.suppress(OSError, http.client.HTTPException):
            reply = client.request("GET", f"/v1/jobs/{job_id}" + rng.choice(["", "", "?wait=200ms"]))
            if reply.status == 200:
                history.read(job_id, began, reply.json["status"])
            elif reply.status == 410:
                history.read(job_id, began, "gone")
            elif reply.status != 503:
                history.say(f"read: {job_id} {reply}")
        time.sleep(0.005)


class Hand:
    """Hurts one process at a time."""

    def __init__(self, q, rng):
        self.q, self.rng, self.deaths, self.log = q, rng, {"broker": 0, "redis": 0}, []
        self.worker_deaths = 0

    def pids(self, role, child):
        return self.q.children(role) if child else [self.q.pid(role)]

    def once(self):
        role = self.rng.choice(["broker", "broker", "redis", "worker", "api"])
        child = role in ("worker", "api") and self.rng.random() < 0.75
        how = self.rng.choice(["kill", "stop"])
        pids = [p for p in self.pids(role, child) if p and alive(p)]
        if not pids:
            return
        pid = self.rng.choice(pids)
        if how == "kill" and role in self.deaths:
            other = "redis" if role == "broker" else "broker"
            time.sleep(max(0, self.deaths[other] + WINDOW - time.monotonic()))
            if not self.q.pid(other) or not alive(self.q.pid(other)):
                return
        self.worker_deaths += role == "worker"
        self.log.append(f"{how} {role}{' child' if child else ''}")
        with contextlib.suppress(ProcessLookupError):
            if how == "kill":
                os.kill(pid, signal.SIGKILL)
                if not child:
                    self.q.restarted(role, pid, 30)
                if role in self.deaths:
                    self.deaths[role] = time.monotonic()
            else:
                os.kill(pid, signal.SIGSTOP)
                try:
                    time.sleep(self.rng.choice([0.1, 0.6, 1.2, 3.0]))
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)


def cpu_ms(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 // os.sysconf("SC_CLK_TCK")


def everyone(q):
    return {pid: f"{role}{' child' if n else ''}" for role in q.ROLES for n, pid in enumerate([q.pid(role), *q.children(role)])}


def final_of(q, job_id):
    """The job once it is terminal, or None once it is gone."""
    def check():
        with contextlib.suppress(OSError, http.client.HTTPException):
            reply = q.get(job_id, wait="5s")
            if reply.status == 410:
                return "gone"
            if reply.status == 200 and reply.json["status"] in TERMINAL:
                return reply.json
            assert reply.status in (200, 503), (job_id, reply)
        return None
    return until(check, f"{job_id} has ended", 40, every=0.02)


def judge(jobs, reads, finals, calls, worker_deaths):
    """Sentences about what must not have happened."""
    wrong, ended = [], {}
    for job_id, began, over, status in sorted(reads, key=lambda r: r[2]):
        before = ended.get(job_id)
        if before and before[1] < began and status != before[0] and not (status == "gone" and jobs[job_id]["kind"] in ("brief", "forgotten")):
            wrong.append(f"went back: {job_id} ({jobs[job_id]['prompt']}) from {before[0]} to {status}")
        if status in (*TERMINAL, "gone") and (not before or before[0] != status):
            ended[job_id] = (status, over)
    for job_id, plan in jobs.items():
        final, made = finals[job_id], calls.get(plan["prompt"], 0)
        if final == "gone":
            if plan["kind"] not in ("brief", "forgotten"):
                wrong.append(f"lost: {job_id} ({plan['prompt']})")
        elif "forgotten_at" in plan:
            wrong.append(f"not forgotten: {job_id} ({plan['prompt']})")
        elif final["status"] not in plan["may"]:
            wrong.append(f"became {final['status']}: {job_id} ({plan['prompt']}) {final.get('error')}")
        elif final["status"] == "completed" and final["result"]["content"] != "echo: " + plan["prompt"]:
            wrong.append(f"another's answer: {job_id} ({plan['prompt']}) got {final['result']['content']!r}")
        elif plan.get("cancel") == 200 and final["status"] != "cancelled":
            wrong.append(f"cancelled, then {final['status']}: {job_id}")
        elif job_id in ended and ended[job_id][0] not in ("gone", final["status"]):
            wrong.append(f"changed: {job_id} from {ended[job_id][0]} to {final['status']}")
        if made > plan["calls_max"] + worker_deaths:
            wrong.append(f"called {made} times: {plan['prompt']}")
    return wrong


PLAN = {"kind": "plain", "prompt": "p", "may": ("completed",), "calls_max": 3}
DONE = {"status": "completed", "result": {"content": "echo: p"}}


@pytest.mark.parametrize("plan, reads, final, calls, word", [
    ({}, [("a", 0, 1, "processing"), ("a", 0, 3, "completed"), ("a", 2, 4, "processing")], DONE, 3, None),
    ({}, [], "gone", 1, "lost"),
    ({}, [], {"status": "cancelled"}, 1, "became cancelled"),
    ({}, [], {"status": "completed", "result": {"content": "echo: q"}}, 1, "another's"),
    ({}, [("a", 0, 1, "completed"), ("a", 2, 3, "processing")], DONE, 1, "went back"),
    ({}, [("a", 0, 1, "failed")], DONE, 1, "changed"),
    ({}, [], DONE, 9, "called 9 times"),
    ({"cancel": 200, "may": ("completed", "cancelled")}, [], DONE, 1, "cancelled, then"),
    ({"forgotten_at": 1}, [], DONE, 1, "not forgotten"),
])
def test_the_judge_knows_a_bad_history(plan, reads, final, calls, word):
    wrong = judge({"a": {**PLAN, **plan}}, reads, {"a": final}, {"p": calls}, 0)
    assert (not wrong) if word is None else any(word in w for w in wrong), wrong


def at_peace(q):
    """Nothing is owed, held or kept by anyone."""
    numbers = json.loads(q.ctl("stats", "--json").stdout)["numbers"]
    owed = {k: numbers[k] for k in ("jobs", "job_bytes", "pending", "processing", "retrying", "ending", "flows", "lookups_waiting", "watchers",
                                    "waiting_commits", "waiting_bytes", "held_bytes", "stalled", "store_stalled") if numbers[k]}
    if numbers["slots"] != numbers["slots_free"] or numbers["peers_worker"] != numbers["workers"]:
        owed["slots"] = {k: numbers[k] for k in ("slots", "slots_free", "workers", "peers_worker")}
    if q.upstream.stats()["in_flight"]:
        owed["calls"] = q.upstream.stats()["in_flight"]
    return owed


def left_in_redis(q):
    """Keys of jobs that are no more, and keys that would stay for ever."""
    keys = q.redis("--scan").split()
    left = [k for k in keys if ":j:" in k or k.endswith(":live")]
    return left + [k for k in keys if k.split(":", 1)[1] not in LASTING and k not in left and q.redis("PTTL", k) == "-1"][:10]


def test_chaos():
    history, enough, stop = History(), threading.Event(), threading.Event()
    rng = random.Random(SEED)
    with Quern({"broker": {"lease_ms": 2000}, "api": {"submit_ms": 3000}}, workers=2, api_children=2) as q:
        hand = Hand(q, rng)
        callers = [threading.Thread(target=caller, args=(q, i, history, enough)) for i in range(CALLERS)]
        readers = [threading.Thread(target=reader, args=(q, i, history, stop)) for i in range(READERS)]
        for t in callers + readers:
            t.start()
        try:
            began = time.monotonic()
            while time.monotonic() < began + SECONDS:
                hand.once()
                time.sleep(rng.choice([0.05, 0.3, 1.0]))
            enough.set()
            for t in callers:
                t.join(90)
            assert not any(t.is_alive() for t in callers), "callers are stuck"
        finally:
            enough.set()
            stop.set()
            for t in callers + readers:
                t.join(30)
        q.ready()
        finals = {job_id: final_of(q, job_id) for job_id in list(history.jobs)}
        calls = {}
        for call in q.upstream.calls():
            calls[call["prompt_head"]] = calls.get(call["prompt_head"], 0) + 1
        wrong = history.wrong + judge(history.jobs, history.reads, finals, calls, hand.worker_deaths)
        said = f"seed {SEED}: {len(finals)} jobs, {sum(calls.values())} calls, {history.bounced} refused, {len(history.reads)} reads; {hand.log}"
        print(said)
        assert not wrong, (wrong[:10], len(wrong), said)
        assert len(finals) > SECONDS * 5, said
        with contextlib.suppress(AssertionError):
            until(lambda: not at_peace(q), "peace", 20, every=0.2)
        assert not at_peace(q), (at_peace(q), said)
        assert not left_in_redis(q), (left_in_redis(q), said)
        people = everyone(q)
        before = {pid: cpu_ms(pid) for pid in people}
        time.sleep(2)  # the measure itself: what does nothing must cost nothing
        busy = {people[pid]: cpu_ms(pid) - before[pid] for pid in people if people[pid] != "redis"}
        assert max(busy.values()) <= 100, (busy, said)
        for pid, who in people.items():
            count, rss = len(os.listdir(f"/proc/{pid}/fd")), int(open(f"/proc/{pid}/statm").read().split()[1]) // 256
            print(f"{who} {pid}: {count} fds, {rss} MiB, {cpu_ms(pid) - before[pid]} ms in 2 s")
            assert count < 80, (who, count, said)
