// The matrices of clustered experts, written out.
#include "residual.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 256;
/// Rows of a warp.
constexpr uint32_t DEEP = 4;
constexpr uint32_t ROWS = THREADS / WARP * DEEP;
constexpr uint32_t COLUMNS = 1024;

extern "C" {
__constant__ LaunchTile moe_residual_launch = {THREADS, ROWS, COLUMNS, 0};
}

/// Stores `N` sums, 16 bytes at a time where `N` allows.
template <int N>
__device__ void store_sums(float* to, const float (&sum)[N]) {
    constexpr int STEP = N == 1 ? 1 : 4;
#pragma unroll
    for (int i = 0; i < N; i += STEP) {
        Vec<float, STEP> v;
#pragma unroll
        for (int j = 0; j < STEP; ++j) {
            v.at[j] = sum[i + j];
        }
        store(to + i, v);
    }
}

// Formula: w[e, o] = base[g, o] + sum over q of b[e, o, q] a[e, q].
// Mapping: blockIdx.z -> expert; warp -> DEEP rows o; lane -> every 32nd vector of a tile of COLUMNS columns.
// Idea: a vector of a is used for DEEP rows before the next is read.
template <class T, int N>
__device__ void residual(const ResidualParams& p) {
    const uint32_t expert = blockIdx.z;
    const uint32_t cluster = expert / p.per;
    const uint32_t number = expert % p.per;
    const T* base = row_of<const T>(p.base, p.base_cluster_stride, cluster);                         // [rows, columns]
    const T* a = row_of<const T>(p.a, p.a_cluster_stride, cluster) + number * p.a_expert_stride;     // [rank, columns]
    const T* b = row_of<const T>(p.b, p.b_cluster_stride, cluster) + number * p.b_expert_stride;     // [rows, rank]
    float* w = row_of<float>(p.w, p.w_stride, expert);                                               // [rows, columns]
    const uint32_t first = blockIdx.x * ROWS + warp_id() * DEEP;
    if (first >= p.rows) {
        return;
    }
    const uint32_t rows = min(DEEP, p.rows - first);
    for_tiles(p.columns, COLUMNS, [&](uint32_t begin, uint32_t end) {
        const Columns columns = of_lane<N>(begin, end);
        for (uint64_t c = columns.first; c < columns.last; c += columns.step) {
            float sum[DEEP][N];
#pragma unroll
            for (uint32_t d = 0; d < DEEP; ++d) {
                // Rows that are not there repeat the last one.
                const Vec<T, N> v = load<N>(base + (first + min(d, rows - 1)) * p.base_row_stride + c);
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    sum[d][i] = to_float(v.at[i]);
                }
            }
            for (uint32_t q = 0; q < p.rank; ++q) {
                const Vec<T, N> v = load<N>(a + q * p.a_row_stride + c);
#pragma unroll
                for (uint32_t d = 0; d < DEEP; ++d) {
                    const float factor = to_float(b[(first + min(d, rows - 1)) * p.b_row_stride + q]);
#pragma unroll
                    for (int i = 0; i < N; ++i) {
                        sum[d][i] = fmaf(factor, to_float(v.at[i]), sum[d][i]);
                    }
                }
            }
#pragma unroll
            for (uint32_t d = 0; d < DEEP; ++d) {
                if (d < rows) {
                    store_sums(w + uint64_t(first + d) * p.columns + c, sum[d]);
                }
            }
        }
    });
}

#define ENTRY(V)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                    \
        moe_residual_##V(const __grid_constant__ ResidualParams p) {                                         \
        const uint64_t strides = p.base_cluster_stride | p.base_row_stride | p.a_cluster_stride |            \
                                 p.a_expert_stride | p.a_row_stride;                                         \
        is_wide<V>(p.columns, p.base | p.a, strides) ? residual<V, WIDE<V>>(p) : residual<V, 1>(p);          \
    }
RESIDUAL_VARIANTS(ENTRY)
