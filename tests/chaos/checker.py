"""The history checker: what must be true of every run, whatever was done to it. Pure: lines in, sentences out.

    checker.py FILE      checks a saved history again and tells the stories of the jobs concerned

The names are those of the contract: I1 no loss, I2 no ghost, I3 no regress, I4 attempts, I5 fencing, I6 idempotency, I8 cancel,
I11 streams, I13 what is called a failure did not run. `poison` is a job given up although nothing in it kills anybody; `odd` an
answer that no promise allows. Each rule is one function over one job."""

import re
import sys
from collections import namedtuple

from history import TERMINAL, History, born_ms, jobs_of, story

Wrong = namedtuple("Wrong", "rule job sentence")
ANSWER = re.compile(r"echo (\d+): (.*)", re.S)
AWAKE_S = 0.5    # a worker that is let go first does what waited in its sockets, under leases that are nearly over
THROTTLED = 429  # uses no attempt


class Run:
    """What rules ask beside the job itself."""

    def __init__(self, lines):
        self.settings = next((line for line in lines if line["op"] == "settings"), {"lease_s": 15.0})
        self.faults = [line for line in lines if line["op"] == "fault"]
        away_s = self.settings.get("away_s", 0.5)
        self.long_cuts = [f for f in self.faults if f["what"] in ("cut", "lag") and f["role"] == "worker" and f["until"] - f["t"] > away_s]
        self.workers = [f for f in self.faults if f["role"] == "worker" and f["child"] and f["what"] in ("kill", "stop")]

    def laid_to(self, call, before):
        """The fault that took the worker which had this call before the next one was made; None: there was none. A worker cut off for
        longer than it may be away has its jobs taken as if it had died."""
        for fault in self.workers:
            until = fault["until"] + (AWAKE_S if fault["what"] == "stop" else 0)
            if call["port"] in fault["ports"] and call["at"] <= until and fault["t"] <= before:
                return fault
        return next((f for f in self.long_cuts if call["at"] <= f["until"] and f["t"] <= before), None)

    def withdrawn(self, job, call):
        """Whether this call was for a submit whose caller was told outcome_unknown, and which was withdrawn: the job that it was accepted
        as, when it asked again, is younger than the call."""
        return bool(job.of("unknown")) and all(born_ms(job_id) > call["wall"] for job_id in job.ids)

    def stopped_s(self, since):
        """How long workers were held still, from then on."""
        return sum(f["until"] - max(f["t"], since) for f in self.workers if f["what"] == "stop" and f["until"] > since)


# ---- the rules ----


def no_loss(job, run):
    """I1: accepted means one end, and one that it may come to."""
    finals = {f["id"]: f for f in job.of("final")}
    for job_id in job.ids:
        final = finals.get(job_id)
        if final is None or final["status"] not in (*TERMINAL, "gone"):
            yield f"lost: {job_id} is {final['status'] if final else 'not there'}"
        elif final["status"] not in job.plan["may"]:
            yield f"{job_id} became {final['status']} ({final.get('code')}), which it may not"


def no_ghost(job, run):
    """I2: what ended was submitted, and shows an answer that the provider gave to it."""
    if not job.plan:
        yield from ("the provider was called for a job that nobody submitted" for _ in job.of("call")[:1])
        yield from ("the store has a job that nobody submitted" for _ in job.of("found")[:1])
        return
    for call in job.of("call"):
        if call["at"] < job.plan["t"]:
            yield f"call {call['n']} was made before the job was submitted"
    for final in job.of("final"):
        if final["status"] != "completed":
            continue
        answer = ANSWER.fullmatch(final["content"] or "")
        call = answer and next((c for c in job.of("call") if c["n"] == int(answer[1])), None)
        if not answer or answer[2] != job.plan["prompt"]:
            yield f"another's answer: {final['content']!r}"
        elif not call:
            yield f"the answer is of call {answer[1]}, which was not made for it"
        elif call["status"] != 200 or call["ended"] != "answered":
            yield f"the answer is of call {answer[1]}, which was never whole ({call['ended']})"


def no_regress(job, run):
    """I3: an end that was seen is the end, for whoever looks later."""
    end = None
    looks = [*job.of("read"), *({**f, "began": f["t"]} for f in job.of("final"))]
    for look in sorted(looks, key=lambda r: r["t"]):
        if end and end["t"] < look["began"] and end["id"] == look["id"]:
            if look["status"] == "gone":
                if "gone" not in job.plan["may"]:
                    yield f"{look['id']} was {end['status']} and is gone"
            elif look["status"] != end["status"]:
                yield f"{look['id']} went back from {end['status']} to {look['status']}"
            elif look["outcome"] != end["outcome"]:
                yield f"{look['id']} has a second outcome: {end['outcome']}, then {look['outcome']}"
        if look["status"] in TERMINAL and not end:
            end = look
    if any(c["status"] == 200 for c in job.of("cancel")):
        yield from (f"{f['id']} was cancelled, then {f['status']}" for f in job.of("final") if f["status"] not in ("cancelled", "gone"))


def bounded_attempts(job, run):
    """I4: as many failing calls as the job allows; no good call made again but for the worker that had it; none after its end."""
    calls, failed, taken = job.of("call"), 0, 0
    for i, call in enumerate(calls):
        before = calls[i + 1]["at"] if i + 1 < len(calls) else float("inf")
        if call["fault"] != "none":
            failed += call["status"] != THROTTLED
            taken += any(f["t"] <= before and f["until"] >= call["at"] for f in (*run.workers, *run.long_cuts))
        elif i + 1 < len(calls) and not run.laid_to(call, before) and not run.withdrawn(job, call):
            yield f"call {call['n']} was made again as {calls[i + 1]['n']}, and nobody had taken its worker"
    if job.plan and failed > job.plan["max_attempts"] + taken:
        yield f"{failed} calls failed, of {job.plan['max_attempts']} allowed ({taken} with a worker that was hurt)"
    ends = [r["t"] for r in job.of("read") if r["status"] in ("completed", "failed", "expired")]
    if ends:
        yield from (f"call {c['n']} was made after the job had ended" for c in calls if c["at"] > min(ends))


def fenced(job, run):
    """I5: the answer shown is of the last call. A call is made under a later fence than all before it, which void theirs."""
    calls = job.of("call")
    for final in job.of("final"):
        answer = ANSWER.fullmatch(final.get("content") or "")
        if answer and calls and int(answer[1]) < calls[-1]["n"]:
            yield f"the answer of call {answer[1]} was taken, though call {calls[-1]['n']} was made after it"


def idempotent(job, run):
    """I6: one key is one job; another request under it is refused."""
    if len(job.ids) > 1:
        yield f"one key, {len(job.ids)} jobs: {' '.join(job.ids)}"
    found = {f["id"] for f in job.of("found")}
    if len(found | set(job.ids)) > 1 and len(job.ids) <= 1:
        yield f"one key, and the store has {' '.join(sorted(found))} beside {' '.join(job.ids) or 'none'}"
    yield from (f"another request under its key was answered {m['status']}" for m in job.of("mismatch") if m["status"] != 422)


def cancelled(job, run):
    """I8: no call is begun once a cancel was answered, but for what a worker that stood still already had."""
    for cancel in job.of("cancel"):
        if cancel["status"] != 200:
            continue
        latest = cancel["t"] + run.settings["lease_s"] + run.stopped_s(cancel["began"])
        yield from (f"call {c['n']} was made {c['at'] - cancel['t']:.3f} s after its cancel" for c in job.of("call") if c["at"] > latest)


def whole_streams(job, run):
    """I11: over every break, each byte of a run's log once and in order; at its end, the whole answer."""
    run_now, offset, text = 0, 0, ""
    for piece in sorted((*job.of("events"), *job.of("ended")), key=lambda line: line["t"]):
        if piece["run"] < run_now:
            yield f"run {piece['run']} is heard after run {run_now}"
            return
        if piece["run"] > run_now:
            run_now, offset, text = piece["run"], 0, ""
        if piece["offset"] != offset:
            yield f"run {run_now}: a piece at {piece['offset']} follows what ended at {offset}"
            return
        if piece["op"] == "events":
            offset, text = offset + piece["bytes"], text + piece["text"]
            continue
        yield from (f"the stream said {text!r}, the job {f['content']!r}" for f in job.of("final")
                    if f["status"] == "completed" and f["content"] != text)


def failures_did_not_run(job, run):
    """I13: a submit that was refused, and nothing else, left nothing behind."""
    if job.plan and job.of("refused") and not job.of("accepted") and not job.of("unknown"):
        codes = ", ".join(sorted({r["code"] for r in job.of("refused")}))
        yield from (f"refused ({codes}), and call {c['n']} was made for it" for c in job.of("call")[:1])
        yield from (f"refused ({codes}), and the store has {f['id']}" for f in job.of("found")[:1])


def innocent(job, run):
    """poison: nothing in these jobs kills a worker; whoever dies with one was killed."""
    yield from (f"{f['id']} was given up as {f['code']}" for f in job.of("final") if f.get("code") in ("poison", "worker_crash"))


def no_oddity(job, run):
    yield from (line["sentence"] for line in job.of("odd"))


RULES = {"I1": no_loss, "I2": no_ghost, "I3": no_regress, "I4": bounded_attempts, "I5": fenced, "I6": idempotent, "I8": cancelled,
         "I11": whole_streams, "I13": failures_did_not_run, "poison": innocent, "odd": no_oddity}


def check(lines):
    """Everything that is wrong, by rule."""
    run, jobs = Run(lines), jobs_of(lines)
    return [Wrong(rule, job.name, text) for rule, judge in RULES.items() for job in jobs.values()
            if job.plan or rule == "I2" for text in judge(job, run)]


def report(lines, wrong, stories=3):
    """For people: how many of each, the first sentences, and the stories of the jobs concerned."""
    counts = {}
    for w in wrong:
        counts[w.rule] = counts.get(w.rule, 0) + 1
    out = [f"{len(wrong)} things are wrong: " + ", ".join(f"{n} × {rule}" for rule, n in counts.items())]
    out += [f"  {w.rule}  {w.job}: {w.sentence}" for w in wrong[:12]]
    out += [story(lines, name) for name in list(dict.fromkeys(w.job for w in wrong))[:stories]]
    return "\n".join(out)


def main():
    lines = History.load(sys.argv[1]).lines
    wrong = check(lines)
    print(report(lines, wrong) if wrong else f"{len(jobs_of(lines))} jobs, nothing is wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
