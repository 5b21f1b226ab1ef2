// INT4 weights: how they lie in memory, and the way to them and back. The drawing is in src/int4.rs.
//
// Sectors of global memory that are requested with rows at multiples of 16 bytes: matrices and words once (a matrix with one
// scale a row or less is read twice); scales and zero-points four times when they are written, for four rows of a lane;
// once for every 32 columns when they are read.
#pragma once

#include "common/abi.h"

#define INT4_VARIANTS(V) V(F32) V(BF16) V(F16)

/// Packed weights [groups, out, in]: w = scale (q - zero), one scale and zero-point a block of a row. Rows go in strips of
/// 32 (`strips` = ceil(out / 32)), columns in steps of 32 (`steps` = ceil(in / 32)). The addresses are multiples of 16.
typedef struct Int4Weights {
    /// [groups, strips, steps, 32, 4], u32 of 8 values each
    uint64_t words;
    /// [groups, strips, blocks, 32], bf16; [groups, 32], equal in a group, with `per_matrix`
    uint64_t scales;
    /// As `scales`, u8; 0 means 8 everywhere
    uint64_t zeros;
    uint32_t groups;
    uint32_t outputs;
    uint32_t inputs;
    /// Blocks of a row
    uint32_t blocks;
    /// A block has 2^shift steps; 31: all of them
    uint32_t shift;
    /// 1: one scale and zero-point a matrix (and `blocks` is 1, `shift` 31); 0: the rows have their own
    uint32_t per_matrix;
} Int4Weights;

/// Matrices [groups, out, in] in plain memory: row o, column i of group g lies at element
/// g group + (o / rows) part + (o % rows) row + i column. Either `row` or `column` is 1.
typedef struct Int4Matrices {
    uint64_t address;
    uint64_t group;
    uint64_t part;
    uint64_t row;
    uint64_t column;
    /// Rows of a part, at least 1
    uint32_t rows;
    uint32_t unused;
} Int4Matrices;

/// w = quantised x. Parameters of `moe_quantize_int4_*`; a grid of one dimension: blocks of a row are dealt to the warps of
/// ceil(groups strips blocks / moe_quantize_int4_launch.rows) blocks; with shift 31 a block of threads takes a strip, with
/// `per_matrix` a matrix.
typedef struct QuantizeInt4Params {
    Int4Weights w;
    Int4Matrices x;
} QuantizeInt4Params;

/// y = scale (q - zero), rounded as src/int4.rs says. Parameters of `moe_dequantize_int4_*`; a grid of one dimension: steps
/// of strips are dealt to the warps of ceil(groups strips steps / moe_dequantize_int4_launch.rows) blocks.
typedef struct DequantizeInt4Params {
    Int4Weights w;
    Int4Matrices y;
} DequantizeInt4Params;

/// y = dequantised quantised x, nothing packed. Parameters of `moe_fake_quant_int4_*`; the grid of `moe_quantize_int4_*`.
typedef struct FakeQuantInt4Params {
    /// No addresses; `zeros` is 0 if symmetric, else 1
    Int4Weights w;
    Int4Matrices x;
    Int4Matrices y;
} FakeQuantInt4Params;
