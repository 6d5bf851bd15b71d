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
# These as in .cargo/config.toml, which is not here.
export CMAKE_PROJECT_ggml_INCLUDE=$PWD/src/engine/ggml.cmake
export JEMALLOC_SYS_WITH_MALLOC_CONF=background_thread:true,dirty_decay_ms:10,muzzy_decay_ms:0,thp:never
# Kernels for arm64 have pages of 4, 16 or 64 KiB, and jemalloc runs on those of what it was built for
# or smaller.
if [ "$(uname -m)" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi
cargo build --release --locked --bin hedge --features dynamic-backends

target=${CARGO_TARGET_DIR:-target}/release
# The newest, should the folder hold several builds.
built=$(ls -td "$target"/build/llama-cpp-sys-2-*/out | head -n 1)
mkdir -p "$out/lib"
cp "$target/hedge" LICENSE-APACHE LICENSE-MIT "$out/"
cp -a "$built"/lib/*.so* "$built"/backends/*.so "$out/lib/"
# AMX, which src/engine/tiles.h mends for Debian 12's GCC, has not been tried in an image: those
# processors take the next back end.
rm -f "$out"/lib/libggml-cpu-sapphirerapids.so
strip --strip-unneeded "$out"/lib/*.so*
