// Dot products between all rows of a matrix with few rows and very many columns.
#pragma once

#include "similarity.h"

#include "common/mma.cuh"

/// Sixteen rows and 32 bytes of k, as ldmatrix brings them. With g = lane / 4 and t = lane % 4, the registers hold four
/// bytes each, at byte 4t of: row g, first half; row g + 8, first half; row g, second half; row g + 8, second half.
/// That is an A fragment, and registers {h, h + 2} are the B fragment whose columns are rows 8h..: a strip serves as
/// either operand, in all dtypes.
template <class T>
struct Strip {
    /// Products that a product of strips takes.
    static constexpr uint32_t PRODUCTS = 1;

    uint32_t at[4];

    __device__ Strip(const uint32_t (&raw)[4]) : at{raw[0], raw[1], raw[2], raw[3]} {}

    /// d[h] += a b_h^T, where b_h are rows 8h.. of b.
    static __device__ void multiply(Sums (&d)[2], const Strip& a, const Strip& b) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            mma_m16n8k16<T>(d[h].at, a.at, {b.at[h], b.at[h + 2]});
        }
    }
};

/// An f32 is the nearest TF32 value plus the nearest one to the rest.
template <>
struct Strip<F32> {
    static constexpr uint32_t PRODUCTS = 3;

    uint32_t at[4];
    uint32_t rest[4];

    __device__ Strip(const uint32_t (&raw)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float x = __uint_as_float(raw[i]);
            at[i] = cvt_rna_tf32(x);
            rest[i] = cvt_rna_tf32(x - __uint_as_float(at[i]));
        }
    }

    /// To 2^-22 of each product: rest times rest is left out, and the rest of a rest.
    static __device__ void multiply(Sums (&d)[2], const Strip& a, const Strip& b) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            mma_m16n8k8_tf32(d[h].at, a.rest, {b.at[h], b.at[h + 2]});
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            mma_m16n8k8_tf32(d[h].at, a.at, {b.rest[h], b.rest[h + 2]});
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            mma_m16n8k8_tf32(d[h].at, a.at, {b.at[h], b.at[h + 2]});
        }
    }
};

/// How a block computes SIDE x SIDE products: WARPS_M x WARPS_N warps share the tile, WARPS_K of each share the
/// columns. A stage is CHUNKS chunks of each row.
template <class T_, uint32_t SIDE_, uint32_t CHUNKS_, uint32_t WARPS_M_, uint32_t WARPS_N_, uint32_t WARPS_K_>
struct GramTile {
    using T = T_;
    static constexpr uint32_t SIDE = SIDE_;
    static constexpr uint32_t CHUNKS = CHUNKS_;
    static constexpr uint32_t WARPS_N = WARPS_N_;
    static constexpr uint32_t WARPS_K = WARPS_K_;
    static constexpr uint32_t WARPS = WARPS_M_ * WARPS_N * WARPS_K;
    static constexpr uint32_t THREADS = WARPS * WARP;
    static constexpr uint32_t STAGES = 3;
    /// Strips of a warp along the rows and along the columns of the products.
    static constexpr uint32_t M = SIDE / 16 / WARPS_M_;
    static constexpr uint32_t N = SIDE / 16 / WARPS_N;
    /// Products of a stage along k, for one warp.
    static constexpr uint32_t DEPTH = CHUNKS / 2 / WARPS_K;
    /// Stages between two flushes: at most 64 additions in a chain, because tensor cores cut off what a sum has no
    /// room for, and those errors all go one way.
    static constexpr uint32_t FLUSH = 64 / (DEPTH * Strip<T>::PRODUCTS);
    /// Whether a warp has whole rows of products: then the tile is the only one, and lies on the diagonal.
    static constexpr bool ALONE = WARPS_M_ * WARPS_N == 1;
    /// Floats from row to row where warps meet: pairs of a sum lie in different banks.
    static constexpr uint32_t PITCH = SIDE + 8;

    using Rows = Tile<T, SIDE, CHUNKS * WIDE<T>>;
    struct Stage {
        Rows side[ALONE ? 1 : 2];  // the rows of the tile; off the diagonal, its columns
    };
    union Smem {
        Stage ring[STAGES];
        float sums[SIDE * PITCH];  // [SIDE, PITCH]: where warps that share products meet
    };
    static_assert(THREADS % CHUNKS == 0, "a thread copies one column of chunks");
    static_assert(CHUNKS % (2 * WARPS_K) == 0 && SIDE % (16 * WARPS_M_) == 0 && SIDE % (16 * WARPS_N) == 0, "whole");
};

/// A quarter of k for each of four warps: as parts of a tile, warps would idle when experts are few.
template <class T>
using SmallTile = GramTile<T, 64, 16, 1, 1, 4>;
template <class T>
using LargeTile = GramTile<T, 128, 8, 2, 4, 1>;

/// Position of a pair in the packed half of a symmetric matrix.
__device__ inline uint64_t packed(uint32_t i, uint32_t j) {
    return uint64_t(i) * (i + 1) / 2 + j;
}

/// A pair (i, j) with j <= i.
struct Pair {
    uint32_t i;
    uint32_t j;

    /// By its position: exact, because the roots of squares are.
    static __device__ Pair at(uint32_t position) {
        const uint32_t i = uint32_t((sqrt(8.0 * position + 1.0) - 1.0) / 2.0);
        return {i, uint32_t(position - packed(i, 0))};
    }
};

/// Part of a block in the products: experts `rows..` times experts `columns..`.
struct Part {
    uint32_t rows;
    uint32_t columns;
};

/// Enqueues the copies of CHUNKS chunks of k, from `chunk` on, of the experts from `first` on. What lies behind `end`
/// or the end of a row becomes zero; rows without an expert stay as they are.
template <class Tile, bool ALIGNED>
__device__ void bring(typename Tile::Rows& to, const GramParams& p, uint32_t first, uint32_t chunk, uint32_t end) {
    using T = typename Tile::T;
    const uint32_t mine = threadIdx.x % Tile::CHUNKS;
    const uint32_t chunks = ceil_div<uint32_t>(p.columns, WIDE<T>);  // of a row
    const uint32_t row = (chunk + mine) / chunks;
    const uint32_t column = (chunk + mine) % chunks * WIDE<T>;
    const uint32_t count = chunk + mine < end ? min(uint32_t(WIDE<T>), p.columns - column) : 0;
    const uint32_t experts = min(Tile::SIDE, p.experts - first);
    const T* from = row_of<const T>(p.x, p.expert_stride, first) + (count > 0 ? row * p.row_stride + column : 0);
    for (uint32_t r = threadIdx.x / Tile::CHUNKS; r < experts; r += Tile::THREADS / Tile::CHUNKS) {
        copy_chunk<ALIGNED>(to.chunk(r, mine), from + r * p.expert_stride, count);
    }
}

/// Zeros for the rows that `bring` never writes.
template <class Tile>
__device__ void clear(typename Tile::Rows& rows, uint32_t experts) {
    using T = typename Tile::T;
    for (uint32_t i = threadIdx.x + experts * Tile::CHUNKS; i < Tile::SIDE * Tile::CHUNKS; i += Tile::THREADS) {
        store(rows.chunk(i / Tile::CHUNKS, i % Tile::CHUNKS), Vec<T, WIDE<T>>{});
    }
}

/// What a warp computes: blocks of 16 x 16 products, each two sums wide.
template <class Tile>
struct WarpProducts {
    using T = typename Tile::T;
    static constexpr uint32_t M = Tile::M;
    static constexpr uint32_t N = Tile::N;

    uint32_t row;       // of the first product, in the tile
    uint32_t column;    // of the first product, in the tile
    uint32_t share;     // of k
    bool live[M];       // whether row strip i has experts, and products that are not above the diagonal
    Sums sum[M][N][2];  // since the last flush
    Sums total[M][N][2];

    /// For the tile of experts `rows..` times experts `columns..`.
    __device__ WarpProducts(uint32_t experts, uint32_t rows, uint32_t columns) {
        const uint32_t m = warp_id() / Tile::WARPS_K / Tile::WARPS_N;
        const uint32_t n = warp_id() / Tile::WARPS_K % Tile::WARPS_N;
        row = m * M * 16;
        column = (m % 2 == 0 ? n : Tile::WARPS_N - 1 - n) * N * 16;
        share = warp_id() % Tile::WARPS_K;
#pragma unroll
        for (uint32_t i = 0; i < M; ++i) {
            const uint32_t first = rows + row + 16 * i;
            live[i] = first < experts && first + 15 >= columns + column;
        }
    }

    /// Adds the products of a stage. While tensor cores multiply 32 bytes of k, the next 32 come from shared memory.
    __device__ void multiply_stage(const typename Tile::Rows& a, const typename Tile::Rows& b) {
        uint32_t rows[2][M][4];
        [[maybe_unused]] uint32_t columns[2][N][4];
        const uint32_t lane = lane_id();
        auto load_strips = [&](uint32_t depth) {
            const uint32_t chunk = 2 * (depth * Tile::WARPS_K + share) + lane / 16;
#pragma unroll
            for (uint32_t i = 0; i < M; ++i) {
                ldmatrix_x4(rows[depth % 2][i], shared_address(a.chunk(row + 16 * i + lane % 16, chunk)));
            }
            if constexpr (!Tile::ALONE) {
#pragma unroll
                for (uint32_t j = 0; j < N; ++j) {
                    ldmatrix_x4(columns[depth % 2][j], shared_address(b.chunk(column + 16 * j + lane % 16, chunk)));
                }
            }
        };
        load_strips(0);
#pragma unroll
        for (uint32_t depth = 0; depth < Tile::DEPTH; ++depth) {
            if (depth + 1 < Tile::DEPTH) {
                load_strips(depth + 1);
            }
            if constexpr (Tile::ALONE) {
                multiply(rows[depth % 2], rows[depth % 2]);
            } else {
                multiply(rows[depth % 2], columns[depth % 2]);
            }
        }
    }

    __device__ void multiply(const uint32_t (&rows)[M][4], const uint32_t (&columns)[N][4]) {
#pragma unroll
        for (uint32_t j = 0; j < N; ++j) {
            const Strip<T> b(columns[j]);
#pragma unroll
            for (uint32_t i = Tile::ALONE ? j : 0; i < M; ++i) {
                if (live[i]) {
                    Strip<T>::multiply(sum[i][j], rows[i], b);
                }
            }
        }
    }

    /// Moves the sums to the totals.
    __device__ void flush() {
        for_all([&](Sums& sum, Sums& total, uint32_t, uint32_t) {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                total.at[k] += sum.at[k];
            }
            sum = Sums();
        });
    }

    /// Calls `use(row, column, pair)` for pairs of neighbours of the totals, by the place of the first in the tile.
    template <class Use>
    __device__ void for_pairs(Use use) {
        for_all([&](const Sums&, const Sums& total, uint32_t first_row, uint32_t first_column) {
#pragma unroll
            for (int k = 0; k < 4; k += 2) {
                const Vec<float, 2> pair = {total.at[k], total.at[k + 1]};
                use(first_row + Sums::row(k), first_column + Sums::col(k), pair);
            }
        });
    }

private:
    /// Calls `use(sum, total, row, column)` for all sums, by the place of their first product in the tile.
    template <class Use>
    __device__ void for_all(Use use) {
#pragma unroll
        for (uint32_t i = 0; i < M; ++i) {
#pragma unroll
            for (uint32_t j = 0; j < (Tile::ALONE ? i + 1 : N); ++j) {
#pragma unroll
                for (uint32_t h = 0; h < 2; ++h) {
                    use(sum[i][j][h], total[i][j][h], row + 16 * i, column + 16 * j + 8 * h);
                }
            }
        }
    }
};

// Formula: partial[s, (i, j)] = sum over the columns of span s of x[i] x[j], for one tile of (i, j).
// Mapping: blockIdx.y -> span; blockIdx.x -> tile of the lower half, row by row; warp -> M x N blocks of 16 x 16
//          products, or all of them for a quarter of k.
// Idea: both operands of x x^T are rows of x, and a strip of x is either fragment: on the diagonal one tile in shared
//       memory serves both sides, and a small tile is read from it once. Blocks above the diagonal are left out. In a
//       large tile the lower warps' columns are mirrored, so that of the eight row strips of warps w and w + 4, which
//       share a tensor core, 6, 6, 4, 4 are live (. for two that are not):
//                  columns   0..    32..   64..   96..
//                  rows 0..  w0     w1 .   w2 ..  w3 ..
//                  rows 64.. w7     w6     w5     w4 .
// Memory: an expert's element is requested by the t = ceil(experts / SIDE) tiles of its span that have its row, which
//         are neighbours in the grid. For b bytes an element experts length b / 32 sectors are distinct and t times as
//         many requested (rows that start inside a sector add one each), plus spans experts (experts + 1) / 8 written.
//         Up to 128 experts that is one pass over memory.
template <class Tile, bool ALIGNED>
__device__ void gram(const GramParams& p, typename Tile::Smem& smem) {
    constexpr uint32_t STAGES = Tile::STAGES;
    constexpr uint32_t OTHER = Tile::ALONE ? 0 : 1;
    const Pair tile = Pair::at(blockIdx.x);
    const uint32_t first_row = tile.i * Tile::SIDE;
    const uint32_t first_column = tile.j * Tile::SIDE;
    const bool diagonal = Tile::ALONE || tile.i == tile.j;
    const uint32_t chunks = p.rows * ceil_div<uint32_t>(p.columns, WIDE<typename Tile::T>);  // of an expert
    const uint32_t begin = min(blockIdx.y * p.span, chunks);
    const uint32_t end = min(begin + p.span, chunks);
    const uint32_t steps = ceil_div(end - begin, Tile::CHUNKS);
    auto fetch = [&](uint32_t step) {
        if (step < steps) {
            typename Tile::Stage& stage = smem.ring[step % STAGES];
            const uint32_t chunk = begin + step * Tile::CHUNKS;
            bring<Tile, ALIGNED>(stage.side[0], p, first_row, chunk, end);
            if (!diagonal) {
                bring<Tile, ALIGNED>(stage.side[OTHER], p, first_column, chunk, end);
            }
        }
        cp_async_commit();
    };

    // Only the last rows of the matrix can be short of experts.
    for (uint32_t stage = 0; stage < STAGES; ++stage) {
        clear<Tile>(smem.ring[stage].side[0], min(Tile::SIDE, p.experts - first_row));
    }
    for (uint32_t step = 0; step < STAGES - 1; ++step) {
        fetch(step);
    }
    WarpProducts<Tile> products(p.experts, first_row, first_column);
    for (uint32_t step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1);  // into what step - 1 has read
        const typename Tile::Stage& stage = smem.ring[step % STAGES];
        products.multiply_stage(stage.side[0], stage.side[diagonal ? 0 : OTHER]);
        if (step % Tile::FLUSH == Tile::FLUSH - 1 || step + 1 == steps) {
            products.flush();
        }
    }

    double* partial = array_of<double>(p.partial) + blockIdx.y * packed(p.experts, 0);  // packed
    if constexpr (Tile::WARPS_K == 1) {
        products.for_pairs([&](uint32_t row, uint32_t column, const Vec<float, 2>& pair) {
            const uint32_t i = first_row + row;
#pragma unroll
            for (uint32_t k = 0; k < 2; ++k) {
                const uint32_t j = first_column + column + k;
                if (i < p.experts && j <= i) {
                    partial[packed(i, j)] = double(pair.at[k]);
                }
            }
        });
    } else {
        // One warp after the other, so that the order of the sum is fixed.
        for (uint32_t turn = 0; turn < Tile::WARPS_K; ++turn) {
            __syncthreads();
            if (products.share == turn) {
                products.for_pairs([&](uint32_t row, uint32_t column, Vec<float, 2> pair) {
                    float* sum = smem.sums + row * Tile::PITCH + column;
                    if (turn > 0) {
                        const Vec<float, 2> before = load<2>(sum);
                        pair = {before.at[0] + pair.at[0], before.at[1] + pair.at[1]};
                    }
                    store(sum, pair);
                });
            }
        }
        __syncthreads();
        for (uint32_t i = warp_id(); i < p.experts; i += Tile::WARPS) {
            for (uint32_t j = lane_id(); j <= i; j += WARP) {
                partial[packed(i, j)] = double(smem.sums[i * Tile::PITCH + j]);
            }
        }
    }
}
