// Routing: from token rows to experts and weights in one kernel, the sums of a batch, and the gradient.
#include "route.h"

#include "route_backward.cuh"
#include "route_logits.cuh"
#include "route_select.cuh"

/// Up to 384 logits, and up to 1,280: what a block of 256 threads keeps of sums in its registers, 32 KB a piece.
template <class T>
using FewLogits = LogitTile<T, 32, 3>;
template <class T>
using ManyLogits = LogitTile<T, 16, 10>;

/// Of the sums: a block has FOLD_WARPS warps for WARP columns.
constexpr uint32_t FOLD_WARPS = 16;
/// Of the gradient of logits: tokens of a block.
constexpr uint32_t DLOGITS_WARPS = 8;

static_assert(sizeof(FewLogits<BF16>::Smem) == sizeof(FewLogits<F32>::Smem), "one size for every dtype");
static_assert(sizeof(ManyLogits<BF16>::Smem) == sizeof(ManyLogits<F32>::Smem), "one size for every dtype");
static_assert(sizeof(ManyLogits<F32>::Smem) <= 99 * 1024, "what a block may have on every architecture");

extern "C" {
__constant__ LaunchTile moe_route_launch = {FewLogits<F32>::THREADS, FewLogits<F32>::TOKENS, FewLogits<F32>::LOGITS,
                                            sizeof(FewLogits<F32>::Smem)};
__constant__ LaunchTile moe_route_many_launch = {ManyLogits<F32>::THREADS, ManyLogits<F32>::TOKENS,
                                                 ManyLogits<F32>::LOGITS, sizeof(ManyLogits<F32>::Smem)};
__constant__ LaunchTile moe_route_sums_launch = {FOLD_WARPS * WARP, 0, WARP, 0};
__constant__ LaunchTile moe_route_dlogits_launch = {DLOGITS_WARPS * WARP, DLOGITS_WARPS, 0, 0};
__constant__ LaunchTile moe_route_product_launch = {ProductTile::THREADS, ProductTile::ROWS, ProductTile::COLUMNS, 0};
}

/// Decides about one token, with its warp: everything in its rows of the outputs, its scores in `smem`.
template <class C>
__device__ void decide(const RouteParams& p, uint32_t row, typename C::Smem& smem) {
    const RouteRule& rule = p.rule;
    const uint32_t token = blockIdx.x * C::TOKENS + row, lane = lane_id();
    const uint32_t clusters = rule.clusters, per = rule.experts / clusters, levels = clusters > 1 ? clusters : 0;
    const float* bias = array_of<const float>(p.bias);
    float* first = smem.logits[row];  // [levels]
    Level across = {0, 0.0f, 1.0f};
    if (levels > 0) {
        across = choose(first, bias, levels, 1, false, rule);
    }
    const uint32_t g = __shfl_sync(ALL_LANES, across.chosen, 0), begin = levels + g * per;
    float* second = first + begin;  // [per]
    const Level inside =
        choose(second, bias != nullptr ? bias + begin : nullptr, per, rule.topk, rule.groups > 0, rule);

    const bool skipped = across.mass == 0.0f || inside.mass == 0.0f;
    const bool slot = lane < rule.topk;
    const float score = slot && !skipped ? second[inside.chosen] : 0.0f;
    const float kept = rule.topk > 1 ? warp_sum(score) + TINY : 1.0f;
    const float factor = (levels > 0 ? first[g] : 1.0f) * rule.scale / kept;
    __syncwarp();
    if (slot) {
        const uint64_t at = uint64_t(token) * rule.topk + lane;
        array_of<uint32_t>(p.expert)[at] = g * per + inside.chosen;
        array_of<float>(p.weight)[at] = skipped ? 0.0f : factor * score;
        atomicAdd(&smem.count[clusters + g * per + inside.chosen], 1);  // of integers: the order does not matter
    }
    float* prob_cluster = row_of<float>(p.prob_cluster, clusters, token);  // [clusters]
    for (uint32_t c = lane; c < clusters; c += WARP) {
        const float value = skipped ? 0.0f : levels > 0 ? first[c] : 1.0f;
        prob_cluster[c] = value;
        if (levels > 0) {
            first[c] = value;
        }
    }
    float* prob_expert = row_of<float>(p.prob_expert, per, token);  // [per]
    for (uint32_t c = lane; c < per; c += WARP) {
        const float value = skipped ? 0.0f : second[c];
        prob_expert[c] = value;
        second[c] = value;
    }
    if (lane == 0) {
        const float2 lse = skipped ? float2{0.0f, 0.0f} : float2{across.lse, inside.lse};
        array_of<uint32_t>(p.cluster)[token] = g;
        array_of<float2>(p.lse)[token] = lse;
        smem.cluster[row] = g;
        smem.share[row] = skipped ? 0.0f : 1.0f / inside.mass;
        smem.squares[row] = lse.x * lse.x + lse.y * lse.y;
        atomicAdd(&smem.count[g], 1);
    }
}

/// The block's sums over its `tokens` tokens, each column in token order.
template <class C>
__device__ void add_up(const RouteParams& p, uint32_t tokens, const typename C::Smem& smem) {
    const uint32_t clusters = p.rule.clusters, experts = p.rule.experts, per = experts / clusters;
    const uint32_t levels = clusters > 1 ? clusters : 0, columns = clusters + experts;
    float* partial = row_of<float>(p.partial, 2 * columns + 2, blockIdx.x);  // [2 (clusters + experts) + 2]
    for (uint32_t c = threadIdx.x; c < columns; c += C::THREADS) {
        float sum = 0.0f;
        for (uint32_t row = 0; row < tokens; ++row) {
            const float share = smem.share[row];
            if (c >= clusters) {
                const uint32_t e = c - clusters;
                sum += e / per == smem.cluster[row] ? smem.logits[row][levels + e] * share : 0.0f;
            } else {
                sum += levels > 0 ? smem.logits[row][c] : share > 0.0f ? 1.0f : 0.0f;
            }
        }
        partial[c] = sum;
        partial[columns + c] = float(smem.count[c]);
    }
    if (threadIdx.x == 0) {
        float squares = 0.0f, skipped = 0.0f;
        for (uint32_t row = 0; row < tokens; ++row) {
            squares += smem.squares[row];
            skipped += smem.share[row] > 0.0f ? 0.0f : 1.0f;
        }
        partial[2 * columns] = squares;
        partial[2 * columns + 1] = skipped;
    }
}

// Formula: method.md, "Two-stage routing"; in groups, that of DeepSeek-V3.
// Mapping: block -> TOKENS tokens; then warp -> token, one after the other; then thread -> column of the sums.
// Idea: logits, and the scores that take their place, live in shared memory from the product to the sums: what goes
//       out are the decisions.
template <class C, bool ALIGNED>
__device__ void route(const RouteParams& p, typename C::Smem& smem) {
    const uint32_t levels = p.rule.clusters > 1 ? p.rule.clusters : 0;
    for (uint32_t c = threadIdx.x; c < p.rule.clusters + p.rule.experts; c += C::THREADS) {
        smem.count[c] = 0;
    }
    logits_of<C, ALIGNED>(p, levels + p.rule.experts, smem);
    const uint32_t tokens = min(C::TOKENS, p.tokens - blockIdx.x * C::TOKENS);
    for (uint32_t row = warp_id(); row < tokens; row += C::WARPS) {
        decide<C>(p, row, smem);
    }
    __syncthreads();
    add_up<C>(p, tokens, smem);
}

template <class C>
__device__ void route_any(const RouteParams& p) {
    extern __shared__ __align__(128) unsigned char room[];
    auto& smem = *reinterpret_cast<typename C::Smem*>(room);
    is_wide<typename C::T>(p.hidden, p.x | p.w, p.x_stride | p.w_stride) ? route<C, true>(p, smem)
                                                                         : route<C, false>(p, smem);
}

// Formula: the sum over b of partial[b, j], in f64.
// Mapping: block -> WARP columns; warp -> every FOLD_WARPSth row; lane -> column.
// Idea: a fixed number of chains that do not depend on each other, folded in order at the end.
extern "C" __global__ void __launch_bounds__(FOLD_WARPS* WARP)
    moe_route_sums(const __grid_constant__ RouteSumsParams p) {
    __shared__ double room[FOLD_WARPS][WARP];
    const uint32_t clusters = p.clusters, columns = clusters + p.experts;
    uint32_t c = blockIdx.x * WARP + lane_id();
    const bool mine = c < 2 * columns + 2;
    double sum = 0.0;
    if (mine) {
#pragma unroll 8
        for (uint32_t b = warp_id(); b < p.partials; b += FOLD_WARPS) {
            sum += double(row_of<const float>(p.partial, 2 * columns + 2, b)[c]);
        }
    }
    room[warp_id()][lane_id()] = sum;
    __syncthreads();
    if (warp_id() != 0 || !mine) {
        return;
    }
    double total = 0.0;
#pragma unroll
    for (uint32_t w = 0; w < FOLD_WARPS; ++w) {
        total += room[w][lane_id()];
    }
    if (c < columns) {
        c < clusters ? array_of<double>(p.cluster_prob)[c] = total
                     : array_of<double>(p.expert_prob)[c - clusters] = total;
    } else if ((c -= columns) < columns) {
        c < clusters ? array_of<uint32_t>(p.cluster_tokens)[c] = uint32_t(total)
                     : array_of<uint32_t>(p.expert_slots)[c - clusters] = uint32_t(total);
    } else if (c == columns) {
        *array_of<double>(p.lse_squared) = total;
    } else {
        *array_of<uint32_t>(p.skipped) = uint32_t(total);
    }
}

// Formula: route_backward.cuh, dlogits_of.
// Mapping: warp -> token; lane -> every 32nd logit.
extern "C" __global__ void __launch_bounds__(DLOGITS_WARPS* WARP)
    moe_route_dlogits(const __grid_constant__ RouteDlogitsParams p) {
    const uint32_t token = blockIdx.x * DLOGITS_WARPS + warp_id();
    if (token < p.tokens) {
        dlogits_of(p, token);
    }
}

#define ENTRY(V)                                                                                   \
    extern "C" __global__ void __launch_bounds__(FewLogits<V>::THREADS)                            \
        moe_route_##V(const __grid_constant__ RouteParams p) {                                     \
        route_any<FewLogits<V>>(p);                                                                \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(ManyLogits<V>::THREADS, 1)                        \
        moe_route_many_##V(const __grid_constant__ RouteParams p) {                                \
        route_any<ManyLogits<V>>(p);                                                               \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(ProductTile::THREADS, 3)                          \
        moe_route_dx_##V(const __grid_constant__ RouteDxParams p) {                                \
        const Matrix dlogits = {p.dlogits, p.dlogits_stride, p.tokens, p.logits};                  \
        const Matrix w = {p.w, p.w_stride, p.logits, p.hidden};                                    \
        products<V, false, V>(dlogits, w, {p.dx, p.dx_stride, p.tokens, p.hidden}, 0, true);       \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(ProductTile::THREADS, 3)                          \
        moe_route_dw_##V(const __grid_constant__ RouteDwParams p) {                                \
        const uint32_t first = blockIdx.z * p.span, last = min(first + p.span, p.tokens);          \
        const Matrix dlogits = {p.dlogits, p.dlogits_stride, last, p.logits};                      \
        const Matrix x = {p.x, p.x_stride, last, p.hidden};                                        \
        const Matrix dw = {p.dw, p.dw_stride, p.logits, p.hidden};                                 \
        products<V, true, float>(dlogits, x, dw, first, p.accumulate != 0);                        \
    }
ROUTE_VARIANTS(ENTRY)
