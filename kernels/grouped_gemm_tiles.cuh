// Tiles of grouped products, by dtype: those that GROUPED_GEMM_TILES names.
#pragma once

#include "common/gemm.cuh"

// At most 48 KB of stages: two blocks of four warps on every chip from sm_80 on, sm_86 with its 100 KB included.
template <class T>
struct Tiles {
    using LARGE = GemmTile<T, 128, 128, 2, 2, 3, true>;
    using MEDIUM = GemmTile<T, 64, 128, 2, 2, 4, true>;
    using SMALL = GemmTile<T, 16, 128, 1, 4, 4, true>;
    using ANY = GemmTile<T, 64, 64, 2, 2, 2, false>;
};

// Fragments of f32 take twice the registers.
template <>
struct Tiles<F32> {
    using LARGE = GemmTile<F32, 128, 64, 2, 2, 4, true>;
    using MEDIUM = GemmTile<F32, 64, 64, 2, 2, 4, true>;
    using SMALL = GemmTile<F32, 16, 128, 1, 4, 4, true>;
    using ANY = GemmTile<F32, 64, 64, 2, 2, 2, false>;
};

/// The launch facts of a tile.
#define GROUPED_GEMM_LAUNCH(V, TILE)                                                                     \
    extern "C" {                                                                                         \
    __constant__ LaunchTile moe_grouped_gemm_launch_##V##_##TILE = {                                     \
        Tiles<V>::TILE::THREADS, Tiles<V>::TILE::M, Tiles<V>::TILE::N, 0};                               \
    }
