// The gradients of the factors: see moe_expand_factors_* and moe_expand_fold in expand.h.
#pragma once

#include "expand_forward.cuh"

/// Most slots of a piece: fixed, so that the bits do not depend on the device.
constexpr uint32_t PIECE = 1024;
/// Warps of a block; each has a strip.
constexpr uint32_t FACTOR_WARPS = 4;
constexpr uint32_t FOLD_THREADS = 256;

/// What a warp holds of 16 slots.
template <class T>
struct FactorTiles {
    Tile<T, 16, RANKS> gate_p;  // [slots, ranks]
    Tile<T, 16, RANKS> up_p;
    Tile<T, 16, RANKS> r;
    Tile<T, 16, STRIP> dgate;  // [slots, columns]
    Tile<T, 16, STRIP> dup;
    Tile<T, 16, STRIP> h;
};

/// A row of 16 ranks of a tile, by a lane that has half of it.
template <bool WHOLE, class T>
__device__ void fill_ranks(Tile<T, 16, RANKS>& tile, const T* from, uint32_t count) {
    const uint32_t row = lane_id() / 2, first = lane_id() % 2 * LANE;
    T v[LANE];
    read<WHOLE>(v, from + first, left(count, first));
#pragma unroll
    for (uint32_t i = 0; i < LANE; i += WIDE<T>) {
        Vec<T, WIDE<T>> part;
#pragma unroll
        for (uint32_t j = 0; j < WIDE<T>; ++j) {
            part.at[j] = v[i + j];
        }
        st_shared_v4(shared_address(tile.chunk(row, (first + i) / WIDE<T>)), bits_as<uint4>(part));
    }
}

/// DEPTH ranks from `rank` on of a tile, as `load_ranks` has them in registers.
template <class T>
__device__ typename Mma<T>::A tile_ranks(const Tile<T, 16, RANKS>& tile, uint32_t rank) {
    if constexpr (sizeof(T) == 2) {
        const uint32_t row = lane_id() / 4, chunk = lane_id() % 4 / 2, half = lane_id() % 2 * LANE_RANKS;
        const Vec<T, 4> a = load<4>(tile.chunk(row, chunk) + half), b = load<4>(tile.chunk(row + 8, chunk) + half);
        return {{pair(a.at[0], a.at[1]), pair(b.at[0], b.at[1]), pair(a.at[2], a.at[3]), pair(b.at[2], b.at[3])}};
    } else {
        return Mma<T>::load_a(tile, 0, rank);
    }
}

/// The eight columns of a lane's row, rounded, into a tile.
template <class T>
__device__ void store_strip(Tile<T, 16, STRIP>& tile, uint32_t half, const float (&x)[LANE]) {
#pragma unroll
    for (uint32_t i = 0; i < LANE; i += WIDE<T>) {
        Vec<T, WIDE<T>> v;
#pragma unroll
        for (uint32_t j = 0; j < WIDE<T>; ++j) {
            v.at[j] = rounded<T>(x[i + j]);
        }
        const uint32_t column = lane_id() % 4 * LANE + i;
        st_shared_v4(shared_address(tile.chunk(lane_id() / 4 + half * 8, column / WIDE<T>)), bits_as<uint4>(v));
    }
}

/// sums [16 M, 16 N] += a^T b for a: [16 slots, 16 M], b: [16 slots, 16 N].
template <uint32_t M, uint32_t N, class T, class TileA, class TileB>
__device__ void multiply_trans(Sums (&sums)[M][2 * N], const TileA& a, const TileB& b) {
#pragma unroll
    for (uint32_t k = 0; k < 16; k += Mma<T>::K) {
#pragma unroll
        for (uint32_t n = 0; n < N; ++n) {
            typename Mma<T>::B columns[2];
            Mma<T>::load_b_trans(columns, b, n * 16, k);
#pragma unroll
            for (uint32_t m = 0; m < M; ++m) {
                const auto rows = Mma<T>::load_a_trans(a, m * 16, k);
                Mma<T>::multiply(sums[m][2 * n], rows, columns[0]);
                Mma<T>::multiply(sums[m][2 * n + 1], rows, columns[1]);
            }
        }
    }
}

/// Writes, or adds, sums to rows `row..` and columns `column..` of a matrix, as far as it goes.
template <uint32_t M, uint32_t N>
__device__ void put(const Sums (&sums)[M][N], float* matrix, uint64_t stride, uint32_t row, uint32_t rows,
                    uint32_t column, uint32_t columns, bool add) {
#pragma unroll
    for (uint32_t m = 0; m < M; ++m) {
#pragma unroll
        for (uint32_t n = 0; n < N; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t r = row + m * 16 + Sums::row(i), c = column + n * 8 + Sums::col(i);
                if (r < rows && c < columns) {
                    float* to = matrix + r * stride + c;
                    *to = (add ? *to : 0.0f) + sums[m][n].at[i];
                }
            }
        }
    }
}

/// A slot of an expert.
struct FactorSlot {
    uint32_t row;  // NONE without a slot
    float weight;

    __device__ static FactorSlot read(const ExpandFactorsParams& p, uint32_t index, uint32_t end) {
        if (index >= end) {
            return {NONE, 0.0f};
        }
        const uint32_t choice = array_of<const uint32_t>(p.choice_of)[index], token = choice / p.topk;
        return {array_of<const uint32_t>(p.row_of)[token],
                row_of<const float>(p.weight, p.weight_stride, token)[choice % p.topk]};
    }
};

// Formula: dB_e[j, k] = sum over the slots of e of dg[j] Pgate[k], dB_e[inner + j, k] of du[j] Pup[k],
//          dA2_e[k, j] of R[k] h[j], with dg, du and h as in the gradient to the rows.
// Mapping: block (x, y, z) -> piece x, FACTOR_WARPS strips from 4 y on, ranks 16 z ... 16 z + 15; warp -> strip.
// Idea: in expert order the 16 rows of a product have one expert, so nothing is masked, and the sums of a strip stay in
//       registers over the whole piece. dg, du and h are computed again rather than kept: they are topk x 3 inner a
//       token, and what they come from is read anyway. They go through shared memory to turn rows into the depth of a
//       product. A warp shares nothing with the others.
template <class T, bool WHOLE>
__device__ void expand_factors(const ExpandFactorsParams& p, FactorTiles<T>& tiles) {
    Run piece;
    const uint32_t strip = (blockIdx.y * FACTOR_WARPS + warp_id()) * STRIP;
    if (strip >= p.inner ||
        !find_run(array_of<const uint32_t>(p.expert_offsets), p.experts, PIECE, blockIdx.x, piece)) {
        return;
    }
    const uint32_t e = piece.group, local = e % p.per, columns = p.inner - strip;
    const uint32_t column = strip + lane_id() % 4 * LANE, my_rank = blockIdx.z * RANKS;
    const uint32_t chunks = ceil_div(p.rank, RANKS);
    const T* b = row_of<const T>(p.b, p.b_strides[0], e) + strip * p.b_strides[1];
    const T* up_b = b + p.inner * p.b_strides[1];
    const T* a2 = row_of<const T>(p.a2, p.a2_strides[0], e) + strip;
    Sums dgate_b[2][2], dup_b[2][2], da2[1][4];
    FactorSlot next = FactorSlot::read(p, piece.begin + lane_id() % 16, piece.end);
    for (uint32_t first = piece.begin; first < piece.end; first += 16) {
        const FactorSlot slot = next;
        next = FactorSlot::read(p, first + 16 + lane_id() % 16, piece.end);
        float w[2];
        Sums gate[4], up[4], from_hbar[4];
        {
            T gate_base[2][LANE], up_base[2][LANE], dhbar[2][LANE];
#pragma unroll
            for (uint32_t half = 0; half < 2; ++half) {
                const int lane = int(lane_id() / 4 + half * 8);
                const uint32_t row = __shfl_sync(ALL_LANES, slot.row, lane);
                w[half] = __shfl_sync(ALL_LANES, slot.weight, lane);
                const uint32_t count = row != NONE ? left(p.inner, column) : 0;
                const T* bp = row_of<const T>(p.bp, p.bp_stride, row != NONE ? row : 0) + column;
                read<WHOLE>(gate_base[half], bp, count);
                read<WHOLE>(up_base[half], bp + p.inner, count);
                read<WHOLE>(dhbar[half], row_of<const T>(p.dhq, p.dhq_stride, row != NONE ? row : 0) + column, count);
            }
            start(gate, gate_base[0], gate_base[1]);
            start(up, up_base[0], up_base[1]);
            start(from_hbar, dhbar[0], dhbar[1]);
        }
        // The chunk of this block comes last: its ranks stay in the tiles.
        const uint32_t rank_row = __shfl_sync(ALL_LANES, slot.row, int(lane_id() / 2));
        const T* own_p = row_of<const T>(p.bp, p.bp_stride, rank_row != NONE ? rank_row : 0) + 2 * p.inner +
                         2 * p.rank * local;
        const T* own_r =
            row_of<const T>(p.dhq, p.dhq_stride, rank_row != NONE ? rank_row : 0) + p.inner + p.rank * local;
        for (uint32_t chunk = 1; chunk <= chunks; ++chunk) {
            const uint32_t rank = (blockIdx.z + chunk) % chunks * RANKS;
            const uint32_t count = rank_row != NONE ? p.rank - rank : 0;
            __syncwarp();
            fill_ranks<WHOLE>(tiles.gate_p, own_p + rank, count);
            fill_ranks<WHOLE>(tiles.up_p, own_p + p.rank + rank, count);
            fill_ranks<WHOLE>(tiles.r, own_r + rank, count);
            __syncwarp();
#pragma unroll 1
            for (uint32_t k = 0; k < RANKS; k += DEPTH<T>) {
                const uint32_t ranks = left(p.rank, rank + k);
                RankByColumn<T> factor;
                factor.template load<WHOLE>(b + rank + k, p.b_strides[1], columns, ranks);
                multiply(gate, tile_ranks(tiles.gate_p, k), factor);
                factor.template load<WHOLE>(up_b + rank + k, p.b_strides[1], columns, ranks);
                multiply(up, tile_ranks(tiles.up_p, k), factor);
                factor.template load_trans<WHOLE>(a2 + (rank + k) * p.a2_strides[1], p.a2_strides[1], columns, ranks);
                multiply(from_hbar, tile_ranks(tiles.r, k), factor);
            }
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            float dg[LANE], du[LANE], h[LANE];
#pragma unroll
            for (uint32_t c = 0; c < LANE; ++c) {
                const float g = sum_at(gate, half, c), u = sum_at(up, half, c);
                const float s = sigmoid<T>(g), silu = g * s, wd = w[half] * sum_at(from_hbar, half, c);
                dg[c] = wd * u * (s + silu * (1.0f - s));
                du[c] = wd * silu;
                h[c] = w[half] * (silu * u);
            }
            store_strip(tiles.dgate, half, dg);
            store_strip(tiles.dup, half, du);
            store_strip(tiles.h, half, h);
        }
        __syncwarp();
        multiply_trans<2, 1, T>(dgate_b, tiles.dgate, tiles.gate_p);
        multiply_trans<2, 1, T>(dup_b, tiles.dup, tiles.up_p);
        multiply_trans<1, 2, T>(da2, tiles.r, tiles.h);
    }
    const uint64_t half = uint64_t(p.inner) * p.rank;
    float* db = array_of<float>(p.partial) + piece.index * 3 * half;  // [2 inner, rank], then [rank, inner]
    float* da = db + 2 * half;
    uint64_t db_stride = p.rank, da_stride = p.inner;
    const bool alone = piece.of_group == 1, add = alone && p.accumulate != 0;
    if (alone) {
        db = row_of<float>(p.db, p.db_strides[0], e);
        da = row_of<float>(p.da2, p.da2_strides[0], e);
        db_stride = p.db_strides[1];
        da_stride = p.da2_strides[1];
    }
    put(dgate_b, db, db_stride, strip, p.inner, my_rank, p.rank, add);
    put(dup_b, db + p.inner * db_stride, db_stride, strip, p.inner, my_rank, p.rank, add);
    put(da2, da, da_stride, my_rank, p.rank, strip, p.inner, add);
}

// Formula: db_e = [db_e +] sum over the pieces of e of partial, and da2_e, where e has no piece, or several.
// Mapping: block -> expert and FOLD_THREADS elements of its [db | da2]; thread -> element.
// Idea: an expert of one piece, as most are, has been written already.
__device__ inline void expand_fold(const ExpandFoldParams& p, uint32_t (&room)[FOLD_THREADS / WARP]) {
    const uint32_t* offsets = array_of<const uint32_t>(p.expert_offsets);  // [experts + 1]
    const uint32_t e = blockIdx.x;
    const uint32_t pieces = ceil_div(offsets[e + 1] - offsets[e], PIECE);
    if (pieces == 1) {
        return;
    }
    uint32_t before = 0;
    for (uint32_t other = threadIdx.x; other < e; other += FOLD_THREADS) {
        before += ceil_div(offsets[other + 1] - offsets[other], PIECE);
    }
    before = block_sum<FOLD_THREADS>(before, room);
    const uint64_t half = uint64_t(p.inner) * p.rank;
    const float* partial = array_of<const float>(p.partial) + before * 3 * half;  // [pieces, 3 inner rank]
    for (uint64_t i = uint64_t(blockIdx.y) * FOLD_THREADS + threadIdx.x; i < 3 * half;
         i += uint64_t(gridDim.y) * FOLD_THREADS) {
        const bool is_db = i < 2 * half;
        const uint64_t j = is_db ? i : i - 2 * half;
        const uint32_t width = is_db ? p.rank : p.inner;
        float* to = is_db ? row_of<float>(p.db, p.db_strides[0], e) + j / width * p.db_strides[1] + j % width
                          : row_of<float>(p.da2, p.da2_strides[0], e) + j / width * p.da2_strides[1] + j % width;
        float sum = p.accumulate != 0 ? *to : 0.0f;
        for (uint32_t piece = 0; piece < pieces; ++piece) {
            sum += partial[piece * 3 * half + i];
        }
        *to = sum;
    }
}
