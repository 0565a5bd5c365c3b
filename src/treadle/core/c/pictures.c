// What a convolution net does beside its convolutions, in one thread. B pictures of H x W pixels, C channels of a pixel side by side.
#include "real.h"

#define KERNELS "pictures.h"
#include "kinds.h"
