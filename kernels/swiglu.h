// h = w silu(gate) up with z = (gate | up), w = weight[source[row]]; and its gradient, in place.
#pragma once

#include "common/abi.h"

#define SWIGLU_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Parameters of `moe_swiglu_*`; launched by the tile `moe_swiglu_launch` over `rows` and `inner`.
typedef struct SwiGluParams {
    /// [rows, 2 inner]
    uint64_t z;
    /// [rows, inner]
    uint64_t h;
    /// [tokens, fan], f32; 0 means ones
    uint64_t weight;
    /// [rows], u32: the choice token * fan + slot of each row; read if there are weights
    uint64_t source;
    uint64_t z_stride;
    uint64_t h_stride;
    uint64_t weight_stride;
    uint32_t rows;
    uint32_t inner;
    uint32_t fan;
    uint32_t unused;
} SwiGluParams;

/// Parameters of `moe_swiglu_backward_*`; launched by the tile `moe_swiglu_backward_launch` over `rows`.
typedef struct SwiGluBackwardParams {
    /// [rows, 2 inner]: z on entry, its gradient on return
    uint64_t z;
    /// [rows, inner]: the gradient of h on entry, h on return
    uint64_t dh;
    /// [tokens, fan], f32; 0 means ones
    uint64_t weight;
    /// [tokens, fan], f32, overwritten; there exactly if there are weights
    uint64_t dweight;
    /// [rows], u32; read if there are weights
    uint64_t source;
    uint64_t z_stride;
    uint64_t dh_stride;
    uint64_t weight_stride;
    uint64_t dweight_stride;
    uint32_t rows;
    uint32_t inner;
    uint32_t fan;
    uint32_t unused;
} SwiGluBackwardParams;
