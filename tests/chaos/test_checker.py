"""The checker knows a bad history: each rule broken once in a history that is otherwise good, and good ones left alone."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from checker import check, report  # noqa: E402
from history import History, jobs_of, story  # noqa: E402

PROMPT = "j plain"
JOB, OTHER = "job_01m8gh4fmd000rfb6wge6t9nbv", "job_01m8gh4fmd000rfb6wge6t9nbw"
BORN_MS = 1795851173517 - 1  # of both


def lines(*extra, may=("completed",), content="echo 1: j plain", status="completed", drop=(), calls=None):
    """A good life of one job, with lines added or of some op dropped."""
    end = [status, "12:00", content, 1]
    good = [
        {"t": 0, "op": "settings", "job": None, "lease_s": 2.0},
        {"t": 1, "op": "submit", "job": "j", "prompt": PROMPT, "max_attempts": 3, "may": may},
        {"t": 1.1, "op": "accepted", "job": "j", "id": JOB},
        *(calls if calls is not None else [call(1, 2)]),
        {"t": 4, "op": "read", "job": "j", "id": JOB, "began": 3.5, "status": status, "outcome": end},
        {"t": 9, "op": "final", "job": "j", "id": JOB, "status": status, "outcome": end, "content": content, "code": None},
    ]
    return [line for line in good if line["op"] not in drop] + list(extra)


def call(n, at, job="j", **more):
    return {"t": at + 0.5, "op": "call", "job": job, "n": n, "at": at, "closed": at + 0.5, "ended": "answered", "status": 200, "fault": "none",
            "port": 7000, "wall": BORN_MS + 1000 * at, **more}


def line(t, op, job="j", **more):
    return {"t": t, "op": op, "job": job, **more}


def read(began, t, status, outcome=None, job_id=JOB):
    return line(t, "read", id=job_id, began=began, status=status, outcome=outcome)


def fault(what, t, until=None, role="worker", child=True, ports=(7000,)):
    return line(t, "fault", None, what=what, role=role, child=child, pid=1, ports=list(ports), until=until or t)


def piece(t, offset, text, run=1):
    return line(t, "events", run=run, offset=offset, bytes=len(text), text=text)


END = ["completed", "12:00", "echo 1: j plain", 1]
AGAIN = {"calls": [call(1, 2), call(2, 3)], "content": "echo 2: j plain"}
FAILING = {"calls": [call(n, 1 + n / 5, fault="status_500", status=500) for n in range(1, 5)],
           "content": None, "status": "failed", "may": ("failed",)}
REFUSED = [line(0, "settings", None, lease_s=2.0), line(1, "submit", prompt=PROMPT, max_attempts=3, may=("completed",)),
           line(2, "refused", code="overloaded")]

GOOD = {
    "a plain life": lines(),
    "seen pending while it ended": lines(read(1.2, 5, "pending")),
    "made again after its worker was killed": lines(fault("kill", 2.2), **AGAIN),
    "made again while its worker stood still": lines(fault("stop", 2.1, 9), **AGAIN),
    "made again by a worker that had just been let go": lines(fault("stop", 1.5, 1.9), **AGAIN),
    "made again because its worker was cut off for long": lines(fault("cut", 2.1, 2.9, child=False, ports=()), **AGAIN),
    "tried again as a failure": lines(calls=[call(1, 2, fault="reset", status=None, ended="reset"), call(2, 3)], content="echo 2: j plain"),
    "throttled without end": lines(calls=[*(call(n, 2 + n / 100, fault="status_429", status=429) for n in range(1, 9)), call(9, 3)],
                                   content="echo 9: j plain"),
    "called for a submit that was withdrawn, and again when it was accepted":
        lines(line(1.01, "unknown", why="outcome_unknown"), calls=[call(1, 1.02, wall=BORN_MS - 80, ended="client_closed"), call(2, 3)],
              content="echo 2: j plain"),
    "cancelled, with a call under way": lines(line(3, "cancel", id=JOB, began=2.9, status=200), status="cancelled", content=None,
                                              may=("completed", "cancelled")),
    "called late by a worker that stood still": lines(line(3, "cancel", id=JOB, began=2.9, status=200), fault("stop", 2.5, 6.5),
                                                      status="cancelled", content=None, may=("completed", "cancelled"), calls=[call(1, 6.5)]),
    "forgotten": lines(line(5, "forget", id=JOB, status=204), read(6, 7, "gone"), may=("completed", "gone")),
    "a stream over a break and a second run": lines(piece(2, 0, "ec"), piece(2.1, 2, "ho"),
                                                    piece(3, 0, "echo 1: ", run=2), piece(3.1, 8, "j plain", run=2),
                                                    line(3.2, "ended", run=2, offset=15)),
    "refused, then taken": lines(line(1.05, "refused", code="overloaded")),
    "refused, and left alone": REFUSED,
    "unknown, and it did run": [*REFUSED, line(2, "unknown", why="outcome_unknown"), call(1, 1.8), line(9, "found", id=JOB)],
    "another request under its key": lines(line(2, "mismatch", status=422)),
}

BAD = {
    "never read again": ("I1", lines(drop=("final",))),
    "still running": ("I1", lines(line(9, "final", id=JOB, status="processing", outcome=None, content=None), drop=("final", "read"))),
    "gone": ("I1", lines(line(9, "final", id=JOB, status="gone", outcome=None, content=None), drop=("final", "read"))),
    "failed, which it may not": ("I1", lines(status="failed", content=None)),
    "another's answer": ("I2", lines(content="echo 1: k plain")),
    "an answer that is none": ("I2", lines(content="j plain")),
    "the answer of another's call": ("I2", lines(content="echo 5: j plain")),
    "the answer of a call that was cut": ("I2", lines(calls=[call(1, 2, ended="client_closed")])),
    "called before it was submitted": ("I2", lines(calls=[call(1, 0.5)])),
    "a call for nobody": ("I2", lines(call(2, 3, job="x"))),
    "a stored job of nobody": ("I2", lines(line(9, "found", "x", id=OTHER))),
    "running after its end": ("I3", lines(read(4.5, 5, "processing"))),
    "gone though it may not": ("I3", lines(read(4.5, 5, "gone"))),
    "a second outcome": ("I3", lines(read(4.5, 5, "completed", ["completed", "12:01", "echo 1: j plain", 1]))),
    "another end at last": ("I3", lines(line(9, "final", id=JOB, status="failed", outcome=["failed", "12:00", None, 1], content=None),
                                        may=("completed", "failed"), drop=("final",))),
    "cancelled, then completed": ("I3", lines(line(1.5, "cancel", id=JOB, began=1.4, status=200), may=("completed", "cancelled"))),
    "made again though nobody was hurt": ("I4", lines(**AGAIN)),
    "made again though another was killed": ("I4", lines(fault("kill", 2.2, ports=[7001]), **AGAIN)),
    "made again after the broker was killed": ("I4", lines(fault("kill", 2.2, role="broker", child=False, ports=()), **AGAIN)),
    "made again after its worker's parent was killed": ("I4", lines(fault("kill", 2.2, child=False, ports=()), **AGAIN)),
    "made again though its worker had been let go long before": ("I4", lines(fault("stop", 0.5, 1.4), **AGAIN)),
    "made again over a short cut": ("I4", lines(fault("cut", 2.1, 2.4, child=False, ports=()), **AGAIN)),
    "made again after it was accepted, though it was unknown for a while": ("I4", lines(line(1.05, "unknown", why="outcome_unknown"), **AGAIN)),
    "killed too late to be the reason": ("I4", lines(fault("kill", 3.5), **AGAIN)),
    "four failures of three": ("I4", lines(**FAILING)),
    "called after its end": ("I4", lines(fault("kill", 4.2), calls=[call(1, 2), call(2, 5)], content="echo 2: j plain")),
    "an old fence's answer": ("I5", lines(fault("kill", 2.2), calls=[call(1, 2), call(2, 3)], content="echo 1: j plain")),
    "two jobs of one key": ("I6", lines(line(1.2, "accepted", id=OTHER),
                                        line(9, "final", id=OTHER, status="completed", outcome=END, content="echo 1: j plain"))),
    "a second job of one key in the store": ("I6", lines(line(9, "found", id=OTHER))),
    "another request taken under its key": ("I6", lines(line(2, "mismatch", status=202))),
    "called long after its cancel": ("I8", lines(line(3, "cancel", id=JOB, began=2.9, status=200), calls=[call(1, 6)], status="cancelled",
                                                 content=None, may=("completed", "cancelled"))),
    "a hole in a stream": ("I11", lines(piece(2, 0, "ec"), piece(2.1, 3, "o"))),
    "twice in a stream": ("I11", lines(piece(2, 0, "ec"), piece(2.1, 0, "ec"))),
    "an earlier run in a stream": ("I11", lines(piece(2, 0, "e", run=2), piece(2.1, 0, "e", run=1))),
    "a stream that says something else": ("I11", lines(piece(2, 0, "echo 1: no"), line(3, "ended", run=1, offset=10))),
    "a stream that lacks its tail": ("I11", lines(piece(2, 0, "echo"), line(3, "ended", run=1, offset=9))),
    "refused, and it ran": ("I13", [*REFUSED, call(1, 1.8)]),
    "refused, and it is stored": ("I13", [*REFUSED, line(9, "found", id=JOB)]),
    "given up as poison": ("poison", lines(line(9, "final", id=JOB, status="failed", outcome=["failed", "12:00", None, 1], content=None,
                                                code="poison"), may=("failed",), drop=("final", "read"), content=None)),
    "an answer that no promise allows": ("odd", lines(line(2, "odd", sentence="a read was answered <404>"))),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_left_alone(name):
    assert check(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_known_by_its_rule(name):
    rule, history = BAD[name]
    assert {w.rule for w in check(history)} == {rule}, check(history)


def test_every_rule_is_broken_once():
    from checker import RULES
    assert {rule for rule, _ in BAD.values()} == set(RULES)


def test_a_report_tells_the_story_with_the_faults_around_it():
    history = lines(fault("kill", 2.2, ports=[7001]), fault("kill", 50), **AGAIN)
    said = report(history, check(history))
    assert "1 × I4" in said and "--- j: j plain" in said and "what=kill role=worker" in said
    assert said.count("what=kill") == 1, "what happened at another time is another story"
    assert [word for word in ("submit", "accepted", "call", "final") if word not in said] == []


def test_a_saved_history_is_the_same(tmp_path):
    history = History(lines())
    history.save(tmp_path / "h" / "x.jsonl")
    again = History.load(tmp_path / "h" / "x.jsonl")
    assert [dict(x, may=list(x.get("may", ()))) for x in again.lines] == [dict(x, may=list(x.get("may", ()))) for x in history.lines]
    assert set(jobs_of(again.lines)) == {"j"} and "accepted" in story(again.lines, "j")
