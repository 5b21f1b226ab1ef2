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

/// Whether an id equal to `id` is in `ids[begin..end]`: asked by the whole block, answered to all of it.
__device__ bool block_finds(const uint32_t* ids, uint32_t begin, uint32_t end, uint32_t id) {
    bool found = false;
    for (uint32_t base = begin; base < end && !found; base += min(THREADS, end - base)) {
        const uint32_t at = base + threadIdx.x;
        found = __syncthreads_or(threadIdx.x < end - base && ids[at] == id) != 0;
    }
    return found;
}

/// `use(row)` for every row of `begin..end` whose id is `id`, in order. Asked by a whole warp, called by all lanes.
template <class Use>
__device__ void for_rows_of(const uint32_t* ids, uint32_t begin, uint32_t end, uint32_t id, Use use) {
    for (uint32_t base = begin; base < end; base += min(WARP, end - base)) {
        const bool hit = lane_id() < end - base && ids[base + lane_id()] == id;
        for (uint32_t hits = __ballot_sync(ALL_LANES, hit); hits != 0; hits &= hits - 1) {
            use(base + __ffs(int(hits)) - 1);
        }
    }
}

// Formula: dtable[v, j] += sum over rows r with ids[r] = v, in order, of scale dy[r, j].
// Mapping: block -> (row, tile of COLUMNS columns), which works only if the row is the first with its id; thread
//          -> COLUMNS / THREADS columns.
// Idea: the first row of an id owns it: it alone adds up the rows that follow and writes the table once. No atomics,
//       no sort; ids are scanned again by every block, which costs rows^2 / 2 comparisons that stay in the cache.
template <class T>
__device__ void backward(const EmbeddingBackwardParams& p) {
    constexpr uint32_t EACH = COLUMNS / THREADS;
    const uint32_t* ids = array_of<const uint32_t>(p.ids);  // [rows]
    const uint32_t row = blockIdx.x, id = ids[row];
    if (id >= p.vocab || block_finds(ids, 0, row, id)) {
        return;
    }
    float* sums = row_of<float>(p.dtable, p.dtable_stride, id);  // [hidden]
    for_tiles(p.hidden, COLUMNS, [&](uint32_t begin, uint32_t end) {
        // Neighbouring columns to neighbouring threads: any alignment will do.
        const uint32_t first = threadIdx.x, count = end - begin;
        float sum[EACH];
#pragma unroll
        for (uint32_t k = 0; k < EACH; ++k) {
            const uint32_t c = first + k * THREADS;
            sum[k] = c < count ? sums[begin + c] : 0.0f;
        }
        for_rows_of(ids, row, p.rows, id, [&](uint32_t r) {
            const T* dy = row_of<const T>(p.dy, p.dy_stride, r) + begin;  // [count]
#pragma unroll
            for (uint32_t k = 0; k < EACH; ++k) {
                const uint32_t c = first + k * THREADS;
                if (c < count) {
                    sum[k] += p.scale * to_float(dy[c]);
                }
            }
        });
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
        backward<V>(p);                                                                                  \
    }
EMBEDDING_VARIANTS(ENTRY)
