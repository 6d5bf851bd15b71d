#!/usr/bin/env bash
# Installs what is missing of the system packages that a build (setup.sh build) or the tests
# (setup.sh test) need. Changes nothing when all is there, so it may run any number of times.
set -euo pipefail

purpose=${1:-build}
missing=()

have() { command -v "$1" >/dev/null 2>&1; }
need() { # PACKAGE CHECK...: the package is missing when its check fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

# bindgen looks in the same places, and in LIBCLANG_PATH. libclang-cpp is another library.
have_libclang() {
    local directory
    for directory in "${LIBCLANG_PATH:-/nonexistent}" /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64; do
        compgen -G "$directory/libclang.so*" || compgen -G "$directory/libclang-[0-9]*.so*" || continue
        return 0
    done
    return 1
}

have_certificates() { [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE:-}" ]; }

# Either of them will do for the limits of several replicas.
have_redis() { have redis-server || have valkey-server; }
have_postgres() { compgen -G "/usr/lib/postgresql/*/bin/initdb"; }

# OpenAI's SDK asks for Node 18 or later.
have_node() { have node && [ "$(node --version | sed 's/^v\([0-9]*\).*/\1/')" -ge 18 ]; }

if ! have cargo; then
    echo "hedge needs a Rust toolchain, 1.95 or later: https://rustup.rs" >&2
    exit 1
fi

need build-essential have c++
need build-essential have make
need cmake have cmake
need libclang-dev have_libclang
need pkg-config have pkg-config
need ccache have ccache
need ca-certificates have_certificates
case $purpose in
build) ;;
test)
    need python3 have python3
    need python3-venv python3 -c 'import ensurepip, venv'
    need nodejs have_node
    need npm have npm
    need openssl have openssl
    need chromium have "${CHROMIUM:-chromium}"
    need redis-server have_redis
    need postgresql have_postgres
    ;;
*)
    echo "usage: scripts/setup.sh [build|test]" >&2
    exit 2
    ;;
esac

[ ${#missing[@]} -eq 0 ] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if ! have apt-get; then
    echo "This machine has no apt-get. Please install what these Debian packages hold, then run again:" >&2
    printf '  %s\n' "${missing[@]}" >&2
    exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! have sudo; then
        echo "System packages are missing and there is no sudo. As root, please run:" >&2
        echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

echo "Installing system packages: ${missing[*]}"
# Tests start a Postgres of their own; the package would set one up that goes on running.
no_cluster=/etc/postgresql-common/createcluster.d/hedge-tests.conf
case " ${missing[*]} " in
*" postgresql "*)
    "${as_root[@]}" mkdir -p "${no_cluster%/*}"
    echo "create_main_cluster = false" | "${as_root[@]}" tee "$no_cluster" >/dev/null
    trap '"${as_root[@]}" rm -f "$no_cluster"' EXIT
    ;;
esac
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
