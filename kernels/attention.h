// Causal attention, out[i] = sum over j <= i of softmax_j(scale q[i] . k[j]) v[j] for every head of every sequence of
// `seq` rows, and its gradient.
//
// A variant is compiled for a dtype and for heads of up to so many columns: `moe_attention_BF16_64` takes bf16 and
// head_dim <= 64. Each is launched by its own tile, `moe_attention_BF16_64_launch`, with
// ceil(seq / tile.rows) heads sequences blocks along x.
#pragma once

#include "common/abi.h"

#define ATTENTION_VARIANTS(V)                                \
    V(F32, 32) V(F32, 64) V(F32, 128)                        \
    V(BF16, 32) V(BF16, 64) V(BF16, 128) V(BF16, 256)        \
    V(F16, 32) V(F16, 64) V(F16, 128) V(F16, 256)

/// Parameters of `moe_attention_*`, whose tile is of queries.
typedef struct AttentionParams {
    /// [sequences seq, 3 heads head_dim]: queries, keys, values
    uint64_t qkv;
    /// [sequences seq, heads head_dim]
    uint64_t out;
    /// [heads, sequences seq], f32: ln of the sum over j of exp(scale q[i] . k[j])
    uint64_t lse;
    uint64_t qkv_stride;
    uint64_t out_stride;
    uint64_t lse_stride;
    uint32_t seq;
    uint32_t heads;
    uint32_t head_dim;
    /// 1 / sqrt(head_dim)
    float scale;
} AttentionParams;

/// With p[i, j] the probabilities, delta[i] = dout[i] . out[i] and ds[i, j] = p[i, j] (dout[i] . v[j] - delta[i]):
/// dq[i] = scale sum over j of ds[i, j] k[j], dk[j] = scale sum over i of ds[i, j] q[i],
/// dv[j] = sum over i of p[i, j] dout[i].
///
/// Parameters of `moe_attention_dq_*`, whose tile is of queries and which writes delta, and of `moe_attention_dkv_*`,
/// whose tile is of keys and which reads it: in this order on a stream.
typedef struct AttentionBackwardParams {
    /// [sequences seq, heads head_dim]
    uint64_t dout;
    /// [sequences seq, heads head_dim]
    uint64_t out;
    /// [sequences seq, 3 heads head_dim]
    uint64_t qkv;
    /// [sequences seq, 3 heads head_dim]
    uint64_t dqkv;
    /// [heads, sequences seq], f32
    uint64_t lse;
    /// [heads, sequences seq], f32, contiguous: workspace
    uint64_t delta;
    uint64_t dout_stride;
    uint64_t out_stride;
    uint64_t qkv_stride;
    uint64_t dqkv_stride;
    uint64_t lse_stride;
    uint64_t rows;
    uint32_t seq;
    uint32_t heads;
    uint32_t head_dim;
    /// 1 / sqrt(head_dim)
    float scale;
} AttentionBackwardParams;
