// Copying rows.
#include "copy.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t ROWS = THREADS / WARP;
constexpr uint32_t COLUMNS = 1024;

extern "C" {
__constant__ LaunchTile moe_copy_launch = {THREADS, ROWS, COLUMNS, 0};
}

// Formula: y[r, j] = x[r, j], to the bit.
// Mapping: warp -> (row, tile of COLUMNS columns); lane -> every 32nd vector of the tile.
// Idea: none; beside cudaMemcpy2D it takes any stride, where that one stops at a pitch of 2 GiB.
template <class T, int N>
__device__ void copy(const CopyParams& p, uint32_t row) {
    const T* x = row_of<const T>(p.x, p.x_stride, row);  // [hidden]
    T* y = row_of<T>(p.y, p.y_stride, row);              // [hidden]
    for_tiles(p.hidden, COLUMNS, [&](uint32_t begin, uint32_t end) {
        for_columns<4>(
            of_lane<N>(begin, end), [&](uint32_t c) { return load<N>(x + c); },
            [&](uint32_t c, const Vec<T, N>& v) { store(y + c, v); });
    });
}

#define ENTRY(V)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                         \
        moe_copy_##V(const __grid_constant__ CopyParams p) {                                      \
        const uint32_t row = blockIdx.x * ROWS + warp_id();                                       \
        if (row >= p.rows) {                                                                      \
            return;                                                                               \
        }                                                                                         \
        is_wide<V>(p.hidden, p.x | p.y, p.x_stride | p.y_stride) ? copy<V, WIDE<V>>(p, row)       \
                                                                 : copy<V, 1>(p, row);            \
    }
COPY_VARIANTS(ENTRY)
