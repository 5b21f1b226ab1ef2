// The forward of Expand: see moe_expand_* in expand.h.
#pragma once

#include "expand_fragments.cuh"

/// How a block is cut: `ROW_WARPS_` groups of warps take 16 rows each, the `COLUMN_WARPS_` warps of a group share the
/// strips of its rows, and each warp sums up to `UNITS_` units (slots x chunks of 16 ranks) a row. `WHOLE_`: vectors are
/// whole and aligned.
template <uint32_t ROW_WARPS_, uint32_t COLUMN_WARPS_, uint32_t UNITS_, bool WHOLE_>
struct ExpandShape {
    static constexpr uint32_t ROW_WARPS = ROW_WARPS_;
    static constexpr uint32_t COLUMN_WARPS = COLUMN_WARPS_;
    static constexpr uint32_t UNITS = UNITS_;
    static constexpr bool WHOLE = WHOLE_;
    static constexpr uint32_t WARPS = ROW_WARPS * COLUMN_WARPS;
    static constexpr uint32_t THREADS = WARPS * WARP;
    static constexpr uint32_t ROWS = ROW_WARPS * 16;
};

/// Sums over the strips of a warp, `VECTORS` x 4 of a lane, whose index is not known to the compiler.
template <uint32_t UNITS, uint32_t VECTORS>
struct UnitSums {
    float4 at[UNITS][VECTORS][WARP];

    __device__ void clear() {
        for (uint32_t i = 0; i < UNITS * VECTORS; ++i) {
            at[i / VECTORS][i % VECTORS][lane_id()] = {};
        }
    }

    __device__ float4 vector(uint32_t unit, uint32_t v) const {
        return bits_as<float4>(ld_shared_v4(shared_address(&at[unit][v][lane_id()])));
    }

    __device__ void load(Sums (&sums)[VECTORS], uint32_t unit) const {
#pragma unroll
        for (uint32_t v = 0; v < VECTORS; ++v) {
            const float4 x = vector(unit, v);
            sums[v].at[0] = x.x, sums[v].at[1] = x.y, sums[v].at[2] = x.z, sums[v].at[3] = x.w;
        }
    }

    __device__ void add(Sums (&sums)[VECTORS], uint32_t unit) const {
#pragma unroll
        for (uint32_t v = 0; v < VECTORS; ++v) {
            const float4 x = vector(unit, v);
            sums[v].at[0] += x.x, sums[v].at[1] += x.y, sums[v].at[2] += x.z, sums[v].at[3] += x.w;
        }
    }

    __device__ void store(const Sums (&sums)[VECTORS], uint32_t unit) {
#pragma unroll
        for (uint32_t v = 0; v < VECTORS; ++v) {
            at[unit][v][lane_id()] = {sums[v].at[0], sums[v].at[1], sums[v].at[2], sums[v].at[3]};
        }
    }
};

/// What a lane knows of its two rows.
struct LaneRows {
    uint32_t at[2];   // in the table
    uint32_t row[2];  // NONE without a row

    template <uint32_t ROWS>
    __device__ LaneRows(const Table<ROWS>& table, uint32_t first) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            at[half] = first + lane_id() / 4 + half * 8;
            row[half] = table.row[at[half]];
        }
    }

    __device__ bool there(uint32_t half) const {
        return row[half] != NONE;
    }

    /// A row of a matrix; the first instead of none.
    template <class T>
    __device__ T* of(uint64_t matrix, uint64_t stride, uint32_t half) const {
        return row_of<T>(matrix, stride, there(half) ? row[half] : 0);
    }
};

/// The ranks 4t, ..., 4t + 3 of a lane's row, out of the sums of a chunk; `half` 0: row g, 1: row g + 8.
__device__ inline void ranks_of(float (&to)[LANE_RANKS], const Sums* sums, uint32_t half) {
#pragma unroll
    for (uint32_t i = 0; i < LANE_RANKS; ++i) {
        to[i] = sums[i % 2].at[half * 2 + i / 2];
    }
}

/// Column 4i + j of the eight of a lane is sum i of tile j.
__device__ inline float& sum_at(Sums (&sums)[4], uint32_t half, uint32_t c) {
    return sums[c % 4].at[half * 2 + c / 4];
}

/// The first sums of a strip: what is in memory at the lane's columns.
template <class T>
__device__ void start(Sums (&sums)[4], const T (&low)[LANE], const T (&high)[LANE]) {
#pragma unroll
    for (uint32_t c = 0; c < LANE; ++c) {
        sum_at(sums, 0, c) = to_float(low[c]);
        sum_at(sums, 1, c) = to_float(high[c]);
    }
}

/// The factors of a cluster as plain matrices.
template <class T, bool WHOLE, class Params>
struct PlainFactors {
    const Params& p;
    uint32_t cluster;

    /// Where P of an expert of the cluster begins behind [gate | up], and how much later that of up.
    __device__ uint32_t begin(uint32_t e) const {
        return 2 * p.rank * e;
    }
    __device__ uint32_t up_after() const {
        return p.rank;
    }

    /// DEPTH ranks of B of expert `e` of the cluster, columns `strip..`.
    __device__ void gate(RankByColumn<T>& to, uint32_t e, uint32_t strip, uint32_t rank) const {
        to.template load<WHOLE>(b(e, strip, rank), p.b_strides[1], p.inner - strip, p.rank - rank);
    }
    __device__ void up(RankByColumn<T>& to, uint32_t e, uint32_t strip, uint32_t rank) const {
        to.template load<WHOLE>(
            b(e, strip, rank) + p.inner * p.b_strides[1], p.b_strides[1], p.inner - strip, p.rank - rank);
    }

    /// A part of 16 ranks of A2.
    __device__ void down(ColumnByRank<T>& to, uint32_t e, uint32_t strip, uint32_t rank, uint32_t part) const {
        const T* a2 = row_of<const T>(p.a2, p.a2_strides[0], cluster * p.per + e) + rank * p.a2_strides[1] + strip;
        to.template load<WHOLE>(a2, p.a2_strides[1], p.inner - strip, p.rank - rank, part);
    }

private:
    __device__ const T* b(uint32_t e, uint32_t strip, uint32_t rank) const {
        return row_of<const T>(p.b, p.b_strides[0], cluster * p.per + e) + strip * p.b_strides[1] + rank;
    }
};

/// Adds the residuals of a slot to gate and up: `from[half]` is the row's own P.
template <bool WHOLE, class T, class Factors>
__device__ void add_residuals(const Factors& factors, uint32_t strip, const uint32_t (&local)[2],
                              const T* const (&from)[2], Sums (&gate)[4], Sums (&up)[4]) {
    const uint32_t all = factors.p.rank, up_after = factors.up_after();
    for (uint32_t rank = 0; rank < all; rank += DEPTH<T>) {
        const uint32_t low = local[0] != NONE ? all - rank : 0, high = local[1] != NONE ? all - rank : 0;
        const auto gate_rows = load_ranks<WHOLE>(from[0] + rank, low, from[1] + rank, high);
        const auto up_rows = load_ranks<WHOLE>(from[0] + up_after + rank, low, from[1] + up_after + rank, high);
        for_experts(local[0], local[1], [&](uint32_t e) {
            const bool keep_low = local[0] == e, keep_high = local[1] == e;
            RankByColumn<T> factor;
            factors.gate(factor, e, strip, rank);
            multiply(gate, masked<T>(gate_rows, keep_low, keep_high), factor);
            factors.up(factor, e, strip, rank);
            multiply(up, masked<T>(up_rows, keep_low, keep_high), factor);
        });
    }
}

template <class Shape>
struct ExpandRoom {
    Table<Shape::ROWS> table;
    UnitSums<Shape::UNITS, 2> q[Shape::WARPS];
};

// Formula: with r the row of token t: (g | u) = (gate | up)_r + sum over k of P_re[k] B_e[., k], h = w silu(g) u,
//          hbar_r = sum over slots of h, Q_re[k] = sum over j of h[j] A2_e[k, j], Q = 0 for experts not chosen.
// Mapping: block -> run of ROWS rows of a cluster; warp -> 16 of them, every COLUMN_WARPSth strip of 32 columns.
// Idea: a warp loads [gate | up] of a strip into registers once, and for each slot starts its sums from there. The rows
//       of a slot have several experts: for each expert that occurs among the 16, the row's own P, or zeros where the
//       row has another, is multiplied by that expert's factor, so that every row gets exactly its own residual.
//
//         slot s of rows 0..15:  [ e1 e1 e1 e1 e1 e4 e4 ... ]     z = base + [P P P P P 0 0 ...] B_e1^T
//                                                                          + [0 0 0 0 0 P P ...] B_e4^T
//
//       h never leaves the registers: it is added to hbar and, rounded to T, multiplied by A2 in the same way; Q is a
//       sum over all columns, which one block owns. The products are as many times the ideal, 3 rank inner a slot, as
//       16 rows of a slot have experts: 1 if experts own whole fragments; for two of 8 equally loaded experts, with
//       slots and the 64 rows of a block sorted by expert, 2.4 in the first slot and 4.7 in the second, where memory
//       order would make it 7.0 in both. What is read more than once are the factors: those of a strip once for every
//       16 rows, from L1 if other warps of the block are at the same strip.
template <class T, class Shape, template <class, bool, class> class Factors, class Params>
__device__ void expand(const Params& p, ExpandRoom<Shape>& room) {
    constexpr bool WHOLE = Shape::WHOLE;
    Run run;
    if (!find_run(array_of<const uint32_t>(p.cluster_offsets), p.clusters, Shape::ROWS, blockIdx.x, run)) {
        return;
    }
    room.table.template fill<Shape::THREADS>(p, run);
    const uint32_t row_warp = warp_id() / Shape::COLUMN_WARPS, column_warp = warp_id() % Shape::COLUMN_WARPS;
    const uint32_t chunks = ceil_div(p.rank, RANKS);
    const LaneRows rows(room.table, row_warp * 16);
    const Factors<T, WHOLE, Params> factors = {p, run.group};
    UnitSums<Shape::UNITS, 2>& q = room.q[warp_id()];
    q.clear();
    const T* bp[2] = {rows.of<const T>(p.bp, p.bp_stride, 0), rows.of<const T>(p.bp, p.bp_stride, 1)};
    T* hq[2] = {rows.of<T>(p.hq, p.hq_stride, 0), rows.of<T>(p.hq, p.hq_stride, 1)};

    for (uint32_t strip = column_warp * STRIP; strip < p.inner; strip += Shape::COLUMN_WARPS * STRIP) {
        const uint32_t column = strip + lane_id() % 4 * LANE;
        T gate_base[2][LANE], up_base[2][LANE];
        float sum[2][LANE] = {};
        uint32_t count[2];
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            count[half] = rows.there(half) ? left(p.inner, column) : 0;
            read<WHOLE>(gate_base[half], bp[half] + column, count[half]);
            read<WHOLE>(up_base[half], bp[half] + p.inner + column, count[half]);
        }
        for (uint32_t slot = 0; slot < p.topk; ++slot) {
            const uint32_t local[2] = {room.table.expert[slot][rows.at[0]], room.table.expert[slot][rows.at[1]]};
            const T* own[2];  // the rows' own P
#pragma unroll
            for (uint32_t half = 0; half < 2; ++half) {
                own[half] = bp[half] + 2 * p.inner + factors.begin(rows.there(half) ? local[half] : 0);
            }
            Sums gate[4], up[4];
            start(gate, gate_base[0], gate_base[1]);
            start(up, up_base[0], up_base[1]);
            add_residuals<WHOLE>(factors, strip, local, own, gate, up);
            float h[2][LANE];
#pragma unroll
            for (uint32_t half = 0; half < 2; ++half) {
                const float w = room.table.weight[slot][rows.at[half]];
#pragma unroll
                for (uint32_t c = 0; c < LANE; ++c) {
                    const float g = sum_at(gate, half, c);
                    h[half][c] = w * (g * sigmoid<T>(g) * sum_at(up, half, c));
                    sum[half][c] += h[half][c];
                }
            }
            for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
                const uint32_t unit = slot * chunks + chunk, rank = chunk * RANKS;
                Sums sums[2];
                q.load(sums, unit);
                for_experts(local[0], local[1], [&](uint32_t e) {
#pragma unroll 1
                    for (uint32_t part = 0; part < PARTS<T>; ++part) {
                        ColumnByRank<T> factor;
                        factors.down(factor, e, strip, rank, part);
                        multiply(sums, h[0], h[1], part, factor, local[0] == e, local[1] == e);
                    }
                });
                q.store(sums, unit);
            }
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            store_front<WHOLE>(hq[half] + column, sum[half], count[half]);
        }
    }

    // The warps of the same rows have a part of Q each: summed up in their order, each by one of them.
    __syncthreads();
    for (uint32_t unit = column_warp; unit < p.topk * chunks; unit += Shape::COLUMN_WARPS) {
        Sums sums[2];
        for (uint32_t w = 0; w < Shape::COLUMN_WARPS; ++w) {
            room.q[row_warp * Shape::COLUMN_WARPS + w].add(sums, unit);
        }
        const uint32_t slot = unit / chunks, rank = unit % chunks * RANKS + lane_id() % 4 * LANE_RANKS;
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            float out[LANE_RANKS];
            ranks_of(out, sums, half);
            const uint32_t local = room.table.expert[slot][rows.at[half]];
            if (rows.there(half)) {
                store_front<WHOLE>(hq[half] + p.inner + p.rank * local + rank, out, left(p.rank, rank));
            }
        }
    }
    for (uint32_t at = warp_id(); at < run.end - run.begin; at += Shape::WARPS) {
        T* columns = row_of<T>(p.hq, p.hq_stride, room.table.row[at]) + p.inner;  // [per rank]
        clear_others<WHOLE>(columns, room.table, at, p.per, p.rank, p.topk);
    }
}
