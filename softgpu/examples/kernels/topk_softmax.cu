// The k largest of softmax(logits) for each token, largest first; equal logits in order of their index.
// One warp per token, four tokens per block; lane l holds experts l, l + 32, ..., so `experts` is at most 256.
// 0 < k <= experts; no NaN, and not all logits minus infinity. The choice is made on the logits, so it is exact
// whatever the exponential rounds to.
#include <cstdint>

constexpr uint32_t ALL_LANES = 0xffffffffu;
constexpr int PER_LANE = 8;

// Is (x, i) before (y, j)?
__device__ __forceinline__ bool before(float x, uint32_t i, float y, uint32_t j) {
    return x > y || (x == y && i < j);
}

extern "C" __global__ void __launch_bounds__(128)
topk_softmax(const float* __restrict__ logits,  // [tokens, experts]
             uint32_t* __restrict__ ids,        // [tokens, k]
             float* __restrict__ weights,       // [tokens, k]
             uint32_t tokens, uint32_t experts, uint32_t k) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (token >= tokens) return;  // whole warps only

    float x[PER_LANE];
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const uint32_t expert = lane + 32 * i;
        x[i] = expert < experts ? logits[static_cast<uint64_t>(token) * experts + expert] : -INFINITY;
        largest = fmaxf(largest, x[i]);
    }
    for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, step));

    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) sum += expf(x[i] - largest);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);

    uint32_t taken = 0;  // bit i: x[i] of this lane
    for (uint32_t slot = 0; slot < k; ++slot) {
        float best = -INFINITY;
        uint32_t who = 0xffffffffu;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            const uint32_t expert = lane + 32 * i;
            if (expert < experts && !(taken >> i & 1) && before(x[i], expert, best, who)) {
                best = x[i];
                who = expert;
            }
        }
        for (int step = 16; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, best, step);
            const uint32_t other_who = __shfl_xor_sync(ALL_LANES, who, step);
            if (before(other, other_who, best, who)) {
                best = other;
                who = other_who;
            }
        }
        if (who % 32 == lane) {
            taken |= 1u << (who / 32);
            ids[static_cast<uint64_t>(token) * k + slot] = who;
            weights[static_cast<uint64_t>(token) * k + slot] = expf(best - largest) / sum;
        }
    }
}
