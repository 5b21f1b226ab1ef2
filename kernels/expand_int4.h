// The forward of expand.h with factors in INT4 (int4.h): with K = experts / clusters, F = K rank, and i the number of
// expert e in its cluster,
//     (g | u) = (gate | up)_r + (P_re B_e^T of gate | P'_re B_e^T of up),   h = w silu(g) u,
//     hbar_r = sum over the slots of h,   Q_re = h A2_e^T
// A factor is one matrix a cluster, the experts' ranks one after the other: rows i rank .. of it are those of expert i.
// `bp` is [gate | up | P | P'], P_re from column 2 inner + i rank, P'_re F further; `hq` is [hbar | Q], as in expand.h.
#pragma once

#include "common/abi.h"
#include "int4.h"

#define EXPAND_INT4_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Parameters of `moe_expand_int4_{tall,flat,any}_*`. The grid is ceil(tokens / tile.rows) + clusters blocks. `tall` and
/// `flat` want all addresses and strides of `bp` and `hq` to be multiples of 16 bytes, inner and rank multiples of 8. topk
/// is at most 16, and topk ceil(rank / 16) at most tile.columns.
typedef struct ExpandInt4Params {
    /// [clusters, F, inner]: B^T of gate
    Int4Weights gate;
    /// [clusters, F, inner]: B^T of up
    Int4Weights up;
    /// [clusters, F, inner]: A^T of down
    Int4Weights down;
    /// [tokens, 2 inner + 2 F]
    uint64_t bp;
    /// [tokens, topk], f32
    uint64_t weight;
    /// [tokens, inner + F]
    uint64_t hq;
    /// [clusters + 1], u32: first row of each cluster, then the number of rows
    uint64_t cluster_offsets;
    /// [tokens], u32: the token of each row
    uint64_t token_of;
    /// [experts + 1], u32: first slot of each expert in expert order, then the number of slots
    uint64_t expert_offsets;
    /// [tokens, topk], u32: where each choice lies in expert order
    uint64_t place;
    uint64_t bp_stride;
    uint64_t weight_stride;
    uint64_t hq_stride;
    uint32_t clusters;
    /// Experts per cluster.
    uint32_t per;
    uint32_t topk;
    uint32_t rank;
    uint32_t inner;
    uint32_t unused;
} ExpandInt4Params;
