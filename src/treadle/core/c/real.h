// Numbers as a transformer's activations hold them: float32, or bfloat16 (the upper half of a float32, rounded to the nearest, ties to even; a NaN stays one, as
// arithmetic makes it).
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

static inline float of_bf16(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

static inline bf16 to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float of_float(float x) { return x; }
static inline float to_float(float x) { return x; }

// e^x for x <= 0, to 2 units in the last place (Cephes, expf): 2^n times a polynomial of the rest; 0 where x is below -88.
static inline float exponential(float x) {
    x = x < -104.0f ? -104.0f : x;
    const float n = floorf(x * 1.44269504088896341f + 0.5f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t power = (int32_t)n;
    power = power < -127 ? -127 : power;
    const uint32_t bits = (uint32_t)(power + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

// 1 / (1 + e^-x)
static inline float sigmoid(float x) {
    const float e = exponential(-fabsf(x));
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

#define KERNELS "softmax.h"
#include "kinds.h"
