// y = x gain / rms(x) with rms(x) = sqrt(mean(x^2) + eps) over each row, and its gradient.
#pragma once

#include "common/abi.h"

#define RMS_NORM_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Rows of a partial sum of the gain's gradient: fixed, so that the bits do not depend on the device.
#define RMS_NORM_PARTIAL_ROWS 32

/// Parameters of `moe_rms_norm_*`; launched by the tile `moe_rms_norm_launch` over `rows`, below 2^31.
typedef struct RmsNormParams {
    /// [rows, hidden]
    uint64_t x;
    /// [hidden]
    uint64_t gain;
    /// [rows, hidden]
    uint64_t y;
    /// [rows], f32: 1 / rms(x)
    uint64_t inv_rms;
    uint64_t x_stride;
    uint64_t y_stride;
    uint32_t rows;
    uint32_t hidden;
    float eps;
    uint32_t unused;
} RmsNormParams;

/// With n = x inv_rms and g = dy gain: dx = inv_rms (g - n mean(g n)), and the sums of dy n over the rows of each
/// block. Parameters of `moe_rms_norm_backward_*`; launched by the tile `moe_rms_norm_backward_launch` over `rows`.
typedef struct RmsNormBackwardParams {
    /// [rows, hidden]
    uint64_t dy;
    /// [rows, hidden]
    uint64_t x;
    /// [hidden]
    uint64_t gain;
    /// [rows], f32
    uint64_t inv_rms;
    /// [rows, hidden]
    uint64_t dx;
    /// [ceil(rows / RMS_NORM_PARTIAL_ROWS), hidden], f32, contiguous: workspace
    uint64_t partial;
    uint64_t dy_stride;
    uint64_t x_stride;
    uint64_t dx_stride;
    uint32_t rows;
    uint32_t hidden;
    /// 1: add to dx; 0: overwrite it
    uint32_t accumulate_dx;
    uint32_t unused;
} RmsNormBackwardParams;

/// dgain = [dgain +] sum over the rows of partial. Parameters of `moe_rms_norm_dgain`; launched by the tile
/// `moe_rms_norm_dgain_launch` with ceil(hidden / tile.columns) blocks, also if there are no rows.
typedef struct RmsNormDgainParams {
    /// [partials, hidden], f32, contiguous: of moe_rms_norm_backward_*
    uint64_t partial;
    /// [hidden], f32
    uint64_t dgain;
    uint32_t partials;
    uint32_t hidden;
    /// 1: add to dgain; 0: overwrite it
    uint32_t accumulate;
    uint32_t unused;
} RmsNormDgainParams;
