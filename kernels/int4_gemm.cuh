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
    static constexpr bool HALF = sizeof(T) == 2;
    static constexpr uint32_t WARPS = 4;
    static constexpr uint32_t THREADS = WARPS * WARP;
    /// Strips of a warp: two of the few rows, so that fragments of x are loaded half as often.
    static constexpr uint32_t STRIPS = HALF && ROWS == 16 ? 2 : 1;
    static constexpr uint32_t COLUMNS = WARPS * STRIPS * PANEL;
    /// Depth of a stage, in columns of x and in steps. With 64 rows registers do not last for the addresses of 128.
    static constexpr uint32_t K = HALF && ROWS < 64 ? 128 : 64;
    static constexpr uint32_t STEPS = K / PANEL;
    static constexpr uint32_t STAGES = !HALF ? 3 : ROWS < 64 ? 2 : 4;
    static constexpr uint32_t FRAGMENTS = ROWS / 16;
    static_assert(ROWS % 16 == 0, "whole fragments");

    struct Stage {
        Tile<T, ROWS, K> x;                          // [ROWS, K]
        uint4 words[WARPS * STRIPS * STEPS * WARP];  // [strips, STEPS, 32]: each lane's own
    };
    struct Shared {
        Stage stages[STAGES];
        /// Dequantised weights, where a product does not take them from registers: rows 8 j + g of a strip are 4 g + j.
        Tile<T, HALF ? 1 : PANEL, HALF ? 32 : PANEL> weights[HALF ? 1 : WARPS];
    };
    /// A value that stays in its register. Few rows have some to spare.
    template <class V>
    static __device__ V kept(V value) {
        return STRIPS > 1 ? settled(value) : value;
    }
    /// A lane's first words in a stage.
    static __device__ uint32_t words_of_lane() {
        return warp_id() * (STRIPS * STEPS * WARP) + lane_id();
    }
    static_assert(!HALF || STAGES * sizeof(Stage) <= 49152, "two blocks on every chip from sm_80 on");
};

/// Sums of a warp.
template <class G>
using StripSums = Sums[G::STRIPS][G::FRAGMENTS][4];

/// From words to fragments of `q - zero`, which every dtype holds exactly: the scale follows when sums of a block are done.
///
/// A word has nibbles 0 4 1 5 2 6 3 7 at k = 2t, 2t+1, 2t+8, 2t+9, 2t+16, ... : the nibbles of a pair lie 16 bits apart, so
/// one mask leaves both in the low mantissa bits of two numbers at once, and an exponent or-ed in makes them 1024 + q
/// (f16) or 128 + q (bf16).
template <class T>
struct Codes;

template <>
struct Codes<F16> {
    __half2 low[4];   // -(1024 + zero)
    __half2 high[4];  // -(64 + zero): an exponent of 64 makes 64 + q of the second nibble of a byte

    /// Zero-points of 4 rows, a byte each.
    __device__ explicit Codes(uint32_t zeros) {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            low[j] = bits_as<__half2>(__byte_perm(zeros, 0, 0x4040 + j * 0x0101) | 0xe400e400);
            high[j] = __hadd2(low[j], __float2half2_rn(960.0f));
        }
    }

    /// Of columns 16 k .. of row j of the four.
    __device__ Mma<F16>::B fragment(uint32_t word, uint32_t j, uint32_t k) const {
        const uint32_t bits = word >> 8 * k;
        const __half2 first = __hadd2(bits_as<__half2>(lop3<AND_OR>(bits, 0x000f000f, 0x64006400)), low[j]);
        const __half2 second = __hadd2(bits_as<__half2>(lop3<AND_OR>(bits, 0x00f000f0, 0x54005400)), high[j]);
        return {{bits_as<uint32_t>(first), bits_as<uint32_t>(second)}};
    }

    static constexpr int AND_OR = (0xf0 & 0xcc) | 0xaa;
};

template <>
struct Codes<BF16> {
    using Pair = __nv_bfloat162;
    Pair zero[4];  // -(128 + zero)

    __device__ explicit Codes(uint32_t zeros) {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            zero[j] = bits_as<Pair>(__byte_perm(zeros, 0, 0x4040 + j * 0x0101) | 0xc300c300);
        }
    }

    /// Of columns 16 k .. of row j of the four.
    __device__ Mma<BF16>::B fragment(uint32_t word, uint32_t j, uint32_t k) const {
        Mma<BF16>::B b;
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            const uint32_t raised = lop3<AND_OR>(word >> (8 * k + 4 * i), 0x000f000f, 0x43004300);
            b.at[i] = bits_as<uint32_t>(__hadd2(bits_as<Pair>(raised), zero[j]));
        }
        return b;
    }

    static constexpr int AND_OR = (0xf0 & 0xcc) | 0xaa;
};

__device__ inline uint32_t word_of(const uint4& words, uint32_t j) {
    return j == 0 ? words.x : j == 1 ? words.y : j == 2 ? words.z : words.w;
}

/// The weights of a warp's strips, stage after stage of their columns: `multiply` adds x w^T over the next. `BLOCK`: steps
/// of a span, whose columns share a scale.
template <class G, uint32_t BLOCK, class T = typename G::T>
struct StripWeights {
    const char* scale[G::STRIPS];  // this lane's 8, of columns 8t .. of the strip, in block 0
    const char* zero[G::STRIPS];   // this lane's 4, of rows 4g .. of the strip, in block 0
    uint32_t symmetric;            // 1: `zero` is nowhere
    uint32_t zeros[G::STRIPS];     // of the block of span `next`
    uint32_t next;                 // span
    uint32_t last;                 // block
    uint32_t shift;                // with PARTS: a block has 2^shift spans

    /// Of strips `strip ..`, the last instead of those beyond it, from stage `stage` on, which exists.
    __device__ StripWeights(const Int4Weights& w, Int4Layout layout, uint32_t group, uint32_t strip, uint32_t stage)
        : symmetric(G::kept(uint32_t(w.zeros == 0))), next(stage * (G::STEPS / BLOCK)), last(w.blocks - 1),
          shift(w.shift - 1) {
#pragma unroll
        for (uint32_t i = 0; i < G::STRIPS; ++i) {
            const uint64_t row = scale_index(w, layout, group, min(strip + i, layout.strips - 1), 0);
            scale[i] = G::kept(array_of<const char>(w.scales) + (row + lane_id() % 4 * CHUNK) * sizeof(BF16));
            zero[i] = G::kept(array_of<const char>(w.zeros) + row + lane_id() / 4 * 4);
            zeros[i] = 0x08080808;
        }
        look_ahead();
    }

    __device__ void multiply(StripSums<G>& sums, typename G::Shared&, const typename G::Stage& stage) {
        const uint32_t mine = G::kept(G::words_of_lane());
#pragma unroll
        for (uint32_t begin = 0; begin < G::STEPS; begin += BLOCK) {
            const uint32_t at = block_of_next();
            uint4 scales[G::STRIPS];
            uint32_t here[G::STRIPS];
#pragma unroll
            for (uint32_t i = 0; i < G::STRIPS; ++i) {
                scales[i] = __ldg(reinterpret_cast<const uint4*>(scale[i] + at * uint64_t(PANEL * sizeof(BF16))));
                here[i] = zeros[i];
            }
            ++next;
            look_ahead();
#pragma unroll
            for (uint32_t f = 0; f < G::FRAGMENTS; f += PASS) {
                PassSums block;
                multiply_block(block, here, stage, mine, begin, f);
#pragma unroll
                for (uint32_t i = 0; i < G::STRIPS; ++i) {
                    add(sums[i], f, block[i], scales[i]);
                }
            }
        }
    }

private:
    /// Whether blocks may be longer than spans, other than those of whole rows.
    static constexpr bool PARTS = G::STEPS == 2 && BLOCK == 2;
    /// Fragments of rows of a pass over a block: with 64 rows the sums of a block would not fit the registers.
    static constexpr uint32_t PASS = G::FRAGMENTS > 2 ? 2 : G::FRAGMENTS;
    using PassSums = Sums[G::STRIPS][PASS][4];

    /// Steps beyond the matrix have zeros in x, and the last scale.
    __device__ uint32_t block_of_next() const {
        return min(PARTS ? next >> shift : next, last);
    }

    __device__ void look_ahead() {
        if (symmetric == 0) {
            const uint32_t at = block_of_next();
#pragma unroll
            for (uint32_t i = 0; i < G::STRIPS; ++i) {
                zeros[i] = __ldg(reinterpret_cast<const uint32_t*>(zero[i] + at * uint64_t(PANEL)));
            }
        }
    }

    /// Sums of x (q - zero) over BLOCK steps, for rows from fragment `first` on.
    static __device__ void multiply_block(PassSums& block, const uint32_t (&zeros)[G::STRIPS],
                                          const typename G::Stage& stage, uint32_t mine, uint32_t begin,
                                          uint32_t first) {
        using M = Mma<T>;
#pragma unroll
        for (uint32_t s = begin; s < begin + BLOCK; ++s) {
            uint4 words[G::STRIPS];
#pragma unroll
            for (uint32_t i = 0; i < G::STRIPS; ++i) {
                words[i] = ld_shared_v4(shared_address(stage.words + mine + (i * G::STEPS + s) * WARP));
            }
#pragma unroll
            for (uint32_t k = 0; k < 2; ++k) {
                typename M::A a[PASS];
#pragma unroll
                for (uint32_t f = 0; f < PASS; ++f) {
                    a[f] = M::load_a(stage.x, 16 * (first + f), s * PANEL + 16 * k);
                }
#pragma unroll
                for (uint32_t ij = 0; ij < G::STRIPS * 4; ++ij) {
                    const uint32_t i = ij / 4, j = ij % 4;
                    const typename M::B b = Codes<T>(zeros[i]).fragment(word_of(words[i], j), j, k);
#pragma unroll
                    for (uint32_t f = 0; f < PASS; ++f) {
                        M::multiply(block[i][f][j], a[f], b);
                    }
                }
            }
        }
    }

    /// sums += scale block. Columns 2t and 2t + 1 of fragment j are rows 8t + j and 8t + 4 + j of the strip.
    static __device__ void add(Sums (&sums)[G::FRAGMENTS][4], uint32_t first, const Sums (&block)[PASS][4],
                               const uint4& scales) {
        const uint32_t pairs[4] = {scales.x, scales.y, scales.z, scales.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
#pragma unroll
            for (uint32_t i = 0; i < 2; ++i) {
                const uint32_t pair = pairs[2 * i + j / 2];
                const float factor = __uint_as_float(j % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
#pragma unroll
                for (uint32_t f = 0; f < PASS; ++f) {
                    float(&sum)[4] = sums[first + f][j].at;
                    sum[i] = fmaf(factor, block[f][j].at[i], sum[i]);
                    sum[i + 2] = fmaf(factor, block[f][j].at[i + 2], sum[i + 2]);
                }
            }
        }
    }
};

/// The sums' layout wants two columns a lane, at all k: the weights go through shared memory.
template <class G, uint32_t BLOCK>
struct StripWeights<G, BLOCK, F32> {
    Scales now;
    Scales after;
    const uint2* scale;
    const uint32_t* zero;
    bool symmetric;   // `zero` is nowhere
    uint32_t mask;    // steps of a block, less 1
    uint32_t blocks;  // that come after `now`
    uint32_t step;    // the next
    uint32_t steps;

    /// From stage `stage` on, which exists.
    __device__ StripWeights(const Int4Weights& w, Int4Layout layout, uint32_t group, uint32_t strip, uint32_t stage)
        : symmetric(w.zeros == 0), mask((1u << w.shift) - 1), step(stage * G::STEPS), steps(layout.steps) {
        blocks = w.blocks - (step >> w.shift);
        const uint64_t row = scale_index(w, layout, group, min(strip, layout.strips - 1), step >> w.shift);
        const uint64_t quad = row / 4 + lane_id() / 4;
        scale = array_of<const uint2>(w.scales) + quad;
        zero = array_of<const uint32_t>(w.zeros) + quad;
        fetch();
        advance();
    }

    __device__ void multiply(StripSums<G>& sums, typename G::Shared& shared, const typename G::Stage& stage) {
#pragma unroll
        for (uint32_t s = 0; s < G::STEPS; ++s) {
            // A step beyond the matrix has zeros in x, and any words and scales.
            multiply_step(sums[0], shared.weights[warp_id()], stage, s);
            ++step;
            if (step < steps && (step & mask) == 0) {
                advance();
            }
        }
    }

private:
    template <class Weights>
    __device__ void multiply_step(Sums (&sums)[G::FRAGMENTS][4], Weights& weights, const typename G::Stage& stage,
                                  uint32_t s) const {
        using M = Mma<F32>;
        const uint4 words = ld_shared_v4(shared_address(stage.words + G::words_of_lane() + s * WARP));
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            const uint32_t word = word_of(words, j);
#pragma unroll
            for (uint32_t c = 0; c < 4; ++c) {
                Vec<F32, 2> pair;
#pragma unroll
                for (uint32_t i = 0; i < 2; ++i) {
                    const int q = word >> (4 * c + 16 * i) & 0xf;
                    pair.at[i] = scale_of(now, j) * float(q - zero_of(now, j));
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
                const typename M::A a = M::load_a(stage.x, 16 * f, s * PANEL + k);
#pragma unroll
                for (uint32_t j = 0; j < 4; ++j) {
                    M::multiply(sums[f][j], a, b[j / 2][j % 2]);
                }
            }
        }
        __syncwarp();
    }

    __device__ void advance() {
        now = after;
        if (--blocks > 0) {
            fetch();
        }
    }

    __device__ void fetch() {
        after = {*scale, symmetric ? 0x08080808u : *zero};
        scale += PANEL / 4;
        zero += PANEL / 4;
    }
};
