// For each kind of number (kinds.h).

// x (N, D) + more (N, D; may be null) -> sum (N, D; unused without more), and its root-mean-square norm y (N, D) with scale (N).
void NAME(norm)(int64_t N, int64_t D, const float *x, const REAL *more, const float *weight, float eps, float *sum, REAL *y, float *scale) {
    for (int64_t i = 0; i < N; i++) {
        const float *row = x + i * D;
        if (more) {
            const REAL *extra = more + i * D;
            float *into = sum + i * D;
#pragma omp simd
            for (int64_t j = 0; j < D; j++) into[j] = row[j] + OF(extra[j]);
            row = into;
        }
        float square = 0;
#pragma omp simd reduction(+ : square)
        for (int64_t j = 0; j < D; j++) square += row[j] * row[j];
        const float s = 1.0f / sqrtf(square / (float)D + eps);
        REAL *out = y + i * D;
        scale[i] = s;
#pragma omp simd
        for (int64_t j = 0; j < D; j++) out[j] = TO(row[j] * s * weight[j]);
    }
}

// The same y again, from x and scale.
void NAME(norm_again)(int64_t N, int64_t D, const float *x, const float *weight, const float *scale, REAL *y) {
    for (int64_t i = 0; i < N; i++) {
        const float *row = x + i * D, s = scale[i];
        REAL *out = y + i * D;
#pragma omp simd
        for (int64_t j = 0; j < D; j++) out[j] = TO(row[j] * s * weight[j]);
    }
}

// Of the norm of x: dy (N, D) -> added to dx (N, D) and dweight (D); low (N, D; may be null): dx then, for the products before.
void NAME(norm_back)(
    int64_t N, int64_t D, const REAL *dy, const float *x, const float *weight, const float *scale, float *dx, float *dweight, REAL *low
) {
    for (int64_t i = 0; i < N; i++) {
        const REAL *grad = dy + i * D;
        const float *row = x + i * D, s = scale[i];
        float *into = dx + i * D, dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < D; j++) {
            const float g = OF(grad[j]), xs = row[j] * s;
            dot += g * weight[j] * xs;
            dweight[j] += g * xs;
        }
        dot /= (float)D;
#pragma omp simd
        for (int64_t j = 0; j < D; j++) into[j] += s * (OF(grad[j]) * weight[j] - row[j] * s * dot);
        if (low) {
            REAL *out = low + i * D;
#pragma omp simd
            for (int64_t j = 0; j < D; j++) out[j] = TO(into[j]);
        }
    }
}

// Its way back: dy (C) -> dx (C), added to dweight (C).
INLINE void NAME(turn_back)(
    int64_t C, const float *dy, const REAL *x, const float *weight, float eps, const float *cosine, const float *sine, REAL *dx, float *dweight
) {
    const int64_t half = C / 2;
    float g[MOST];
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        g[j] = dy[j] * cosine[j] + dy[j + half] * sine[j + half];
        g[j + half] = dy[j + half] * cosine[j + half] + dy[j] * sine[j];
    }
    if (!weight) {
#pragma omp simd
        for (int64_t j = 0; j < C; j++) dx[j] = TO(g[j]);
        return;
    }
    float square = 0, dot = 0;
#pragma omp simd reduction(+ : square, dot)
    for (int64_t j = 0; j < C; j++) {
        square += OF(x[j]) * OF(x[j]);
        dot += g[j] * weight[j] * OF(x[j]);
    }
    const float s = 1.0f / sqrtf(square / (float)C + eps);
    dot *= s * s / (float)C;
#pragma omp simd
    for (int64_t j = 0; j < C; j++) {
        dweight[j] += g[j] * OF(x[j]) * s;
        dx[j] = TO(s * (g[j] * weight[j] - OF(x[j]) * dot));
    }
}

// A group's projections qkv (count length, (H + 2 K) C) -> q, k, v as attention takes them, and q and k in float32 for the scores
// (q32, k32; null where they are). rope (2, context, C); places (count length): of each token in its document.
INLINE void NAME(heads_of)(
    int64_t count, int64_t length, int64_t H, int64_t K, int64_t C, const REAL *qkv, const float *q_weight, const float *k_weight, float eps,
    const float *rope, int64_t context, const int64_t *places, REAL *q, REAL *k, REAL *v, float *q32, float *k32
) {
    const int64_t share = H / K;
    for (int64_t d = 0; d < count; d++)
        for (int64_t t = 0; t < length; t++) {
            const int64_t token = d * length + t;
            const REAL *row = qkv + token * (H + 2 * K) * C;
            const float *cosine = rope + places[token] * C, *sine = cosine + context * C;
            for (int64_t h = 0; h < H; h++) {
                const int64_t at = ((d * H + h) * length + t) * C, key = h / share;
                float y[MOST];
                NAME(turn)(C, row + h * C, q_weight, eps, cosine, sine, y);
                for (int64_t j = 0; j < C; j++) q[at + j] = TO(y[j]);
                if (q32) memcpy(q32 + at, y, C * sizeof(float));
                NAME(turn)(C, row + (H + key) * C, k_weight, eps, cosine, sine, y);
                for (int64_t j = 0; j < C; j++) k[at + j] = TO(y[j]);
                if (k32) memcpy(k32 + at, y, C * sizeof(float));
                memcpy(v + at, row + (H + K + key) * C, C * sizeof(REAL));
            }
        }
}

void NAME(heads)(
    int64_t count, int64_t length, int64_t H, int64_t K, int64_t C, const REAL *qkv, const float *q_weight, const float *k_weight, float eps,
    const float *rope, int64_t context, const int64_t *places, REAL *q, REAL *k, REAL *v, float *q32, float *k32
) {
#define OF_SIZE(C) NAME(heads_of)(count, length, H, K, C, qkv, q_weight, k_weight, eps, rope, context, places, q, k, v, q32, k32)
    FOR_SIZE(C)
#undef OF_SIZE
}

// The way back: dq, dk, dv (count, H, length, C; float32) -> dqkv, added to dq_weight and dk_weight (C).
INLINE void NAME(heads_back_of)(
    int64_t count, int64_t length, int64_t H, int64_t K, int64_t C, const float *dq, const float *dk, const float *dv, const REAL *qkv,
    const float *q_weight, const float *k_weight, float eps, const float *rope, int64_t context, const int64_t *places, REAL *dqkv,
    float *dq_weight, float *dk_weight
) {
    const int64_t share = H / K;
    for (int64_t d = 0; d < count; d++)
        for (int64_t t = 0; t < length; t++) {
            const int64_t token = d * length + t;
            const REAL *row = qkv + token * (H + 2 * K) * C;
            REAL *into = dqkv + token * (H + 2 * K) * C;
            const float *cosine = rope + places[token] * C, *sine = cosine + context * C;
            for (int64_t h = 0; h < H; h++)
                NAME(turn_back)(C, dq + ((d * H + h) * length + t) * C, row + h * C, q_weight, eps, cosine, sine, into + h * C, dq_weight);
            for (int64_t key = 0; key < K; key++) {
                float g[MOST], b[MOST];
                for (int64_t j = 0; j < C; j++) g[j] = b[j] = 0;
                for (int64_t h = key * share; h < (key + 1) * share; h++) {
                    const int64_t at = ((d * H + h) * length + t) * C;
                    for (int64_t j = 0; j < C; j++) g[j] += dk[at + j], b[j] += dv[at + j];
                }
                NAME(turn_back)(C, g, row + (H + key) * C, k_weight, eps, cosine, sine, into + (H + key) * C, dk_weight);
                for (int64_t j = 0; j < C; j++) into[(H + K + key) * C + j] = TO(b[j]);
            }
        }
}

void NAME(heads_back)(
    int64_t count, int64_t length, int64_t H, int64_t K, int64_t C, const float *dq, const float *dk, const float *dv, const REAL *qkv,
    const float *q_weight, const float *k_weight, float eps, const float *rope, int64_t context, const int64_t *places, REAL *dqkv,
    float *dq_weight, float *dk_weight
) {
#define OF_SIZE(C) \
    NAME(heads_back_of)(count, length, H, K, C, dq, dk, dv, qkv, q_weight, k_weight, eps, rope, context, places, dqkv, dq_weight, dk_weight)
    FOR_SIZE(C)
#undef OF_SIZE
}

// (count, H, length, C) -> (count length, H C), and back.
void NAME(join)(int64_t count, int64_t length, int64_t H, int64_t C, const REAL *heads, REAL *joined) {
    for (int64_t d = 0; d < count; d++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t t = 0; t < length; t++)
                memcpy(joined + ((d * length + t) * H + h) * C, heads + ((d * H + h) * length + t) * C, C * sizeof(REAL));
}

void NAME(part)(int64_t count, int64_t length, int64_t H, int64_t C, const REAL *joined, REAL *heads) {
    for (int64_t d = 0; d < count; d++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t t = 0; t < length; t++)
                memcpy(heads + ((d * H + h) * length + t) * C, joined + ((d * length + t) * H + h) * C, C * sizeof(REAL));
}

// Scores (M, rows, seen) of the queries first, first + 1, ... of a document against its first `seen` keys -> weights (M, rows, seen):
// the softmax of factor x score over the keys up to the query's own place, 0 beyond. The scores' place is used.
void NAME(softmax)(int64_t M, int64_t rows, int64_t seen, int64_t first, float factor, float *scores, REAL *weights) {
    for (int64_t m = 0; m < M; m++)
        for (int64_t i = 0; i < rows; i++) {
            const int64_t at = (m * rows + i) * seen;
            NAME(weigh)(first + i + 1, seen, factor, scores + at, weights + at);
        }
}

// Its way back, in place: grads (M, rows, seen) of the weights -> of the scores.
void NAME(softmax_back)(int64_t M, int64_t rows, int64_t seen, int64_t first, float factor, const REAL *weights, REAL *grads) {
    for (int64_t m = 0; m < M; m++)
        for (int64_t i = 0; i < rows; i++) {
            const REAL *w = weights + (m * rows + i) * seen;
            REAL *g = grads + (m * rows + i) * seen;
            const int64_t known = first + i + 1;
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t j = 0; j < known; j++) dot += OF(w[j]) * OF(g[j]);
#pragma omp simd
            for (int64_t j = 0; j < known; j++) g[j] = TO(factor * OF(w[j]) * (OF(g[j]) - dot));
            memset(g + known, 0, (seen - known) * sizeof(REAL));
        }
}

// gate and up side by side (N, 2 F) -> silu(gate) up (N, F).
void NAME(swiglu)(int64_t N, int64_t F, const REAL *both, REAL *product) {
    for (int64_t i = 0; i < N; i++) {
        const REAL *gate = both + i * 2 * F, *up = gate + F;
        REAL *out = product + i * F;
#pragma omp simd
        for (int64_t j = 0; j < F; j++) {
            const float g = OF(gate[j]);
            out[j] = TO(g * sigmoid(g) * OF(up[j]));
        }
    }
}

// Its way back: dproduct (N, F) becomes the product again, and dboth (N, 2 F) the gradients.
void NAME(swiglu_back)(int64_t N, int64_t F, REAL *dproduct, const REAL *both, REAL *dboth) {
    for (int64_t i = 0; i < N; i++) {
        const REAL *gate = both + i * 2 * F, *up = gate + F;
        REAL *grad = dproduct + i * F, *dgate = dboth + i * 2 * F, *dup = dgate + F;
#pragma omp simd
        for (int64_t j = 0; j < F; j++) {
            const float g = OF(gate[j]), u = OF(up[j]), d = OF(grad[j]), share = sigmoid(g), silu = g * share;
            dgate[j] = TO(d * u * (share + silu * (1.0f - share)));
            dup[j] = TO(d * silu);
            grad[j] = TO(silu * u);
        }
    }
}

// Scores (N, V) of a vocabulary and the right entry of each row -> added up in `total`: shares times the surprise in nats; in place of the
// scores (unless `back` is 0) the gradients of that.
void NAME(surprise)(int64_t N, int64_t V, REAL *scores, const int64_t *right, const float *shares, int64_t back, double *total) {
    float *e = malloc(V * sizeof(float));
    for (int64_t i = 0; i < N; i++) {
        REAL *s = scores + i * V;
        float most = OF(s[0]), sum = 0;
#pragma omp simd reduction(max : most)
        for (int64_t j = 0; j < V; j++) most = OF(s[j]) > most ? OF(s[j]) : most;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < V; j++) sum += e[j] = exponential(OF(s[j]) - most);
        *total += (double)shares[i] * (log(sum) - (OF(s[right[i]]) - most));
        if (!back) continue;
        const float factor = shares[i] / sum;
        e[right[i]] -= sum;
#pragma omp simd
        for (int64_t j = 0; j < V; j++) s[j] = TO(e[j] * factor);
    }
    free(e);
}
