// Causal attention.
#include "attention.h"

#include "attention_tile.cuh"

/// How the forward is cut for a dtype and a head's columns. A warp has two row fragments if its sums fit the
/// registers: what it reads of k and v then serves both.
template <class T, uint32_t D>
struct Forward {
    static constexpr uint32_t ROW_BYTES = D * sizeof(T);
    static constexpr uint32_t M = sizeof(T) == 2 && D <= 128 ? 2 : 1;
    static constexpr uint32_t THREADS = 4 * WARP;
    static constexpr uint32_t QUERIES = 4 * 16 * M;
    static constexpr uint32_t KEYS = ROW_BYTES <= 128 ? 64 : ROW_BYTES == 256 ? 32 : 16;

    struct Shared {
        Tile<T, QUERIES, D> q;  // and the output at the end
        Tile<T, KEYS, D> k;
        Tile<T, KEYS, D> v;
    };
    static_assert(2 * (sizeof(Shared) + 1024) <= 100 * 1024, "two blocks on an sm_86");
};

/// The softmax of a warp's rows over the keys so far; a lane has two rows of each fragment.
template <int M>
struct Softmax {
    float top[M][2];  // largest score
    float sum[M][2];  // of 2^(factor (score - top)), this lane's share

    __device__ Softmax() {
#pragma unroll
        for (int m = 0; m < M; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                top[m][h] = -INFINITY;
                sum[m][h] = 0.0f;
            }
        }
    }

    /// Turns scores into 2^(factor (score - top)) and scales what was summed before to the new top.
    template <int N, int COLS>
    __device__ void advance(Sums (&s)[M][N], Sums (&o)[M][COLS], float factor) {
#pragma unroll
        for (int m = 0; m < M; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float next = top[m][h];
                each(s[m], h, [&](float& x) { next = fmaxf(next, x); });
                next = row_max(next);
                const float shrink = ex2_approx((top[m][h] - next) * factor), origin = next * factor;
                float total = sum[m][h] * shrink;
                each(s[m], h, [&](float& x) {
                    x = ex2_approx(fmaf(x, factor, -origin));
                    total += x;
                });
                each(o[m], h, [&](float& x) { x *= shrink; });
                top[m][h] = next;
                sum[m][h] = total;
            }
        }
    }

    /// `use(value)` for this lane's values of row 8 h + lane / 4.
    template <int N, class Use>
    static __device__ void each(Sums (&s)[N], int h, Use use) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
            use(s[n].at[2 * h]);
            use(s[n].at[2 * h + 1]);
        }
    }
};

// Formula: s[i, j] = q[i] . k[j], top[i] = max over j <= i of s[i, j], p[i, j] = exp(scale (s[i, j] - top[i])),
//          out[i] = sum over j <= i of p[i, j] v[j] / sum over j <= i of p[i, j],
//          lse[i] = scale top[i] + ln(sum over j <= i of p[i, j]).
// Mapping: block -> QUERIES queries of a head; warp -> 16 M of them and all keys they see, KEYS at a time.
// Idea: scores live in registers only. When a tile of keys raises the top of a row, what the row has summed up is
//       scaled down to it (Milakov and Gimelshein, 2018; FlashAttention, 2022). The sums of a product lie in registers
//       as an operand of the next wants them. k of the next tile comes while p v is computed, v while q k is: one
//       buffer each, two barriers a tile.
template <class T, uint32_t D>
__device__ void forward(const AttentionParams& p) {
    using C = Forward<T, D>;
    constexpr uint32_t M = C::M;
    extern __shared__ __align__(128) unsigned char room[];
    auto& shared = *reinterpret_cast<typename C::Shared*>(room);
    const Item item = item_of(p.seq, C::QUERIES, p.heads, true);
    const uint32_t hidden = p.heads * p.head_dim, column = item.head * p.head_dim;
    const bool wide = is_wide<T>(p.head_dim, p.qkv | p.out, p.qkv_stride | p.out_stride);
    const T* qkv = row_of<const T>(p.qkv, p.qkv_stride, item.sequence) + column;
    const Rows<const T> q = {qkv, p.qkv_stride, p.seq, p.head_dim, wide};                   // [seq, head_dim]
    const Rows<const T> k = {qkv + hidden, p.qkv_stride, p.seq, p.head_dim, wide};          // [seq, head_dim]
    const Rows<const T> v = {qkv + 2ull * hidden, p.qkv_stride, p.seq, p.head_dim, wide};   // [seq, head_dim]

    const uint32_t local = warp_id() * 16 * M, first = item.first + local;  // of the warp
    const uint32_t keys = min(p.seq, item.first + C::QUERIES);
    Sums o[M][D / 8];
    Softmax<M> softmax;
    copy_tile<C::THREADS>(shared.q, q, item.first);
    copy_tile<C::THREADS>(shared.k, k, 0);
    cp_async_commit();
    for (uint32_t key = 0; key < keys; key += C::KEYS) {
        cp_async_wait<0>();
        __syncthreads();  // k is here, v is free
        copy_tile<C::THREADS>(shared.v, v, key);
        cp_async_commit();
        const bool seen = first < p.seq && key < first + 16 * M;
        Sums s[M][C::KEYS / 8];
        if (seen) {
            multiply_rows<T>(s, shared.q, local, shared.k);
            if (key + C::KEYS > first + 1) {
                for_values(s, first, key, [](float& x, uint32_t i, uint32_t j) { x = j <= i ? x : -INFINITY; });
            }
            softmax.advance(s, o, p.scale * LOG2_E);
        }
        cp_async_wait<0>();
        __syncthreads();  // v is here, k is free
        if (key + C::KEYS < keys) {
            copy_tile<C::THREADS>(shared.k, k, key + C::KEYS);
            cp_async_commit();
        }
        if (seen) {
            multiply_sums<T>(o, s, shared.v, 0);
        }
    }

    float* lse = row_of<float>(p.lse, p.lse_stride, item.head) + item.sequence;  // [seq]
#pragma unroll
    for (uint32_t m = 0; m < M; ++m) {
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) {
            const float sum = row_sum(softmax.sum[m][h]), inverse = 1.0f / sum;
            const uint32_t query = first + 16 * m + Sums::row(2 * h);
            if (lane_id() % 4 == 0 && query < p.seq) {
                lse[query] = softmax.top[m][h] * p.scale + logf(sum);
            }
            softmax.each(o[m], h, [&](float& x) { x *= inverse; });
        }
    }
    put(shared.q, local, 0, o, 1.0f);  // over the warp's own queries
    __syncthreads();
    T* out = row_of<T>(p.out, p.out_stride, item.sequence) + column;
    store_tile<C::THREADS>(Rows<T>{out, p.out_stride, p.seq, p.head_dim, wide}, item.first, shared.q);
}

#define ENTRY(V, D)                                                                                            \
    extern "C" {                                                                                               \
    __constant__ LaunchTile moe_attention_##V##_##D##_launch = {                                               \
        Forward<V, D>::THREADS, Forward<V, D>::QUERIES, 0, sizeof(Forward<V, D>::Shared)};                     \
    __global__ void __launch_bounds__(Forward<V, D>::THREADS, 2)                                               \
        moe_attention_##V##_##D(const __grid_constant__ AttentionParams p) {                                   \
        forward<V, D>(p);                                                                                      \
    }                                                                                                          \
    }
ATTENTION_VARIANTS(ENTRY)
