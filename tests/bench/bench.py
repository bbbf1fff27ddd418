#!/usr/bin/python3
"""make bench: what a job costs on the full path, beside what nginx's static reply costs in the same run.

Full path: HTTP submit, the provider call, the stored result, and one read of it. The load generator, the scripted provider and Redis
share the machine with Quern, so jobs/s says as much about them; CPU per job, by role, is the figure to compare (tests/README.md).
Rounds of Quern and nginx alternate, because the host is noisy; medians with their spread are printed, and kept with --out."""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib"))

import quern  # noqa: E402
from quern import BUILD, Quern, children, free_port, until  # noqa: E402


def cpu_ns(pids):
    """Time on a CPU of every thread of these processes."""
    total = 0
    for pid in pids:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def memory_kb(pids, field):
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(field + ":"):
                total += int(line.split()[1])
    return total


def load(port, mode, connections, seconds, warm):
    out = subprocess.run([str(BUILD / "bench-load"), "--port", str(port), "--mode", mode, "--connections", str(connections),
                          "--seconds", str(seconds), "--warm", str(warm)], capture_output=True, text=True, timeout=seconds + warm + 60)
    if out.returncode:
        raise SystemExit(f"load failed: {out.stderr}")
    return json.loads(out.stdout)


class Nginx:
    """One worker that answers 202 with a fixed body: the floor of an HTTP server."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="quern-nginx-"))
        self.port = free_port()
        conf = self.directory / "nginx.conf"
        conf.write_text(f"""daemon off; worker_processes 1; pid {self.directory}/pid; error_log {self.directory}/error.log;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {self.directory}/b; proxy_temp_path {self.directory}/p;
fastcgi_temp_path {self.directory}/f; uwsgi_temp_path {self.directory}/u; scgi_temp_path {self.directory}/s;
server {{ listen 127.0.0.1:{self.port}; default_type application/json;
location / {{ return 202 '{{"id":"job_00000000000000000000000000","status":"pending","ack":"stored"}}'; }} }} }}""")
        self.process = subprocess.Popen([shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(conf)], stderr=subprocess.DEVNULL)
        until(lambda: children(self.process.pid), "nginx runs")

    def pids(self):
        return [self.process.pid, *children(self.process.pid)]

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)


def measure(what, pids_by_role, run):
    before = {role: cpu_ns(pids) for role, pids in pids_by_role.items()}
    result = run()
    after = {role: cpu_ns(pids) for role, pids in pids_by_role.items()}
    # CPU covers the warm-up too, so it is divided by every request made, not only by those counted
    made = result["done"] * (1 + result["warm"] / result["seconds"])
    result["us"] = {role: (after[role] - before[role]) / 1000 / made for role in before}
    result["what"] = what
    return result


def median(rows, key):
    values = sorted(key(r) for r in rows)
    return statistics.median(values), values[0], values[-1]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--seconds", type=float, default=4)
    args.add_argument("--connections", type=int, default=256)
    a = args.parse_args()
    warm = 1.0

    nginx = Nginx()
    rows = {"quern": [], "one at a time": [], "nginx": []}
    with Quern(workers=1, api_children=1) as q:
        roles = {r: [q.pid(r), *q.children(r)] for r in q.ROLES}
        roles["upstream"] = [q.upstream.process.pid]

        def run(port, mode, connections):
            r = load(port, mode, connections, a.seconds, warm)
            r["warm"] = warm
            return r

        run(q.port, "jobs", a.connections)  # warm caches, connections and pools
        for _ in range(a.rounds):
            rows["quern"].append(measure("quern", roles, lambda: run(q.port, "jobs", a.connections)))
            rows["nginx"].append(measure("nginx", {"nginx": nginx.pids()}, lambda: run(nginx.port, "static", a.connections)))
            rows["one at a time"].append(measure("one at a time", roles, lambda: run(q.port, "jobs", 1)))
        ours = [p for r in ("api", "broker", "worker") for p in roles[r]]
        memory = {"pss_mb": memory_kb(ours, "Pss") / 1024, "rss_mb": memory_kb(ours, "Rss") / 1024}
    nginx.stop()

    full = rows["quern"]
    sum_roles = median(full, lambda r: sum(r["us"][k] for k in ("api", "broker", "worker")))
    redis = median(full, lambda r: r["us"]["redis"])
    floor = median(rows["nginx"], lambda r: r["us"]["nginx"])
    print(f"full path, {a.connections} connections, {a.rounds} rounds of {a.seconds:g} s: median (min-max)")
    for role in ("api", "broker", "worker", "redis", "upstream"):
        print("  %-22s %6.1f  (%.1f-%.1f) us CPU per job" % (role, *median(full, lambda r: r["us"][role])))
    print("  %-22s %6.1f  (%.1f-%.1f) us CPU per job   [best rival: 207]" % ("api + broker + worker", *sum_roles))
    print("  %-22s %6.1f  (%.1f-%.1f) us CPU per job   [best rival: 100; 154 with AOF]" % ("redis", *redis))
    print("  %-22s %6.0f  (%.0f-%.0f) per second" % ("jobs", *median(full, lambda r: r["per_second"])))
    print("  %-22s %6.1f  (%.1f-%.1f) us CPU per request" % ("nginx static reply", *floor))
    print("  %-22s %6.1f x nginx's static reply, same run" % ("ratio, roles", sum_roles[0] / floor[0]))
    one = rows["one at a time"]
    for name in ("submit_p50_ms", "submit_p99_ms", "end_p50_ms", "end_p99_ms"):
        print("  one at a time: %-14s %6.2f  (%.2f-%.2f) ms" % (name[:-3], *median(one, lambda r: r[name])))
    print("  memory of the roles after the run: %.1f MB PSS, %.1f MB RSS" % (memory["pss_mb"], memory["rss_mb"]))
    if a.out:
        pathlib.Path(a.out).write_text(json.dumps({
            "date": datetime.date.today().isoformat(), "cpus": os.cpu_count(), "connections": a.connections, "seconds": a.seconds,
            "rows": rows, "memory": memory}, indent=1) + "\n")


if __name__ == "__main__":
    main()
