// Y = X W^T with 4-bit weights: X [m, k] and Y [m, n] in f16, W[n, k] = (q - 8) scale[k / 32, n] rounded to f16,
// sums in f32.
//
// Block: Y [32, 128], 4 warps beside each other, each [32, 32] = 2 x 4 products of m16n8k16. X goes through two slots
// of shared memory (cp.async, 16-byte groups swizzled by row); weights come from global memory straight into
// registers.
//
// The idea: the host stores the weights in the order of the mma fragments. `packed` is [n / 8, k / 32, lane]: the 8
// weights that lane (g = lane / 4, t = lane % 4) needs for column g and two steps of 16 along k, with the two of an
// f16 pair 16 bits apart, so that ORing the exponent of 1024 onto a masked word makes a pair of numbers 1024 + q:
//   bits  0-3 and 16-19: k = 2t, 2t + 1              bits  4-7 and 20-23: k = 2t + 8, 2t + 9
//   bits 8-11 and 24-27: k = 16 + 2t, 16 + 2t + 1    bits 12-15 and 28-31: k = 16 + 2t + 8, 16 + 2t + 9
#include "ptx.cuh"

constexpr int BM = 32, BN = 128, BK = 64, THREADS = 128, VECTOR = 8, GROUP = 32;

struct Int4GemmParams {
    uint64_t x;         // [m, k] f16, 16-byte aligned
    uint64_t packed;    // [ceil(n / 8), ceil(k / 32), 32] u32, padded with q = 8
    uint64_t scales;    // [ceil(k / 32), n] f16
    uint64_t y;         // [m, n] f16
    uint64_t ldx, ldy;  // elements; ldx is a multiple of 8
    uint32_t m, n, k;
    uint32_t unused;
};

// Two weights from bits 0-3 and 16-19.
__device__ __forceinline__ __half2 low_pair(uint32_t q) {
    const uint32_t pair = lop3_and_or(q, 0x000f000f, 0x64006400);  // 1024 + q
    return __hsub2(*reinterpret_cast<const __half2*>(&pair), __float2half2_rn(1032.0f));
}

// Two weights from bits 4-7 and 20-23, without a shift: 1024 + 16 q.
__device__ __forceinline__ __half2 high_pair(uint32_t q) {
    const uint32_t pair = lop3_and_or(q, 0x00f000f0, 0x64006400);
    return __hfma2(*reinterpret_cast<const __half2*>(&pair), __float2half2_rn(0.0625f), __float2half2_rn(-72.0f));
}

__device__ __forceinline__ uint32_t bits(__half2 v) { return *reinterpret_cast<const uint32_t*>(&v); }

// Where 16-byte group `group` of row `row` lies: the eight rows of an 8 x 8 matrix fall into different banks.
__device__ __forceinline__ int swizzled(int row, int group) { return (group ^ (row % 8)) * VECTOR; }

extern "C" __global__ void __launch_bounds__(THREADS) int4_gemm(const __grid_constant__ Int4GemmParams p) {
    __shared__ __align__(16) __half tiles[2][BM][BK];  // swizzled
    const __half* x = reinterpret_cast<const __half*>(p.x);
    const uint32_t* packed = reinterpret_cast<const uint32_t*>(p.packed);
    const __half* scales = reinterpret_cast<const __half*>(p.scales);
    __half* y = reinterpret_cast<__half*>(p.y);

    const uint32_t row0 = blockIdx.y * BM;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp_col = blockIdx.x * BN + threadIdx.x / 32 * 32;
    const uint32_t groups = (p.k + GROUP - 1) / GROUP, columns8 = (p.n + 7) / 8;
    const uint32_t steps = (p.k + BK - 1) / BK;
    float sum[2][4][4] = {};  // [m16, n8, element]

    auto fetch = [&](uint32_t step) {
        if (step < steps) {
#pragma unroll
            for (int i = threadIdx.x; i < BM * BK / VECTOR; i += THREADS) {
                const uint32_t r = i / (BK / VECTOR), group = i % (BK / VECTOR);
                const uint32_t row = row0 + r, col = step * BK + group * VECTOR;
                const uint32_t valid = row < p.m && col < p.k ? min(p.k - col, static_cast<uint32_t>(VECTOR)) : 0;
                const __half* source = valid ? x + row * p.ldx + col : x;
                cp_async_16(&tiles[step % 2][r][swizzled(r, group)], source, valid * sizeof(__half));
            }
        }
        cp_async_commit();
    };

    fetch(0);
    for (uint32_t step = 0; step < steps; ++step) {
        fetch(step + 1);
        cp_async_wait<1>();
        __syncthreads();

        const auto& tile = tiles[step % 2];
#pragma unroll
        for (int half = 0; half < BK / GROUP; ++half) {
            const uint32_t group = step * (BK / GROUP) + half;
            if (group >= groups) break;  // the same for the whole block
            uint32_t fa[2][2][4];        // [k16, m16, register]
#pragma unroll
            for (int s = 0; s < 2; ++s)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const uint32_t row = 16 * i + lane % 16;
                    ldmatrix_x4(fa[s][i], &tile[row][swizzled(row, half * 4 + s * 2 + lane / 16)]);
                }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const uint32_t column8 = warp_col / 8 + j, column = warp_col + 8 * j + lane / 4;
                if (column8 >= columns8) break;  // the same for the whole warp
                const uint32_t q = packed[(static_cast<uint64_t>(column8) * groups + group) * 32 + lane];
                const __half one = column < p.n ? scales[static_cast<uint64_t>(group) * p.n + column] : __half(0.0f);
                const __half2 scale = __half2half2(one);
                const uint32_t b[4] = {
                    bits(__hmul2(low_pair(q), scale)),
                    bits(__hmul2(high_pair(q), scale)),
                    bits(__hmul2(low_pair(q >> 8), scale)),
                    bits(__hmul2(high_pair(q >> 8), scale)),
                };
#pragma unroll
                for (int s = 0; s < 2; ++s)
#pragma unroll
                    for (int i = 0; i < 2; ++i) mma_m16n8k16(sum[i][j], fa[s][i], b[2 * s], b[2 * s + 1], __half());
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const uint32_t row = row0 + 16 * i + lane / 4 + e / 2 * 8;
                const uint32_t column = warp_col + 8 * j + lane % 4 * 2 + e % 2;
                if (row < p.m && column < p.n) y[row * p.ldy + column] = __float2half_rn(sum[i][j][e]);
            }
}
