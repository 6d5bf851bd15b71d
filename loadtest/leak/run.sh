#!/usr/bin/env bash
# run.sh [STREAMS] [SEED]: how well two topics are told apart by sizes and times of their streams, in each
# shape: so many streams of each topic (700), through the shapes themselves in virtual time. Prints the table
# of docs/leak.md; ends with 1 where a shape tells more than it may.
#
# texts/music.txt is of Krehbiel's "How to Listen to Music" (1896), texts/drill.txt of the United States
# Army's "Infantry Drill Regulations" (1911, corrected to 1917): both in the public domain in the United
# States, from the editions 17474 and 20866 of Project Gutenberg, prose of 200 letters a paragraph and more.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
out=${LEAK_OUT:-$root/loadtest/out}
mkdir -p "$out"

if ! cmp -s requirements.txt .venv/pins; then
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/pins
fi

cargo run --quiet --release --manifest-path "$root/Cargo.toml" -p relay --example leak -- \
    texts/music.txt texts/drill.txt "${1:-700}" "${2:-1}" >"$out/leak.jsonl"
# Threads that wait for each other take longer than one does.
OMP_NUM_THREADS=1 .venv/bin/python classify.py "$out/leak.jsonl"
