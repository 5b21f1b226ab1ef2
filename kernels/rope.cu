// Rotary position embedding.
#include "rope.h"

#include "rotation.cuh"

constexpr uint32_t THREADS = 128;
constexpr uint32_t ROWS = THREADS / WARP;

extern "C" {
__constant__ LaunchTile moe_rope_launch = {THREADS, ROWS, 0, 0};
}

// Formula: (a, b) = (a cos - b sin, b cos + a sin) with a = x[r, h, i], b = x[r, h, half + i] and the angle
//          position ratio^i.
// Mapping: warp -> row; lane -> N neighbouring pairs of every (32 / vectors of a half)th head.
// Idea: the angles of a row are the same for all heads, so a lane computes its own once and keeps them.
template <class T, int N>
__device__ void rope(const RopeParams& p, uint32_t row) {
    T* x = row_of<T>(p.x, p.x_stride, row);  // [heads, 2, half]
    const uint32_t vectors = p.half / N;     // of the pairs of a head
    const uint32_t heads = vectors < WARP ? WARP / vectors : 1, lanes = WARP / heads;
    const uint32_t first_head = lane_id() / lanes;
    if (first_head >= heads) {
        return;
    }
    const double position = double(row % p.seq);
    for (uint32_t v = lane_id() % lanes; v < vectors; v += lanes) {
        const uint32_t pair = v * N;
        const Rotation<N> rotation(p.inverse != 0 ? -position : position, p.ratio, pair);
#pragma unroll 2
        for (uint32_t head = first_head; head < p.heads; head += heads) {
            T* at_a = x + uint64_t(head) * 2 * p.half + pair;  // [N]
            T* at_b = at_a + p.half;                           // [N]
            Vec<T, N> a = load<N>(at_a), b = load<N>(at_b);
            rotation.apply(a, b);
            store_global(at_a, a);
            store_global(at_b, b);
        }
    }
}

#define ENTRY(V)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                            \
        moe_rope_##V(const __grid_constant__ RopeParams p) {                                         \
        const uint32_t row = blockIdx.x * ROWS + warp_id();                                          \
        if (row >= p.rows) {                                                                         \
            return;                                                                                  \
        }                                                                                            \
        is_wide<V>(p.half, p.x, p.x_stride) ? rope<V, WIDE<V>>(p, row) : rope<V, 1>(p, row);         \
    }
ROPE_VARIANTS(ENTRY)
