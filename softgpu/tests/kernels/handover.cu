// y = 2 x + 1 for n values (a multiple of 64): one warp loads, two compute, over two buffers with named barriers.
__device__ void sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ void arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

extern "C" __global__ void __launch_bounds__(96) handover(float* y, const float* x, int n) {
    __shared__ float buffers[2][64];
    // Barrier 1 + b: buffer b is full. Barrier 3 + b: it is empty.
    int lane = threadIdx.x % 32, rounds = n / 64;
    if (threadIdx.x < 32) {
        for (int r = 0; r < rounds; r++) {
#if BUG == 5  // one buffer too many
            int b = r % 3;
#else
            int b = r % 2;
#endif
            if (r >= 2) sync(3 + r % 2, 96);
            buffers[b][lane] = x[r * 64 + lane];
            buffers[b][lane + 32] = x[r * 64 + 32 + lane];
            __threadfence_block();
#if BUG == 2  // another number of threads than the consumers say
            arrive(1 + r % 2, 64);
#elif BUG == 3  // not a number of warps
            arrive(1 + r % 2, 90);
#elif BUG == 6  // the wrong barrier
            arrive(2 - r % 2, 96);
#else
            arrive(1 + r % 2, 96);
#endif
        }
    } else {
        int i = threadIdx.x - 32;
        for (int r = 0; r < rounds; r++) {
#if BUG == 4  // arrives instead of waiting
            arrive(1 + r % 2, 96);
#else
            sync(1 + r % 2, 96);
#endif
#if BUG == 1  // says that the buffer is empty before it is read
            if (r + 2 < rounds) arrive(3 + r % 2, 96);
#endif
            y[r * 64 + i] = 2 * buffers[r % 2][i] + 1;
#if BUG != 1
            if (r + 2 < rounds) arrive(3 + r % 2, 96);
#endif
        }
    }
}
