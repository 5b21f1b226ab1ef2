// Scale, zero-point and codes of a block of weights.
#pragma once

#include <float.h>
#include <math.h>

#include "common/ptx.cuh"
#include "int4.cuh"

/// Least and greatest value of a block, 0 included; `high` is infinite if any is not finite.
struct Range {
    float low = 0.0f;
    float high = 0.0f;

    __device__ void add(const float (&v)[CHUNK]) {
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) {
            const bool finite = fabsf(v[i]) <= FLT_MAX;
            low = finite ? fminf(low, v[i]) : low;
            high = finite ? fmaxf(high, v[i]) : INFINITY;
        }
    }

    __device__ void add(Range other) {
        low = fminf(low, other.low);
        high = fmaxf(high, other.high);
    }

    /// That of all lanes whose numbers differ in the bits below `lanes` alone.
    __device__ Range among(uint32_t lanes) const {
        Range all = *this;
        for (uint32_t offset = 1; offset < lanes; offset *= 2) {
            all.add({__shfl_xor_sync(ALL_LANES, all.low, offset), __shfl_xor_sync(ALL_LANES, all.high, offset)});
        }
        return all;
    }
};

/// 1 / x, correctly rounded, for x from 2^-126 to 2^126 that is a bf16: the second of Newton's steps starts less than an
/// ulp away, and then its fused multiply-adds end at the nearest value (Markstein; the exception is an x of ones only).
__device__ float inverse_of(float x) {
    const float first = rcp_approx(x);
    const float second = fmaf(first, fmaf(-x, first, 1.0f), first);
    return fmaf(second, fmaf(-x, second, 1.0f), second);
}

/// Scale and zero-point of a block.
struct Code {
    float scale;  // a bf16
    float inverse;
    int zero;

    __device__ Code(Range range, bool symmetric) {
        // Neither form may become a fused multiply-add: the CPU has to get the same bits.
        const float exact = symmetric
            ? __fmul_rn(fmaxf(-range.low, range.high), 1.0f / 7.0f)
            : __fsub_rn(__fmul_rn(range.high, 1.0f / 15.0f), __fmul_rn(range.low, 1.0f / 15.0f));
        // Up to the next bf16, so that the range stays inside the codes; not below where it has an inverse.
        const uint32_t up = (__float_as_uint(fmaxf(exact, FLT_MIN)) + 0xffffu) & 0xffff0000u;
        const bool finite = range.high < INFINITY;
        scale = !finite ? __uint_as_float(0x7fc00000) : exact > 0.0f ? __uint_as_float(up) : 0.0f;
        inverse = scale > 0.0f ? inverse_of(scale) : 0.0f;
        zero = symmetric ? 8 : finite ? __float2int_rn(__fmul_rn(-range.low, inverse)) : 0;
    }

    /// The code of a value, from 0 to 15.
    __device__ int of(float v) const {
        const float steps = inverse > 0.0f ? __fmul_rn(v, inverse) : 0.0f;
        return min(max(__float2int_rn(steps) + zero, 0), 15);
    }
};
