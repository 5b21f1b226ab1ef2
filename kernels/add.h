// y += x, in f32, rounded once.
#pragma once

#include "common/abi.h"

#define ADD_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Parameters of `moe_add_*`; launched by the tile `moe_add_launch` over `rows` and `hidden`.
typedef struct AddParams {
    /// [rows, hidden]
    uint64_t x;
    /// [rows, hidden]
    uint64_t y;
    uint64_t x_stride;
    uint64_t y_stride;
    uint32_t rows;
    uint32_t hidden;
} AddParams;
