// The layout of INT4 weights on the device, and the values they stand for.
#pragma once

#include "common/math.cuh"
#include "int4.h"

/// Rows of a strip, and columns of a step: a panel.
constexpr uint32_t PANEL = 32;
/// Columns of a chunk; a panel's row has 4.
constexpr uint32_t CHUNK = 8;

/// Counts that follow from the shape.
struct Int4Layout {
    uint32_t strips;
    uint32_t steps;

    __device__ explicit Int4Layout(const Int4Weights& w)
        : strips(w.outputs / PANEL + (w.outputs % PANEL != 0)), steps(w.inputs / PANEL + (w.inputs % PANEL != 0)) {}
};

/// Where the panels of a strip lie: [steps, 32] of 4 words.
__device__ inline uint4* panels_of(const Int4Weights& w, Int4Layout layout, uint32_t group, uint32_t strip) {
    return array_of<uint4>(w.words) + (uint64_t(group) * layout.strips + strip) * layout.steps * WARP;
}

/// Which scale and zero-point the first row of a strip has in block `block`.
__device__ inline uint64_t scale_index(
    const Int4Weights& w, Int4Layout layout, uint32_t group, uint32_t strip, uint32_t block) {
    const uint64_t row = w.per_matrix != 0 ? group : (uint64_t(group) * layout.strips + strip) * w.blocks + block;
    return row * PANEL;
}

/// Scales and zero-points of 4 neighbouring rows, as stored.
struct Scales {
    uint2 scale;    // [4], bf16
    uint32_t zero;  // [4], u8
};

/// Those at `index`, a multiple of 4.
__device__ inline Scales load_scales(const Int4Weights& w, uint64_t index) {
    return {
        array_of<const uint2>(w.scales)[index / 4],
        w.zeros != 0 ? array_of<const uint32_t>(w.zeros)[index / 4] : 0x08080808u,
    };
}

/// Scale of row `i` of the four, as f32.
__device__ inline float scale_of(const Scales& s, uint32_t i) {
    const uint32_t pair = i / 2 == 0 ? s.scale.x : s.scale.y;
    return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
}

/// Zero-point of row `i` of the four.
__device__ inline int zero_of(const Scales& s, uint32_t i) {
    return s.zero >> 8 * i & 0xff;
}

/// The value of `q - zero` in a product of `T`: the scale rounded to `T` (bf16 fits f32 and bf16, and f16 between 2^-17 and
/// 65504), their product rounded to `T`.
template <class T>
__device__ float int4_value(float scale, int difference) {
    return to_float(rounded<T>(to_float(rounded<T>(scale)) * float(difference)));
}
