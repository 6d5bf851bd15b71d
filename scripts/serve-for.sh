#!/usr/bin/env bash
# serve-for.sh HEDGE COMMAND...: runs the command with a fresh server beside it, whose address it
# finds in HEDGE_URL, as SDKs want it. The server's own settings come from HEDGE_* variables; its port is free, its
# output is shown only when the command fails.
set -euo pipefail

hedge=$1
shift
log=$(mktemp)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

"$hedge" serve --listen "127.0.0.1:$port" >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$log"' EXIT

for _ in $(seq 300); do
    if ! kill -0 "$server" 2>/dev/null; then break; fi
    if python3 - "$port" <<'PY' 2>/dev/null; then ready=yes; break; fi
import sys, urllib.request
urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/readyz", timeout=2)
PY
    sleep 0.2
done
if [ -z "${ready:-}" ]; then
    echo "the server did not become ready; its output:" >&2
    cat "$log" >&2
    exit 1
fi

status=0
HEDGE_URL=http://127.0.0.1:$port/v1 "$@" || status=$?
if [ "$status" -ne 0 ]; then
    echo "--- the server's output:" >&2
    cat "$log" >&2
fi
exit "$status"
