// bfloat16 or float32 weights, rows filled up with zeros to a multiple of STEP; activations in float32.
static void NAME(prepare)(int64_t K, const float *x, char *act) {
    memcpy(act, x, K * sizeof(float));
    memset(act + K * sizeof(float), 0, (UP(K, STEP) - K) * sizeof(float));
}

INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const WEIGHT *w, const char *act, float sums[4][4]) {
    const int64_t wide = UP(K, STEP);
    float found[4][4][STEP];
    memset(found, 0, sizeof(found));
    for (int64_t k = 0; k < wide; k += STEP)
        for (int j = 0; j < rows; j++)
            for (int i = 0; i < tokens; i++) {
                const float *x = (const float *)act + i * wide + k;
                const WEIGHT *row = w + j * wide + k;
#pragma omp simd
                for (int l = 0; l < STEP; l++) found[i][j][l] += OF(row[l]) * x[l];
            }
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < rows; j++) {
            float sum = 0;
            for (int l = 0; l < STEP; l++) sum += found[i][j][l];
            sums[i][j] = sum;
        }
}

// Up to four rows of weights with up to four tokens' activations.
static void NAME(tile)(int tokens, int rows, int64_t K, const WEIGHT *w, const char *act, float sums[4][4]) {
    if (rows == 4 && tokens == 1) NAME(tile_of)(1, 4, K, w, act, sums);
    else if (rows == 4 && tokens == 2) NAME(tile_of)(2, 4, K, w, act, sums);
    else if (rows == 4 && tokens == 3) NAME(tile_of)(3, 4, K, w, act, sums);
    else if (rows == 4) NAME(tile_of)(4, 4, K, w, act, sums);
    else NAME(tile_of)(tokens, rows, K, w, act, sums);
}

static void NAME(normed)(int64_t D, const float *x, const float *weight, float eps, char *act, float *own) {
    norm_of(D, x, weight, eps, own);
    NAME(prepare)(D, own, act);
}

static void NAME(embed)(int64_t D, const WEIGHT *w, const float *scale, int64_t id, float *x) {
    for (int64_t j = 0; j < D; j++) x[j] = OF(w[id * UP(D, STEP) + j]);
}
