// What a convolution net does beside its convolutions, in one thread. B pictures of H x W pixels, C channels of a pixel side by side.
#include "real.h"

#define REAL bf16
#define OF of_bf16
#define TO to_bf16
#define NAME(f) f##_bf16
#include "pictures.h"
#undef REAL
#undef OF
#undef TO
#undef NAME

#define REAL float
#define OF of_float
#define TO to_float
#define NAME(f) f##_float32
#include "pictures.h"
