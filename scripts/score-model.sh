#!/usr/bin/env bash
# score-model.sh [HEDGE [OPTION...]]: scores the bundled model through a running server, on questions
# it never saw. Fails under 90 %, or under the shares that --bar and --bar-outside name.
set -euo pipefail
cd "$(dirname "$0")/.."

hedge=${1:-target/release/hedge}
shift || true
# One client in turn: no wait for others, no flood guard in the way.
exec scripts/serve-for.sh "$hedge" bash -c \
    'exec python3 models/train/evaluate.py "$HEDGE_URL" --model local "$@"' score "$@"
