// One AdamW step (decoupled weight decay), fused with gradient clipping and with the refresh of the stored weights:
// g = grad min(1, max_norm / norm), m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2,
// weight = decay weight - rate m / (sqrt(scale2 v) + eps). Nothing is written if norm is not finite.
#pragma once

#include "common/abi.h"

#define ADAMW_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Parameters of `moe_adamw_*`, whose variant is the dtype of `stored`; launched by the tile `moe_adamw_launch` over
/// one row of `len` columns.
typedef struct AdamWParams {
    /// [len], f32
    uint64_t weight;
    /// [len], f32, before clipping
    uint64_t grad;
    /// [len], f32
    uint64_t m;
    /// [len], f32
    uint64_t v;
    /// [len]: a copy of the weights; 0 means none
    uint64_t stored;
    /// [1], f32
    uint64_t norm;
    /// [3], f32: lr, rate and scale2, in place of those below and of lr in decay; 0 means none
    uint64_t rates;
    uint64_t len;
    float max_norm;
    float beta1;
    float beta2;
    float eps;
    /// 1 - lr weight_decay
    float decay;
    /// lr / (1 - beta1^step), divided in f64
    float rate;
    /// 1 / (1 - beta2^step), divided in f64
    float scale2;
    float weight_decay;
} AdamWParams;
