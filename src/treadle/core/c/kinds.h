// What the header KERNELS defines, once for each kind of number: REAL, how to read it (OF) and to write it (TO), and the end of its names.
#define REAL bf16
#define OF of_bf16
#define TO to_bf16
#define NAME(f) f##_bf16
#include KERNELS
#undef REAL
#undef OF
#undef TO
#undef NAME

#define REAL float
#define OF of_float
#define TO to_float
#define NAME(f) f##_float32
#include KERNELS
#undef REAL
#undef OF
#undef TO
#undef NAME
#undef KERNELS
