#!/usr/bin/env bash
# fuzz.sh [SECONDS] [TARGET...]: each fuzzer of fuzz/ for so long (60 s when left out), one after the
# other, on one core. It begins with what is kept in fuzz/corpus and with what earlier runs found, in
# target/fuzz/corpus. A finding ends the run; its input lies in target/fuzz/artifacts.
#
# fuzz.sh keep [TARGET...]: writes what reaches new code, and no more, back to fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

keeps=no
seconds=60
case ${1:-} in
keep) keeps=yes && shift ;;
[0-9]*) seconds=$1 && shift ;;
esac
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(gguf calls grammars frames sealed messages manifests shapes slim)

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "needs a nightly compiler and cargo-fuzz: rustup toolchain install nightly && cargo install cargo-fuzz" >&2
    exit 1
fi

# An input takes microseconds to read. One that takes ten seconds is a finding (less would find a machine
# that is busy), as is one that takes 512 MiB in all, or allots 64 MiB at a time.
options=(-timeout=10 -rss_limit_mb=512 -malloc_limit_mb=64 -max_len=8192)
work=target/fuzz

for target in "${targets[@]}"; do
    mkdir -p "$work/corpus/$target" "$work/artifacts/$target"
    extra=()
    [ ! -f "fuzz/$target.dict" ] || extra+=("-dict=fuzz/$target.dict")
    fuzz=(cargo +nightly fuzz run --target-dir "$work/build" "$target")
    if [ "$keeps" = yes ]; then
        kept=$work/kept/$target
        rm -rf "$kept"
        mkdir -p "$kept"
        "${fuzz[@]}" "$kept" "fuzz/corpus/$target" "$work/corpus/$target" -- -merge=1 "${options[@]}"
        rm -rf "fuzz/corpus/$target"
        cp -r "$kept" "fuzz/corpus/$target"
        du -sh --apparent-size "fuzz/corpus/$target"
        continue
    fi
    echo "== $target: $seconds s"
    "${fuzz[@]}" "$work/corpus/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -artifact_prefix="$work/artifacts/$target/" \
        -print_final_stats=1 "${options[@]}" "${extra[@]}"
done
