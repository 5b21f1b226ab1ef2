// The gradient of Expand to its rows: see moe_expand_backward_* in expand.h.
#pragma once

#include "expand_forward.cuh"

template <class Shape>
struct ExpandBackwardRoom {
    Table<Shape::ROWS> table;
    UnitSums<Shape::UNITS, 4> dp[Shape::WARPS];      // gate: tiles 0 and 1; up: tiles 2 and 3
    float2 dots[Shape::WARPS][Shape::UNITS][WARP];   // by slot: a lane's part of the gradient of the weight
};

/// Adds R A2 of a slot to the gradient of its h: `from[half]` is the row's own R.
template <bool WHOLE, class T, class Params>
__device__ void add_from_q(const Params& p, uint32_t cluster, uint32_t strip, const uint32_t (&local)[2],
                           const T* const (&from)[2], Sums (&dh)[4]) {
#pragma unroll 1
    for (uint32_t rank = 0; rank < p.rank; rank += DEPTH<T>) {
        const uint32_t ranks = p.rank - rank;
        const uint32_t low = local[0] != NONE ? ranks : 0, high = local[1] != NONE ? ranks : 0;
        const auto rows = load_ranks<WHOLE>(from[0] + rank, low, from[1] + rank, high);
        for_experts(local[0], local[1], [&](uint32_t e) {
            const T* a2 = row_of<const T>(p.a2, p.a2_strides[0], cluster * p.per + e) + rank * p.a2_strides[1] + strip;
            RankByColumn<T> factor;
            factor.template load_trans<WHOLE>(a2, p.a2_strides[1], p.inner - strip, ranks);
            multiply(dh, masked<T>(rows, local[0] == e, local[1] == e), factor);
        });
    }
}

// Formula: with z = (g | u) and h as in the forward, s = sigmoid(g), R_re the columns of Q of dhq:
//          dh = dhbar_r + sum over k of R_re[k] A2_e[k, .],   dweight = sum over j of dh g s u,
//          dg = w dh u (s + g s (1 - s)),   du = w dh g s,   (dgate | dup)_r = sum over slots of (dg | du),
//          dP_re[k] = sum over j of dg[j] B_e[j, k] | du[j] B_e[inner + j, k], dP = 0 for experts not chosen.
// Mapping: as in the forward.
// Idea: as in the forward; dz, rounded to T, is what is multiplied by B. A strip of [gate | up] is replaced by its
//       gradient by the lanes that read it, all slots having started from their registers; P, which every strip needs,
//       once all strips are done.
template <class T, class Shape>
__device__ void expand_backward(const ExpandBackwardParams& p, ExpandBackwardRoom<Shape>& room) {
    constexpr bool WHOLE = Shape::WHOLE;
    constexpr bool KEEP = sizeof(T) == 2;  // what slots start from in registers; in f32 there are none left
    Run run;
    if (!find_run(array_of<const uint32_t>(p.cluster_offsets), p.clusters, Shape::ROWS, blockIdx.x, run)) {
        return;
    }
    room.table.template fill<Shape::THREADS>(p, run);
    const uint32_t row_warp = warp_id() / Shape::COLUMN_WARPS, column_warp = warp_id() % Shape::COLUMN_WARPS;
    const uint32_t chunks = ceil_div(p.rank, RANKS);
    const LaneRows rows(room.table, row_warp * 16);
    const PlainFactors<T, WHOLE, ExpandBackwardParams> factors = {p, run.group};
    UnitSums<Shape::UNITS, 4>& dp = room.dp[warp_id()];
    dp.clear();
    for (uint32_t slot = 0; slot < p.topk; ++slot) {
        room.dots[warp_id()][slot][lane_id()] = {};
    }
    T* bp[2] = {rows.of<T>(p.bp, p.bp_stride, 0), rows.of<T>(p.bp, p.bp_stride, 1)};
    const T* dhq[2] = {rows.of<const T>(p.dhq, p.dhq_stride, 0), rows.of<const T>(p.dhq, p.dhq_stride, 1)};

    for (uint32_t strip = column_warp * STRIP; strip < p.inner; strip += Shape::COLUMN_WARPS * STRIP) {
        const uint32_t column = strip + lane_id() % 4 * LANE;
        T gate_base[2][LANE], up_base[2][LANE], dhbar[2][LANE];
        float dgate[2][LANE] = {}, dup[2][LANE] = {};
        uint32_t count[2];
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            count[half] = rows.there(half) ? left(p.inner, column) : 0;
        }
        auto read_strip = [&] {
#pragma unroll
            for (uint32_t half = 0; half < 2; ++half) {
                read<WHOLE>(gate_base[half], bp[half] + column, count[half]);
                read<WHOLE>(up_base[half], bp[half] + p.inner + column, count[half]);
                read<WHOLE>(dhbar[half], dhq[half] + column, count[half]);
            }
        };
        if constexpr (KEEP) {
            read_strip();
        }
        for (uint32_t slot = 0; slot < p.topk; ++slot) {
            const uint32_t local[2] = {room.table.expert[slot][rows.at[0]], room.table.expert[slot][rows.at[1]]};
            const T *own_p[2], *own_r[2];  // [2 rank], [rank]
#pragma unroll
            for (uint32_t half = 0; half < 2; ++half) {
                const uint32_t e = rows.there(half) ? local[half] : 0;
                own_p[half] = bp[half] + 2 * p.inner + 2 * p.rank * e;
                own_r[half] = dhq[half] + p.inner + p.rank * e;
            }
            if constexpr (!KEEP) {
                read_strip();
            }
            Sums gate[4], up[4], dh[4];
            start(gate, gate_base[0], gate_base[1]);
            start(up, up_base[0], up_base[1]);
            start(dh, dhbar[0], dhbar[1]);
            add_residuals<WHOLE>(factors, strip, local, own_p, gate, up);
            add_from_q<WHOLE>(p, run.group, strip, local, own_r, dh);
            float dg[2][LANE], du[2][LANE], dot[2] = {};
#pragma unroll
            for (uint32_t half = 0; half < 2; ++half) {
                const float w = room.table.weight[slot][rows.at[half]];
#pragma unroll
                for (uint32_t c = 0; c < LANE; ++c) {
                    const float g = sum_at(gate, half, c), u = sum_at(up, half, c), d = sum_at(dh, half, c);
                    const float s = sigmoid<T>(g), silu = g * s;
                    dot[half] += d * (silu * u);
                    dg[half][c] = w * d * u * (s + silu * (1.0f - s));
                    du[half][c] = w * d * silu;
                    dgate[half][c] += dg[half][c];
                    dup[half][c] += du[half][c];
                }
            }
            float2& dots = room.dots[warp_id()][slot][lane_id()];
            dots = {dots.x + dot[0], dots.y + dot[1]};
#pragma unroll 1
            for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
                const uint32_t unit = slot * chunks + chunk, rank = chunk * RANKS, ranks = p.rank - rank;
                Sums sums[4];
                dp.load(sums, unit);
                for_experts(local[0], local[1], [&](uint32_t e) {
                    const T* b = row_of<const T>(p.b, p.b_strides[0], run.group * p.per + e) +
                                 strip * p.b_strides[1] + rank;
                    const uint32_t columns = p.inner - strip;
                    const bool keep_low = local[0] == e, keep_high = local[1] == e;
#pragma unroll 1
                    for (uint32_t part = 0; part < PARTS<T>; ++part) {
                        ColumnByRank<T> factor;
                        factor.template load_trans<WHOLE>(b, p.b_strides[1], columns, ranks, part);
                        multiply(sums, dg[0], dg[1], part, factor, keep_low, keep_high);
                        factor.template load_trans<WHOLE>(b + p.inner * p.b_strides[1], p.b_strides[1], columns,
                                                          ranks, part);
                        multiply(sums + 2, du[0], du[1], part, factor, keep_low, keep_high);
                    }
                });
                dp.store(sums, unit);
            }
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            store_front<WHOLE>(bp[half] + column, dgate[half], count[half]);
            store_front<WHOLE>(bp[half] + p.inner + column, dup[half], count[half]);
        }
    }

    // All strips are done: P may be replaced. The parts of the warps of the same rows are summed up in their order.
    __syncthreads();
    for (uint32_t unit = column_warp; unit < p.topk * chunks; unit += Shape::COLUMN_WARPS) {
        const uint32_t slot = unit / chunks, rank = unit % chunks * RANKS + lane_id() % 4 * LANE_RANKS;
        Sums sums[4];
        float dot[2] = {};
        for (uint32_t w = 0; w < Shape::COLUMN_WARPS; ++w) {
            const uint32_t warp = row_warp * Shape::COLUMN_WARPS + w;
            room.dp[warp].add(sums, unit);
            const float2 part = room.dots[warp][slot][lane_id()];
            dot[0] += part.x;
            dot[1] += part.y;
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            // The four lanes of a row.
            dot[half] += __shfl_xor_sync(ALL_LANES, dot[half], 1);
            dot[half] += __shfl_xor_sync(ALL_LANES, dot[half], 2);
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            if (!rows.there(half)) {
                continue;
            }
            const uint32_t local = room.table.expert[slot][rows.at[half]];
            T* to = bp[half] + 2 * p.inner + 2 * p.rank * local + rank;
            float out[LANE_RANKS];
            ranks_of(out, sums, half);
            store_front<WHOLE>(to, out, left(p.rank, rank));
            ranks_of(out, sums + 2, half);
            store_front<WHOLE>(to + p.rank, out, left(p.rank, rank));
            if (unit % chunks == 0 && lane_id() % 4 == 0) {
                const uint32_t at = rows.at[half];
                row_of<float>(p.dweight, p.dweight_stride, room.table.token[at])[room.table.slot[slot][at]] = dot[half];
            }
        }
    }
    for (uint32_t at = warp_id(); at < run.end - run.begin; at += Shape::WARPS) {
        T* columns = row_of<T>(p.bp, p.bp_stride, room.table.row[at]) + 2 * p.inner;  // [per 2 rank]
        clear_others<WHOLE>(columns, room.table, at, p.per, 2 * p.rank, p.topk);
    }
}
