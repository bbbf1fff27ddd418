#!/bin/sh
# down.sh: stops the instance in STATE, and no other; returns when it is gone. `make down` calls it.
set -eu
cd "$(dirname "$0")/.."
state=${STATE:-var}
ctl=${BUILD:-build}/quernctl
# After `make clean` the supervisor's own program still is there, by the process that runs it.
[ -x "$ctl" ] || ctl=/proc/$(cat "$state/run/run.pid" 2>/dev/null || echo none)/exe
if [ ! -x "$ctl" ]; then
    echo "$state: nothing runs there"
    exit 0
fi
exec "$ctl" run --state "$state" --stop
