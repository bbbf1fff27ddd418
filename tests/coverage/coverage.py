"""The share of branches taken, by file, of what must reach 90 %; and each branch that no test took, in BUILD/gaps.txt.

Branches come from gcov. Not counted: assertions (a test that takes their other branch has found a mistake) and what uthash's
macros unfold into, since neither is a decision of the line it stands on."""

import json
import pathlib
import re
import subprocess
import sys

GOAL = 90.0
GROUPS = {
    "core": ["broker/core/*.c"],
    "parsers": [
        "api/http.c", "api/http_*.c", "common/json*.c", "common/utf8.c", "proto/codec.c", "proto/scan.c", "proto/frame.c",
        "proto/record.c", "worker/sse.c", "worker/ndjson.c", "worker/retry_after.c", "broker/commit*.c", "broker/store_ask.c",
    ],
}
NOT_COUNTED = re.compile(r"\bassert\(|\bHASH_[A-Z_]+\(")


LEFT_OUT = {"broker/core/check.c"}  # one large assertion: the recount of everything, whose other branches are our mistakes


def sources(patterns):
    return sorted({str(p) for pattern in patterns for p in pathlib.Path().glob(pattern)} - LEFT_OUT)


def gcov(build, source):
    """{line: [times each branch was taken]} of one source, None for a line that never ran."""
    notes = pathlib.Path(build, source).with_suffix(".gcda")
    if not notes.exists():
        return None
    out = subprocess.run(["gcov", "--json-format", "--stdout", "--branch-probabilities", "--branch-counts", str(notes)], check=True, capture_output=True, text=True).stdout
    lines = {}
    for report in map(json.loads, filter(None, out.splitlines())):
        for file in report["files"]:
            if file["file"] != source:
                continue
            for line in file["lines"]:
                for at, branch in enumerate(b for b in line["branches"] if not b["throw"]):
                    row = lines.setdefault(line["line_number"], {})
                    row[at] = row.get(at, 0) + branch["count"]
    return lines


def counted(source, lines):
    """Without the statements that are not counted: those run on until their semicolon."""
    text = pathlib.Path(source).read_text().splitlines()
    skip, inside = set(), False
    for number, line in enumerate(text, 1):
        if inside or NOT_COUNTED.search(line):
            skip.add(number)
            inside = bool(NOT_COUNTED.search(line) or inside) and not line.rstrip().endswith((";", "{", ")", "*/"))
    return text, {n: row for n, row in lines.items() if n not in skip}


def main(build):
    failed = False
    with open(pathlib.Path(build, "gaps.txt"), "w") as gaps:
        for group, patterns in GROUPS.items():
            all_taken = all_count = 0
            for source in sources(patterns):
                lines = gcov(build, source)
                if lines is None:
                    print(f"{source:32} no test runs it")
                    failed = True
                    continue
                text, lines = counted(source, lines)
                taken = sum(1 for row in lines.values() for n in row.values() if n)
                count = sum(len(row) for row in lines.values())
                all_taken, all_count = all_taken + taken, all_count + count
                print(f"{source:32} {100 * taken / max(count, 1):5.1f} %  {taken:4} of {count:4}")
                for number, row in sorted(lines.items()):
                    missed = [str(at) for at, n in sorted(row.items()) if not n]
                    if missed:
                        gaps.write(f"{source}:{number}: {len(missed)} of {len(row)}: {text[number - 1].strip()}\n")
            share = 100 * all_taken / max(all_count, 1)
            failed |= share < GOAL
            print(f"{group:32} {share:5.1f} %  {all_taken} of {all_count} branches, at least {GOAL:g} % wanted\n")
    print(f"gaps: {build}/gaps.txt; those known and why: tests/coverage/README.md")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
