// For each kind of number (kinds.h) of which keys and values are.

// Token n's projections -> its queries in float32, its keys and values in their page.
static void NAME(place)(const pass *p, int64_t layer, int64_t n, const float *q_weight, const float *k_weight) {
    const int64_t C = p->features, H = p->heads, K = p->kv_heads, at = p->places[n], slot = at % PAGE;
    const int64_t page = layer * p->pages + p->table[p->texts[n] * p->longest + at / PAGE];
    const float *row = p->wide + n * p->wide_row, *cosine = p->rope + at * C, *sine = cosine + p->context * C;
    for (int64_t h = 0; h < H; h++) turn_float32(C, row + h * C, q_weight, p->eps, cosine, sine, p->q + (n * H + h) * C);
    for (int64_t g = 0; g < K; g++) {
        REAL *keys = (REAL *)p->keys + (page * K + g) * C * PAGE + slot, *values = (REAL *)p->values + ((page * K + g) * PAGE + slot) * C;
        const float *v = row + (H + K + g) * C;
        float y[MOST];
        turn_float32(C, row + (H + g) * C, k_weight, p->eps, cosine, sine, y);
        for (int64_t j = 0; j < C; j++) keys[j * PAGE] = TO(y[j]);
        for (int64_t j = 0; j < C; j++) values[j] = TO(v[j]);
    }
}

// y (rows, from c to c + span of C features) = the values of `length` places of key head g of a text's pages, weighted by each row's scores,
// which lie `held` apart. One row more sees one place more where there are two tokens, of `queries` rows each.
INLINE void NAME(weighted)(
    const pass *p, int64_t layer, int64_t g, const int64_t *table, int64_t length, const int tokens, const int queries, const int64_t C,
    int64_t c, const int64_t span, const float *scores, int64_t held, float *to
) {
    float y[TOKENS * QUERIES][SPAN] = {{0}};
    for (int64_t at = 0; at < length + tokens - 1; at += PAGE) {
        const REAL *values = (const REAL *)p->values + ((layer * p->pages + table[at / PAGE]) * p->kv_heads + g) * PAGE * C + c;
        const int64_t left = length - at, count = left < PAGE ? left : PAGE;
        for (int64_t j = 0; j < count; j++) {
            float value[SPAN];
#pragma omp simd
            for (int64_t l = 0; l < span; l++) value[l] = OF(values[j * C + l]);
#pragma GCC unroll 8
            for (int r = 0; r < tokens * queries; r++) {
                const float weight = scores[r * held + at + j];
#pragma omp simd
                for (int64_t l = 0; l < span; l++) y[r][l] += weight * value[l];
            }
        }
        if (tokens == 2 && left < PAGE)  // what the second one alone sees: itself
            for (int r = queries; r < 2 * queries; r++) {
                const float weight = scores[r * held + length];
#pragma omp simd
                for (int64_t l = 0; l < span; l++) y[r][l] += weight * OF(values[left * C + l]);
            }
    }
    for (int r = 0; r < tokens * queries; r++)
        for (int64_t l = 0; l < span; l++) to[(r / queries * p->heads + r % queries) * C + c + l] = y[r][l];
}

// Of `queries` of token n, from the first on, which share key head g, what they see of their text up to the token itself; and the same of
// the next one, which follows it in its text, where there are two tokens.
INLINE void NAME(attend_of)(
    const pass *p, int64_t layer, int64_t n, int64_t g, int64_t first, const int tokens, const int queries, const int64_t C, float *scores
) {
    const int64_t K = p->kv_heads, length = p->places[n] + 1, held = UP(p->context, PAGE);
    const int64_t *table = p->table + p->texts[n] * p->longest;
    const float *q = p->q + (n * p->heads + first) * C;
    const float factor = 1.0f / sqrtf((float)C);
    for (int64_t at = 0; at < length + tokens - 1; at += PAGE) {
        const REAL *keys = (const REAL *)p->keys + ((layer * p->pages + table[at / PAGE]) * K + g) * C * PAGE;
        float sums[TOKENS * QUERIES][PAGE] = {{0}};
        for (int64_t c = 0; c < C; c++) {
            float key[PAGE];
#pragma omp simd
            for (int j = 0; j < PAGE; j++) key[j] = OF(keys[c * PAGE + j]);
#pragma GCC unroll 8
            for (int r = 0; r < tokens * queries; r++)
#pragma omp simd
                for (int j = 0; j < PAGE; j++) sums[r][j] += q[(r / queries * p->heads + r % queries) * C + c] * key[j];
        }
        for (int r = 0; r < tokens * queries; r++) memcpy(scores + r * held + at, sums[r], sizeof(sums[r]));
    }
    for (int r = 0; r < tokens * queries; r++) {
        const int64_t seen = length + r / queries;
        weigh_float32(seen, seen, factor, scores + r * held, scores + r * held);
    }
    float *to = p->attended + (n * p->heads + first) * C;
    const int64_t whole = C / SPAN * SPAN;
    for (int64_t c = 0; c < whole; c += SPAN)
        NAME(weighted)(p, layer, g, table, length, tokens, queries, C, c, SPAN, scores, held, to);
    if (whole < C) NAME(weighted)(p, layer, g, table, length, tokens, queries, C, whole, C - whole, scores, held, to);
}

INLINE void NAME(attend_counted)(
    const pass *p, int64_t layer, int64_t n, int64_t g, const int tokens, float *scores
) {
    const int64_t share = p->heads / p->kv_heads, C = p->features;
    for (int64_t h = 0; h < share; h += QUERIES) {
        const int64_t first = g * share + h;
        if (share - h >= 4) NAME(attend_of)(p, layer, n, g, first, tokens, 4, C, scores);
        else if (share - h == 3) NAME(attend_of)(p, layer, n, g, first, tokens, 3, C, scores);
        else if (share - h == 2) NAME(attend_of)(p, layer, n, g, first, tokens, 2, C, scores);
        else NAME(attend_of)(p, layer, n, g, first, tokens, 1, C, scores);
    }
}

static void NAME(attend_some)(const pass *p, int64_t layer, int64_t n, int64_t g, const int tokens, float *scores) {
    if (tokens == 2) NAME(attend_counted)(p, layer, n, g, 2, scores);
    else NAME(attend_counted)(p, layer, n, g, 1, scores);
}

// Of token n and of the next, where there is one, what the queries that share key head g see: of both at once where one follows the other.
static void NAME(attend)(const pass *p, int64_t layer, int64_t n, int64_t g, float *scores) {
    const int two = n + 1 < p->tokens;
    if (two && p->texts[n] == p->texts[n + 1] && p->places[n] + 1 == p->places[n + 1]) NAME(attend_some)(p, layer, n, g, 2, scores);
    else {
        NAME(attend_some)(p, layer, n, g, 1, scores);
        if (two) NAME(attend_some)(p, layer, n + 1, g, 1, scores);
    }
}
