// Attention of one new token a sequence.
#include "attention_step.h"

#include "attention_tile.cuh"
#include "rotation.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t WARPS = THREADS / WARP;
/// Keys of a lane that are on their way at a time, and as many values.
constexpr uint32_t DEPTH = 4;

extern "C" {
__constant__ LaunchTile moe_attention_step_launch = {THREADS, 1, 0, 0};
}

/// Columns of a head at most: a vector a lane.
template <class T>
constexpr uint32_t COLUMNS = WARP * WIDE<T>;

template <class T>
struct Shared {
    alignas(16) T q[COLUMNS<T>];                // rotated
    alignas(16) float sums[WARPS][COLUMNS<T>];  // of p v over the keys of a warp
    float tops[WARPS];
    float totals[WARPS];                        // of p
};

/// The first `count` of `WIDE<T>` neighbours and zeros; `WHOLE`: they are none or a whole aligned vector.
template <bool WHOLE, class T>
__device__ Vec<T, WIDE<T>> load_front(const T* from, uint32_t count) {
    Vec<T, WIDE<T>> v = {};
    if constexpr (WHOLE) {
        if (count != 0) {
            v = load<WIDE<T>>(from);
        }
    } else {
#pragma unroll
        for (uint32_t i = 0; i < WIDE<T>; ++i) {
            if (i < count) {
                v.at[i] = from[i];
            }
        }
    }
    return v;
}

/// Rotates the row's query to `q` and its key to `key`, N pairs a thread, and copies its value.
template <class T, int N>
__device__ void enter(const AttentionStepParams& p, uint32_t position, const T* qkv, T* q, T* key, T* value) {
    const uint32_t hidden = p.heads * 2 * p.half, vectors = p.half / N;
    for (uint32_t t = threadIdx.x; t < 2 * vectors; t += THREADS) {
        const bool is_key = t >= vectors;
        const uint32_t pair = (is_key ? t - vectors : t) * N;
        const T* from = qkv + (is_key ? hidden : 0) + pair;
        Vec<T, N> a = load<N>(from), b = load<N>(from + p.half);
        Rotation<N>(position, p.ratio, pair).apply(a, b);
        if (is_key) {
            store_global(key + pair, a);
            store_global(key + p.half + pair, b);
        } else {
            store(q + pair, a);
            store(q + p.half + pair, b);
        }
    }
    // The last threads first: they have less to rotate.
    for (uint32_t v = THREADS - 1 - threadIdx.x; v < 2 * vectors; v += THREADS) {
        store_global(value + v * N, load<N>(qkv + 2ull * hidden + v * N));
    }
}

// Formula: q' and k' are q and k at angles position ratio^i; kv[sequence, position] = (k', v);
//          s[j] = q' . kv[sequence, j], p[j] = exp(scale (s[j] - max over j <= position of s[j])),
//          out = sum over j <= position of p[j] v[j] / sum over j <= position of p[j].
// Mapping: block -> head of a row; `lanes` neighbouring lanes, as many as a key has vectors, rounded up to a power of
//          two -> every (THREADS / lanes)th key; lane -> one vector of it.
// Idea: it is all reading, so neighbouring lanes read neighbouring bytes, keys and values of DEPTH positions are on their
//       way before the first is used, and every group of lanes keeps its own softmax (Milakov and Gimelshein, 2018), so
//       that nobody waits for anybody before the end. Which keys a lane has depends on nothing but head_dim: a row has the
//       same bits beside any others.
template <class T, bool ALIGNED>
__device__ void step(const AttentionStepParams& p, Shared<T>& shared) {
    constexpr uint32_t W = WIDE<T>;
    const uint32_t row = blockIdx.x / p.heads, head_dim = 2 * p.half, hidden = p.heads * head_dim;
    const uint32_t first_column = blockIdx.x % p.heads * head_dim;
    const uint32_t sequence = array_of<const uint32_t>(p.sequence)[row];
    const uint32_t position = array_of<const uint32_t>(p.position)[row];
    T* out = row_of<T>(p.out, p.out_stride, row) + first_column;  // [head_dim]
    if (sequence >= p.sequences || position >= p.seq) {
        for (uint32_t c = threadIdx.x; c < head_dim; c += THREADS) {
            out[c] = rounded<T>(nanf(""));
        }
        return;
    }
    const T* qkv = row_of<const T>(p.qkv, p.qkv_stride, row) + first_column;           // [head_dim]
    T* keys = row_of<T>(p.kv, p.kv_sequence_stride, sequence) + first_column;          // [seq, head_dim]
    T* own = keys + position * p.kv_stride;                                            // [head_dim]
    enter<T, ALIGNED ? W : 1>(p, position, qkv, shared.q, own, own + hidden);
    __syncthreads();  // the query is here, and the row's key and value are where the others are

    const uint32_t vectors = ceil_div(head_dim, W);
    const uint32_t lanes = 1u << (32 - __clz(int(vectors - 1)));
    const uint32_t column = lane_id() % lanes * W;  // of this lane
    const uint32_t columns = column < head_dim ? min(head_dim - column, W) : 0;
    const uint32_t groups = THREADS / lanes, group = threadIdx.x / lanes;
    const T* from = keys + column;
    float q[W];
#pragma unroll
    for (uint32_t i = 0; i < W; ++i) {
        q[i] = i < columns ? to_float(shared.q[column + i]) : 0.0f;
    }
    const float factor = p.scale * LOG2_E;
    float top = -INFINITY, total = 0.0f, sums[W] = {};
    for (uint64_t first = 0; first <= position; first += DEPTH * groups) {
        Vec<T, W> k[DEPTH], v[DEPTH];
        bool seen[DEPTH];
#pragma unroll
        for (uint32_t d = 0; d < DEPTH; ++d) {
            const uint64_t j = first + d * groups + group;
            seen[d] = j <= position;
            k[d] = load_front<ALIGNED>(from + (seen[d] ? j : 0) * p.kv_stride, seen[d] ? columns : 0);
            v[d] = load_front<ALIGNED>(from + (seen[d] ? j : 0) * p.kv_stride + hidden, seen[d] ? columns : 0);
        }
        float s[DEPTH];
#pragma unroll
        for (uint32_t d = 0; d < DEPTH; ++d) {
            s[d] = 0.0f;
#pragma unroll
            for (uint32_t i = 0; i < W; ++i) {
                s[d] = fmaf(q[i], to_float(k[d].at[i]), s[d]);
            }
        }
        for (uint32_t distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
            for (uint32_t d = 0; d < DEPTH; ++d) {
                s[d] += __shfl_xor_sync(ALL_LANES, s[d], distance);
            }
        }
        float next = top;
#pragma unroll
        for (uint32_t d = 0; d < DEPTH; ++d) {
            s[d] = seen[d] ? s[d] : -INFINITY;
            next = fmaxf(next, s[d]);
        }
        // Without a score above -inf any origin does, and infinity is none.
        const float origin = next == -INFINITY ? 0.0f : next * factor;
        const float shrink = ex2_approx(fmaf(top, factor, -origin));
        top = next;
        total *= shrink;
#pragma unroll
        for (uint32_t i = 0; i < W; ++i) {
            sums[i] *= shrink;
        }
#pragma unroll
        for (uint32_t d = 0; d < DEPTH; ++d) {
            const float weight = ex2_approx(fmaf(s[d], factor, -origin));
            total += weight;
#pragma unroll
            for (uint32_t i = 0; i < W; ++i) {
                sums[i] = fmaf(weight, to_float(v[d].at[i]), sums[i]);
            }
        }
    }

    // What all groups have, at the top of all.
    const float warp_top = warp_max(top);
    if (lane_id() == 0) {
        shared.tops[warp_id()] = warp_top;
    }
    __syncthreads();
    float all_top = shared.tops[0];
#pragma unroll
    for (uint32_t w = 1; w < WARPS; ++w) {
        all_top = fmaxf(all_top, shared.tops[w]);
    }
    const float origin = all_top == -INFINITY ? 0.0f : all_top * factor;
    const float shrink = ex2_approx(fmaf(top, factor, -origin));
    total *= shrink;
#pragma unroll
    for (uint32_t i = 0; i < W; ++i) {
        sums[i] *= shrink;
    }
    for (uint32_t distance = lanes; distance < WARP; distance *= 2) {
        total += __shfl_xor_sync(ALL_LANES, total, distance);
#pragma unroll
        for (uint32_t i = 0; i < W; ++i) {
            sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], distance);
        }
    }
    if (lane_id() == 0) {
        shared.totals[warp_id()] = total;
    }
    if (lane_id() < lanes) {
#pragma unroll
        for (uint32_t i = 0; i < W; i += 4) {
            store(&shared.sums[warp_id()][column + i], Vec<float, 4>{sums[i], sums[i + 1], sums[i + 2], sums[i + 3]});
        }
    }
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < head_dim; c += THREADS) {
        float sum = 0.0f, of = 0.0f;
#pragma unroll
        for (uint32_t w = 0; w < WARPS; ++w) {
            sum += shared.sums[w][c];
            of += shared.totals[w];
        }
        out[c] = rounded<T>(sum * (1.0f / of));
    }
}

#define ENTRY(V)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        moe_attention_step_##V(const __grid_constant__ AttentionStepParams p) {                                \
        __shared__ Shared<V> shared;                                                                           \
        is_wide<V>(p.half, p.qkv | p.kv, p.qkv_stride | p.kv_sequence_stride | p.kv_stride)                    \
            ? step<V, true>(p, shared)                                                                         \
            : step<V, false>(p, shared);                                                                       \
    }
ATTENTION_STEP_VARIANTS(ENTRY)
