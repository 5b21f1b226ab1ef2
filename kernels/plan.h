// Sorting the choices of a router: tokens by cluster, and choices (token fan + slot) by expert, both stable.
//
// Sectors of global memory that are requested: ids twice, places once; of sources, for 32 choices in a row, those that
// their places lie in; offsets once for each range of tokens, and once more to write them. Three kernels also write and
// read counts twice each, a row of (clusters + experts) words a range.
#pragma once

#include "common/abi.h"

#define PLAN_VARIANTS(V) V(U32)

/// Most experts, and most clusters.
#define PLAN_GROUPS 1024
/// Most slots of a token.
#define PLAN_SLOTS 16
/// Most tokens of the kernel with one block.
#define PLAN_TOKENS 1024

/// place[c] = offsets[id[c]] + (number of c' < c with id[c'] = id[c]), source[place[c]] = c, for both orders.
///
/// A token whose cluster does not exist, or whose experts are not distinct ids of its cluster, gets cluster 0 and the
/// experts 0 to fan - 1; `status` is the first such token, or 0xffffffff.
///
/// Parameters of all kernels here. `moe_plan_*` does it in one block, for up to PLAN_TOKENS tokens. Otherwise range
/// u of tokens, u unit .. (u + 1) unit, belongs to a warp: `moe_plan_count_*`, `moe_plan_scan_*` and
/// `moe_plan_fill_*` are launched in this order, the first and the last with ceil(units / tile.rows) blocks, the one
/// between with 2.
typedef struct PlanParams {
    /// [tokens], u32; 0: every token counts as sent to the first experts of cluster 0, and as fine
    uint64_t cluster;
    /// [tokens, fan], u32
    uint64_t expert;
    /// [clusters + 1], u32
    uint64_t cluster_offsets;
    /// [tokens], u32
    uint64_t cluster_source;
    /// [tokens], u32
    uint64_t cluster_place;
    /// [experts + 1], u32
    uint64_t expert_offsets;
    /// [tokens fan], u32
    uint64_t expert_source;
    /// [tokens fan], u32
    uint64_t expert_place;
    /// [units, clusters + experts], then [units], u32: workspace; not read by one block
    uint64_t counts;
    /// [1], u32
    uint64_t status;
    uint64_t expert_stride;
    uint32_t tokens;
    uint32_t fan;
    uint32_t experts;
    uint32_t clusters;
    uint32_t units;
    /// a multiple of 32
    uint32_t unit;
} PlanParams;
