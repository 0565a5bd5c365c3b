// int8 weights, held as 128 more (uint8), with a scale for each row; activations as int8 with a scale for each BLOCK of them. Of the
// activations that one lane of a vector multiplies in a block, -128 times their sum is kept as well, from which the lane's sum of products
// starts, so that it is exact.
#define BLOCK 128
#define BLOCKS(K) (UP(K, BLOCK) / BLOCK)
#define LANES 16

// x (K) -> whole numbers, zeros behind them up to `wide`, and a scale for each block.
static void whole_numbers(int64_t K, int64_t wide, const float *x, int8_t *q, float *scale) {
    for (int64_t first = 0; first < wide; first += BLOCK) {
        const int64_t count = K - first < BLOCK ? K - first : BLOCK, room = wide - first < BLOCK ? wide - first : BLOCK;
        float most = 0;
#pragma omp simd reduction(max : most)
        for (int64_t j = 0; j < count; j++) most = fabsf(x[first + j]) > most ? fabsf(x[first + j]) : most;
        const float factor = most > 0 ? 127.0f / most : 0;
        for (int64_t j = 0; j < count; j++) q[first + j] = (int8_t)rintf(x[first + j] * factor);
        for (int64_t j = count; j < room; j++) q[first + j] = 0;
        scale[first / BLOCK] = most / 127.0f;
    }
}

typedef struct {
    const int8_t *q;
    const int32_t *less;  // LANES of each block
    const float *scale;   // of each block
} quantized;

INLINE quantized quantized_at(const char *act, int64_t K) {
    const int64_t wide = UP(K, STEP);
    return (quantized){(const int8_t *)act, (const int32_t *)(act + wide), (const float *)(act + wide + 4 * LANES * BLOCKS(K))};
}

static void NAME(prepare)(int64_t K, const float *x, char *act) {
    const int64_t wide = UP(K, STEP);
    const quantized to = quantized_at(act, K);
    int32_t *less = (int32_t *)to.less;
    whole_numbers(K, wide, x, (int8_t *)to.q, (float *)to.scale);
    memset(less, 0, 4 * LANES * BLOCKS(K));
    for (int64_t k = 0; k < wide; k += STEP)
        for (int64_t l = 0; l < LANES; l++) {
            const int8_t *four = to.q + k + 4 * l;
            less[k / BLOCK * LANES + l] -= 128 * (four[0] + four[1] + four[2] + four[3]);
        }
}

#ifdef __AVX512VNNI__
// A step of 64 columns, or both of a block, of each row with each token.
INLINE void NAME(steps)(
    const int tokens, const int rows, const int steps, int64_t K, int64_t k, const uint8_t *w, const char *act, __m512 found[4][4]
) {
    const int64_t wide = UP(K, STEP);
    __m512i weights[4][2];
    for (int j = 0; j < rows; j++)
        for (int s = 0; s < steps; s++) weights[j][s] = _mm512_loadu_si512(w + j * wide + k + s * STEP);
    for (int i = 0; i < tokens; i++) {
        const quantized x = quantized_at(act + i * ACT_BYTES(K), K);
        __m512i less = _mm512_loadu_si512(x.less + k / BLOCK * LANES), q[2];
        __m512 scale = _mm512_set1_ps(x.scale[k / BLOCK]);
        for (int s = 0; s < steps; s++) q[s] = _mm512_loadu_si512(x.q + k + s * STEP);
        __asm__("" : "+v"(q[0]), "+v"(less), "+v"(scale));  // else the compiler reads them again for each row
        for (int j = 0; j < rows; j++) {
            __m512i sum = less;
            for (int s = 0; s < steps; s++) sum = _mm512_dpbusd_epi32(sum, weights[j][s], q[s]);
            found[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, found[i][j]);
        }
    }
}

INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const uint8_t *w, const char *act, float sums[4][4]) {
    __m512 found[4][4];
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < rows; j++) found[i][j] = _mm512_setzero_ps();
    const int64_t wide = UP(K, STEP), whole = wide / BLOCK * BLOCK;
    for (int64_t k = 0; k < whole; k += BLOCK) NAME(steps)(tokens, rows, 2, K, k, w, act, found);
    if (whole < wide) NAME(steps)(tokens, rows, 1, K, whole, w, act, found);
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < rows; j++) sums[i][j] = _mm512_reduce_add_ps(found[i][j]);
}
#elif defined(__AVX2__)
// The instruction for whole numbers takes one of them without a sign, and two products must fit 16 bits: the weight's sign goes over to
// the activation.
INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const uint8_t *w, const char *act, float sums[4][4]) {
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8(-128);
    const int64_t wide = UP(K, STEP);
    for (int j = 0; j < rows; j++) {  // one by one, as they lie in memory
        __m256 found[4];
        for (int i = 0; i < tokens; i++) found[i] = _mm256_setzero_ps();
        for (int64_t k = 0; k < wide; k += BLOCK) {
            const int64_t end = wide - k < BLOCK ? wide : k + BLOCK;
            __m256i sum[4];
            for (int i = 0; i < tokens; i++) sum[i] = _mm256_setzero_si256();
            for (int64_t l = k; l < end; l += 32) {
                const __m256i weight = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(w + j * wide + l)), flip);
                const __m256i size = _mm256_abs_epi8(weight);
                for (int i = 0; i < tokens; i++) {
                    const __m256i q = _mm256_loadu_si256((const __m256i *)(act + i * ACT_BYTES(K) + l));
                    const __m256i two = _mm256_maddubs_epi16(size, _mm256_sign_epi8(q, weight));
                    sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(two, ones));
                }
            }
            for (int i = 0; i < tokens; i++) {
                const __m256 scale = _mm256_set1_ps(quantized_at(act + i * ACT_BYTES(K), K).scale[k / BLOCK]);
                found[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i]), scale, found[i]);
            }
        }
        for (int i = 0; i < tokens; i++) sums[i][j] = sum_of((eight)found[i]);
    }
}
#else
INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const uint8_t *w, const char *act, float sums[4][4]) {
    const int64_t wide = UP(K, STEP);
    for (int i = 0; i < tokens; i++) {
        const quantized x = quantized_at(act + i * ACT_BYTES(K), K);
        for (int j = 0; j < rows; j++) {
            float sum = 0;
            for (int64_t k = 0; k < wide; k += BLOCK) {
                const int64_t end = wide - k < BLOCK ? wide : k + BLOCK;
                int32_t dot = 0;
                for (int64_t l = k; l < end; l++) dot += (int16_t)x.q[l] * (int16_t)(w[j * wide + l] - 128);
                sum += (float)dot * x.scale[k / BLOCK];
            }
            sums[i][j] = sum;
        }
    }
}
#endif

static void NAME(embed)(int64_t D, const uint8_t *w, const float *scale, int64_t id, float *x) {
    for (int64_t j = 0; j < D; j++) x[j] = (float)(w[id * UP(D, STEP) + j] - 128) * scale[id];
}
