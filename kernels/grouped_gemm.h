// Matrix products of row segments, each with its own weight; one segment is an ordinary product.
//
// Rows of group g are offsets[g]..offsets[g + 1], read on the device. A block takes tiles of `launch.rows` x
// `launch.columns` of the result in turn, so any grid of one dimension will do: as many blocks as run at once, at most
// one a tile. Sums are in f32 along K in slices of 16 (f32: one by one), in the same order for every tile, and rounded
// once: the result of a row depends neither on the grid nor on the variant nor on the other rows.
//
// Variants are a dtype and a tile: LARGE; MEDIUM and SMALL for few rows a group; ANY for addresses or strides that are
// no multiples of 16 bytes, which the others need. Their launch facts are `moe_grouped_gemm_launch_<VARIANT>`, for
// all kernels of the file.
//
// Sectors of global memory that the aligned tiles request, with B bytes an element, for tiles of m rows and n columns that
// exist, where m, n and the widths are whole tiles and addresses and strides multiples of 32 bytes:
//     GroupedGemm, Dgrad   sum over tiles of ((m + n) K + m n) B / 32       K: inputs; outputs
//     Wgrad                sum over tiles of (m + n) K B / 32 + m n / 8     K: rows of the group
// With `accumulate` the results count twice. Besides: of `offsets`, for each warp, at most 10 for 32 groups (GroupedGemm,
// Dgrad) or 2 a tile (Wgrad); of `source`, for each warp, 1 for every 8 rows of a tile (GroupedGemm) or 4 for 32 rows of
// depth (Wgrad). Where rows or columns of a tile are missing along M or N, the last is read again in place of them: in
// operands that lie K last, 64 bytes at most for every 8 that are missing, in each stage.
#pragma once

#include "common/abi.h"

#define GROUPED_GEMM_TILES(V, T) V(T, LARGE) V(T, MEDIUM) V(T, SMALL) V(T, ANY)
#define GROUPED_GEMM_WGRAD_TILES(V)                                                                      \
    V(F32, MEDIUM) V(F32, ANY) V(BF16, LARGE) V(BF16, ANY) V(F16, LARGE) V(F16, ANY)

/// y[p] = [y[p] +] x[p] w[g]^T for the rows p of group g. Parameters of `moe_grouped_gemm_*`.
typedef struct GroupedGemmParams {
    /// [rows, inputs]; with `source`, [tokens, inputs]
    uint64_t x;
    /// [groups, outputs, inputs]
    uint64_t w;
    /// [rows, outputs]
    uint64_t y;
    /// [groups + 1], u32; 0: one group with all rows
    uint64_t offsets;
    /// [rows], u32: row p of x lies at source[p] / fan; 0: at p
    uint64_t source;
    uint64_t x_stride;
    uint64_t w_group_stride;
    uint64_t w_stride;
    uint64_t y_stride;
    uint32_t rows;
    uint32_t groups;
    uint32_t outputs;
    uint32_t inputs;
    uint32_t fan;
    /// 1: add to y; 0: overwrite it
    uint32_t accumulate;
} GroupedGemmParams;

/// dx[p] = [dx[p] +] dy[p] w[g] for the rows p of group g. Parameters of `moe_grouped_gemm_dgrad_*`.
typedef struct GroupedGemmDgradParams {
    /// [rows, outputs]
    uint64_t dy;
    /// [groups, outputs, inputs]
    uint64_t w;
    /// [rows, inputs]
    uint64_t dx;
    /// [groups + 1], u32; 0: one group with all rows
    uint64_t offsets;
    uint64_t dy_stride;
    uint64_t w_group_stride;
    uint64_t w_stride;
    uint64_t dx_stride;
    uint32_t rows;
    uint32_t groups;
    uint32_t outputs;
    uint32_t inputs;
    /// 1: add to dx; 0: overwrite it
    uint32_t accumulate;
    uint32_t unused;
} GroupedGemmDgradParams;

/// dw[g] = [dw[g] +] sum over the rows p of group g of dy[p]^T x[p]; zeros if there are none. Parameters of
/// `moe_grouped_gemm_wgrad_*`.
typedef struct GroupedGemmWgradParams {
    /// [rows, outputs]
    uint64_t dy;
    /// [rows, inputs]; with `source`, [tokens, inputs]
    uint64_t x;
    /// [groups, outputs, inputs], f32
    uint64_t dw;
    /// [groups + 1], u32; 0: one group with all rows
    uint64_t offsets;
    /// [rows], u32: row p of x lies at source[p] / fan; 0: at p
    uint64_t source;
    uint64_t dy_stride;
    uint64_t x_stride;
    uint64_t dw_group_stride;
    uint64_t dw_stride;
    uint32_t rows;
    uint32_t groups;
    uint32_t outputs;
    uint32_t inputs;
    uint32_t fan;
    /// 1: add to dw; 0: overwrite it
    uint32_t accumulate;
} GroupedGemmWgradParams;
