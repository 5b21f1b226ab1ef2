// The per-slot part of clustered experts: low-rank residuals, activation, weighted sums; and its gradient.
#include "expand_backward.cuh"
#include "expand_factors.cuh"
#include "expand_forward.cuh"

/// Many tokens: 64 rows share the factors that pass through L1.
using Tall = ExpandShape<4, 2, 8, true>;
/// Few tokens: the warps of a block share the columns of 16 rows.
using Flat = ExpandShape<1, 4, 8, true>;
/// Any address, stride and size.
using Any = ExpandShape<1, 1, 32, false>;
/// The backward has more sums a row, and fewer rows, or sums, fit.
using TallBackward = ExpandShape<4, 2, 4, true>;

template <class Shape>
constexpr LaunchTile forward_tile = {Shape::THREADS, Shape::ROWS, Shape::UNITS, sizeof(ExpandRoom<Shape>)};
template <class Shape>
constexpr LaunchTile backward_tile = {Shape::THREADS, Shape::ROWS, Shape::UNITS, sizeof(ExpandBackwardRoom<Shape>)};

extern "C" {
__constant__ LaunchTile moe_expand_tall_launch = forward_tile<Tall>;
__constant__ LaunchTile moe_expand_flat_launch = forward_tile<Flat>;
__constant__ LaunchTile moe_expand_any_launch = forward_tile<Any>;
__constant__ LaunchTile moe_expand_backward_tall_launch = backward_tile<TallBackward>;
__constant__ LaunchTile moe_expand_backward_flat_launch = backward_tile<Flat>;
__constant__ LaunchTile moe_expand_backward_any_launch = backward_tile<Any>;
__constant__ LaunchTile moe_expand_factors_launch = {FACTOR_WARPS * WARP, PIECE, FACTOR_WARPS * STRIP, 0};
__constant__ LaunchTile moe_expand_fold_launch = {FOLD_THREADS, 1, FOLD_THREADS, 0};
}

/// Dynamic shared memory.
template <class Room>
__device__ Room& room_of() {
    extern __shared__ uint4 bytes[];
    return *reinterpret_cast<Room*>(bytes);
}

#define FORWARD(NAME, SHAPE, V)                                                                              \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS, 1)                                          \
        moe_expand_##NAME##_##V(const __grid_constant__ ExpandParams p) {                                    \
        expand<V, SHAPE, PlainFactors>(p, room_of<ExpandRoom<SHAPE>>());                                     \
    }
#define BACKWARD(NAME, SHAPE, V)                                                                             \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS)                                             \
        moe_expand_backward_##NAME##_##V(const __grid_constant__ ExpandBackwardParams p) {                   \
        expand_backward<V>(p, room_of<ExpandBackwardRoom<SHAPE>>());                                         \
    }
#define FACTORS(NAME, WHOLE, V)                                                                              \
    extern "C" __global__ void __launch_bounds__(FACTOR_WARPS* WARP)                                         \
        moe_expand_##NAME##_##V(const __grid_constant__ ExpandFactorsParams p) {                             \
        __shared__ FactorTiles<V> tiles[FACTOR_WARPS];                                                       \
        expand_factors<V, WHOLE>(p, tiles[warp_id()]);                                                       \
    }
#define ENTRY(V)                   \
    FORWARD(tall, Tall, V)         \
    FORWARD(flat, Flat, V)         \
    FORWARD(any, Any, V)           \
    BACKWARD(tall, TallBackward, V) \
    BACKWARD(flat, Flat, V)        \
    BACKWARD(any, Any, V)          \
    FACTORS(factors, true, V)      \
    FACTORS(factors_any, false, V)
EXPAND_VARIANTS(ENTRY)

extern "C" __global__ void __launch_bounds__(FOLD_THREADS)
    moe_expand_fold(const __grid_constant__ ExpandFoldParams p) {
    __shared__ uint32_t room[FOLD_THREADS / WARP];
    expand_fold(p, room);
}
