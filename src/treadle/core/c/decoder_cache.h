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

// Of `queries` of token n, from the first on, which share key head g, what they see of their text up to the token itself.
INLINE void NAME(attend_of)(
    const pass *p, int64_t layer, int64_t n, int64_t g, int64_t first, const int queries, const int64_t C, float *scores
) {
    const int64_t K = p->kv_heads, length = p->places[n] + 1, held = UP(p->context, PAGE);
    const int64_t *table = p->table + p->texts[n] * p->longest;
    const float *q = p->q + (n * p->heads + first) * C;
    const float factor = 1.0f / sqrtf((float)C);
    for (int64_t at = 0; at < length; at += PAGE) {
        const REAL *keys = (const REAL *)p->keys + ((layer * p->pages + table[at / PAGE]) * K + g) * C * PAGE;
        float sums[QUERIES][PAGE] = {{0}};
        for (int64_t c = 0; c < C; c++) {
            float key[PAGE];
#pragma omp simd
            for (int j = 0; j < PAGE; j++) key[j] = OF(keys[c * PAGE + j]);
#pragma GCC unroll 4
            for (int h = 0; h < queries; h++)
#pragma omp simd
                for (int j = 0; j < PAGE; j++) sums[h][j] += q[h * C + c] * key[j];
        }
        for (int h = 0; h < queries; h++) memcpy(scores + h * held + at, sums[h], sizeof(sums[h]));
    }
    float y[QUERIES][MOST] = {{0}};
    for (int h = 0; h < queries; h++) weigh_float32(length, length, factor, scores + h * held, scores + h * held);
    for (int64_t at = 0; at < length; at += PAGE) {
        const REAL *values = (const REAL *)p->values + ((layer * p->pages + table[at / PAGE]) * K + g) * PAGE * C;
        const int64_t count = length - at < PAGE ? length - at : PAGE;
        for (int64_t j = 0; j < count; j++)
            for (int h = 0; h < queries; h++) {
                const float weight = scores[h * held + at + j];
#pragma omp simd
                for (int64_t c = 0; c < C; c++) y[h][c] += weight * OF(values[j * C + c]);
            }
    }
    float *to = p->attended + (n * p->heads + first) * C;
    for (int h = 0; h < queries; h++)
        for (int64_t c = 0; c < C; c++) to[h * C + c] = y[h][c];
}

INLINE void NAME(attend_sized)(const pass *p, int64_t layer, int64_t n, int64_t g, const int64_t C, float *scores) {
    const int64_t share = p->heads / p->kv_heads;
    for (int64_t h = 0; h < share; h += QUERIES) {
        const int64_t first = g * share + h;
        if (share - h >= 4) NAME(attend_of)(p, layer, n, g, first, 4, C, scores);
        else if (share - h == 3) NAME(attend_of)(p, layer, n, g, first, 3, C, scores);
        else if (share - h == 2) NAME(attend_of)(p, layer, n, g, first, 2, C, scores);
        else NAME(attend_of)(p, layer, n, g, first, 1, C, scores);
    }
}

// Of token n what the queries that share key head g see.
static void NAME(attend)(const pass *p, int64_t layer, int64_t n, int64_t g, float *scores) {
    if (p->features == 64) NAME(attend_sized)(p, layer, n, g, 64, scores);
    else if (p->features == 128) NAME(attend_sized)(p, layer, n, g, 128, scores);
    else if (p->features == 32) NAME(attend_sized)(p, layer, n, g, 32, scores);
    else NAME(attend_sized)(p, layer, n, g, p->features, scores);
}
