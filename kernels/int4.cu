// Quantising weights to INT4, and back.
//
// In all kernels lane 4 g + t of a warp holds, of row 4 g + j of a panel [32, 32], chunk t: 8 columns, which lie
// together in memory on the side of the weights. On the packed side a lane holds word j of its quad of rows, which
// has the column pair t of all four chunks: four shuffles within a quad of lanes turn one into the other.
#include "int4_code.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t WARPS = THREADS / WARP;
constexpr uint32_t ROWS_OF_LANE = 4;

extern "C" {
__constant__ LaunchTile moe_quantize_int4_launch = {THREADS, WARPS, 0, 0};
__constant__ LaunchTile moe_dequantize_int4_launch = {THREADS, WARPS, 0, 0};
__constant__ LaunchTile moe_fake_quant_int4_launch = {THREADS, WARPS, 0, 0};
}

/// Weights as matrices of `T` somewhere.
template <class T>
struct Matrices {
    const Int4Matrices& of;  // [groups, out, in]
    uint32_t outputs;
    uint32_t inputs;
    bool aligned;

    __device__ Matrices(const Int4Matrices& of_, const Int4Weights& w)
        : of(of_),
          outputs(w.outputs),
          inputs(w.inputs),
          aligned(of_.column == 1 && is_wide<T>(WIDE<T>, of_.address, of_.group | of_.part | of_.row)) {}

    /// Columns `column..` of row `row`.
    __device__ T* at(uint32_t group, uint32_t row, uint32_t column) const {
        return array_of<T>(of.address) + group * of.group + row / of.rows * of.part + row % of.rows * of.row +
            column * of.column;
    }

    /// Columns of the chunk at `column` of row `row` that exist.
    __device__ uint32_t present(uint32_t row, uint32_t column) const {
        return row < outputs && column < inputs ? min(CHUNK, inputs - column) : 0;
    }

    /// A chunk, with zeros where there is nothing.
    __device__ void load_chunk(float (&v)[CHUNK], uint32_t group, uint32_t row, uint32_t column) const {
        const uint32_t count = present(row, column);
        const T* from = at(group, row, column);
        if (aligned && count == CHUNK) {
#pragma unroll
            for (uint32_t i = 0; i < CHUNK; i += WIDE<T>) {
                const auto part = load<WIDE<T>>(from + i);
#pragma unroll
                for (uint32_t k = 0; k < WIDE<T>; ++k) {
                    v[i + k] = to_float(part.at[k]);
                }
            }
            return;
        }
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) {
            v[i] = i < count ? to_float(from[i * of.column]) : 0.0f;
        }
    }

    /// Stores what exists of a chunk. The values are `T`s already.
    __device__ void store_chunk(const float (&v)[CHUNK], uint32_t group, uint32_t row, uint32_t column) const {
        const uint32_t count = present(row, column);
        T* to = at(group, row, column);
        if (aligned && count == CHUNK) {
            store_front<true>(to, v, CHUNK);
            return;
        }
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) {
            if (i < count) {
                to[i * of.column] = rounded<T>(v[i]);
            }
        }
    }
};

/// A step of a strip; this lane has chunk t of row 4 g + j of it.
struct Place {
    uint32_t group;
    uint32_t strip;
    uint32_t step;

    __device__ uint32_t row(uint32_t j) const {
        return strip * PANEL + lane_id() / 4 * 4 + j;
    }
    __device__ uint32_t column() const {
        return step * PANEL + lane_id() % 4 * CHUNK;
    }
};

/// What becomes of the chunks of `STEPS` neighbouring steps: codes, packed.
template <class T, uint32_t STEPS>
struct Packing {
    using Params = QuantizeInt4Params;
    const Int4Weights& w;
    uint32_t words[STEPS][ROWS_OF_LANE];

    __device__ explicit Packing(const Params& p) : w(p.w) {}

    /// The chunk of row j at step `s` of them.
    __device__ void take(uint32_t s, Place, uint32_t j, const float (&v)[CHUNK], const Code& code) {
        uint32_t pairs = 0;  // [4] of this chunk
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) {
            pairs |= code.of(v[i]) << 4 * i;
        }
        uint32_t word = 0;
#pragma unroll
        for (uint32_t c = 0; c < 4; ++c) {
            const uint32_t pair = __shfl_sync(ALL_LANES, pairs, lane_id() / 4 * 4 + c) >> lane_id() % 4 * 8;
            word |= (pair & 0xf) << 4 * c | (pair >> 4 & 0xf) << (4 * c + 16);
        }
        words[s][j] = word;
    }

    /// After the four rows of step `s`.
    __device__ void end(uint32_t s, Place at) const {
        const Int4Layout layout(w);
        if (at.step < layout.steps) {
            panels_of(w, layout, at.group, at.strip)[uint64_t(at.step) * WARP + lane_id()] =
                make_uint4(words[s][0], words[s][1], words[s][2], words[s][3]);
        }
    }

    __device__ void take_code(uint64_t index, const Code& code) const {
        array_of<uint16_t>(w.scales)[index] = uint16_t(__float_as_uint(code.scale) >> 16);
        if (w.zeros != 0) {
            array_of<uint8_t>(w.zeros)[index] = uint8_t(code.zero);
        }
    }
};

/// What becomes of the chunks of `STEPS` neighbouring steps: their dequantised codes.
template <class T, uint32_t STEPS>
struct Faking {
    using Params = FakeQuantInt4Params;
    const Matrices<T> y;

    __device__ explicit Faking(const Params& p) : y(p.y, p.w) {}

    __device__ void take(uint32_t, Place at, uint32_t j, const float (&v)[CHUNK], const Code& code) const {
        float value[CHUNK];
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) {
            value[i] = int4_value<T>(code.scale, code.of(v[i]) - code.zero);
        }
        y.store_chunk(value, at.group, at.row(j), at.column());
    }

    __device__ void end(uint32_t, Place) const {}
    __device__ void take_code(uint64_t, const Code&) const {}
};

// Formula: q = clamp(round(x / scale) + zero, 0, 15), scale and zero from the range of the block.
// Mapping: warp -> (group, strip, block of STEPS steps), its rows four times eight.
// Idea: a block stays in registers between its range and its codes, so x is read once.
template <template <class, uint32_t> class Into, uint32_t STEPS, class T, class Params>
__device__ void quantize_blocks(const Params& p) {
    const Int4Weights& w = p.w;
    const Int4Layout layout(w);
    const uint64_t unit = uint64_t(blockIdx.x) * WARPS + warp_id();
    const uint64_t strip = unit / w.blocks;
    if (strip >= uint64_t(w.groups) * layout.strips) {
        return;
    }
    const uint32_t block = uint32_t(unit % w.blocks);
    const Place first = {uint32_t(strip / layout.strips), uint32_t(strip % layout.strips), block * STEPS};
    auto step = [&](uint32_t s) { return Place{first.group, first.strip, first.step + s}; };
    const Matrices<const T> x(p.x, w);
    Into<T, STEPS> into(p);
#pragma unroll
    for (uint32_t j = 0; j < ROWS_OF_LANE; ++j) {
        float v[STEPS][CHUNK];
        Range range;
#pragma unroll
        for (uint32_t s = 0; s < STEPS; ++s) {
            x.load_chunk(v[s], first.group, first.row(j), step(s).column());
            range.add(v[s]);
        }
        const Code code(range.among(4), w.zeros == 0);
#pragma unroll
        for (uint32_t s = 0; s < STEPS; ++s) {
            into.take(s, step(s), j, v[s], code);
        }
        if (lane_id() % 4 == 0) {
            into.take_code(scale_index(w, layout, first.group, first.strip, block) + first.row(j) % PANEL, code);
        }
    }
#pragma unroll
    for (uint32_t s = 0; s < STEPS; ++s) {
        into.end(s, step(s));
    }
}

// Formula: as above, with one scale a row (or a matrix).
// Mapping: block -> (group, strip) or group; warp -> every 8th step.
// Idea: two passes over x; the second finds a strip in L2. A whole matrix is the work of one block: meant for the
//       factors of residuals, which are small.
template <template <class, uint32_t> class Into, class T, class Params>
__device__ void quantize_whole(const Params& p) {
    __shared__ Range of_row[WARPS][PANEL];
    __shared__ Range of_warp[WARPS];
    const Int4Weights& w = p.w;
    const Int4Layout layout(w);
    const uint32_t group = w.per_matrix != 0 ? blockIdx.x : blockIdx.x / layout.strips;
    const uint32_t first = w.per_matrix != 0 ? 0 : blockIdx.x % layout.strips;
    const uint32_t last = w.per_matrix != 0 ? layout.strips : first + 1;
    const Matrices<const T> x(p.x, w);
    auto for_places = [&](auto work) {
        for (uint32_t strip = first; strip < last; ++strip) {
            for (uint32_t step = warp_id(); step < layout.steps; step += WARPS) {
                work(Place{group, strip, step});
            }
        }
    };
    Range range[ROWS_OF_LANE];
    for_places([&](Place at) {
#pragma unroll
        for (uint32_t j = 0; j < ROWS_OF_LANE; ++j) {
            float v[CHUNK];
            x.load_chunk(v, group, at.row(j), at.column());
            range[j].add(v);
        }
    });
    Range matrix;
#pragma unroll
    for (uint32_t j = 0; j < ROWS_OF_LANE; ++j) {
        range[j] = range[j].among(4);
        matrix.add(range[j]);
        if (lane_id() % 4 == 0) {
            of_row[warp_id()][lane_id() + j] = range[j];
        }
    }
    matrix = matrix.among(WARP);
    if (lane_id() == 0) {
        of_warp[warp_id()] = matrix;
    }
    __syncthreads();
    const bool symmetric = w.zeros == 0;
    auto code_of = [&](uint32_t j) {
        Range all;
#pragma unroll
        for (uint32_t warp = 0; warp < WARPS; ++warp) {
            all.add(w.per_matrix != 0 ? of_warp[warp] : of_row[warp][lane_id() / 4 * 4 + j]);
        }
        return Code(all, symmetric);
    };
    const Code code[ROWS_OF_LANE] = {code_of(0), code_of(1), code_of(2), code_of(3)};
    Into<T, 1> into(p);
    for_places([&](Place at) {
#pragma unroll
        for (uint32_t j = 0; j < ROWS_OF_LANE; ++j) {
            float v[CHUNK];
            x.load_chunk(v, group, at.row(j), at.column());
            into.take(0, at, j, v, code[j]);
        }
        into.end(0, at);
    });
    if (w.per_matrix != 0) {
        if (threadIdx.x < PANEL) {
            into.take_code(uint64_t(group) * PANEL + threadIdx.x, code[0]);
        }
    } else if (warp_id() == 0 && lane_id() % 4 == 0) {
#pragma unroll
        for (uint32_t j = 0; j < ROWS_OF_LANE; ++j) {
            into.take_code(scale_index(w, layout, group, first, 0) + lane_id() + j, code[j]);
        }
    }
}

template <template <class, uint32_t> class Into, class T, class Params>
__device__ void quantize(const Params& p) {
    switch (p.w.shift) {
    case 0:
        return quantize_blocks<Into, 1, T>(p);
    case 1:
        return quantize_blocks<Into, 2, T>(p);
    case 2:
        return quantize_blocks<Into, 4, T>(p);
    default:
        return quantize_whole<Into, T>(p);
    }
}

// Formula: y = scale (q - zero).
// Mapping: warp -> (group, strip, step).
// Idea: none.
template <class T>
__device__ void dequantize(const DequantizeInt4Params& p) {
    const Int4Weights& w = p.w;
    const Int4Layout layout(w);
    const uint64_t unit = uint64_t(blockIdx.x) * WARPS + warp_id();
    const uint64_t strip = unit / layout.steps;
    if (strip >= uint64_t(w.groups) * layout.strips) {
        return;
    }
    const Place at = {
        uint32_t(strip / layout.strips), uint32_t(strip % layout.strips), uint32_t(unit % layout.steps)};
    const uint4 panel = panels_of(w, layout, at.group, at.strip)[uint64_t(at.step) * WARP + lane_id()];
    const uint32_t words[ROWS_OF_LANE] = {panel.x, panel.y, panel.z, panel.w};
    const uint64_t first = scale_index(w, layout, at.group, at.strip, at.step >> w.shift);
    const Scales scales = load_scales(w, first + lane_id() / 4 * 4);
    const Matrices<T> y(p.y, w);
#pragma unroll
    for (uint32_t j = 0; j < ROWS_OF_LANE; ++j) {
        float v[CHUNK];
#pragma unroll
        for (uint32_t t = 0; t < 4; ++t) {
            const uint32_t pair = __shfl_sync(ALL_LANES, words[j], lane_id() / 4 * 4 + t) >> lane_id() % 4 * 4;
            v[2 * t] = int4_value<T>(scale_of(scales, j), int(pair & 0xf) - zero_of(scales, j));
            v[2 * t + 1] = int4_value<T>(scale_of(scales, j), int(pair >> 16 & 0xf) - zero_of(scales, j));
        }
        y.store_chunk(v, at.group, at.row(j), at.column());
    }
}

#define ENTRY(V)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                    \
        moe_quantize_int4_##V(const __grid_constant__ QuantizeInt4Params p) {                                \
        quantize<Packing, V>(p);                                                                             \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                    \
        moe_dequantize_int4_##V(const __grid_constant__ DequantizeInt4Params p) {                            \
        dequantize<V>(p);                                                                                    \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                    \
        moe_fake_quant_int4_##V(const __grid_constant__ FakeQuantInt4Params p) {                             \
        quantize<Faking, V>(p);                                                                              \
    }
INT4_VARIANTS(ENTRY)
