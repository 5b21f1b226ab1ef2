// sums[b] = sum of the elements that block b strides over; a second launch of one block sums the sums.
// Lanes add through shuffles, warps through shared memory.
#include <cstdint>

constexpr uint32_t ALL_LANES = 0xffffffffu;

// Every lane gets the sum over its warp.
__device__ __forceinline__ float warp_sum(float v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(ALL_LANES, v, step);
    return v;
}

extern "C" __global__ void __launch_bounds__(1024)
block_reduce(const float* __restrict__ x, float* __restrict__ sums, uint32_t n) {
    __shared__ float warp_sums[32];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;

    float v = 0.0f;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    v = warp_sum(v);
    if (lane == 0) warp_sums[warp] = v;
    __syncthreads();

    if (warp == 0) {
        v = warp_sum(lane < warps ? warp_sums[lane] : 0.0f);
        if (lane == 0) sums[blockIdx.x] = v;
    }
}
