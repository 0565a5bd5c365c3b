// Weights in four bits, in groups of 32 columns: least + scale * (0 to 15). Of each 64 columns of a row there is a piece: the scales of its
// two groups (bf16), then the numbers, those of the first group in the lower halves of 32 bytes; behind a row's pieces the groups' least
// values (bf16). Activations are whole numbers as in decoder_int8.h, with the sum of each group's
// times their scale, which is what the least value is multiplied with.
#define PIECE 36
#define GROUP 32
#define GROUPS(K) (UP(K, STEP) / GROUP)

typedef struct {
    const int8_t *q;
    const float *sums;   // of each group, with zeros up to a whole vector
    const float *scale;  // of each block
} grouped;

INLINE grouped grouped_at(const char *act, int64_t K) {
    const int64_t wide = UP(K, STEP);
    return (grouped){(const int8_t *)act, (const float *)(act + wide), (const float *)(act + wide + 4 * UP(GROUPS(K), LANES))};
}

static void NAME(prepare)(int64_t K, const float *x, char *act) {
    const int64_t wide = UP(K, STEP);
    const grouped to = grouped_at(act, K);
    float *sums = (float *)to.sums;
    whole_numbers(K, wide, x, (int8_t *)to.q, (float *)to.scale);
    memset(sums, 0, 4 * UP(GROUPS(K), LANES));
    for (int64_t k = 0; k < wide; k += GROUP) {
        int32_t sum = 0;
        for (int64_t l = k; l < k + GROUP; l++) sum += to.q[l];
        sums[k / GROUP] = (float)sum * to.scale[k / BLOCK];
    }
}

#ifdef __AVX512VNNI__
// A step of 64 columns, or both of a block, of each row with each token.
INLINE void NAME(steps)(
    const int tokens, const int rows, const int steps, int64_t K, int64_t k, const uint8_t *w, const char *act, __m512 found[4][4]
) {
    const __m256i half = _mm256_set1_epi8(15);
    const __m512i second = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i weights[4][2];
    __m512 scale[4][2];
    for (int j = 0; j < rows; j++)
        for (int s = 0; s < steps; s++) {
            const uint8_t *piece = w + j * ROW(K) + (k / STEP + s) * PIECE;
            int32_t figures;
            memcpy(&figures, piece, sizeof(figures));
            const __m128i two = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_cvtsi32_si128(figures)), 16);
            scale[j][s] = _mm512_permutexvar_ps(second, _mm512_castps128_ps512(_mm_castsi128_ps(two)));
            const __m256i both = _mm256_loadu_si256((const __m256i *)(piece + 4));
            const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(both, 4), half);
            weights[j][s] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_and_si256(both, half)), upper, 1);
        }
    for (int i = 0; i < tokens; i++) {
        const grouped x = grouped_at(act + i * ACT_BYTES(K), K);
        const __m512 factor = _mm512_set1_ps(x.scale[k / BLOCK]);
        __m512i q[2];
        for (int s = 0; s < steps; s++) q[s] = _mm512_loadu_si512(x.q + k + s * STEP);
        for (int j = 0; j < rows; j++) {
            __m512 part = _mm512_setzero_ps();
            for (int s = 0; s < steps; s++) {
                const __m512 dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), weights[j][s], q[s]));
                part = s ? _mm512_fmadd_ps(dot, scale[j][s], part) : _mm512_mul_ps(dot, scale[j][s]);
            }
            found[i][j] = _mm512_fmadd_ps(part, factor, found[i][j]);
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
    for (int64_t g = 0; g < GROUPS(K); g += LANES)
        for (int j = 0; j < rows; j++) {
            const __mmask16 there = GROUPS(K) - g < LANES ? (1u << (GROUPS(K) - g)) - 1 : 0xffff;
            const __m256i figures = _mm256_maskz_loadu_epi16(there, w + j * ROW(K) + wide / STEP * PIECE + 2 * g);
            const __m512 least = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(figures), 16));
            for (int i = 0; i < tokens; i++)
                found[i][j] = _mm512_fmadd_ps(least, _mm512_loadu_ps(grouped_at(act + i * ACT_BYTES(K), K).sums + g), found[i][j]);
        }
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < rows; j++) sums[i][j] = _mm512_reduce_add_ps(found[i][j]);
}
#elif defined(__AVX2__)
INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const uint8_t *w, const char *act, float sums[4][4]) {
    const __m256i ones = _mm256_set1_epi16(1), half = _mm256_set1_epi8(15);
    const int64_t wide = UP(K, STEP);
    for (int j = 0; j < rows; j++) {
        const uint8_t *row = w + j * ROW(K), *least = row + wide / STEP * PIECE;
        __m256 found[4];
        for (int i = 0; i < tokens; i++) found[i] = _mm256_setzero_ps();
        for (int64_t k = 0; k < wide; k += BLOCK) {
            const int64_t end = wide - k < BLOCK ? wide : k + BLOCK;
            __m256 part[4];
            for (int i = 0; i < tokens; i++) part[i] = _mm256_setzero_ps();
            for (int64_t l = k; l < end; l += STEP) {
                const uint8_t *piece = row + l / STEP * PIECE;
                const __m256i both = _mm256_loadu_si256((const __m256i *)(piece + 4));
                const __m256i weights[2] = {_mm256_and_si256(both, half), _mm256_and_si256(_mm256_srli_epi16(both, 4), half)};
                for (int g = 0; g < 2; g++) {
                    bf16 figure;
                    memcpy(&figure, piece + 2 * g, sizeof(figure));
                    const __m256 scale = _mm256_set1_ps(of_bf16(figure));
                    for (int i = 0; i < tokens; i++) {
                        const __m256i q = _mm256_loadu_si256((const __m256i *)(act + i * ACT_BYTES(K) + l + g * GROUP));
                        const __m256i dot = _mm256_madd_epi16(_mm256_maddubs_epi16(weights[g], q), ones);
                        part[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, part[i]);
                    }
                }
            }
            for (int i = 0; i < tokens; i++) {
                const __m256 factor = _mm256_set1_ps(grouped_at(act + i * ACT_BYTES(K), K).scale[k / BLOCK]);
                found[i] = _mm256_fmadd_ps(part[i], factor, found[i]);
            }
        }
        for (int64_t g = 0; g < GROUPS(K); g += 8) {
            bf16 figures[8] = {0};
            memcpy(figures, least + 2 * g, sizeof(bf16) * (GROUPS(K) - g < 8 ? GROUPS(K) - g : 8));
            const eight some = eight_bf16(figures);
            for (int i = 0; i < tokens; i++)
                found[i] = _mm256_fmadd_ps((__m256)some, _mm256_loadu_ps(grouped_at(act + i * ACT_BYTES(K), K).sums + g), found[i]);
        }
        for (int i = 0; i < tokens; i++) sums[i][j] = sum_of((eight)found[i]);
    }
}
#else
INLINE void NAME(tile_of)(const int tokens, const int rows, int64_t K, const uint8_t *w, const char *act, float sums[4][4]) {
    const int64_t wide = UP(K, STEP);
    for (int i = 0; i < tokens; i++) {
        const grouped x = grouped_at(act + i * ACT_BYTES(K), K);
        for (int j = 0; j < rows; j++) {
            const uint8_t *row = w + j * ROW(K);
            float found = 0;
            for (int64_t k = 0; k < wide; k += GROUP) {
                const uint8_t *piece = row + k / STEP * PIECE;
                const int64_t group = k / GROUP % 2;
                bf16 scale, least;
                memcpy(&scale, piece + 2 * group, sizeof(scale));
                memcpy(&least, row + wide / STEP * PIECE + k / GROUP * 2, sizeof(least));
                int32_t dot = 0;
                for (int64_t l = 0; l < GROUP; l++) dot += (int16_t)x.q[k + l] * (int16_t)(piece[4 + l] >> 4 * group & 15);
                found += (float)dot * of_bf16(scale) * x.scale[k / BLOCK] + x.sums[k / GROUP] * of_bf16(least);
            }
            sums[i][j] = found;
        }
    }
}
#endif
