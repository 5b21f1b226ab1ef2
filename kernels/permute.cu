// Moving rows between token order and a sorted order, and summing a token's rows.
#include "permute.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t TOKENS = THREADS / WARP;
constexpr uint32_t COLUMNS = 1024;

extern "C" {
__constant__ LaunchTile moe_permute_launch = {THREADS, TOKENS, COLUMNS, 0};
__constant__ LaunchTile moe_combine_launch = {THREADS, TOKENS, COLUMNS, 0};
__constant__ LaunchTile moe_combine_backward_launch = {THREADS, TOKENS, 0, 0};
}

/// The rows of a token's slots.
template <class Params>
__device__ const uint32_t* places_of(const Params& p, uint32_t token) {
    return row_of<const uint32_t>(p.place, p.fan, token);  // [fan]
}

// Formula: y[place[t, s]] = x[t].
// Mapping: warp -> (token, tile of COLUMNS columns); lane -> every 32nd vector of the tile.
// Idea: a token is read once and written to all its places, instead of read once a place.
template <class T, int N>
__device__ void permute(const PermuteParams& p, uint32_t token) {
    const T* x = row_of<const T>(p.x, p.x_stride, token);  // [hidden]
    const uint32_t* place = places_of(p, token);           // [fan]
    for_tiles(p.hidden, COLUMNS, [&](uint32_t begin, uint32_t end) {
        for_columns<4>(
            of_lane<N>(begin, end), [&](uint32_t c) { return load<N>(x + c); },
            [&](uint32_t c, const Vec<T, N>& v) {
                for (uint32_t slot = 0; slot < p.fan; ++slot) {
                    store(row_of<T>(p.y, p.y_stride, place[slot]) + c, v);
                }
            });
    });
}

// Formula: y[t] = [y[t] +] sum over s of weight[t, s] x[place[t, s]].
// Mapping: warp -> (token, tile of COLUMNS columns); lane -> every 32nd vector of the tile.
// Idea: the sum of a vector stays in registers over all slots, so x is read once and y written once, in slot order
//       whatever the sorted order is.
template <class T, int N>
__device__ void combine(const CombineParams& p, uint32_t token) {
    T* __restrict__ y = row_of<T>(p.y, p.y_stride, token);                          // [hidden]
    const float* weight = row_of<const float>(p.weight, p.weight_stride, token);    // [fan]
    const uint32_t* __restrict__ place = places_of(p, token);                       // [fan]
    auto sum_up = [&](uint32_t c) {
        float sum[N] = {};
        if (p.accumulate != 0) {
            const Vec<T, N> old = load<N>(y + c);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                sum[i] = to_float(old.at[i]);
            }
        }
#pragma unroll 4
        for (uint32_t slot = 0; slot < p.fan; ++slot) {
            const float w = p.weight != 0 ? weight[slot] : 1.0f;
            const Vec<T, N> x = load<N>(row_of<const T>(p.x, p.x_stride, place[slot]) + c);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                sum[i] += w * to_float(x.at[i]);
            }
        }
        store_rounded(y + c, sum);
    };
    for_tiles(p.hidden, COLUMNS, [&](uint32_t begin, uint32_t end) {
        const Columns columns = of_lane<N>(begin, end);
        for (uint64_t c = columns.first; c < columns.last; c += columns.step) {
            sum_up(uint32_t(c));
        }
    });
}

// Formula: dx[place[t, s]] = weight[t, s] dy[t], dweight[t, s] = <dy[t], x[place[t, s]]>.
// Mapping: warp -> token; lane -> every 32nd vector of the row.
// Idea: DEPTH vectors a lane of dy stay in registers while all slots pass by, so dy is read once for 32 slots. The
//       dot product of slot s lives in lane s, which any number of slots below 33 fits without an array.
template <class T, int N>
__device__ void combine_backward(const CombineBackwardParams& p, uint32_t token) {
    constexpr uint32_t DEPTH = 4;
    constexpr uint32_t STRIP = DEPTH * WARP * N;
    const T* dy = row_of<const T>(p.dy, p.dy_stride, token);                      // [hidden]
    const float* weight = row_of<const float>(p.weight, p.weight_stride, token);  // [fan]
    float* dweight = row_of<float>(p.dweight, p.dweight_stride, token);           // [fan]
    const uint32_t* place = places_of(p, token);                                  // [fan]
    for (uint32_t base = 0; base < p.fan; base += WARP) {
        const uint32_t slots = min(WARP, p.fan - base);
        float dot_of_lane = 0.0f;
        for (uint64_t strip = 0; strip < p.hidden; strip += STRIP) {
            const uint64_t first = strip + lane_id() * N;
            Vec<T, N> grad[DEPTH];
#pragma unroll
            for (uint32_t d = 0; d < DEPTH; ++d) {
                const uint64_t c = first + d * WARP * N;
                grad[d] = c < p.hidden ? load<N>(dy + c) : Vec<T, N>{};
            }
            for (uint32_t slot = 0; slot < slots; ++slot) {
                const uint32_t row = place[base + slot];
                const float w = weight[base + slot];
                const T* x = row_of<const T>(p.x, p.x_stride, row);  // [hidden]
                T* dx = row_of<T>(p.dx, p.dx_stride, row);           // [hidden]
                Vec<T, N> value[DEPTH];
#pragma unroll
                for (uint32_t d = 0; d < DEPTH; ++d) {
                    const uint64_t c = first + d * WARP * N;
                    value[d] = c < p.hidden ? load<N>(x + c) : Vec<T, N>{};
                }
                float dot = 0.0f;
#pragma unroll
                for (uint32_t d = 0; d < DEPTH; ++d) {
                    const uint64_t c = first + d * WARP * N;
                    if (c < p.hidden) {
                        float out[N];
#pragma unroll
                        for (int i = 0; i < N; ++i) {
                            const float g = to_float(grad[d].at[i]);
                            dot += g * to_float(value[d].at[i]);
                            out[i] = w * g;
                        }
                        store_rounded(dx + c, out);
                    }
                }
                dot = warp_sum(dot);
                dot_of_lane += lane_id() == slot ? dot : 0.0f;
            }
        }
        if (lane_id() < slots) {
            dweight[base + lane_id()] = dot_of_lane;
        }
    }
}

#define ENTRY(V)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                    \
        moe_permute_##V(const __grid_constant__ PermuteParams p) {                                           \
        const uint32_t token = blockIdx.x * TOKENS + warp_id();                                              \
        if (token >= p.tokens) {                                                                             \
            return;                                                                                          \
        }                                                                                                    \
        is_wide<V>(p.hidden, p.x | p.y, p.x_stride | p.y_stride) ? permute<V, WIDE<V>>(p, token)             \
                                                                 : permute<V, 1>(p, token);                  \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                    \
        moe_combine_##V(const __grid_constant__ CombineParams p) {                                           \
        const uint32_t token = blockIdx.x * TOKENS + warp_id();                                              \
        if (token >= p.tokens) {                                                                             \
            return;                                                                                          \
        }                                                                                                    \
        is_wide<V>(p.hidden, p.x | p.y, p.x_stride | p.y_stride) ? combine<V, WIDE<V>>(p, token)             \
                                                                 : combine<V, 1>(p, token);                  \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                    \
        moe_combine_backward_##V(const __grid_constant__ CombineBackwardParams p) {                          \
        const uint32_t token = blockIdx.x * TOKENS + warp_id();                                              \
        if (token >= p.tokens) {                                                                             \
            return;                                                                                          \
        }                                                                                                    \
        const bool wide = is_wide<V>(p.hidden, p.dy | p.x | p.dx, p.dy_stride | p.x_stride | p.dx_stride);   \
        wide ? combine_backward<V, WIDE<V>>(p, token) : combine_backward<V, 1>(p, token);                    \
    }
PERMUTE_VARIANTS(ENTRY)
