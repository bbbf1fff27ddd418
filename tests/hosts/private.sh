#!/bin/sh
# Runs a command in network, mount and process namespaces of its own. Hosts, cables, rules and processes that it makes are gone with it,
# however it ends, and no name outside is touched: the kernel tidies up.
set -eu

fail() { echo "tests/hosts: $*" >&2; exit 1; }

for tool in unshare nsenter ip nft openssl redis-server; do
    command -v "$tool" > /dev/null || fail "$tool is missing (Debian: util-linux, iproute2, nftables, openssl, redis-server)"
done
[ "$(id -u)" = 0 ] || fail "hosts are network namespaces, which only root may make: run this as root, in a container with --privileged" \
    "or with the capabilities SYS_ADMIN and NET_ADMIN"
unshare --mount --net --pid --fork true 2> /dev/null ||
    fail "this machine does not let root make namespaces: a container needs --privileged, or the capabilities SYS_ADMIN and NET_ADMIN"

exec unshare --mount --net --pid --fork --kill-child --mount-proc sh -euc '
    mkdir -p /run/netns
    mount -t tmpfs hosts /run/netns
    ip link set lo up
    nft add table inet probe && nft delete table inet probe || { echo "tests/hosts: this kernel has no nftables (nf_tables)" >&2; exit 1; }
    exec "$@"' sh "$@"
