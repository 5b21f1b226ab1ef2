// c[i] = a[i] + b[i]. Grid: any number of blocks; every thread strides over groups of four elements, then over the
// tail. The arrays are 16-byte aligned.
#include <cstdint>

extern "C" __global__ void __launch_bounds__(256)
vector_add(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, uint32_t n) {
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t threads = gridDim.x * blockDim.x;
    const uint32_t groups = n / 4;
    for (uint32_t i = thread; i < groups; i += threads) {
        const float4 x = reinterpret_cast<const float4*>(a)[i];
        const float4 y = reinterpret_cast<const float4*>(b)[i];
        reinterpret_cast<float4*>(c)[i] = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
    }
    for (uint32_t i = 4 * groups + thread; i < n; i += threads) c[i] = a[i] + b[i];
}
