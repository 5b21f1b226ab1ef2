// The per-slot part of clustered experts, from packed factors: expand.cu's forward with other loads.
#include "expand_int4.h"

#include "expand_forward.cuh"
#include "int4_pair.cuh"

using Tall = ExpandShape<4, 2, 8, true>;
using Flat = ExpandShape<1, 4, 8, true>;
using Any = ExpandShape<1, 1, 32, false>;

template <class Shape>
constexpr LaunchTile tile_of = {Shape::THREADS, Shape::ROWS, Shape::UNITS, sizeof(ExpandRoom<Shape>)};

extern "C" {
__constant__ LaunchTile moe_expand_int4_tall_launch = tile_of<Tall>;
__constant__ LaunchTile moe_expand_int4_flat_launch = tile_of<Flat>;
__constant__ LaunchTile moe_expand_int4_any_launch = tile_of<Any>;
}

/// The factors of a cluster, packed.
///
/// A strip is a step of the panels, so a fragment of 16 ranks of it is half a panel, 256 bytes, which a warp reads whole,
/// and every lane picks its nibbles. Since rows of an expert start at multiples of 8 (`WHOLE`), the four ranks of a lane are
/// the four words of a quad, and two ranks two of them. Codes are made into weights pair by pair; f32, and ranks or sizes
/// of which lanes have no whole quads, go weight by weight. Padding of panels stands for 0: only ranks have to be checked,
/// since behind those of an expert come the next one's.
template <class T, bool WHOLE, class Params>
struct PackedFactors {
    const Params& p;
    uint32_t cluster;

    __device__ uint32_t begin(uint32_t e) const {
        return p.rank * e;
    }
    __device__ uint32_t up_after() const {
        return p.rank * p.per;
    }

    __device__ void gate(RankByColumn<T>& to, uint32_t e, uint32_t strip, uint32_t rank) const {
        by_column(to, p.gate, e, strip, rank);
    }
    __device__ void up(RankByColumn<T>& to, uint32_t e, uint32_t strip, uint32_t rank) const {
        by_column(to, p.up, e, strip, rank);
    }

    __device__ void down(ColumnByRank<T>& to, uint32_t e, uint32_t strip, uint32_t rank, uint32_t part) const {
        const uint32_t first = e * p.rank + rank, ranks = p.rank - rank;
        if constexpr (sizeof(T) == 2 && WHOLE) {
            const Int4Layout layout(p.down);
            const uint32_t low = lane_id() / 4 * 2, chunk = lane_id() % 4, row = first + low, step = strip / PANEL;
            uint2 pairs[4] = {};  // of columns 2t, 2t + 1 of the chunk, of ranks `low` and `low + 1`
            if (low < ranks) {
                const uint32_t* words = words_of(p.down, layout, cluster, row, step);
                const PairCode<T> code = RowCode(p.down, layout, cluster, row, step).template twice<T>();
                const PairCode<T> next = RowCode(p.down, layout, cluster, row + 1, step).template twice<T>();
#pragma unroll
                for (uint32_t t = 0; t < 4; ++t) {
                    const uint2 word = *reinterpret_cast<const uint2*>(words + 4 * t);
                    pairs[t] = {code.of(word.x >> 4 * chunk), next.of(word.y >> 4 * chunk)};
                }
            }
#pragma unroll
            for (uint32_t s = 0; s < 2; ++s) {
                to.at[s][0] = {{pairs[2 * s].x, pairs[2 * s + 1].x}};
                to.at[s][1] = {{pairs[2 * s].y, pairs[2 * s + 1].y}};
            }
        } else {
#pragma unroll
            for (uint32_t j = 0; j < 2; ++j) {
#pragma unroll
                for (uint32_t s = 0; s < 2; ++s) {
                    if constexpr (sizeof(T) == 2) {
                        const uint32_t of = lane_id() / 4 * 2 + j, column = strip + lane_id() % 4 * LANE + 4 * s;
                        T v[4];
                        read_packed(v, p.down, cluster, first + of, column, of < ranks);
                        to.at[s][j] = {{pair(v[0], v[1]), pair(v[2], v[3])}};
                    } else {
#pragma unroll
                        for (uint32_t i = 0; i < 2; ++i) {
                            const uint32_t of = (lane_id() % 4 * 2 + i) * 2 + j, column = strip + part * LANE + s * 4;
                            read_packed(to.at[s][j].at[i].at, p.down, cluster, first + of, column, of < ranks);
                        }
                    }
                }
            }
        }
    }

private:
    __device__ void by_column(
        RankByColumn<T>& to, const Int4Weights& w, uint32_t e, uint32_t strip, uint32_t rank) const {
        const uint32_t first = e * p.rank + rank, ranks = p.rank - rank;
        if constexpr (sizeof(T) == 2 && WHOLE) {
            const Int4Layout layout(w);
            const uint32_t low = lane_id() % 4 * LANE_RANKS, row = first + low, step = strip / PANEL;
            const uint32_t chunk = lane_id() / 8, odd = lane_id() / 4 % 2;  // columns 8 chunk + 4 odd ..
            if (low < ranks) {
                const uint4* quads =
                    panels_of(w, layout, cluster, row / PANEL) + uint64_t(step) * WARP + row % PANEL / 4 * 4 + 2 * odd;
                const uint64_t index = scale_index(w, layout, cluster, row / PANEL, step >> w.shift) + row % PANEL;
                const Scales scales = load_scales(w, index);
                const PairCode<T> front = {
                    scale_of(scales, 0), scale_of(scales, 1), scales.zero & 0xff, scales.zero >> 8 & 0xff};
                const PairCode<T> back = {
                    scale_of(scales, 2), scale_of(scales, 3), scales.zero >> 16 & 0xff, scales.zero >> 24};
#pragma unroll
                for (uint32_t i = 0; i < 2; ++i) {
                    const uint4 quad = quads[i];
                    const uint32_t x = quad.x >> 4 * chunk, y = quad.y >> 4 * chunk;
                    const uint32_t z = quad.z >> 4 * chunk, u = quad.w >> 4 * chunk;
                    to.at[2 * i] = {{front.of(__byte_perm(x, y, 0x5410)), back.of(__byte_perm(z, u, 0x5410))}};
                    to.at[2 * i + 1] = {{front.of(__byte_perm(x, y, 0x7632)), back.of(__byte_perm(z, u, 0x7632))}};
                }
            } else {
#pragma unroll
                for (uint32_t j = 0; j < 4; ++j) {
                    to.at[j] = {};
                }
            }
        } else if constexpr (sizeof(T) == 2) {
            const uint32_t low = lane_id() % 4 * LANE_RANKS, column = strip + lane_id() / 4 * 4;
            T v[LANE_RANKS][4];
#pragma unroll
            for (uint32_t r = 0; r < LANE_RANKS; ++r) {
                read_packed(v[r], w, cluster, first + low + r, column, low + r < ranks);
            }
#pragma unroll
            for (uint32_t j = 0; j < 4; ++j) {
                to.at[j] = {{pair(v[0][j], v[1][j]), pair(v[2][j], v[3][j])}};
            }
        } else {
#pragma unroll
            for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
                for (uint32_t r = 0; r < 4; ++r) {
                    float v[4];
                    read_packed(v, w, cluster, first + r, strip + (lane_id() % 4 * 2 + i) * 4, r < ranks);
#pragma unroll
                    for (uint32_t j = 0; j < 4; ++j) {
                        to.at[j].at[i].at[r] = v[j];
                    }
                }
            }
        }
    }
};

/// Dynamic shared memory.
template <class Room>
__device__ Room& room_of() {
    extern __shared__ uint4 bytes[];
    return *reinterpret_cast<Room*>(bytes);
}

#define FORWARD(NAME, SHAPE, V)                                                                              \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, 1)                                          \
        moe_expand_int4_##NAME##_##V(const __grid_constant__ ExpandInt4Params p) {                           \
        expand<V, SHAPE, PackedFactors>(p, room_of<ExpandRoom<SHAPE>>());                                    \
    }
#define ENTRY(V)           \
    FORWARD(tall, Tall, V) \
    FORWARD(flat, Flat, V) \
    FORWARD(any, Any, V)
EXPAND_INT4_VARIANTS(ENTRY)
