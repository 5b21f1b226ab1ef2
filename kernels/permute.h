// Moving rows between token order and a sorted order, and summing a token's rows.
// `place` is the order: the row of each choice token * fan + slot.
#pragma once

#include "common/abi.h"

#define PERMUTE_VARIANTS(V) V(F32) V(BF16) V(F16)

/// y[place[t, s]] = x[t]. Parameters of `moe_permute_*`; launched by the tile `moe_permute_launch` over `tokens` and
/// `hidden`.
typedef struct PermuteParams {
    /// [tokens, hidden]
    uint64_t x;
    /// [tokens fan, hidden]
    uint64_t y;
    /// [tokens, fan], u32
    uint64_t place;
    uint64_t x_stride;
    uint64_t y_stride;
    uint32_t tokens;
    uint32_t hidden;
    uint32_t fan;
    uint32_t unused;
} PermuteParams;

/// y[t] = sum over s of weight[t, s] x[place[t, s]], in f32 and in slot order. Parameters of `moe_combine_*`;
/// launched by the tile `moe_combine_launch` over `tokens` and `hidden`.
typedef struct CombineParams {
    /// [tokens fan, hidden]
    uint64_t x;
    /// [tokens, hidden]
    uint64_t y;
    /// [tokens, fan], f32; 0 means ones
    uint64_t weight;
    /// [tokens, fan], u32
    uint64_t place;
    uint64_t x_stride;
    uint64_t y_stride;
    uint64_t weight_stride;
    uint32_t tokens;
    uint32_t hidden;
    uint32_t fan;
    /// 1: add to y; 0: overwrite it
    uint32_t accumulate;
} CombineParams;

/// dx[place[t, s]] = weight[t, s] dy[t], dweight[t, s] = <dy[t], x[place[t, s]]>. Parameters of
/// `moe_combine_backward_*`; launched by the tile `moe_combine_backward_launch` over `tokens`.
typedef struct CombineBackwardParams {
    /// [tokens, hidden]
    uint64_t dy;
    /// [tokens fan, hidden]
    uint64_t x;
    /// [tokens fan, hidden]
    uint64_t dx;
    /// [tokens, fan], f32
    uint64_t weight;
    /// [tokens, fan], f32
    uint64_t dweight;
    /// [tokens, fan], u32
    uint64_t place;
    uint64_t dy_stride;
    uint64_t x_stride;
    uint64_t dx_stride;
    uint64_t weight_stride;
    uint64_t dweight_stride;
    uint32_t tokens;
    uint32_t hidden;
    uint32_t fan;
    uint32_t unused;
} CombineBackwardParams;
