// A block's tile of a product with INT4 weights: the ring, the dequantisation, the sums.
#pragma once

#include "common/gemm.cuh"
#include "int4.cuh"

/// Rows of x of a tile, and what follows. `ALIGNED`: rows of x start at multiples of 16 bytes, and are as long.
template <class T_, uint32_t ROWS_, bool ALIGNED_>
struct Int4Tile {
    using T = T_;
    static constexpr uint32_t ROWS = ROWS_;
    static constexpr bool ALIGNED = ALIGNED_;
    static constexpr uint32_t WARPS = 4;
    static constexpr uint32_t THREADS = WARPS * WARP;
    /// A warp has a strip.
    static constexpr uint32_t COLUMNS = WARPS * PANEL;
    /// Depth of a stage, in columns of x and in steps.
    static constexpr uint32_t K = 64;
    static constexpr uint32_t STEPS = K / PANEL;
    static constexpr uint32_t STAGES = sizeof(T) == 2 ? 4 : 3;
    static constexpr uint32_t FRAGMENTS = ROWS / 16;
    static_assert(ROWS % 16 == 0 && STAGES >= 2, "whole fragments; one stage is read, the others are on their way");

    struct Stage {
        Tile<T, ROWS, K> x;               // [ROWS, K]
        uint4 words[WARPS][STEPS][WARP];    // each lane's own
    };
    struct Shared {
        Stage stages[STAGES];
        /// Dequantised weights, where a product does not take them from registers: rows 8 j + g of a strip are 4 g + j.
        Tile<T, sizeof(T) == 4 ? PANEL : 1, sizeof(T) == 4 ? PANEL : 32> weights[sizeof(T) == 4 ? WARPS : 1];
    };
};

/// Four rows' scales and zero-points as pairs of `T`, and the way from a word to fragments.
///
/// A word has nibbles 0 4 1 5 2 6 3 7 at k = 2t, 2t+1, 2t+8, 2t+9, 2t+16, ... : the nibbles of a pair lie 16 bits apart, so
/// one mask leaves both in the low mantissa bits of two numbers at once, and an exponent or-ed in makes them 1024 + q
/// (f16) or 128 + q (bf16).
template <class T>
struct Dequantiser;

template <>
struct Dequantiser<F16> {
    uint32_t scale[4];
    uint32_t zero[4];     // -(1024 + zero)
    uint32_t zero_16[4];  // -(64 + zero): second nibbles of a byte come out as 1024 + 16 q

    __device__ void set(const Scales& s) {
        const uint32_t shifted = s.zero << 4;
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            scale[j] = bits_as<uint32_t>(__float2half2_rn(scale_of(s, j)));
            zero[j] = __byte_perm(s.zero, 0xe4, 0x4040 + j * 0x0101);
            zero_16[j] = __byte_perm(shifted, 0xd4, 0x4040 + j * 0x0101);
        }
    }

    __device__ void fragments(Mma<F16>::B (&b)[2], uint32_t word, uint32_t j) const {
        constexpr uint32_t MAGIC = 0x64006400;
        const __half2 sixteenth = __float2half2_rn(0.0625f);
#pragma unroll
        for (uint32_t k = 0; k < 2; ++k) {
            const uint32_t low = lop3<AND_OR>(word, 0x000f000f, MAGIC);
            const uint32_t high = lop3<AND_OR>(word, 0x00f000f0, MAGIC);
            const __half2 first = __hadd2(bits_as<Pair>(low), bits_as<Pair>(zero[j]));
            const __half2 second = __hfma2(bits_as<Pair>(high), sixteenth, bits_as<Pair>(zero_16[j]));
            const auto factor = bits_as<Pair>(scale[j]);
            b[k] = {{bits_as<uint32_t>(__hmul2(first, factor)), bits_as<uint32_t>(__hmul2(second, factor))}};
            word >>= 8;
        }
    }

    static constexpr int AND_OR = (0xf0 & 0xcc) | 0xaa;
    using Pair = __half2;
};

template <>
struct Dequantiser<BF16> {
    uint32_t scale[4];
    uint32_t zero[4];  // -(128 + zero)

    __device__ void set(const Scales& s) {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            scale[j] = __byte_perm(s.scale.x, s.scale.y, 0x1010 + j * 0x2222);
            zero[j] = __byte_perm(s.zero, 0xc3, 0x4040 + j * 0x0101);
        }
    }

    __device__ void fragments(Mma<BF16>::B (&b)[2], uint32_t word, uint32_t j) const {
        constexpr uint32_t MAGIC = 0x43004300;
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t raised = lop3<AND_OR>(word >> 4 * i, 0x000f000f, MAGIC);
            const Pair code = __hadd2(bits_as<Pair>(raised), bits_as<Pair>(zero[j]));
            b[i / 2].at[i % 2] = bits_as<uint32_t>(__hmul2(code, bits_as<Pair>(scale[j])));
        }
    }

    static constexpr int AND_OR = (0xf0 & 0xcc) | 0xaa;
    using Pair = __nv_bfloat162;
};

template <>
struct Dequantiser<F32> {
    Scales scales;

    __device__ void set(const Scales& s) {
        scales = s;
    }
};

__device__ inline uint32_t word_of(const uint4& words, uint32_t j) {
    return j == 0 ? words.x : j == 1 ? words.y : j == 2 ? words.z : words.w;
}

/// sums += x[:, column ..] w^T over one step, whose words are `words`.
template <class G>
__device__ void multiply_step(
    Sums (&sums)[G::FRAGMENTS][4], typename G::Shared& shared, const typename G::Stage& stage, uint32_t column,
    const uint4& words, const Dequantiser<typename G::T>& code) {
    using T = typename G::T;
    using M = Mma<T>;
    if constexpr (sizeof(T) == 2) {
        typename M::A a[2][G::FRAGMENTS];
#pragma unroll
        for (uint32_t k = 0; k < 2; ++k) {
#pragma unroll
            for (uint32_t f = 0; f < G::FRAGMENTS; ++f) {
                a[k][f] = M::load_a(stage.x, 16 * f, column + 16 * k);
            }
        }
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            typename M::B b[2];
            code.fragments(b, word_of(words, j), j);
#pragma unroll
            for (uint32_t k = 0; k < 2; ++k) {
#pragma unroll
                for (uint32_t f = 0; f < G::FRAGMENTS; ++f) {
                    M::multiply(sums[f][j], a[k][f], b[k]);
                }
            }
        }
    } else {
        // The sums' layout wants two columns a lane, at all k: the weights go through shared memory.
        auto& weights = shared.weights[warp_id()];
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            const uint32_t word = word_of(words, j);
#pragma unroll
            for (uint32_t c = 0; c < 4; ++c) {
                Vec<T, 2> pair;
#pragma unroll
                for (uint32_t i = 0; i < 2; ++i) {
                    const int q = word >> (4 * c + 16 * i) & 0xf;
                    pair.at[i] = int4_value<T>(scale_of(code.scales, j), q - zero_of(code.scales, j));
                }
                store(&weights.element(8 * j + lane_id() / 4, 8 * c + lane_id() % 4 * 2), pair);
            }
        }
        __syncwarp();
#pragma unroll 2
        for (uint32_t k = 0; k < PANEL; k += M::K) {
            typename M::B b[2][2];
            M::load_b(b[0], weights, 0, k);
            M::load_b(b[1], weights, 16, k);
#pragma unroll
            for (uint32_t f = 0; f < G::FRAGMENTS; ++f) {
                const typename M::A a = M::load_a(stage.x, 16 * f, column + k);
#pragma unroll
                for (uint32_t j = 0; j < 4; ++j) {
                    M::multiply(sums[f][j], a, b[j / 2][j % 2]);
                }
            }
        }
        __syncwarp();
    }
}

/// The scales and zero-points of 4 rows of a strip, block after block along its columns.
template <class T>
struct Codes {
    Dequantiser<T> now;
    Scales next;
    const uint2* scale;
    const uint32_t* zero;
    bool symmetric;        // `zero` is nowhere
    uint32_t mask;         // steps of a block, less 1
    uint32_t blocks;       // that come after `now`

    /// Rows `4 quad ..` of a strip, from step `step` on, which exists.
    __device__ Codes(const Int4Weights& w, Int4Layout layout, uint32_t group, uint32_t strip, uint32_t step)
        : symmetric(w.zeros == 0), mask((1u << w.shift) - 1), blocks(w.blocks - (step >> w.shift)) {
        const uint64_t quad = scale_index(w, layout, group, strip, step >> w.shift) / 4 + lane_id() / 4;
        scale = array_of<const uint2>(w.scales) + quad;
        zero = array_of<const uint32_t>(w.zeros) + quad;
        fetch();
        advance();
    }

    /// To be called after step `step`, unless it is the last of the row: takes up the block that begins then, if one does.
    __device__ void after(uint32_t step) {
        if (((step + 1) & mask) == 0) {
            advance();
        }
    }

private:
    __device__ void advance() {
        now.set(next);
        if (--blocks > 0) {
            fetch();
        }
    }

    __device__ void fetch() {
        next = {*scale, symmetric ? 0x08080808u : *zero};
        scale += PANEL / 4;
        zero += PANEL / 4;
    }
};
