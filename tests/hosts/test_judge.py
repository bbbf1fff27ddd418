"""The judge of the other tests, given histories that are wrong."""

import pytest

from load import judge


class History:
    """Twenty jobs that went as they should, each called once."""

    name = "h"

    def __init__(self):
        self.accepted = {f"job_{i}": f"h-0-{i} [[latency_ms=1]]" for i in range(20)}
        self.refused = {}
        self.finals = {job: {"status": "completed", "result": {"content": f"echo: {prompt}"}} for job, prompt in self.accepted.items()}
        self.prompts = list(self.accepted.values())
        self.provider = self

    def calls(self):
        return [{"prompt_head": prompt} for prompt in self.prompts]


def lost(h):
    h.finals["job_3"] = {"status": "lost (410)"}


def failed(h):
    h.finals["job_3"] = {"status": "failed", "error": {"code": "lost"}}


def anothers(h):
    h.finals["job_3"]["result"]["content"] = "echo: x-0-9"


def never_called(h):
    h.prompts.remove(h.accepted["job_3"])


def called_twice(h):
    h.prompts.append(h.accepted["job_3"])


def refused_and_called(h):
    h.refused["h-1-1"] = "store_unavailable"
    h.prompts.append("h-1-1")


def a_strange_refusal(h):
    h.refused["h-1-1"] = "500"


def nothing_to_speak_of(h):
    h.accepted = {}


@pytest.mark.brief
@pytest.mark.parametrize("harm", [lost, failed, anothers, never_called, called_twice, refused_and_called, a_strange_refusal, nothing_to_speak_of],
                         ids=lambda harm: harm.__name__)
def test_a_wrong_history_is_not_let_pass(harm):
    history = History()
    assert judge(history, history, history.finals) == 0
    harm(history)
    with pytest.raises(AssertionError):
        judge(history, history, history.finals)


@pytest.mark.brief
def test_calls_that_may_be_made_again_are_counted():
    history = History()
    called_twice(history)
    history.refused["h-1-1"] = "outcome_unknown"
    history.prompts.append("h-1-1")
    assert judge(history, history, history.finals, calls_again_max=1) == 1
