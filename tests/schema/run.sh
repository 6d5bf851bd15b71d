#!/usr/bin/env bash
# run.sh [HEDGE] [CASES]: asks every operation of the served document what its
# schema allows and what it does not, CASES times each (50 by default), and holds every answer to the
# document: its status, its media type, its headers, its body; and nothing from 500 on, but where
# schemathesis.toml says so. Once with the model in the binary answering, once with the fake upstream; what
# asks no model is asked once. The admin listener is asked too.
#
# SCHEMA_SEED sets the seed, SCHEMA_OUT a folder for the counts, what failed, the servers' logs and the reports,
# SCHEMA_TARGETS which of `local cloud admin` are asked, SCHEMA_JOBS how many ask at once.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)

hedge=$(cd "$root" && realpath "${1:-target/debug/hedge}")
cases=${2:-50}
seed=${SCHEMA_SEED:-1}
fake_upstream=$(dirname "$hedge")/fake-upstream
if [ ! -x "$hedge" ] || [ ! -x "$fake_upstream" ]; then
    echo "$hedge or $fake_upstream is missing: run cargo build --workspace --bins" >&2
    exit 1
fi

# Installs again only when the pin changed.
if ! cmp -s requirements.txt .venv/pins; then
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/pins
fi

scratch=$(mktemp -d)
out=${SCHEMA_OUT:-$scratch}
mkdir -p "$out"
out=$(realpath "$out")
children=()
finish() {
    for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
    for child in "${children[@]}"; do wait "$child" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap finish EXIT

# Models for embeddings and rankings: the fixture, and the same with another number in its header. After
# the key comes the value's type, then the value: 1 is the mean.
rank=$root/tests/fixtures/rank-tiny.gguf
python3 - "$rank" "$scratch/embed-tiny.gguf" <<'PY'
import sys
model = bytearray(open(sys.argv[1], "rb").read())
key = b"bert.pooling_type"
model[model.index(key) + len(key) + 4] = 1
open(sys.argv[2], "wb").write(model)
PY

exec 3< <(exec "$fake_upstream" --listen 127.0.0.1:0 --key cloud-key --model bench --forget)
children+=($!)
read -r cloud <&3
export CLOUD_KEY=cloud-key SCHEMA_KEY=schema-key
export XDG_DATA_HOME=$scratch

# URL: what is there, as long as it is a good answer.
get() {
    python3 -c 'import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=10).read().decode())' \
        "$1" 2>/dev/null
}

# TARGET MODEL: starts a node whose alias `target` is MODEL, and says where it listens, as "$api $admin".
serve() {
    cat >"$scratch/$1.toml" <<TOML
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[local]
output_tokens_default = 4
[embeddings]
model = "$scratch/embed-tiny.gguf"
[rerank]
model = "$rank"
[aliases]
target = "$2"
[[upstreams]]
name = "fake"
base_url = "http://$cloud/v1"
key = "env:CLOUD_KEY"
models = ["bench"]
TOML
    # Keys that are made over the admin listener have callers asked for one; so there is one from the start.
    # And what is said there is kept, so that it can be read.
    if [ "$1" = admin ]; then
        (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$scratch/texts.key")
        cat >>"$scratch/$1.toml" <<TOML
[retention]
enabled = true
keep_days = 1
keys = [{ file = "$scratch/texts.key" }]
[[keys]]
name = "of-the-file"
secret = "sha256:$(printf %s "$SCHEMA_KEY" | sha256sum | cut -d ' ' -f 1)"
TOML
    fi
    : >"$scratch/$1.out"
    "$hedge" serve --config "$scratch/$1.toml" >"$scratch/$1.out" 2>"$out/$1.log" &
    children+=($!)
    for _ in $(seq 600); do
        api=$(sed -n 's|.* serves http://\([^/]*\)/v1.*|\1|p' "$scratch/$1.out" | head -1)
        admin=$(sed -n 's|.*metrics  http://\([^/]*\)/metrics.*|\1|p' "$scratch/$1.out" | head -1)
        if [ -n "$api" ] && [ -n "$admin" ] && get "http://$api/readyz" | grep -qv starting; then
            return
        fi
        sleep 0.1
    done
    echo "the server did not become ready; its output:" >&2
    cat "$scratch/$1.out" "$out/$1.log" >&2
    exit 1
}

checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance
checks+=,response_headers_conformance,unsupported_method,allow_header_conformance
checks+=,use_after_free,ensure_resource_availability,ndjson_lines_conformance

# Every value that is near a limit, one at a time: some thousands, so only beside many cases.
phases=examples,fuzzing
if [ "$cases" -ge 200 ]; then phases=examples,coverage,fuzzing; fi

# NAME ADDRESS ARGUMENTS...: one run. What failed is shown at its end.
schemathesis() {
    local name=$1 address=$2
    shift 2
    SCHEMA_COUNTS=$out/$name.json SCHEMA_DOCUMENT=$scratch/openapi.json SCHEMA_API=http://$api \
        SCHEMA_ADMIN=http://$admin \
        .venv/bin/schemathesis --config-file schemathesis.toml run \
        --url "http://$address" --checks "$checks" --seed "$seed" --continue-on-failure \
        --suppress-health-check all --warnings off --workers 1 \
        "$@" "$scratch/openapi.json" >"$out/$name.txt" 2>&1 || echo "$name" >>"$scratch/failed"
}

# NAME ADDRESS PATTERN: asks the operations whose paths match, by several processes at once, for the
# generator is what takes time and one process uses one processor.
ask() {
    local name=$1 address=$2 pattern=$3 shard failed askers=()
    echo "== $name: http://$address, $cases cases an operation, seed $seed"
    get "http://$address/openapi.json" >"$scratch/openapi.json" || get "http://$api/openapi.json" >"$scratch/openapi.json"
    rm -f "$scratch/failed" "$out/$name".*.json "$out/$name".*.txt "$out/$name".*.failed
    for shard in $(seq "$jobs"); do
        local arguments=()
        while read -r operation; do arguments+=(--include-operation-id "$operation"); done \
            < <(.venv/bin/python operations.py "$scratch/openapi.json" "$pattern" "$shard" "$jobs")
        if [ ${#arguments[@]} -eq 0 ]; then continue; fi
        schemathesis "$name.$shard" "$address" --phases "$phases" --max-examples "$cases" "${arguments[@]}" &
        askers+=($!)
    done
    wait "${askers[@]}"
    # Responses are kept, so what is asked of them hangs together.
    if [ "$name" != admin ]; then
        schemathesis "$name.stateful" "$address" --phases stateful --max-examples $((cases / 10 + 5)) \
            --include-path-regex '^/v1/(responses|models)'
    fi
    for failed in $(cat "$scratch/failed" 2>/dev/null); do
        sed -n '/= \(ERRORS\|FAILURES\) =/,$p' "$out/$failed.txt"
        status=1
    done
    .venv/bin/python counted.py "$out/$name".*.json || status=1
}

status=0
jobs=${SCHEMA_JOBS:-2}
for target in ${SCHEMA_TARGETS:-local cloud admin}; do
    case $target in
    local)
        serve local local
        SCHEMA_MODEL=local ask local "$api" '^/(?!admin(/|$))'
        ;;
    cloud)
        # What no model of this kind is asked for says nothing new a second time.
        serve cloud fake/bench
        SCHEMA_MODEL=fake/bench ask cloud "$api" \
            '^/(v1/(chat|completions|responses|messages|models)|v1beta|api/(chat|generate|show))'
        ;;
    admin)
        serve admin local
        ask admin "$admin" '^/(admin(/.*)?|healthz|readyz|metrics)$'
        ;;
    esac
done
exit "$status"
