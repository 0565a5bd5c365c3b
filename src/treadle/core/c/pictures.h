// For each kind of number (kinds.h).

// x (B, H, W, C) -> y (B, H / 2, W / 2, C): the largest of each 2 x 2 pixels, or 0 where that is below; which (B, H / 2, W / 2, C): 0 to 3, the
// first of them that is as large, or 4 where none is above 0. A NaN is larger than all.
void NAME(halve_relu)(int64_t B, int64_t H, int64_t W, int64_t C, const REAL *restrict x, REAL *restrict y, uint8_t *restrict which) {
    const int64_t high = H / 2, wide = W / 2;
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < high; i++)
            for (int64_t j = 0; j < wide; j++) {
                const REAL *one = x + ((b * H + 2 * i) * W + 2 * j) * C, *two = one + C, *three = one + W * C, *four = three + C;
                const int64_t to = ((b * high + i) * wide + j) * C;
#pragma omp simd
                for (int64_t c = 0; c < C; c++) {
                    float most = OF(one[c]);
                    const float p = OF(two[c]), q = OF(three[c]), r = OF(four[c]);
                    int32_t at = 0;
                    at = p > most || p != p ? 1 : at;
                    most = p > most || p != p ? p : most;
                    at = q > most || q != q ? 2 : at;
                    most = q > most || q != q ? q : most;
                    at = r > most || r != r ? 3 : at;
                    most = r > most || r != r ? r : most;
                    which[to + c] = (uint8_t)(most <= 0 ? 4 : at);
                    y[to + c] = TO(most <= 0 ? 0 : most);
                }
            }
}

// Its way back: dy -> dx, 0 where nothing was taken.
void NAME(halve_relu_back)(
    int64_t B, int64_t H, int64_t W, int64_t C, const REAL *restrict dy, const uint8_t *restrict which, REAL *restrict dx
) {
    const int64_t high = H / 2, wide = W / 2;
    for (int64_t b = 0; b < B; b++) {
        for (int64_t i = 0; i < high; i++) {
            REAL *row = dx + (b * H + 2 * i) * W * C;
            for (int64_t j = 0; j < wide; j++) {
                REAL *one = row + 2 * j * C, *two = one + C, *three = one + W * C, *four = three + C;
                const int64_t from = ((b * high + i) * wide + j) * C;
#pragma omp simd
                for (int64_t c = 0; c < C; c++) {
                    const REAL g = dy[from + c];
                    const uint8_t at = which[from + c];
                    one[c] = at == 0 ? g : 0;
                    two[c] = at == 1 ? g : 0;
                    three[c] = at == 2 ? g : 0;
                    four[c] = at == 3 ? g : 0;
                }
            }
            if (W % 2) {
                memset(row + (W - 1) * C, 0, C * sizeof(REAL));
                memset(row + (2 * W - 1) * C, 0, C * sizeof(REAL));
            }
        }
        if (H % 2) memset(dx + (b * H + H - 1) * W * C, 0, W * C * sizeof(REAL));
    }
}
