// The moving mean of what each expert was sent.
//
// Sectors of global memory that are requested: each row of x once for each of its slots, mu twice; for every tile of columns,
// one a slot to find its row, and 32 an expert to find its slots.
#pragma once

#include "common/abi.h"

#define CENTROID_EMA_VARIANTS(V) V(F32) V(BF16) V(F16)

/// mu[e] = (1 - beta) mu[e] + beta mean over rows r of expert e of x[source[r] / fan], for every e that has rows.
/// Parameters of `moe_centroid_ema_*`; launched by the tile `moe_centroid_ema_launch` over `experts` and `hidden`.
typedef struct CentroidEmaParams {
    /// [tokens, hidden]
    uint64_t x;
    /// [experts, hidden], f32
    uint64_t mu;
    /// [experts + 1], u32
    uint64_t offsets;
    /// [tokens fan], u32
    uint64_t source;
    uint64_t x_stride;
    uint64_t mu_stride;
    uint32_t experts;
    uint32_t hidden;
    uint32_t fan;
    float beta;
} CentroidEmaParams;
