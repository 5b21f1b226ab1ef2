// steps times x[i] = (x[i - 1] + x[i] + x[i + 1]) / 3 with zeros outside, rows of up to 128 values, a row a block.
extern "C" __global__ void stencil(float* y, const float* x, int width, int steps) {
    extern __shared__ float buffers[];  // two of width + 2
    int i = threadIdx.x, stride = width + 2;
    if (i < 2) {
#if BUG != 3  // the right halo is not written
        buffers[i * stride + width + 1] = 0;
#endif
        buffers[i * stride] = 0;
    }
    if (i < width) buffers[i + 1] = x[blockIdx.x * width + i];
    __syncthreads();
    int now = 0;
    for (int s = 0; s < steps; s++) {
        const float* from = buffers + now * stride + i;
#if BUG == 2  // writes where the others read
        float* to = buffers + now * stride + i;
#else
        float* to = buffers + (1 - now) * stride + i;
#endif
        if (i < width) to[1] = (from[0] + from[1] + from[2]) / 3;
        now = 1 - now;
#if BUG != 1  // barrier removed
        __syncthreads();
#endif
    }
#if BUG == 4  // one value too many
    if (i <= width) y[blockIdx.x * width + i] = buffers[now * stride + i + 1];
#else
    if (i < width) y[blockIdx.x * width + i] = buffers[now * stride + i + 1];
#endif
}
