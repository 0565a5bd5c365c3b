// For each kind of number (kinds.h): one query's scores of the keys that it knows -> weights, the softmax of factor x score, then 0 up to
// `seen`; the logarithm of the sum of the exponentials. The scores' place is used.
INLINE float NAME(weigh)(int64_t known, int64_t seen, float factor, float *scores, REAL *weights) {
    float most = scores[0], sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < known; j++) most = scores[j] > most ? scores[j] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < known; j++) sum += scores[j] = exponential((scores[j] - most) * factor);
    const float share = 1.0f / sum;
#pragma omp simd
    for (int64_t j = 0; j < known; j++) weights[j] = TO(scores[j] * share);
    memset(weights + known, 0, (seen - known) * sizeof(REAL));
    return most * factor + logf(sum);
}
