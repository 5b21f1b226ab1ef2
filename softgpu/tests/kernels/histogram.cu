// counts[b] += how many of values[0..n] are b, for 64 bins: in shared memory first, then in global memory.
extern "C" __global__ void histogram(int* counts, const int* values, int n) {
    __shared__ int bins[64];
#if BUG != 3  // bins not cleared
    for (int b = threadIdx.x; b < 64; b += blockDim.x) bins[b] = 0;
#endif
#if BUG != 4  // barrier after clearing removed
    __syncthreads();
#endif
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
#if BUG == 1  // not atomic in shared memory
        bins[values[i]] += 1;
#elif BUG == 6  // one bin off
        atomicAdd(&bins[values[i] + 1], 1);
#else
        atomicAdd(&bins[values[i]], 1);
#endif
    }
#if BUG != 5  // barrier before the sums removed
    __syncthreads();
#endif
    for (int b = threadIdx.x; b < 64; b += blockDim.x) {
#if BUG == 2  // not atomic in global memory
        counts[b] += bins[b];
#else
        atomicAdd(&counts[b], bins[b]);
#endif
    }
}
