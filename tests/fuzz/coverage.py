"""coverage.py BUILD NAME…: the lines of each driver's parser (`Covers:` in its first comment) that its run reached, by llvm-cov."""

import json
import pathlib
import re
import subprocess
import sys


def covers(name):
    text = pathlib.Path(f"tests/fuzz/fuzz_{name}.c").read_text()
    return [word for word in text[text.index("Covers: ") + 8:text.index("*/")].split() if word != "*"]


def lines(build, name, files):
    profile = f"{build}/profile/{name}"
    subprocess.run(["llvm-profdata", "merge", "-o", profile + ".merged", profile], check=True)
    out = subprocess.run(["llvm-cov", "export", "-summary-only", f"-instr-profile={profile}.merged", f"{build}/fuzz_{name}", *files],
                         check=True, capture_output=True, text=True).stdout
    found = {f["filename"]: f["summary"]["lines"] for f in json.loads(out)["data"][0]["files"]}
    return {file: next(s for path, s in found.items() if path.endswith("/" + file)) for file in files}


def executions(build, name):
    log = pathlib.Path(f"{build}/log/{name}").read_text()
    return int(re.search(r"number_of_executed_units: *(\d+)", log).group(1))


def main(build, *names):
    print(f"{'target':16} {'executions':>10}  {'lines':>11}  {'':6}  parser")
    for name in names:
        count = executions(build, name)
        for file, s in lines(build, name, covers(name)).items():
            print(f"{name:16} {count:>10}  {s['covered']:5}/{s['count']:<5}  {s['percent']:5.1f}%  {file}")
            name, count = "", ""


main(*sys.argv[1:])
