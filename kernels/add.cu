// Adding one tensor to another: a residual connection.
#include "add.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t ROWS = THREADS / WARP;
constexpr uint32_t COLUMNS = 1024;

extern "C" {
__constant__ LaunchTile moe_add_launch = {THREADS, ROWS, COLUMNS, 0};
}

template <class T, int N>
struct Addends {
    Vec<T, N> x;
    Vec<T, N> y;
};

// Formula: y[r, j] += x[r, j].
// Mapping: warp -> (row, tile of COLUMNS columns); lane -> every 32nd vector of the tile.
// Idea: none.
template <class T, int N>
__device__ void add(const AddParams& p, uint32_t row) {
    const T* x = row_of<const T>(p.x, p.x_stride, row);  // [hidden]
    T* y = row_of<T>(p.y, p.y_stride, row);              // [hidden]
    auto read = [&](uint32_t c) { return Addends<T, N>{load<N>(x + c), load<N>(y + c)}; };
    auto write = [&](uint32_t c, const Addends<T, N>& in) {
        float sum[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            sum[i] = to_float(in.y.at[i]) + to_float(in.x.at[i]);
        }
        store_rounded(y + c, sum);
    };
    for_tiles(p.hidden, COLUMNS, [&](uint32_t begin, uint32_t end) {
        for_columns<4>(of_lane<N>(begin, end), read, write);
    });
}

#define ENTRY(V)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                         \
        moe_add_##V(const __grid_constant__ AddParams p) {                                        \
        const uint32_t row = blockIdx.x * ROWS + warp_id();                                       \
        if (row >= p.rows) {                                                                      \
            return;                                                                               \
        }                                                                                         \
        is_wide<V>(p.hidden, p.x | p.y, p.x_stride | p.y_stride) ? add<V, WIDE<V>>(p, row)        \
                                                                 : add<V, 1>(p, row);             \
    }
ADD_VARIANTS(ENTRY)
