#!/usr/bin/env bash
# run.sh [HEDGE]: the page at /admin in Chromium, light, dark and on a phone: its figures are those that records.py
# works out from the records, axe-core finds nothing serious, nothing is asked of anybody else, and a keyboard
# reaches all of it. CHROMIUM is the browser, PAGE_SHOTS a folder for pictures.
# Versions are pinned in package-lock.json; the browser is Debian's.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)

hedge=$(cd "$root" && realpath "${1:-target/debug/hedge}")
fake_upstream=$(dirname "$hedge")/fake-upstream
if [ ! -x "$hedge" ] || [ ! -x "$fake_upstream" ]; then
    echo "$hedge or $fake_upstream is missing: run cargo build --workspace --bins" >&2
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

exec node page.mjs "$hedge" "$fake_upstream"
