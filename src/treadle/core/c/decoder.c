// A decoder's whole pass while it writes, for many texts at once: norms, rotary positions, attention over pages of keys and values, SwiGLU,
// and products with int8, bfloat16 or float32 weights. Threads share each product's rows, so their number changes no result.
//
// D features of the residual stream, F hidden features of the feed-forward block, H query heads, K key heads of C features, V entries of the
// vocabulary. A page holds PAGE places of all key heads of one layer: keys (layers, pages, K, C, PAGE), values (layers, pages, K, PAGE, C), in
// float32 where weights are, else in bfloat16.
#include "real.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define PAGE 16
#define PER_LAYER 12  // pointers: norm; queries, keys and values, scales; norms of queries and keys; output, scales; norm; gate and up, scales; down, scales
#define THREADS 64
#define CHUNK 32   // tokens whose activations stay in the cache
#define QUERIES 4  // of a token that look at a page together
#define SPINS 2000  // looks before a thread lets others have the core
#define MOST 256
#define UP(n, to) (((n) + (to) - 1) / (to) * (to))

#define KERNELS "turn.h"
#include "kinds.h"

// Of layers.c, for one row each.
void norm_float32(int64_t N, int64_t D, const float *x, const float *more, const float *weight, float eps, float *sum, float *y, float *scale);
void swiglu_float32(int64_t N, int64_t F, const float *both, float *product);

typedef struct {
    int64_t threads;
    const int64_t depth, width, heads, kv_heads, features, hidden, vocabulary, context, pages, tokens, asked, longest;
    const float eps;
    const void *const *weights;
    const float *rope;
    const int64_t *ids, *places, *texts, *table, *which;
    void *const keys, *const values;
    float *scores;
    // what is in the making
    float *x, *wide, *q, *attended, *own[THREADS];
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

#define KERNELS "decoder_cache.h"
#include "kinds.h"

#define WEIGHT uint8_t
#define NAME(f) f##_int8
#define CACHED(f) f##_bf16
#define STEP 64
#define ACT_BYTES(K) (3 * UP(K, STEP))
#include "decoder_int8.h"
#include "decoder.h"
#undef WEIGHT
#undef NAME
#undef STEP
#undef ACT_BYTES

#define STEP 32
#define ACT_BYTES(K) (2 * UP(K, STEP))
#define WEIGHT bf16
#define OF of_bf16
#define TO to_bf16
#define NAME(f) f##_bf16
#define CACHED(f) f##_bf16
#ifdef __AVX512BF16__
#include <immintrin.h>
#define PAIRS
#endif
#include "decoder_real.h"
#include "decoder.h"
#undef WEIGHT
#undef OF
#undef TO
#undef NAME
#undef CACHED
#undef STEP
#undef ACT_BYTES
#undef PAIRS
#define STEP 16
#define ACT_BYTES(K) (4 * UP(K, STEP))
#define WEIGHT float
#define OF of_float
#define TO to_float
#define NAME(f) f##_float32
#define CACHED(f) f##_float32
#include "decoder_real.h"
#include "decoder.h"
