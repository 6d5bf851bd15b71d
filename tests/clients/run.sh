#!/usr/bin/env bash
# run.sh [HEDGE]: OpenAI's and Anthropic's Python and Node SDKs, as published, against the given
# binary; then the routing checks. Versions are pinned in requirements.txt and package-lock.json.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)

hedge=$(cd "$root" && realpath "${1:-target/debug/hedge}")
fake_upstream=$(dirname "$hedge")/fake-upstream
if [ ! -x "$hedge" ] || [ ! -x "$fake_upstream" ]; then
    echo "$hedge or $fake_upstream is missing: run cargo build --workspace --bins" >&2
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

serve_for=$root/scripts/serve-for.sh
status=0
"$serve_for" "$hedge" .venv/bin/python sdk.py || status=1
"$serve_for" "$hedge" node sdk.mjs || status=1
"$serve_for" "$hedge" .venv/bin/python anthropic_sdk.py || status=1
"$serve_for" "$hedge" node anthropic_sdk.mjs || status=1

# The same servers again, asking for a key that they know by its digest alone.
export SDK_TEST_KEY=sk-client-tests
config=$(mktemp --suffix=.toml)
trap 'rm -f "$config"' EXIT
cat >"$config" <<TOML
[[keys]]
name = "clients"
secret = "sha256:$(printf %s "$SDK_TEST_KEY" | sha256sum | cut -d' ' -f1)"
TOML
with_keys() { env HEDGE_CONFIG="$config" "$serve_for" "$hedge" "$@"; }
with_keys .venv/bin/python sdk.py || status=1
with_keys node sdk.mjs || status=1
with_keys .venv/bin/python anthropic_sdk.py || status=1
with_keys node anthropic_sdk.mjs || status=1

unset SDK_TEST_KEY
.venv/bin/python routing.py "$hedge" "$fake_upstream" || status=1
exit "$status"
