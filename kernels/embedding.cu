// Looking up rows of a table, and its gradient.
#include "embedding.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t ROWS = THREADS / WARP;
constexpr uint32_t COLUMNS = 1024;

extern "C" {
__constant__ LaunchTile moe_embedding_launch = {THREADS, ROWS, COLUMNS, 0};
__constant__ LaunchTile moe_embedding_backward_launch = {THREADS, 1, COLUMNS, 0};
}

// Formula: y[r, j] = scale table[ids[r], j].
// Mapping: warp -> (row, tile of COLUMNS columns); lane -> every 32nd vector of the tile.
// Idea: a bad id must not read outside of the table, and must be seen: its row becomes NaN.
template <class T, int N>
__device__ void embedding(const EmbeddingParams& p, uint32_t row) {
    const uint32_t id = array_of<const uint32_t>(p.ids)[row];
    const bool known = id < p.vocab;
    const T* from = row_of<const T>(p.table, p.table_stride, known ? id : 0);  // [hidden]
    T* y = row_of<T>(p.y, p.y_stride, row);                                    // [hidden]
    const float scale = known ? p.scale : nanf("");
    auto read = [&](uint32_t c) { return known ? load<N>(from + c) : Vec<T, N>{}; };
    auto write = [&](uint32_t c, const Vec<T, N>& v) {
        float out[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            out[i] = scale * to_float(v.at[i]);
        }
        store_rounded(y + c, out);
    };
    for_tiles(p.hidden, COLUMNS, [&](uint32_t begin, uint32_t end) {
        for_columns<4>(of_lane<N>(begin, end), read, write);
    });
}

// Ids are searched a stretch at a time: warp w of a block looks at rows 32 w .. 32 w + 31 of each THREADS rows of it. Bit
// b of word v says whether row 32 v + b of the stretch has the id.
constexpr uint32_t WORDS = WARP;
constexpr uint32_t STRETCH = WORDS * WARP;
constexpr uint32_t LOOKS = STRETCH / THREADS;

/// Whether the rows of a stretch that this thread looks at have the id, a bit each; not those from `end` on.
__device__ uint32_t look(const uint32_t* ids, uint64_t begin, uint32_t end, uint32_t id) {
    uint32_t hits = 0;
#pragma unroll
    for (uint32_t k = 0; k < LOOKS; ++k) {
        const uint64_t at = begin + k * THREADS + threadIdx.x;
        hits |= uint32_t(at < end && ids[at] == id) << k;
    }
    return hits;
}

/// Whether a row before `end` has the id: asked by the whole block, answered to all of it.
__device__ bool block_finds(const uint32_t* ids, uint32_t end, uint32_t id) {
    bool found = false;
    for (uint64_t begin = 0; begin < end && !found; begin += STRETCH) {
        found = __syncthreads_or(look(ids, begin, end, id) != 0) != 0;
    }
    return found;
}

/// The set bits of a stretch's words in ascending order, the same in every lane of a warp.
struct Rows {
    /// The lane's word.
    uint32_t word;
    /// Words with bits not yet given out.
    uint32_t words;
    /// The bits of the first of them.
    uint32_t bits;

    __device__ explicit Rows(uint32_t word) : word(word), words(__ballot_sync(ALL_LANES, word != 0)) {
        bits = words != 0 ? __shfl_sync(ALL_LANES, word, __ffs(int(words)) - 1) : 0;
    }

    __device__ bool any() const {
        return words != 0;
    }

    /// The next one, where there is one.
    __device__ uint32_t next() {
        const uint32_t row = (__ffs(int(words)) - 1) * WARP + __ffs(int(bits)) - 1;
        bits &= bits - 1;
        if (bits == 0) {
            words &= words - 1;
            bits = words != 0 ? __shfl_sync(ALL_LANES, word, __ffs(int(words)) - 1) : 0;
        }
        return row;
    }
};

// Formula: dtable[v, j] += sum over rows r with ids[r] = v, in order, of scale dy[r, j].
// Mapping: block -> (row, tile of COLUMNS columns), which works only if the row is the first with its id; thread
//          -> COLUMNS / THREADS columns.
// Idea: the first row of an id owns it: it alone adds up the rows that follow and writes the table once. No atomics,
//       no sort. A block looks at the ids before its row until it finds its own, and at those after it if it finds
//       none: at most rows^2 ids a tile of columns, STRETCH at a time and from the cache.
template <class T>
__device__ void backward(const EmbeddingBackwardParams& p, uint32_t (&hits)[2][WORDS]) {
    constexpr uint32_t EACH = COLUMNS / THREADS, DEPTH = 4;
    const uint32_t* ids = array_of<const uint32_t>(p.ids);  // [rows]
    const uint32_t row = blockIdx.x, id = ids[row];
    if (id >= p.vocab || block_finds(ids, row, id)) {
        return;
    }
    float* sums = row_of<float>(p.dtable, p.dtable_stride, id);  // [hidden]
    uint32_t turn = 0;
    for_tiles(p.hidden, COLUMNS, [&](uint32_t begin, uint32_t end) {
        // Neighbouring columns to neighbouring threads: any alignment will do.
        const uint32_t first = threadIdx.x, count = end - begin;
        float sum[EACH];
#pragma unroll
        for (uint32_t k = 0; k < EACH; ++k) {
            const uint32_t c = first + k * THREADS;
            sum[k] = c < count ? sums[begin + c] : 0.0f;
        }
        for (uint64_t base = row; base < p.rows; base += STRETCH, turn ^= 1) {
            // Two rooms in turn: a warp is at most one stretch ahead of the slowest.
            const uint32_t mine = look(ids, base, p.rows, id);
#pragma unroll
            for (uint32_t k = 0; k < LOOKS; ++k) {
                const uint32_t word = __ballot_sync(ALL_LANES, mine >> k & 1);
                if (lane_id() == 0) {
                    hits[turn][k * (THREADS / WARP) + warp_id()] = word;
                }
            }
            __syncthreads();
            Rows found(hits[turn][lane_id()]);
            while (found.any()) {
                // Several rows are on their way before the first is added.
                T dy[DEPTH][EACH];
                uint32_t rows = 0;
#pragma unroll
                for (uint32_t d = 0; d < DEPTH; ++d) {
                    if (found.any()) {
                        const T* from = row_of<const T>(p.dy, p.dy_stride, uint32_t(base) + found.next()) + begin;
                        rows = d + 1;
#pragma unroll
                        for (uint32_t k = 0; k < EACH; ++k) {
                            const uint32_t c = first + k * THREADS;
                            dy[d][k] = c < count ? from[c] : T{};
                        }
                    }
                }
#pragma unroll
                for (uint32_t d = 0; d < DEPTH; ++d) {
                    if (d < rows) {
#pragma unroll
                        for (uint32_t k = 0; k < EACH; ++k) {
                            sum[k] += p.scale * to_float(dy[d][k]);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (uint32_t k = 0; k < EACH; ++k) {
            const uint32_t c = first + k * THREADS;
            if (c < count) {
                sums[begin + c] = sum[k];
            }
        }
    });
}

#define ENTRY(V)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
        moe_embedding_##V(const __grid_constant__ EmbeddingParams p) {                                   \
        const uint32_t row = blockIdx.x * ROWS + warp_id();                                              \
        if (row >= p.rows) {                                                                             \
            return;                                                                                      \
        }                                                                                                \
        is_wide<V>(p.hidden, p.table | p.y, p.table_stride | p.y_stride)                                 \
            ? embedding<V, WIDE<V>>(p, row)                                                              \
            : embedding<V, 1>(p, row);                                                                   \
    }                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
        moe_embedding_backward_##V(const __grid_constant__ EmbeddingBackwardParams p) {                  \
        __shared__ uint32_t hits[2][WORDS];                                                              \
        backward<V>(p, hits);                                                                            \
    }
EMBEDDING_VARIANTS(ENTRY)
