// Put in front of ggml's AMX file by ggml.cmake.
//
// GCC before 14 takes `_tile_loadconfig` to read 8 bytes of the 64 it reads (GCC bug 114098), so what was
// written to the others is left out, and the first prompt ends in an illegal instruction.
#pragma once

#include <immintrin.h>

#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 14

struct __attribute__((__may_alias__)) hedge_tile_config {
    char bytes[64];
};

static inline void hedge_tile_loadconfig(const void *config) {
    __asm__ volatile("ldtilecfg\t%X0" : : "m"(*static_cast<const hedge_tile_config *>(config)));
}

#define _tile_loadconfig hedge_tile_loadconfig

#endif
