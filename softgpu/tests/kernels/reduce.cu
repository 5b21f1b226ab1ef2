// Sum of x[0..n] with a grid-stride loop, shuffles, and one atomic a block. 128 threads.
extern "C" __global__ void reduce(float* out, const float* x, int n) {
    __shared__ float sums[4];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, step = gridDim.x * blockDim.x;
    float v = 0;
#if BUG == 6  // one element too many
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i <= n; i += step) v += x[i];
#else
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) v += x[i];
#endif
#if BUG == 10  // threads without work leave before the barrier
    if ((int)(blockIdx.x * blockDim.x + threadIdx.x) >= n) return;
#endif
#if BUG == 3  // half of the warp waits for the other half, which is elsewhere
    if (lane < 16) v += __shfl_xor_sync(0xffffffff, v, 8);
#elif BUG == 4  // the mask leaves out lane 0
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xfffffffe, v, d);
#elif BUG == 5  // the source lane is outside the mask
    if (lane < 16)
        for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0x0000ffff, v, d);
#else
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffff, v, d);
#endif
    if (lane == 0) sums[warp] = v;
#if BUG == 7  // a barrier for half a warp
    if (threadIdx.x < 16) __syncthreads();
#elif BUG != 1  // barrier removed
    __syncthreads();
#endif
    if (warp == 0) {
#if BUG == 8  // all sixteen places are read, four were written
        __shared__ float more[16];
        if (lane < 4) more[lane] = sums[lane];
        __syncwarp();
        v = lane < 16 ? more[lane] : 0;
#else
        v = lane < 4 ? sums[lane] : 0;
#endif
        for (int d = 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffff, v, d);
#if BUG == 2  // no atomic across blocks
        if (lane == 0) *out += v;
#else
        if (lane == 0) atomicAdd(out, v);
#endif
    }
#if BUG == 9  // local memory written one beyond the end
    float local[8];
    for (int i = 0; i < 8; i++) local[i] = v * i;
    for (int i = 0; i <= n % 8 + 8; i++) local[i] += 1;
    if (local[n % 8] == -1.0f) *out = 0;
#endif
}
