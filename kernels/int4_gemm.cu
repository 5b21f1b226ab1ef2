// Products with INT4 weights.
#include "int4_gemm.h"

#include "common/sched.cuh"
#include "int4_gemm.cuh"

constexpr uint32_t REDUCE_THREADS = 256;
constexpr uint32_t REDUCE_ROWS = REDUCE_THREADS / WARP;
constexpr uint32_t REDUCE_COLUMNS = 512;

extern "C" {
#define LAUNCH(V, ROWS)                                                                                      \
    __constant__ LaunchTile moe_int4_gemm_launch_##V##_##ROWS = {                                           \
        Int4Tile<V, ROWS, true>::THREADS, ROWS, Int4Tile<V, ROWS, true>::COLUMNS,                            \
        sizeof(Int4Tile<V, ROWS, true>::Shared)};
INT4_GEMM_VARIANTS(LAUNCH)
__constant__ LaunchTile moe_int4_gemm_reduce_launch = {REDUCE_THREADS, REDUCE_ROWS, REDUCE_COLUMNS, 0};
}

/// Columns 8 t .. 8 t + 7 of the strip at `to`, a row of the lane's sums: first of the pairs of all four fragments are
/// columns 8 t .., second of them 8 t + 4 ..
template <class T>
__device__ void store_sums(T* to, const float (&v)[CHUNK], uint32_t count, bool wide, bool accumulate) {
    float sum[CHUNK];
#pragma unroll
    for (uint32_t i = 0; i < CHUNK; ++i) {
        sum[i] = v[i];
        if (accumulate && i < count) {
            sum[i] += to_float(to[i]);
        }
    }
    if (wide && count == CHUNK) {
        store_front<true>(to, sum, CHUNK);
    } else {
        store_front<false>(to, sum, count);
    }
}

// Formula: y[p, o] = [y[p, o] +] sum over i of x[p, i] scale (q[g, o, i] - zero), p in group g.
// Mapping: block -> tiles of ROWS rows of one group and COLUMNS columns, and the part blockIdx.y of the depth; warp ->
//          STRIPS strips of 32 columns, all rows.
// Idea: a panel of weights [32 out, 32 in] lies in memory as the B fragments of 2 x 4 products m16n8k16, 16 bytes a
//       lane (src/int4.rs): they come by one copy and one load, no other lane needs them, and all row fragments use
//       them once they are numbers. Those are q - zero, exact in every dtype; the sums of a block of columns (at most 128
//       at a time) are multiplied by its scale, which is one fused multiply-add a sum instead of a product a weight.
//       Fragment j has rows 4 g + j, so that a lane ends with sums of 8 neighbouring columns.
template <class G, uint32_t BLOCK>
__device__ void int4_gemm(const Int4GemmParams& p) {
    using T = typename G::T;
    extern __shared__ uint4 dynamic_shared[];
    auto& shared = *reinterpret_cast<typename G::Shared*>(dynamic_shared);
    const Int4Layout layout(p.w);
    const uint32_t stages = ceil_div(layout.steps, G::STEPS);
    const uint32_t split = blockIdx.y;
    const uint32_t first = uint32_t(uint64_t(stages) * split / p.splits);
    const uint32_t last = uint32_t(uint64_t(stages) * (split + 1) / p.splits);

    RowTiles<G::ROWS, G::COLUMNS> tiles({array_of<const uint32_t>(p.offsets), p.w.groups, p.rows}, p.w.outputs);
    RowTile tile;
    while (tiles.next(tile)) {
        const uint32_t strip = tile.column / PANEL + warp_id() * G::STRIPS;
        const bool live = strip < layout.strips;
        const int steps = live ? int(layout.steps) : 0;
        const uint32_t begin = min(first * G::K, p.w.inputs);
        const GatheredRows<T> rows = {
            array_of<const T>(p.x) + begin, p.x_stride, array_of<const uint32_t>(p.source), p.fan};
        Copier<G, Lies::K_LAST, G::ROWS, GatheredRows<T>> x(rows, tile.row, tile.rows, p.w.inputs - begin);
        const uint4* words[G::STRIPS];
#pragma unroll
        for (uint32_t i = 0; i < G::STRIPS; ++i) {
            // The last strip instead of one beyond, which takes no part.
            words[i] = G::kept(panels_of(p.w, layout, tile.group, min(strip + i, layout.strips - 1)) + lane_id());
        }
        const uint32_t mine = G::kept(G::words_of_lane());
        auto copy = [&](uint32_t slot, uint32_t stage) {
            if (stage < last) {
                typename G::Stage& to = shared.stages[slot];
                const int left = steps - int(stage * G::STEPS);  // from there on
                x.copy(to.x);
#pragma unroll
                for (uint32_t s = 0; s < G::STRIPS * G::STEPS; ++s) {
                    const uint4* from = words[s / G::STEPS] + uint64_t(stage) * (G::STEPS * WARP) + s % G::STEPS * WARP;
                    copy_whole_chunk(to.words + mine + s * WARP, from, int(s % G::STEPS) < left);
                }
            }
            cp_async_commit();
        };

        StripSums<G> sums;
        if (first < last) {
            __syncthreads();  // the tile before is read
#pragma unroll
            for (uint32_t s = 0; s < G::STAGES - 1; ++s) {
                copy(s, first + s);
            }
            StripWeights<G, BLOCK> weights(p.w, layout, tile.group, strip, first);
            uint32_t slot = 0;
            for (uint32_t stage = first; stage < last; ++stage) {
                cp_async_wait<G::STAGES - 2>();
                __syncthreads();  // this stage is here, and the slot of the one before is free
                copy(G::STAGES == 2 ? slot ^ 1 : slot == 0 ? G::STAGES - 1 : slot - 1, stage + G::STAGES - 1);
                if (live) {
                    weights.multiply(sums, shared, shared.stages[slot]);
                }
                slot = G::STAGES == 2 ? slot ^ 1 : slot + 1 == G::STAGES ? 0 : slot + 1;
            }
            cp_async_wait<0>();
        }

        const bool wide = is_wide<T>(WIDE<T>, p.y, p.y_stride);
#pragma unroll
        for (uint32_t i = 0; i < G::STRIPS; ++i) {
            const uint32_t column = (strip + i) * PANEL + lane_id() % 4 * CHUNK;
            const uint32_t count = column < p.w.outputs ? min(CHUNK, p.w.outputs - column) : 0;
            const uint32_t width = layout.strips * PANEL;
#pragma unroll
            for (uint32_t half = 0; half < 2 * G::FRAGMENTS; ++half) {
                float v[CHUNK];
#pragma unroll
                for (uint32_t j = 0; j < 4; ++j) {
                    v[j] = sums[i][half / 2][j].at[half % 2 * 2];
                    v[4 + j] = sums[i][half / 2][j].at[half % 2 * 2 + 1];
                }
                const uint32_t inside = lane_id() / 4 + 8 * half;
                if (inside >= tile.rows || strip + i >= layout.strips) {
                    continue;
                }
                const uint32_t row = tile.row + inside;
                if (p.splits == 1) {
                    T* to = row_of<T>(p.y, p.y_stride, row) + column;
                    store_sums(to, v, count, wide, p.accumulate != 0);
                } else {
                    float* to = array_of<float>(p.partial) + (uint64_t(split) * p.rows + row) * width + column;
                    store_sums(to, v, CHUNK, true, false);
                }
            }
        }
    }
}

// Formula: y[p] = [y[p] +] sum over s of partial[s, p], in the order of s.
// Mapping: warp -> (row, tile of REDUCE_COLUMNS columns); lane -> every 32nd vector.
// Idea: none.
template <class T, int N>
__device__ void reduce(const Int4GemmReduceParams& p, uint32_t row) {
    T* y = row_of<T>(p.y, p.y_stride, row);                                           // [out]
    const float* partial = array_of<const float>(p.partial) + uint64_t(row) * p.width;  // [out] of split 0
    for_tiles(p.outputs, REDUCE_COLUMNS, [&](uint32_t begin, uint32_t end) {
        const Columns columns = of_lane<N>(begin, end);
        for (uint64_t c = columns.first; c < columns.last; c += columns.step) {
            float sum[N] = {};
            if (p.accumulate != 0) {
                const Vec<T, N> old = load<N>(y + c);
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    sum[i] = to_float(old.at[i]);
                }
            }
#pragma unroll 4
            for (uint32_t s = 0; s < p.splits; ++s) {
                const Vec<float, N> part = load<N>(partial + uint64_t(s) * p.rows * p.width + c);
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    sum[i] += part.at[i];
                }
            }
            store_rounded(y + c, sum);
        }
    });
}

/// By the steps after which sums get their scale: those of a block, at most those of a stage.
template <class G>
__device__ void int4_gemm(const Int4GemmParams& p) {
    if constexpr (sizeof(typename G::T) == 4) {
        int4_gemm<G, 1>(p);
    } else if (p.w.shift == 0) {
        int4_gemm<G, 1>(p);
    } else if (G::STEPS == 2 || p.w.shift == 1) {
        int4_gemm<G, 2>(p);
    } else {
        int4_gemm<G, G::STEPS>(p);
    }
}

#define ENTRY(V, ROWS)                                                                                       \
    extern "C" __global__ void __launch_bounds__(Int4Tile<V, ROWS, true>::THREADS, 2)                        \
        moe_int4_gemm_##V##_##ROWS(const __grid_constant__ Int4GemmParams p) {                               \
        is_wide<V>(p.w.inputs, p.x, p.x_stride) ? int4_gemm<Int4Tile<V, ROWS, true>>(p)                      \
                                                : int4_gemm<Int4Tile<V, ROWS, false>>(p);                    \
    }
INT4_GEMM_VARIANTS(ENTRY)

#define REDUCE_ENTRY(V)                                                                                      \
    extern "C" __global__ void __launch_bounds__(REDUCE_THREADS)                                             \
        moe_int4_gemm_reduce_##V(const __grid_constant__ Int4GemmReduceParams p) {                           \
        const uint32_t row = blockIdx.x * REDUCE_ROWS + warp_id();                                           \
        if (row >= p.rows) {                                                                                 \
            return;                                                                                          \
        }                                                                                                    \
        is_wide<V>(p.outputs, p.y | p.partial, p.y_stride) ? reduce<V, 4>(p, row) : reduce<V, 1>(p, row);        \
    }
INT4_VARIANTS(REDUCE_ENTRY)
