// For each kind of number (kinds.h): one head of one token: norm (weight may be null: none), then the rotation by cosine and signed sine
// (C each) -> y (C).
INLINE void NAME(turn)(int64_t C, const REAL *x, const float *weight, float eps, const float *cosine, const float *sine, float *y) {
    const int64_t half = C / 2;
    float s = 1.0f;
    if (weight) {
        float square = 0;
#pragma omp simd reduction(+ : square)
        for (int64_t j = 0; j < C; j++) square += OF(x[j]) * OF(x[j]);
        s = 1.0f / sqrtf(square / (float)C + eps);
    }
    float normed[MOST];
#pragma omp simd
    for (int64_t j = 0; j < C; j++) normed[j] = OF(x[j]) * s * (weight ? weight[j] : 1.0f);
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        y[j] = normed[j] * cosine[j] + normed[j + half] * sine[j];
        y[j + half] = normed[j + half] * cosine[j + half] + normed[j] * sine[j + half];
    }
}
