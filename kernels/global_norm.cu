// The norm of a gradient over all its tensors.
#include "global_norm.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t WARPS = THREADS / WARP;
constexpr uint32_t ROOT_THREADS = 1024;
constexpr uint32_t CHUNK = GLOBAL_NORM_CHUNK;

extern "C" {
__constant__ LaunchTile moe_global_norm_launch = {THREADS, 1, CHUNK, 0};
__constant__ LaunchTile moe_global_norm_root_launch = {ROOT_THREADS, 0, 0, 0};
}

/// In f64, whose range the square of an f32 cannot leave.
__device__ double square(float x) {
    return double(x) * double(x);
}

// Formula: partial[b] = sum over i of chunk b of grad[i]^2.
// Mapping: block -> chunk of CHUNK elements; thread -> every THREADSth vector of it.
// Idea: one sum a thread for each place in a vector: four independent chains hide the latency of f64.
template <int N>
__device__ double squares(const GlobalNormParams& p) {
    const uint64_t begin = uint64_t(blockIdx.x) * CHUNK;
    const float* grad = array_of<const float>(p.grad) + begin;  // [count]
    const uint32_t count = uint32_t(min(uint64_t(CHUNK), p.len - begin));
    double sums[N] = {};
#pragma unroll 4
    for (uint32_t i = threadIdx.x * N; i + N <= count; i += THREADS * N) {
        const Vec<float, N> v = load<N>(grad + i);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            sums[k] += square(v.at[k]);
        }
    }
    const uint32_t tail = count / N * N + threadIdx.x;
    double sum = tail < count ? square(grad[tail]) : 0.0;
#pragma unroll
    for (int k = 0; k < N; ++k) {
        sum += sums[k];
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    moe_global_norm_F32(const __grid_constant__ GlobalNormParams p) {
    __shared__ double room[WARPS];
    const double sum = p.grad % 16 == 0 ? squares<4>(p) : squares<1>(p);
    const double total = block_sum<THREADS>(sum, room);
    if (threadIdx.x == 0) {
        array_of<double>(p.partial)[blockIdx.x] = total;
    }
}

// Formula: norm = sqrt(sum over b of partial[b]).
// Mapping: one block; thread -> every ROOT_THREADSth partial sum.
// Idea: none; a billion elements have 30,518 partial sums.
extern "C" __global__ void __launch_bounds__(ROOT_THREADS)
    moe_global_norm_root(const __grid_constant__ GlobalNormRootParams p) {
    __shared__ double room[ROOT_THREADS / WARP];
    double sum = 0.0;
    for (uint64_t b = threadIdx.x; b < p.partials; b += ROOT_THREADS) {
        sum += array_of<const double>(p.partial)[b];
    }
    const double total = block_sum<ROOT_THREADS>(sum, room);
    if (threadIdx.x == 0) {
        *array_of<float>(p.norm) = float(sqrt(total));
    }
}
