// y = x.
#pragma once

#include "common/abi.h"

#define COPY_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Parameters of `moe_copy_*`; launched by the tile `moe_copy_launch` over `rows` and `hidden`.
typedef struct CopyParams {
    /// [rows, hidden]
    uint64_t x;
    /// [rows, hidden]
    uint64_t y;
    uint64_t x_stride;
    uint64_t y_stride;
    uint32_t rows;
    uint32_t hidden;
} CopyParams;
