#!/usr/bin/env bash
# run.sh [HEDGE]: what is in deploy/, as far as it can be held to something here. The dashboard's queries, parsed,
# against docs/metrics.md; the chart, rendered by Helm's own library, against its values' schema, Kubernetes' schemas
# and this binary; the systemd unit against systemd's own checks, and its restrictions on a running node; what docs/deploy.md has one write, against the
# binary.
# Versions are pinned in requirements.txt.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)

HEDGE=$(cd "$root" && realpath "${1:-target/debug/hedge}")
export HEDGE
if [ ! -x "$HEDGE" ]; then
    echo "$HEDGE is missing: run cargo build --bin hedge" >&2
    exit 1
fi

# Installs again only when the pins changed.
if ! cmp -s requirements.txt .venv/pins; then
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/pins
fi

exec .venv/bin/python -m unittest -v test_dashboard test_chart test_unit test_page
