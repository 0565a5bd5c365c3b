// A decoder's whole pass while it writes, for many texts at once: norms, rotary positions, attention over pages of keys and values, SwiGLU,
// and products with int4, int8, bfloat16 or float32 weights. Threads share each product's rows, so their number changes no result.
//
// D features of the residual stream, F hidden features of the feed-forward block, H query heads, K key heads of C features, V entries of the
// vocabulary. A page holds PAGE places of all key heads of one layer: keys (layers, pages, K, C, PAGE), values (layers, pages, K, PAGE, C), in
// float32 where weights are, else in bfloat16.
#include "real.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define PAGE 16
#define PER_LAYER 12  // pointers: norm; queries, keys and values, scales; norms of queries and keys; output, scales; norm; gate and up, scales; down, scales
#define THREADS 64
#define CHUNK 32   // tokens whose activations stay in the cache
#define QUERIES 4  // of a token that look at a page together
#define TOKENS 2   // that follow each other, likewise
#define SPAN 32    // features of values that are summed at once
#define SPINS 2000  // looks before a thread lets others have the core
#define MOST 256
#define PRODUCTS 4  // of a layer: queries, keys and values; output; gate and up; down
#define UP(n, to) (((n) + (to) - 1) / (to) * (to))

#define KERNELS "turn.h"
#include "kinds.h"

// Of layers.c, for one row each.
void norm_float32(int64_t N, int64_t D, const float *x, const float *more, const float *weight, float eps, float *sum, float *y, float *scale);
void swiglu_float32(int64_t N, int64_t F, const float *both, float *product);

// What adapters of low rank add to products (Hu et al., LoRA, ICLR 2022, section 4.1): B (rows, rank) A (rank, columns) x, the rest of the
// product as it is. For each adapter, layer and product: its rank, 0 where nothing is added, and A and B, in float32.
typedef struct {
    const int64_t *of;  // each token's adapter; -1: none
    const int64_t *ranks;
    const void *const *matrices;
    int64_t most;  // rank
} adapters;

typedef struct {
    int64_t threads;
    const int64_t depth, width, heads, kv_heads, features, hidden, vocabulary, context, pages, tokens, asked, longest;
    const float eps;
    const void *const *weights;
    const float *rope;
    const int64_t *ids, *places, *texts, *table, *which;
    void *const keys, *const values;
    float *scores;
    const adapters *more;  // NULL: none
    // what is in the making
    float *x, *wide, *q, *attended, *low, *own[THREADS];
    char *act;
    int64_t wide_row;
    atomic_int arrived, round, go;
} pass;

typedef struct {
    pass *pass;
    int64_t number;
    void *(*work)(void *);
} worker;

static void wait_for_all(pass *p) {
    if (p->threads == 1) return;
    const int round = atomic_load_explicit(&p->round, memory_order_acquire);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) == p->threads - 1) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->round, round + 1, memory_order_release);
        return;
    }
    for (int64_t spins = 0; atomic_load_explicit(&p->round, memory_order_acquire) == round; spins++)
        if (spins > SPINS) sched_yield();
}

static void *begin(void *given) {
    worker *own = given;
    while (!atomic_load_explicit(&own->pass->go, memory_order_acquire)) sched_yield();
    return own->work(own);
}

// `work` in as many threads as asked for; where they cannot be had, in fewer.
static void run(pass *p, void *(*work)(void *)) {
    pthread_t threads[THREADS];
    worker workers[THREADS];
    for (int64_t t = 0; t < p->threads; t++) workers[t] = (worker){p, t, work};
    int64_t begun = 1;
    while (begun < p->threads && !pthread_create(&threads[begun], NULL, begin, &workers[begun])) begun++;
    p->threads = begun;
    atomic_store_explicit(&p->go, 1, memory_order_release);
    work(&workers[0]);
    for (int64_t t = 1; t < begun; t++) pthread_join(threads[t], NULL);
}

// Where token n has an adapter in this product: the place of that adapter's rank and matrices, else -1.
INLINE int64_t adapter_at(const pass *p, int64_t layer, int product, int64_t n) {
    if (!p->more || p->more->of[n] < 0) return -1;
    const int64_t at = (p->more->of[n] * p->depth + layer) * PRODUCTS + product;
    return p->more->ranks[at] ? at : -1;
}

// Token n's features x (K) -> A x, for `raised`.
static void lowered(const pass *p, int64_t layer, int product, int64_t n, int64_t K, const float *x) {
    const int64_t at = adapter_at(p, layer, product, n);
    if (at < 0) return;
    const float *a = p->more->matrices[2 * at];
    for (int64_t i = 0; i < p->more->ranks[at]; i++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < K; k++) sum += a[i * K + k] * x[k];
        p->low[n * p->more->most + i] = sum;
    }
}

// y (tokens, y_row apart) += B of what was lowered, in the rows first to last.
static void raised(const pass *p, int64_t layer, int product, int64_t first, int64_t last, float *y, int64_t y_row) {
    for (int64_t n = 0; p->more && n < p->tokens; n++) {
        const int64_t at = adapter_at(p, layer, product, n);
        if (at < 0) continue;
        const int64_t rank = p->more->ranks[at];
        const float *b = p->more->matrices[2 * at + 1], *low = p->low + n * p->more->most;
        for (int64_t r = first; r < last; r++) {
            float sum = 0;
            for (int64_t i = 0; i < rank; i++) sum += b[r * rank + i] * low[i];
            y[n * y_row + r] += sum;
        }
    }
}

// Eight numbers at once, by whatever instructions the processor has for that.
typedef float eight __attribute__((vector_size(32)));

INLINE eight eight_floats(const float *from) {
    eight x;
    memcpy(&x, from, sizeof(x));
    return x;
}

// sum + a b, rounded once where the processor can: said outright, since a compiler that chooses may choose otherwise for another number of
// tokens, whose results would then differ.
INLINE eight fused(eight a, eight b, eight sum) {
#ifdef __FMA__
    return (eight)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(__aarch64__)
    for (int l = 0; l < 8; l++) sum[l] = __builtin_fmaf(a[l], b[l], sum[l]);
    return sum;
#else
    return sum + a * b;
#endif
}

INLINE float sum_of(eight x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

INLINE eight eight_bf16(const bf16 *from) {
#ifdef __AVX2__
    return (eight)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16);
#else
    typedef bf16 halves __attribute__((vector_size(16)));
    typedef uint32_t whole __attribute__((vector_size(32)));
    halves half;
    memcpy(&half, from, sizeof(half));
    return (eight)(__builtin_convertvector(half, whole) << 16);
#endif
}

#define KERNELS "decoder_cache.h"
#include "kinds.h"

// Around the layers, where tokens become features and these scores, weights are of the layers' kind, but int8 around those of int4: they
// are the ones that small errors cost most.
#define OUTER(f) NAME(f)
#define ROW(K) UP(K, STEP)  // numbers from one row to the next

#define WEIGHT uint8_t
#define NAME(f) f##_int8
#define CACHED(f) f##_bf16
#define STEP 64
#define ACT_BYTES(K) UP(UP(K, STEP) + 4 * LANES * BLOCKS(K) + 4 * BLOCKS(K), 64)
#include "decoder_int8.h"
#include "decoder.h"
#undef NAME
#undef OUTER
#undef ROW

#define OUTER(f) f##_int8
#define ROW(K) (UP(K, STEP) / STEP * PIECE + 2 * GROUPS(K))
#define NAME(f) f##_int4
#include "decoder_int4.h"
#include "decoder.h"
#undef WEIGHT
#undef NAME
#undef STEP
#undef ACT_BYTES
#undef OUTER
#undef ROW

#define OUTER(f) NAME(f)
#define ROW(K) UP(K, STEP)

#define STEP 32
#define EIGHT eight_bf16
#define ACT_BYTES(K) (sizeof(ACT) * UP(K, STEP))
#define WEIGHT bf16
#define OF of_bf16
#define NAME(f) f##_bf16
#define CACHED(f) f##_bf16
#ifdef __AVX512BF16__
#define PAIRS
#define ACT bf16
#define TAKEN(x) to_bf16(x)
#else
#define ACT float
#define TAKEN(x) of_bf16(to_bf16(x))
#endif
#include "decoder_real.h"
#include "decoder.h"
#undef WEIGHT
#undef OF
#undef NAME
#undef CACHED
#undef STEP
#undef PAIRS
#undef ACT
#undef TAKEN
#undef EIGHT
#define STEP 16
#define EIGHT eight_floats
#define ACT float
#define TAKEN(x) (x)
#define WEIGHT float
#define OF of_float
#define NAME(f) f##_float32
#define CACHED(f) f##_float32
#include "decoder_real.h"
#include "decoder.h"
