#!/bin/sh
# packages.sh KIND...: makes sure that the Debian packages which .packages lists under these kinds are installed. Root installs
# what is missing; anyone else is told the one command that does.
set -eu
cd "$(dirname "$0")/.."

if ! command -v dpkg-query >/dev/null; then
    echo "packages: no dpkg here; going on with what is installed (.packages lists what is needed)"
    exit 0
fi

missing=
for kind; do
    for package in $(sed -n "s/^$kind //p" .packages); do
        case $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) in
        *' ok installed') ;;
        *) missing="$missing $package" ;;
        esac
    done
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "packages: missing:$missing" >&2
    echo "packages: as root: apt-get update && apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi
echo "packages: installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $missing
