"""Every role under valgrind through start, jobs, cancels and SIGTERM: no invalid access, nothing lost, and every process tells so at its
end. Redis is left out."""

import pathlib
import re
import subprocess

import pytest

import quern
from quern import Quern, until

HERE = pathlib.Path(__file__).parent


class Watched(Quern):
    """All roles as valgrind's guests: one report a process, named by its pid."""

    def start(self, ready=True):
        self.reports = self.state / "valgrind"
        self.reports.mkdir()
        self.run = subprocess.Popen(
            ["valgrind", "--quiet", "--trace-children=yes", "--trace-children-skip=*/redis-server,*/redis-cli", "--leak-check=full",
             "--show-leak-kinds=definite,indirect,possible", "--errors-for-leak-kinds=definite,indirect,possible", "--error-exitcode=99",
             "--soname-synonyms=somalloc=libjemalloc*", f"--suppressions={HERE / 'valgrind.supp'}", "--gen-suppressions=all",
             "--vgdb=no", "--fair-sched=yes", f"--log-file={self.reports}/%p", "-v",
             str(quern.BUILD / "quernctl"), "run", "--settings", str(self.settings), "--state", str(self.state)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.state / "run.log").open("ab"))
        self.ready(180)

    def findings(self):
        """What every process had to say; a process that ended without a summary was killed, which says nothing of it."""
        told = {}
        for report in sorted(self.reports.iterdir(), key=lambda p: int(p.name)):
            text = report.read_text(errors="replace")
            command = re.search(r"Command: (\S+)", text)
            summary = re.search(r"ERROR SUMMARY: (\d+) errors", text)
            told[report.name] = (pathlib.Path(command[1]).name if command else "?", int(summary[1]) if summary else None, text)
        return told


def submitted(q, job):
    """Under valgrind the store may take longer to answer than a submit waits."""
    def accepted():
        reply = q.request("POST", "/v1/jobs", job)
        return reply.status == 202 and reply.json["id"]
    return until(accepted, "a submit is accepted", 120)


def cancelled(q, job):
    until(lambda: q.cancel(job).status == 200, f"{job} is cancelled", 120)


@pytest.fixture(scope="module")
def ended():
    """What was found once jobs were done, failed, retried, streamed and cancelled, and everything was told to stop."""
    with Watched(workers=1, api_children=1) as q:
        done = [submitted(q, {"prompt": f"hello {i}"}) for i in range(5)]
        for job in done:
            assert q.ended(job, 120)["status"] == "completed"
        failed = submitted(q, {"prompt": "never [[fault=status_500]]", "max_attempts": 1})
        assert q.ended(failed, 120)["status"] == "failed"
        running = submitted(q, {"prompt": "slow [[fault=hang]]", "stream": True})
        until(lambda: q.job(running)["status"] == "processing", "it runs", 120)
        waiting = submitted(q, {"prompt": "later", "delay_ms": 600000})
        cancelled(q, running)
        cancelled(q, waiting)
        assert q.ended(running, 120)["status"] == q.ended(waiting, 120)["status"] == "cancelled"
        assert q.get("job_nonsense").status in (400, 404)
        q.ctl("top", "--once", check=False)
        q.run.terminate()
        assert q.run.wait(180) == 0
        yield q.findings()


def test_every_process_tells_of_its_end(ended):
    told = [name for name, errors, _ in ended.values() if errors is not None]
    for name, least in (("quernctl", 1), ("quern-broker", 1), ("quern-worker", 2), ("quern-api", 2)):
        assert told.count(name) >= least, sorted((n, e) for n, e, _ in ended.values())


def test_no_process_leaks_or_touches_what_is_not_its_own(ended):
    wrong = [f"--- {name} ({pid})\n{text[-12000:]}" for pid, (name, errors, text) in ended.items() if errors]
    assert not wrong, "\n".join(wrong)
