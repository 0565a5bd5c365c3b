// int8 weights, held as 128 more (uint8), with a scale for each row; activations as int8 with a scale for each BLOCK of them. Of every
// four activations -128 times their sum is kept as well, from which the sum of four products starts, so that it is exact.
#define BLOCK 32
#define QUADS(K) (UP(K, STEP) / 4)

typedef struct {
    const int8_t *q;
    const int32_t *less;
    const float *scale;  // of each quad
} quantized;

INLINE quantized quantized_at(const char *act, int64_t K) {
    return (quantized){(const int8_t *)act, (const int32_t *)(act + UP(K, STEP)), (const float *)(act + 2 * UP(K, STEP))};
}

static void NAME(prepare)(int64_t K, const float *x, char *act) {
    int8_t *q = (int8_t *)act;
    int32_t *less = (int32_t *)(act + UP(K, STEP));
    float *scale = (float *)(act + 2 * UP(K, STEP));
    for (int64_t first = 0; first < UP(K, STEP); first += BLOCK) {
        const int64_t count = K - first < 0 ? 0 : K - first < BLOCK ? K - first : BLOCK;
        float most = 0;
#pragma omp simd reduction(max : most)
        for (int64_t j = 0; j < count; j++) most = fabsf(x[first + j]) > most ? fabsf(x[first + j]) : most;
        const float factor = most > 0 ? 127.0f / most : 0;
        for (int64_t j = 0; j < BLOCK; j++) q[first + j] = j < count ? (int8_t)rintf(x[first + j] * factor) : 0;
        for (int64_t j = first / 4; j < (first + BLOCK) / 4; j++) {
            less[j] = -128 * (q[4 * j] + q[4 * j + 1] + q[4 * j + 2] + q[4 * j + 3]);
            scale[j] = most / 127.0f;
        }
    }
}

#ifdef __AVX512VNNI__
#include <immintrin.h>
INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const uint8_t *w, const char *act, float sums[4][4]) {
    __m512 found[4][4];
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < rows; j++) found[i][j] = _mm512_setzero_ps();
    const int64_t wide = UP(K, STEP);
    for (int64_t k = 0; k < wide; k += 64) {
        __m512i weights[4];
        for (int j = 0; j < rows; j++) weights[j] = _mm512_loadu_si512(w + j * wide + k);
        for (int i = 0; i < tokens; i++) {
            const quantized x = quantized_at(act + i * 3 * wide, K);
            __m512i q = _mm512_loadu_si512(x.q + k), less = _mm512_loadu_si512(x.less + k / 4);
            __m512 scale = _mm512_loadu_ps(x.scale + k / 4);
            __asm__("" : "+v"(q), "+v"(less), "+v"(scale));  // else the compiler reads them again for each row
            for (int j = 0; j < rows; j++)
                found[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(less, weights[j], q)), scale, found[i][j]);
        }
    }
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < rows; j++) sums[i][j] = _mm512_reduce_add_ps(found[i][j]);
}
#else
INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const uint8_t *w, const char *act, float sums[4][4]) {
    const int64_t wide = UP(K, STEP);
    for (int i = 0; i < tokens; i++) {
        const quantized x = quantized_at(act + i * 3 * wide, K);
        for (int j = 0; j < rows; j++) {
            float sum = 0;
            for (int64_t k = 0; k < wide; k += BLOCK) {
                int32_t dot = 0;
                for (int64_t l = k; l < k + BLOCK; l++) dot += (int16_t)x.q[l] * (int16_t)(w[j * wide + l] - 128);
                sum += (float)dot * x.scale[k / 4];
            }
            sums[i][j] = sum;
        }
    }
}
#endif

static void NAME(embed)(int64_t D, const uint8_t *w, const float *scale, int64_t id, float *x) {
    for (int64_t j = 0; j < D; j++) x[j] = (float)(w[id * UP(D, STEP) + j] - 128) * scale[id];
}
