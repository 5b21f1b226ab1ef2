// Softmax cross-entropy, alone and fused with its gradient.
#pragma once

#include "common/abi.h"

#define CROSS_ENTROPY_VARIANTS(V) V(F32) V(BF16) V(F16)

/// loss[p] = -ln softmax(logits[p])[targets[p]], and, with `gradient`,
/// logits[p] <- scale (softmax(logits[p]) - onehot(targets[p])). A target that is not below `vocab` gives NaN; a loss
/// that is not finite gives a gradient of NaN. Parameters of `moe_cross_entropy_*`; launched by the tile `moe_cross_entropy_launch` over `rows`, below 2^31.
typedef struct CrossEntropyParams {
    /// [rows, vocab]: logits; their gradient on return if `gradient` is 1
    uint64_t logits;
    /// [rows], u32
    uint64_t targets;
    /// [rows], f32, in nats, not scaled
    uint64_t loss;
    uint64_t logits_stride;
    uint32_t rows;
    uint32_t vocab;
    /// Weight of every row in the gradient
    float scale;
    /// 1: replace the logits by their gradient; 0: leave them
    uint32_t gradient;
} CrossEntropyParams;
