// What an optimiser does in one step, over all tensors of a network and in one thread.
#include "real.h"

#define BLOCK 4096  // numbers that are added up in float32

// The sum of all squares of `count` tensors of `size` numbers each.
static double square_of(int64_t count, const int64_t *size, const float *const *x) {
    double total = 0;
    for (int64_t i = 0; i < count; i++)
        for (int64_t first = 0; first < size[i]; first += BLOCK) {
            const int64_t most = size[i] - first, length = most < BLOCK ? most : BLOCK;
            const float *values = x[i] + first;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < length; j++) sum += values[j] * values[j];
            total += sum;
        }
    return total;
}

// AdamW (Loshchilov and Hutter 2019, algorithm 2) with the gradients g scaled to a norm of at most `limit` together (Pascanu et al. 2013):
// weights w, running means m of g and v of its square; step: how many steps there were, a number of each tensor, as are its rate lr and its
// weight decay; settings: beta1, beta2, eps, limit. norm: that of the gradients; where it is not finite nothing changes.
void adamw_float32(
    int64_t count, const int64_t *size, float *const *w, const float *const *g, float *const *m, float *const *v, float *const *step,
    const double *lr, const double *decay, const double *settings, double *norm
) {
    const double beta1 = settings[0], beta2 = settings[1], limit = settings[3];
    const float new1 = (float)(1.0 - beta1), new2 = (float)(1.0 - beta2), eps = (float)settings[2];
    *norm = sqrt(square_of(count, size, g));
    if (!isfinite(*norm)) return;
    const float factor = *norm > limit ? (float)(limit / (*norm + 1e-6)) : 1.0f;
    for (int64_t i = 0; i < count; i++) {
        const double n = *step[i] += 1.0f;
        const float rate = (float)(lr[i] / (1.0 - pow(beta1, n))), keep = (float)(1.0 - lr[i] * decay[i]);
        const float grown = (float)(1.0 / sqrt(1.0 - pow(beta2, n)));
        float *restrict weight = w[i], *restrict mean = m[i], *restrict square = v[i];
        const float *restrict grad = g[i];
#pragma omp simd
        for (int64_t j = 0; j < size[i]; j++) {
            const float x = grad[j] * factor;
            mean[j] += new1 * (x - mean[j]);
            square[j] += new2 * (x * x - square[j]);
            weight[j] = keep * weight[j] - rate * mean[j] / (sqrtf(square[j]) * grown + eps);
        }
    }
}
