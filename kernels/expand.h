// The per-slot part of clustered experts. For every slot (t, e) with weight w, r the row of token t in cluster order,
// K = experts / clusters and i = e mod K:
//     (g | u) = (gate | up)_r + P_re B_e^T,   h = w silu(g) u,   hbar_r = sum over the slots of h,   Q_re = h A2_e^T
// and the gradient of that. `bp` is [gate | up | P], P_re from column 2 inner + 2 rank i; `hq` is [hbar | Q], Q_re from
// column inner + rank i.
//
// Sectors of global memory that the kernels for whole vectors request, for 16-bit elements and ranks of at least 16 (r, of
// fewer) in chunks of 16. A fragment is 16 rows of a block, a strip 32 columns; an occurrence is an expert that some row
// of a fragment has in a slot.
//     expand              a fragment and strip 96 (gate, up, hbar); a slot and chunk of it 32, and 16 once (P; Q);
//                         an occurrence, strip and chunk 64 + 2 r (B, A2)
//     expand_backward     160 (gate, up, twice; dhbar); 48, and 32 once (P, R; dP); 128 + 2 r (B, twice; A2)
//     expand_factors      for 16 slots, a strip and a chunk 120 (gate, up, dhbar; the rows of slots), and for every chunk
//                         112 + 2 r (P, R, B, A2); an expert, a strip and 16 ranks 384 (dB, dA2)
//     expand_fold         2 for every warp of an expert with one piece
// Besides, rows write zeros for the experts that they did not choose, and find their slots: 2 sectors a slot, backward 3.
#pragma once

#include "common/abi.h"

#define EXPAND_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Parameters of `moe_expand_{tall,flat,any}_*`. The grid is ceil(tokens / tile.rows) + clusters blocks. `tall` and
/// `flat` want all addresses and strides of `bp`, `b`, `a2` and `hq` to be multiples of 16 bytes, inner and rank
/// multiples of 8. topk is at most 16, and topk ceil(rank / 16) at most tile.columns, which says how many Q of 16 ranks
/// a row may have.
typedef struct ExpandParams {
    /// [tokens, 2 inner + 2 K rank]
    uint64_t bp;
    /// [experts, 2 inner, rank]
    uint64_t b;
    /// [experts, rank, inner]
    uint64_t a2;
    /// [tokens, topk], f32
    uint64_t weight;
    /// [tokens, inner + K rank]
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
    uint64_t b_strides[2];
    uint64_t a2_strides[2];
    uint64_t weight_stride;
    uint64_t hq_stride;
    uint32_t clusters;
    /// Experts per cluster.
    uint32_t per;
    uint32_t topk;
    uint32_t rank;
    uint32_t inner;
    uint32_t unused;
} ExpandParams;

/// The gradient of `bp`, in place, and of `weight`: with R_re the columns of Q in dhq, dh = dhbar + R_re A2_e,
///     dz = w dh (silu'(g) u | silu(g)),   (dgate | dup)_r = sum over the slots of dz,   dP_re = dz B_e,
///     dweight = <dh, silu(g) u>.
/// Parameters of `moe_expand_backward_{tall,flat,any}_*`; grid, alignment and limits as for the forward.
typedef struct ExpandBackwardParams {
    /// [tokens, 2 inner + 2 K rank]: [gate | up | P] on entry, its gradient on return
    uint64_t bp;
    /// [experts, 2 inner, rank]
    uint64_t b;
    /// [experts, rank, inner]
    uint64_t a2;
    /// [tokens, topk], f32
    uint64_t weight;
    /// [tokens, inner + K rank]: the gradient of [hbar | Q]
    uint64_t dhq;
    /// [tokens, topk], f32, overwritten
    uint64_t dweight;
    /// [clusters + 1], u32
    uint64_t cluster_offsets;
    /// [tokens], u32
    uint64_t token_of;
    /// [experts + 1], u32
    uint64_t expert_offsets;
    /// [tokens, topk], u32
    uint64_t place;
    uint64_t bp_stride;
    uint64_t b_strides[2];
    uint64_t a2_strides[2];
    uint64_t weight_stride;
    uint64_t dhq_stride;
    uint64_t dweight_stride;
    uint32_t clusters;
    uint32_t per;
    uint32_t topk;
    uint32_t rank;
    uint32_t inner;
    uint32_t unused;
} ExpandBackwardParams;

/// The gradients of the factors, from [gate | up | P] as it was before the gradient replaced it:
///     dB_e = sum over the slots of e of dz^T P_re,   dA2_e = sum of R_re^T h.
/// A piece is at most tile.rows slots of one expert. An expert of one piece is written to `db` and `da2`; the sums of
/// more pieces go to `partial`, in order of expert and piece, for `moe_expand_fold`. Parameters of
/// `moe_expand_factors_*` and `moe_expand_factors_any_*` (no wishes for alignment); the grid is
/// (topk tokens / tile.rows + experts, ceil(inner / tile.columns), ceil(rank / 16)) blocks.
typedef struct ExpandFactorsParams {
    /// [tokens, 2 inner + 2 K rank]
    uint64_t bp;
    /// [experts, 2 inner, rank]
    uint64_t b;
    /// [experts, rank, inner]
    uint64_t a2;
    /// [tokens, topk], f32
    uint64_t weight;
    /// [tokens, inner + K rank]
    uint64_t dhq;
    /// [experts, 2 inner, rank], f32
    uint64_t db;
    /// [experts, rank, inner], f32
    uint64_t da2;
    /// [pieces, 3 inner rank], f32: dB, then dA2, contiguous
    uint64_t partial;
    /// [experts + 1], u32
    uint64_t expert_offsets;
    /// [tokens topk], u32: the choice of each slot in expert order
    uint64_t choice_of;
    /// [tokens], u32: the row of each token
    uint64_t row_of;
    uint64_t bp_stride;
    uint64_t b_strides[2];
    uint64_t a2_strides[2];
    uint64_t weight_stride;
    uint64_t dhq_stride;
    uint64_t db_strides[2];
    uint64_t da2_strides[2];
    uint32_t experts;
    uint32_t per;
    uint32_t topk;
    uint32_t rank;
    uint32_t inner;
    /// 1: add to db and da2; 0: overwrite them
    uint32_t accumulate;
} ExpandFactorsParams;

/// db_e and da2_e of the experts that have no piece, or several: [themselves +] the sum of their pieces, in order.
/// Parameters of `moe_expand_fold`; the grid is (experts, min(ceil(3 inner rank / tile.columns), 65535)) blocks.
typedef struct ExpandFoldParams {
    /// [experts, 2 inner, rank], f32
    uint64_t db;
    /// [experts, rank, inner], f32
    uint64_t da2;
    /// [pieces, 3 inner rank], f32
    uint64_t partial;
    /// [experts + 1], u32
    uint64_t expert_offsets;
    uint64_t db_strides[2];
    uint64_t da2_strides[2];
    uint32_t experts;
    uint32_t rank;
    uint32_t inner;
    uint32_t accumulate;
} ExpandFoldParams;
