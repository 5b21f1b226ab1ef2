// C = A B with f32 sums, rounded once: A [m, k], B [k, n], C [m, n], rows `lda`, `ldb`, `ldc` elements apart.
// m, n and k are anything; A and B are 16-byte aligned, lda and ldb multiples of 8; C has no alignment to keep.
//
// Block: a tile of C [BM, BN], 8 warps as 4 x 2, each [32, 32] = 2 x 4 products of m16n8k16.
// Two slots of shared memory: while one is multiplied, the next tiles of A and B are copied into the other by
// cp.async, whose source size writes zeros beyond the edges. The pad of 8 elements (16 bytes) spreads the eight rows
// of an 8 x 8 matrix over all banks.
#include "ptx.cuh"

constexpr int BM = 128, BN = 64, BK = 64, THREADS = 256, VECTOR = 8;

template <typename T>
struct Slot {
    T a[BM][BK + VECTOR];
    T b[BK][BN + VECTOR];
};

struct GemmParams {
    uint64_t a, b, c;        // [m, k], [k, n], [m, n]
    uint64_t lda, ldb, ldc;  // elements
    uint32_t m, n, k;
    uint32_t unused;
};

// Copies the tile at (row0, col0) of a [rows, cols] matrix; what lies outside becomes zero.
template <typename T, int R, int C>
__device__ __forceinline__ void copy_tile(T (&tile)[R][C + VECTOR], const T* from, uint64_t stride, uint32_t row0,
                                          uint32_t col0, uint32_t rows, uint32_t cols) {
    constexpr int PER_ROW = C / VECTOR;
#pragma unroll
    for (int i = threadIdx.x; i < R * PER_ROW; i += THREADS) {
        const uint32_t r = i / PER_ROW, c = i % PER_ROW * VECTOR;
        const uint32_t row = row0 + r, col = col0 + c;
        const uint32_t valid = row < rows && col < cols ? min(cols - col, static_cast<uint32_t>(VECTOR)) : 0;
        // Nothing is read when `valid` is zero, but the address must be a good one.
        const T* source = valid ? from + row * stride + col : from;
        cp_async_16(&tile[r][c], source, valid * sizeof(T));
    }
}

template <typename T>
__device__ __forceinline__ void gemm(const GemmParams& p) {
    extern __shared__ __align__(16) unsigned char memory[];
    Slot<T>* slots = reinterpret_cast<Slot<T>*>(memory);  // [2]
    const T* a = reinterpret_cast<const T*>(p.a);
    const T* b = reinterpret_cast<const T*>(p.b);
    T* c = reinterpret_cast<T*>(p.c);

    const uint32_t row0 = blockIdx.y * BM, col0 = blockIdx.x * BN;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;
    float sum[2][4][4] = {};  // [m16, n8, element]

    const uint32_t steps = (p.k + BK - 1) / BK;
    auto fetch = [&](uint32_t step) {
        if (step < steps) {
            Slot<T>& slot = slots[step % 2];
            copy_tile<T, BM, BK>(slot.a, a, p.lda, row0, step * BK, p.m, p.k);
            copy_tile<T, BK, BN>(slot.b, b, p.ldb, step * BK, col0, p.k, p.n);
        }
        cp_async_commit();  // a group each step, empty or not, so that "all but the last" is always the next one
    };

    fetch(0);
    for (uint32_t step = 0; step < steps; ++step) {
        fetch(step + 1);
        cp_async_wait<1>();
        __syncthreads();  // everybody's copies of this step have arrived

        Slot<T>& slot = slots[step % 2];
#pragma unroll
        for (int kk = 0; kk < BK; kk += 16) {
            uint32_t fa[2][4], fb[2][4];  // fb: [n16, {k0 n0, k8 n0, k0 n8, k8 n8}]
#pragma unroll
            for (int i = 0; i < 2; ++i)
                ldmatrix_x4(fa[i], &slot.a[warp_row + 16 * i + lane % 16][kk + lane / 16 * 8]);
#pragma unroll
            for (int j = 0; j < 2; ++j)
                ldmatrix_x4_trans(fb[j], &slot.b[kk + lane % 16][warp_col + 16 * j + lane / 16 * 8]);
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    mma_m16n8k16(sum[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1], T());
        }
        __syncthreads();  // everybody has read the slot that the next step overwrites
    }

#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const uint32_t row = row0 + warp_row + 16 * i + lane / 4 + e / 2 * 8;
                const uint32_t col = col0 + warp_col + 8 * j + lane % 4 * 2 + e % 2;
                if (row < p.m && col < p.n) c[row * p.ldc + col] = T(sum[i][j][e]);
            }
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_f16(const __grid_constant__ GemmParams p) {
    gemm<__half>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_bf16(const __grid_constant__ GemmParams p) {
    gemm<__nv_bfloat16>(p);
}

// What a launch needs to know.
struct GemmLaunch {
    uint32_t tile_rows, tile_cols, threads, shared_bytes;
};
extern "C" __constant__ GemmLaunch gemm_launch = {BM, BN, THREADS, 2 * sizeof(Slot<__half>)};
