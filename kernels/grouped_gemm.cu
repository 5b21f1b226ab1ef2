// Matrix products of row segments, each with its own weight; one segment is an ordinary product.
#include "grouped_gemm.h"

#include "common/gemm_store.cuh"
#include "common/sched.cuh"
#include "grouped_gemm_tiles.cuh"

// Formula: y[p] = [y[p] +] x[p] w[g]^T.
// Mapping: block -> tiles [M, N] of y in turn, M rows of one group; warp -> [16 FRAGMENTS_M, 8 FRAGMENTS_N] of it.
// Idea: rows of x are gathered by the copies themselves: each thread keeps the addresses of its rows.
template <class G>
__device__ void forward(const GroupedGemmParams& p) {
    using T = typename G::T;
    __shared__ GemmRing<G, Lies::K_LAST, Lies::K_LAST> ring;
    const Segments segments = {array_of<const uint32_t>(p.offsets), p.groups, p.rows};
    const GatheredRows<T> x = {array_of<const T>(p.x), p.x_stride, array_of<const uint32_t>(p.source), p.fan};
    RowTiles<G::M, G::N> tiles(segments, p.outputs);
    for (RowTile tile; tiles.next(tile);) {
        const StridedRows<T> w = {row_of<const T>(p.w, p.w_group_stride, tile.group), p.w_stride};
        Copier<G, Lies::K_LAST, G::M, GatheredRows<T>> a(x, tile.row, tile.rows, p.inputs);
        Copier<G, Lies::K_LAST, G::N, StridedRows<T>> b(w, tile.column, tile.columns, p.inputs);
        GemmSums<G> sums;
        gemm(sums, ring, a, b, p.inputs);
        T* y = row_of<T>(p.y, p.y_stride, tile.row) + tile.column;
        store_sums(sums, GemmOut<T>{y, p.y_stride, tile.rows, tile.columns, p.accumulate != 0});
    }
}

// Formula: dx[p] = [dx[p] +] dy[p] w[g].
// Mapping: as the forward, over dx.
// Idea: w lies K first; ldmatrix transposes it on the way to the registers.
template <class G>
__device__ void dgrad(const GroupedGemmDgradParams& p) {
    using T = typename G::T;
    __shared__ GemmRing<G, Lies::K_LAST, Lies::K_FIRST> ring;
    const Segments segments = {array_of<const uint32_t>(p.offsets), p.groups, p.rows};
    const StridedRows<T> dy = {array_of<const T>(p.dy), p.dy_stride};
    RowTiles<G::M, G::N> tiles(segments, p.inputs);
    for (RowTile tile; tiles.next(tile);) {
        const StridedRows<T> w = {row_of<const T>(p.w, p.w_group_stride, tile.group), p.w_stride};
        Copier<G, Lies::K_LAST, G::M, StridedRows<T>> a(dy, tile.row, tile.rows, p.outputs);
        Copier<G, Lies::K_FIRST, G::N, StridedRows<T>> b(w, 0, p.outputs, tile.column, tile.columns);
        GemmSums<G> sums;
        gemm(sums, ring, a, b, p.outputs);
        T* dx = row_of<T>(p.dx, p.dx_stride, tile.row) + tile.column;
        store_sums(sums, GemmOut<T>{dx, p.dx_stride, tile.rows, tile.columns, p.accumulate != 0});
    }
}

// Formula: dw[g] = [dw[g] +] sum over the rows p of group g of dy[p]^T x[p].
// Mapping: block -> tiles [M, N] of the matrices dw[g] in turn; warps as in the forward.
// Idea: the rows of a group are the depth. Both operands lie K first, the last stage is filled up with zeros, and a
//       group without rows stores its sums as they began.
template <class G>
__device__ void wgrad(const GroupedGemmWgradParams& p) {
    using T = typename G::T;
    __shared__ GemmRing<G, Lies::K_FIRST, Lies::K_FIRST> ring;
    const Segments segments = {array_of<const uint32_t>(p.offsets), p.groups, p.rows};
    const StridedRows<T> dy = {array_of<const T>(p.dy), p.dy_stride};
    const GatheredRows<T> x = {array_of<const T>(p.x), p.x_stride, array_of<const uint32_t>(p.source), p.fan};
    MatrixTiles<G::M, G::N> tiles(segments, p.outputs, p.inputs);
    for (MatrixTile tile; tiles.next(tile);) {
        Copier<G, Lies::K_FIRST, G::M, StridedRows<T>> a(dy, tile.begin, tile.depth, tile.row, tile.rows);
        Copier<G, Lies::K_FIRST, G::N, GatheredRows<T>> b(x, tile.begin, tile.depth, tile.column, tile.columns);
        GemmSums<G> sums;
        gemm(sums, ring, a, b, tile.depth);
        float* dw = row_of<float>(p.dw, p.dw_group_stride, tile.group) + tile.row * p.dw_stride + tile.column;
        store_sums(sums, GemmOut<float>{dw, p.dw_stride, tile.rows, tile.columns, p.accumulate != 0});
    }
}

#define ENTRY(KERNEL, PARAMS, WORK, V, TILE)                                                             \
    extern "C" __global__ void __launch_bounds__(Tiles<V>::TILE::THREADS, 2)                             \
        moe_##KERNEL##_##V##_##TILE(const __grid_constant__ PARAMS p) {                                  \
        WORK<Tiles<V>::TILE>(p);                                                                         \
    }
#define ROW_ENTRIES(V, TILE)                                                                             \
    GROUPED_GEMM_LAUNCH(V, TILE)                                                                         \
    ENTRY(grouped_gemm, GroupedGemmParams, forward, V, TILE)                                             \
    ENTRY(grouped_gemm_dgrad, GroupedGemmDgradParams, dgrad, V, TILE)
#define WGRAD_ENTRY(V, TILE) ENTRY(grouped_gemm_wgrad, GroupedGemmWgradParams, wgrad, V, TILE)

GROUPED_GEMM_TILES(ROW_ENTRIES, F32)
GROUPED_GEMM_TILES(ROW_ENTRIES, BF16)
GROUPED_GEMM_TILES(ROW_ENTRIES, F16)
GROUPED_GEMM_WGRAD_TILES(WGRAD_ENTRY)
