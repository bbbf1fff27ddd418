"""Users who submit jobs all the time, remember what they were told, and compare it afterwards with what happened."""

import concurrent.futures
import contextlib
import http.client
import threading
import time

from quern import until

TERMINAL = ("completed", "failed", "cancelled", "expired")


class Load:
    """`callers` users, each submitting one job every `pace_s`, never twice. A job's call takes `latency_ms` at the provider."""

    def __init__(self, shard, name, latency_ms=300, callers=4, pace_s=0.04, ack=None):
        self.shard, self.name, self.latency_ms, self.pace_s, self.ack = shard, name, latency_ms, pace_s, ack
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.accepted, self.refused, self.unheard, self.slowest_s = {}, {}, [], 0.0
        self.accepted_at = []
        self.threads = [threading.Thread(target=self._caller, args=(i,)) for i in range(callers)]

    def prompt(self, caller, n):
        return f"{self.name}-{caller}-{n} [[latency_ms={self.latency_ms}]]"

    def _caller(self, index):
        http_, n = self.shard.caller(timeout=20), 0
        while not self.stop.wait(self.pace_s):
            n += 1
            prompt, began = self.prompt(index, n), time.monotonic()
            body = {"prompt": prompt, **({"ack": self.ack} if self.ack else {})}
            try:
                reply = http_.request("POST", "/v1/jobs", body)
            except (OSError, http.client.HTTPException):
                with self.lock:
                    self.unheard.append(prompt)
                continue
            with self.lock:
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                if reply.status == 202:
                    self.accepted[reply.json["id"]] = prompt
                    self.accepted_at.append(time.monotonic())
                else:
                    self.refused[prompt] = reply.error["code"] if reply.status == 503 else f"{reply.status}"
        http_.close()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        for thread in self.threads:
            thread.join(30)

    def under_way(self, jobs=20):
        until(lambda: len(self.accepted) >= jobs and self.shard.provider.in_flight() > 0, "the load is under way")
        return self


def served_again(shard, name, since, seconds=40):
    """How long after `since` a job that was submitted after it is accepted and completed, in ms."""
    count = 0

    def check():
        nonlocal count
        count += 1
        with contextlib.suppress(OSError, http.client.HTTPException):
            return shard.ask("POST", "/v1/jobs?wait=15s", {"prompt": f"probe-{name}-{count}"}).status == 200
        return False
    until(check, "a new job completes", seconds, every=0.02)
    return round((time.monotonic() - since) * 1000)


def final_of(shard, job_id, deadline):
    """The job once it is terminal; what was said instead when it is not to be had."""
    http_ = shard.caller()
    try:
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                reply = http_.request("GET", f"/v1/jobs/{job_id}?wait=2s")
                if reply.status == 200 and reply.json["status"] in TERMINAL:
                    return reply.json
                if reply.status not in (200, 503):
                    return {"status": f"lost ({reply.status})"}
            time.sleep(0.01)
        return {"status": "not ended"}
    finally:
        http_.close()


def at_rest(shard):
    """Nothing waits and nothing runs."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        reply = shard.ask("GET", "/v1/stats", timeout=5)
        return reply.status == 200 and reply.json["waiting"] == 0 and reply.json["active"] == 0
    return False


def drained(shard, load, since, seconds=60):
    """Every accepted job's end, and how long after `since` nothing was left to do, in ms. Ends are asked for twice, since they may not change."""
    until(lambda: at_rest(shard), "nothing waits and nothing runs", seconds, every=0.02)
    took_ms = round((time.monotonic() - since) * 1000)
    deadline = time.monotonic() + seconds
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        finals, again = (dict(zip(load.accepted, pool.map(lambda job_id: final_of(shard, job_id, deadline), load.accepted))) for _ in range(2))
    changed = [i for i in finals if (finals[i]["status"], finals[i].get("result")) != (again[i]["status"], again[i].get("result"))]
    assert not changed, f"second outcomes: {changed[:5]}"
    return finals, took_ms


def judge(shard, load, finals, calls_again_max=0):
    """Every accepted job has one good end, nothing refused was called, and calls were made again only where that is allowed."""
    calls = {}
    for call in shard.provider.calls():
        calls[call["prompt_head"]] = calls.get(call["prompt_head"], 0) + 1
    wrong = []
    for job_id, prompt in load.accepted.items():
        final = finals[job_id]
        if final["status"] != "completed":
            wrong.append(f"{job_id} was accepted and is {final['status']}: {final.get('error')}")
        elif final["result"]["content"] != f"echo: {prompt}":
            wrong.append(f"{job_id} has another's result")
        elif not calls.get(prompt):
            wrong.append(f"{job_id} completed without a call")
    for prompt, code in load.refused.items():
        if code not in ("outcome_unknown", "broker_unavailable", "store_unavailable"):
            wrong.append(f"{prompt} was refused with {code}")
        if calls.get(prompt) and code != "outcome_unknown":
            wrong.append(f"{prompt} was refused with {code} and called")
    again = sum(calls.get(prompt, 1) - 1 for prompt in load.accepted.values())
    assert not wrong, (len(wrong), wrong[:8])
    assert again <= calls_again_max, f"{again} calls were made again, {calls_again_max} may be"
    assert len(load.accepted) >= 20, "too little was accepted to speak of"
    return again
