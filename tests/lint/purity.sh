#!/bin/sh
# Who may include whom. ROOT is the tree, by default the current folder; every line that breaks a rule is printed.
set -u
cd "${1:-.}" || exit 2
broken=0

# refuse RULE PATTERN PLACE…: no line in these files may match.
refuse()
{
    rule=$1 pattern=$2
    shift 2
    if grep -rnE --include='*.[ch]' --include='*.def' "$pattern" "$@"; then
        echo "  ^ $rule" >&2
        broken=1
    fi
}

refuse "the core stands on no library that does input or output" \
    '#include *[<"](zmq|czmq|hiredis|event2?/|event\.h|sys/|time\.h|unistd|stdio|curl/|msgpack)' broker/core
refuse "the core does not know the shell" \
    '#include *"(broker/[a-z_]+\.h|worker/|api/|proto/(wire|link|frame|record)|common/(log|loop|redis|conf|clock|json))' broker/core
refuse "the core reads no clock, draws nothing, prints nothing" \
    '\b(clock_gettime|gettimeofday|time|random|rand|getrandom|f?printf)\(' broker/core
refuse "the api knows no other role" '#include *"(broker|worker)/' api
refuse "the broker knows no other role" '#include *"(api|worker)/' broker
refuse "the worker knows no other role" '#include *"(api|broker)/' worker
refuse "what roles say to each other knows none of them" '#include *"(api|broker|worker)/' proto
refuse "what is common knows neither roles nor messages" '#include *"(api|broker|worker|proto)/' common
exit $broken
