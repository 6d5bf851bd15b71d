#!/usr/bin/env bash
# run.sh [PEER]: HPKE and binary HTTP that others wrote against hedge's sealed path, in both directions, a
# byte at a time: npm's @hpke/core and hpke with X25519 and X-Wing, bhttp-js, ehbp's reader of keys; PyPI's
# pyhpke. PEER is our end, target/debug/examples/peer, which `cargo build -p relay --example peer` makes.
# Versions are pinned in package-lock.json and requirements.txt. The crates ohttp and bhttp are asked in
# relay's own tests.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)

peer=$(cd "$root" && realpath "${1:-target/debug/examples/peer}")
if [ ! -x "$peer" ]; then
    echo "$peer is missing: run cargo build -p relay --example peer" >&2
    exit 1
fi

# Installs again only when the pins changed.
pins=$(cat requirements.txt package-lock.json | sha256sum)
if [ "$(cat .venv/pins 2>/dev/null)" != "$pins" ]; then
    rm -rf .venv node_modules
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    npm ci --silent --no-audit --no-fund
    echo "$pins" >.venv/pins
fi

# An end that waits for the other for ever is a failure too.
status=0
timeout 120 node node.mjs "$peer" || status=1
timeout 120 .venv/bin/python pyhpke_peer.py "$peer" || status=1
exit "$status"
