import pathlib
import sys


def pytest_configure(config):
    config.addinivalue_line("markers", "long: left out of `make check`")


here = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(here), str(here.parent / "lib")]
