// The logits of a tile of tokens, from global memory to shared memory.
#pragma once

#include "common/mma.cuh"
#include "route_select.cuh"

/// A block's tile: `TOKENS_` tokens and room for `PIECES_` pieces of COLUMNS logits.
template <class T_, uint32_t TOKENS_, uint32_t PIECES_>
struct LogitTile {
    using T = T_;
    static constexpr uint32_t TOKENS = TOKENS_;
    static constexpr uint32_t PIECES = PIECES_;
    static constexpr uint32_t WARPS = 8;
    static constexpr uint32_t THREADS = WARPS * WARP;
    /// Logits of a warp in a piece: what two fragments of w hold.
    static constexpr uint32_t STRIP = 16;
    static constexpr uint32_t COLUMNS = WARPS * STRIP;
    static constexpr uint32_t LOGITS = PIECES * COLUMNS;
    /// Hidden columns of a stage: 128 bytes of each row.
    static constexpr uint32_t DEPTH = 128 / sizeof(T);
    static constexpr uint32_t STAGES = 3;
    /// Of a row of logits: the warp that stores sums [16, 8] then meets every bank once.
    static constexpr uint32_t STRIDE = LOGITS + 8;

    struct Stages {
        Tile<T, TOKENS, DEPTH> x[STAGES];
        Tile<T, COLUMNS, DEPTH> w[STAGES];
    };
    struct Smem {
        union {
            Stages stages;                   // until the products are done
            float logits[TOKENS][STRIDE];    // [TOKENS, logits], then scores
        };
        uint32_t count[LOGITS + 1];  // [clusters + experts]: tokens, slots
        uint32_t cluster[TOKENS];    // chosen
        float share[TOKENS];         // makes scores probabilities; 0 of a token that is skipped
        float squares[TOKENS];       // sum of lse^2
    };
};

/// A matrix in global memory.
struct Matrix {
    uint64_t address;
    uint64_t stride;
    uint32_t rows;
    uint32_t columns;
};

/// Brings the part of a matrix that starts at (row, column) to a tile; zeros outside.
template <uint32_t THREADS, bool ALIGNED, class S>
__device__ void copy_part(S& tile, const Matrix& from, uint32_t row, uint32_t column) {
    using T = std::remove_reference_t<decltype(tile.at[0])>;
#pragma unroll
    for (uint32_t at = threadIdx.x; at < S::ROWS * S::CHUNKS; at += THREADS) {
        const uint32_t r = at / S::CHUNKS, chunk = at % S::CHUNKS, c = column + chunk * S::WIDTH;
        const bool inside = row + r < from.rows && c < from.columns;
        const T* first = inside ? row_of<const T>(from.address, from.stride, row + r) + c
                                : array_of<const T>(from.address);  // for an address that is aligned
        copy_chunk<ALIGNED>(tile.chunk(r, chunk), first, inside ? min(S::WIDTH, from.columns - c) : 0);
    }
}

// Formula: logits[t, c] = sum over h of x[t, h] w[c, h] / temperature.
// Mapping: block -> TOKENS tokens and all logits; warp -> STRIP columns of each piece, for all the tokens.
// Idea: the sums of all pieces stay in registers, so that the block walks `hidden` once: of each DEPTH columns it
//       loads x once, then w piece by piece through a ring of STAGES. A token costs its own row, and the block the
//       weight once; logits do not leave the block.
template <class C, bool ALIGNED>
__device__ void logits_of(const RouteParams& p, uint32_t logits, typename C::Smem& smem) {
    using M = Mma<typename C::T>;
    constexpr uint32_t STRIPS = C::TOKENS / 16;
    const uint32_t first = blockIdx.x * C::TOKENS, warp_column = warp_id() * C::STRIP;
    const uint32_t pieces = ceil_div(logits, C::COLUMNS);

    const Matrix x = {p.x, p.x_stride, p.tokens, p.hidden}, w = {p.w, p.w_stride, logits, p.hidden};

    // The next piece to load, and its slots in the rings of x and w.
    uint32_t depth = 0, piece = 0, slot_x = 0, slot_w = 0;
    auto copy_next = [&] {
        if (depth < p.hidden) {
            copy_part<C::THREADS, ALIGNED>(smem.stages.w[slot_w], w, piece * C::COLUMNS, depth);
            if (piece == 0) {
                copy_part<C::THREADS, ALIGNED>(smem.stages.x[slot_x], x, first, depth);
            }
            slot_w = (slot_w + 1) % C::STAGES;
            if (++piece == pieces) {
                piece = 0;
                depth += C::DEPTH;
                slot_x = (slot_x + 1) % C::STAGES;
            }
        }
        cp_async_commit();
    };
#pragma unroll
    for (uint32_t stage = 0; stage + 1 < C::STAGES; ++stage) {
        copy_next();
    }
    Sums sums[C::PIECES][STRIPS][2];
    const uint32_t depths = ceil_div(p.hidden, C::DEPTH);
    uint32_t use_x = 0, use_w = 0;
    for (uint32_t d = 0; d < depths; ++d) {
#pragma unroll
        for (uint32_t n = 0; n < C::PIECES; ++n) {
            if (n < pieces) {
                cp_async_wait<C::STAGES - 2>();
                __syncthreads();
                copy_next();  // into the slot that every warp has left behind
#pragma unroll
                for (uint32_t k = 0; k < C::DEPTH; k += M::K) {
                    typename M::B b[2];
                    M::load_b(b, smem.stages.w[use_w], warp_column, k);
#pragma unroll
                    for (uint32_t m = 0; m < STRIPS; ++m) {
                        const typename M::A a = M::load_a(smem.stages.x[use_x], m * 16, k);
                        M::multiply(sums[n][m][0], a, b[0]);
                        M::multiply(sums[n][m][1], a, b[1]);
                    }
                }
                use_w = (use_w + 1) % C::STAGES;
            }
        }
        use_x = (use_x + 1) % C::STAGES;
    }
    cp_async_wait<0>();
    __syncthreads();
    const float temperature = temperature_of(p.rule);
#pragma unroll
    for (uint32_t n = 0; n < C::PIECES; ++n) {
#pragma unroll
        for (uint32_t m = 0; m < STRIPS; ++m) {
#pragma unroll
            for (uint32_t i = 0; i < 8; i += 2) {
                const Sums& sum = sums[n][m][i / 4];
                const int at = i % 4;
                const uint32_t column = n * C::COLUMNS + warp_column + i / 4 * 8 + Sums::col(at);
                const float2 pair = {sum.at[at] / temperature, sum.at[at + 1] / temperature};
                *reinterpret_cast<float2*>(&smem.logits[m * 16 + Sums::row(at)][column]) = pair;
            }
        }
    }
    __syncthreads();
}
