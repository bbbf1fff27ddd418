import sys
import pathlib

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import quern  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "heavy: measures the machine, so it runs while nothing else does, and not under sanitizers")


@pytest.fixture(scope="module")
def system():
    """One Quern shared by the tests of a file that leave it whole; a test that kills something makes its own."""
    with quern.Quern() as q:
        yield q


@pytest.fixture(autouse=True)
def clean_script(request):
    """Every test starts with an upstream that answers at once."""
    if "system" in request.fixturenames:
        q = request.getfixturevalue("system")
        if q.upstream:
            q.upstream.script()
    yield
