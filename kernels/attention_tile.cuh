// What the attention kernels share: which head a block works on, tiles between global and shared memory, products of
// a warp's rows.
#pragma once

#include "attention.h"
#include "common/mma.cuh"

constexpr float LOG2_E = 1.44269504f;

/// A tile of rows of one head of one sequence.
struct Item {
    /// First row of the tile, in its sequence.
    uint32_t first;
    uint32_t head;
    /// First row of the sequence.
    uint32_t sequence;
};

/// The block's: neighbours share a head, and with it what they read. `backwards`: the last rows, which see most keys,
/// come first.
__device__ inline Item item_of(uint32_t seq, uint32_t rows, uint32_t heads, bool backwards) {
    const uint32_t tiles = ceil_div(seq, rows);
    const uint32_t tile = blockIdx.x % tiles, rest = blockIdx.x / tiles;
    return {(backwards ? tiles - 1 - tile : tile) * rows, rest % heads, rest / heads * seq};
}

/// Rows of a head in global memory.
template <class T>
struct Rows {
    T* at;  // [count, columns]
    uint64_t stride;
    uint32_t count;
    uint32_t columns;
    /// Rows are whole aligned chunks.
    bool wide;

    __device__ T* row(uint32_t index) const {
        return at + index * stride;
    }

    /// Elements of chunk `chunk` that exist.
    __device__ uint32_t in_chunk(uint32_t chunk) const {
        const uint32_t begin = chunk * WIDE<T>;
        return begin < columns ? min(columns - begin, uint32_t(WIDE<T>)) : 0;
    }
};

/// Brings rows `first..` to a tile, with zeros where there are none.
template <uint32_t THREADS, class T, class S>
__device__ void copy_tile(S& to, const Rows<const T>& from, uint32_t first) {
    static_assert(THREADS % S::CHUNKS == 0 && S::ROWS % (THREADS / S::CHUNKS) == 0, "a thread keeps its column");
    constexpr uint32_t STEP = THREADS / S::CHUNKS;
    const uint32_t chunk = threadIdx.x % S::CHUNKS, top = threadIdx.x / S::CHUNKS;
    const uint32_t width = from.in_chunk(chunk);
    const T* at = from.row(first + top) + chunk * S::WIDTH;
    auto all = [&](auto aligned) {
#pragma unroll (decltype(aligned)::value ? 4 : 1)
        for (uint32_t row = top; row < S::ROWS; row += STEP, at += STEP * from.stride) {
            const uint32_t count = first + row < from.count ? width : 0;
            copy_chunk<decltype(aligned)::value>(to.chunk(row, chunk), count != 0 ? at : from.at, count);
        }
    };
    from.wide ? all(std::true_type()) : all(std::false_type());
}

/// Writes a tile to rows `first..`, as far as they exist.
template <uint32_t THREADS, class T, class S>
__device__ void store_tile(const Rows<T>& to, uint32_t first, const S& from) {
    constexpr uint32_t STEP = THREADS / S::CHUNKS;
    const uint32_t chunk = threadIdx.x % S::CHUNKS;
    const uint32_t width = to.in_chunk(chunk);
    const uint32_t end = width != 0 ? min(S::ROWS, to.count - first) : 0;
    for (uint32_t row = threadIdx.x / S::CHUNKS; row < end; row += STEP) {
        T* at = to.row(first + row) + chunk * S::WIDTH;
        const Vec<T, WIDE<T>> v = load<WIDE<T>>(from.chunk(row, chunk));
        if (to.wide) {
            store(at, v);
        } else {
#pragma unroll
            for (uint32_t i = 0; i < WIDE<T>; ++i) {
                if (i < width) {
                    at[i] = v.at[i];
                }
            }
        }
    }
}

/// `use(value, row, column)` for every value a lane has of sums [16 M, 8 N] at (`row`, `column`).
template <int M, int N, class Use>
__device__ void for_values(Sums (&sums)[M][N], uint32_t row, uint32_t column, Use use) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                use(sums[m][n].at[i], row + 16 * m + Sums::row(i), column + 8 * n + Sums::col(i));
            }
        }
    }
}

/// Puts sums [16 M, 8 N] times `scale`, rounded, at (`row`, `column`) of a tile.
template <class S, int M, int N>
__device__ void put(S& tile, uint32_t row, uint32_t column, const Sums (&sums)[M][N], float scale) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                auto* to = &tile.element(row + 16 * m + Sums::row(i), column + 8 * n + Sums::col(i));
                const float x = sums[m][n].at[i] * scale, y = sums[m][n].at[i + 1] * scale;
                using T = std::remove_pointer_t<decltype(to)>;
                if constexpr (sizeof(T) == 2) {
                    *reinterpret_cast<uint32_t*>(to) = pair_of<T>(x, y);
                } else {
                    store(to, Vec<T, 2>{x, y});
                }
            }
        }
    }
}

/// d += a b^T for rows `row..row + 16 M` of a: [.., DEPTH] and all rows of b: [8 N, DEPTH].
template <class T, int M, int N, class S, class R>
__device__ void multiply_rows(Sums (&d)[M][N], const S& a, uint32_t row, const R& b) {
    using F = Mma<T>;
    static_assert(R::ROWS == 8 * N && S::COLS == R::COLS, "one depth, all rows of b");
#pragma unroll (sizeof(T) == 2 ? 8 : 2)
    for (uint32_t k = 0; k < S::COLS; k += F::K) {
        typename F::A left[M];
#pragma unroll
        for (int m = 0; m < M; ++m) {
            left[m] = F::load_a(a, row + 16 * m, k);
        }
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            typename F::B right[2];
            F::load_b(right, b, 8 * n, k);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                F::multiply(d[m][n], left[m], right[0]);
                F::multiply(d[m][n + 1], left[m], right[1]);
            }
        }
    }
}

/// d += p b for p: [16 M, 8 DEPTH], rounded to T, and columns `column..column + 8 N` of b: [8 DEPTH, ..].
template <class T, int M, int N, int DEPTH, class R>
__device__ void multiply_sums(Sums (&d)[M][N], const Sums (&p)[M][DEPTH], const R& b, uint32_t column) {
    using F = Mma<T>;
    static_assert(R::ROWS == 8 * DEPTH, "one depth");
#pragma unroll
    for (uint32_t k = 0; k < 8 * DEPTH; k += F::K) {
        typename F::A left[M];
#pragma unroll
        for (int m = 0; m < M; ++m) {
            left[m] = F::from_sums(p[m], k);
        }
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            typename F::B right[2];
            F::load_b_trans(right, b, column + 8 * n, k);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                F::multiply(d[m][n], left[m], right[0]);
                F::multiply(d[m][n + 1], left[m], right[1]);
            }
        }
    }
}

/// Largest value of the four lanes that share the rows of sums, NaN ignored.
__device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

/// Sum over the four lanes that share the rows of sums, the same bits in each.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
