// Stable counting sort of tokens by expert (at most 32 experts): order[position] = token, starts[e] = first position.
// One block of 128 threads; each warp has a contiguous part of the tokens.
#define ALL 0xffffffffu

extern "C" __global__ void sort(int* order, int* starts, const int* experts, int n) {
    __shared__ int counts[4][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int part = (n + 127) / 128 * 32, first = warp * part, last = min(n, first + part);
    counts[warp][lane] = 0;
    __syncwarp();
    for (int i = first; i < last; i += 32) {
        int token = i + lane, e = token < last ? experts[token] : 32;
        unsigned same = __match_any_sync(ALL, e);
        if (e < 32 && __ffs(same) - 1 == lane) counts[warp][e] += __popc(same);
#if BUG != 1  // __syncwarp removed
        __syncwarp();
#endif
    }
#if BUG != 2  // barrier removed
    __syncthreads();
#endif
    if (warp == 0) {
        int total = 0;
        for (int w = 0; w < 4; w++) {
            int c = counts[w][lane];
            counts[w][lane] = total;
            total += c;
        }
        int sum = total;
        for (int d = 1; d < 32; d *= 2) {
            int below = __shfl_up_sync(ALL, sum, d);
#if BUG == 3  // the lowest lanes add themselves
            sum += below;
#else
            if (lane >= d) sum += below;
#endif
        }
#if BUG == 4  // inclusive instead of exclusive
        int start = sum;
#else
        int start = sum - total;
#endif
        starts[lane] = start;
        for (int w = 0; w < 4; w++) counts[w][lane] += start;
    }
#if BUG != 5  // barrier removed
    __syncthreads();
#endif
    for (int i = first; i < last; i += 32) {
        int token = i + lane, e = token < last ? experts[token] : 32;
        unsigned same = __match_any_sync(ALL, e), lower = same & ((1u << lane) - 1);
#if BUG == 6  // counts itself among the lower lanes
        lower = same & ((2u << lane) - 1);
#elif BUG == 8  // not stable: counts the higher lanes
        lower = same & ~((2u << lane) - 1);
#endif
        if (e < 32) order[counts[warp][e] + __popc(lower)] = token;
#if BUG != 7  // __syncwarp between the reads and the update removed
        __syncwarp();
#endif
        if (e < 32 && lower == (BUG == 6 ? 1u << lane : 0)) counts[warp][e] += __popc(same);
        __syncwarp();
    }
}
