"""The power fails while jobs are submitted, worked on and read: what had been acknowledged, and is not there afterwards?

    power.py --cuts 10        the table of `make disk-figures`

One Quern is under load on a disk that can lose power. Each cut is what that disk would hold had the power failed at that instant;
another Quern is started on it, and asked about every job that the first had acknowledged before."""

import argparse
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import pathlib
import random
import statistics
import tempfile
import threading
import time

from disks import Platter, Quern
from quern import Http

MODES = {"stored": "--appendfsync everysec", "synced": "--appendfsync always"}
CALLERS, READERS = 6, 8
FAST = {"broker": {"lease_ms": 1500}}  # what ran at the cut is claimed by nobody, and runs again after this
OLDER = 500  # of the jobs that an earlier cut was asked about, this many are asked about again


class Load:
    """Callers that submit as fast as they are answered, and note what they were promised."""

    def __init__(self, q, ack, pause=0.008):
        self.q, self.ack, self.pause = q, ack, pause
        self.accepted, self.wrong, self.refused = [], [], 0  # (when, id, prompt); what must not be; 503
        self.stop, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.threads = [threading.Thread(target=self.call, args=(i,), daemon=True) for i in range(CALLERS)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.go.set()
        for t in self.threads:
            t.join(30)

    def call(self, caller):
        client, rng = Http(self.q.port, timeout=20), random.Random(caller)
        for n in itertools.count():
            self.go.wait()
            if self.stop.is_set():
                return
            prompt = f"power {caller}-{n} [[latency_ms={rng.choice([0, 0, 20, 300])}]]"
            try:
                reply = client.request("POST", "/v1/jobs", {"prompt": prompt})
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
                continue
            if reply.status == 202 and reply.json["ack"] == self.ack:
                self.accepted.append((time.monotonic(), reply.json["id"], prompt))
            elif reply.status == 503:
                self.refused += 1
                time.sleep(0.05)
            else:
                self.wrong.append(reply)
            time.sleep(self.pause)


def outcome(q, client, job_id):
    """The job once it is terminal; None when it is not known."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            reply = client.request("GET", f"/v1/jobs/{job_id}?wait=10s")
            if reply.status in (404, 410):
                return None
            if reply.status == 200 and reply.json["status"] not in ("pending", "processing", "retrying"):
                return reply.json
    raise AssertionError(f"{job_id} does not end")


def missing(q, jobs):
    """Those of (when, id, prompt) that are gone; every other must end with its own answer."""
    lost, wrong = [], []

    def look(share):
        client = Http(q.port, timeout=20)
        for when, job_id, prompt in share:
            job = outcome(q, client, job_id)
            if job is None:
                lost.append((when, job_id, prompt))
            elif job["status"] != "completed" or job["result"]["content"] != "echo: " + prompt:
                wrong.append(job)
        client.close()
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        for done in [pool.submit(look, jobs[i::READERS]) for i in range(READERS)]:
            done.result()
    assert not wrong, wrong[:3]
    return lost


def recover(image, redis, jobs):
    """A new Quern on what the power cut left; gives back the jobs that are gone."""
    with Quern(image, redis, workers=1, settings=FAST) as q:
        return missing(q, jobs)


def cut(ack, redis, cuts, seed, settle=1.5):
    """[(jobs acknowledged and asked about, lost, seconds from the first lost acknowledgement to the cut)], one per cut."""
    rng, found, asked = random.Random(seed), [], 0
    with tempfile.TemporaryDirectory(prefix="quern-test-cut-") as where, Platter() as platter, \
            Quern(platter.disk, redis, workers=1) as q, Load(q, ack) as load:
        for n in range(cuts):
            time.sleep(settle + rng.random())  # nothing is waited for: when the power fails is chance
            image = pathlib.Path(where, f"{n}.img")
            at = time.monotonic()
            platter.cut(image, rng.getrandbits(32))
            load.go.clear()
            before = [job for job in load.accepted if job[0] < at]
            jobs = rng.sample(before[:asked], min(OLDER, asked)) + before[asked:]
            lost = recover(image, redis, jobs)
            image.unlink()
            asked = len(before)
            found.append((len(jobs), len(lost), at - min((when for when, *_ in lost), default=at)))
            load.go.set()
        assert not load.wrong, load.wrong[:3]
    return found


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cuts", type=int, default=10)
    p.add_argument("--seed", type=int, default=20261128)
    p.add_argument("--json", help="also written here")
    args = p.parse_args()
    figures = {}
    print(f"{'ack':8}{'cuts':>6}{'acknowledged':>14}{'lost':>7}{'cuts that lost':>16}{'window p50':>12}{'worst':>9}")
    for ack, redis in MODES.items():
        found = cut(ack, redis, args.cuts, args.seed)
        windows = [window for *_, window in found]
        row = figures[ack] = {"cuts": len(found), "acknowledged": sum(jobs for jobs, *_ in found), "lost": sum(n for _, n, _ in found),
                              "cuts_that_lost": sum(n > 0 for _, n, _ in found), "window_p50_s": round(statistics.median(windows), 3),
                              "window_worst_s": round(max(windows), 3)}
        print(f"{ack:8}{row['cuts']:6}{row['acknowledged']:14}{row['lost']:7}{row['cuts_that_lost']:16}"
              f"{row['window_p50_s']:10.2f} s{row['window_worst_s']:7.2f} s", flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
