// Dtypes, vectors of 16 bytes, and reductions whose order is fixed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "common/abi.h"

// The names that variants carry.
using F32 = float;
using BF16 = __nv_bfloat16;
using F16 = __half;

constexpr uint32_t WARP = 32;
constexpr uint32_t ALL_LANES = 0xffffffffu;

__device__ inline uint32_t lane_id() {
    return threadIdx.x % WARP;
}

__device__ inline uint32_t warp_id() {
    return threadIdx.x / WARP;
}

template <class A>
__host__ __device__ constexpr A ceil_div(A a, A b) {
    return a / b + (a % b != 0);  // without overflow
}

/// Row `index` of a matrix.
template <class T>
__device__ T* row_of(uint64_t matrix, uint64_t stride, uint32_t index) {
    return reinterpret_cast<T*>(matrix) + index * stride;
}

template <class T>
__device__ T* array_of(uint64_t address) {
    return reinterpret_cast<T*>(address);
}

__device__ inline float to_float(float x) {
    return x;
}
__device__ inline float to_float(__nv_bfloat16 x) {
    return __bfloat162float(x);
}
__device__ inline float to_float(__half x) {
    return __half2float(x);
}

/// The nearest value of `T`, ties to even.
template <class T>
__device__ T rounded(float x) {
    if constexpr (std::is_same_v<T, BF16>) {
        return __float2bfloat16_rn(x);
    } else if constexpr (std::is_same_v<T, F16>) {
        return __float2half_rn(x);
    } else {
        return x;
    }
}

/// `N` neighbours in memory: one, or 16 (or 8, or 4) bytes that move in one instruction.
template <class T, int N>
struct Vec {
    static constexpr int BYTES = N * sizeof(T);
    static_assert(N == 1 || BYTES == 4 || BYTES == 8 || BYTES == 16, "one element, 4, 8 or 16 bytes");
    T at[N];
};

/// What the registers of a vector of so many bytes are.
template <int BYTES>
using Raw = std::conditional_t<BYTES == 16, uint4, std::conditional_t<BYTES == 8, uint2, uint32_t>>;

/// Elements of `T` in 16 bytes.
template <class T>
constexpr int WIDE = 16 / sizeof(T);

template <int N, class T>
__device__ Vec<T, N> load(const T* from) {
    Vec<T, N> v;
    if constexpr (N == 1) {
        v.at[0] = *from;
    } else {
        const auto raw = *reinterpret_cast<const Raw<sizeof(v)>*>(from);
        memcpy(&v, &raw, sizeof(v));
    }
    return v;
}

template <class T, int N>
__device__ void store(T* to, const Vec<T, N>& v) {
    if constexpr (N == 1) {
        *to = v.at[0];
    } else {
        Raw<sizeof(v)> raw;
        memcpy(&raw, &v, sizeof(v));
        *reinterpret_cast<Raw<sizeof(v)>*>(to) = raw;
    }
}

/// As `store`, to global memory: in one instruction even where the compiler would cut a vector that it knows the parts
/// of into four stores, each of which asks for all sectors again.
template <class T, int N>
__device__ void store_global(T* to, const Vec<T, N>& v) {
    if constexpr (N == 1) {
        *to = v.at[0];
    } else {
        Raw<sizeof(v)> raw;
        memcpy(&raw, &v, sizeof(v));
        __stwb(reinterpret_cast<Raw<sizeof(v)>*>(to), raw);
    }
}

/// The nearest values of `T`; 16-bit ones are converted by two.
template <class T, int N>
__device__ Vec<T, N> rounded(const float (&x)[N]) {
    Vec<T, N> v;
    if constexpr (std::is_same_v<T, BF16> && N > 1) {
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x[i], x[i + 1]);
            v.at[i] = pair.x;
            v.at[i + 1] = pair.y;
        }
    } else if constexpr (std::is_same_v<T, F16> && N > 1) {
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const __half2 pair = __floats2half2_rn(x[i], x[i + 1]);
            v.at[i] = pair.x;
            v.at[i + 1] = pair.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            v.at[i] = rounded<T>(x[i]);
        }
    }
    return v;
}

/// Rounds `N` values and stores them in global memory.
template <class T, int N>
__device__ void store_rounded(T* to, const float (&x)[N]) {
    store_global(to, rounded<T>(x));
}

/// Rounds the first `count` of `N` neighbours and stores them in global memory. `WHOLE`: they are whole, aligned vectors.
template <bool WHOLE, class T, int N>
__device__ void store_front(T* to, const float (&x)[N], uint32_t count) {
    constexpr int PIECE = !WHOLE ? 1 : N * sizeof(T) > 16 ? WIDE<T> : N;
#pragma unroll
    for (int i = 0; i < N; i += PIECE) {
        if (uint32_t(i) < count) {
            float piece[PIECE];
#pragma unroll
            for (int j = 0; j < PIECE; ++j) {
                piece[j] = x[i + j];
            }
            store_rounded(to + i, piece);
        }
    }
}

/// The bits of a value as a value of another type of the same size.
template <class To, class From>
__device__ To bits_as(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "all bits, and no others");
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

/// 1 / (1 + e^-x).
__device__ inline float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

/// Whether rows of `columns` elements of `T` can be cut into 16-byte vectors. `addresses` and `strides` are those
/// of all matrices, or-ed: a bit that is 0 in the union is 0 in each.
template <class T>
__device__ bool is_wide(uint32_t columns, uint64_t addresses, uint64_t strides) {
    return (addresses % 16 | (columns | strides) % WIDE<T>) == 0;
}

/// The columns of one thread: `first`, `first + step`, ... below `last`.
struct Columns {
    uint32_t first;
    uint32_t last;
    uint32_t step;
};

/// Vectors of `N` of columns `begin..end`, dealt to the lanes of a warp.
template <int N>
__device__ Columns of_lane(uint32_t begin, uint32_t end) {
    return {begin + lane_id() * N, end, WARP * N};
}

/// `use(column, load(column))` for every column of a thread. `DEPTH` loads are issued before the first is used:
/// the compiler would not move a load over a store that may alias it.
template <int DEPTH, class Load, class Use>
__device__ void for_columns(Columns columns, Load load, Use use) {
    for (uint64_t c = columns.first; c < columns.last; c += uint64_t(DEPTH) * columns.step) {
        decltype(load(0u)) loaded[DEPTH];
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            const uint64_t at = c + uint64_t(d) * columns.step;
            if (at < columns.last) {
                loaded[d] = load(uint32_t(at));
            }
        }
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            const uint64_t at = c + uint64_t(d) * columns.step;
            if (at < columns.last) {
                use(uint32_t(at), loaded[d]);
            }
        }
    }
}

/// Calls `work(begin, end)` for the column tiles of this block; the grid's y may be smaller than their number.
template <class Work>
__device__ void for_tiles(uint32_t columns, uint32_t tile, Work work) {
    for (uint64_t begin = uint64_t(blockIdx.y) * tile; begin < columns; begin += uint64_t(gridDim.y) * tile) {
        work(uint32_t(begin), uint32_t(min(begin + tile, uint64_t(columns))));
    }
}

/// Sum over the warp, the same bits in every lane: a butterfly, in which the two sides of each addition only swap.
template <class A>
__device__ A warp_sum(A x) {
#pragma unroll
    for (uint32_t offset = WARP / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, offset);
    }
    return x;
}

/// Sum over the lanes of the warp up to and with this one.
__device__ inline uint32_t sum_up_to_lane(uint32_t x) {
#pragma unroll
    for (uint32_t distance = 1; distance < WARP; distance *= 2) {
        const uint32_t before = __shfl_up_sync(ALL_LANES, x, distance);
        x += lane_id() >= distance ? before : 0;
    }
    return x;
}

/// Largest value of the warp, NaN ignored.
__device__ inline float warp_max(float x) {
#pragma unroll
    for (uint32_t offset = WARP / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    }
    return x;
}

/// Sum over the block, the same bits in every thread. `room` must not be in use: a call beside an earlier one
/// needs another `room`, or a barrier between them.
template <uint32_t THREADS, class A>
__device__ A block_sum(A x, A (&room)[THREADS / WARP]) {
    x = warp_sum(x);
    if (lane_id() == 0) {
        room[warp_id()] = x;
    }
    __syncthreads();
    A sum = 0;
#pragma unroll
    for (uint32_t warp = 0; warp < THREADS / WARP; ++warp) {
        sum += room[warp];
    }
    return sum;
}
