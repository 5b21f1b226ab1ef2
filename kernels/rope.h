// Rotates elements i and i + head_dim / 2 of every head by the angle position theta^(-2 i / head_dim), in place;
// position = row % seq.
#pragma once

#include "common/abi.h"

#define ROPE_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Parameters of `moe_rope_*`; launched by the tile `moe_rope_launch` over `rows`.
typedef struct RopeParams {
    /// [rows, heads head_dim]
    uint64_t x;
    uint64_t x_stride;
    /// theta^(-2 / head_dim), positive: the angle of pair i turns by ratio^i a position
    double ratio;
    uint32_t rows;
    uint32_t seq;
    uint32_t heads;
    /// head_dim / 2
    uint32_t half;
    /// 1: rotate by the opposite angle
    uint32_t inverse;
    uint32_t unused;
} RopeParams;
