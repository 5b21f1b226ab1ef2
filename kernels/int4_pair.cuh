// Pairs of INT4 weights of 16 bits, out of the codes in one register; kernels/int4_gemm.cuh has the form for whole panels.
#pragma once

#include "common/mma.cuh"
#include "int4.cuh"

/// The scales and zero-points of two weights that share a register.
///
/// Their codes are the lowest nibbles of its halves: one mask leaves both in the low mantissa bits of two numbers at once,
/// and an exponent or-ed in makes them 1024 + q (f16) or 128 + q (bf16).
template <class T>
struct PairCode {
    static_assert(sizeof(T) == 2, "bf16 and f16");
    using Pair = std::conditional_t<std::is_same_v<T, BF16>, __nv_bfloat162, __half2>;
    static constexpr uint32_t MAGIC = std::is_same_v<T, BF16> ? 0x43004300 : 0x64006400;
    static constexpr uint32_t MINUS = 0x80008000;
    static constexpr int AND_OR = (0xf0 & 0xcc) | 0xaa;

    uint32_t scale;
    uint32_t zero;  // -(1024 + zero) or -(128 + zero)

    /// Of the weight in the low half, and of that in the high half.
    __device__ PairCode(float low, float high, uint32_t low_zero, uint32_t high_zero)
        : scale(pair_of<T>(low, high)), zero(MAGIC | MINUS | low_zero | high_zero << 16) {}

    /// The weights with these codes.
    __device__ uint32_t of(uint32_t codes) const {
        const uint32_t raised = lop3<AND_OR>(codes, 0x000f000f, MAGIC);
        const Pair difference = __hadd2(bits_as<Pair>(raised), bits_as<Pair>(zero));
        return bits_as<uint32_t>(__hmul2(difference, bits_as<Pair>(scale)));
    }
};

/// Where the words of a row are, in its panel: word `t` of them, with columns 2t, 2t + 1, 2t + 8, ..., lies 4 t further.
__device__ inline const uint32_t* words_of(
    const Int4Weights& w, Int4Layout layout, uint32_t group, uint32_t row, uint32_t step) {
    const uint4* panel = panels_of(w, layout, group, row / PANEL) + uint64_t(step) * WARP;
    return reinterpret_cast<const uint32_t*>(panel + row % PANEL / 4 * 4) + row % 4;
}

/// Scale and zero-point of a row in a step.
struct RowCode {
    float scale;
    uint32_t zero;

    __device__ RowCode(const Int4Weights& w, Int4Layout layout, uint32_t group, uint32_t row, uint32_t step) {
        const uint64_t index = scale_index(w, layout, group, row / PANEL, step >> w.shift) + row % PANEL;
        scale = __uint_as_float(uint32_t(array_of<const uint16_t>(w.scales)[index]) << 16);
        zero = w.zeros != 0 ? array_of<const uint8_t>(w.zeros)[index] : 8;
    }

    /// The same as both weights of a pair.
    template <class T>
    __device__ PairCode<T> twice() const {
        return {scale, scale, zero, zero};
    }
};

/// Columns `column..column + 4` of a row, a multiple of 4; or zeros.
template <class T>
__device__ void read_packed(
    T (&to)[4], const Int4Weights& w, uint32_t group, uint32_t row, uint32_t column, bool there) {
    if (!there) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            to[i] = rounded<T>(0.0f);
        }
        return;
    }
    const Int4Layout layout(w);
    const uint32_t step = column / PANEL, chunk = column % PANEL / CHUNK;
    const uint32_t* words = words_of(w, layout, group, row, step) + column % CHUNK / 2 * 4;
    const RowCode code(w, layout, group, row, step);
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        const int q = words[i / 2 * 4] >> (4 * chunk + i % 2 * 16) & 0xf;
        to[i] = rounded<T>(int4_value<T>(code.scale, q - int(code.zero)));
    }
}
