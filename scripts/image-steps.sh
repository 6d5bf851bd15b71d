#!/usr/bin/env bash
# Proves the image's steps where no container engine is: copies what the Dockerfile copies into a
# clean folder, runs its build there, then runs the result as a user without rights, with nothing
# writable but a data folder, and asks it something. Takes a whole build of llama.cpp in all its
# CPU variants: 15 CPU-minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

work=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

echo "== copy, as the Dockerfile's first stage does"
mkdir "$work/build" "$work/data"
sed -n '/^FROM .* AS build/,/^FROM debian/p' Dockerfile | grep '^COPY ' | while read -r _ line; do
    read -ra words <<<"$line"
    target=$work/build/${words[-1]}
    for source in "${words[@]:0:${#words[@]}-1}"; do
        # What git does not know is not part of a clean folder.
        git ls-files -z -- "$source" | while IFS= read -r -d '' file; do
            install -D -m "$(stat -c %a "$file")" "$file" "$work/build/$file"
        done
    done
    [ -e "$target" ] || { echo "COPY $line: nothing came of it" >&2; exit 1; }
done

echo "== build"
(cd "$work/build" && CARGO_TARGET_DIR=$work/target scripts/image-build.sh "$work/out")
du -sh "$work/out"

echo "== run without rights"
chmod -R go-w "$work"
chmod 755 "$work"
as_nobody=()
if [ "$(id -u)" -eq 0 ]; then
    chown 65534:65534 "$work/data"
    as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs)
fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
(cd / && exec env -i PATH="$work/out:/usr/bin:/bin" XDG_DATA_HOME="$work/data" \
    HEDGE_LISTEN="127.0.0.1:$port" "${as_nobody[@]}" hedge serve >"$work/log" 2>&1) &
server=$!

echo "== the Dockerfile's health check"
health=$(python3 - "$root/Dockerfile" "$port" <<'PY'
import json, re, sys
text = open(sys.argv[1], encoding="utf-8").read().replace("\\\n", " ")
command = json.loads(re.search(r"^HEALTHCHECK .*?CMD (\[.*\])$", text, re.M).group(1))
assert command[:2] == ["bash", "-c"]
print(command[2].replace("8787", sys.argv[2]))
PY
)
for _ in $(seq 150); do
    if bash -c "$health" 2>/dev/null; then healthy=yes; break; fi
    sleep 0.2
done
[ -n "${healthy:-}" ] || { cat "$work/log" >&2; echo "never healthy" >&2; exit 1; }

echo "== ask"
reply=$("$work/out/hedge" chat --url "http://127.0.0.1:$port/v1" 'What is the capital of Portugal?')
echo "$reply"
grep -q Lisbon <<<"$reply"
echo "the image's steps work"
