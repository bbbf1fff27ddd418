"""What a run measured: each figure is printed when it is known, and all of them are written as JSON at the end (QUERN_HOSTS_JSON)."""

import datetime
import json
import os

rows = []


def note(what, **values):
    rows.append({"what": what, **values})
    print("\n" + what + ": " + ", ".join(f"{k}={v}" for k, v in values.items()), flush=True)


def write():
    path = os.environ.get("QUERN_HOSTS_JSON")
    if path and rows:
        with open(path, "w") as out:
            json.dump({"date": datetime.date.today().isoformat(), "figures": rows}, out, indent=1)
            out.write("\n")
