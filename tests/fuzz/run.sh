#!/bin/sh
# run.sh BUILD NAME SECONDS: one fuzzer from its corpus; what it finds new is kept in BUILD/found/NAME. Says one line, or, where
# something was found, everything.
set -eu
build=$1 name=$2 seconds=$3
corpus=tests/fuzz/corpus/$name dictionary=tests/fuzz/dictionary/$name
mkdir -p "$build/found/$name" "$build/log" "$build/profile"
log=$build/log/$name
set -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 -print_final_stats=1
[ ! -f "$dictionary" ] || set -- "$@" -dict="$dictionary"
set -- "$@" "$build/found/$name" "$corpus"
known=build-fuzz/found/$name # what the ordinary run has discovered serves the others
[ ! -d "$known" ] || [ "$build" = build-fuzz ] || set -- "$@" "$known"
if ! LLVM_PROFILE_FILE=$build/profile/$name timeout $((seconds * 4 + 60)) "$build/fuzz_$name" "$@" \
    -artifact_prefix="$build/found/$name/" >"$log" 2>&1; then
    grep -v '^#[0-9]' "$log"
    echo "fuzz_$name has found something; again: $build/fuzz_$name FILE, with the file named above"
    exit 1
fi
printf '%-18s %9s executions, %3s MiB\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
    "$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")"
