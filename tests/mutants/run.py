"""Plants each bug of this folder in a scratch copy of the tree, builds it, and runs the one test that must notice.

A scratch tree is the sources and the objects built already, so a bug costs one compilation and one link. The work tree is
only read. README.md says what a patch looks like.
"""
import argparse
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent
PARTS = ("api", "broker", "common", "proto", "systemd", "tests", "worker")  # of the tree, what is built and tested
BUILD_S, CATCH_S = 600, 180  # whatever takes longer has said nothing


class Trouble(Exception):
    """Why a bug could not be judged, or was not noticed."""


class Bug:
    """One patch: a sentence, `catcher: kind what [name]`, an empty line, the difference."""

    def __init__(self, path):
        self.path, self.name = path, f"{path.parent.name}/{path.stem}"
        text = path.read_text()
        head = re.match(r"(?P<sentence>\S.*\n(?:.+\n)*?)catcher: (?P<kind>unit|e2e|sim) (?P<what>\S+)(?: (?P<test>\S+))?\n\n(?=--- )", text)
        if not head:
            raise Trouble("its head is not a sentence, `catcher: unit|e2e|sim what [test]` and an empty line")
        self.sentence = " ".join(head["sentence"].split())
        self.kind, self.what, self.test = head["kind"], head["what"], head["test"]
        self.files = re.findall(r"^--- a/(\S+)", text, re.M)

    @property
    def catcher(self):
        """What is run: several bugs share one."""
        return self.kind, self.what, self.test or ""

    def check(self):
        """The catcher exists, and every file that is changed."""
        if self.kind == "unit":
            sources = [TREE / f"tests/{folder}/{self.what}.c" for folder in ("unit", "trace")]
            where = next((s for s in sources if s.exists()), None)
        else:
            where = TREE / (self.what.partition("::")[0] if self.kind == "e2e" else "tests/sim/rules.mk")
        name = self.test if self.kind == "unit" else self.what.partition("::")[2] if self.kind == "e2e" else ""
        if not where or not where.exists():
            raise Trouble(f"there is no {self.kind} test {self.what}")
        if self.kind == "unit" and not name or name and not re.search(rf"\b{re.escape(name)}\b", where.read_text()):
            raise Trouble(f"{where.relative_to(TREE)} has no test {name}")


class Scratch:
    """A copy of the tree in which bugs come and go."""

    def __init__(self, where, build):
        self.where, self.build, self.whole = where, build, {}
        self.env = {**os.environ, "QUERN_BUILD": str(where / build), "CCACHE_NOHASHDIR": "1"}
        for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
            self.env.pop(name, None)

    def make(self):
        """As it is now, objects with their times, so that nothing is compiled before a bug is planted."""
        shutil.rmtree(self.where, ignore_errors=True)
        self.where.mkdir(parents=True)
        for name in ("Makefile", "CHANGELOG.md", ".packages"):
            shutil.copy2(TREE / name, self.where)
        for part in PARTS:
            shutil.copytree(TREE / part, self.where / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(TREE / self.build, self.where / self.build, symlinks=True)

    def run(self, argv, seconds, **env):
        """Its exit code (None: it was still running) and all it said."""
        with subprocess.Popen(argv, cwd=self.where, env={**self.env, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True) as process:
            try:
                said, _ = process.communicate(timeout=seconds)
                return process.returncode, said
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                said, _ = process.communicate()
                return None, said

    def plant(self, bug):
        self.whole = {file: (self.where / file).read_bytes() for file in bug.files}
        self.patch(bug)

    def patch(self, bug, *options):
        code, said = self.run(["patch", "-p1", "--fuzz=2", "--forward", "--batch", "--no-backup-if-mismatch",
                               "-r", "-", "-i", str(bug.path), *options], 60)
        if code:
            raise Trouble("does not apply: " + " ".join(said.split())[:300])

    def heal(self):
        for file, content in self.whole.items():
            (self.where / file).write_bytes(content)  # newer than its object: built again
        self.whole = {}

    def catch(self, catcher):
        """Builds what the catcher stands on, and runs it."""
        kind, what, test = catcher
        program = f"{self.build}/tests/{what}"
        goals = {"unit": [program], "e2e": ["all", f"{self.build}/quern-upstream"], "sim": [f"{self.build}/quern-sim"]}[kind]
        code, said = self.run(["make", f"BUILD={self.build}", *goals], BUILD_S)
        if code != 0:
            wrong = [line for line in said.splitlines() if re.search(r"error|undefined|\*\*\*", line)]
            raise Trouble("does not build: " + " | ".join(wrong)[:300])
        argv = {"unit": [program],
                "e2e": ["/usr/bin/python3", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", what],
                "sim": [f"{self.build}/quern-sim", "--seeds", what]}[kind]
        return self.run(argv, CATCH_S, QUERN_TEST=test)


def named(catcher):
    kind, what, test = catcher
    return f"make sim SEEDS={what}" if kind == "sim" else f"{what} {test}".strip()


class Hunt:
    """Bugs handed to scratch trees as these become free; a catcher is first run on the tree as it is, once."""

    def __init__(self, bugs):
        self.waiting, self.lock = queue.SimpleQueue(), threading.Lock()
        self.healthy, self.caught, self.width = {}, [], max(len(bug.name) for bug in bugs)
        for bug in bugs:
            self.waiting.put(bug)

    def sound(self, scratch, catcher):
        with self.lock:
            mine = catcher not in self.healthy
            verdict = self.healthy.setdefault(catcher, threading.Event())
        if mine:
            verdict.code = verdict.said = None
            try:
                verdict.code, verdict.said = scratch.catch(catcher)
            except Trouble as trouble:
                verdict.said = str(trouble)
            verdict.set()
        verdict.wait()
        if verdict.code != 0:
            raise Trouble(f"{named(catcher)} fails without the bug: {' '.join(verdict.said.split())[-300:]}")

    def judge(self, scratch, bug):
        began = time.monotonic()
        try:
            self.sound(scratch, bug.catcher)
            began = time.monotonic()
            scratch.plant(bug)
            code, _ = scratch.catch(bug.catcher)
            if code is None:
                raise Trouble(f"{named(bug.catcher)} said nothing within {CATCH_S} s")
            if code == 0:
                raise Trouble(f"MISSED: {named(bug.catcher)} passes")
            word = named(bug.catcher)
            self.caught.append(bug.name)
        except Trouble as trouble:
            word = str(trouble)
        finally:
            scratch.heal()
        print(f"{bug.name:{self.width}}  {time.monotonic() - began:6.1f}  {word}", flush=True)

    def work(self, scratch):
        scratch.make()
        while True:
            try:
                self.judge(scratch, self.waiting.get_nowait())
            except queue.Empty:
                return


def load(only):
    bugs, wrong = [], 0
    for path in sorted(HERE.glob("*/*.patch")):
        try:
            bug = Bug(path)
            bug.check()
            bugs.append(bug)
        except Trouble as trouble:
            wrong += 1
            print(f"{path.relative_to(TREE)}: {trouble}")
    return [bug for bug in bugs if only in bug.name], wrong


def applies(bugs):
    """How many patches do not apply to the tree as it is. Nothing is written."""
    wrong = 0
    for bug in bugs:
        try:
            scratch = Scratch(TREE, "build")
            scratch.patch(bug, "--dry-run")
        except Trouble as trouble:
            wrong += 1
            print(f"{bug.name}: {trouble}")
    return wrong


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--build", default="build")
    options.add_argument("--check", action="store_true", help="only whether patches apply and their catchers exist")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--only", default="")
    options.add_argument("--sim", metavar="SEEDS", help="instead of its catcher: does the simulation see it?")
    options = options.parse_args()
    bugs, wrong = load(options.only)
    wrong += applies(bugs)
    for bug in bugs if options.sim else ():
        bug.kind, bug.what, bug.test = "sim", options.sim, ""
    if options.check or wrong or not bugs:
        print(f"{len(bugs)} planted bugs, {wrong} of them unusable")
        sys.exit(wrong > 0 or not bugs)
    hunt = Hunt(bugs)
    home = TREE / f"{options.build}-mutants"
    print(f"{'bug':{hunt.width}}  seconds caught by")
    threads = [threading.Thread(target=hunt.work, args=(Scratch(home / str(i), options.build),))
               for i in range(min(options.jobs, len(bugs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shutil.rmtree(home, ignore_errors=True)
    print(f"{len(hunt.caught)} of {len(bugs)} bugs caught")
    sys.exit(len(hunt.caught) < len(bugs))


if __name__ == "__main__":
    main()
