#!/usr/bin/env bash
# What the sealed path adds: edge -> relay -> upstream against the same two hops in plain HTTP, taking
# turns against one instant upstream; then what both ways burn of CPU for an answer, and what sealing adds.
#
#   loadtest/sealed/run.sh target/release [SHAPE, as `cells;size=512`] [rounds]
#
# The folder holds `hedge`, `fake-upstream` and `loadtest`, built for release:
#   cargo build --release -p hedge -p loadtest --no-default-features
set -euo pipefail
bins=$(cd "$1" && pwd) shape=${2:-'cells;size=512'} rounds=${3:-5}
work=$(mktemp -d)
pids=()
finish() { kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT
mkdir "$work"/{relay,edge,near,far}
export K=cloud-key XDG_CONFIG_HOME=$work/config

common() {
  cat <<'TOML'
[admin]
listen = "127.0.0.1:0"
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
TOML
}
upstream() { # name, address
  printf '[[upstreams]]\nname = "%s"\nbase_url = "%s"\nmodels = ["bench"]\n' "$1" "$2"
  printf 'key = "env:K"\nallow_http = true\n'
}
aliased() { upstream fake http://127.0.0.1:9700/v1; printf '[aliases]\nbench = "fake/bench"\n'; }
start() { # folder, arguments of hedge
  local dir=$work/$1; shift
  (cd "$dir" && XDG_DATA_HOME=$dir exec "$bins/hedge" "$@" >log 2>&1) &
  pids+=($!)
}
ready() { # folder, what its log says then
  for _ in $(seq 100); do grep -q "$2" "$work/$1/log" && return; sleep 0.2; done
  cat "$work/$1/log" >&2; exit 1
}

"$bins/fake-upstream" --listen 127.0.0.1:9700 --key cloud-key --model bench --forget >"$work/fake.log" 2>&1 &
pids+=($!)
{ echo 'listen = "127.0.0.1:9711"'; common; aliased; } >"$work/far/hedge.toml"
{ echo 'listen = "127.0.0.1:9712"'; common; upstream hop http://127.0.0.1:9711/v1; } >"$work/near/hedge.toml"
start far serve --config hedge.toml
far=${pids[-1]}
start near serve --config hedge.toml
near=${pids[-1]}

cd "$work/relay"
XDG_DATA_HOME=$work/relay "$bins/hedge" relay init --name hq --url https://localhost:9743 >said 2>&1
# One sender opens more here than any does otherwise: refusals are not what is measured.
sed -i 's/^listen = .*/listen = "127.0.0.1:9743"\nopens_per_s_max = 1_000_000/; /^\[admin\]/,/^$/d; /^\[local\]/,/^$/d' relay.toml
{ common; aliased; } >>relay.toml
start relay relay
relay=${pids[-1]}
ready relay ' relays '
sed -i 's/^models = .*/models = ["*"]/; /_max = /d' relay/edges/edge-1.toml
token=$(grep -o 'hedge-join-1\.[^ ]*' said | head -1)

cd "$work/edge"
{ echo 'listen = "127.0.0.1:9713"'; common; } >hedge.toml
XDG_DATA_HOME=$work/edge "$bins/hedge" relay join https://localhost:9743 "$token" >said 2>&1
sed -i "s/^models = \[\"auto\"\]/models = [\"bench\"]/; s/^\[\[relays\]\]/[[relays]]\nshape = \"$shape\"/" hedge.toml
start edge serve --config hedge.toml
edge=${pids[-1]}
ready edge ' serves '
for port in 9712/hop 9713/hq; do
  for _ in $(seq 50); do
    curl -sf "http://127.0.0.1:${port%/*}/v1/chat/completions" -H 'content-type: application/json' -o "$work/first" \
      -d '{"model":"'"${port#*/}"'/bench","messages":[{"role":"user","content":"hi"}]}' && break
    sleep 0.2
  done
done
grep -q '"choices"' "$work/first" || { cat "$work/edge/log" "$work/relay/log" >&2; exit 1; }

cpu_ms() { awk -v hz="$(getconf CLK_TCK)" '{print ($14 + $15) * 1000 / hz}' "/proc/$1/stat"; }
"$bins/loadtest" run --target plain,127.0.0.1:9712,hop/bench --target sealed,127.0.0.1:9713,hq/bench \
  --rounds "$rounds" --window-ms 600 --connections 1 --connections 16 --streams 64 --out "$work/out.json" \
  2>/dev/null | grep '|'
# TARGET, the process nearer to the driver, the farther one: ms of CPU of each for an answer, and how many answered
burnt() {
  local near=$2 far=$3 before answered row
  before=("$(cpu_ms "$near")" "$(cpu_ms "$far")")
  row=$("$bins/loadtest" run --target "$1" --rounds 1 --window-ms 4000 --connections "$connections" \
    --first-events 0 --streams 0 --out "$work/cpu.json" 2>/dev/null | grep '| whole')
  answered=$(echo "$row" | awk -F'|' '{print $12 + 0}')
  awk -v n="$answered" -v a="$(cpu_ms "$near")" -v a0="${before[0]}" -v b="$(cpu_ms "$far")" -v b0="${before[1]}" \
    'BEGIN { printf "%.3f %.3f %d", (a - a0) / n, (b - b0) / n, n }'
}
for connections in 1 16; do
  for round in $(seq "$rounds"); do
    plain=$(burnt plain,127.0.0.1:9712,hop/bench "$near" "$far")
    sealed=$(burnt sealed,127.0.0.1:9713,hq/bench "$edge" "$relay")
    echo "$plain $sealed"
  done | sort -n -k 5 | awk -v c="$connections" '
    { for (i = 1; i <= 6; i++) row[NR, i] = $i }
    END {
      m = int((NR + 1) / 2)   # the median by what the relay burns
      near = row[m, 1]; far = row[m, 2]; edge = row[m, 4]; relay = row[m, 5]
      printf "c=%d, %d answers: edge %.3f ms, relay %.3f ms of CPU each (least %.3f); ", c, row[m, 6], edge, relay, row[1, 5]
      printf "plain hops %.3f and %.3f: sealing adds %.3f; a relay core carries %d a second\n",
        near, far, edge + relay - near - far, 1000 / relay
    }'
done
