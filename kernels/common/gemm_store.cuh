// Stores the sums of common/gemm.cuh.
//
// A lane holds two neighbours of each row of a fragment, which is less than a sector for four lanes of 16-bit elements.
// So four lanes trade what they hold of neighbouring fragments until each has 16 bytes in a row.
#pragma once

#include "common/gemm.cuh"

/// Where a tile of sums goes: `to` is its first element; `rows` and `columns` of it exist.
template <class Out>
struct GemmOut {
    Out* to;
    uint64_t stride;
    uint32_t rows;
    uint32_t columns;
    bool accumulate;
};

/// Lanes that differ in `BIT` swap: the lower gives `high` for the other's `low`. Afterwards (low, high) of a lower lane
/// is both lanes' `low`, of an upper lane both lanes' `high`, lower lane first.
template <uint32_t BIT, int N>
__device__ void swap_between_lanes(uint32_t (&low)[N], uint32_t (&high)[N]) {
    const bool upper = lane_id() & BIT;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const uint32_t got = __shfl_xor_sync(ALL_LANES, upper ? low[i] : high[i], BIT);
        (upper ? low[i] : high[i]) = got;
    }
}

/// What four lanes hold of a row of `PIECES` neighbouring fragments, a piece of each, becomes a whole 16 bytes of the row
/// for each lane: of fragment lane % PIECES. Doing it again undoes it. A single piece stays where it is.
template <int PIECES, int WORDS>
__device__ void trade_pieces(uint32_t (&words)[PIECES][WORDS]) {
    static_assert(PIECES == 1 || PIECES * WORDS == 4, "16 bytes");
    if constexpr (PIECES >= 2) {
        swap_between_lanes<1>(words[0], words[1]);
    }
    if constexpr (PIECES == 4) {
        swap_between_lanes<1>(words[2], words[3]);
        swap_between_lanes<2>(words[0], words[2]);
        swap_between_lanes<2>(words[1], words[3]);
    }
}

/// `WIDTH` neighbours from column `c` on, with zeros beyond `columns`.
template <bool ALIGNED, int WIDTH, class Out>
__device__ Vec<Out, WIDTH> load_part(const Out* row, uint32_t c, uint32_t columns) {
    if (ALIGNED && c + WIDTH <= columns) {
        return load<WIDTH>(row + c);
    }
    Vec<Out, WIDTH> v;
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) {
        v.at[e] = c + e < columns ? row[c + e] : rounded<Out>(0.0f);
    }
    return v;
}

/// Stores those of `WIDTH` neighbours from column `c` on that lie below `columns`.
template <bool ALIGNED, int WIDTH, class Out>
__device__ void store_part(Out* row, uint32_t c, uint32_t columns, const Vec<Out, WIDTH>& v) {
    if (ALIGNED && c + WIDTH <= columns) {
        store_global(row + c, v);
        return;
    }
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) {
        if (c + e < columns) {
            row[c + e] = v.at[e];
        }
    }
}

/// Rounds the sums and stores them, or adds them to what is there: with aligned rows 16 bytes a lane, whole sectors.
template <class G, class Out>
__device__ void store_sums(const GemmSums<G>& sums, const GemmOut<Out>& out) {
    constexpr int WIDTH = G::ALIGNED ? WIDE<Out> : 2;
    constexpr int PIECES = WIDTH / 2;           // of two elements, that a lane holds of the row of a fragment
    constexpr int PARTS = G::FRAGMENTS_N / PIECES;  // of a warp's row, that lanes store as a whole
    using Whole = Vec<Out, WIDTH>;
    using Words = uint32_t[PIECES][sizeof(Out) / 2];
    const uint32_t t = lane_id() % 4;
    const uint32_t fragment = t % PIECES;
    const uint32_t column = G::warp_column() + fragment * 8 + t / PIECES * WIDTH;
#pragma unroll
    for (uint32_t i = 0; i < G::FRAGMENTS_M * 2; ++i) {
        const uint32_t row = G::warp_row() + 8 * i + lane_id() / 4;
        Out* to = out.to + row * out.stride;
        const uint32_t columns = row < out.rows ? out.columns : 0;
        Whole old[PARTS] = {};
        if (out.accumulate) {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                old[part] = load_part<G::ALIGNED, WIDTH>(to, column + part * PIECES * 8, columns);
            }
        }
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            Words words;
            memcpy(words, &old[part], sizeof(words));
            if (out.accumulate) {
                trade_pieces(words);
            }
#pragma unroll
            for (int piece = 0; piece < PIECES; ++piece) {
                const float* sum = sums.at[i / 2][part * PIECES + piece].at + i % 2 * 2;
                float pair[2] = {sum[0], sum[1]};
                Vec<Out, 2> v;
                if (out.accumulate) {
                    memcpy(&v, words[piece], sizeof(v));
                    pair[0] += to_float(v.at[0]);
                    pair[1] += to_float(v.at[1]);
                }
                v = rounded<Out>(pair);
                memcpy(words[piece], &v, sizeof(v));
            }
            trade_pieces(words);
            Whole v;
            memcpy(&v, words, sizeof(v));
            store_part<G::ALIGNED>(to, column + part * PIECES * 8, columns, v);
        }
    }
}
