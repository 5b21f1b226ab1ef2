// The gradient of routing: of the logits, then of tokens and weight.
#pragma once

#include "route_logits.cuh"
#include "route_select.cuh"

/// Writes the gradient of a token's logits, with its warp.
// A routing that no forward wrote can hold any id: none of them leads out of the rows.
__device__ inline void dlogits_of(const RouteDlogitsParams& p, uint32_t token) {
    const RouteRule& rule = p.rule;
    const uint32_t lane = lane_id(), clusters = rule.clusters, per = rule.experts / clusters;
    const uint32_t levels = clusters > 1 ? clusters : 0, g = array_of<const uint32_t>(p.cluster)[token];
    const float* first = row_of<const float>(p.prob_cluster, clusters, token);  // [clusters]
    const float* second = row_of<const float>(p.prob_expert, per, token);       // [per]
    float* out = row_of<float>(p.dlogits, p.dlogits_stride, token);             // [levels + experts]
    float mass = 0.0f;
    bool some = false;
    for (uint32_t c = lane; c < per; c += WARP) {
        mass += second[c];
        some |= second[c] != 0.0f;
    }
    mass = warp_sum(mass);
    if (!__any_sync(ALL_LANES, some) || g >= clusters) {  // a token without a distribution
        for (uint32_t c = lane; c < levels + rule.experts; c += WARP) {
            out[c] = 0.0f;
        }
        return;
    }

    // w_j = a q_j with a = p_g scale and q_j = s_j / kept, so da = <dw, q>, and ds_j = a (dw_j - <dw, q>) / kept;
    // without the division (topk 1), ds_j = a dw_j. Slot s is in lane s.
    const bool single = rule.topk == 1;
    uint32_t chosen = per;
    float dw = 0.0f, score = 0.0f;
    if (lane < rule.topk) {
        const uint32_t local = array_of<const uint32_t>(p.expert)[uint64_t(token) * rule.topk + lane] - g * per;
        if (local < per) {
            chosen = local;
            dw = row_of<const float>(p.dweight, p.dweight_stride, token)[lane];
            score = second[local];
        }
    }
    const float kept = single ? 1.0f : warp_sum(score) + TINY;
    const float mean = warp_sum(dw * score) / kept;
    const float of_slot = first[g] * rule.scale / kept * (dw - (single ? 0.0f : mean));

    // With the balance loss: of p_i|g = s_i / mass, where mass is 1 unless scores are sigmoids.
    const float members = float(max(array_of<const uint32_t>(p.cluster_tokens)[g], 1u));
    const float unit = p.balance * float(per) / float(clusters) / (float(rule.topk) * members * members);
    const uint32_t* slots = array_of<const uint32_t>(p.expert_slots) + g * per;  // [per]
    float sum = 0.0f;
    for (uint32_t c = lane; c < per; c += WARP) {
        sum += second[c] * unit * float(slots[c]);
    }
    sum = warp_sum(sum);
    const float2 lse = array_of<const float2>(p.lse)[token];
    const float z = 2.0f * p.z / float(p.tokens), inverse = 1.0f / temperature_of(rule);
    const bool sigmoid = rule.sigmoid != 0;
    const float centre = sigmoid ? sum / mass : sum + warp_sum(lane < rule.topk ? score * of_slot : 0.0f) - z * lse.y;
    for (uint32_t begin = 0; begin < per; begin += WARP) {
        const uint32_t c = begin + lane;
        float d = 0.0f;
        for (uint32_t slot = 0; slot < rule.topk; ++slot) {
            const float value = __shfl_sync(ALL_LANES, of_slot, slot);
            d += __shfl_sync(ALL_LANES, chosen, slot) == c ? value : 0.0f;
        }
        if (c < per) {
            const float s = second[c], term = unit * float(slots[c]);
            d = sigmoid ? (d + (term - centre) / mass) * s * (1.0f - s) : s * (d + term - centre);
            out[levels + g * per + c] = d * inverse;
        }
    }
    for (uint32_t e = lane; e < rule.experts; e += WARP) {
        if (e / per != g) {
            out[levels + e] = 0.0f;
        }
    }
    if (levels == 0) {
        return;
    }
    const uint32_t* tokens_of = array_of<const uint32_t>(p.cluster_tokens);  // [clusters]
    const float across = p.balance * float(clusters) / (float(p.tokens) * float(p.tokens));
    auto d_first = [&](uint32_t c) { return across * float(tokens_of[c]) + (c == g ? mean * rule.scale : 0.0f); };
    float dot = 0.0f;
    for (uint32_t c = lane; c < levels; c += WARP) {
        dot += first[c] * d_first(c);
    }
    dot = warp_sum(dot);
    for (uint32_t c = lane; c < levels; c += WARP) {
        out[c] = first[c] * (d_first(c) - dot + z * lse.x) * inverse;
    }
}

/// A matrix in shared memory with a gap behind each row, so that rows start in different banks.
template <class T, uint32_t ROWS_, uint32_t COLS, uint32_t GAP>
struct alignas(16) Padded {
    static constexpr uint32_t ROWS = ROWS_;
    static constexpr uint32_t WIDTH = WIDE<T>;
    static constexpr uint32_t CHUNKS = COLS / WIDTH;
    static_assert(COLS % WIDTH == 0 && GAP % WIDTH == 0, "rows are whole chunks");

    T at[ROWS * (COLS + GAP)];  // [ROWS, COLS]

    __device__ T* chunk(uint32_t row, uint32_t chunk) {
        return at + row * (COLS + GAP) + chunk * WIDTH;
    }

    __device__ const T* chunk(uint32_t row, uint32_t chunk) const {
        return at + row * (COLS + GAP) + chunk * WIDTH;
    }

    __device__ T& element(uint32_t row, uint32_t col) {
        return at[row * (COLS + GAP) + col];
    }

    __device__ const T& element(uint32_t row, uint32_t col) const {
        return at[row * (COLS + GAP) + col];
    }
};

/// Products of f32 by 16-bit elements on tensor cores: f32 as the sum of two TF32 numbers, which have its range and
/// together 22 of its 24 bits; 16-bit elements are TF32 numbers.
template <class T>
struct Split {
    static constexpr uint32_t K = 8;

    struct A {
        uint32_t high[4];  // [16, K]
        uint32_t low[4];
    };
    struct B {
        uint32_t at[2];  // [K, 8]
    };

    static __device__ void multiply(Sums& d, const A& a, const B& b) {
        mma_m16n8k8_tf32(d.at, a.low, b.at);
        mma_m16n8k8_tf32(d.at, a.high, b.at);
    }

    template <class At>
    static __device__ A split(At at) {
        A a;
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            const float x = at(lane_id() / 4 + i % 2 * 8, lane_id() % 4 + i / 2 * 4);
            a.high[i] = cvt_rna_tf32(x);
            a.low[i] = cvt_rna_tf32(x - __uint_as_float(a.high[i]));
        }
        return a;
    }

    /// Rows `row..`, columns `k..` of a tile [M, K].
    template <class S>
    static __device__ A load_a(const S& tile, uint32_t row, uint32_t k) {
        return split([&](uint32_t m, uint32_t j) { return tile.element(row + m, k + j); });
    }

    /// Columns `row..`, rows `k..` of a tile [K, M].
    template <class S>
    static __device__ A load_a_trans(const S& tile, uint32_t row, uint32_t k) {
        return split([&](uint32_t m, uint32_t j) { return tile.element(k + j, row + m); });
    }

    /// Columns `col..` and `col + 8..`, rows `k..` of a tile [K, N]: two fragments.
    template <class S>
    static __device__ void load_b_trans(B (&b)[2], const S& tile, uint32_t col, uint32_t k) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            const T x = tile.element(k + lane_id() % 4 + i % 2 * 4, col + i / 2 * 8 + lane_id() / 4);
            b[i / 2].at[i % 2] = __float_as_uint(to_float(x));
        }
    }
};

/// The tile of a product: [ROWS, COLUMNS] of the result, `DEPTH` terms a stage; a warp has a quarter.
struct ProductTile {
    static constexpr uint32_t THREADS = 4 * WARP;
    static constexpr uint32_t ROWS = 64;
    static constexpr uint32_t COLUMNS = 64;
    static constexpr uint32_t DEPTH = 32;
    static constexpr uint32_t STAGES = 2;

    template <class T, bool TRANS>
    struct Stage {
        static constexpr bool SPLIT = !std::is_same_v<T, F32>;
        static constexpr uint32_t A_ROWS = TRANS ? DEPTH : ROWS, A_COLUMNS = TRANS ? ROWS : DEPTH;
        // With these gaps the lanes of a fragment of a split product meet every bank once.
        using A = std::conditional_t<SPLIT, Padded<float, A_ROWS, A_COLUMNS, TRANS ? 8 : 4>,
                                     Tile<float, A_ROWS, A_COLUMNS>>;
        using B = std::conditional_t<SPLIT, Padded<T, DEPTH, COLUMNS, 8>, Tile<T, DEPTH, COLUMNS>>;
        A a;  // [ROWS, DEPTH] or its transpose
        B b;  // [DEPTH, COLUMNS]
    };
    template <class T, bool TRANS>
    union Smem {
        Stage<T, TRANS> stages[STAGES];
        Padded<float, ROWS, COLUMNS, 8> sums;  // when the products are done
    };
};

// Formula: c[m, n] = [c[m, n] +] sum over k of a[m, k] b[k, n]; a in f32, given as [m, k] or (TRANS) as [k, m].
// Mapping: block -> tile of c; warp -> a quarter of it.
// Idea: a block has all terms of its sums, or those of a split that only sizes decide on, so that their order is fixed.
template <class T, bool TRANS, bool ALIGNED, class Out>
__device__ void product(const Matrix& a, const Matrix& b, const Matrix& c, uint32_t column, uint32_t first,
                        bool accumulate, ProductTile::Smem<T, TRANS>& smem) {
    using P = ProductTile;
    using M = std::conditional_t<std::is_same_v<T, F32>, Mma<F32>, Split<T>>;
    const uint32_t row = blockIdx.x * P::ROWS, depth = b.rows;
    const uint32_t warp_row = warp_id() / 2 * 32, warp_column = warp_id() % 2 * 32;
    auto copy_stage = [&](uint32_t slot, uint32_t k) {
        auto& stage = smem.stages[slot];
        copy_part<P::THREADS, ALIGNED>(stage.a, a, TRANS ? k : row, TRANS ? row : k);
        copy_part<P::THREADS, ALIGNED>(stage.b, b, k, column);
        cp_async_commit();
    };
    Sums sums[2][4];
    if (first < depth) {
        copy_stage(0, first);
    }
    for (uint32_t begin = first, slot = 0; begin < depth; begin += P::DEPTH, slot ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (begin + P::DEPTH < depth) {
            copy_stage(slot ^ 1, begin + P::DEPTH);
        }
        const auto& stage = smem.stages[slot];
#pragma unroll
        for (uint32_t k = 0; k < P::DEPTH; k += M::K) {
            typename M::B b_parts[2][2];
            M::load_b_trans(b_parts[0], stage.b, warp_column, k);
            M::load_b_trans(b_parts[1], stage.b, warp_column + 16, k);
#pragma unroll
            for (uint32_t m = 0; m < 2; ++m) {
                typename M::A a_part;
                if constexpr (TRANS) {
                    a_part = M::load_a_trans(stage.a, warp_row + m * 16, k);
                } else {
                    a_part = M::load_a(stage.a, warp_row + m * 16, k);
                }
#pragma unroll
                for (uint32_t n = 0; n < 4; ++n) {
                    M::multiply(sums[m][n], a_part, b_parts[n / 2][n % 2]);
                }
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
#pragma unroll
        for (uint32_t n = 0; n < 4; ++n) {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const uint32_t r = warp_row + m * 16 + Sums::row(i), at = warp_column + n * 8 + Sums::col(i);
                store(&smem.sums.element(r, at), Vec<float, 2>{sums[m][n].at[i], sums[m][n].at[i + 1]});
            }
        }
    }
    __syncthreads();
    constexpr int N = ALIGNED ? 4 : 1;  // neighbouring lanes then read neighbouring 16 bytes of the sums
    for (uint32_t at = threadIdx.x * N; at < P::ROWS * P::COLUMNS; at += P::THREADS * N) {
        const uint32_t r = at / P::COLUMNS, n = at % P::COLUMNS;
        if (row + r < c.rows && column + n < c.columns) {
            Out* to = row_of<Out>(c.address, c.stride, uint64_t(blockIdx.z) * c.rows + row + r) + column + n;
            const Vec<Out, N> old = accumulate ? load<N>(to) : Vec<Out, N>{};
            Vec<float, N> sum;
            if constexpr (ALIGNED) {
                sum = bits_as<Vec<float, N>>(ld_shared_v4(shared_address(&smem.sums.element(r, n))));
            } else {
                sum.at[0] = smem.sums.element(r, n);
            }
            float out[N];
#pragma unroll
            for (int i = 0; i < N; ++i) {
                out[i] = accumulate ? to_float(old.at[i]) + sum.at[i] : sum.at[i];
            }
            store_rounded(to, out);
        }
    }
    __syncthreads();  // of the next tile: its stages take the place of the sums
}

/// The tiles of a block, by whole chunks where all rows are made of them; terms from `first` on. Blocks along z have
/// matrices c one behind the other.
template <class T, bool TRANS, class Out>
__device__ void products(const Matrix& a, const Matrix& b, const Matrix& c, uint32_t first, bool accumulate) {
    __shared__ ProductTile::Smem<T, TRANS> smem;
    const bool wide = is_wide<F32>(a.columns, a.address, a.stride) && is_wide<T>(b.columns, b.address, b.stride) &&
                      is_wide<Out>(c.columns, c.address, c.stride);
    for_tiles(c.columns, ProductTile::COLUMNS, [&](uint32_t begin, uint32_t) {
        wide ? product<T, TRANS, true, Out>(a, b, c, begin, first, accumulate, smem)
             : product<T, TRANS, false, Out>(a, b, c, begin, first, accumulate, smem);
    });
}
