"""More is offered than can be served: what those get who are let in, what the others are told, and how soon it is over.

    overload.py               the table of `make overload-figures`

Two children of sixteen slots and an upstream of 128 ms can serve 250 jobs a second; 200 are the rated load. A bound of 160 live jobs is
0.64 seconds of work. The same load is offered once, ten and a hundred times over, and then once again."""

import argparse
import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import quern  # noqa: E402

LATENCY_MS, RATED, CAPACITY, JOBS_MAX = 128, 200, 250, 160
CLASSES = ("interactive", "standard", "background")
SETTINGS = {"worker": {"children": 2, "slots": 16}, "broker": {"jobs_max": JOBS_MAX}}


def rated_quern(**more):
    q = quern.Quern(quern.merged(SETTINGS, more))
    q.upstream.script(latency_ms=LATENCY_MS)
    return q


def offer(q, *phases, obey=0.0, mix=(1, 1, 1), connections=2000, seed=1):
    """phases: (times the rated load, seconds). What build/offer printed."""
    args = [str(quern.BUILD / "offer"), "--port", str(q.port), "--phases", ",".join(f"{times * RATED}x{s}" for times, s in phases),
            "--obey", str(obey), "--mix", ":".join(map(str, mix)), "--connections", str(connections), "--seed", str(seed)]
    done = subprocess.run(args, capture_output=True, text=True, timeout=sum(s for _, s in phases) + 60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["failure"] and not found["unanswered"], (done.stderr, found["unanswered"])
    return found["phases"]


def recovery(before, after, margin=1.5):
    """Seconds of the phase `after` until no class's windows have a median above `margin` times that of before, and 50 ms more."""
    worst = 0.0
    for name in CLASSES:
        usual = max(before[name]["p50"] * margin, before[name]["p50"] + 50)
        for window in after["series"]:
            if window[name]["count"] and window[name]["p50"] > usual:
                worst = max(worst, window["at"] + 0.5)
    return worst


def kept_share(phases):
    came = sum(p["came_back"] for p in phases)
    return sum(p["kept"] for p in phases) / came if came else None


def measure(times, seconds=5, before=3, after=10):
    with rated_quern() as q:
        offer(q, (1, 1))
        usual, burst, calm = offer(q, (1, before), (times, seconds), (1, after))
    return {"times": times, "offered_per_s": burst["offered"] / seconds, "unsent": burst["unsent"], "late_p99_ms": burst["late"]["p99"],
            "goodput_per_s": burst["ended"] / seconds, "accepted_ms": {c: [burst[c].get("p50"), burst[c].get("p99")] for c in CLASSES},
            "usual_ms": {c: [usual[c].get("p50"), usual[c].get("p99")] for c in CLASSES},
            "shed_ms": [burst["shed_took"].get("p50"), burst["shed_took"].get("p99")],
            "told_s": [burst["told"].get("p50", 0) / 1000, burst["told"].get("max", 0) / 1000],
            "recovery_s": recovery(usual, calm)}


def honesty(times=10, seconds=1, after=25, going_on=1):
    """Everybody who is shed comes back when told, once: the share that is let in then, while so many times the rated load goes on."""
    with rated_quern() as q:
        offer(q, (1, 1))
        phases = offer(q, (1, 1), (times, seconds), (going_on, after), obey=1.0)
    return {"shed": phases[1]["shed"], "came_back": sum(p["came_back"] for p in phases), "kept": kept_share(phases),
            "told_s": [phases[1]["told"].get("p50", 0) / 1000, phases[1]["told"].get("max", 0) / 1000]}


def show(row):
    def ms(pair):
        return f"{pair[0]:7.1f}{pair[1]:8.1f}" if pair[0] is not None else "      –       –"
    print(f"{row['times']:4}x{row['offered_per_s']:9.0f}{row['goodput_per_s']:9.0f}" + "".join(ms(row["accepted_ms"][c]) for c in CLASSES) +
          ms(row["shed_ms"]) + f"{row['told_s'][0]:7.0f}{row['told_s'][1]:5.0f}{row['recovery_s']:8.2f}"
          f"   {row['unsent']}, {row['late_p99_ms']:.1f} ms", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--json", help="also written here")
    args = p.parse_args()
    print(f"rated {RATED}/s, capacity {CAPACITY}/s, at most {JOBS_MAX} jobs; ms, p50 and p99\n"
          f"{'':5}{'offered':>9}{'goodput':>9}{'interactive':>15}{'standard':>15}{'background':>15}{'shed':>15}{'told s':>12}{'calm s':>8}"
          "   unsent, late p99")
    rows = []
    for times in (1, 10, 100):
        rows.append(measure(times))
        show(rows[-1])
    truths = {going_on: honesty(going_on=going_on) for going_on in (1, 0.5)}
    for going_on, truth in truths.items():
        print(f"10x for a second, then {going_on}x; everybody obeys Retry-After (p50 {truth['told_s'][0]:.0f} s, at most "
              f"{truth['told_s'][1]:.0f} s): {truth['shed']} shed, {truth['came_back']} came back, {truth['kept']:.0%} let in at once")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"rows": rows, "honesty": truths}, indent=1) + "\n")


if __name__ == "__main__":
    main()
