// What a transformer's layer does beside its matrix products, each in one pass over its numbers, in one thread.
//
// N tokens, D features of the residual stream (float32), F hidden features of the feed-forward block, H query heads, K key heads of C
// features. A group is `count` documents of `length` tokens that stand one behind the other; for attention its heads stand as
// (count, H, length, C), keys and values repeated for the queries that share them.
#include "real.h"

#define MOST 256  // features of a head
// Loops over a head's features are short: those of the usual sizes are compiled for them.
#define FOR_SIZE(C) \
    if (C == 64) OF_SIZE(64); \
    else if (C == 128) OF_SIZE(128); \
    else if (C == 32) OF_SIZE(32); \
    else OF_SIZE(C);

#define KERNELS "turn.h"
#include "kinds.h"
#define KERNELS "layers.h"
#include "kinds.h"
