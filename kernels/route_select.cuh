// Scores and choices: a warp works on a row of logits in shared memory, lane l on its columns l, l + 32, ...
#pragma once

#include <math_constants.h>

#include "common/math.cuh"
#include "route.h"

/// Added to what weights are divided by: scores that a bias makes a token choose may all be 0.
constexpr float TINY = 1e-20f;

/// Larger for a larger score, and for the lower id of equal scores; NaN counts as -infinity. Keys differ from each
/// other and from 0.
__device__ inline uint64_t key_of(float score, uint32_t id) {
    const uint32_t bits = __float_as_uint(score != score ? -CUDART_INF_F : score + 0.0f);  // + 0: there is one zero
    const uint32_t ordered = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
    return uint64_t(ordered) << 32 | uint32_t(~id);
}

__device__ inline uint32_t id_of(uint64_t key) {
    return ~uint32_t(key);
}

/// The largest key of the warp.
__device__ inline uint64_t best_of(uint64_t key) {
    const uint32_t score = __reduce_max_sync(ALL_LANES, uint32_t(key >> 32));
    const uint32_t id = __reduce_max_sync(ALL_LANES, uint32_t(key >> 32) == score ? uint32_t(key) : 0);
    return uint64_t(score) << 32 | id;
}

/// The columns that may be chosen: groups of `size` columns whose bit is set.
struct Groups {
    uint32_t kept;
    uint32_t size;
};

/// Column `c` as choices see it.
__device__ inline float biased(const float* score, const float* bias, uint32_t c) {
    return bias != nullptr ? score[c] + bias[c] : score[c];
}

/// The `count` best columns, at most 32, in falling order: lane s gets the s-th.
// A round looks for the largest key below that of the round before, so nothing has to be struck out.
__device__ inline uint32_t best_columns(const float* score, const float* bias, uint32_t columns, uint32_t count,
                                        Groups groups) {
    uint64_t last = ~0ull;
    uint32_t mine = 0;
    for (uint32_t slot = 0; slot < count; ++slot) {
        uint64_t best = 0;
        for (uint32_t c = lane_id(); c < columns; c += WARP) {
            const uint64_t key = key_of(biased(score, bias, c), c);
            const bool candidate = (groups.kept >> c / groups.size & 1) != 0;
            best = candidate && key < last && key > best ? key : best;
        }
        last = best_of(best);
        mine = lane_id() == slot ? id_of(last) : mine;
    }
    return mine;
}

/// The `top_groups` groups with the largest sums of their two largest scores.
__device__ inline Groups best_groups(const float* score, const float* bias, const RouteRule& rule) {
    const uint32_t size = rule.experts / rule.groups, group = lane_id();
    uint64_t key = 0;
    if (group < rule.groups) {
        float top = -CUDART_INF_F, next = -CUDART_INF_F;
        for (uint32_t c = group * size; c < (group + 1) * size; ++c) {
            const float s = biased(score, bias, c);
            next = s > top ? top : s > next ? s : next;
            top = s > top ? s : top;
        }
        key = key_of(size > 1 ? top + next : top, group);
    }
    Groups groups = {0, size};
    for (uint32_t i = 0; i < rule.top_groups; ++i) {
        const uint64_t best = best_of(key);
        groups.kept |= 1u << id_of(best);
        key = key == best ? 0 : key;
    }
    return groups;
}

/// One softmax (or sigmoid) and its choices.
struct Level {
    /// Lane s: the s-th choice.
    uint32_t chosen;
    /// Log of the denominator; 0 of a sigmoid.
    float lse;
    /// Sum of the scores: 1 of a softmax. 0 if the logits give no distribution.
    float mass;
};

/// Divides the logits.
__device__ inline float temperature_of(const RouteRule& rule) {
    return rule.temperature_at != 0 ? *array_of<const float>(rule.temperature_at) : rule.temperature;
}

/// Chooses `count` columns, and turns the logits into scores where they give a distribution.
__device__ inline Level choose(float* row, const float* bias, uint32_t columns, uint32_t count, bool grouped,
                               const RouteRule& rule) {
    const bool use_sigmoid = grouped && rule.sigmoid != 0;
    float top = -CUDART_INF_F;
    bool nan = false;
    for (uint32_t c = lane_id(); c < columns; c += WARP) {
        nan |= row[c] != row[c];
        top = fmaxf(top, row[c]);
    }
    top = warp_max(top);
    const bool finite = !__any_sync(ALL_LANES, nan) && fabsf(top) < CUDART_INF_F;
    const Groups all = {1, columns};
    Level level = {0, 0.0f, 0.0f};
    // Without a bias the logits decide: probabilities of different logits may round to the same.
    const bool by_score = finite && (grouped || bias != nullptr);
    if (!by_score) {
        __syncwarp();
        level.chosen = best_columns(row, nullptr, columns, count, grouped ? best_groups(row, nullptr, rule) : all);
        __syncwarp();
    }
    if (finite) {
        float sum = 0.0f;
        for (uint32_t c = lane_id(); c < columns; c += WARP) {
            const float score = use_sigmoid ? sigmoid(row[c]) : expf(row[c] - top);
            row[c] = score;
            sum += score;
        }
        sum = warp_sum(sum);
        if (!use_sigmoid) {
            for (uint32_t c = lane_id(); c < columns; c += WARP) {
                row[c] /= sum;
            }
        }
        level.lse = use_sigmoid ? 0.0f : top + logf(sum);
        level.mass = use_sigmoid ? sum : 1.0f;
        __syncwarp();
    }
    if (by_score) {
        level.chosen = best_columns(row, bias, columns, count, grouped ? best_groups(row, bias, rule) : all);
        __syncwarp();
    }
    return level;
}
