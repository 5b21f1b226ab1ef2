// The gradient of causal attention.
#include "attention_tile.cuh"

/// How the gradient is cut for a dtype and a head's columns. M: row fragments of a warp.
template <class T, uint32_t D>
struct Backward {
    static constexpr uint32_t ROW_BYTES = D * sizeof(T);
    static constexpr uint32_t M = sizeof(T) == 2 && D <= 64 ? 2 : 1;
    /// Rows that a block owns: queries of dq, keys of dk and dv.
    static constexpr uint32_t ROWS = 4 * 16 * M;
    /// Rows of the other side that pass by at a time, two tiles of them in turn. dk and dv take twice the registers.
    static constexpr uint32_t KEYS = ROW_BYTES <= 128 ? 32 : 16;
    static constexpr uint32_t QUERIES = ROW_BYTES <= 64 ? 32 : 16;
    /// Warps that share their keys and split the columns of dk and dv, whose sums would not fit the registers.
    static constexpr uint32_t SPLIT = ROW_BYTES == 512 ? 2 : 1;
    static constexpr uint32_t DQ_THREADS = 4 * WARP;
    static constexpr uint32_t DKV_THREADS = 4 * WARP * SPLIT;

    struct DqShared {
        Tile<T, ROWS, D> q;  // and dq at the end
        Tile<T, ROWS, D> dout;
        Tile<T, KEYS, D> k[2];
        Tile<T, KEYS, D> v[2];
    };
    struct DkvShared {
        Tile<T, ROWS, D> k;  // and dk at the end
        Tile<T, ROWS, D> v;  // and dv at the end
        Tile<T, QUERIES, D> q[2];
        Tile<T, QUERIES, D> dout[2];
        float lse[2][QUERIES];
        float delta[2][QUERIES];
    };
    /// Heads of 512 bytes take one block of an sm_86, the others two.
    static constexpr uint32_t MOST = ROW_BYTES == 512 ? 99 * 1024 : 49 * 1024;
    static_assert(sizeof(DqShared) <= MOST && sizeof(DkvShared) <= MOST, "shared memory of an sm_86");
};

/// The matrices of one head of one sequence: [seq, head_dim].
template <class T>
struct Head {
    Rows<const T> q, k, v, out, dout;
    Rows<T> dq, dk, dv;
    const float* lse;  // [seq]
    float* delta;      // [seq]

    __device__ Head(const AttentionBackwardParams& p, const Item& item) {
        const uint32_t hidden = p.heads * p.head_dim, column = item.head * p.head_dim;
        const bool wide = is_wide<T>(p.head_dim, p.dout | p.out | p.qkv | p.dqkv,
                                     p.dout_stride | p.out_stride | p.qkv_stride | p.dqkv_stride);
        auto part = [&](auto& rows, uint64_t matrix, uint64_t stride, uint32_t index) {
            using E = std::remove_pointer_t<decltype(rows.at)>;
            E* at = row_of<E>(matrix, stride, item.sequence) + uint64_t(index) * hidden + column;
            rows = {at, stride, p.seq, p.head_dim, wide};
        };
        part(q, p.qkv, p.qkv_stride, 0);
        part(k, p.qkv, p.qkv_stride, 1);
        part(v, p.qkv, p.qkv_stride, 2);
        part(dq, p.dqkv, p.dqkv_stride, 0);
        part(dk, p.dqkv, p.dqkv_stride, 1);
        part(dv, p.dqkv, p.dqkv_stride, 2);
        part(out, p.out, p.out_stride, 0);
        part(dout, p.dout, p.dout_stride, 0);
        lse = row_of<const float>(p.lse, p.lse_stride, item.head) + item.sequence;
        delta = row_of<float>(p.delta, p.rows, item.head) + item.sequence;
    }
};

/// Row `row` of a tile times the same row, `index`, of `from`; the four lanes of a row take every fourth chunk each.
template <class T, class S>
__device__ float dot_of_row(const S& tile, uint32_t row, const Rows<const T>& from, uint32_t index) {
    float dot = 0.0f;
    for (uint32_t chunk = lane_id() % 4; index < from.count && chunk < S::CHUNKS; chunk += 4) {
        const uint32_t width = from.in_chunk(chunk);
        const T* at = from.row(index) + chunk * S::WIDTH;
        const auto a = bits_as<Vec<T, WIDE<T>>>(ld_shared_v4(shared_address(tile.chunk(row, chunk))));
        Vec<T, WIDE<T>> b = {};
        if (from.wide && width != 0) {
            b = load<WIDE<T>>(at);
        } else {
#pragma unroll
            for (uint32_t i = 0; i < WIDE<T>; ++i) {
                b.at[i] = i < width ? at[i] : rounded<T>(0.0f);
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < WIDE<T>; ++i) {
            dot += to_float(a.at[i]) * to_float(b.at[i]);
        }
    }
    return row_sum(dot);
}

// Formula: delta[i] = dout[i] . out[i], p[i, j] = exp(scale q[i] . k[j] - lse[i]),
//          ds[i, j] = p[i, j] (dout[i] . v[j] - delta[i]), dq[i] = scale sum over j <= i of ds[i, j] k[j].
// Mapping: block -> ROWS queries of a head; warp -> 16 M of them and all keys they see, KEYS at a time.
// Idea: as the forward, but lse is known: nothing is scaled down. Keys and values of the next tile come meanwhile.
template <class T, uint32_t D>
__device__ void backward_dq(const AttentionBackwardParams& p) {
    using C = Backward<T, D>;
    constexpr uint32_t M = C::M, THREADS = C::DQ_THREADS;
    extern __shared__ __align__(128) unsigned char room[];
    auto& shared = *reinterpret_cast<typename C::DqShared*>(room);
    const Item item = item_of(p.seq, C::ROWS, p.heads, true);
    const Head<T> head(p, item);
    const uint32_t local = warp_id() * 16 * M, first = item.first + local;  // of the warp
    const uint32_t steps = ceil_div(min(p.seq, item.first + C::ROWS), C::KEYS);
    auto bring = [&](uint32_t step) {
        if (step < steps) {
            copy_tile<THREADS>(shared.k[step % 2], head.k, step * C::KEYS);
            copy_tile<THREADS>(shared.v[step % 2], head.v, step * C::KEYS);
        }
        cp_async_commit();
    };
    copy_tile<THREADS>(shared.q, head.q, item.first);
    copy_tile<THREADS>(shared.dout, head.dout, item.first);
    cp_async_commit();
    bring(0);
    cp_async_wait<1>();
    __syncthreads();  // q and dout are here
    float lse[M][2], delta[M][2];  // of the lane's rows, lse in powers of 2
#pragma unroll
    for (uint32_t m = 0; m < M; ++m) {
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) {
            const uint32_t row = 16 * m + Sums::row(2 * h), query = first + row;
            delta[m][h] = dot_of_row(shared.dout, local + row, head.out, query);
            lse[m][h] = query < p.seq ? head.lse[query] * LOG2_E : 0.0f;
            if (lane_id() % 4 == 0 && query < p.seq) {
                head.delta[query] = delta[m][h];
            }
        }
    }
    const float factor = p.scale * LOG2_E;
    Sums dq[M][D / 8];
    for (uint32_t step = 0; step < steps; ++step) {
        const uint32_t key = step * C::KEYS;
        bring(step + 1);
        cp_async_wait<1>();
        __syncthreads();  // k and v are here
        if (first < p.seq && key < first + 16 * M) {
            Sums s[M][C::KEYS / 8], ds[M][C::KEYS / 8];
            multiply_rows<T>(s, shared.q, local, shared.k[step % 2]);
            multiply_rows<T>(ds, shared.dout, local, shared.v[step % 2]);
#pragma unroll
            for (int m = 0; m < M; ++m) {
#pragma unroll
                for (int n = 0; n < C::KEYS / 8; ++n) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const float x = ex2_approx(fmaf(s[m][n].at[i], factor, -lse[m][i / 2]));
                        ds[m][n].at[i] = x * (ds[m][n].at[i] - delta[m][i / 2]);
                    }
                }
            }
            if (key + C::KEYS > first + 1) {
                for_values(ds, first, key, [](float& x, uint32_t i, uint32_t j) { x = j <= i ? x : 0.0f; });
            }
            multiply_sums<T>(dq, ds, shared.k[step % 2], 0);
        }
        __syncthreads();  // k and v are free
    }
    put(shared.q, local, 0, dq, p.scale);  // over the warp's own queries
    __syncthreads();
    store_tile<THREADS>(head.dq, item.first, shared.q);
}

// Formula: dv[j] = sum over i >= j of p[i, j] dout[i], dk[j] = scale sum over i >= j of ds[i, j] q[i]; p and ds as
//          above.
// Mapping: block -> ROWS keys of a head; warp -> 16 M of them, D / SPLIT columns of dk and dv, and all queries that see
//          them, QUERIES at a time.
// Idea: the transposes of p and ds are computed, k q and v dout: their sums lie in registers as the left operands of
//       the second products, and no warp needs what another computed.
template <class T, uint32_t D>
__device__ void backward_dkv(const AttentionBackwardParams& p) {
    using C = Backward<T, D>;
    constexpr uint32_t M = C::M, THREADS = C::DKV_THREADS;
    extern __shared__ __align__(128) unsigned char room[];
    auto& shared = *reinterpret_cast<typename C::DkvShared*>(room);
    const Item item = item_of(p.seq, C::ROWS, p.heads, false);
    const Head<T> head(p, item);
    const uint32_t local = warp_id() / C::SPLIT * 16 * M, first = item.first + local;  // of the warp
    const uint32_t column = warp_id() % C::SPLIT * (D / C::SPLIT);
    const uint32_t steps = ceil_div(p.seq - item.first, C::QUERIES);
    auto bring = [&](uint32_t step) {
        if (step < steps) {
            const uint32_t query = item.first + step * C::QUERIES, slot = step % 2;
            copy_tile<THREADS>(shared.q[slot], head.q, query);
            copy_tile<THREADS>(shared.dout[slot], head.dout, query);
            if (threadIdx.x < C::QUERIES) {
                const uint32_t mine = query + threadIdx.x, bytes = mine < p.seq ? 4 : 0;
                const uint32_t from = bytes != 0 ? mine : 0;
                cp_async_4(shared_address(&shared.lse[slot][threadIdx.x]), head.lse + from, bytes);
                cp_async_4(shared_address(&shared.delta[slot][threadIdx.x]), head.delta + from, bytes);
            }
        }
        cp_async_commit();
    };
    copy_tile<THREADS>(shared.k, head.k, item.first);
    copy_tile<THREADS>(shared.v, head.v, item.first);
    bring(0);
    const float factor = p.scale * LOG2_E;
    Sums dk[M][D / C::SPLIT / 8], dv[M][D / C::SPLIT / 8];
    for (uint32_t step = 0; step < steps; ++step) {
        const uint32_t query = item.first + step * C::QUERIES, slot = step % 2;
        bring(step + 1);
        cp_async_wait<1>();
        __syncthreads();  // q and dout are here, and before the first step k and v
        if (first < query + C::QUERIES && first < p.seq) {
            Sums s[M][C::QUERIES / 8], ds[M][C::QUERIES / 8];  // [keys, queries]
            multiply_rows<T>(s, shared.k, local, shared.q[slot]);
            multiply_rows<T>(ds, shared.v, local, shared.dout[slot]);
#pragma unroll
            for (int n = 0; n < C::QUERIES / 8; ++n) {
                const uint32_t at = 8 * n + Sums::col(0);
                const auto lse = load<2>(shared.lse[slot] + at), delta = load<2>(shared.delta[slot] + at);
#pragma unroll
                for (int m = 0; m < M; ++m) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        float& x = s[m][n].at[i];
                        x = ex2_approx(fmaf(x, factor, -lse.at[i % 2] * LOG2_E));
                        ds[m][n].at[i] = x * (ds[m][n].at[i] - delta.at[i % 2]);
                    }
                }
            }
            if (first + 16 * M > query + 1) {
                auto hide = [](float& x, uint32_t j, uint32_t i) { x = j <= i ? x : 0.0f; };
                for_values(s, first, query, hide);
                for_values(ds, first, query, hide);
            }
            multiply_sums<T>(dv, s, shared.dout[slot], column);
            multiply_sums<T>(dk, ds, shared.q[slot], column);
        }
        __syncthreads();  // q and dout are free
    }
    put(shared.k, local, column, dk, p.scale);
    put(shared.v, local, column, dv, 1.0f);
    __syncthreads();
    store_tile<THREADS>(head.dk, item.first, shared.k);
    store_tile<THREADS>(head.dv, item.first, shared.v);
}

#define ENTRY(V, D)                                                                                            \
    extern "C" {                                                                                               \
    __constant__ LaunchTile moe_attention_dq_##V##_##D##_launch = {                                            \
        Backward<V, D>::DQ_THREADS, Backward<V, D>::ROWS, 0, sizeof(Backward<V, D>::DqShared)};                \
    __constant__ LaunchTile moe_attention_dkv_##V##_##D##_launch = {                                           \
        Backward<V, D>::DKV_THREADS, Backward<V, D>::ROWS, 0, sizeof(Backward<V, D>::DkvShared)};              \
    __global__ void __launch_bounds__(Backward<V, D>::DQ_THREADS, 1)                                           \
        moe_attention_dq_##V##_##D(const __grid_constant__ AttentionBackwardParams p) {                        \
        backward_dq<V, D>(p);                                                                                  \
    }                                                                                                          \
    __global__ void __launch_bounds__(Backward<V, D>::DKV_THREADS, 1)                                          \
        moe_attention_dkv_##V##_##D(const __grid_constant__ AttentionBackwardParams p) {                       \
        backward_dkv<V, D>(p);                                                                                 \
    }                                                                                                          \
    }
ATTENTION_VARIANTS(ENTRY)
