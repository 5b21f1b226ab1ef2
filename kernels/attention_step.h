// Attention of one new token a sequence against the keys and values that are kept: with p the row's position, its query
// and key are rotated as `moe_rope_*` rotates them, key and value are stored at kv[sequence, p], and
// out = sum over j <= p of softmax_j(scale q . k[j]) v[j] for every head.
//
// A row whose sequence is not below `sequences` or whose position is not below `seq` stores nothing, and its `out`
// becomes NaN. No two rows have the same sequence: results of those that have are arbitrary.
#pragma once

#include "common/abi.h"

#define ATTENTION_STEP_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Parameters of `moe_attention_step_*`, for rows of a head of at most 512 bytes; launched by the tile
/// `moe_attention_step_launch`, with heads rows blocks along x.
typedef struct AttentionStepParams {
    /// [rows, 3 heads head_dim]: queries, keys and values, not rotated
    uint64_t qkv;
    /// [sequences, seq, 2 heads head_dim]: rotated keys, and values, by position
    uint64_t kv;
    /// [rows], u32
    uint64_t sequence;
    /// [rows], u32
    uint64_t position;
    /// [rows, heads head_dim]
    uint64_t out;
    uint64_t qkv_stride;
    /// from sequence to sequence
    uint64_t kv_sequence_stride;
    /// from position to position
    uint64_t kv_stride;
    uint64_t out_stride;
    /// theta^(-2 / head_dim), positive: the angle of pair i turns by ratio^i a position
    double ratio;
    uint32_t sequences;
    uint32_t seq;
    uint32_t heads;
    /// head_dim / 2
    uint32_t half;
    /// 1 / sqrt(head_dim)
    float scale;
    uint32_t unused;
} AttentionStepParams;
