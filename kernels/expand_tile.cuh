// What the kernels of Expand share: which rows a block has, fragments of factors, and the activation.
//
// A warp works on fragments of 16 rows and on strips of 32 inner columns. Lane (g, t) = (lane / 4, lane % 4) holds rows
// g ("low") and g + 8 ("high") and, of a strip, the eight columns 8t, ..., 8t + 7: the rows of a product's operands may
// be named in any order as long as both operands agree, so fragments are made such that
//     column n of tile j of a strip (n < 8, j < 4) is column 4n + j:   a lane's sums are eight neighbours of a row;
//     rank n of tile j of a chunk of 16 ranks (j < 2) is rank 2n + j:  a lane's sums are ranks 4t, ..., 4t + 3;
//     depth k of a product over 16 ranks: a lane holds ranks 4t, ..., 4t + 3; over a strip: its eight columns.
// All loads of a lane are then of neighbours, straight from global memory into fragments, and every 32-byte sector that
// a warp asks for is used whole.
#pragma once

#include "common/mma.cuh"
#include "expand.h"

/// Inner columns of a strip, and those of a lane.
constexpr uint32_t STRIP = 32, LANE = 8;
/// Ranks of a chunk, and those of a lane.
constexpr uint32_t RANKS = 16, LANE_RANKS = 4;
/// Most slots of a token.
constexpr uint32_t SLOTS = 16;
/// No row, no expert.
constexpr uint32_t NONE = 0xffffffffu;

/// How far a sequence of `end` elements goes on from `first`.
__device__ inline uint32_t left(uint32_t end, uint32_t first) {
    return first < end ? end - first : 0;
}

/// The first `count` of `N` neighbours, then zeros. `WHOLE`: vectors are whole and aligned.
template <bool WHOLE, class T, int N>
__device__ void read(T (&to)[N], const T* from, uint32_t count) {
    constexpr int PIECE = !WHOLE ? 1 : N * sizeof(T) > 16 ? WIDE<T> : N;
#pragma unroll
    for (int i = 0; i < N; i += PIECE) {
        Vec<T, PIECE> v{};
        if (uint32_t(i) < count) {
            v = load<PIECE>(from + i);
        }
#pragma unroll
        for (int j = 0; j < PIECE; ++j) {
            to[i + j] = v.at[j];
        }
    }
}

/// A run of rows of one group.
struct Run {
    uint32_t group;
    uint32_t begin;
    uint32_t end;
    /// Its number among all runs, and how many its group has.
    uint32_t index;
    uint32_t of_group;
};

/// Run number `index` if every group is cut into runs of at most `most` rows; false if there are fewer. The same in all
/// lanes of a warp: a lane counts the runs of one group of a window of 32.
__device__ inline bool find_run(const uint32_t* offsets, uint32_t groups, uint32_t most, uint32_t index, Run& run) {
    uint32_t before = 0;
    for (uint32_t window = 0; window < groups; window += WARP) {
        const uint32_t group = window + lane_id();
        const uint32_t begin = offsets[min(group, groups)], end = offsets[min(group + 1, groups)];
        const uint32_t count = ceil_div(end - begin, most);
        const uint32_t last = sum_up_to_lane(count);  // runs of the window up to and with this group
        const uint32_t lanes = __ballot_sync(ALL_LANES, index - before < last);
        if (lanes != 0) {
            const int lane = __ffs(lanes) - 1;
            const uint32_t inside = index - before - __shfl_sync(ALL_LANES, last - count, lane);
            run.group = window + lane;
            run.begin = __shfl_sync(ALL_LANES, begin, lane) + inside * most;
            run.end = min(run.begin + most, __shfl_sync(ALL_LANES, end, lane));
            run.index = index;
            run.of_group = __shfl_sync(ALL_LANES, count, lane);
            return true;
        }
        before += __shfl_sync(ALL_LANES, last, WARP - 1);
    }
    return false;
}

/// The rows of a block, in the order in which its warps take them, and the slots of each, in the order of their experts.
template <uint32_t ROWS>
struct Table {
    uint32_t row[ROWS];            // cluster order; NONE behind the last
    uint32_t token[ROWS];          // where there is a row
    uint32_t expert[SLOTS][ROWS];  // number in the cluster, ascending; NONE without a row
    float weight[SLOTS][ROWS];     // 0 without a row
    uint8_t slot[SLOTS][ROWS];     // which of the token's

    uint32_t found[SLOTS][ROWS];  // as `expert`, before sorting
    uint32_t lowest[2][ROWS];
    uint32_t place[ROWS];

    /// The number in its cluster of the expert of a slot.
    template <class Params>
    static __device__ uint32_t expert_of(const Params& p, uint32_t cluster, uint32_t token, uint32_t slot) {
        const uint32_t* offsets = array_of<const uint32_t>(p.expert_offsets) + cluster * p.per;  // [per + 1]
        const uint32_t place = row_of<const uint32_t>(p.place, p.topk, token)[slot];
        uint32_t from = 0, to = p.per;  // the last expert that begins at or before `place` is in from..to
        while (to - from > 1) {
            const uint32_t middle = from + (to - from) / 2;
            (offsets[middle] <= place ? from : to) = middle;
        }
        return from;
    }

    /// Sorts the slots of each row of a run by expert, and the rows by the experts of their first two slots: the fewer
    /// experts a warp's 16 rows have in a slot, the fewer products it has to do.
    template <uint32_t THREADS, class Params>
    __device__ void fill(const Params& p, const Run& run) {
        const uint32_t* tokens = array_of<const uint32_t>(p.token_of) + run.begin;
        const uint32_t rows = run.end - run.begin;
        for (uint32_t i = threadIdx.x; i < ROWS * p.topk; i += THREADS) {
            const uint32_t at = i % ROWS, s = i / ROWS;
            found[s][at] = at < rows ? expert_of(p, run.group, tokens[at], s) : NONE;
        }
        __syncthreads();
        for (uint32_t at = threadIdx.x; at < ROWS; at += THREADS) {
            uint32_t first = NONE, second = NONE;
            for (uint32_t s = 0; s < p.topk; ++s) {
                const uint32_t e = found[s][at];
                second = min(second, max(first, e));
                first = min(first, e);
            }
            lowest[0][at] = first;
            lowest[1][at] = second;
        }
        __syncthreads();
        for (uint32_t at = threadIdx.x; at < ROWS; at += THREADS) {
            const uint64_t mine = uint64_t(lowest[0][at]) << 32 | lowest[1][at];
            uint32_t before = 0;
            for (uint32_t other = 0; other < ROWS; ++other) {
                const uint64_t theirs = uint64_t(lowest[0][other]) << 32 | lowest[1][other];
                before += theirs < mine || (theirs == mine && other < at);
            }
            place[at] = before;
            row[before] = at < rows ? run.begin + at : NONE;
            token[before] = at < rows ? tokens[at] : 0;
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < ROWS * p.topk; i += THREADS) {
            const uint32_t at = i % ROWS, s = i / ROWS, e = found[s][at];
            uint32_t to = 0;
            for (uint32_t other = 0; other < p.topk; ++other) {
                to += found[other][at] < e || (e == NONE && other < s);
            }
            expert[to][place[at]] = e;
            weight[to][place[at]] = e != NONE ? row_of<const float>(p.weight, p.weight_stride, tokens[at])[s] : 0.0f;
            slot[to][place[at]] = uint8_t(s);
        }
        __syncthreads();
    }

    /// Whether a row chose the cluster's expert number `local`.
    __device__ bool chose(uint32_t at, uint32_t local, uint32_t topk) const {
        bool found = false;
        for (uint32_t slot = 0; slot < topk; ++slot) {
            found |= expert[slot][at] == local;
        }
        return found;
    }
};

/// Calls `work(e)` for every expert e that a lane has in `low` or `high`, ascending.
template <class Work>
__device__ void for_experts(uint32_t low, uint32_t high, Work work) {
    uint32_t e = __reduce_min_sync(ALL_LANES, min(low, high));
    while (e != NONE) {
        work(e);
        e = __reduce_min_sync(ALL_LANES, min(low > e ? low : NONE, high > e ? high : NONE));
    }
}

/// Zeros in the columns of `columns` that belong to experts which row `at` did not choose, `width` columns an expert.
/// For one warp.
template <bool WHOLE, class T, uint32_t ROWS>
__device__ void clear_others(T* columns, const Table<ROWS>& table, uint32_t at, uint32_t per, uint32_t width,
                             uint32_t topk) {
    constexpr uint32_t PIECE = WHOLE ? WIDE<T> : 1;
    const float zeros[PIECE] = {};
    for (uint32_t c = lane_id() * PIECE; c < per * width; c += WARP * PIECE) {
        if (!table.chose(at, c / width, topk)) {
            store_rounded(columns + c, zeros);
        }
    }
}

/// 1 / (1 + e^-x).
template <class T>
__device__ float sigmoid(float x) {
    if constexpr (std::is_same_v<T, F32>) {
        return sigmoid(x);
    } else {
        return __fdividef(1.0f, 1.0f + __expf(-x));  // to a few units of 2^-24
    }
}
