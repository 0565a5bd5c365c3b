// Causal attention in bfloat16 for processors that multiply pairs of them (AVX-512 BF16), in one thread: neither scores nor weights leave
// the cache (as Dao et al. 2022, algorithms 1 and 4). M documents' heads of T positions, C features, a multiple of 16.
//
// Products take the left side row by row, its numbers in pairs, and the right side with the pairs of two rows that lie under each other
// in one 32-bit word: 16 columns of such words are a vector.
#include "real.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

#define ROWS 32  // queries, or on the way back keys, that are computed together
#define UP(n, to) (((n) + (to) - 1) / (to) * (to))

typedef uint32_t pair;

INLINE void multiply_tile(
    const int rows, const int vectors, int64_t pairs, const pair *a, int64_t a_row, const pair *b, int64_t b_row, float *c, int64_t c_row,
    const int add
) {
    __m512 sums[4][4];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = add ? _mm512_loadu_ps(c + r * c_row + 16 * v) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh right[4];
        for (int v = 0; v < vectors; v++) right[v] = (__m512bh)_mm512_loadu_si512(b + p * b_row + 16 * v);
        for (int r = 0; r < rows; r++) {
            const __m512bh left = (__m512bh)_mm512_set1_epi32((int)a[r * a_row + p]);
            for (int v = 0; v < vectors; v++) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], left, right[v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(c + r * c_row + 16 * v, sums[r][v]);
}

INLINE void multiply_columns(
    const int vectors, int64_t rows, int64_t pairs, const pair *a, int64_t a_row, const pair *b, int64_t b_row, float *c, int64_t c_row,
    const int add
) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) multiply_tile(4, vectors, pairs, a + r * a_row, a_row, b, b_row, c + r * c_row, c_row, add);
    for (; r < rows; r++) multiply_tile(1, vectors, pairs, a + r * a_row, a_row, b, b_row, c + r * c_row, c_row, add);
}

// a (rows, 2 pairs) b (2 pairs, columns) -> c (rows, columns), or with `add` added to it. Columns are a multiple of 16.
INLINE void multiply(
    int64_t rows, int64_t columns, int64_t pairs, const pair *a, int64_t a_row, const pair *b, int64_t b_row, float *c, int64_t c_row,
    const int add
) {
    int64_t j = 0;
    for (; j + 64 <= columns; j += 64) multiply_columns(4, rows, pairs, a, a_row, b + j, b_row, c + j, c_row, add);
    for (; j + 32 <= columns; j += 32) multiply_columns(2, rows, pairs, a, a_row, b + j, b_row, c + j, c_row, add);
    for (; j < columns; j += 16) multiply_columns(1, rows, pairs, a, a_row, b + j, b_row, c + j, c_row, add);
}

// x (rows, columns) words, x_row from one row to the next -> (columns, UP(rows, 16)), the rest 0.
static void across(int64_t rows, int64_t columns, const void *given, int64_t x_row, void *into) {
    const pair *x = given;
    pair *found = into;
    const int64_t wide = UP(rows, 16);
    const __m512i places = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32((int)x_row)
    );
    for (int64_t i = 0; i < rows; i += 16) {
        const __mmask16 there = rows - i < 16 ? (__mmask16)((1 << (rows - i)) - 1) : 0xffff;
        for (int64_t j = 0; j < columns; j++) {
            const __m512i words = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), there, places, x + i * x_row + j, 4);
            _mm512_storeu_si512(found + j * wide + i, words);
        }
    }
}

// x (T, C) -> the words of rows 2 t and 2 t + 1 (UP(T, 16) / 2, C), the rest 0.
static void under(int64_t T, int64_t C, const bf16 *x, pair *found) {
    for (int64_t t = 0; t < UP(T, 16) / 2; t++)
        for (int64_t c = 0; c < C; c++) {
            const pair low = 2 * t < T ? x[2 * t * C + c] : 0, high = 2 * t + 1 < T ? x[(2 * t + 1) * C + c] : 0;
            found[t * C + c] = low | high << 16;
        }
}

// q, k, v (M, T, C) -> out (M, T, C), and of each query the logarithm of the sum of its weights' exponentials, logs (M, T).
void attention_bf16(
    int64_t M, int64_t T, int64_t C, float factor, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *logs
) {
    const int64_t wide = UP(T, 16), words = wide * C / 2;
    char *memory = aligned_alloc(64, UP(4 * (2 * words + ROWS * (wide + C)) + 2 * ROWS * wide, 64));
    pair *keys = (pair *)memory, *values = keys + words;
    float *scores = (float *)(values + words), *sums = scores + ROWS * wide;
    bf16 *weights = (bf16 *)(sums + ROWS * C);
    for (int64_t m = 0; m < M; m++) {
        const int64_t at = m * T * C;
        across(T, C / 2, k + at, C / 2, keys);
        under(T, C, v + at, values);
        for (int64_t first = 0; first < T; first += ROWS) {
            const int64_t rows = T - first < ROWS ? T - first : ROWS, seen = UP(first + rows, 16);
            multiply(rows, seen, C / 2, (const pair *)(q + at + first * C), C / 2, keys, wide, scores, wide, 0);
            for (int64_t i = 0; i < rows; i++)
                logs[m * T + first + i] = weigh_bf16(first + i + 1, seen, factor, scores + i * wide, weights + i * wide);
            multiply(rows, C, seen / 2, (const pair *)weights, wide / 2, values, C, sums, C, 0);
#pragma omp simd
            for (int64_t i = 0; i < rows * C; i++) out[at + first * C + i] = to_bf16(sums[i]);
        }
    }
    free(memory);
}

// Its way back: grads (M, T, C) of out -> dq, dk, dv (M, T, C) in float32.
void attention_back_bf16(
    int64_t M, int64_t T, int64_t C, float factor, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const float *logs,
    const bf16 *grads, float *dq, float *dk, float *dv
) {
    const int64_t wide = UP(T, 16), words = wide * C / 2, over_row = UP(wide / 2, 16), tile = ROWS * wide;
    const int64_t floats = 5 * words + C * over_row + 2 * tile + C * wide + 2 * wide + tile / 2;
    char *memory = aligned_alloc(64, UP(4 * floats + 4 * tile, 64));
    pair *queries_across = (pair *)memory, *grads_across = queries_across + words, *queries_under = grads_across + words,
         *grads_under = queries_under + words, *keys_under = grads_under + words, *keys_over = keys_under + words;
    float *scores = (float *)(keys_over + C * over_row), *back = scores + tile, *dq_over = back + tile, *log = dq_over + C * wide,
          *dot = log + wide;
    pair *back_under = (pair *)(dot + wide);
    bf16 *weights = (bf16 *)(back_under + tile / 2), *low = weights + tile;
    memset(log, 0, 2 * wide * sizeof(float));
    for (int64_t m = 0; m < M; m++) {
        const int64_t at = m * T * C;
        across(T, C / 2, q + at, C / 2, queries_across);
        across(T, C / 2, grads + at, C / 2, grads_across);
        under(T, C, q + at, queries_under);
        under(T, C, grads + at, grads_under);
        under(T, C, k + at, keys_under);
        across(wide / 2, C, keys_under, C, keys_over);  // (C, over_row): the rows are features, the pairs of keys
        memset(dq_over, 0, C * wide * sizeof(float));
        memcpy(log, logs + m * T, T * sizeof(float));
        for (int64_t t = 0; t < T; t++) {
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t c = 0; c < C; c++) sum += of_bf16(grads[at + t * C + c]) * of_bf16(out[at + t * C + c]);
            dot[t] = sum;
        }
        for (int64_t first = 0; first < T; first += ROWS) {
            const int64_t rows = T - first < ROWS ? T - first : ROWS, asking = wide - first;  // no query before the first key sees it
            multiply(rows, asking, C / 2, (const pair *)(k + at + first * C), C / 2, queries_across + first, wide, scores, wide, 0);
            multiply(rows, asking, C / 2, (const pair *)(v + at + first * C), C / 2, grads_across + first, wide, back, wide, 0);
            for (int64_t i = 0; i < UP(rows, 2); i += 2) {
                const int64_t next = i + 1 < rows;
                const float *s0 = scores + i * wide, *s1 = s0 + next * wide, *b0 = back + i * wide, *b1 = b0 + next * wide;
                bf16 *w0 = weights + i * wide, *w1 = w0 + wide, *l0 = low + i * wide, *l1 = l0 + wide;
                pair *both = back_under + i / 2 * wide;
#pragma omp simd
                for (int64_t j = 0; j < asking; j++) {
                    const float p0 = j < i ? 0 : exponential(s0[j] * factor - log[first + j]);
                    const float p1 = j < i + 1 || !next ? 0 : exponential(s1[j] * factor - log[first + j]);
                    const bf16 g0 = to_bf16(factor * p0 * (b0[j] - dot[first + j])), g1 = to_bf16(factor * p1 * (b1[j] - dot[first + j]));
                    w0[j] = to_bf16(p0);
                    w1[j] = to_bf16(p1);
                    l0[j] = g0;
                    l1[j] = g1;
                    both[j] = (pair)g0 | (pair)g1 << 16;
                }
            }
            const pair *gu = grads_under + first / 2 * C, *qu = queries_under + first / 2 * C;
            multiply(rows, C, asking / 2, (const pair *)weights, wide / 2, gu, C, dv + at + first * C, C, 0);
            multiply(rows, C, asking / 2, (const pair *)low, wide / 2, qu, C, dk + at + first * C, C, 0);
            multiply(C, asking, UP(rows, 2) / 2, keys_over + first / 2, over_row, back_under, wide, dq_over + first, wide, 1);
        }
        across(C, T, dq_over, wide, dq + at);
    }
    free(memory);
}
#endif
