// Matrix products of row segments whose weights end in INT4.
#include "grouped_gemm_int4.h"

#include "common/gemm_store.cuh"
#include "common/sched.cuh"
#include "grouped_gemm_tiles.cuh"
#include "int4_copier.cuh"

// Formula: y[p] = x[p] [w[g] ; first[g] ; second[g]]^T.
// Mapping: block -> tiles [M, N] of y in turn, M rows of one group, N columns of the base or of the factors; warps as in
//          GroupedGemm.
// Idea: tiles of the factors begin anew behind those of the base, so that a tile is of one kind; all of them pass through the
//       same ring.
template <class G>
__device__ void rows(const GroupedGemmInt4RowsParams& p) {
    using T = typename G::T;
    __shared__ GemmRing<G, Lies::K_LAST, Lies::K_LAST> ring;
    const Segments segments = {array_of<const uint32_t>(p.offsets), p.groups, p.rows};
    const GatheredRows<T> x = {array_of<const T>(p.x), p.x_stride, array_of<const uint32_t>(p.source), p.fan};
    const uint32_t base = ceil_div(p.outputs, G::N) * G::N;
    RowTiles<G::M, G::N> tiles(segments, base + 2 * p.first.outputs);
    for (RowTile tile; tiles.next(tile);) {
        Copier<G, Lies::K_LAST, G::M, GatheredRows<T>> a(x, tile.row, tile.rows, p.inputs);
        GemmSums<G> sums;
        uint32_t column = tile.column, columns = tile.columns;
        if (column < base) {
            columns = min(columns, p.outputs - column);
            const StridedRows<T> w = {row_of<const T>(p.w, p.w_group_stride, tile.group), p.w_stride};
            Copier<G, Lies::K_LAST, G::N, StridedRows<T>> b(w, column, columns, p.inputs);
            gemm(sums, ring, a, b, p.inputs);
        } else {
            Copier<G, Lies::K_LAST, G::N, PackedRows> b({p.first, p.second, tile.group}, column - base, columns);
            gemm(sums, ring, a, b, p.inputs);
            column -= base - p.outputs;
        }
        T* y = row_of<T>(p.y, p.y_stride, tile.row) + column;
        store_sums(sums, GemmOut<T>{y, p.y_stride, tile.rows, columns, false});
    }
}

// Formula: y[p] = x[p] [w[g] | last[g]^T]^T.
// Mapping: block -> tiles [M, N] of y in turn; warps as in GroupedGemm.
// Idea: the sums of the base go on along the ranks. There the packed operand lies K first, in the same shared memory.
template <class G>
__device__ void columns(const GroupedGemmInt4ColumnsParams& p) {
    using T = typename G::T;
    __shared__ union {
        GemmRing<G, Lies::K_LAST, Lies::K_LAST> base;
        GemmRing<G, Lies::K_LAST, Lies::K_FIRST> last;
    } ring;
    const Segments segments = {array_of<const uint32_t>(p.offsets), p.groups, p.rows};
    const GatheredRows<T> x = {array_of<const T>(p.x), p.x_stride, array_of<const uint32_t>(p.source), p.fan};
    const GatheredRows<T> tail = {x.base + p.inputs, x.stride, x.source, x.fan};
    RowTiles<G::M, G::N> tiles(segments, p.outputs);
    for (RowTile tile; tiles.next(tile);) {
        GemmSums<G> sums;
        {
            const StridedRows<T> w = {row_of<const T>(p.w, p.w_group_stride, tile.group), p.w_stride};
            Copier<G, Lies::K_LAST, G::M, GatheredRows<T>> a(x, tile.row, tile.rows, p.inputs);
            Copier<G, Lies::K_LAST, G::N, StridedRows<T>> b(w, tile.column, tile.columns, p.inputs);
            gemm(sums, ring.base, a, b, p.inputs);
        }
        {
            Copier<G, Lies::K_LAST, G::M, GatheredRows<T>> a(tail, tile.row, tile.rows, p.last.outputs);
            Copier<G, Lies::K_FIRST, G::N, PackedDepth> b({p.last, tile.group}, tile.column);
            gemm(sums, ring.last, a, b, p.last.outputs);
        }
        T* y = row_of<T>(p.y, p.y_stride, tile.row) + tile.column;
        store_sums(sums, GemmOut<T>{y, p.y_stride, tile.rows, tile.columns, false});
    }
}

#define ENTRY(KERNEL, PARAMS, WORK, V, TILE)                                                             \
    extern "C" __global__ void __launch_bounds__(Tiles<V>::TILE::THREADS, 2)                             \
        moe_##KERNEL##_##V##_##TILE(const __grid_constant__ PARAMS p) {                                  \
        WORK<Tiles<V>::TILE>(p);                                                                         \
    }
#define ROWS_ENTRY(V, TILE)                                                                              \
    GROUPED_GEMM_LAUNCH(V, TILE)                                                                         \
    ENTRY(grouped_gemm_int4_rows, GroupedGemmInt4RowsParams, rows, V, TILE)
#define COLUMNS_ENTRY(V, TILE) ENTRY(grouped_gemm_int4_columns, GroupedGemmInt4ColumnsParams, columns, V, TILE)

GROUPED_GEMM_TILES(ROWS_ENTRY, F32)
GROUPED_GEMM_TILES(ROWS_ENTRY, BF16)
GROUPED_GEMM_TILES(ROWS_ENTRY, F16)
GROUPED_GEMM_INT4_COLUMNS_TILES(COLUMNS_ENTRY)
