#!/usr/bin/env bash
# What keys, limits and records add: a node with a key, three nested limits, a budget, records, an audit
# log and metrics that are scraped, against the same node without any of them, taking turns before one
# instant upstream. Memory is the most that was resident in each part.
#
#   loadtest/books/run.sh target/release [rounds]
#
# The folder holds `hedge`, `fake-upstream` and `loadtest`, built for release:
#   cargo build --release -p hedge -p loadtest
set -euo pipefail
bins=$(cd "$1" && pwd) rounds=${2:-5}
work=$(mktemp -d)
pids=()
finish() { kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT
export K=cloud-key XDG_CONFIG_HOME=$work/config

node() { # name, port, admin's port, more of its configuration
  mkdir "$work/$1"
  cat >"$work/$1/hedge.toml" <<TOML
listen = "127.0.0.1:$2"
$4
[admin]
listen = "127.0.0.1:$3"
[local]
enabled = false
[cache]
enabled = false
[ingress]
requests_per_second_max = 1_000_000
requests_burst_max = 1_000_000
[limits]
exchanges_max = 2048
[log]
level = "warn"
[[prices]]
upstream = "fake"
models = ["bench"]
input = 1.0
output = 2.0
[[upstreams]]
name = "fake"
base_url = "http://127.0.0.1:9730/v1"
models = ["bench"]
key = "env:K"
allow_http = true
TOML
  (cd "$work/$1" && XDG_DATA_HOME=$work/$1 exec "$bins/hedge" serve --config hedge.toml >log 2>&1) &
  pids+=($!)
}

"$bins/fake-upstream" --listen 127.0.0.1:9730 --key cloud-key --model bench --forget >"$work/fake.log" 2>&1 &
pids+=($!)
node bare 9731 9732 '[records]
enabled = false'
bare=${pids[-1]}
key=sk-books
node full 9733 9734 "[organisation]
limits = [{ count = \"cost\", usd = 1_000_000, per = \"month\" }, { count = \"requests\", amount = 1_000_000_000, per = \"hour\" }]
[[teams]]
name = \"team\"
limits = [{ count = \"tokens\", amount = 100_000_000_000, per = \"hour\" }]
[[keys]]
name = \"key\"
team = \"team\"
secret = \"sha256:$(printf %s "$key" | sha256sum | cut -d' ' -f1)\"
limits = [{ count = \"requests\", amount = 1_000_000_000, per = \"hour\" }, { count = \"concurrency\", amount = 4096 }]"
full=${pids[-1]}
for port in 9732 9734; do
  for _ in $(seq 50); do curl -sf "http://127.0.0.1:$port/healthz" >/dev/null && break; sleep 0.2; done
done
# As a Prometheus does, but thrice as often.
(while sleep 5; do curl -s http://127.0.0.1:9734/metrics >/dev/null || true; done) &
pids+=($!)
"$bins/loadtest" run --target "bare,127.0.0.1:9731,fake/bench,$bare" --target "full,127.0.0.1:9733,fake/bench,$full,$key" \
  --rounds "$rounds" --window-ms 600 --connections 1 --connections 64 --streams 512 --out "$work/out.json" \
  2>"$work/said" | grep '|' || { cat "$work/said" "$work"/*/log >&2; exit 1; }
curl -sf "http://127.0.0.1:9734/admin/v1/savings" | head -c 600; echo
