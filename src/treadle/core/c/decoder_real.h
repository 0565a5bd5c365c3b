// bfloat16 or float32 weights, rows filled up with zeros to a multiple of STEP; activations of the same kind, sums in float32.
static void NAME(prepare)(int64_t K, const float *x, char *act) {
    WEIGHT *to = (WEIGHT *)act;
    for (int64_t j = 0; j < K; j++) to[j] = TO(x[j]);
    memset(to + K, 0, (UP(K, STEP) - K) * sizeof(WEIGHT));
}

#ifdef PAIRS
INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const WEIGHT *w, const char *act, float sums[4][4]) {
    const int64_t wide = UP(K, STEP);
    __m512 found[4][4];
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < rows; j++) found[i][j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < wide; k += STEP) {
        __m512i weights[4];
        for (int j = 0; j < rows; j++) weights[j] = _mm512_loadu_si512(w + j * wide + k);
        for (int i = 0; i < tokens; i++) {
            __m512i x = _mm512_loadu_si512((const WEIGHT *)act + i * wide + k);
            __asm__("" : "+v"(x));  // else the compiler reads it again for each row
            for (int j = 0; j < rows; j++) found[i][j] = _mm512_dpbf16_ps(found[i][j], (__m512bh)weights[j], (__m512bh)x);
        }
    }
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < rows; j++) sums[i][j] = _mm512_reduce_add_ps(found[i][j]);
}
#else
INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const WEIGHT *w, const char *act, float sums[4][4]) {
    const int64_t wide = UP(K, STEP);
    float found[4][4][16];
    memset(found, 0, sizeof(found));
    for (int64_t k = 0; k < wide; k += 16)
        for (int j = 0; j < rows; j++)
            for (int i = 0; i < tokens; i++) {
                const WEIGHT *x = (const WEIGHT *)act + i * wide + k, *row = w + j * wide + k;
#pragma omp simd
                for (int l = 0; l < 16; l++) found[i][j][l] += OF(row[l]) * OF(x[l]);
            }
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < rows; j++) {
            float sum = 0;
            for (int l = 0; l < 16; l++) sum += found[i][j][l];
            sums[i][j] = sum;
        }
}
#endif

static void NAME(embed)(int64_t D, const WEIGHT *w, const float *scale, int64_t id, float *x) {
    for (int64_t j = 0; j < D; j++) x[j] = OF(w[id * UP(D, STEP) + j]);
}
