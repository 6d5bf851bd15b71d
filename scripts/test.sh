#!/usr/bin/env bash
# The whole gate, the same here as in CI. Each step is run even when an earlier one failed, so that
# one run shows everything; the last lines say what failed and count the tests.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

# Nothing is built twice where each run begins anew, and what would spare it takes gigabytes.
[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=0

log_dir=target/gate
mkdir -p "$log_dir"
results=()
steps_failed=0
tests_passed=0
tests_failed=0

# NAME COMMAND...: runs a step, shows and keeps its output, adds up the tests it reports.
step() {
    local name=$1 log=$log_dir/$1.log begun=$SECONDS verdict=ok
    shift
    echo "== $name: $*"
    "$@" 2>&1 | tee "$log"
    if [ "${PIPESTATUS[0]}" -ne 0 ]; then
        verdict=FAILED
        steps_failed=$((steps_failed + 1))
    fi
    results+=("$(printf '%-10s %-6s %4d s' "$name" "$verdict" $((SECONDS - begun)))")
    count "$log" "$verdict"
}

# Reads cargo test's and unittest's own summaries, and `N passed, N failed` lines.
count() {
    local passed failed
    read -r passed failed < <(awk '
        /^test result:/ { passed += $4; failed += $6 }
        /^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3 }
        /^Ran [0-9]+ tests? in/ { ran += $2 }
        /^(OK|FAILED) \(/ {
            n = split($0, parts, /[(, )]+/)
            for (i = 1; i <= n; i++) {
                split(parts[i], pair, "=")
                if (pair[1] == "failures" || pair[1] == "errors") broken += pair[2]
                if (pair[1] == "skipped") skipped += pair[2]
            }
        }
        END { print passed + ran - broken - skipped, failed + broken }' "$1")
    # A step that broke without counting anything is one failure.
    if [ "$2" = FAILED ] && [ "$failed" -eq 0 ]; then failed=1; fi
    tests_passed=$((tests_passed + passed))
    tests_failed=$((tests_failed + failed))
}

scripts/setup.sh test || exit 1

step fmt cargo fmt --all --check
step clippy cargo clippy --workspace --all-targets -- -D warnings
step check make --no-print-directory check
step tests cargo test --workspace --no-fail-fast
step docs env RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps
step deny scripts/deny.sh
step recipe python3 models/train/test_recipe.py
step encoder python3 models/train/encoder/test_encoder.py
step clients tests/clients/run.sh target/debug/hedge
step interop tests/interop/run.sh target/debug/examples/peer
step page tests/page/run.sh target/debug/hedge
step oidc tests/oidc/run.sh target/debug/hedge
step schema tests/schema/run.sh target/debug/hedge 50
step deploy tests/deploy/run.sh target/debug/hedge
# Asked for are 90 %. The model stands at 94.3 on held-out questions and 90.5 outside: the first bar is
# raised to where rounding, which processors do differently, still leaves room.
step model scripts/score-model.sh target/debug/hedge --bar 0.92 --bar-outside 0.90

echo
printf '%s\n' "${results[@]}"
echo "steps failed: $steps_failed"
echo "$tests_passed passed, $tests_failed failed"
[ "$steps_failed" -eq 0 ]
