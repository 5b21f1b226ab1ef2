// Root-mean-square normalisation of rows, and its gradient.
#include "rms_norm.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 128;
constexpr uint32_t WARPS = THREADS / WARP;
/// Rows of a block of the backward.
constexpr uint32_t ROWS = RMS_NORM_PARTIAL_ROWS;
/// Of the second stage: a block has FOLD_WARPS warps for WARP columns.
constexpr uint32_t FOLD_WARPS = 16;

extern "C" {
__constant__ LaunchTile moe_rms_norm_launch = {THREADS, 1, 0, 0};
__constant__ LaunchTile moe_rms_norm_backward_launch = {THREADS, ROWS, 0, 0};
__constant__ LaunchTile moe_rms_norm_dgain_launch = {FOLD_WARPS * WARP, 0, WARP, 0};
}

// Formula: inv_rms[r] = 1 / sqrt(mean over j of x[r, j]^2 + eps), y[r, j] = x[r, j] inv_rms[r] gain[j].
// Mapping: block -> row; thread -> every THREADSth vector of it.
// Idea: the first KEPT vectors of a thread stay in registers between the two passes, so that rows of up to
//       KEPT x THREADS vectors (8,192 elements of 2 bytes) are read once; the rest is read again.
template <class T, int N>
__device__ void forward(const RmsNormParams& p, float (&room)[WARPS]) {
    constexpr uint32_t KEPT = 8, STEP = THREADS * N;
    const uint32_t row = blockIdx.x, first = threadIdx.x * N;
    const T* x = row_of<const T>(p.x, p.x_stride, row);  // [hidden]
    const T* gain = array_of<const T>(p.gain);           // [hidden]
    T* y = row_of<T>(p.y, p.y_stride, row);              // [hidden]
    float squares = 0.0f;
    auto add = [&](const Vec<T, N>& v) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            squares += to_float(v.at[i]) * to_float(v.at[i]);
        }
    };
    Vec<T, N> kept[KEPT];
#pragma unroll
    for (uint32_t k = 0; k < KEPT; ++k) {
        const uint32_t c = first + k * STEP;
        kept[k] = c < p.hidden ? load<N>(x + c) : Vec<T, N>{};
    }
#pragma unroll
    for (uint32_t k = 0; k < KEPT; ++k) {
        add(kept[k]);
    }
    for (uint64_t c = first + KEPT * STEP; c < p.hidden; c += STEP) {
        add(load<N>(x + c));
    }
    const float mean = block_sum<THREADS>(squares, room) / float(p.hidden);
    const float inverse = 1.0f / sqrtf(mean + p.eps);
    if (threadIdx.x == 0) {
        array_of<float>(p.inv_rms)[row] = inverse;
    }
    auto write = [&](uint64_t c, const Vec<T, N>& v) {
        const Vec<T, N> factor = load<N>(gain + c);
        float out[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            out[i] = to_float(v.at[i]) * inverse * to_float(factor.at[i]);
        }
        store_rounded(y + c, out);
    };
#pragma unroll
    for (uint32_t k = 0; k < KEPT; ++k) {
        const uint32_t c = first + k * STEP;
        if (c < p.hidden) {
            write(c, kept[k]);
        }
    }
    for (uint64_t c = first + KEPT * STEP; c < p.hidden; c += STEP) {
        write(c, load<N>(x + c));
    }
}

/// `N` sums at `at`, which is 16-byte aligned if they are more than one.
template <int N>
struct Sums {
    static constexpr int PART = N == 1 ? 1 : 4;

    __device__ static void read(const float* at, float (&sums)[N]) {
#pragma unroll
        for (int i = 0; i < N; i += PART) {
            const Vec<float, PART> part = load<PART>(at + i);
#pragma unroll
            for (int k = 0; k < PART; ++k) {
                sums[i + k] = part.at[k];
            }
        }
    }

    __device__ static void write(float* at, const float (&sums)[N]) {
#pragma unroll
        for (int i = 0; i < N; i += PART) {
            Vec<float, PART> part;
#pragma unroll
            for (int k = 0; k < PART; ++k) {
                part.at[k] = sums[i + k];
            }
            store(at + i, part);
        }
    }
};

/// What a thread of the backward holds of a row, and how it uses it.
template <class T, int N>
struct RowGrad {
    Vec<T, N> dy;
    Vec<T, N> x;

    __device__ static RowGrad read(const T* dy, const T* x) {
        return {load<N>(dy), load<N>(x)};
    }

    /// Sum of dy gain x.
    __device__ float dot(const T* gain) const {
        const Vec<T, N> factor = load<N>(gain);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            sum += to_float(dy.at[i]) * to_float(factor.at[i]) * to_float(x.at[i]);
        }
        return sum;
    }

    /// Writes dx and adds dy n to `sums`.
    __device__ void apply(T* dx, const T* gain, float inverse, float mean, bool add, float (&sums)[N]) const {
        const Vec<T, N> factor = load<N>(gain);
        const Vec<T, N> old = add ? load<N>(dx) : Vec<T, N>{};
        float out[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float n = to_float(x.at[i]) * inverse, g = to_float(dy.at[i]);
            const float d = inverse * (g * to_float(factor.at[i]) - n * mean);
            out[i] = add ? to_float(old.at[i]) + d : d;
            sums[i] += g * n;
        }
        store_rounded(dx, out);
    }
};

// Formula: with n = x inv_rms, g = dy gain: dx = [dx +] inv_rms (g - n mean(g n)),
//          partial[b, j] = sum over the rows of block b of dy[r, j] n[r, j].
// Mapping: block -> ROWS rows, one after the other; thread -> every THREADSth vector of each.
// Idea: a thread keeps its columns for all rows, so their sums need no exchange: those of the first KEPT vectors
//       are in registers, as the vectors are between the two passes; those of the rest in the row of `partial`
//       that is the block's own.
template <class T, int N>
__device__ void backward(const RmsNormBackwardParams& p, float (&room)[2][WARPS]) {
    constexpr uint32_t KEPT = 4, STEP = THREADS * N;
    const uint32_t first = threadIdx.x * N, begin = blockIdx.x * ROWS;
    const uint32_t rows = min(ROWS, p.rows - begin);
    const T* gain = array_of<const T>(p.gain);                           // [hidden]
    float* partial = row_of<float>(p.partial, p.hidden, blockIdx.x);     // [hidden]
    float sums[KEPT][N] = {};
    for (uint32_t r = 0; r < rows; ++r) {
        const uint32_t row = begin + r;
        const T* dy = row_of<const T>(p.dy, p.dy_stride, row);  // [hidden]
        const T* x = row_of<const T>(p.x, p.x_stride, row);     // [hidden]
        T* dx = row_of<T>(p.dx, p.dx_stride, row);              // [hidden]
        const float inverse = array_of<const float>(p.inv_rms)[row];
        RowGrad<T, N> kept[KEPT];
        float dot = 0.0f;
#pragma unroll
        for (uint32_t k = 0; k < KEPT; ++k) {
            const uint32_t c = first + k * STEP;
            if (c < p.hidden) {
                kept[k] = RowGrad<T, N>::read(dy + c, x + c);
            }
        }
#pragma unroll
        for (uint32_t k = 0; k < KEPT; ++k) {
            const uint32_t c = first + k * STEP;
            if (c < p.hidden) {
                dot += kept[k].dot(gain + c);
            }
        }
        for (uint64_t c = first + KEPT * STEP; c < p.hidden; c += STEP) {
            dot += RowGrad<T, N>::read(dy + c, x + c).dot(gain + c);
        }
        // Two rooms in turn: a warp is at most one row ahead of the slowest.
        const float mean = block_sum<THREADS>(dot, room[r % 2]) * inverse / float(p.hidden);
#pragma unroll
        for (uint32_t k = 0; k < KEPT; ++k) {
            const uint32_t c = first + k * STEP;
            if (c < p.hidden) {
                kept[k].apply(dx + c, gain + c, inverse, mean, p.accumulate_dx != 0, sums[k]);
            }
        }
        for (uint64_t c = first + KEPT * STEP; c < p.hidden; c += STEP) {
            float sum[N] = {};
            if (r > 0) {
                Sums<N>::read(partial + c, sum);
            }
            RowGrad<T, N>::read(dy + c, x + c).apply(dx + c, gain + c, inverse, mean, p.accumulate_dx != 0, sum);
            Sums<N>::write(partial + c, sum);
        }
    }
#pragma unroll
    for (uint32_t k = 0; k < KEPT; ++k) {
        const uint32_t c = first + k * STEP;
        if (c < p.hidden) {
            Sums<N>::write(partial + c, sums[k]);
        }
    }
}

// Formula: dgain[j] = [dgain[j] +] sum over b of partial[b, j].
// Mapping: block -> WARP columns; warp -> every FOLD_WARPSth row of partial; lane -> column.
// Idea: a fixed number of chains that do not depend on each other, folded in order at the end.
extern "C" __global__ void __launch_bounds__(FOLD_WARPS* WARP)
    moe_rms_norm_dgain(const __grid_constant__ RmsNormDgainParams p) {
    __shared__ float room[FOLD_WARPS][WARP];
    const uint64_t column = uint64_t(blockIdx.x) * WARP + lane_id();
    const bool mine = column < p.hidden;
    float sum = 0.0f;
    if (mine) {
#pragma unroll 8
        for (uint32_t b = warp_id(); b < p.partials; b += FOLD_WARPS) {
            sum += row_of<const float>(p.partial, p.hidden, b)[column];
        }
    }
    room[warp_id()][lane_id()] = sum;
    __syncthreads();
    if (warp_id() == 0 && mine) {
        float* dgain = array_of<float>(p.dgain) + column;
        float total = p.accumulate != 0 ? *dgain : 0.0f;
#pragma unroll
        for (uint32_t w = 0; w < FOLD_WARPS; ++w) {
            total += room[w][lane_id()];
        }
        *dgain = total;
    }
}

#define ENTRY(V)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
        moe_rms_norm_##V(const __grid_constant__ RmsNormParams p) {                                      \
        __shared__ float room[WARPS];                                                                    \
        is_wide<V>(p.hidden, p.x | p.gain | p.y, p.x_stride | p.y_stride) ? forward<V, WIDE<V>>(p, room) \
                                                                          : forward<V, 1>(p, room);      \
    }                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
        moe_rms_norm_backward_##V(const __grid_constant__ RmsNormBackwardParams p) {                     \
        __shared__ float room[2][WARPS];                                                                 \
        const uint64_t addresses = p.dy | p.x | p.gain | p.dx | p.partial;                               \
        is_wide<V>(p.hidden, addresses, p.dy_stride | p.x_stride | p.dx_stride)                          \
            ? backward<V, WIDE<V>>(p, room)                                                              \
            : backward<V, 1>(p, room);                                                                   \
    }
RMS_NORM_VARIANTS(ENTRY)
