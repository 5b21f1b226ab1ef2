// The AdamW update.
#include "adamw.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 256;
/// Elements a thread: 16 bytes of each f32 array.
constexpr uint32_t EACH = 4;
constexpr uint32_t COLUMNS = THREADS * EACH;

extern "C" {
__constant__ LaunchTile moe_adamw_launch = {THREADS, 1, COLUMNS, 0};
}

struct Moments {
    float weight;
    float m;
    float v;
};

/// What changes from step to step.
struct Rates {
    float decay;
    float rate;
    float scale2;
};

/// As the host would have worked them out, to the bit.
__device__ Rates rates_of(const AdamWParams& p) {
    if (p.rates == 0) {
        return {p.decay, p.rate, p.scale2};
    }
    const float* at = array_of<const float>(p.rates);
    return {__fsub_rn(1.0f, __fmul_rn(at[0], p.weight_decay)), at[1], at[2]};
}

/// The rule for one element.
__device__ Moments updated(const AdamWParams& p, const Rates& rates, Moments old, float grad, float clip) {
    const float g = grad * clip;
    const float m = p.beta1 * old.m + (1.0f - p.beta1) * g;
    const float v = p.beta2 * old.v + (1.0f - p.beta2) * (g * g);
    return {rates.decay * old.weight - rates.rate * m / (sqrtf(v * rates.scale2) + p.eps), m, v};
}

/// `N` elements from `at` on.
template <class T, int N>
__device__ void update(const AdamWParams& p, const Rates& rates, uint64_t at, float clip) {
    const Vec<float, N> weight = load<N>(array_of<const float>(p.weight) + at);
    const Vec<float, N> grad = load<N>(array_of<const float>(p.grad) + at);
    const Vec<float, N> m = load<N>(array_of<const float>(p.m) + at);
    const Vec<float, N> v = load<N>(array_of<const float>(p.v) + at);
    Vec<float, N> new_weight, new_m, new_v;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const Moments n = updated(p, rates, {weight.at[i], m.at[i], v.at[i]}, grad.at[i], clip);
        new_weight.at[i] = n.weight;
        new_m.at[i] = n.m;
        new_v.at[i] = n.v;
    }
    store(array_of<float>(p.weight) + at, new_weight);
    store(array_of<float>(p.m) + at, new_m);
    store(array_of<float>(p.v) + at, new_v);
    if (p.stored != 0) {
        store(array_of<T>(p.stored) + at, rounded<T>(new_weight.at));
    }
}

// Formula: in the header.
// Mapping: thread -> EACH neighbouring elements, of every (COLUMNS gridDim.y)th element.
// Idea: the clipping factor comes from the norm in device memory, so no step waits for the host; a norm that is not
//       finite leaves everything as it was.
template <class T>
__device__ void adamw(const AdamWParams& p) {
    const float norm = *array_of<const float>(p.norm);
    if (!isfinite(norm)) {
        return;
    }
    const float clip = norm > p.max_norm ? p.max_norm / norm : 1.0f;
    const Rates rates = rates_of(p);
    const bool wide = (p.weight | p.grad | p.m | p.v) % 16 == 0 && p.stored % (EACH * sizeof(T)) == 0;
    const uint64_t step = uint64_t(gridDim.y) * COLUMNS;
    for (uint64_t at = uint64_t(blockIdx.y) * COLUMNS + threadIdx.x * EACH; at < p.len; at += step) {
        if (wide && p.len - at >= EACH) {
            update<T, EACH>(p, rates, at, clip);
        } else {
            for (uint64_t i = at; i < min(at + EACH, p.len); ++i) {
                update<T, 1>(p, rates, i, clip);
            }
        }
    }
}

#define ENTRY(V)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        moe_adamw_##V(const __grid_constant__ AdamWParams p) {                                     \
        adamw<V>(p);                                                                               \
    }
ADAMW_VARIANTS(ENTRY)
