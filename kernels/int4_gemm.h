// y[p] = x[p] w_g^T for every row p of group g, the weights in INT4 (kernels/int4.h), dequantised on their way to the
// tensor cores.
//
// Sectors of global memory that are requested with rows of x at multiples of 16 bytes: x once for a tile of columns; of each
// tile of rows, words, scales and zero-points once, in tiles of 64 rows those of 128 columns twice; y once, twice with
// `accumulate`. Sums of splits are written twice, in halves of sectors, and read once.
#pragma once

#include "int4.h"

// The dtype, and the rows of a tile.
#define INT4_GEMM_VARIANTS(V)                                                                                \
    V(F32, 16) V(F32, 32) V(F32, 64) V(BF16, 16) V(BF16, 32) V(BF16, 64) V(F16, 16) V(F16, 32) V(F16, 64)

/// Parameters of `moe_int4_gemm_*`; launched by the tile `moe_int4_gemm_launch_<variant>` on a grid of any number of
/// blocks along x, which share the tiles, and `splits` along y, each of which takes its part of the columns of `w`.
typedef struct Int4GemmParams {
    Int4Weights w;
    /// [rows, in], or gathered
    uint64_t x;
    /// [rows, out]; written if `splits` is 1
    uint64_t y;
    /// [groups + 1], u32: first row of each group; 0 means one group
    uint64_t offsets;
    /// [rows], u32: row p of the product is row source[p] / fan of x; 0 means row p
    uint64_t source;
    /// [splits, rows, 32 strips], f32, at a multiple of 16: the sums of each split; written if there are several
    uint64_t partial;
    uint64_t x_stride;
    uint64_t y_stride;
    uint32_t rows;
    uint32_t splits;
    uint32_t fan;
    /// 1: add to y; 0: overwrite it
    uint32_t accumulate;
} Int4GemmParams;

/// y = [y +] sum over splits of partial, in their order, whatever they are of. Parameters of `moe_int4_gemm_reduce_*`; launched by the tile
/// `moe_int4_gemm_reduce_launch` over `rows` and `out`.
typedef struct Int4GemmReduceParams {
    /// [splits, rows, width], f32, at a multiple of 16
    uint64_t partial;
    /// [rows, out]
    uint64_t y;
    uint64_t y_stride;
    uint32_t rows;
    uint32_t outputs;
    uint32_t width;
    uint32_t splits;
    uint32_t accumulate;
    uint32_t unused;
} Int4GemmReduceParams;
