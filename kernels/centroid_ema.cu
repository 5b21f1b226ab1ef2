// The moving mean of what each expert was sent.
#include "centroid_ema.h"

#include "common/math.cuh"

constexpr uint32_t THREADS = 512;
constexpr uint32_t WARPS = THREADS / WARP;
constexpr uint32_t COLUMNS = 256;

static_assert(COLUMNS <= THREADS, "a thread has a column when the warps' sums are added");

extern "C" {
__constant__ LaunchTile moe_centroid_ema_launch = {THREADS, 1, COLUMNS, 0};
}

/// Sums of each warp's rows.
using Room = float[WARPS][COLUMNS];

/// Where a column lies in a row of the room: of the two vectors of a lane with eight columns, 4 of 8 neighbouring lanes
/// have theirs in the other order, so that these eight lie in different banks.
__device__ uint32_t place_of(uint32_t column) {
    return column ^ (column / 32 % 2 * 4);
}

// Formula: mu[e] = (1 - beta) mu[e] + beta / n sum over rows r of e of x[source[r] / fan], n > 0 the number of rows.
// Mapping: block -> (expert e, tile of COLUMNS columns); warp -> every WARPSth row of e; lane -> some columns of the tile.
// Idea: many warps on one tile keep many rows in flight, also when one expert has all of them; the order of the sum
//       depends on n alone.
template <class T, int N>
__device__ void centroid_ema(const CentroidEmaParams& p, Room& room) {
    constexpr uint32_t VECTORS = COLUMNS / (WARP * N);  // of a lane
    const uint32_t* offsets = array_of<const uint32_t>(p.offsets) + blockIdx.x;
    const uint32_t* source = array_of<const uint32_t>(p.source);
    const uint32_t start = offsets[0];
    const uint32_t stop = offsets[1];
    if (start == stop) {
        return;
    }
    for_tiles(p.hidden, COLUMNS, [&](uint32_t begin, uint32_t end) {
        float sums[VECTORS][N] = {};
#pragma unroll 4
        for (uint64_t row = start + uint64_t(warp_id()); row < stop; row += WARPS) {
            const T* x = row_of<const T>(p.x, p.x_stride, source[row] / p.fan);  // [hidden]
#pragma unroll
            for (uint32_t v = 0; v < VECTORS; ++v) {
                const uint32_t at = (v * WARP + lane_id()) * N;
                if (at < end - begin) {
                    const Vec<T, N> loaded = load<N>(x + begin + at);
#pragma unroll
                    for (int i = 0; i < N; ++i) {
                        sums[v][i] += to_float(loaded.at[i]);
                    }
                }
            }
        }
#pragma unroll
        for (uint32_t v = 0; v < VECTORS; ++v) {
            constexpr int PIECE = N < 4 ? N : 4;
#pragma unroll
            for (int i = 0; i < N; i += PIECE) {
                Vec<float, PIECE> part;
#pragma unroll
                for (int j = 0; j < PIECE; ++j) {
                    part.at[j] = sums[v][i + j];
                }
                store(&room[warp_id()][place_of((v * WARP + lane_id()) * N + i)], part);
            }
        }
        __syncthreads();
        if (threadIdx.x < end - begin) {
            float sum = 0.0f;
#pragma unroll
            for (uint32_t warp = 0; warp < WARPS; ++warp) {
                sum += room[warp][place_of(threadIdx.x)];
            }
            float* mu = row_of<float>(p.mu, p.mu_stride, blockIdx.x) + begin + threadIdx.x;
            *mu = (1.0f - p.beta) * *mu + p.beta * (sum / float(stop - start));
        }
        __syncthreads();
    });
}

#define ENTRY(V)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                    \
        moe_centroid_ema_##V(const __grid_constant__ CentroidEmaParams p) {                                  \
        __shared__ Room room;                                                                                \
        is_wide<V>(p.hidden, p.x, p.x_stride) ? centroid_ema<V, WIDE<V>>(p, room) : centroid_ema<V, 1>(p, room);\
    }
CENTROID_EMA_VARIANTS(ENTRY)
