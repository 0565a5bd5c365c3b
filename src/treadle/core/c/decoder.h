// For each kind of weights (decoder.c): WEIGHT, what products take beside them (ACT_BYTES of K features; `prepare`), products, and rows of
// an embedding. Every number of every token is computed by the same operations in the same order, whatever else is computed beside it.

// Up to four rows of weights with up to four tokens' activations.
static void NAME(tile)(int tokens, int rows, int64_t K, const WEIGHT *w, const char *act, float sums[4][4]) {
    if (rows == 4 && tokens == 1) NAME(tile_of)(1, 4, K, w, act, sums);
    else if (rows == 4 && tokens == 2) NAME(tile_of)(2, 4, K, w, act, sums);
    else if (rows == 4 && tokens == 3) NAME(tile_of)(3, 4, K, w, act, sums);
    else if (rows == 4) NAME(tile_of)(4, 4, K, w, act, sums);
    else NAME(tile_of)(tokens, rows, K, w, act, sums);
}

// x (D) -> own, its root-mean-square norm, and that as products take it.
static void NAME(normed)(int64_t D, const float *x, const float *weight, float eps, char *act, float *own) {
    float scale;
    norm_float32(1, D, x, NULL, weight, eps, NULL, own, &scale);
    NAME(prepare)(D, own, act);
}

// y (N tokens, y_row apart): += or = the products of the matrix's rows first to last (of K columns each) with each token's features.
static void NAME(products)(
    int64_t first, int64_t last, int64_t K, const WEIGHT *w, const float *scale, int64_t N, const char *act, float *y, int64_t y_row, const int add
) {
    for (int64_t chunk = 0; chunk < N; chunk += CHUNK) {
        const int64_t most = N - chunk < CHUNK ? N : chunk + CHUNK;
        for (int64_t r = first; r < last; r += 4) {
            const int rows = last - r < 4 ? (int)(last - r) : 4;
            int64_t n = chunk;
            for (; n < most; n += 4) {
                float sums[4][4];
                const int tokens = most - n < 4 ? (int)(most - n) : 4;
                NAME(tile)(tokens, rows, K, w + r * ROW(K), act + n * ACT_BYTES(K), sums);
                for (int i = 0; i < tokens; i++)
                    for (int j = 0; j < rows; j++) {
                        float *to = y + (n + i) * y_row + r + j;
                        const float found = scale ? sums[i][j] * scale[r + j] : sums[i][j];
                        *to = add ? *to + found : found;
                    }
            }
        }
    }
}

// The part of a matrix of `rows` rows that thread t computes: from its first row to before its last.
static void NAME(shared)(
    const pass *p, int64_t t, int64_t rows, int64_t K, int at, const void *const *weights, int64_t N, const char *act, float *y, int64_t y_row,
    const int add, int64_t part[2]
) {
    const int64_t blocks = UP(rows, 4) / 4, last = 4 * (blocks * (t + 1) / p->threads);
    part[0] = 4 * (blocks * t / p->threads), part[1] = last < rows ? last : rows;
    NAME(products)(part[0], part[1], K, weights[at], weights[at + 1], N, act, y, y_row, add);
}

// A product of a layer, with what adapters add.
static void NAME(product)(
    const pass *p, int64_t t, int64_t index, int which, int64_t rows, int64_t K, int at, float *y, int64_t y_row, const int add
) {
    int64_t part[2];
    NAME(shared)(p, t, rows, K, at, p->weights + index * PER_LAYER, p->tokens, p->act, y, y_row, add, part);
    raised(p, index, which, part[0], part[1], y, y_row);
}

static void NAME(layer)(pass *p, int64_t t, int64_t index) {
    const void *const *w = p->weights + index * PER_LAYER;
    const int64_t N = p->tokens, D = p->width, C = p->features, H = p->heads, K = p->kv_heads, F = p->hidden, all = (H + 2 * K) * C;
    for (int64_t n = t; n < N; n += p->threads) {
        NAME(normed)(D, p->x + n * D, w[0], p->eps, p->act + n * ACT_BYTES(D), p->own[t]);
        lowered(p, index, 0, n, D, p->own[t]);
    }
    wait_for_all(p);
    NAME(product)(p, t, index, 0, all, D, 1, p->wide, p->wide_row, 0);
    wait_for_all(p);
    for (int64_t n = t; n < N; n += p->threads) CACHED(place)(p, index, n, w[3], w[4]);
    wait_for_all(p);
    for (int64_t i = t; i < UP(N, TOKENS) / TOKENS * K; i += p->threads) CACHED(attend)(p, index, i / K * TOKENS, i % K, p->own[t]);
    wait_for_all(p);
    for (int64_t n = t; n < N; n += p->threads) {
        NAME(prepare)(H * C, p->attended + n * H * C, p->act + n * ACT_BYTES(H * C));
        lowered(p, index, 1, n, H * C, p->attended + n * H * C);
    }
    wait_for_all(p);
    NAME(product)(p, t, index, 1, D, H * C, 5, p->x, D, 1);
    wait_for_all(p);
    for (int64_t n = t; n < N; n += p->threads) {
        NAME(normed)(D, p->x + n * D, w[7], p->eps, p->act + n * ACT_BYTES(D), p->own[t]);
        lowered(p, index, 2, n, D, p->own[t]);
    }
    wait_for_all(p);
    NAME(product)(p, t, index, 2, 2 * F, D, 8, p->wide, p->wide_row, 0);
    wait_for_all(p);
    for (int64_t n = t; n < N; n += p->threads) {
        swiglu_float32(1, F, p->wide + n * p->wide_row, p->own[t]);
        NAME(prepare)(F, p->own[t], p->act + n * ACT_BYTES(F));
        lowered(p, index, 3, n, F, p->own[t]);
    }
    wait_for_all(p);
    NAME(product)(p, t, index, 3, D, F, 10, p->x, D, 1);
    wait_for_all(p);
}

// A thread's share of the whole pass.
static void *NAME(work)(void *given) {
    const worker *own = given;
    pass *p = own->pass;
    const int64_t t = own->number, D = p->width;
    const void *const *last = p->weights + p->depth * PER_LAYER;  // the last norm, the head and its scales, the embedding and its scales
    for (int64_t n = t; n < p->tokens; n += p->threads) OUTER(embed)(D, last[3], last[4], p->ids[n], p->x + n * D);
    wait_for_all(p);
    for (int64_t index = 0; index < p->depth; index++) NAME(layer)(p, t, index);
    for (int64_t a = t; a < p->asked; a += p->threads)
        OUTER(normed)(D, p->x + p->which[a] * D, last[0], p->eps, p->act + a * ACT_BYTES(D), p->own[t]);
    wait_for_all(p);
    int64_t part[2];
    OUTER(shared)(p, t, p->vocabulary, D, 1, last, p->asked, p->act, p->scores, p->vocabulary, 0, part);
    return NULL;
}

// A pass of `tokens` tokens, of any texts and places, through a decoder: the scores (asked, V) of what follows the tokens `which`. Their keys
// and values go into the pages of their texts. sizes: threads, depth, D, H, K, C, F, V, context, pages, tokens, asked, pages of a text, most
// rank of an adapter (0: there are none, and NULL stands for their arrays). 0: no memory for it.
int64_t NAME(decode)(
    const int64_t *sizes, float eps, const void *const *weights, const float *rope, const int64_t *ids, const int64_t *places, const int64_t *texts,
    const int64_t *table, const int64_t *which, void *keys, void *values, float *scores, const int64_t *adapter, const int64_t *ranks,
    const void *const *matrices
) {
    const adapters more = {adapter, ranks, matrices, sizes[13]};
    pass p = {
        sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10], sizes[11], sizes[12],
        eps, weights, rope, ids, places, texts, table, which, keys, values, scores, sizes[13] ? &more : NULL
    };
    const int64_t N = p.tokens, all = (p.heads + 2 * p.kv_heads) * p.features, heads = p.heads * p.features, F = 2 * p.hidden;
    const int64_t widest = p.width > heads ? p.width : heads, most = widest > p.hidden ? widest : p.hidden;
    p.wide_row = all > F ? all : F;
    const int64_t own = UP(p.context, PAGE) * QUERIES * TOKENS + most;
    float *work = malloc((N * (p.width + p.wide_row + 2 * heads + more.most) + p.threads * own) * sizeof(float));
    p.act = aligned_alloc(64, UP(N * ACT_BYTES(most), 64));
    if (work && p.act) {
        p.x = work, p.wide = p.x + N * p.width, p.q = p.wide + N * p.wide_row, p.attended = p.q + N * heads, p.low = p.attended + N * heads;
        for (int64_t t = 0; t < p.threads; t++) p.own[t] = p.low + N * more.most + t * own;
        run(&p, NAME(work));
    }
    const int64_t done = work && p.act;
    free(work);
    free(p.act);
    return done;
}
