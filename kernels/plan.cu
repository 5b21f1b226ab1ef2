// Sorting the choices of a router: tokens by cluster, and choices (token fan + slot) by expert, both stable.
#include "plan.h"

#include "common/math.cuh"

constexpr uint32_t WARPS = 4;
constexpr uint32_t ONE_WARPS = 8;
constexpr uint32_t SCAN_THREADS = 1024;
constexpr uint32_t DEPTH = 8;
/// No group.
constexpr uint32_t NONE = 0xffffffffu;

/// What a warp works with.
struct WarpRoom {
    uint32_t counts[2 * PLAN_GROUPS];          // [clusters + experts]
    uint32_t cluster[WARP];                    // [32]
    uint32_t expert[PLAN_SLOTS * (WARP + 2)];  // [fan, pitch_of(fan)], 32 tokens of each
};

/// From slot to slot of a room. The 32 tokens of a slot lie in different banks, and so do 32 choices in a row, 32 / fan
/// tokens of each slot, if fan is a power of two; else a few of them meet.
__device__ uint32_t pitch_of(uint32_t fan) {
    return WARP + ceil_div(WARP, fan);
}

constexpr uint32_t ONE_SHARED = ONE_WARPS * sizeof(WarpRoom);

extern "C" {
__constant__ LaunchTile moe_plan_launch = {ONE_WARPS * WARP, 0, 0, ONE_SHARED};
__constant__ LaunchTile moe_plan_count_launch = {WARPS * WARP, WARPS, 0, 0};
__constant__ LaunchTile moe_plan_scan_launch = {SCAN_THREADS, 0, 0, 0};
__constant__ LaunchTile moe_plan_fill_launch = {WARPS * WARP, WARPS, 0, 0};
}

/// Groups of both orders: clusters, then experts.
__device__ uint32_t groups_of(const PlanParams& p) {
    return p.clusters + p.experts;
}

/// Tokens `first..end` of a warp.
struct Range {
    uint32_t first;
    uint32_t end;
};

__device__ Range range_of(const PlanParams& p, uint32_t unit, uint32_t index) {
    const uint64_t first = min(uint64_t(index) * unit, uint64_t(p.tokens));
    return {uint32_t(first), uint32_t(min(first + unit, uint64_t(p.tokens)))};
}

/// Reads the choices of up to 32 tokens from `first` on, and replaces those that cannot be: what leaves here is in
/// range, whatever the memory holds. Returns the first token refused, or NONE.
__device__ uint32_t stage(const PlanParams& p, WarpRoom& room, uint32_t first, uint32_t count) {
    const uint32_t lane = lane_id();
    const uint32_t pitch = pitch_of(p.fan);
    __syncwarp();  // what was staged before has been read
    if (p.cluster != 0) {
        if (lane < count) {
            room.cluster[lane] = array_of<const uint32_t>(p.cluster)[first + lane];
        }
        for (uint32_t i = lane; i < count * p.fan; i += WARP) {
            const uint32_t token = i / p.fan;
            const uint32_t slot = i % p.fan;
            const uint32_t* chosen = row_of<const uint32_t>(p.expert, p.expert_stride, first + token);  // [fan]
            room.expert[slot * pitch + token] = chosen[slot];
        }
    }
    __syncwarp();
    bool refused = false;
    if (lane < count) {
        uint32_t* chosen = room.expert + lane;  // [fan], pitch apart
        if (p.cluster != 0) {
            const uint32_t per = p.experts / p.clusters;
            const uint32_t cluster = room.cluster[lane];
            refused = cluster >= p.clusters;
            for (uint32_t slot = 0; slot < p.fan; ++slot) {
                // Below the cluster's first expert the difference wraps, far above `per`.
                refused |= chosen[slot * pitch] - cluster * per >= per;
                for (uint32_t other = 0; other < slot; ++other) {
                    refused |= chosen[slot * pitch] == chosen[other * pitch];
                }
            }
        }
        if (p.cluster == 0 || refused) {
            room.cluster[lane] = 0;
            for (uint32_t slot = 0; slot < p.fan; ++slot) {
                chosen[slot * pitch] = slot;
            }
        }
    }
    __syncwarp();
    const uint32_t lanes = __ballot_sync(ALL_LANES, refused);
    return lanes == 0 ? NONE : first + __ffs(lanes) - 1;
}

/// Calls `use(count)` for every 32 tokens of a range, staged. Returns the first token refused, or NONE.
template <class Use>
__device__ uint32_t for_staged(const PlanParams& p, WarpRoom& room, Range range, Use use) {
    uint32_t refused = NONE;
    for (uint64_t at = range.first; at < range.end; at += WARP) {
        const uint32_t first = uint32_t(at);
        const uint32_t count = min(range.end - first, WARP);
        refused = min(refused, stage(p, room, first, count));
        use(first, count);
    }
    return refused;
}

/// Formula: counts[g] = number of choices of the range in group g. Returns the first token refused, or NONE.
__device__ uint32_t count(const PlanParams& p, WarpRoom& room, Range range) {
    for (uint32_t g = lane_id(); g < groups_of(p); g += WARP) {
        room.counts[g] = 0;
    }
    __syncwarp();
    return for_staged(p, room, range, [&](uint32_t, uint32_t tokens) {
        if (lane_id() < tokens) {
            atomicAdd(&room.counts[room.cluster[lane_id()]], 1);
            for (uint32_t slot = 0; slot < p.fan; ++slot) {
                atomicAdd(&room.counts[p.clusters + room.expert[slot * pitch_of(p.fan) + lane_id()]], 1);
            }
        }
    });
}

/// Gives the choice of each lane the next row of its group, lower lanes first; group NONE is no choice.
__device__ void put(uint32_t* next, uint32_t group, uint32_t choice, uint64_t source, uint64_t place) {
    const uint32_t peers = __match_any_sync(ALL_LANES, group);
    const uint32_t lower = __popc(peers & ((1u << lane_id()) - 1));
    const uint32_t row = group == NONE ? 0 : next[group] + lower;
    __syncwarp();  // every lane has read before one writes
    if (group != NONE) {
        if (lower == 0) {
            next[group] = row + __popc(peers);
        }
        array_of<uint32_t>(source)[row] = choice;
        array_of<uint32_t>(place)[choice] = row;
    }
    __syncwarp();
}

/// Places the choices of a range; `room.counts[g]` is the first row of group g that is the range's.
__device__ void fill(const PlanParams& p, WarpRoom& room, Range range) {
    for_staged(p, room, range, [&](uint32_t first, uint32_t tokens) {
        const uint32_t lane = lane_id();
        put(room.counts, lane < tokens ? room.cluster[lane] : NONE, first + lane, p.cluster_source, p.cluster_place);
        for (uint32_t begin = 0; begin < tokens * p.fan; begin += WARP) {
            const uint32_t i = begin + lane;
            const uint32_t at = i % p.fan * pitch_of(p.fan) + i / p.fan;
            const uint32_t group = i < tokens * p.fan ? room.expert[at] : NONE;
            put(room.counts + p.clusters, group, first * p.fan + i, p.expert_source, p.expert_place);
        }
    });
}

/// The rows of earlier ranges come first: counts[u, g] becomes the sum of counts[u', g] over u' < u, and offsets[g] the
/// sum over all u and g' < g. A thread has a group.
template <uint32_t THREADS>
__device__ void scan(uint32_t* counts, uint32_t stride, uint32_t units, uint32_t groups, uint64_t to,
                     uint32_t (&room)[THREADS / WARP]) {
    uint32_t* offsets = array_of<uint32_t>(to);  // [groups + 1]
    uint32_t before = 0;
    for (uint32_t first = 0; first < groups; first += THREADS) {
        const uint32_t g = first + threadIdx.x;
        uint32_t sum = 0;
        for (uint32_t begin = 0; g < groups && begin < units; begin += DEPTH) {
            uint32_t loaded[DEPTH];  // a load cannot pass a store to the same array: several first
#pragma unroll
            for (uint32_t d = 0; d < DEPTH; ++d) {
                loaded[d] = begin + d < units ? counts[(begin + d) * stride + g] : 0;
            }
#pragma unroll
            for (uint32_t d = 0; d < DEPTH; ++d) {
                if (begin + d < units) {
                    counts[(begin + d) * stride + g] = sum;
                    sum += loaded[d];
                }
            }
        }
        const uint32_t through = sum_up_to_lane(sum);
        if (lane_id() == WARP - 1) {
            room[warp_id()] = through;
        }
        __syncthreads();
        uint32_t start = before;
#pragma unroll
        for (uint32_t warp = 0; warp < THREADS / WARP; ++warp) {
            start += warp < warp_id() ? room[warp] : 0;
            before += room[warp];
        }
        if (g < groups) {
            offsets[g] = start + through - sum;
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        offsets[groups] = before;
    }
}

/// Smallest value of the warp.
__device__ uint32_t warp_least(uint32_t x) {
#pragma unroll
    for (uint32_t offset = WARP / 2; offset > 0; offset /= 2) {
        x = min(x, __shfl_xor_sync(ALL_LANES, x, offset));
    }
    return x;
}

/// First row of group `g` in its order.
__device__ uint32_t start_of(const PlanParams& p, uint32_t g) {
    return g < p.clusters ? array_of<const uint32_t>(p.cluster_offsets)[g]
                          : array_of<const uint32_t>(p.expert_offsets)[g - p.clusters];
}

// Mapping: one block; warp -> an eighth of the tokens.
// Idea: with few tokens the three steps below are shorter than the gaps between their launches, and the counts stay in
//       shared memory.
extern "C" __global__ void __launch_bounds__(ONE_WARPS* WARP) moe_plan_U32(const __grid_constant__ PlanParams p) {
    extern __shared__ WarpRoom rooms[];  // [ONE_WARPS]
    __shared__ uint32_t refused[ONE_WARPS];
    __shared__ uint32_t sums[ONE_WARPS];
    constexpr uint32_t STRIDE = sizeof(WarpRoom) / sizeof(uint32_t);
    WarpRoom& room = rooms[warp_id()];
    const uint32_t unit = ceil_div(ceil_div(p.tokens, ONE_WARPS), WARP) * WARP;
    const Range range = range_of(p, unit, warp_id());
    const uint32_t first = count(p, room, range);
    if (lane_id() == 0) {
        refused[warp_id()] = first;
    }
    __syncthreads();
    uint32_t* counts = rooms[0].counts;  // [ONE_WARPS, STRIDE]
    scan<ONE_WARPS * WARP>(counts, STRIDE, ONE_WARPS, p.clusters, p.cluster_offsets, sums);
    scan<ONE_WARPS * WARP>(counts + p.clusters, STRIDE, ONE_WARPS, p.experts, p.expert_offsets, sums);
    if (warp_id() == 0) {
        const uint32_t least = warp_least(lane_id() < ONE_WARPS ? refused[lane_id()] : NONE);
        if (lane_id() == 0) {
            *array_of<uint32_t>(p.status) = least;
        }
    }
    __syncthreads();
    for (uint32_t g = lane_id(); g < groups_of(p); g += WARP) {
        room.counts[g] += start_of(p, g);
    }
    __syncwarp();
    fill(p, room, range);
}

// Formula: counts[u, g] = number of choices of range u in group g.
// Mapping: warp -> range u; lane -> token.
// Idea: the counts of a warp are integers in shared memory, so their order does not matter; only whole rows of them reach
//       global memory.
extern "C" __global__ void __launch_bounds__(WARPS* WARP) moe_plan_count_U32(const __grid_constant__ PlanParams p) {
    __shared__ WarpRoom rooms[WARPS];
    const uint32_t unit = blockIdx.x * WARPS + warp_id();
    if (unit >= p.units) {
        return;
    }
    WarpRoom& room = rooms[warp_id()];
    const uint32_t refused = count(p, room, range_of(p, p.unit, unit));
    uint32_t* counts = array_of<uint32_t>(p.counts);  // [units, groups], then [units]
    __syncwarp();
    for (uint32_t g = lane_id(); g < groups_of(p); g += WARP) {
        counts[unit * groups_of(p) + g] = room.counts[g];
    }
    if (lane_id() == 0) {
        counts[p.units * groups_of(p) + unit] = refused;
    }
}

// Formula: offsets[g] = sum over u and g' < g of counts[u, g']; counts[u, g] = sum over u' < u of counts[u', g].
// Mapping: block 0 -> clusters, block 1 -> experts; thread -> group.
// Idea: a sum down the ranges reads whole rows of counts, and has so few of them that it needs no second level.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS) moe_plan_scan_U32(const __grid_constant__ PlanParams p) {
    __shared__ uint32_t sums[SCAN_THREADS / WARP];
    uint32_t* counts = array_of<uint32_t>(p.counts);  // [units, groups], then [units]
    if (blockIdx.x == 1) {
        scan<SCAN_THREADS>(counts + p.clusters, groups_of(p), p.units, p.experts, p.expert_offsets, sums);
        return;
    }
    scan<SCAN_THREADS>(counts, groups_of(p), p.units, p.clusters, p.cluster_offsets, sums);
    if (warp_id() == 0) {
        uint32_t refused = NONE;
        for (uint32_t unit = lane_id(); unit < p.units; unit += WARP) {
            refused = min(refused, counts[p.units * groups_of(p) + unit]);
        }
        refused = warp_least(refused);
        if (lane_id() == 0) {
            *array_of<uint32_t>(p.status) = refused;
        }
    }
}

// Formula: place[c] = offsets[g] + counts[u, g] + (number of c' < c of range u with group g), source[place[c]] = c, for
//          c in range u and group g.
// Mapping: warp -> range u; lane -> choice.
// Idea: the rank among the 32 choices of a step is a match and a population count, the rank among steps a running count
//       of the warp: rows are the same in any run, without an atomic.
extern "C" __global__ void __launch_bounds__(WARPS* WARP) moe_plan_fill_U32(const __grid_constant__ PlanParams p) {
    __shared__ WarpRoom rooms[WARPS];
    const uint32_t unit = blockIdx.x * WARPS + warp_id();
    if (unit >= p.units) {
        return;
    }
    WarpRoom& room = rooms[warp_id()];
    const uint32_t* counts = array_of<const uint32_t>(p.counts) + unit * groups_of(p);  // [groups]
    for (uint32_t g = lane_id(); g < groups_of(p); g += WARP) {
        room.counts[g] = counts[g] + start_of(p, g);
    }
    __syncwarp();
    fill(p, room, range_of(p, p.unit, unit));
}
