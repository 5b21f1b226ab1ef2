// y[i] = sum over z of x[z, i], the parts z added in order: a block waits for its turn at the lock of its tile.
extern "C" __global__ void splitk(float* y, int* locks, const float* x, int width) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, z = blockIdx.y;
    volatile int* lock = locks + blockIdx.x;
#if BUG != 2  // does not wait
    if (threadIdx.x == 0) {
#if BUG == 4  // waits for a turn that never comes
        while (*lock != z + 1) __nanosleep(32);
#else
        while (*lock != z) __nanosleep(32);
#endif
        __threadfence();
    }
#endif
#if BUG != 5  // barrier after the wait removed: only one warp knows that it is its turn
    __syncthreads();
#endif
    if (i < width) {
        float v = x[(size_t)z * width + i];
        y[i] = z == 0 ? v : y[i] + v;
    }
#if BUG != 3  // barrier removed: the lock is handed on before the others are done
    __syncthreads();
#endif
    if (threadIdx.x == 0) {
#if BUG != 1  // missing fence
        __threadfence();
#endif
        *lock = z + 1;
    }
}
