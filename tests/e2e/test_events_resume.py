"""A stream of events goes on: from every position, at any child, while the job lives and after its end, whoever died meanwhile.

What a reader has put together over all its connections is held against the job's stored answer."""

import contextlib
import os
import signal
import socket
import time

import pytest

from quern import Quern, until
from sse import Sse, follow

LONG = "[[tokens=100 tokens_per_s=50]]"  # 2 s


@pytest.fixture(scope="module")
def q():
    with Quern() as quern:
        yield quern


def streaming(q, prompt, **fields):
    if hasattr(q.local, "http"):
        q.local.http.close()  # it may have been with a child that a test killed
    return q.submit({"prompt": prompt, "stream": True, **fields})["id"]


def place(event):
    return tuple(map(int, event.id.split("-")))


def tokens(events):
    return [e for e in events if e.name == "token"]


def check_order(events):
    """Positions and states of one reader's events, over however many connections."""
    rank = {"processing": 1, "retrying": 2, "pending": 3}
    seen, run = (0, 3), 0
    for e in events:
        assert place(e)[0] >= run, events
        run = place(e)[0]
        if e.name in ("status", "done"):
            now = (run, rank.get(e.json["status"], 4))
            assert now >= seen, f"{e} after {seen}"
            seen = now
    for run in {place(e)[0] for e in tokens(events)}:
        of_run = [e for e in tokens(events) if place(e)[0] == run]
        assert [place(e) for e in of_run] == sorted({place(e) for e in of_run}), "a token twice, or out of order"
        assert [e.json["index"] for e in of_run] == list(range(of_run[0].json["index"], of_run[0].json["index"] + len(of_run)))


def test_every_position_of_an_ended_job_gives_the_rest(q):
    job = q.submit({"prompt": "every [[tokens=16 tokens_per_s=100]]", "stream": True}, wait="20s")
    with follow(q, job["id"]) as events:
        whole = events.all()
    starts = [0] + [place(e)[1] for e in tokens(whole)]
    for offset in range(starts[-1] + 2):
        with Sse(q.port, f"/v1/jobs/{job['id']}/events?after=1-{offset}") as events:
            first = next((i for i, start in enumerate(starts) if start >= offset), len(starts) - 1)
            rest = events.all()
            assert rest[:-1] == whole[first:-1], offset
            assert (rest[-1].name, rest[-1].data) == ("done", whole[-1].data)
    with follow(q, job["id"], last="0-0") as events:
        assert events.all() == whole
    with follow(q, job["id"], last="7-3") as events:  # of a run that never was: begun anew
        assert events.all()[0].json == {"run": 1, "discard_from": "7-0"}


def test_every_position_of_a_running_job_gives_the_rest(q):
    job_id = streaming(q, "live " + LONG)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(follow(q, job_id))
        late = []
        for _ in range(25):
            event = first.until("token")
            late.append((event.id, stack.enter_context(follow(q, job_id, last=event.id))))
            late.append((event.id, stack.enter_context(follow(q, job_id, last=f"1-{place(event)[1] // 2}"))))
        whole = first.all()
        for after, events in late:
            rest = events.all()
            began = int(rest[0].id.split("-")[1])
            assert rest[0].name == "status" and rest[-1] == whole[-1]
            assert tokens(rest) == [e for e in tokens(whole) if place(e)[1] > began and place(e)[1] > min(began, place(e)[1])][-len(tokens(rest)):]
            assert place(tokens(whole)[-len(tokens(rest)) - 1])[1] <= max(began, place(tokens(rest)[0])[1])
            check_order(rest)


def test_another_child_goes_on(q):
    job_id = streaming(q, "moved " + LONG)
    got, last, servers = [], None, set()
    for _ in range(6):
        with follow(q, job_id, last=last) as events:
            server = events.child(q)
            servers.add(server)
            for _ in range(6):
                events.until("token")
            got += events.seen
            last = got[-1].id
            os.kill(server, signal.SIGSTOP)  # the next connection is the other's
        with follow(q, job_id, last=last) as events:
            servers.add(events.child(q))
            events.until("token")
            got += events.seen
            last = got[-1].id
        os.kill(server, signal.SIGCONT)
    assert len(servers) == 2
    with follow(q, job_id, last=last) as events:
        got += events.all()
    check_order(got)
    assert got[-1].name == "done" and "".join(e.json["text"] for e in tokens(got)) == got[-1].json["result"]["content"]


def read_on(q, job_id, hurt, at=(10,), seconds=60):
    """Follows a job to its end as an EventSource would, and hurts something after so many tokens."""
    got, last, due = [], None, list(at)
    deadline = time.monotonic() + seconds
    while not got or got[-1].name != "done":
        assert time.monotonic() < deadline, got[-3:]
        try:
            events = follow(q, job_id, last=last)
        except (AssertionError, OSError):
            time.sleep(0.02)  # nobody listens; an EventSource waits longer
            continue
        with events:
            while events.status == 200 and (event := events.next()):
                got.append(event)
                last = event.id
                if due and len(tokens(got)) >= due[0]:
                    due.pop(0)
                    hurt()
        assert events.status in (200, 503), events.status
    assert not due
    return got


def text_of(events):
    reader = Sse.__new__(Sse)
    reader.seen = events
    return reader.text()


@pytest.mark.parametrize("role", ["broker", "redis", "api"])
def test_a_reader_does_not_notice_a_death(role):
    with Quern() as q:
        job_id = streaming(q, "death " + LONG)
        got = read_on(q, job_id, lambda: q.restarted(role, q.kill(role)), at=(10, 60))
        check_order(got)
        assert [e.name for e in got if e.name not in ("status", "token", "progress")] == ["done"]
        assert text_of(got) == got[-1].json["result"]["content"]
        assert got[-1].json["attempt"] == 1 and len(q.upstream.calls_with("death")) == 1


def test_an_api_child_dies(q):
    job_id = streaming(q, "child " + LONG)
    with follow(q, job_id) as events:
        for _ in range(5):
            events.until("token")
        os.kill(events.child(q), signal.SIGKILL)
        before = events.all()
        assert events.ended == "cut"
    with follow(q, job_id, last=before[-1].id) as events:
        got = before + events.all()
    check_order(got)
    assert text_of(got) == got[-1].json["result"]["content"]


def test_a_worker_dies_and_the_answer_begins_anew():
    with Quern({"broker": {"return_ms": 100}}) as q:
        job_id = streaming(q, "crash " + LONG)

        def kill():
            for pid in q.children("worker"):
                os.kill(pid, signal.SIGKILL)

        got = read_on(q, job_id, kill, at=(15,))
        check_order(got)
        restarted = [e for e in got if e.name == "attempt.restarted"]
        assert [(e.id, e.json) for e in restarted] == [("2-0", {"run": 2, "discard_from": "1-0"})]
        assert text_of(got) == got[-1].json["result"]["content"] and got[-1].json["status"] == "completed"
        # whoever had tokens of the first run and was away meanwhile hears of it too, also from the stored log
        lost = tokens(got)[3]
        assert place(lost)[0] == 1
        with follow(q, job_id, last=lost.id) as events:
            late = events.all()
        assert late[0] == restarted[0] and tokens(late) == [e for e in tokens(got) if place(e)[0] == 2]


def test_storms_of_deaths_leave_every_reader_with_the_whole():
    with Quern() as q:
        ids = [streaming(q, f"storm {i} [[tokens=80 tokens_per_s=40 fault=cut after_tokens=20 fail_first=1]]",
                         backoff={"base_ms": 100, "cap_ms": 100}) for i in range(4)]
        got = read_on(q, ids[0], lambda: q.restarted("broker", q.kill("broker")), at=(5, 30, 60))
        for job_id in ids:
            q.ended(job_id)
        check_order(got)
        assert text_of(got) == got[-1].json["result"]["content"]
        for job_id in ids[1:]:
            with follow(q, job_id) as events:
                events.all()
                assert events.text() == q.job(job_id)["result"]["content"]


def test_a_reader_that_takes_nothing_is_cut_and_comes_again():
    with Quern({"api": {"stream_bytes": 16384, "children": 1}}, api_children=1) as q:
        job_id = streaming(q, "slow reader [[tokens=400000]]")
        with follow(q, job_id, rcvbuf=4096, timeout=60) as slow:
            done = q.ended(job_id)
            until(lambda: q.counter("api_streams_cut") == 1, "the reader is cut")
            got = slow.all()
            assert slow.ended == "cut" and tokens(got)
        with follow(q, job_id, last=got[-1].id) as events:
            got += events.all()
        check_order(got)
        assert text_of(got) == done["result"]["content"]


def test_a_thousand_readers_of_one_job_get_the_same(q):
    job_id = streaming(q, "crowd [[latency_ms=3000 tokens=30 tokens_per_s=30]]")
    readers = [follow(q, job_id, timeout=30) for _ in range(1000)]
    try:
        whole = [e for e in readers[0].all() if e.name != "status"]
        assert text_of(whole) == whole[-1].json["result"]["content"]
        for events in readers[1:]:
            assert [e for e in events.all() if e.name != "status"] == whole
        assert len(q.upstream.calls_with("crowd")) == 1
    finally:
        for events in readers:
            events.close()


def test_a_child_that_stops_sends_its_readers_on():
    with Quern({"api": {"stop_ms": 1000}}) as q:
        job_id = streaming(q, "stopped " + LONG)
        got = read_on(q, job_id, lambda: q.signal("api", signal.SIGHUP), at=(10,))
        assert text_of(got) == got[-1].json["result"]["content"]
