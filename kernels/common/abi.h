// What the headers of the kernels share. C11, read by nvcc and by bindgen.
//
// An `XParams` holds, in this order and without padding: device addresses (the shape of what lies there above each;
// the last dimension is contiguous), 64-bit strides in elements, 64-bit sizes, 32-bit sizes, flags and factors.
// Elements are of the variant's dtype unless the comment says otherwise. No array may overlap another.
//
// Any address and stride that fit the element will do; with all of them multiples of 16 bytes a kernel moves 16
// bytes at a time.
#pragma once

#include <stdint.h>

/// How a kernel is launched, exported by its image as `moe_<name>_launch`, so that host and device agree.
///
/// A kernel over the rows of a matrix gets `threads` threads a block and a grid of
/// `(ceil(rows / tile.rows), min(ceil(columns / tile.columns), 65535))` blocks; the others say in their header what
/// grid they want.
typedef struct LaunchTile {
    /// Threads of a block.
    uint32_t threads;
    /// Rows of a block.
    uint32_t rows;
    /// Columns of a block; 0 if a block takes whole rows, and the grid has one dimension.
    uint32_t columns;
    /// Bytes of dynamic shared memory of a block.
    uint32_t shared;
} LaunchTile;
