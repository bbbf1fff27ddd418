"""Listing what has ended: newest end first, by status, queue, tag and time, page by page."""

import datetime
import time

import pytest

from quern import Quern, until


def listed(system, **query):
    path = "/v1/jobs?" + "&".join(f"{k}={v}" for k, v in query.items())
    reply = system.request("GET", path)
    assert reply.status == 200, reply
    return reply.json


def pages(system, **query):
    """Every page of a listing."""
    out, cursor = [], None
    while True:
        page = listed(system, **query, **({"cursor": cursor} if cursor else {}))
        out.append(page["jobs"])
        cursor = page["next"]
        if not cursor:
            return out


@pytest.fixture(scope="module")
def shelf():
    """A system in which forty jobs have ended, by name."""
    with Quern() as system:
        jobs = {}
        for i in range(30):
            jobs[f"good-{i}"] = system.submit({"prompt": f"good {i}", "queue": "a" if i % 2 else "b", "tags": [f"t{i % 3}", "all"]})["id"]
        for i in range(6):
            jobs[f"bad-{i}"] = system.submit({"prompt": f"bad {i} [[fault=status_400]]", "tags": ["all"]})["id"]
        for i in range(4):
            jobs[f"gone-{i}"] = system.submit({"prompt": "later", "delay_ms": 60000, "tags": ["all"]})["id"]
            system.cancel(jobs[f"gone-{i}"])
        for job_id in jobs.values():
            system.ended(job_id)
        system.jobs = jobs
        yield system


def ids(jobs):
    return [job["id"] for job in jobs]


def test_all_newest_end_first(shelf):
    (jobs,) = pages(shelf, limit=100)
    assert sorted(ids(jobs)) == sorted(shelf.jobs.values())
    ends = [job["completed_at"] for job in jobs]
    assert ends == sorted(ends, reverse=True)
    assert all("result" not in job and "attempts" not in job for job in jobs)
    done = next(job for job in jobs if job["status"] == "completed")
    assert done["usage"]["output_tokens"] > 0 and done["error"] is None and "all" in done["tags"]


@pytest.mark.parametrize("limit", [1, 7, 16, 17, 39, 40])
def test_pages_join_without_gap_or_repetition(shelf, limit):
    whole = ids(listed(shelf, limit=100)["jobs"])
    got = pages(shelf, limit=limit)
    assert [job_id for page in got for job_id in ids(page)] == whole
    assert all(len(page) == limit for page in got[:-1])


@pytest.mark.parametrize("status, name, count", [("completed", "good", 30), ("failed", "bad", 6), ("cancelled", "gone", 4), ("expired", "none", 0)])
def test_by_status(shelf, status, name, count):
    got = [job_id for page in pages(shelf, status=status, limit=5) for job_id in ids(page)]
    assert len(got) == count and set(got) == {i for n, i in shelf.jobs.items() if n.startswith(name)}


def test_by_queue_and_tag(shelf):
    (jobs,) = pages(shelf, queue="a", limit=100)
    assert len(jobs) == 15 and all(job["queue"] == "a" for job in jobs)
    (jobs,) = pages(shelf, tag="t1", status="completed", limit=100)
    assert len(jobs) == 10 and all("t1" in job["tags"] for job in jobs)
    assert listed(shelf, tag="t")["jobs"] == [], "a tag is whole"


def test_by_time(shelf):
    (jobs,) = pages(shelf, limit=100)
    middle = jobs[20]["completed_at"]
    later = [j for j in jobs if j["completed_at"] >= middle]
    (after,) = pages(shelf, after=middle, limit=100)
    (before,) = pages(shelf, before=middle, limit=100)
    assert ids(after) == ids(later) and ids(after) + ids(before) == ids(jobs)


def test_before_the_first_instant_there_is_nothing(shelf):
    assert listed(shelf, before="1970-01-01T00:00:00Z") == {"jobs": [], "next": None}


def test_a_page_begins_at_the_time_asked_for():
    """Whatever ended later is not looked at, however much it is."""
    with Quern() as system:
        first = system.ended(system.submit("first")["id"])
        system.request("POST", "/v1/jobs/bulk", [{"prompt": "later"}] * 1100)
        until(lambda: system.stats()["completed"] == 1101, "all have ended", 60)
        end = datetime.datetime.fromisoformat(first["completed_at"])
        after = (end + datetime.timedelta(milliseconds=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        page = listed(system, before=after)
        assert ids(page["jobs"]) == [first["id"]] and page["next"] is None


def test_an_end_that_was_undone_is_not_listed():
    """In a store that came back older, a job redriven since is in the index with its old end."""
    with Quern() as system:
        job_id = system.submit("once")["id"]
        system.ended(job_id)
        (key,) = [k for k in system.redis("--scan").split() if ":ix:" in k]
        index, hour = key.rsplit(":", 1)
        before = int(hour) - 2
        assert system.redis("ZUNIONSTORE", f"{index}:{before}", "1", key, "WEIGHTS", f"{before / int(hour)!r}") == "1"
        assert ids(listed(system)["jobs"]) == [job_id]


def test_history_is_the_last_fifty(shelf):
    reply = shelf.request("GET", "/v1/history")
    assert reply.status == 200 and ids(reply.json["jobs"]) == ids(listed(shelf, limit=100)["jobs"])[:50]
    assert set(reply.json) == {"jobs"}


@pytest.mark.parametrize("query, param", [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("status=pending", "status"),
                                          ("cursor=nonsense", "cursor"), ("cursor=5-job_x", "cursor"), ("after=soon", "after"), ("colour=red", "colour")])
def test_what_is_wrong_is_named(shelf, query, param):
    reply = shelf.request("GET", f"/v1/jobs?{query}")
    assert reply.status == 422 and reply.error["param"] == param, reply


def test_a_forgotten_job_is_not_listed():
    with Quern() as system:
        first, second = (system.submit(f"{n}")["id"] for n in "ab")
        for job_id in (first, second):
            system.ended(job_id)
        system.request("DELETE", f"/v1/jobs/{first}?forget=1")
        assert ids(listed(system)["jobs"]) == [second]
        assert listed(system)["next"] is None


def test_many_that_ended_at_one_instant():
    """More than a round in one millisecond: a page goes on within it."""
    with Quern({"worker": {"slots": 512}}) as system:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
        lines = [{"prompt": "x", "deadline": at, "delay_ms": 60000}] * 300
        reply = system.request("POST", "/v1/jobs/bulk", lines)
        wanted = {answer["id"] for answer in reply.json}
        until(lambda: system.stats()["expired"] == 300, "all have expired")
        until(lambda: sum(len(p) for p in pages(system, limit=100)) == 300, "all are listed")
        got = [job_id for page in pages(system, limit=7) for job_id in ids(page)]
        assert len(got) == 300 and set(got) == wanted


def test_an_empty_shelf():
    with Quern() as system:
        assert listed(system) == {"jobs": [], "next": None}
        assert system.request("GET", "/v1/history").json == {"jobs": []}
