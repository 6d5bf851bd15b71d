#!/usr/bin/env bash
# Scores the bundled model through a running server, on questions it never saw. Fails under 90 %.
set -euo pipefail
cd "$(dirname "$0")/.."

hedge=${1:-target/release/hedge}
# One client in turn: no wait for others, no flood guard in the way.
exec scripts/serve-for.sh "$hedge" bash -c \
    'exec python3 models/train/evaluate.py "$HEDGE_URL" --model local'
