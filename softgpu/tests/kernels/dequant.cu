// y = (q - 8) scale: eight values of 4 bits a word, in the order 0 2 4 6 1 3 5 7 from the low end; a scale for every
// 32 values. A thread makes 32 values out of 16 bytes.
#include <cuda_fp16.h>
#include <stdint.h>

// (word & mask) | the bits of 1024.0 in both halves
__device__ uint32_t spread(uint32_t word) {
    uint32_t r;
#if BUG == 1  // wrong table: word | (mask & bits)
    asm("lop3.b32 %0, %1, %2, %3, 0xf8;" : "=r"(r) : "r"(word), "n"(0x000f000f), "n"(0x64006400));
#elif BUG == 2  // wrong table: (word | mask) & bits
    asm("lop3.b32 %0, %1, %2, %3, 0xa8;" : "=r"(r) : "r"(word), "n"(0x000f000f), "n"(0x64006400));
#else
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(word), "n"(0x000f000f), "n"(0x64006400));
#endif
    return r;
}

extern "C" __global__ void dequant(__half* y, const uint8_t* q, const __half* scales, int groups) {
    for (int g = blockIdx.x * blockDim.x + threadIdx.x; g < groups; g += gridDim.x * blockDim.x) {
#if BUG == 3  // misaligned vector load
        uint4 words = *(const uint4*)(q + (size_t)g * 16 + (g > 0 ? -4 : 0));
#else
        uint4 words = *(const uint4*)(q + (size_t)g * 16);
#endif
#if BUG == 4  // the scale of the next group
        __half2 scale = __half2half2(scales[g + 1]);
#else
        __half2 scale = __half2half2(scales[g]);
#endif
        const uint32_t w[4] = {words.x, words.y, words.z, words.w};
        for (int i = 0; i < 4; i++) {
            __half2 out[4];
            for (int j = 0; j < 4; j++) {
#if BUG == 5  // the order of the values is not that of the words
                uint32_t bits = spread(w[i] >> 4 * (3 - j));
#else
                uint32_t bits = spread(w[i] >> 4 * j);
#endif
                out[j] = __hmul2(__hsub2(*(__half2*)&bits, __float2half2_rn(1032.0f)), scale);
            }
            *(uint4*)(y + (size_t)g * 32 + i * 8) = *(uint4*)out;
        }
    }
}
