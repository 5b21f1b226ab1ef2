// How alike experts are: all dot products between them, and cosines of two kinds fused into one similarity.
#include "similarity.h"

#include "similarity_gram.cuh"

constexpr uint32_t SUM_THREADS = 256;
/// Threads that share the sum of a pair.
constexpr uint32_t STRANDS = SUM_THREADS / WARP;
constexpr uint32_t SIMILARITY_THREADS = 256;

template <template <class> class Tile>
constexpr LaunchTile launch_of() {
    using Of = Tile<BF16>;
    static_assert(sizeof(typename Of::Smem) == sizeof(typename Tile<F32>::Smem), "stages are bytes");
    return {Of::THREADS, Of::SIDE, Of::CHUNKS, sizeof(typename Of::Smem)};
}

extern "C" {
__constant__ LaunchTile moe_gram_launch = launch_of<LargeTile>();
__constant__ LaunchTile moe_gram_small_launch = launch_of<SmallTile>();
__constant__ LaunchTile moe_gram_sum_launch = {SUM_THREADS, STRANDS, WARP, 0};
__constant__ LaunchTile moe_similarity_launch = {SIMILARITY_THREADS, 1, SIMILARITY_THREADS, 0};
}

extern __shared__ __align__(128) unsigned char gram_room[];

template <template <class> class Tile_, class T>
__device__ void gram(const GramParams& p) {
    using Tile = Tile_<T>;
    auto& smem = *reinterpret_cast<typename Tile::Smem*>(gram_room);
    const bool aligned = is_wide<T>(0, p.x, p.expert_stride | p.row_stride);
    aligned ? gram<Tile, true>(p, smem) : gram<Tile, false>(p, smem);
}

#define ENTRY(V)                                                                                             \
    extern "C" __global__ void __launch_bounds__(LargeTile<V>::THREADS)                                      \
        moe_gram_##V(const __grid_constant__ GramParams p) {                                                 \
        gram<LargeTile, V>(p);                                                                               \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(SmallTile<V>::THREADS)                                      \
        moe_gram_small_##V(const __grid_constant__ GramParams p) {                                           \
        gram<SmallTile, V>(p);                                                                               \
    }
GRAM_VARIANTS(ENTRY)

// Formula: gram[i, j] = gram[j, i] = [gram[i, j] +] sum over s of partial[s, (i, j)].
// Mapping: lane -> pair; warp -> every STRANDSth span.
// Idea: one thread a pair would wait for one load after the other: there are up to 1,024 spans and few pairs.
extern "C" __global__ void __launch_bounds__(SUM_THREADS) moe_gram_sum(const __grid_constant__ GramSumParams p) {
    __shared__ double strand[STRANDS][WARP];
    const uint64_t pairs = packed(p.experts, 0);
    const uint64_t position = uint64_t(blockIdx.x) * WARP + lane_id();
    double sum = 0.0;
    if (position < pairs) {
        const double* partial = array_of<const double>(p.partial) + position;  // [spans], pairs apart
#pragma unroll 8
        for (uint32_t s = warp_id(); s < p.spans; s += STRANDS) {
            sum += partial[s * pairs];
        }
    }
    strand[warp_id()][lane_id()] = sum;
    __syncthreads();
    if (warp_id() == 0 && position < pairs) {
        const Pair at = Pair::at(uint32_t(position));
        double* below = row_of<double>(p.gram, p.gram_stride, at.i) + at.j;
        double total = p.accumulate != 0 ? *below : 0.0;
        for (uint32_t w = 0; w < STRANDS; ++w) {
            total += strand[w][lane_id()];
        }
        *below = total;
        row_of<double>(p.gram, p.gram_stride, at.j)[at.i] = total;
    }
}

/// cos(g)[i, j] for j < i.
__device__ double cosine(uint64_t gram, uint64_t stride, Pair at) {
    const double* row_i = row_of<const double>(gram, stride, at.i);
    const double* row_j = row_of<const double>(gram, stride, at.j);
    const double norm_i = row_i[at.i];  // squared
    const double norm_j = row_j[at.j];
    if (norm_i <= 0.0 || norm_j <= 0.0) {
        return 0.0;
    }
    const double cosine = row_i[at.j] / sqrt(norm_i) / sqrt(norm_j);
    return cosine > 1.0 ? 1.0 : cosine < -1.0 ? -1.0 : cosine;
}

// Formula: s[i, j] = s[j, i] = alpha cos(param)[i, j] + (1 - alpha) cos(act)[i, j], s[i, i] = 1.
// Mapping: thread -> pair (i, j), j <= i.
// Idea: none; experts^2 elements are few beside what their dot products cost, so f64 costs nothing either.
extern "C" __global__ void __launch_bounds__(SIMILARITY_THREADS)
    moe_similarity_F64(const __grid_constant__ SimilarityParams p) {
    const uint64_t position = uint64_t(blockIdx.x) * SIMILARITY_THREADS + threadIdx.x;
    if (position >= packed(p.experts, 0)) {
        return;
    }
    const Pair at = Pair::at(uint32_t(position));
    double s = 1.0;
    if (at.i != at.j) {
        s = p.alpha * cosine(p.param, p.param_stride, at) + (1.0 - p.alpha) * cosine(p.act, p.act_stride, at);
    }
    row_of<double>(p.s, p.s_stride, at.i)[at.j] = s;
    row_of<double>(p.s, p.s_stride, at.j)[at.i] = s;
}
