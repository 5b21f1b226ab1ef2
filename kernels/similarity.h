// How alike experts are: all dot products between them, and cosines of two kinds fused into one similarity.
// The pairs (i, j), j <= i, lie packed at i (i + 1) / 2 + j wherever only one half of a symmetric matrix is kept.
//
// Sectors of global memory that are requested: x once for every tile.rows experts; the P pairs of a span P / 4 at least, as
// rows that begin anywhere, and from large tiles twice, by lanes that hold neighbours; to sum them up, P / 4 and an end for
// every 32; the upper half of a result one a pair. Similarity reads the lower halves once, and two norms for each pair, of
// which that of the row is one for 32 pairs.
#pragma once

#include "common/abi.h"

#define GRAM_VARIANTS(V) V(F32) V(BF16) V(F16)

/// partial[s, (i, j)] = <x_i, x_j> over the s-th span of the experts' chunks. Parameters of `moe_gram_*` and
/// `moe_gram_small_*`, which differ in the tile; launched by the tile `moe_gram_launch` (`moe_gram_small_launch`, for
/// at most tile.rows experts) with n (n + 1) / 2 blocks along x for n = ceil(experts / tile.rows), and one along y for
/// each span.
///
/// A chunk is 16 bytes of a row, or what is left of it: an expert has rows ceil(columns / elements of a chunk) of
/// them, at most 2^31 with one span more.
typedef struct GramParams {
    /// [experts, rows, columns]
    uint64_t x;
    /// [spans, experts (experts + 1) / 2], f64
    uint64_t partial;
    uint64_t expert_stride;
    uint64_t row_stride;
    uint32_t experts;
    uint32_t rows;
    uint32_t columns;
    /// Chunks of a span, a multiple of tile.columns.
    uint32_t span;
} GramParams;

/// gram[i, j] = gram[j, i] = sum over s of partial[s, (i, j)], in the order of s strided by tile.rows. Parameters of
/// `moe_gram_sum`, launched with ceil(experts (experts + 1) / 2 / tile.columns) blocks along x of the tile
/// `moe_gram_sum_launch`.
typedef struct GramSumParams {
    /// [spans, experts (experts + 1) / 2], f64
    uint64_t partial;
    /// [experts, experts], f64
    uint64_t gram;
    uint64_t gram_stride;
    uint32_t experts;
    uint32_t spans;
    /// 1: add to gram, of which the lower half counts; 0: overwrite it
    uint32_t accumulate;
    uint32_t unused;
} GramSumParams;

/// s[i, j] = s[j, i] = alpha cos(param)[i, j] + (1 - alpha) cos(act)[i, j] for j < i, s[i, i] = 1, where
/// cos(g)[i, j] = g[i, j] / sqrt(g[i, i]) / sqrt(g[j, j]), or 0 without a positive norm. Parameters of
/// `moe_similarity_F64`, launched with ceil(experts (experts + 1) / 2 / tile.columns) blocks along x of the tile
/// `moe_similarity_launch`.
typedef struct SimilarityParams {
    /// [experts, experts], f64: the lower half is read
    uint64_t param;
    /// [experts, experts], f64: the lower half is read
    uint64_t act;
    /// [experts, experts], f64
    uint64_t s;
    uint64_t param_stride;
    uint64_t act_stride;
    uint64_t s_stride;
    double alpha;
    uint32_t experts;
    uint32_t unused;
} SimilarityParams;
