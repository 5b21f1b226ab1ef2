// Tiles in shared memory, fragments in registers, and products of fragments.
//
// With g = lane / 4 and t = lane % 4, a lane holds of
//   a sum [16, 8]:            (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
//   a 16-bit A [16, 16]:      pairs along k at (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
//   a 16-bit B [16, 8]:       pairs along k at (2t, g), (2t + 8, g)
//   an f32 A [16, 4]:         rows g and g + 8, all four k
//   an f32 B [4, 8]:          columns 2t and 2t + 1, all four k
// The f32 forms are products by FMA in the sums' own layout: exact to rounding, and what follows a product need not
// know which it was.
#pragma once

#include "common/ptx.cuh"

/// A matrix in shared memory whose 16-byte chunks are permuted within each row, so that eight rows of one column of
/// chunks, which is what ldmatrix reads and what a warp's cp.async writes, lie in different banks.
template <class T, uint32_t ROWS_, uint32_t COLS_>
struct alignas(128) Tile {
    static constexpr uint32_t ROWS = ROWS_;
    static constexpr uint32_t COLS = COLS_;
    /// Elements of a chunk.
    static constexpr uint32_t WIDTH = WIDE<T>;
    /// Chunks of a row.
    static constexpr uint32_t CHUNKS = COLS / WIDTH;
    static_assert(COLS % WIDTH == 0, "rows are whole chunks");
    static_assert(CHUNKS == 2 || CHUNKS == 4 || CHUNKS % 8 == 0, "the permutation needs 2, 4 or 8 n chunks");

    T at[ROWS * COLS];  // [ROWS, COLS], permuted

    /// What the numbers of a row's chunks are xor-ed with.
    static __device__ uint32_t turn(uint32_t row) {
        return CHUNKS == 2 ? row >> 2 & 1 : CHUNKS == 4 ? row >> 1 & 3 : row & 7;
    }

    /// Where chunk `chunk` of row `row` lies, in elements.
    static __device__ uint32_t offset(uint32_t row, uint32_t chunk) {
        // In wide rows eight chunks at a time change places: the number of the eight is an offset.
        constexpr uint32_t LOW = CHUNKS >= 8 ? 7 : CHUNKS - 1;
        return row * COLS + (chunk & ~LOW) * WIDTH + ((chunk & LOW) ^ turn(row)) * WIDTH;
    }

    __device__ T* chunk(uint32_t row, uint32_t chunk) {
        return at + offset(row, chunk);
    }

    __device__ const T* chunk(uint32_t row, uint32_t chunk) const {
        return at + offset(row, chunk);
    }

    __device__ T& element(uint32_t row, uint32_t col) {
        return at[offset(row, col / WIDTH) + col % WIDTH];
    }

    __device__ const T& element(uint32_t row, uint32_t col) const {
        return at[offset(row, col / WIDTH) + col % WIDTH];
    }
};

/// f32 sums [16, 8].
struct Sums {
    float at[4] = {};

    /// Row of `at[i]`, from 0 to 15.
    static __device__ uint32_t row(int i) {
        return lane_id() / 4 + i / 2 * 8;
    }

    /// Column of `at[i]`, from 0 to 7.
    static __device__ uint32_t col(int i) {
        return lane_id() % 4 * 2 + i % 2;
    }
};

/// Two neighbours of a fragment in one register, rounded; `x` is the one with the lower index.
template <class T>
__device__ uint32_t pair_of(float x, float y) {
    uint32_t bits;
    if constexpr (std::is_same_v<T, BF16>) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
        memcpy(&bits, &pair, sizeof(bits));
    } else {
        static_assert(std::is_same_v<T, F16>, "bf16 and f16");
        const __half2 pair = __floats2half2_rn(x, y);
        memcpy(&bits, &pair, sizeof(bits));
    }
    return bits;
}

// Fragments begin at rows of a tile that are multiples of 8 (those of f32 that lie K first: of 4). Since the permutation
// of a tile repeats every 8 rows, a lane's own part of an address is worked out once, and the rest is an offset.

/// Fragments of 16-bit elements: tensor cores.
template <class T>
struct Mma {
    static_assert(sizeof(T) == 2, "bf16 and f16");
    /// Depth of a product.
    static constexpr uint32_t K = 16;

    struct A {
        uint32_t at[4];  // [16, K]
    };
    struct B {
        uint32_t at[2];  // [K, 8]
    };

    static __device__ void multiply(Sums& d, const A& a, const B& b) {
        mma_m16n8k16<T>(d.at, a.at, b.at);
    }

    /// Rows `row..`, columns `k..` of a tile [M, K].
    template <class S>
    static __device__ A load_a(const S& tile, uint32_t row, uint32_t k) {
        A a;
        ldmatrix_x4(a.at, shared_address(tile.chunk(lane_id() % 16, k / 8 | lane_id() / 16) + row * S::COLS));
        return a;
    }

    /// Columns `row..`, rows `k..` of a tile [K, M].
    template <class S>
    static __device__ A load_a_trans(const S& tile, uint32_t row, uint32_t k) {
        A a;
        const uint32_t lane = lane_id();
        const auto* from = tile.chunk(lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2);
        ldmatrix_x4_trans(a.at, shared_address(from + k * S::COLS));
        return a;
    }

    /// Columns `k..` of sums [16, 8 N], rounded: what one product leaves is an operand of the next.
    template <int N>
    static __device__ A from_sums(const Sums (&s)[N], uint32_t k) {
        const auto &low = s[k / 8].at, &high = s[k / 8 + 1].at;
        return {{pair_of<T>(low[0], low[1]), pair_of<T>(low[2], low[3]), pair_of<T>(high[0], high[1]),
                 pair_of<T>(high[2], high[3])}};
    }

    /// Rows `col..` and `col + 8..`, columns `k..` of a tile [N, K]: two fragments.
    template <class S>
    static __device__ void load_b(B (&b)[2], const S& tile, uint32_t col, uint32_t k) {
        uint32_t raw[4];
        const uint32_t lane = lane_id();
        const auto* from = tile.chunk(lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2);
        ldmatrix_x4(raw, shared_address(from + col * S::COLS));
        b[0] = {{raw[0], raw[1]}};
        b[1] = {{raw[2], raw[3]}};
    }

    /// Columns `col..` and `col + 8..`, rows `k..` of a tile [K, N]: two fragments.
    template <class S>
    static __device__ void load_b_trans(B (&b)[2], const S& tile, uint32_t col, uint32_t k) {
        uint32_t raw[4];
        const uint32_t lane = lane_id();
        const auto* from = tile.chunk(lane % 16, col / 8 + lane / 16);
        ldmatrix_x4_trans(raw, shared_address(from + k * S::COLS));
        b[0] = {{raw[0], raw[1]}};
        b[1] = {{raw[2], raw[3]}};
    }
};

/// Fragments of f32: fused multiply-adds.
template <>
struct Mma<F32> {
    /// Depth of a product.
    static constexpr uint32_t K = 4;

    struct A {
        Vec<float, 4> at[2];  // rows g, g + 8; [K]
    };
    struct B {
        Vec<float, 4> at[2];  // columns 2t, 2t + 1; [K]
    };

    static __device__ void multiply(Sums& d, const A& a, const B& b) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                d.at[i] = fmaf(a.at[i / 2].at[k], b.at[i % 2].at[k], d.at[i]);
            }
        }
    }

    /// Rows `row..`, columns `k..` of a tile [M, K].
    template <class S>
    static __device__ A load_a(const S& tile, uint32_t row, uint32_t k) {
        const float* from = tile.chunk(lane_id() / 4, k / 4) + row * S::COLS;
        return {{load<4>(from), load<4>(from + 8 * S::COLS)}};
    }

    /// Columns `row..`, rows `k..` of a tile [K, M].
    template <class S>
    static __device__ A load_a_trans(const S& tile, uint32_t row, uint32_t k) {
        const uint32_t g = row + lane_id() / 4;
        A a;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            a.at[0].at[i] = tile.element(k + i, g);
            a.at[1].at[i] = tile.element(k + i, g + 8);
        }
        return a;
    }

    /// Columns `k..` of sums [16, 8 N]: the four lanes of a row give each other what they hold of it.
    template <int N>
    static __device__ A from_sums(const Sums (&s)[N], uint32_t k) {
        const uint32_t first = lane_id() / 4 * 4 + k % 8 / 2;
        A a;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            a.at[0].at[i] = __shfl_sync(ALL_LANES, s[k / 8].at[i % 2], first + i / 2);
            a.at[1].at[i] = __shfl_sync(ALL_LANES, s[k / 8].at[2 + i % 2], first + i / 2);
        }
        return a;
    }

    /// Rows `col..` and `col + 8..`, columns `k..` of a tile [N, K]: two fragments.
    template <class S>
    static __device__ void load_b(B (&b)[2], const S& tile, uint32_t col, uint32_t k) {
        const float* from = tile.chunk(lane_id() % 4 * 2, k / 4) + col * S::COLS;
        const float* next = tile.chunk(lane_id() % 4 * 2 + 1, k / 4) + col * S::COLS;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            b[i] = {{load<4>(from + 8 * i * S::COLS), load<4>(next + 8 * i * S::COLS)}};
        }
    }

    /// Columns `col..` and `col + 8..`, rows `k..` of a tile [K, N]: two fragments.
    template <class S>
    static __device__ void load_b_trans(B (&b)[2], const S& tile, uint32_t col, uint32_t k) {
        // The lane's chunk is an even one or the next. Apart from which, its place depends on the row and column alone,
        // which are constants in an unrolled loop: written like this, addresses take two registers and not one each.
        const uint32_t odd = lane_id() % 4 / 2, inside = lane_id() % 2 * 2;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint32_t even = (col + 8 * i) / 4;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const uint32_t row = k + j, turn = S::turn(row);
                const float* at = tile.at + row * S::COLS + (even ^ (turn & ~1u)) * 4;
                const Vec<float, 2> pair = load<2>(at + (odd ^ (turn & 1)) * 4 + inside);
                b[i].at[0].at[j] = pair.at[0];
                b[i].at[1].at[j] = pair.at[1];
            }
        }
    }
};

/// Brings a whole chunk of global memory to shared memory, or zeros. As copy_chunk<true>, for rows of whole chunks: the
/// address then needs no correction for the bytes that are there.
template <class T>
__device__ void copy_whole_chunk(T* to, const T* from, bool present) {
    cp_async_16_or_zeros(shared_address(to), from, present);
}

/// Brings one chunk of a row of global memory to shared memory: its first `count` elements (at most a chunk), then
/// zeros. `ALIGNED`: the row starts at a multiple of 16 bytes, and the copy is asynchronous; else it is done on return.
template <bool ALIGNED, class T>
__device__ void copy_chunk(T* to, const T* from, uint32_t count) {
    if constexpr (ALIGNED) {
        cp_async_16(shared_address(to), from, count * sizeof(T));
    } else {
        Vec<T, WIDE<T>> v;
#pragma unroll
        for (uint32_t i = 0; i < WIDE<T>; ++i) {
            v.at[i] = i < count ? from[i] : rounded<T>(0.0f);
        }
        store(to, v);
    }
}
