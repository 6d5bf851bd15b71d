#!/usr/bin/env bash
# Licences, sources, bans and, where the advisory database can be reached, advisories.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
tools=${GATE_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/hedge/tools}
PATH=$tools/bin:$PATH

if ! cargo deny --version 2>/dev/null | grep -qF "$version"; then
    echo "installing cargo-deny $version into $tools, once"
    # Unoptimised: compiling it well takes longer than running it ever will.
    CARGO_TARGET_DIR=target/tools \
        cargo install cargo-deny --version "=$version" --locked --debug --quiet --root "$tools"
fi

cargo deny check licenses bans sources

# The database is a git repository. A network that does not reach it is no fault of the code, but is
# said aloud: advisories are then unchecked.
if cargo deny fetch db; then
    cargo deny check --disable-fetch advisories
else
    echo "NOT CHECKED: the advisory database cannot be fetched from here"
fi
