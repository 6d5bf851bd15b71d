#!/usr/bin/env bash
# run.sh [HEDGE]: clients as published against the given binary: OpenAI's and Anthropic's Python and Node
# SDKs; Ollama's client, LangChain, LlamaIndex and Vercel's AI SDK; each with the model on this machine and
# with clouds of two dialects; then the routing checks, replies against OpenAI's published document, and
# OpenAI's SDKs through an edge and its relay.
# Versions are pinned in requirements*.txt and package-lock.json; README.md says what is checked of each.
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
pins=$(cat requirements*.txt package-lock.json | sha256sum)
if [ "$(cat .venv/pins 2>/dev/null)" != "$pins" ]; then
    rm -rf .venv .venv-frameworks node_modules
    for venv in .venv .venv-frameworks; do python3 -m venv "$venv"; done
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    .venv-frameworks/bin/pip install --quiet --disable-pip-version-check -r requirements-frameworks.txt
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
fake=
trap 'rm -f "$config"; [ -z "$fake" ] || kill "$fake"' EXIT
cat >"$config" <<TOML
[[keys]]
name = "clients"
secret = "sha256:$(printf %s "$SDK_TEST_KEY" | sha256sum | cut -d' ' -f1)"
TOML
with_config() { env HEDGE_CONFIG="$config" "$serve_for" "$hedge" "$@"; }
with_config .venv/bin/python sdk.py || status=1
with_config node sdk.mjs || status=1
with_config .venv/bin/python anthropic_sdk.py || status=1
with_config node anthropic_sdk.mjs || status=1

unset SDK_TEST_KEY

# All clients, with two clouds beside the local model, and every question put anew. The clouds are one
# program, which speaks OpenAI's dialect and Anthropic's.
exec 3< <(exec "$fake_upstream" --listen 127.0.0.1:0 --key cloud-key)
fake=$!
read -r cloud <&3
cat >"$config" <<TOML
[cache]
enabled = false
[[upstreams]]
name = "fake"
base_url = "http://$cloud/v1"
key = "env:CLOUD_KEY"
models = ["big", "faulty", "broken"]
[[upstreams]]
name = "claude"
dialect = "anthropic"
base_url = "http://$cloud"
auth = "header"
auth_header = "x-api-key"
key = "env:CLOUD_KEY"
models = ["opus", "faulty", "broken"]
TOML
export CLOUD_KEY=cloud-key CLOUD_URL=http://$cloud
with_config .venv/bin/python openai_everywhere.py || status=1
with_config node openai_everywhere.mjs || status=1
with_config .venv/bin/python anthropic_everywhere.py || status=1
with_config node anthropic_everywhere.mjs || status=1
with_config .venv-frameworks/bin/python frameworks.py || status=1
with_config node frameworks.mjs || status=1
unset CLOUD_KEY CLOUD_URL

.venv/bin/python routing.py "$hedge" "$fake_upstream" || status=1
.venv/bin/python schema.py "$hedge" "$fake_upstream" || status=1
.venv/bin/python sealed.py "$hedge" "$fake_upstream" || status=1
exit "$status"
