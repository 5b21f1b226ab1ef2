// Angles of the rotary position embedding: kernels that rotate agree to the bit.
#pragma once

#include "common/math.cuh"

/// ratio^n by repeated squaring: at most 2 log2(n) products, each off by 2^-53.
__device__ inline double power(double ratio, uint32_t n) {
    double result = 1.0;
    for (; n != 0; n /= 2) {
        result = n % 2 != 0 ? result * ratio : result;
        ratio *= ratio;
    }
    return result;
}

/// Cosine and sine of `turns` full turns. The nearest quarter is taken off in f64, which leaves an angle of at most
/// an eighth: rounding that to f32 moves neither result by more than its own rounding.
__device__ inline void turn(double turns, float& cosine, float& sine) {
    const double quarters = rint(4.0 * turns);
    float s, c;
    sincospif(0.5f * float(4.0 * turns - quarters), &s, &c);
    const int quarter = int(static_cast<long long>(quarters)) & 3;
    cosine = quarter % 2 == 0 ? c : s;
    sine = quarter % 2 == 0 ? s : c;
    cosine = quarter == 1 || quarter == 2 ? -cosine : cosine;
    sine = quarter >= 2 ? -sine : sine;
}

/// Cosines and sines of pairs `pair`.. of a head, at angles position ratio^pair. Angles of far positions are large: f64
/// takes off the quarter turns, f32 does the rest.
template <int N>
struct Rotation {
    float cosine[N];
    float sine[N];

    __device__ Rotation(double position, double ratio, uint32_t pair) {
        constexpr double INV_TAU = 0.15915494309189535;
        double turns = INV_TAU * position * power(ratio, pair);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            turn(turns, cosine[i], sine[i]);
            turns *= ratio;
        }
    }

    /// (a, b) = (a cos - b sin, b cos + a sin), each rounded to `T`.
    template <class T>
    __device__ void apply(Vec<T, N>& a, Vec<T, N>& b) const {
        float to_a[N], to_b[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float u = to_float(a.at[i]), w = to_float(b.at[i]);
            to_a[i] = u * cosine[i] - w * sine[i];
            to_b[i] = w * cosine[i] + u * sine[i];
        }
        a = rounded<T>(to_a);
        b = rounded<T>(to_b);
    }
};
