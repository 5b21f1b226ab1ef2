// A block's tile of a matrix product: the main loop. common/gemm_store.cuh stores its sums.
//
// Operands lie in global memory either with K last (A [M, K], B [N, K]: rows go along the sums) or with K first
// (A [K, M], B [K, N]: rows go along the depth), and are reached row by row through a functor, so that rows may be
// gathered. They pass through a ring of stages in shared memory, K deep each:
//
//     copy     | t + 2 | t + 3 | ...      cp.async, STAGES - 1 stages ahead
//     ldmatrix | t: slice 1 | t + 1: slice 0 | ...      one slice ahead, into the other set of registers
//     mma      | t: slice 0 | t: slice 1 | ...
//
// with one barrier a stage: it comes after the last ldmatrix of a stage, so what it orders is both the arrival of the
// next stage and the reuse of the slot that was read. Sums add up along K in one fixed order, in slices of
// Mma<T>::K, whatever the tile is.
#pragma once

#include "common/mma.cuh"

/// How an operand lies in memory.
enum class Lies {
    /// [M, K], [N, K]
    K_LAST,
    /// [K, M], [K, N]
    K_FIRST,
};

/// Tile sizes and threads. `ALIGNED`: rows of operands and results start at multiples of 16 bytes, and rows of operands
/// are whole chunks of 16 bytes.
template <class T_, uint32_t M_, uint32_t N_, uint32_t WARPS_M_, uint32_t WARPS_N_, uint32_t STAGES_, bool ALIGNED_>
struct GemmTile {
    using T = T_;
    static constexpr uint32_t M = M_;
    static constexpr uint32_t N = N_;
    /// Depth of a stage: 64 bytes, whole sectors.
    static constexpr uint32_t K = 64 / sizeof(T);
    static constexpr uint32_t WARPS_N = WARPS_N_;
    static constexpr uint32_t THREADS = WARPS_M_ * WARPS_N_ * WARP;
    static constexpr uint32_t STAGES = STAGES_;
    static constexpr bool ALIGNED = ALIGNED_;
    /// Fragments of a warp: [FRAGMENTS_M, FRAGMENTS_N] of [16, 8].
    static constexpr uint32_t FRAGMENTS_M = M / WARPS_M_ / 16;
    static constexpr uint32_t FRAGMENTS_N = N / WARPS_N_ / 8;
    /// Products of fragments along K in a stage.
    static constexpr uint32_t SLICES = K / Mma<T>::K;
    static_assert(FRAGMENTS_M * WARPS_M_ * 16 == M && FRAGMENTS_N * WARPS_N_ * 8 == N, "warps tile the block");
    static_assert(FRAGMENTS_N % 4 == 0, "B is loaded by two fragments, sums are stored by up to four");
    static_assert(SLICES % 2 == 0, "the two sets of registers take turns, also from stage to stage");
    static_assert(STAGES >= 2, "one stage is read, the others are on their way");

    /// First row and column of this warp.
    static __device__ uint32_t warp_row() {
        return warp_id() / WARPS_N * FRAGMENTS_M * 16;
    }
    static __device__ uint32_t warp_column() {
        return warp_id() % WARPS_N * FRAGMENTS_N * 8;
    }
};

/// Rows of a matrix.
template <class T>
struct StridedRows {
    const T* base;
    uint64_t stride;

    static constexpr bool GATHERED = false;
};

/// Rows of a sorted buffer that is not there: row `i` is row `source[i] / fan` of a matrix. Without `source` it is row
/// `i` itself.
template <class T>
struct GatheredRows {
    const T* base;
    uint64_t stride;
    const uint32_t* source;
    uint32_t fan;

    static constexpr bool GATHERED = true;

    __device__ uint32_t operator[](uint32_t i) const {
        if (source == nullptr) {
            return i;
        }
        const uint32_t choice = source[i];
        return fan == 1 ? choice : choice / fan;
    }
};

/// The address of a row, in the fewest instructions: strides in elements cost two shifts each.
template <class T>
__device__ const T* row_from(const T* base, uint64_t stride_bytes, uint32_t row) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(base) + row * stride_bytes);
}

/// Where in a tile chunk `threadIdx.x + i THREADS` lies, in elements. The permutation of a tile repeats every 8 rows, so
/// mostly a thread's first chunk says where the others are.
template <class Into, uint32_t THREADS>
__device__ uint32_t place_of(uint32_t i) {
    constexpr uint32_t STEP = THREADS / Into::CHUNKS;  // rows between two chunks of a thread
    const uint32_t row = threadIdx.x / Into::CHUNKS, chunk = threadIdx.x % Into::CHUNKS;
    return STEP % 8 == 0 ? Into::offset(row, chunk) + i * STEP * Into::COLS : Into::offset(row + i * STEP, chunk);
}

/// Brings an operand to shared memory, a stage at a time. `EXTENT` is the tile's M or N.
template <class G, Lies LIES, uint32_t EXTENT, class Rows>
struct Copier;

template <class G, uint32_t EXTENT, class Rows>
struct Copier<G, Lies::K_LAST, EXTENT, Rows> {
    using T = typename G::T;
    using Into = Tile<T, EXTENT, G::K>;
    static constexpr uint32_t STEP = G::THREADS / Into::CHUNKS;  // rows between two chunks of a thread
    static constexpr uint32_t COUNT = ceil_div(EXTENT, STEP);

    const T* from[COUNT];  // this thread's next chunk of its rows
    uint32_t left;         // elements along K from there on

    static __device__ uint32_t row(uint32_t i) {
        return threadIdx.x / Into::CHUNKS + i * STEP;
    }

    /// Rows `first..first + count`, of `depth` elements each; `count` is at least 1. In place of rows that do not exist
    /// the last one is read, at the price of no predicate: their sums are never stored.
    __device__ Copier(const Rows& of, uint32_t first, uint32_t count, uint32_t depth) {
        const uint32_t skipped = threadIdx.x % Into::CHUNKS * Into::WIDTH;
        left = max(depth, skipped) - skipped;
#pragma unroll
        for (uint32_t i = 0; i < COUNT; ++i) {
            const uint32_t at = first + min(row(i), count - 1);
            if constexpr (Rows::GATHERED) {
                from[i] = of.base + of[at] * of.stride + skipped;
            } else {
                from[i] = of.base + at * of.stride + skipped;
            }
        }
    }

    /// The next `G::K` columns; zeros beyond the operand.
    __device__ void copy(Into& to) {
#pragma unroll
        for (uint32_t i = 0; i < COUNT; ++i) {
            if (EXTENT % STEP == 0 || row(i) < EXTENT) {
                T* chunk = to.at + place_of<Into, G::THREADS>(i);
                if constexpr (G::ALIGNED) {
                    copy_whole_chunk(chunk, from[i], left != 0);
                } else {
                    copy_chunk<false>(chunk, from[i], left);
                }
            }
            from[i] += G::K;
        }
        left = max(left, G::K) - G::K;
    }
};

template <class G, uint32_t EXTENT, class Rows>
struct Copier<G, Lies::K_FIRST, EXTENT, Rows> {
    using T = typename G::T;
    using Into = Tile<T, G::K, EXTENT>;
    static constexpr uint32_t STEP = G::THREADS / Into::CHUNKS;  // rows between two chunks of a thread
    static constexpr uint32_t COUNT = G::K / STEP;
    static_assert(COUNT * STEP == G::K && G::K <= WARP, "threads tile the stage, lanes its rows");

    uint32_t place = settled(place_of<Into, G::THREADS>(0));  // of this thread's first chunk in a stage
    Rows of;
    const T* from;     // this thread's column of row 0 of the operand, or, not gathered, of its next row
    uint64_t stride;   // in bytes; not gathered, of STEP rows
    uint32_t next;     // gathered: first row of the next stage
    uint32_t left;     // rows from there on
    uint32_t found;    // gathered: where row next + lane lies, read a stage ahead since the copy has to wait for it
    uint32_t columns;  // of this thread that exist

    /// Rows `first..first + depth`, columns `column..column + count`.
    __device__ Copier(const Rows& of_, uint32_t first, uint32_t depth, uint32_t column, uint32_t count)
        : of(of_), next(first), left(depth) {
        const uint32_t skipped = threadIdx.x % Into::CHUNKS * Into::WIDTH;
        from = of.base + column + skipped;
        stride = of.stride * sizeof(T);
        columns = max(count, skipped) - skipped;
        if constexpr (Rows::GATHERED) {
            look_ahead();
        } else {
            left = G::ALIGNED && columns == 0 ? 0 : left;  // one thing less to ask about a chunk
            from = row_from(from, stride, first + threadIdx.x / Into::CHUNKS);
            stride *= STEP;
        }
    }

    /// The next `G::K` rows; zeros beyond the operand.
    __device__ void copy(Into& to) {
#pragma unroll
        for (uint32_t i = 0; i < COUNT; ++i) {
            const uint32_t row = threadIdx.x / Into::CHUNKS + i * STEP;
            T* chunk = to.at + (STEP % 8 == 0 ? place + i * STEP * Into::COLS : place_of<Into, G::THREADS>(i));
            const T* at = from;
            if constexpr (Rows::GATHERED) {
                at = row_from(from, stride, __shfl_sync(ALL_LANES, found, row));
            } else {
                from = row_from(from, stride, 1);
            }
            if constexpr (G::ALIGNED) {
                copy_whole_chunk(chunk, at, row < left && (!Rows::GATHERED || columns != 0));
            } else {
                copy_chunk<false>(chunk, at, row < left ? columns : 0);
            }
        }
        next += G::K;
        left = max(left, G::K) - G::K;
        look_ahead();
    }

private:
    __device__ void look_ahead() {
        if constexpr (Rows::GATHERED) {
            found = lane_id() < left ? of[next + lane_id()] : 0;
        }
    }
};

/// A stage of both operands.
template <class G, Lies A, Lies B>
struct GemmStage {
    std::conditional_t<A == Lies::K_LAST, Tile<typename G::T, G::M, G::K>, Tile<typename G::T, G::K, G::M>> a;
    std::conditional_t<B == Lies::K_LAST, Tile<typename G::T, G::N, G::K>, Tile<typename G::T, G::K, G::N>> b;
};

/// The stages: what a block needs of shared memory.
template <class G, Lies A, Lies B>
struct GemmRing {
    GemmStage<G, A, B> at[G::STAGES];
};

/// A warp's part of the sums [M, N].
template <class G>
struct GemmSums {
    Sums at[G::FRAGMENTS_M][G::FRAGMENTS_N];
};

/// What a warp multiplies in one slice.
template <class G, Lies A, Lies B>
struct GemmFragments {
    using M = Mma<typename G::T>;
    typename M::A a[G::FRAGMENTS_M];
    typename M::B b[G::FRAGMENTS_N / 2][2];

    __device__ void load(const GemmStage<G, A, B>& stage, uint32_t k) {
#pragma unroll
        for (uint32_t i = 0; i < G::FRAGMENTS_M; ++i) {
            const uint32_t row = G::warp_row() + 16 * i;
            if constexpr (A == Lies::K_LAST) {
                a[i] = M::load_a(stage.a, row, k);
            } else {
                a[i] = M::load_a_trans(stage.a, row, k);
            }
        }
#pragma unroll
        for (uint32_t j = 0; j < G::FRAGMENTS_N / 2; ++j) {
            const uint32_t column = G::warp_column() + 16 * j;
            if constexpr (B == Lies::K_LAST) {
                M::load_b(b[j], stage.b, column, k);
            } else {
                M::load_b_trans(b[j], stage.b, column, k);
            }
        }
    }

    __device__ void multiply(GemmSums<G>& sums) const {
#pragma unroll
        for (uint32_t i = 0; i < G::FRAGMENTS_M; ++i) {
#pragma unroll
            for (uint32_t j = 0; j < G::FRAGMENTS_N; ++j) {
                M::multiply(sums.at[i][j], a[i], b[j / 2][j % 2]);
            }
        }
    }
};

/// sums += A B along `depth`. All threads of the block; they may use the ring again at once.
template <class G, Lies A, Lies B, class RowsA, class RowsB>
__device__ void gemm(GemmSums<G>& sums, GemmRing<G, A, B>& ring, Copier<G, A, G::M, RowsA>& a,
                     Copier<G, B, G::N, RowsB>& b, uint32_t depth) {
    const uint32_t stages = ceil_div(depth, G::K);
    if (stages == 0) {
        return;
    }
    auto bring = [&](uint32_t stage, uint32_t slot) {
        if (stage < stages) {
            a.copy(ring.at[slot].a);
            b.copy(ring.at[slot].b);
        }
        cp_async_commit();  // also if empty: the waits count groups
    };
#pragma unroll 1
    for (uint32_t s = 0; s + 1 < G::STAGES; ++s) {
        bring(s, s);
    }
    GemmFragments<G, A, B> fragments[2];
    cp_async_wait<G::STAGES - 2>();
    __syncthreads();
    fragments[0].load(ring.at[0], 0);
    uint32_t read = 0;
    uint32_t write = G::STAGES - 1;
#pragma unroll 1
    for (uint32_t stage = 0; stage < stages; ++stage) {
#pragma unroll
        for (uint32_t slice = 0; slice < G::SLICES; ++slice) {
            if (slice + 1 == G::SLICES) {
                cp_async_wait<G::STAGES - 2>();
                __syncthreads();
                // After the last stage its first slice is read once more, to no use, which costs less than a branch.
                if (stage + 1 < stages) {
                    read = read + 1 < G::STAGES ? read + 1 : 0;
                }
            }
            fragments[(slice + 1) % 2].load(ring.at[read], (slice + 1) % G::SLICES * Mma<typename G::T>::K);
            if (slice == 0) {
                bring(stage + G::STAGES - 1, write);
                write = write + 1 < G::STAGES ? write + 1 : 0;
            }
            fragments[slice % 2].multiply(sums);
        }
    }
    __syncthreads();
}
