import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib")]

import figures  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "brief: part of the short form in `make check`")


def pytest_sessionstart(session):
    if os.getpid() != 1:
        pytest.exit("tests/hosts runs in namespaces of its own: make check-hosts, or sh tests/hosts/private.sh pytest …", 2)


def pytest_sessionfinish(session):
    figures.write()
