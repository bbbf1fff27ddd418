#!/bin/sh
# purity.sh notices each kind of violation, and nothing in a clean tree.
set -u
purity=$(dirname "$0")/purity.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failed=0

clean()
{
    rm -rf "${tree:?}"/*
    mkdir -p "$tree"/common "$tree"/proto "$tree"/broker/core "$tree"/worker/providers "$tree"/api/handlers
    for folder in common proto broker broker/core worker worker/providers api api/handlers; do
        echo '#include <string.h>' >"$tree/$folder/plain.c"
    done
    echo '#include "broker/core/job.h"' >"$tree/broker/core/plain.h"
    echo 'void on_time(struct runtime *r); /* leaves time (ms) alone */' >>"$tree/broker/core/plain.h"
}

# refused FILE LINE: one such line in a clean tree is printed and fails.
refused()
{
    clean
    echo "$2" >"$tree/$1"
    if found=$(sh "$purity" "$tree" 2>/dev/null); then
        echo "not noticed in $1: $2" && failed=1
    elif [ "$(echo "$found" | head -n 1)" != "$1:1:$2" ]; then
        echo "told badly: $found" && failed=1
    fi
}

clean
sh "$purity" "$tree" || { echo "found something in a clean tree" && failed=1; }
for header in zmq.h czmq.h hiredis.h event2/event.h event.h sys/socket.h time.h unistd.h stdio.h curl/curl.h msgpack.h; do
    refused broker/core/sched.c "#include <$header>"
done
for header in broker/store.h worker/call.h api/http.h proto/wire.h proto/link.h proto/frame.h proto/record.h \
    common/log.h common/loop.h common/redis.h common/conf.h common/clock.h common/json.h; do
    refused broker/core/sched.h "#include \"$header\""
done
for call in clock_gettime gettimeofday time random rand getrandom printf fprintf; do
    refused broker/core/sched.c "    $call(x);"
done
refused api/handlers/submit.c '#include "broker/core/job.h"'
refused api/conn.h '#include "worker/call.h"'
refused broker/store.c '#include "api/http.h"'
refused broker/store.c '#include "worker/call.h"'
refused worker/providers/echo.c '#include "api/http.h"'
refused worker/call.c '#include "broker/store.h"'
refused proto/messages.def '#include "api/http.h"'
refused proto/wire.c '#include "broker/store.h"'
refused proto/wire.c '#include "worker/call.h"'
for part in api broker worker proto; do
    refused common/log.c "#include \"$part/x.h\""
done
exit $failed
