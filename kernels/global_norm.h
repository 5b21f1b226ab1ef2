// norm = sqrt(sum of squares over all elements of all tensors), summed in f64.
#pragma once

#include "common/abi.h"

#define GLOBAL_NORM_VARIANTS(V) V(F32)

/// Elements of a partial sum: fixed, so that the bits do not depend on the device.
#define GLOBAL_NORM_CHUNK 32768

/// partial[b] = sum of squares of the chunk of block b. Parameters of `moe_global_norm_*`, for each tensor that has
/// elements; launched by the tile `moe_global_norm_launch` with ceil(len / GLOBAL_NORM_CHUNK) blocks along x.
typedef struct GlobalNormParams {
    /// [len], f32
    uint64_t grad;
    /// [ceil(len / GLOBAL_NORM_CHUNK)], f64: this tensor's part of the workspace
    uint64_t partial;
    uint64_t len;
} GlobalNormParams;

/// norm = sqrt(sum of partial). Parameters of `moe_global_norm_root`, also without tensors; launched by the tile
/// `moe_global_norm_root_launch` with one block.
typedef struct GlobalNormRootParams {
    /// [partials], f64: of all tensors
    uint64_t partial;
    /// [1], f32
    uint64_t norm;
    uint64_t partials;
} GlobalNormRootParams;
