// The per-slot part of clustered experts: low-rank residuals, activation, weighted sums.
#include "expand_forward.cuh"

/// Many tokens: 64 rows share the factors that pass through L1.
using Tall = ExpandShape<4, 2, 8, true>;
/// Few tokens: the warps of a block share the columns of 16 rows.
using Flat = ExpandShape<1, 4, 8, true>;
/// Any address, stride and size.
using Any = ExpandShape<1, 1, 32, false>;

template <class Shape>
constexpr LaunchTile forward_tile = {Shape::THREADS, Shape::ROWS, Shape::UNITS, sizeof(ExpandRoom<Shape>)};

extern "C" {
__constant__ LaunchTile moe_expand_tall_launch = forward_tile<Tall>;
__constant__ LaunchTile moe_expand_flat_launch = forward_tile<Flat>;
__constant__ LaunchTile moe_expand_any_launch = forward_tile<Any>;
}

/// Dynamic shared memory.
template <class Room>
__device__ Room& room_of() {
    extern __shared__ uint4 bytes[];
    return *reinterpret_cast<Room*>(bytes);
}

#define FORWARD(NAME, SHAPE, V)                                                                              \
    extern "C" __global__ void __launch_bounds__(SHAPE::THREADS)                                             \
        moe_expand_##NAME##_##V(const __grid_constant__ ExpandParams p) {                                    \
        expand<V>(p, room_of<ExpandRoom<SHAPE>>());                                                          \
    }
#define ENTRY(V)           \
    FORWARD(tall, Tall, V) \
    FORWARD(flat, Flat, V) \
    FORWARD(any, Any, V)
EXPAND_VARIANTS(ENTRY)
