// Looking up rows of a table, and its gradient.
#pragma once

#include "common/abi.h"

#define EMBEDDING_VARIANTS(V) V(F32) V(BF16) V(F16)

/// y[p] = scale table[ids[p]]; a row whose id is not below `vocab` becomes NaN. Parameters of `moe_embedding_*`;
/// launched by the tile `moe_embedding_launch` over `rows` and `hidden`.
typedef struct EmbeddingParams {
    /// [rows], u32
    uint64_t ids;
    /// [vocab, hidden]
    uint64_t table;
    /// [rows, hidden]
    uint64_t y;
    uint64_t table_stride;
    uint64_t y_stride;
    uint32_t rows;
    uint32_t hidden;
    uint32_t vocab;
    float scale;
} EmbeddingParams;

/// dtable[ids[p]] += scale dy[p], in row order; rows whose id is not below `vocab` are left out. Parameters of
/// `moe_embedding_backward_*`; launched by the tile `moe_embedding_backward_launch` over `rows`, below 2^31, and
/// `hidden`.
typedef struct EmbeddingBackwardParams {
    /// [rows], u32
    uint64_t ids;
    /// [rows, hidden]
    uint64_t dy;
    /// [vocab, hidden], f32
    uint64_t dtable;
    uint64_t dy_stride;
    uint64_t dtable_stride;
    uint32_t rows;
    uint32_t hidden;
    uint32_t vocab;
    float scale;
} EmbeddingBackwardParams;
