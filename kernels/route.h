// A router's decisions, from token rows to experts and weights, and their gradient.
//
// With `levels` = clusters if there are two or more, else 0, the router's weight has `logits` = levels + experts rows:
// the clusters', then the experts'. An expert `e` is in cluster e / (experts / clusters). Sizes are below 2^31.
//
// Sectors of global memory that are requested where rows start at multiples of 16 bytes, for 16-bit elements; with K =
// experts / clusters, s(n) = ceil(n / 8) of n words in a row, and tiles of 64 x 64 for the gradients:
//     route        x once, w once a block; a token 2 + 2 s(topk) + s(clusters) + s(K); of the sums of a block, 2 s(clusters +
//                  experts) and an end for every 32 of them, written once and read once
//     dlogits      a token 5 + 3 s(topk) + 6 s(K) + 5 s(clusters) + s(experts)
//     dx           dlogits once for 64 columns, w once for 64 rows, dx twice
//     dw           dlogits once for 64 columns, x once for 64 logits, sums of splits twice, dw once or twice
// Where rows of dlogits are no multiple of 16 bytes, operands of the products come element by element: f32 4, bf16 8
// times as often.
#pragma once

#include "common/abi.h"

#define ROUTE_VARIANTS(V) V(F32) V(BF16) V(F16)

/// How logits become choices and weights.
typedef struct RouteRule {
    /// [1], f32: in place of the temperature; 0 means none
    uint64_t temperature_at;
    /// Divides the logits.
    float temperature;
    /// Factor of the weights.
    float scale;
    uint32_t experts;
    uint32_t clusters;
    uint32_t topk;
    /// 0: two stages. Else experts are scored all together, in so many groups (at most 32) of equal size, and
    uint32_t groups;
    /// so many groups are kept.
    uint32_t top_groups;
    /// Of all experts together. 1: sigmoid; 0: softmax
    uint32_t sigmoid;
} RouteRule;

/// Parameters of `moe_route_*`, launched with ceil(tokens / tile.rows) blocks by the tile `moe_route_launch`, for at most
/// tile.columns logits; and of `moe_route_many_*`, by `moe_route_many_launch`.
typedef struct RouteParams {
    /// [tokens, hidden]
    uint64_t x;
    /// [logits, hidden]
    uint64_t w;
    /// [logits], f32: added to scores for the choice alone; 0 means none
    uint64_t bias;
    /// [tokens], u32
    uint64_t cluster;
    /// [tokens, topk], u32
    uint64_t expert;
    /// [tokens, topk], f32
    uint64_t weight;
    /// [tokens, clusters], f32
    uint64_t prob_cluster;
    /// [tokens, experts / clusters], f32: of the chosen cluster
    uint64_t prob_expert;
    /// [tokens, 2], f32: logs of the softmaxes' denominators
    uint64_t lse;
    /// [ceil(tokens / tile.rows), 2 (clusters + experts) + 2], f32, contiguous: workspace
    uint64_t partial;
    uint64_t x_stride;
    uint64_t w_stride;
    uint32_t tokens;
    uint32_t hidden;
    RouteRule rule;
} RouteParams;

/// Sums over the blocks' `partial`, in their order. Parameters of `moe_route_sums`; launched by the tile
/// `moe_route_sums_launch` with ceil((2 (clusters + experts) + 2) / tile.columns) blocks, also if there are no tokens.
typedef struct RouteSumsParams {
    /// [partials, 2 (clusters + experts) + 2], f32
    uint64_t partial;
    /// [clusters], u32
    uint64_t cluster_tokens;
    /// [experts], u32
    uint64_t expert_slots;
    /// [clusters], f64
    uint64_t cluster_prob;
    /// [experts], f64
    uint64_t expert_prob;
    /// [1], f64
    uint64_t lse_squared;
    /// [1], u32
    uint64_t skipped;
    uint32_t partials;
    uint32_t experts;
    uint32_t clusters;
    uint32_t unused;
} RouteSumsParams;

/// dlogits from the gradient of the weights and the router's losses. Parameters of `moe_route_dlogits`; launched by
/// the tile `moe_route_dlogits_launch` over `tokens`.
typedef struct RouteDlogitsParams {
    /// [tokens, topk], f32
    uint64_t dweight;
    /// [tokens], u32
    uint64_t cluster;
    /// [tokens, topk], u32
    uint64_t expert;
    /// [tokens, clusters], f32
    uint64_t prob_cluster;
    /// [tokens, experts / clusters], f32
    uint64_t prob_expert;
    /// [tokens, 2], f32
    uint64_t lse;
    /// [clusters], u32
    uint64_t cluster_tokens;
    /// [experts], u32
    uint64_t expert_slots;
    /// [tokens, logits], f32
    uint64_t dlogits;
    uint64_t dweight_stride;
    uint64_t dlogits_stride;
    uint32_t tokens;
    /// Coefficient of the balance loss
    float balance;
    /// Coefficient of the z-loss
    float z;
    uint32_t unused;
    RouteRule rule;
} RouteDlogitsParams;

/// dx += dlogits w. Parameters of `moe_route_dx_*`; launched by the tile `moe_route_product_launch` over `tokens` and
/// `hidden`.
typedef struct RouteDxParams {
    /// [tokens, logits], f32
    uint64_t dlogits;
    /// [logits, hidden]
    uint64_t w;
    /// [tokens, hidden]
    uint64_t dx;
    uint64_t dlogits_stride;
    uint64_t w_stride;
    uint64_t dx_stride;
    uint32_t tokens;
    uint32_t logits;
    uint32_t hidden;
    uint32_t unused;
} RouteDxParams;

/// dw = [dw +] dlogits^T x. Parameters of `moe_route_dw_*`; launched by the tile `moe_route_product_launch` over
/// `logits` and `hidden`, also if there are no tokens. Several blocks along z split the tokens, and leave their sums one
/// behind the other, for `moe_int4_gemm_reduce_F32` to add.
typedef struct RouteDwParams {
    /// [tokens, logits], f32
    uint64_t dlogits;
    /// [tokens, hidden]
    uint64_t x;
    /// [splits, logits, hidden], f32
    uint64_t dw;
    uint64_t dlogits_stride;
    uint64_t x_stride;
    uint64_t dw_stride;
    uint32_t tokens;
    uint32_t logits;
    uint32_t hidden;
    /// Tokens of a split; all of them and one split more are fewer than 2^32.
    uint32_t span;
    /// 1: add to dw; 0: overwrite it
    uint32_t accumulate;
    uint32_t unused;
} RouteDwParams;
