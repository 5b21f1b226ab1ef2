// The matrices of clustered experts, written out.
//
// Sectors of global memory that are requested, for 16-bit elements: an expert's base once, its a once for 4 rows, an
// element of b for every 256 columns; w twice, in halves of sectors.
#pragma once

#include "common/abi.h"

#define RESIDUAL_VARIANTS(V) V(F32) V(BF16) V(F16)

/// w[e, o] = base[g, o] + sum over q of b[e, o, q] a[e, q], in f32, for expert e, number k of cluster g. Parameters of
/// `moe_residual_*`; launched by the tile `moe_residual_launch` with ceil(rows / tile.rows) blocks along x,
/// min(ceil(columns / tile.columns), 65535) along y and one along z for each expert.
typedef struct ResidualParams {
    /// [clusters, rows, columns]
    uint64_t base;
    /// [clusters, experts of a cluster, rank, columns]
    uint64_t a;
    /// [clusters, experts of a cluster, rows, rank]
    uint64_t b;
    /// [experts, rows, columns], f32, without gaps between rows; a multiple of 16
    uint64_t w;
    uint64_t base_cluster_stride;
    uint64_t base_row_stride;
    uint64_t a_cluster_stride;
    uint64_t a_expert_stride;
    uint64_t a_row_stride;
    uint64_t b_cluster_stride;
    uint64_t b_expert_stride;
    uint64_t b_row_stride;
    /// A multiple of 4.
    uint64_t w_stride;
    uint32_t rows;
    uint32_t columns;
    uint32_t rank;
    /// Experts of a cluster.
    uint32_t per;
} ResidualParams;
