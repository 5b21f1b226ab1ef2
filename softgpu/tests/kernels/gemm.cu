// C[M, N] = A[M, K] B[N, K]^T on tensor cores: three stages of cp.async, swizzled shared memory, zero-filled edges.
// K is a multiple of 8. 128 threads make a tile of 64 x 64; each of the four warps a quarter.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#ifdef BF16
#define TYPE "bf16"
using half_t = __nv_bfloat16;
#else
#define TYPE "f16"
using half_t = __half;
#endif

constexpr int TILE = 64, DEPTH = 32, STAGES = 3;
constexpr int SIDE = TILE * DEPTH * 2;  // bytes of one operand of one stage

// Byte of a chunk of 8 elements in a tile of rows of four chunks.
__device__ int place(int row, int chunk) { return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4); }

__device__ void copy16(uint32_t to, const void* from, bool valid) {
#if BUG == 10  // no zero fill: nothing is copied at the edge
    if (!valid) return;
#endif
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0));
}

__device__ void load(uint32_t stage, const half_t* a, const half_t* b, int m0, int n0, int k0, int m, int n, int k) {
    for (int i = threadIdx.x; i < TILE * 4; i += 128) {
        int row = i / 4, chunk = i % 4, column = k0 + chunk * 8;
#if BUG == 11  // rows beyond the last are read
        bool in_a = column < k, in_b = n0 + row < n && column < k;
#else
        bool in_a = m0 + row < m && column < k, in_b = n0 + row < n && column < k;
#endif
#if BUG == 7  // swizzle of the store differs from that of the load
        int to = row * 64 + ((chunk ^ (row & 3)) << 4);
#else
        int to = place(row, chunk);
#endif
        const half_t* from_a = in_a ? a + (size_t)(m0 + row) * k + column : a;
        const half_t* from_b = in_b ? b + (size_t)(n0 + row) * k + column : b;
#if BUG == 13  // off by an element
        if (in_b) from_b += 1;
#endif
        copy16(stage + to, from_a, in_a);
        copy16(stage + SIDE + to, from_b, in_b);
    }
}

__device__ void ldmatrix(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

__device__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ void commit() {
#if BUG != 3  // the copies never become a group
    asm volatile("cp.async.commit_group;");
#endif
}

extern "C" __global__ void __launch_bounds__(128)
gemm(float* c, const half_t* a, const half_t* b, int m, int n, int k) {
    __shared__ __align__(128) uint8_t stages[STAGES][2 * SIDE];
    uint32_t base = (uint32_t)__cvta_generic_to_shared(stages);
    int m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row0 = warp / 2 * 32, column0 = warp % 2 * 32, steps = (k + DEPTH - 1) / DEPTH;
#if BUG == 9  // accumulator not initialised
    float acc[2][4][4];
#else
    float acc[2][4][4] = {};
#endif
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) load(base + s * 2 * SIDE, a, b, m0, n0, s * DEPTH, m, n, k);
        commit();
    }
    for (int step = 0; step < steps; step++) {
#if BUG == 1  // one group too many left under way
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1));
#elif BUG != 2  // no wait at all
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
#endif
#if BUG != 5  // barrier removed
        __syncthreads();
#endif
        int next = step + STAGES - 1;
#if BUG == 4  // prefetch into the slot being read
        int slot = step % STAGES;
#elif BUG == 15  // ring one too long
        int slot = next % (STAGES + 1);
#else
        int slot = next % STAGES;
#endif
#if BUG == 12  // copies are issued beyond the end, and nobody waits for them
        load(base + slot * 2 * SIDE, a, b, m0, n0, next * DEPTH, m, n, k);
#else
        if (next < steps) load(base + slot * 2 * SIDE, a, b, m0, n0, next * DEPTH, m, n, k);
#endif
        commit();
        uint32_t stage = base + step % STAGES * 2 * SIDE;
        for (int kk = 0; kk < DEPTH / 16; kk++) {
            uint32_t fa[2][4], fb[2][4];
            for (int i = 0; i < 2; i++) {
#if BUG == 8  // the second and third matrix of A exchanged
                int row = row0 + i * 16 + lane / 16 * 8 + lane % 8, chunk = kk * 2 + lane / 8 % 2;
#else
                int row = row0 + i * 16 + lane % 16, chunk = kk * 2 + lane / 16;
#endif
                ldmatrix(fa[i], stage + place(row, chunk));
            }
            for (int j = 0; j < 2; j++) {
                int row = column0 + j * 16 + lane / 16 * 8 + lane % 8, chunk = kk * 2 + lane / 8 % 2;
                ldmatrix(fb[j], stage + SIDE + place(row, chunk));
            }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) mma(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
        }
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
#if BUG == 16  // the accumulator's rows and columns exchanged
                int row = m0 + row0 + i * 16 + lane / 4 + e % 2 * 8, column = n0 + column0 + j * 8 + lane % 4 * 2 + e / 2;
#else
                int row = m0 + row0 + i * 16 + lane / 4 + e / 2 * 8, column = n0 + column0 + j * 8 + lane % 4 * 2 + e % 2;
#endif
#if BUG == 14  // one column too many is written
                if (row < m && column <= n)
#else
                if (row < m && column < n)
#endif
                    c[(size_t)row * n + column] = acc[i][j][e];
            }
}
