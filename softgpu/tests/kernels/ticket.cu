// Sum of x[0..n]: every thread leaves a partial sum, the last block adds them up.
extern "C" __global__ void ticket(float* out, float* partial, int* count, const float* x, int n) {
    __shared__ bool last;
    __shared__ float sums[128];
    int threads = gridDim.x * blockDim.x, me = blockIdx.x * blockDim.x + threadIdx.x;
    float v = 0;
    for (int i = me; i < n; i += threads) v += x[i];
    partial[me] = v;
#if BUG != 2  // the fence of thread 0 does not cover the other warps
    __syncthreads();
#endif
    if (threadIdx.x == 0) {
#if BUG == 4  // a fence for the block alone
        __threadfence_block();
#elif BUG != 1  // missing fence
        __threadfence();
#endif
#if BUG == 3  // not atomic
        last = (*count)++ == (int)gridDim.x - 1;
#else
        last = atomicAdd(count, 1) == (int)gridDim.x - 1;
#endif
        __threadfence();
    }
#if BUG != 5  // barrier after the ticket removed
    __syncthreads();
#endif
    if (!last) return;
    v = 0;
    for (int i = threadIdx.x; i < threads; i += blockDim.x) v += partial[i];
    sums[threadIdx.x] = v;
    for (int d = 64; d > 0; d /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < d) sums[threadIdx.x] += sums[threadIdx.x + d];
    }
#if BUG == 6  // the last sum is read by a thread of another warp without a barrier
    if (threadIdx.x == 64) *out = sums[0];
#else
    if (threadIdx.x == 0) *out = sums[0];
#endif
}
