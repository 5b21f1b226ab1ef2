// Rotary position embedding.
#include "rope.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 128;
constexpr uint32_t ROWS = THREADS / WARP;

extern "C" {
__constant__ LaunchTile moe_rope_launch = {THREADS, ROWS, 0, 0};
}

/// ratio^n by repeated squaring: at most 2 log2(n) products, each off by 2^-53.
__device__ double power(double ratio, uint32_t n) {
    double result = 1.0;
    for (; n != 0; n /= 2) {
        result = n % 2 != 0 ? result * ratio : result;
        ratio *= ratio;
    }
    return result;
}

/// Cosine and sine of `turns` full turns. The nearest quarter is taken off in f64, which leaves an angle of at most
/// an eighth: rounding that to f32 moves neither result by more than its own rounding.
__device__ void turn(double turns, float& cosine, float& sine) {
    const double quarters = rint(4.0 * turns);
    float s, c;
    sincospif(0.5f * float(4.0 * turns - quarters), &s, &c);
    const int quarter = int(static_cast<long long>(quarters)) & 3;
    cosine = quarter % 2 == 0 ? c : s;
    sine = quarter % 2 == 0 ? s : c;
    cosine = quarter == 1 || quarter == 2 ? -cosine : cosine;
    sine = quarter >= 2 ? -sine : sine;
}

// Formula: (a, b) = (a cos - b sin, b cos + a sin) with a = x[r, h, i], b = x[r, h, half + i] and the angle
//          position ratio^i.
// Mapping: warp -> row; lane -> N neighbouring pairs of every (32 / vectors of a half)th head.
// Idea: the angles of a row are the same for all heads, so a lane computes its own once and keeps them. Angles of
//       far positions are large: f64 takes off the quarter turns, f32 does the rest.
template <class T, int N>
__device__ void rope(const RopeParams& p, uint32_t row) {
    constexpr double INV_TAU = 0.15915494309189535;
    T* x = row_of<T>(p.x, p.x_stride, row);  // [heads, 2, half]
    const uint32_t vectors = p.half / N;     // of the pairs of a head
    const uint32_t heads = vectors < WARP ? WARP / vectors : 1, lanes = WARP / heads;
    const uint32_t first_head = lane_id() / lanes;
    if (first_head >= heads) {
        return;
    }
    const double position = (p.inverse != 0 ? -INV_TAU : INV_TAU) * double(row % p.seq);
    for (uint32_t v = lane_id() % lanes; v < vectors; v += lanes) {
        const uint32_t pair = v * N;
        float cosine[N], sine[N];
        double turns = position * power(p.ratio, pair);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            turn(turns, cosine[i], sine[i]);
            turns *= p.ratio;
        }
#pragma unroll 2
        for (uint32_t head = first_head; head < p.heads; head += heads) {
            T* a = x + uint64_t(head) * 2 * p.half + pair;  // [N]
            T* b = a + p.half;                              // [N]
            const Vec<T, N> from_a = load<N>(a), from_b = load<N>(b);
            float to_a[N], to_b[N];
#pragma unroll
            for (int i = 0; i < N; ++i) {
                const float u = to_float(from_a.at[i]), w = to_float(from_b.at[i]);
                to_a[i] = u * cosine[i] - w * sine[i];
                to_b[i] = w * cosine[i] + u * sine[i];
            }
            store_rounded(a, to_a);
            store_rounded(b, to_b);
        }
    }
}

#define ENTRY(V)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                            \
        moe_rope_##V(const __grid_constant__ RopeParams p) {                                         \
        const uint32_t row = blockIdx.x * ROWS + warp_id();                                          \
        if (row >= p.rows) {                                                                         \
            return;                                                                                  \
        }                                                                                            \
        is_wide<V>(p.half, p.x, p.x_stride) ? rope<V, WIDE<V>>(p, row) : rope<V, 1>(p, row);         \
    }
ROPE_VARIANTS(ENTRY)
