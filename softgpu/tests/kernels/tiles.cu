// For every 8 values of x: their sum, by cooperative groups, and the same values reversed, through shared memory of
// one warp. n is a multiple of 8; a warp that has nothing to do leaves.
#include <cooperative_groups.h>
namespace cg = cooperative_groups;

extern "C" __global__ void tiles(float* sums, float* reversed, const float* x, int n) {
    __shared__ float staging[4][32];
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int first = (blockIdx.x * 4 + warp) * 32; first < n; first += gridDim.x * 128) {
        int i = first + lane;
        float v = i < n ? x[i] : 0;
        staging[warp][lane] = v;
#if BUG == 3  // own lane missing in the mask
        __syncwarp(0xfffffffe);
#elif BUG != 1  // __syncwarp removed
        __syncwarp();
#endif
        float other = staging[warp][lane ^ 7];
#if BUG != 2  // the second one removed
        __syncwarp();
#endif
        if (i < n) reversed[i] = other;
#if BUG == 4  // a tile of the warp does not come
        if (i < n)
#endif
        for (int d = tile.size() / 2; d > 0; d /= 2)
#if BUG == 4
            v += __shfl_xor_sync(0xffffffff, v, d);
#elif BUG == 5  // one step too many leaves the tile
            v += __shfl_xor_sync(0xffu << (lane & 24), v, d * 2);
#else
            v += tile.shfl_xor(v, d);
#endif
        if (i < n && tile.thread_rank() == 0) sums[i / 8] = v;
#if BUG == 4
        __syncwarp();
#endif
    }
}
