// Softmax cross-entropy, alone and fused with its gradient.
#include "cross_entropy.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 512;
constexpr uint32_t WARPS = THREADS / WARP;

extern "C" {
__constant__ LaunchTile moe_cross_entropy_launch = {THREADS, 1, 0, 0};
}

/// Of some values: the largest, NaN ignored, and the sum of e^(value - largest).
struct Softmax {
    float max = -INFINITY;
    float sum = 0.0f;

    /// The sum as it is for a larger maximum. Nothing but minus infinity below it counts as nothing: e^(-inf + inf)
    /// would be NaN, which a masked logit is not.
    __device__ float sum_for(float larger) const {
        return max == larger || max == -INFINITY ? sum : sum * expf(max - larger);
    }

    __device__ void add(float x) {
        const float larger = fmaxf(max, x);
        const float term = x == -INFINITY ? 0.0f : expf(x - larger);
        sum = sum_for(larger) + term;
        max = larger;
    }
};

/// The softmax of a block's threads, the same bits in all of them.
__device__ Softmax block_softmax(const Softmax& mine, Softmax (&room)[WARPS]) {
    const float warp_largest = warp_max(mine.max);
    const Softmax of_warp = {warp_largest, warp_sum(mine.sum_for(warp_largest))};
    if (lane_id() == 0) {
        room[warp_id()] = of_warp;
    }
    __syncthreads();
    Softmax all;
#pragma unroll
    for (uint32_t w = 0; w < WARPS; ++w) {
        all.max = fmaxf(all.max, room[w].max);
    }
#pragma unroll
    for (uint32_t w = 0; w < WARPS; ++w) {
        all.sum += room[w].sum_for(all.max);
    }
    return all;
}

// Formula: loss[r] = ln(sum) + max - logits[r, target] with max over j of logits[r, j] and
//          sum = sum over j of e^(logits[r, j] - max); gradient scale (e^(logits[r, j] - max) / sum - [j = target]).
// Mapping: block -> row; thread -> every THREADSth vector of it.
// Idea: maximum and sum in one pass, the sum rescaled whenever the maximum grows, so a row is read once for the loss
//       and once more, from the cache, for the gradient.
template <class T, int N>
__device__ void cross_entropy(const CrossEntropyParams& p, Softmax (&room)[WARPS]) {
    const uint32_t row = blockIdx.x, target = array_of<const uint32_t>(p.targets)[row];
    T* logits = row_of<T>(p.logits, p.logits_stride, row);  // [vocab]
    const bool known = target < p.vocab;
    // Read before the barrier in block_softmax, written after it.
    const float at_target = known ? to_float(logits[target]) : nanf("");
    const Columns columns = {threadIdx.x * N, p.vocab, THREADS * N};
    auto read = [&](uint32_t c) { return load<N>(logits + c); };
    Softmax mine;
    for_columns<4>(columns, read, [&](uint32_t, const Vec<T, N>& v) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            mine.add(to_float(v.at[i]));
        }
    });
    const Softmax all = block_softmax(mine, room);
    const float loss = logf(all.sum) + (all.max - at_target);
    if (threadIdx.x == 0) {
        array_of<float>(p.loss)[row] = loss;
    }
    if (p.gradient == 0) {
        return;
    }
    const float scale = isfinite(loss) ? p.scale : nanf(""), factor = scale / all.sum;
    for_columns<4>(columns, read, [&](uint32_t c, const Vec<T, N>& v) {
        float out[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float e = expf(to_float(v.at[i]) - all.max);
            out[i] = c + i == target ? scale * (e / all.sum - 1.0f) : factor * e;
        }
        store_rounded(logits + c, out);
    });
}

#define ENTRY(V)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                 \
        moe_cross_entropy_##V(const __grid_constant__ CrossEntropyParams p) {                             \
        __shared__ Softmax room[WARPS];                                                                   \
        is_wide<V>(p.vocab, p.logits, p.logits_stride) ? cross_entropy<V, WIDE<V>>(p, room)               \
                                                       : cross_entropy<V, 1>(p, room);                    \
    }
CROSS_ENTROPY_VARIANTS(ENTRY)
