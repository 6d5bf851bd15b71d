#!/usr/bin/env bash
# run.sh [HEDGE]: people sign in to the admin listener by a provider of OpenID Connect that is none of ours:
# oidc-provider, certified by the OpenID Foundation, with its own pages for signing in. Once by HTTP, step by
# step, with what an attacker would try; then in Chromium. CHROMIUM is the browser, OIDC_SHOTS a folder for
# pictures.
# Versions are pinned in package-lock.json; the browser is Debian's.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)

hedge=$(cd "$root" && realpath "${1:-target/debug/hedge}")
if [ ! -x "$hedge" ]; then
    echo "$hedge is missing: run cargo build --bin hedge" >&2
    exit 1
fi

export CHROMIUM=${CHROMIUM:-$(command -v chromium || true)}
if [ -z "$CHROMIUM" ]; then
    echo "there is no chromium: run scripts/setup.sh test, or name a browser of its kind in CHROMIUM" >&2
    exit 1
fi

# Installs again only when the pins changed.
pins=$(sha256sum <package-lock.json)
if [ "$(cat node_modules/pins 2>/dev/null)" != "$pins" ]; then
    npm ci --silent --no-audit --no-fund
    echo "$pins" >node_modules/pins
fi

exec node sign_in.mjs "$hedge"
