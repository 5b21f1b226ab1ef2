// Matrix products of row segments (grouped_gemm.h) whose weights end in INT4 (int4.h): low-rank factors beside a base. They
// are dequantised on their way to shared memory; sums, and thus results, are those of one product with all weights in the
// dtype. Variants, tiles and alignment are those of grouped_gemm.h, but for f32, whose fragments that lie K first take too
// many registers for LARGE tiles of `columns`.
//
// Sectors requested beside those that grouped_gemm.h counts for the base's tiles: each tile of the factors asks for the
// panels that it needs of them, 16 bytes a 32-byte sector, and for the scales and zero-points of its rows once a step.
#pragma once

#include "common/abi.h"
#include "grouped_gemm.h"
#include "int4.h"

#define GROUPED_GEMM_INT4_COLUMNS_TILES(V)                                                               \
    V(F32, MEDIUM) V(F32, SMALL) V(F32, ANY) GROUPED_GEMM_TILES(V, BF16) GROUPED_GEMM_TILES(V, F16)

/// y[p] = x[p] [w[g] ; first[g] ; second[g]]^T for the rows p of group g: the last rows of the weights are packed.
/// Parameters of `moe_grouped_gemm_int4_rows_*`.
typedef struct GroupedGemmInt4RowsParams {
    /// [groups, F, inputs]
    Int4Weights first;
    /// [groups, F, inputs], of the same format
    Int4Weights second;
    /// [rows, inputs]; with `source`, [tokens, inputs]
    uint64_t x;
    /// [groups, outputs, inputs]
    uint64_t w;
    /// [rows, outputs + 2 F]
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
    uint32_t unused;
} GroupedGemmInt4RowsParams;

/// y[p] = x[p] [w[g] | last[g]^T]^T for the rows p of group g: the last columns of the weights are packed. Parameters of
/// `moe_grouped_gemm_int4_columns_*`.
typedef struct GroupedGemmInt4ColumnsParams {
    /// [groups, F, outputs]
    Int4Weights last;
    /// [rows, inputs + F]; with `source`, [tokens, inputs + F]
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
    uint32_t unused;
} GroupedGemmInt4ColumnsParams;
