// Softmax over the k largest of e logits, a warp for each row; of equal logits the one with the lower index wins.
// At most 128 logits; values and indices in descending order.
#define ALL 0xffffffffu

extern "C" __global__ void topk(float* weights, int* indices, const float* logits, int rows, int e, int k) {
    int lane = threadIdx.x % 32, row = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= rows) return;
    const float* x = logits + (size_t)row * e;
    float mine[4];
    for (int i = 0; i < 4; i++) {
        int at = i * 32 + lane;
#if BUG == 1  // one logit too many
        mine[i] = at <= e ? x[at] : -INFINITY;
#else
        mine[i] = at < e ? x[at] : -INFINITY;
#endif
    }
    float top = 0, total = 0, kept = 0;
    for (int r = 0; r < k; r++) {
        float best = -INFINITY;
        int where = 1 << 30;
        for (int i = 0; i < 4; i++)
            if (mine[i] > best) {
                best = mine[i];
                where = i * 32 + lane;
            }
        for (int d = 16; d > 0; d /= 2) {
            float other = __shfl_xor_sync(ALL, best, d);
            int place = __shfl_xor_sync(ALL, where, d);
#if BUG == 2  // the higher index wins
            if (other > best || (other == best && place > where)) {
#elif BUG == 3  // whoever comes first wins
            if (other > best) {
#else
            if (other > best || (other == best && place < where)) {
#endif
                best = other;
                where = place;
            }
        }
        if (r == 0) top = best;
        float w = __expf(best - top);
#if BUG == 5  // the last one does not count
        if (r + 1 < k)
#endif
            total += w;
        if (lane == r) {
            kept = w;
            indices[row * k + r] = where;
        }
#if BUG == 4  // the winner stays when it belongs to the last lane
        if (where % 32 == lane && lane != 31)
#else
        if (where % 32 == lane)
#endif
            for (int i = 0; i < 4; i++)
                if (i == where / 32) mine[i] = -INFINITY;
    }
    if (lane < k) weights[row * k + lane] = kept / total;
}
