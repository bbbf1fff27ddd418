"""Jobs that are changed while they wait, and failed ones that are made to run again."""

import datetime

import pytest

from quern import Quern, until


def later(seconds):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def patch(system, job_id, body):
    return system.request("PATCH", f"/v1/jobs/{job_id}", body)


def retry(system, job_id):
    return system.request("POST", f"/v1/jobs/{job_id}/retry")


def test_priority_of_a_waiting_job(system):
    job_id = system.submit({"prompt": "later", "delay_ms": 60000, "priority": 3})["id"]
    reply = patch(system, job_id, {"priority": "high"})
    assert reply.status == 200 and reply.json["priority"] == 8 and reply.json["status"] == "pending", reply
    assert system.job(job_id)["priority"] == 8
    system.cancel(job_id)


def test_a_job_that_was_moved_up_starts_first():
    with Quern({"worker": {"slots": 1}}, workers=1) as system:
        system.submit("first [[latency_ms=1500]]")
        until(lambda: system.stats()["active"] == 1, "the only slot is taken")
        ids = [system.submit({"prompt": f"waits {i} [[latency_ms=60]]", "priority": 5})["id"] for i in range(3)]
        assert patch(system, ids[2], {"priority": 10}).status == 200
        starts = [system.ended(job_id)["started_at"] for job_id in ids]
        assert starts[2] < starts[0] < starts[1]


def test_deadline_of_a_waiting_job(system):
    job_id = system.submit({"prompt": "later", "delay_ms": 60000})["id"]
    assert patch(system, job_id, {"deadline": later(0.5)}).status == 200
    assert system.ended(job_id)["status"] == "expired"


def test_a_running_job_is_not_changed(system):
    job_id = system.submit("busy [[latency_ms=1500]]")["id"]
    until(lambda: system.job(job_id)["status"] == "processing", "it runs")
    reply = patch(system, job_id, {"priority": 9})
    assert reply.status == 409 and reply.error["code"] == "conflict", reply
    system.ended(job_id)


def test_an_ended_job_is_not_changed(system):
    job_id = system.submit("done")["id"]
    system.ended(job_id)
    reply = patch(system, job_id, {"priority": 9})
    assert reply.status == 409 and reply.error["code"] == "already_ended", reply


@pytest.mark.parametrize("body, param", [
    ({}, None), ({"priority": 0}, "priority"), ({"priority": 11}, "priority"), ({"deadline": "soon"}, "deadline"),
    ({"deadline": "2020-01-01T00:00:00Z"}, "deadline"), ({"queue": "other"}, "queue"), ({"prompt": "x"}, "prompt")])
def test_what_cannot_be_changed_is_named(system, body, param):
    job_id = system.submit({"prompt": "later", "delay_ms": 60000})["id"]
    reply = patch(system, job_id, body)
    assert reply.status == 422 and reply.error["param"] == param, reply
    system.cancel(job_id)


def test_a_failed_job_runs_again(system):
    job_id = system.submit({"prompt": "mend me [[fault=status_400 fail_first=1 key=redrive]]", "tags": ["kept"]})["id"]
    failed = system.ended(job_id)
    assert failed["status"] == "failed" and len(failed["attempts"]) == 1
    reply = retry(system, job_id)
    assert reply.status == 200 and reply.json["id"] == job_id and reply.json["status"] in ("pending", "processing"), reply
    done = system.ended(job_id)
    assert done["status"] == "completed" and done["tags"] == ["kept"], done
    assert [a["run"] for a in done["attempts"]] == [1, 2] and done["attempt"] == 1, "the story goes on, the budget is new"


def test_only_a_failed_job_runs_again(system):
    job_id = system.submit("fine")["id"]
    system.ended(job_id)
    reply = retry(system, job_id)
    assert reply.status == 409 and reply.error["code"] == "conflict", reply
    waiting = system.submit({"prompt": "later", "delay_ms": 60000})["id"]
    assert retry(system, waiting).status == 409
    system.cancel(waiting)
    assert retry(system, "job_00000000000000000000000000").status == 404


def test_what_runs_again_survives_a_broker():
    with Quern() as system:
        job_id = system.submit({"prompt": "twice [[fault=status_400 fail_first=1 key=b]]"})["id"]
        assert system.ended(job_id)["status"] == "failed"
        system.request("POST", f"/v1/jobs/{job_id}/retry")
        system.kill("broker")
        until(lambda: system.request("GET", "/readyz").status == 200, "a broker is back")
        assert system.ended(job_id)["status"] == "completed"
        assert len(system.upstream.calls_with("twice")) == 2


def test_a_forgotten_job_does_not_run_again(system):
    job_id = system.submit("no [[fault=status_400]]")["id"]
    system.ended(job_id)
    assert system.request("DELETE", f"/v1/jobs/{job_id}?forget=1").status == 204
    assert retry(system, job_id).status == 410
