import pathlib
import sys


def pytest_configure(config):
    config.addinivalue_line("markers", "long: left out of `make check`")


sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
