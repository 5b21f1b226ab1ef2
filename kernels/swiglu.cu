// The gated activation of an expert, with the router's weight folded in.
#include "swiglu.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t ROWS = THREADS / WARP;
constexpr uint32_t COLUMNS = 1024;

extern "C" {
__constant__ LaunchTile moe_swiglu_launch = {THREADS, ROWS, COLUMNS, 0};
__constant__ LaunchTile moe_swiglu_backward_launch = {THREADS, ROWS, 0, 0};
}

template <class T, int N>
struct Gated {
    Vec<T, N> gate;
    Vec<T, N> up;
};

template <class T, int N>
struct GatedGrad {
    Vec<T, N> gate;
    Vec<T, N> up;
    Vec<T, N> dh;
};

/// Forward and backward share it, and it has no sum that could be fused: the backward returns the forward's h to
/// the bit.
__device__ float activate(float w, float silu, float up) {
    return w * (silu * up);
}

/// The element of a [tokens, fan] matrix that belongs to a row.
template <class A, class Params>
__device__ A* of_choice(const Params& p, uint64_t matrix, uint64_t stride, uint32_t row) {
    const uint32_t choice = array_of<const uint32_t>(p.source)[row];
    return row_of<A>(matrix, stride, choice / p.fan) + choice % p.fan;
}

template <class Params>
__device__ float weight_of(const Params& p, uint32_t row) {
    return p.weight != 0 ? *of_choice<const float>(p, p.weight, p.weight_stride, row) : 1.0f;
}

// Formula: h[r, j] = w[r] silu(z[r, j]) z[r, inner + j].
// Mapping: warp -> (row, tile of COLUMNS columns); lane -> every 32nd vector of the tile.
// Idea: none; the op moves 3 elements for each it computes.
template <class T, int N>
__device__ void swiglu(const SwiGluParams& p, uint32_t row) {
    const T* gate = row_of<const T>(p.z, p.z_stride, row);  // [inner]
    const T* up = gate + p.inner;                           // [inner]
    T* h = row_of<T>(p.h, p.h_stride, row);                 // [inner]
    const float w = weight_of(p, row);
    auto read = [&](uint32_t c) { return Gated<T, N>{load<N>(gate + c), load<N>(up + c)}; };
    auto write = [&](uint32_t c, const Gated<T, N>& z) {
        float out[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float g = to_float(z.gate.at[i]);
            out[i] = activate(w, g * sigmoid(g), to_float(z.up.at[i]));
        }
        store_rounded(h + c, out);
    };
    for_tiles(p.inner, COLUMNS, [&](uint32_t begin, uint32_t end) {
        for_columns<4>(of_lane<N>(begin, end), read, write);
    });
}

// Formula: with s = sigmoid(gate), silu = gate s:
//          dgate = w dh up (s + silu (1 - s)), dup = w dh silu, h = w silu up, dw = sum_j dh silu up.
// Mapping: warp -> row; lane -> every 32nd vector of it.
// Idea: everything is in place, so each element is read and written by the same lane; the sum over a row stays in
//       one warp, and the row itself says which weight it belongs to: no atomics.
template <class T, int N>
__device__ void backward(const SwiGluBackwardParams& p, uint32_t row) {
    T* gate = row_of<T>(p.z, p.z_stride, row);   // [inner]
    T* up = gate + p.inner;                      // [inner]
    T* dh = row_of<T>(p.dh, p.dh_stride, row);   // [inner]
    const float w = weight_of(p, row);
    float dot = 0.0f;
    auto read = [&](uint32_t c) {
        return GatedGrad<T, N>{load<N>(gate + c), load<N>(up + c), load<N>(dh + c)};
    };
    auto write = [&](uint32_t c, const GatedGrad<T, N>& in) {
        float dgate[N], dup[N], h[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float g = to_float(in.gate.at[i]), u = to_float(in.up.at[i]), d = to_float(in.dh.at[i]);
            const float s = sigmoid(g), silu = g * s, wd = w * d;
            dot += d * (silu * u);
            dgate[i] = wd * u * (s + silu * (1.0f - s));
            dup[i] = wd * silu;
            h[i] = activate(w, silu, u);
        }
        store_rounded(gate + c, dgate);
        store_rounded(up + c, dup);
        store_rounded(dh + c, h);
    };
    for_columns<2>(of_lane<N>(0, p.inner), read, write);
    if (p.dweight != 0) {
        dot = warp_sum(dot);
        if (lane_id() == 0) {
            *of_choice<float>(p, p.dweight, p.dweight_stride, row) = dot;
        }
    }
}

#define ENTRY(V)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                               \
        moe_swiglu_##V(const __grid_constant__ SwiGluParams p) {                                        \
        const uint32_t row = blockIdx.x * ROWS + warp_id();                                             \
        if (row >= p.rows) {                                                                            \
            return;                                                                                     \
        }                                                                                               \
        is_wide<V>(p.inner, p.z | p.h, p.z_stride | p.h_stride) ? swiglu<V, WIDE<V>>(p, row)            \
                                                                : swiglu<V, 1>(p, row);                 \
    }                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS)                                               \
        moe_swiglu_backward_##V(const __grid_constant__ SwiGluBackwardParams p) {                       \
        const uint32_t row = blockIdx.x * ROWS + warp_id();                                             \
        if (row >= p.rows) {                                                                            \
            return;                                                                                     \
        }                                                                                               \
        is_wide<V>(p.inner, p.z | p.dh, p.z_stride | p.dh_stride) ? backward<V, WIDE<V>>(p, row)        \
                                                                  : backward<V, 1>(p, row);             \
    }
SWIGLU_VARIANTS(ENTRY)
