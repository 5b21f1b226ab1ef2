// Fragments of the factors, in the order of expand_tile.cuh, for 16-bit elements (tensor cores) and f32 (FMA).
#pragma once

#include "expand_tile.cuh"

/// Ranks that one product takes, and parts of a strip, each of two products.
template <class T>
constexpr uint32_t DEPTH = Mma<T>::K;
template <class T>
constexpr uint32_t PARTS = STRIP / (2 * Mma<T>::K);

/// Two elements in one register: those of `a` and `b` at one end each.
template <class T>
__device__ uint32_t pair(T a, T b) {
    static_assert(sizeof(T) == 2, "bf16 and f16");
    const Vec<T, 1> both[2] = {{a}, {b}};
    uint32_t bits;
    memcpy(&bits, both, sizeof(bits));
    return bits;
}

/// DEPTH ranks of a lane's rows, for a product over ranks. The matrix goes on for `low` and `high` ranks from there.
template <bool WHOLE, class T>
__device__ typename Mma<T>::A load_ranks(const T* low_from, uint32_t low, const T* high_from, uint32_t high) {
    if constexpr (sizeof(T) == 2) {
        const uint32_t first = lane_id() % 4 * LANE_RANKS;
        T a[LANE_RANKS], b[LANE_RANKS];
        read<WHOLE>(a, low_from + first, left(low, first));
        read<WHOLE>(b, high_from + first, left(high, first));
        return {{pair(a[0], a[1]), pair(b[0], b[1]), pair(a[2], a[3]), pair(b[2], b[3])}};
    } else {
        typename Mma<T>::A a;
        read<WHOLE>(a.at[0].at, low_from, low);
        read<WHOLE>(a.at[1].at, high_from, high);
        return a;
    }
}

/// Zeros in place of a row that is not kept. Not a product with 0: what another expert's rows hold may be infinite.
template <class T>
__device__ typename Mma<T>::A masked(const typename Mma<T>::A& a, bool low, bool high) {
    typename Mma<T>::A out;
    if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            out.at[i] = (i % 2 == 0 ? low : high) ? a.at[i] : 0;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            out.at[0].at[i] = low ? a.at[0].at[i] : 0.0f;
            out.at[1].at[i] = high ? a.at[1].at[i] : 0.0f;
        }
    }
    return out;
}

/// Product `step` of part `part` of a strip: A from what the lanes hold of two rows.
template <class T>
__device__ typename Mma<T>::A strip_rows(const float (&low)[LANE], const float (&high)[LANE], uint32_t part,
                                         uint32_t step) {
    typename Mma<T>::A a;
    if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            const uint32_t c = step * 4 + i * 2;
            a.at[2 * i] = pair(rounded<T>(low[c]), rounded<T>(low[c + 1]));
            a.at[2 * i + 1] = pair(rounded<T>(high[c]), rounded<T>(high[c + 1]));
        }
    } else {
        const int from = int(lane_id() / 4 * 4 + part);
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            a.at[0].at[i] = __shfl_sync(ALL_LANES, low[step * 4 + i], from);
            a.at[1].at[i] = __shfl_sync(ALL_LANES, high[step * 4 + i], from);
        }
    }
    return a;
}

/// DEPTH ranks of a strip of a factor, for products over ranks: [DEPTH, 32 columns]. `from` is at the strip and the
/// ranks; `columns` and `ranks` say how far the matrix goes on from there.
template <class T>
struct RankByColumn {
    typename Mma<T>::B at[4];

    /// Of a factor [columns, ranks], such as B of an expert.
    template <bool WHOLE>
    __device__ void load(const T* from, uint64_t stride, uint32_t columns, uint32_t ranks) {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            if constexpr (sizeof(T) == 2) {
                const uint32_t column = lane_id() / 4 * 4 + j, first = lane_id() % 4 * LANE_RANKS;
                T v[LANE_RANKS];
                read<WHOLE>(v, from + column * stride + first, column < columns ? left(ranks, first) : 0);
                at[j] = {{pair(v[0], v[1]), pair(v[2], v[3])}};
            } else {
#pragma unroll
                for (uint32_t i = 0; i < 2; ++i) {
                    const uint32_t column = (lane_id() % 4 * 2 + i) * 4 + j;
                    read<WHOLE>(at[j].at[i].at, from + column * stride, column < columns ? ranks : 0);
                }
            }
        }
    }

    /// Of a factor [ranks, columns], such as A2 of an expert.
    template <bool WHOLE>
    __device__ void load_trans(const T* from, uint64_t stride, uint32_t columns, uint32_t ranks) {
        if constexpr (sizeof(T) == 2) {
            const uint32_t column = lane_id() / 4 * 4, first = lane_id() % 4 * LANE_RANKS;
            T v[LANE_RANKS][4];
#pragma unroll
            for (uint32_t r = 0; r < LANE_RANKS; ++r) {
                const uint32_t count = first + r < ranks ? left(columns, column) : 0;
                read<WHOLE>(v[r], from + (first + r) * stride + column, count);
            }
#pragma unroll
            for (uint32_t j = 0; j < 4; ++j) {
                at[j] = {{pair(v[0][j], v[1][j]), pair(v[2][j], v[3][j])}};
            }
        } else {
#pragma unroll
            for (uint32_t i = 0; i < 2; ++i) {
                const uint32_t column = (lane_id() % 4 * 2 + i) * 4;
#pragma unroll
                for (uint32_t r = 0; r < 4; ++r) {
                    float v[4];
                    read<WHOLE>(v, from + r * stride + column, r < ranks ? left(columns, column) : 0);
#pragma unroll
                    for (uint32_t j = 0; j < 4; ++j) {
                        at[j].at[i].at[r] = v[j];
                    }
                }
            }
        }
    }
};

/// Part `part` of a strip of a factor, for products over columns: [columns of the part, 16 ranks].
template <class T>
struct ColumnByRank {
    typename Mma<T>::B at[2][2];  // product, tile of ranks

    /// Of a factor [ranks, columns], such as A2 of an expert.
    template <bool WHOLE>
    __device__ void load(const T* from, uint64_t stride, uint32_t columns, uint32_t ranks, uint32_t part) {
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            if constexpr (sizeof(T) == 2) {
                const uint32_t rank = lane_id() / 4 * 2 + j, first = lane_id() % 4 * LANE;
                T v[LANE];
                read<WHOLE>(v, from + rank * stride + first, rank < ranks ? left(columns, first) : 0);
#pragma unroll
                for (uint32_t s = 0; s < 2; ++s) {
                    at[s][j] = {{pair(v[4 * s], v[4 * s + 1]), pair(v[4 * s + 2], v[4 * s + 3])}};
                }
            } else {
#pragma unroll
                for (uint32_t s = 0; s < 2; ++s) {
#pragma unroll
                    for (uint32_t i = 0; i < 2; ++i) {
                        const uint32_t rank = (lane_id() % 4 * 2 + i) * 2 + j, first = part * LANE + s * 4;
                        const uint32_t count = rank < ranks ? left(columns, first) : 0;
                        read<WHOLE>(at[s][j].at[i].at, from + rank * stride + first, count);
                    }
                }
            }
        }
    }

    /// Of a factor [columns, ranks], such as B of an expert.
    template <bool WHOLE>
    __device__ void load_trans(const T* from, uint64_t stride, uint32_t columns, uint32_t ranks, uint32_t part) {
        if constexpr (sizeof(T) == 2) {
            const uint32_t rank = lane_id() / 4 * 2, first = lane_id() % 4 * LANE;
            T v[LANE][2];
#pragma unroll
            for (uint32_t c = 0; c < LANE; ++c) {
                read<WHOLE>(v[c], from + (first + c) * stride + rank, first + c < columns ? left(ranks, rank) : 0);
            }
#pragma unroll
            for (uint32_t j = 0; j < 2; ++j) {
#pragma unroll
                for (uint32_t s = 0; s < 2; ++s) {
                    at[s][j] = {{pair(v[4 * s][j], v[4 * s + 1][j]), pair(v[4 * s + 2][j], v[4 * s + 3][j])}};
                }
            }
        } else {
#pragma unroll
            for (uint32_t s = 0; s < 2; ++s) {
#pragma unroll
                for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
                    for (uint32_t c = 0; c < 4; ++c) {
                        float v[2];
                        const uint32_t rank = (lane_id() % 4 * 2 + i) * 2, column = part * LANE + s * 4 + c;
                        read<WHOLE>(v, from + column * stride + rank, column < columns ? left(ranks, rank) : 0);
#pragma unroll
                        for (uint32_t j = 0; j < 2; ++j) {
                            at[s][j].at[i].at[c] = v[j];
                        }
                    }
                }
            }
        }
    }
};

/// sums += rows x factor, over DEPTH ranks.
template <class T>
__device__ void multiply(Sums (&sums)[4], const typename Mma<T>::A& rows, const RankByColumn<T>& factor) {
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
        Mma<T>::multiply(sums[j], rows, factor.at[j]);
    }
}

/// sums += rows x factor, over a part of a strip, for the rows that are kept.
template <class T>
__device__ void multiply(Sums* sums, const float (&low)[LANE], const float (&high)[LANE], uint32_t part,
                         const ColumnByRank<T>& factor, bool keep_low, bool keep_high) {
#pragma unroll
    for (uint32_t s = 0; s < 2; ++s) {
        const typename Mma<T>::A a = masked<T>(strip_rows<T>(low, high, part, s), keep_low, keep_high);
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            Mma<T>::multiply(sums[j], a, factor.at[s][j]);
        }
    }
}
