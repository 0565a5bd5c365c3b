// bfloat16 or float32 weights, rows filled up with zeros to a multiple of STEP; activations rounded to the same kind, and held in it (ACT)
// where products take them so, else in float32; sums in float32.
static void NAME(prepare)(int64_t K, const float *x, char *act) {
    ACT *to = (ACT *)act;
    for (int64_t j = 0; j < K; j++) to[j] = TAKEN(x[j]);
    memset(to + K, 0, (UP(K, STEP) - K) * sizeof(ACT));
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
#define CHAINS (STEP / 8)  // sums of a row and a token, in registers
#define SOME (8 / CHAINS)  // tokens for which there are as many registers

// Rows one by one, as they lie in memory.
INLINE void NAME(some_of)(const int tokens, const int rows, int64_t K, const WEIGHT *w, const char *act, float sums[][4]) {
    const int64_t wide = UP(K, STEP);
    for (int j = 0; j < rows; j++) {
        eight found[SOME][CHAINS];
        for (int i = 0; i < tokens; i++)
            for (int c = 0; c < CHAINS; c++) found[i][c] = (eight){0};
        for (int64_t k = 0; k < wide; k += STEP)
            for (int c = 0; c < CHAINS; c++) {
                const eight weight = EIGHT(w + j * wide + k + 8 * c);
                for (int i = 0; i < tokens; i++)
                    found[i][c] = fused(weight, eight_floats((const float *)act + i * wide + k + 8 * c), found[i][c]);
            }
        for (int i = 0; i < tokens; i++) {
            eight f = found[i][0];
            for (int c = 1; c < CHAINS; c++) f += found[i][c];
            sums[i][j] = sum_of(f);
        }
    }
}

INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const WEIGHT *w, const char *act, float sums[4][4]) {
    for (int n = 0; n < tokens; n += SOME)
        NAME(some_of)(tokens - n < SOME ? tokens - n : SOME, rows, K, w, act + n * ACT_BYTES(K), sums + n);
}
#undef CHAINS
#undef SOME
#endif

static void NAME(embed)(int64_t D, const WEIGHT *w, const float *scale, int64_t id, float *x) {
    for (int64_t j = 0; j < D; j++) x[j] = OF(w[id * UP(D, STEP) + j]);
}
