#!/usr/bin/env bash
# What the cache costs and spares, end to end: exact and semantic hits, misses, the same without a cache, and
# the encoder alone, question by question against one instant upstream.
#
#   loadtest/reuse/run.sh target/release [questions]
#
# The folder holds `hedge` (with the engine), `fake-upstream` and `loadtest`, built for release:
#   cargo build --release -p hedge -p loadtest
set -euo pipefail
cd "$(dirname "$0")/../.."
bins=$(cd "$1" && pwd) questions=${2:-1000}
encoder=$PWD/models/hedge-encoder.gguf
work=$(mktemp -d)
pids=()
finish() { kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT
export K=cloud-key XDG_CONFIG_HOME=$work/config

node() { # name, port, what its configuration says of the cache
  mkdir "$work/$1"
  cat >"$work/$1/hedge.toml" <<TOML
listen = "127.0.0.1:$2"
[admin]
listen = "127.0.0.1:0"
[local]
enabled = false
[offline]
enabled = false
[ingress]
requests_per_second_max = 1_000_000
requests_burst_max = 1_000_000
[log]
level = "info"
$3
[[upstreams]]
name = "fake"
base_url = "http://127.0.0.1:9720/v1"
models = ["bench"]
key = "env:K"
allow_http = true
TOML
  (cd "$work/$1" && XDG_DATA_HOME=$work/$1 exec "$bins/hedge" serve --config hedge.toml >log 2>&1) &
  pids+=($!)
}
ready() { # name, what its log says then
  for _ in $(seq 150); do grep -q "$2" "$work/$1/log" && return; sleep 0.2; done
  cat "$work/$1/log" >&2
  exit 1
}

"$bins/fake-upstream" --listen 127.0.0.1:9720 --key cloud-key --model bench --forget >"$work/fake.log" 2>&1 &
pids+=($!)
# Whatever no guard refuses is served: how often that is right is measured elsewhere.
node cached 9721 "[cache]
semantic = true
max_wrong_rate = 1.0
shadow_rate = 0.0
[embeddings]
model = \"$encoder\""
node bare 9722 '[cache]
enabled = false'
ready cached "cache's model is ready"
ready cached "embedding model is ready"
ready bare ' serves '
"$bins/loadtest" reuse --cached cached,127.0.0.1:9721,fake/bench --bare bare,127.0.0.1:9722,fake/bench \
  --encoder hedge-encoder --questions "$questions" 2>"$work/said" || { cat "$work/said" "$work"/*/log >&2; exit 1; }
