// Packed weights as operands of the GEMM main loop (common/gemm.cuh): dequantised into the stages.
//
// A thread takes rows of panels, 32 columns in four words, and writes 16 bytes at a time. What the next stage needs of words,
// scales and zero-points is read right after the stage before was written, so that the loop does not wait for it.
#pragma once

#include "common/gemm.cuh"
#include "int4_pair.cuh"

/// The 32 columns of a row of a panel, not yet dequantised. They stay in registers beside all that a product needs, so they
/// are few.
struct PanelRow {
    uint32_t word[4] = {};
    uint32_t code = 0;  // the scale's 16 bits, then the zero-point

    /// Those at `words` (see `words_of`), their scale and zero-point at `index`.
    __device__ void read(const uint32_t* words, uint64_t scales, uint64_t zeros, uint64_t index) {
#pragma unroll
        for (uint32_t t = 0; t < 4; ++t) {
            word[t] = words[4 * t];
        }
        const uint32_t zero = zeros != 0 ? array_of<const uint8_t>(zeros)[index] : 8;
        code = array_of<const uint16_t>(scales)[index] | zero << 16;
    }

    /// 16 bytes of `T` from column `WIDE<T> q` on.
    template <class T>
    __device__ Vec<T, WIDE<T>> chunk(uint32_t q) const {
        Vec<T, WIDE<T>> to;
        const float scale = __uint_as_float(code << 16);
        const uint32_t zero = code >> 16;
        if constexpr (sizeof(T) == 2) {
            const PairCode<T> both = {scale, scale, zero, zero};
            uint32_t pairs[4];
#pragma unroll
            for (uint32_t t = 0; t < 4; ++t) {
                pairs[t] = both.of(word[t] >> 4 * q);
            }
            memcpy(&to, pairs, sizeof(to));
        } else {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t of = q % 2 == 0 ? word[i / 2] : word[2 + i / 2];
                to.at[i] = int4_value<T>(scale, int(of >> (q / 2 * 4 + i % 2 * 16) & 0xf) - int(zero));
            }
        }
        return to;
    }
};

/// Rows of two packed matrices of a group, those of `second` below those of `first`, which has the same layout.
struct PackedRows {
    const Int4Weights& first;
    const Int4Weights& second;
    uint32_t group;
};

/// The columns of a packed matrix of a group as what a product sums over: its rows lie along the depth.
struct PackedDepth {
    const Int4Weights& w;
    uint32_t group;
};

template <class G, uint32_t EXTENT>
struct Copier<G, Lies::K_LAST, EXTENT, PackedRows> {
    using T = typename G::T;
    using Into = Tile<T, EXTENT, G::K>;
    static_assert(EXTENT <= G::THREADS && PANEL % G::K == 0, "a thread has a row, which a stage takes a part of");

    const PackedRows of;
    bool second;            // this thread's row is of that matrix
    const uint32_t* words;  // those of the row in the next stage
    uint64_t index;         // of its first scale
    uint32_t column = 0;    // of the next stage
    PanelRow next;

    /// Rows `first..first + count` of both; in place of those that do not exist the last one.
    __device__ Copier(const PackedRows& of_, uint32_t first, uint32_t count) : of(of_) {
        uint32_t row = first + min(threadIdx.x, count - 1);
        second = row >= of.first.outputs;
        row -= second ? of.first.outputs : 0;
        const Int4Layout layout(of.first);
        words = words_of(second ? of.second : of.first, layout, of.group, row, 0);
        index = scale_index(of.first, layout, of.group, row / PANEL, 0) + row % PANEL;
        look_ahead();
    }

    /// The next `G::K` columns. Those beyond the matrix stand for 0, as the codes do that pad a panel.
    __device__ void copy(Into& to) {
        if (EXTENT == G::THREADS || threadIdx.x < EXTENT) {
            const uint32_t first = G::K == PANEL ? 0 : column % PANEL / WIDE<T>;
#pragma unroll
            for (uint32_t q = 0; q < Into::CHUNKS; ++q) {
                store(to.chunk(threadIdx.x, q), next.template chunk<T>(first + q));
            }
        }
        column += G::K;
        words += column % PANEL == 0 ? PANEL * PANEL / 8 : 0;
        look_ahead();
    }

private:
    __device__ void look_ahead() {
        if (column < of.first.inputs && (EXTENT == G::THREADS || threadIdx.x < EXTENT)) {
            next.read(words, second ? of.second.scales : of.first.scales, second ? of.second.zeros : of.first.zeros,
                      index + (column / PANEL >> of.first.shift) * PANEL);
        }
    }
};

template <class G, uint32_t EXTENT>
struct Copier<G, Lies::K_FIRST, EXTENT, PackedDepth> {
    using T = typename G::T;
    using Into = Tile<T, G::K, EXTENT>;
    static constexpr uint32_t UNITS = G::K * (EXTENT / PANEL);  // rows of panels in a stage
    static_assert(EXTENT % PANEL == 0 && UNITS <= G::THREADS, "a thread has at most one");

    const Int4Weights& w;
    uint32_t group;
    uint32_t row;   // this thread's of the next stage
    uint32_t step;
    bool there;     // `step` is
    PanelRow next;

    /// All rows, columns from `column`, a multiple of 32, on.
    __device__ Copier(const PackedDepth& of, uint32_t column)
        : w(of.w), group(of.group), row(threadIdx.x % G::K), step(column / PANEL + threadIdx.x / G::K) {
        there = threadIdx.x < UNITS && step < Int4Layout(w).steps;
        look_ahead();
    }

    /// The next `G::K` rows; zeros beyond the matrix.
    __device__ void copy(Into& to) {
        if (UNITS == G::THREADS || threadIdx.x < UNITS) {
            constexpr uint32_t CHUNKS = PANEL / WIDE<T>;
#pragma unroll
            for (uint32_t q = 0; q < CHUNKS; ++q) {
                store(to.chunk(threadIdx.x % G::K, threadIdx.x / G::K * CHUNKS + q), next.template chunk<T>(q));
            }
        }
        row += G::K;
        look_ahead();
    }

private:
    __device__ void look_ahead() {
        next = {};
        if (there && row < w.outputs) {
            const Int4Layout layout(w);
            next.read(words_of(w, layout, group, row, step), w.scales, w.zeros,
                      scale_index(w, layout, group, row / PANEL, step >> w.shift) + row % PANEL);
        }
    }
};
