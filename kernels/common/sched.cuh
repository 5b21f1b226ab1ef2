// Which tile of which product a block computes next: the only code that knows about groups.
//
// Tiles have linear ids, group by group; block b of a grid of any size takes ids b, b + blocks, b + 2 blocks, ... A
// tile's result does not depend on who computes it, so results do not depend on the grid. Everything here is the same
// in all lanes of a warp; nothing is shared between warps.
#pragma once

#include "common/math.cuh"

/// Row tiles that lie together in the order of tiles: blocks that run at the same time then read at most so many row
/// tiles of one operand, and few column tiles of the other, which stay in L2.
constexpr uint32_t SUPER = 8;

/// A place in a grid of tiles.
struct TileAt {
    uint32_t row;
    uint32_t column;
};

/// Tile number `index` of `rows` x `columns` tiles: bands of SUPER rows; in a band column by column, rows first.
__device__ inline TileAt rasterised(uint32_t index, uint32_t rows, uint32_t columns) {
    const uint32_t band = index / (SUPER * columns);
    const uint32_t height = min(SUPER, rows - band * SUPER);
    const uint32_t inside = index - band * SUPER * columns;
    return {band * SUPER + inside % height, inside / height};
}

/// Segments of rows, on the device.
struct Segments {
    const uint32_t* offsets;  // [groups + 1], or null: one group with all rows
    uint32_t groups;
    uint32_t rows;

    __device__ uint32_t begin(uint32_t group) const {
        return offsets != nullptr ? offsets[group] : group == 0 ? 0 : rows;
    }
};

/// A tile of a product whose rows are cut into segments.
struct RowTile {
    uint32_t group;
    /// First row, and how many there are.
    uint32_t row;
    uint32_t rows;
    /// First column, and how many there are.
    uint32_t column;
    uint32_t columns;
};

/// Tiles of at most `ROWS` rows, all of one group, and `COLUMNS` columns. Each lane knows the number of tiles of one
/// group of a window of 32, as sums over the window: a ballot finds the group of a tile.
template <uint32_t ROWS, uint32_t COLUMNS>
class RowTiles {
public:
    __device__ RowTiles(Segments segments_, uint32_t columns_)
        : segments(segments_), columns(columns_), column_tiles(ceil_div(columns_, COLUMNS)), wanted(blockIdx.x) {
        enter();
    }

    /// The next tile of this block; false if there is none.
    __device__ bool next(RowTile& tile) {
        uint32_t lanes = __ballot_sync(ALL_LANES, wanted < last);
        while (lanes == 0) {
            wanted -= __shfl_sync(ALL_LANES, last, WARP - 1);
            window += WARP;
            if (window >= segments.groups) {
                return false;
            }
            enter();
            lanes = __ballot_sync(ALL_LANES, wanted < last);
        }
        const int lane = __ffs(lanes) - 1;
        const uint32_t first_row = __shfl_sync(ALL_LANES, begin, lane);
        const uint32_t group_rows = __shfl_sync(ALL_LANES, size, lane);
        const uint32_t group_tiles = ceil_div(group_rows, ROWS) * column_tiles;
        const uint32_t index = wanted - (__shfl_sync(ALL_LANES, last, lane) - group_tiles);
        const TileAt at = rasterised(index, ceil_div(group_rows, ROWS), column_tiles);
        tile.group = window + lane;
        tile.row = first_row + at.row * ROWS;
        tile.rows = min(ROWS, group_rows - at.row * ROWS);
        tile.column = at.column * COLUMNS;
        tile.columns = min(COLUMNS, columns - tile.column);
        wanted += gridDim.x;
        return true;
    }

private:
    /// Reads the groups of the window.
    __device__ void enter() {
        const uint32_t group = min(window + lane_id(), segments.groups - 1);
        const bool inside = window + lane_id() < segments.groups;
        begin = segments.begin(group);
        size = inside ? segments.begin(group + 1) - begin : 0;
        last = sum_up_to_lane(ceil_div(size, ROWS) * column_tiles);
    }

    Segments segments;
    uint32_t columns;
    uint32_t column_tiles;
    /// Id of the next tile of this block, counted from the first of the window.
    uint32_t wanted;
    /// Group of lane 0.
    uint32_t window = 0;
    /// Of this lane's group: first row, rows, and the tiles of the window up to and with it.
    uint32_t begin;
    uint32_t size;
    uint32_t last;
};

/// A tile of a matrix of every group.
struct MatrixTile {
    uint32_t group;
    /// First row of the matrix, and how many there are.
    uint32_t row;
    uint32_t rows;
    /// First column, and how many there are.
    uint32_t column;
    uint32_t columns;
    /// The segment of the group.
    uint32_t begin;
    uint32_t depth;
};

/// Tiles of at most `ROWS` x `COLUMNS` of one matrix a group; a group without rows has its tiles too.
template <uint32_t ROWS, uint32_t COLUMNS>
class MatrixTiles {
public:
    __device__ MatrixTiles(Segments segments_, uint32_t rows_, uint32_t columns_)
        : segments(segments_),
          rows(rows_),
          columns(columns_),
          row_tiles(ceil_div(rows_, ROWS)),
          column_tiles(ceil_div(columns_, COLUMNS)),
          wanted(blockIdx.x) {}

    /// The next tile of this block; false if there is none.
    __device__ bool next(MatrixTile& tile) {
        const uint32_t of_group = row_tiles * column_tiles;
        tile.group = wanted / of_group;
        if (tile.group >= segments.groups) {
            return false;
        }
        const TileAt at = rasterised(wanted % of_group, row_tiles, column_tiles);
        tile.row = at.row * ROWS;
        tile.rows = min(ROWS, rows - tile.row);
        tile.column = at.column * COLUMNS;
        tile.columns = min(COLUMNS, columns - tile.column);
        tile.begin = segments.begin(tile.group);
        tile.depth = segments.begin(tile.group + 1) - tile.begin;
        wanted += gridDim.x;
        return true;
    }

private:
    Segments segments;
    uint32_t rows;
    uint32_t columns;
    uint32_t row_tiles;
    uint32_t column_tiles;
    uint32_t wanted;
};
