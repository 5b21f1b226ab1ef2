// y[columns, rows] = x[rows, columns]^T through tiles of 32 x 32; 32 x 8 threads; a block makes several tiles.
extern "C" __global__ void transpose(float* y, const float* x, int rows, int columns) {
    __shared__ float tile[32][33];
    int across = (columns + 31) / 32, down = (rows + 31) / 32, tx = threadIdx.x, ty = threadIdx.y;
    for (int t = blockIdx.x; t < across * down; t += gridDim.x) {
        int r0 = t / across * 32, c0 = t % across * 32;
        for (int i = ty; i < 32; i += 8)
            if (r0 + i < rows && c0 + tx < columns) tile[i][tx] = x[(size_t)(r0 + i) * columns + c0 + tx];
#if BUG != 1  // barrier removed
        __syncthreads();
#endif
        for (int i = ty; i < 32; i += 8)
#if BUG == 3  // one column too many is written
            if (c0 + i <= columns && r0 + tx < rows)
#elif BUG == 5  // the ragged edge is not respected
            if (c0 + i < columns)
#else
            if (c0 + i < columns && r0 + tx < rows)
#endif
#if BUG == 4  // indices exchanged
                y[(size_t)(c0 + i) * rows + r0 + tx] = tile[i][tx];
#else
                y[(size_t)(c0 + i) * rows + r0 + tx] = tile[tx][i];
#endif
#if BUG != 2  // second barrier removed: the next tile may overwrite what others still read
        __syncthreads();
#endif
    }
}
