#!/usr/bin/env bash
# image-build.sh OUT: what the image is made of, built from the folder this script's parent is in.
#   OUT/hedge        the program
#   OUT/lib          llama.cpp's libraries, and one CPU back end per kind of processor
#   OUT/LICENSE-*    what it may be used under
set -euo pipefail
out=$1
cd "$(dirname "$0")/.."

# No target-cpu: the program itself stays portable. The path by which it finds lib/ is relative to
# itself, so the folder can be moved.
export RUSTFLAGS='-C link-arg=-Wl,-rpath,$ORIGIN/lib'
# llama.cpp's libraries need each other, and the program's path does not hold for them.
export CMAKE_INSTALL_RPATH='$ORIGIN'
cargo build --release --locked --bin hedge --features dynamic-backends

target=${CARGO_TARGET_DIR:-target}/release
# The newest, should the folder hold several builds.
built=$(ls -td "$target"/build/llama-cpp-sys-2-*/out | head -n 1)
mkdir -p "$out/lib"
cp "$target/hedge" LICENSE-APACHE LICENSE-MIT "$out/"
cp -a "$built"/lib/*.so* "$built"/backends/*.so "$out/lib/"
# Debian 12's GCC gets AMX wrong (see .cargo/config.toml); those processors take the next back end.
rm -f "$out"/lib/libggml-cpu-sapphirerapids.so
strip --strip-unneeded "$out"/lib/*.so*
