/* The loops of _kernel.c, compiled once for each instruction set. No include guard: _kernel.c includes this file several times.

   It defines before: ISA (0 portable, 1 AVX2 and F16C, 2 AVX-512) and FN(name), which makes the name of this copy of a function.
   Every loop takes one sub-block of at most SUB elements, which stays in the first-level cache, aligned and in native byte order. */

/* ---- half precision -------------------------------------------------------------------------------------------------------- */

static void FN(half_to_float)(const uint16_t *x, float *y, size_t m) {
    size_t j = 0;
#if ISA == 2
    for (; j + 16 <= m; j += 16) _mm512_storeu_ps(y + j, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + j))));
#elif ISA == 1
    for (; j + 8 <= m; j += 8) _mm256_storeu_ps(y + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + j))));
#endif
    SIMD
    for (size_t i = j; i < m; i++) y[i] = half_value(x[i]);
}

/* Halves nearest to `x`, and their values, as the statistics need them. */
static void FN(float_to_half)(const float *x, uint16_t *half, float *value, size_t m) {
    size_t j = 0;
#if ISA == 2
    for (; j + 16 <= m; j += 16) {
        __m256i h = _mm512_cvtps_ph(_mm512_loadu_ps(x + j), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_storeu_si256((__m256i *)(half + j), h);
        _mm512_storeu_ps(value + j, _mm512_cvtph_ps(h));
    }
#elif ISA == 1
    for (; j + 8 <= m; j += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(x + j), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(half + j), h);
        _mm256_storeu_ps(value + j, _mm256_cvtph_ps(h));
    }
#endif
    SIMD
    for (size_t i = j; i < m; i++) {
        half[i] = half_of_float(x[i]);
        value[i] = half_value(half[i]);
    }
}

static void FN(float_to_bfloat)(const float *x, uint16_t *bfloat, float *value, size_t m) {
    SIMD
    for (size_t j = 0; j < m; j++) {
        bfloat[j] = bfloat_of_float(x[j]);
        value[j] = bfloat_value(bfloat[j]);
    }
}

/* From double directly: by way of float, the result would be rounded twice. */
static void FN(double_to_half)(const double *x, uint16_t *half, float *value, size_t m) {
    SIMD
    for (size_t j = 0; j < m; j++) half[j] = half_of_double(x[j]);
    FN(half_to_float)(half, value, m);
}

static void FN(double_to_bfloat)(const double *x, uint16_t *bfloat, float *value, size_t m) {
    SIMD
    for (size_t j = 0; j < m; j++) {
        bfloat[j] = bfloat_of_double(x[j]);
        value[j] = bfloat_value(bfloat[j]);
    }
}

static void FN(bfloat_to_float)(const uint16_t *x, float *y, size_t m) {
    SIMD
    for (size_t j = 0; j < m; j++) y[j] = bfloat_value(x[j]);
}

/* ---- conversions that C has --------------------------------------------------------------------------------------------------- */

#define CONVERT(NAME, FROM, TO)                                \
    static void FN(NAME)(const FROM *x, TO *y, size_t m) {     \
        SIMD                                                   \
        for (size_t j = 0; j < m; j++) y[j] = (TO)x[j];        \
    }
CONVERT(i1_to_f, int8_t, float)
CONVERT(i2_to_f, int16_t, float)
CONVERT(u1_to_f, uint8_t, float)
CONVERT(u2_to_f, uint16_t, float)
CONVERT(i4_to_d, int32_t, double)
CONVERT(u4_to_d, uint32_t, double)
CONVERT(i8_to_f, int64_t, float)
CONVERT(u8_to_f, uint64_t, float)
CONVERT(i8_to_d, int64_t, double)
CONVERT(u8_to_d, uint64_t, double)
CONVERT(f_to_d, float, double)
CONVERT(d_to_f, double, float)
CONVERT(f_to_i8, float, int64_t)
CONVERT(d_to_i8, double, int64_t)
CONVERT(d_to_i4, double, int32_t)
CONVERT(i8_to_i4, int64_t, int32_t)
#undef CONVERT

/* ---- the function ------------------------------------------------------------------------------------------------------------- */

/* x and y may be the same memory. NaN is kept as it is, to the bit, where a product would set its quiet bit. */
static void FN(leaky_f)(const float *x, float *y, size_t m, float alpha) {
    SIMD
    for (size_t j = 0; j < m; j++) {
        float v = x[j], product = v * alpha;
        y[j] = v <= 0 ? product : v;
    }
    KEEP_NAN(uint32_t, 0x7fffffffu, 0x7f800000u)
}

static void FN(leaky_d)(const double *x, double *y, size_t m, double alpha) {
    SIMD
    for (size_t j = 0; j < m; j++) {
        double v = x[j], product = v * alpha;
        y[j] = v <= 0 ? product : v;
    }
    KEEP_NAN(uint64_t, 0x7fffffffffffffffu, 0x7ff0000000000000u)
}

/* Doubles (the result, not rounded) to integers of 32 bits, as doubles; NaN becomes `nan`. Adds to clipped and nans. */
static void FN(to_i4)(double *y, size_t m, double nan, const uint8_t *skip, int64_t *clipped, int64_t *nans) {
    int lost = 0, undefined = 0;
    SIMD_(reduction(+ : lost, undefined))
    for (size_t j = 0; j < m; j++) {
        double w = __builtin_rint(y[j]);
        int over = w >= 0x1p31, under = w < -0x1p31, is_nan = w != w;
        w = over ? 0x1p31 - 1 : w;
        w = under ? -0x1p31 : w;
        y[j] = is_nan ? nan : w;
        lost += (over | under) & !skip[j];
        undefined += is_nan & !skip[j];
    }
    *clipped += lost;
    *nans += undefined;
}

static void FN(to_i8)(const double *y, int64_t *out, size_t m, int64_t nan, const uint8_t *skip, int64_t *clipped, int64_t *nans) {
    int lost = 0, undefined = 0;
    SIMD_(reduction(+ : lost, undefined))
    for (size_t j = 0; j < m; j++) {
        double w = __builtin_rint(y[j]);
        int over = w >= 0x1p63, under = w < -0x1p63, is_nan = w != w;
        int64_t whole = (int64_t)((over | under | is_nan) ? 0.0 : w);
        whole = over ? INT64_MAX : whole;
        whole = under ? INT64_MIN : whole;
        out[j] = is_nan ? nan : whole;
        lost += (over | under) & !skip[j];
        undefined += is_nan & !skip[j];
    }
    *clipped += lost;
    *nans += undefined;
}

/* Integers to integers: those that need no product pass through. low and high: the bounds of the result's type. */
static void FN(leaky_i8)(const int64_t *x, int64_t *y, size_t m, double alpha, int64_t low, int64_t high, const uint8_t *skip, int64_t *clipped) {
    int lost = 0, all = alpha == 1;
    double bottom = (double)low, top = -(double)low;
    SIMD_(reduction(+ : lost))
    for (size_t j = 0; j < m; j++) {
        int64_t v = x[j], whole = v < low ? low : v > high ? high : v;
        double product = __builtin_rint((double)v * alpha);
        int passes = all | (v > 0), over = product >= top, under = product < bottom;
        int64_t rounded = (int64_t)((over | under) ? 0.0 : product);
        rounded = over ? high : rounded;
        rounded = under ? low : rounded;
        y[j] = passes ? whole : rounded;
        lost += (passes ? whole != v : (over | under)) & !skip[j];
    }
    *clipped += lost;
}

static void FN(leaky_u8)(const uint64_t *x, int64_t *y, size_t m, int64_t high, const uint8_t *skip, int64_t *clipped) {
    int lost = 0;
    SIMD_(reduction(+ : lost))
    for (size_t j = 0; j < m; j++) {
        int over = x[j] > (uint64_t)high;
        y[j] = over ? high : (int64_t)x[j];
        lost += over & !skip[j];
    }
    *clipped += lost;
}

/* ---- missing elements --------------------------------------------------------------------------------------------------------- */

#define FIND(NAME, TYPE)                                                                                              \
    static int FN(NAME)(const TYPE *x, size_t m, const TYPE *values, int count, int nan, uint8_t *found) {            \
        int total = 0;                                                                                                \
        SIMD                                                                                                          \
        for (size_t j = 0; j < m; j++) found[j] = (uint8_t)(nan & (x[j] != x[j]));                                    \
        for (int k = 0; k < count; k++) {                                                                             \
            TYPE value = values[k];                                                                                   \
            SIMD                                                                                                      \
            for (size_t j = 0; j < m; j++) found[j] |= (uint8_t)(x[j] == value);                                      \
        }                                                                                                             \
        SIMD_(reduction(+ : total))                                                                                   \
        for (size_t j = 0; j < m; j++) total += found[j];                                                             \
        return total;                                                                                                 \
    }
FIND(find_f, float)
FIND(find_d, double)
FIND(find_i, int64_t)
FIND(find_u, uint64_t)
#undef FIND

/* Results that equal the number which stands for "no value" though their element is not missing. */
#define COLLIDE(NAME, TYPE)                                                                                           \
    static int64_t FN(NAME)(const TYPE *y, size_t m, TYPE fill, const uint8_t *skip) {                                \
        int total = 0, nan = fill != fill;                                                                            \
        SIMD_(reduction(+ : total))                                                                                   \
        for (size_t j = 0; j < m; j++) total += ((y[j] == fill) | (nan & (y[j] != y[j]))) & !skip[j];                 \
        return total;                                                                                                 \
    }
COLLIDE(collide_f, float)
COLLIDE(collide_d, double)
COLLIDE(collide_i, int64_t)
#undef COLLIDE

/* ---- statistics --------------------------------------------------------------------------------------------------------------- */

/* The lanes: element i of a block is added to lane i % 16, its square likewise. `d`: differences from the shift, m a multiple of 16
   or the last of a block. */
static void FN(add_lanes)(const double *d, size_t m, double *restrict sum, double *restrict squares) {
    size_t j = 0;
    for (; j + LANES <= m; j += LANES) {
        SIMD
        for (int k = 0; k < LANES; k++) {
            sum[k] += d[j + k];
            squares[k] += d[j + k] * d[j + k];
        }
    }
    for (size_t k = 0; j < m; j++, k++) {
        sum[k] += d[j];
        squares[k] += d[j] * d[j];
    }
}

/* Any elements: NaN, infinities, missing ones (`miss`, or NULL). `d` is scratch. */
#define SLOW(NAME, TYPE, BIGGEST)                                                                                                     \
    static void FN(NAME)(const TYPE *x, size_t m, const uint8_t *miss, double *d, Side *s) {                                          \
        int nan = 0, neginf = 0, posinf = 0, zero = 0, positive = 0, finite = 0;                                                      \
        TYPE low = (TYPE)INFINITY, high = -(TYPE)INFINITY, biggest = 0;                                                               \
        double shift = s->shift;                                                                                                      \
        SIMD_(reduction(+ : nan, neginf, posinf, zero, positive, finite) reduction(min : low) reduction(max : high, biggest))         \
        for (size_t j = 0; j < m; j++) {                                                                                              \
            TYPE v = x[j];                                                                                                            \
            int valid = !miss[j], is_finite = (v >= -BIGGEST) & (v <= BIGGEST) & valid;                                               \
            int is_nan = (v != v) & valid;                                                                                            \
            nan += is_nan;                                                                                                            \
            neginf += (v < -BIGGEST) & valid;                                                                                         \
            posinf += (v > BIGGEST) & valid;                                                                                          \
            zero += (v == 0) & valid;                                                                                                 \
            positive += (v > 0) & valid;                                                                                              \
            finite += is_finite;                                                                                                      \
            TYPE least = (valid & !is_nan) ? v : (TYPE)INFINITY, most = (valid & !is_nan) ? v : -(TYPE)INFINITY;                          \
            low = least < low ? least : low;                                                                                          \
            high = most > high ? most : high;                                                                                         \
            TYPE size = is_finite ? (v < 0 ? -v : v) : 0;                                                                             \
            biggest = size > biggest ? size : biggest;                                                                                \
            d[j] = is_finite ? (double)v - shift : 0.0;                                                                               \
        }                                                                                                                             \
        /* clang begins these reductions with the largest finite numbers. */                                                         \
        low = finite + neginf ? low : (TYPE)INFINITY;                                                                                 \
        high = finite + posinf ? high : -(TYPE)INFINITY;                                                                              \
        FN(add_lanes)(d, m, s->sum, s->squares);                                                                                      \
        s->nan += nan;                                                                                                                \
        s->neginf += neginf;                                                                                                          \
        s->posinf += posinf;                                                                                                          \
        s->zero += zero;                                                                                                              \
        s->positive += positive;                                                                                                      \
        s->finite += finite;                                                                                                          \
        s->low = low < s->low ? low : s->low;                                                                                         \
        s->high = high > s->high ? high : s->high;                                                                                    \
        s->biggest = biggest > s->biggest ? biggest : s->biggest;                                                                     \
        s->wary = (size_t)finite < m;                                                                                                 \
    }
SLOW(slow_f, float, 0x1.fffffep127f)
SLOW(slow_d, double, 0x1.fffffffffffffp1023)
#undef SLOW

/* The usual case, no element missing, m a multiple of 16: all elements finite. Where they are not, the sums show it: 0 is returned, and
   nothing was done. */
#if ISA == 2
static int FN(fast_f)(const float *x, size_t m, int shifted, Side *s) {
    __m512d a0 = _mm512_loadu_pd(s->sum), a1 = _mm512_loadu_pd(s->sum + 8);
    __m512d b0 = _mm512_loadu_pd(s->squares), b1 = _mm512_loadu_pd(s->squares + 8), shift = _mm512_set1_pd(s->shift);
    __m512 low = _mm512_set1_ps(INFINITY), high = _mm512_set1_ps(-INFINITY), none = _mm512_setzero_ps();
    int positive = 0, zero = 0;
    for (size_t j = 0; j < m; j += 16) {
        __m512 v = _mm512_loadu_ps(x + j);
        __m512d d0 = _mm512_cvtps_pd(_mm256_loadu_ps(x + j)), d1 = _mm512_cvtps_pd(_mm256_loadu_ps(x + j + 8));
        if (shifted) d0 = _mm512_sub_pd(d0, shift), d1 = _mm512_sub_pd(d1, shift);
        a0 = _mm512_add_pd(a0, d0), a1 = _mm512_add_pd(a1, d1);
        b0 = _mm512_add_pd(b0, _mm512_mul_pd(d0, d0)), b1 = _mm512_add_pd(b1, _mm512_mul_pd(d1, d1));
        positive += __builtin_popcount(_mm512_cmp_ps_mask(v, none, _CMP_GT_OQ));
        zero += __builtin_popcount(_mm512_cmp_ps_mask(v, none, _CMP_EQ_OQ));
        low = _mm512_min_ps(v, low), high = _mm512_max_ps(v, high);
    }
    if (_mm512_fpclass_pd_mask(_mm512_add_pd(a0, a1), 0x99)) return 0;
    _mm512_storeu_pd(s->sum, a0), _mm512_storeu_pd(s->sum + 8, a1);
    _mm512_storeu_pd(s->squares, b0), _mm512_storeu_pd(s->squares + 8, b1);
    take_plain(s, m, positive, zero, _mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high));
    return 1;
}

static int FN(fast_d)(const double *x, size_t m, int shifted, Side *s) {
    __m512d a0 = _mm512_loadu_pd(s->sum), a1 = _mm512_loadu_pd(s->sum + 8);
    __m512d b0 = _mm512_loadu_pd(s->squares), b1 = _mm512_loadu_pd(s->squares + 8), shift = _mm512_set1_pd(s->shift);
    __m512d low = _mm512_set1_pd(INFINITY), high = _mm512_set1_pd(-INFINITY), none = _mm512_setzero_pd();
    int positive = 0, zero = 0;
    (void)shifted;
    for (size_t j = 0; j < m; j += 16) {
        __m512d v0 = _mm512_loadu_pd(x + j), v1 = _mm512_loadu_pd(x + j + 8);
        __m512d d0 = _mm512_sub_pd(v0, shift), d1 = _mm512_sub_pd(v1, shift);
        a0 = _mm512_add_pd(a0, d0), a1 = _mm512_add_pd(a1, d1);
        b0 = _mm512_add_pd(b0, _mm512_mul_pd(d0, d0)), b1 = _mm512_add_pd(b1, _mm512_mul_pd(d1, d1));
        positive += __builtin_popcount(_mm512_cmp_pd_mask(v0, none, _CMP_GT_OQ) | _mm512_cmp_pd_mask(v1, none, _CMP_GT_OQ) << 8);
        zero += __builtin_popcount(_mm512_cmp_pd_mask(v0, none, _CMP_EQ_OQ) | _mm512_cmp_pd_mask(v1, none, _CMP_EQ_OQ) << 8);
        low = _mm512_min_pd(v1, _mm512_min_pd(v0, low)), high = _mm512_max_pd(v1, _mm512_max_pd(v0, high));
    }
    if (_mm512_fpclass_pd_mask(_mm512_add_pd(a0, a1), 0x99)) return 0;
    _mm512_storeu_pd(s->sum, a0), _mm512_storeu_pd(s->sum + 8, a1);
    _mm512_storeu_pd(s->squares, b0), _mm512_storeu_pd(s->squares + 8, b1);
    take_plain(s, m, positive, zero, _mm512_reduce_min_pd(low), _mm512_reduce_max_pd(high));
    return 1;
}
#elif ISA == 1
static int FN(fast_f)(const float *x, size_t m, int shifted, Side *s) {
    __m256d a[4], b[4], shift = _mm256_set1_pd(s->shift);
    for (int k = 0; k < 4; k++) a[k] = _mm256_loadu_pd(s->sum + 4 * k), b[k] = _mm256_loadu_pd(s->squares + 4 * k);
    __m256 low = _mm256_set1_ps(INFINITY), high = _mm256_set1_ps(-INFINITY), none = _mm256_setzero_ps();
    __m256i positive = _mm256_setzero_si256(), zero = positive;
    for (size_t j = 0; j < m; j += 16) {
        for (int h = 0; h < 2; h++) {
            __m256 v = _mm256_loadu_ps(x + j + 8 * h);
            __m256d d0 = _mm256_cvtps_pd(_mm256_castps256_ps128(v)), d1 = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
            if (shifted) d0 = _mm256_sub_pd(d0, shift), d1 = _mm256_sub_pd(d1, shift);
            a[2 * h] = _mm256_add_pd(a[2 * h], d0), a[2 * h + 1] = _mm256_add_pd(a[2 * h + 1], d1);
            b[2 * h] = _mm256_add_pd(b[2 * h], _mm256_mul_pd(d0, d0)), b[2 * h + 1] = _mm256_add_pd(b[2 * h + 1], _mm256_mul_pd(d1, d1));
            positive = _mm256_sub_epi32(positive, _mm256_castps_si256(_mm256_cmp_ps(v, none, _CMP_GT_OQ)));
            zero = _mm256_sub_epi32(zero, _mm256_castps_si256(_mm256_cmp_ps(v, none, _CMP_EQ_OQ)));
            low = _mm256_min_ps(v, low), high = _mm256_max_ps(v, high);
        }
    }
    double sum[LANES], squares[LANES];
    for (int k = 0; k < 4; k++) _mm256_storeu_pd(sum + 4 * k, a[k]), _mm256_storeu_pd(squares + 4 * k, b[k]);
    if (!keep_lanes(s, sum, squares)) return 0;
    int32_t p[8], z[8];
    float l[8], h[8];
    _mm256_storeu_si256((__m256i *)p, positive), _mm256_storeu_si256((__m256i *)z, zero);
    _mm256_storeu_ps(l, low), _mm256_storeu_ps(h, high);
    for (int k = 1; k < 8; k++) p[0] += p[k], z[0] += z[k], l[0] = l[k] < l[0] ? l[k] : l[0], h[0] = h[k] > h[0] ? h[k] : h[0];
    take_plain(s, m, p[0], z[0], l[0], h[0]);
    return 1;
}

static int FN(fast_d)(const double *x, size_t m, int shifted, Side *s) {
    __m256d a[4], b[4], shift = _mm256_set1_pd(s->shift);
    for (int k = 0; k < 4; k++) a[k] = _mm256_loadu_pd(s->sum + 4 * k), b[k] = _mm256_loadu_pd(s->squares + 4 * k);
    __m256d low = _mm256_set1_pd(INFINITY), high = _mm256_set1_pd(-INFINITY), none = _mm256_setzero_pd();
    __m256i positive = _mm256_setzero_si256(), zero = positive;
    (void)shifted;
    for (size_t j = 0; j < m; j += 16) {
        for (int k = 0; k < 4; k++) {
            __m256d v = _mm256_loadu_pd(x + j + 4 * k), d = _mm256_sub_pd(v, shift);
            a[k] = _mm256_add_pd(a[k], d);
            b[k] = _mm256_add_pd(b[k], _mm256_mul_pd(d, d));
            positive = _mm256_sub_epi64(positive, _mm256_castpd_si256(_mm256_cmp_pd(v, none, _CMP_GT_OQ)));
            zero = _mm256_sub_epi64(zero, _mm256_castpd_si256(_mm256_cmp_pd(v, none, _CMP_EQ_OQ)));
            low = _mm256_min_pd(v, low), high = _mm256_max_pd(v, high);
        }
    }
    double sum[LANES], squares[LANES];
    for (int k = 0; k < 4; k++) _mm256_storeu_pd(sum + 4 * k, a[k]), _mm256_storeu_pd(squares + 4 * k, b[k]);
    if (!keep_lanes(s, sum, squares)) return 0;
    int64_t p[4], z[4];
    double l[4], h[4];
    _mm256_storeu_si256((__m256i *)p, positive), _mm256_storeu_si256((__m256i *)z, zero);
    _mm256_storeu_pd(l, low), _mm256_storeu_pd(h, high);
    for (int k = 1; k < 4; k++) p[0] += p[k], z[0] += z[k], l[0] = l[k] < l[0] ? l[k] : l[0], h[0] = h[k] > h[0] ? h[k] : h[0];
    take_plain(s, m, p[0], z[0], l[0], h[0]);
    return 1;
}
#else
#define FAST(NAME, TYPE)                                                                                              \
    static int FN(NAME)(const TYPE *x, size_t m, int shifted, Side *s) {                                              \
        double sum[LANES], squares[LANES], shift = s->shift;                                                          \
        int positive = 0, zero = 0;                                                                                   \
        TYPE low = (TYPE)INFINITY, high = -(TYPE)INFINITY;                                                            \
        (void)shifted;                                                                                                \
        memcpy(sum, s->sum, sizeof sum);                                                                              \
        memcpy(squares, s->squares, sizeof squares);                                                                  \
        for (size_t j = 0; j < m; j += LANES) {                                                                       \
            SIMD                                                                                                      \
            for (int k = 0; k < LANES; k++) {                                                                         \
                double d = (double)x[j + k] - shift;                                                                  \
                sum[k] += d;                                                                                          \
                squares[k] += d * d;                                                                                  \
            }                                                                                                         \
        }                                                                                                             \
        if (!keep_lanes(s, sum, squares)) return 0;                                                                   \
        SIMD_(reduction(+ : positive, zero) reduction(min : low) reduction(max : high))                               \
        for (size_t j = 0; j < m; j++) {                                                                              \
            TYPE v = x[j];                                                                                            \
            positive += v > 0;                                                                                        \
            zero += v == 0;                                                                                           \
            low = v < low ? v : low;                                                                                  \
            high = v > high ? v : high;                                                                               \
        }                                                                                                             \
        take_plain(s, m, positive, zero, low, high);                                                                  \
        return 1;                                                                                                     \
    }
FAST(fast_f, float)
FAST(fast_d, double)
#undef FAST
#endif

/* shifted: whether the shift is the block's first valid element, or 0. skip: which are missing; missing: how many. */
#define STATISTICS(NAME, FAST, SLOW, TYPE, BIGGEST)                                                                                   \
    static void FN(NAME)(const TYPE *x, size_t m, const uint8_t *skip, int missing, int shifted, double *d, Side *s) {                \
        if (!s->begun)                                                                                                                \
            for (size_t j = 0; j < m; j++)                                                                                            \
                if ((x[j] >= -BIGGEST) & (x[j] <= BIGGEST) & !skip[j]) {                                                              \
                    s->shift = shifted ? (double)x[j] : 0.0;                                                                          \
                    s->begun = 1;                                                                                                     \
                    break;                                                                                                            \
                }                                                                                                                     \
        size_t whole = missing || s->wary ? 0 : m / LANES * LANES;                                                                    \
        if (whole && !FN(FAST)(x, whole, shifted, s)) whole = 0;                                                                      \
        if (whole < m) FN(SLOW)(x + whole, m - whole, skip + whole, d, s);                                                            \
    }
STATISTICS(statistics_f, fast_f, slow_f, float, 0x1.fffffep127f)
STATISTICS(statistics_d, fast_d, slow_d, double, 0x1.fffffffffffffp1023)
#undef STATISTICS

/* 64-bit integers: the difference from the shift is taken as an integer, and rounded once. */
#define WHOLE(NAME, TYPE, LEAST, MOST, LOW, HIGH, SHIFT)                                                                              \
    static void FN(NAME)(const TYPE *x, size_t m, const uint8_t *skip, double *d, Side *s) {                                          \
        int zero = 0, positive = 0, finite = 0;                                                                                       \
        TYPE low = s->LOW, high = s->HIGH;                                                                                            \
        for (size_t j = 0; !s->begun && j < m; j++)                                                                                   \
            if (!skip[j]) {                                                                                                           \
                s->SHIFT = x[j];                                                                                                      \
                s->begun = 1;                                                                                                         \
            }                                                                                                                         \
        TYPE shift = s->SHIFT;                                                                                                        \
        SIMD_(reduction(+ : zero, positive, finite) reduction(min : low) reduction(max : high))                                       \
        for (size_t j = 0; j < m; j++) {                                                                                              \
            TYPE v = x[j];                                                                                                            \
            int valid = !skip[j], above = v >= shift;                                                                                 \
            zero += (v == 0) & valid;                                                                                                 \
            positive += (v > 0) & valid;                                                                                              \
            finite += valid;                                                                                                          \
            TYPE least = valid ? v : MOST, most = valid ? v : LEAST;                                                                  \
            low = least < low ? least : low;                                                                                          \
            high = most > high ? most : high;                                                                                         \
            uint64_t apart = above ? (uint64_t)v - (uint64_t)shift : (uint64_t)shift - (uint64_t)v;                                   \
            double distance = (double)apart;                                                                                          \
            distance = above ? distance : -distance;                                                                                  \
            d[j] = valid ? distance : 0.0;                                                                                            \
        }                                                                                                                             \
        FN(add_lanes)(d, m, s->sum, s->squares);                                                                                      \
        s->zero += zero;                                                                                                              \
        s->positive += positive;                                                                                                      \
        s->finite += finite;                                                                                                          \
        s->LOW = low;                                                                                                                 \
        s->HIGH = high;                                                                                                               \
    }
WHOLE(statistics_i, int64_t, INT64_MIN, INT64_MAX, ilow, ihigh, ishift)
WHOLE(statistics_u, uint64_t, 0, UINT64_MAX, ulow, uhigh, ushift)
#undef WHOLE

/* ---- one sub-block ------------------------------------------------------------------------------------------------------------ */

static void FN(swap)(const void *from, void *to, size_t m, size_t size) {
    if (size == 2) {
        const uint16_t *x = from;
        uint16_t *y = to;
        SIMD
        for (size_t j = 0; j < m; j++) y[j] = (uint16_t)(x[j] << 8 | x[j] >> 8);
    } else if (size == 4) {
        const uint32_t *x = from;
        uint32_t *y = to;
        SIMD
        for (size_t j = 0; j < m; j++) y[j] = __builtin_bswap32(x[j]);
    } else if (size == 8) {
        const uint64_t *x = from;
        uint64_t *y = to;
        SIMD
        for (size_t j = 0; j < m; j++) y[j] = __builtin_bswap64(x[j]);
    }
}

/* The elements of `type` at `x` as numbers that hold them exactly: see `Values`. */
static Values FN(load)(enum type type, const void *x, size_t m, float *f, double *d) {
    Values v = {0};
    switch (type) {
    case F2: FN(half_to_float)(x, f, m); v.f = f; break;
    case B2: FN(bfloat_to_float)(x, f, m); v.f = f; break;
    case I1: FN(i1_to_f)(x, f, m); v.f = f; break;
    case I2: FN(i2_to_f)(x, f, m); v.f = f; break;
    case U1: FN(u1_to_f)(x, f, m); v.f = f; break;
    case U2: FN(u2_to_f)(x, f, m); v.f = f; break;
    case I4: FN(i4_to_d)(x, d, m); v.d = d; break;
    case U4: FN(u4_to_d)(x, d, m); v.d = d; break;
    case F4: v.f = x; break;
    case F8: v.d = x; break;
    case I8: v.i = x; break;
    case U8: v.u = x; break;
    }
    return v;
}

static const float *FN(as_float)(Values x, size_t m, float *f) {
    if (x.f) return x.f;
    if (x.d) FN(d_to_f)(x.d, f, m);
    else if (x.i) FN(i8_to_f)(x.i, f, m);
    else FN(u8_to_f)(x.u, f, m);
    return f;
}

static const double *FN(as_double)(Values x, size_t m, double *d) {
    if (x.d) return x.d;
    if (x.f) FN(f_to_d)(x.f, d, m);
    else if (x.i) FN(i8_to_d)(x.i, d, m);
    else FN(u8_to_d)(x.u, d, m);
    return d;
}

static void FN(add)(Values v, size_t m, const uint8_t *skip, int missing, int shifted, double *d, Side *s) {
    s->missing += missing;
    if (v.f) FN(statistics_f)(v.f, m, skip, missing, shifted, d, s);
    else if (v.d) FN(statistics_d)(v.d, m, skip, missing, shifted, d, s);
    else if (v.i) FN(statistics_i)(v.i, m, skip, d, s);
    else FN(statistics_u)(v.u, m, skip, d, s);
}

static int FN(find)(Values v, size_t m, const Pass *p, uint8_t *found) {
    if (v.f) return FN(find_f)(v.f, m, p->missing_f, p->missing, p->nan_is_missing, found);
    if (v.d) return FN(find_d)(v.d, m, p->missing_d, p->missing, p->nan_is_missing, found);
    if (v.i) return FN(find_i)(v.i, m, p->missing_i, p->missing, 0, found);
    return FN(find_u)(v.u, m, p->missing_u, p->missing, 0, found);
}

/* Transform the elements `x` into `out`, aligned and native, of the result's type. Returns them as numbers. */
static Values FN(transform)(Pass *p, Values x, void *out, size_t m, const uint8_t *skip, Scratch *w) {
    Values y = {0};
    if (p->y < I1 && p->compute_float) {
        const float *f = FN(as_float)(x, m, w->xf);
        if (p->y == F4) {
            FN(leaky_f)(f, out, m, (float)p->alpha);
            y.f = out;
            return y;
        }
        FN(leaky_f)(f, w->yf, m, (float)p->alpha);
        if (p->y == F2) FN(float_to_half)(w->yf, out, w->yf, m);
        else FN(float_to_bfloat)(w->yf, out, w->yf, m);
        y.f = w->yf;
    } else if (p->y < I1) {
        const double *d = FN(as_double)(x, m, w->xd);
        if (p->y == F8) {
            FN(leaky_d)(d, out, m, p->alpha);
            y.d = out;
            return y;
        }
        FN(leaky_d)(d, w->yd, m, p->alpha);
        y.f = w->yf;
        if (p->y == F4) {
            FN(d_to_f)(w->yd, out, m);
            y.f = out;
        } else if (p->y == F2) FN(double_to_half)(w->yd, out, w->yf, m);
        else FN(double_to_bfloat)(w->yd, out, w->yf, m);
    } else if (p->x < I1) {
        FN(leaky_d)(FN(as_double)(x, m, w->xd), w->yd, m, p->alpha);
        if (p->refuse_nan && has_nan(w->yd, m)) {
            p->found_nan = 1;
            return y;
        }
        if (p->y == I4) {
            FN(to_i4)(w->yd, m, (double)p->nan, skip, &p->clipped, &p->replaced);
            FN(d_to_i4)(w->yd, out, m);
            y.d = w->yd;
        } else {
            FN(to_i8)(w->yd, out, m, p->nan, skip, &p->clipped, &p->replaced);
            y.i = out;
        }
    } else {
        int64_t low = p->y == I4 ? INT32_MIN : INT64_MIN, high = p->y == I4 ? INT32_MAX : INT64_MAX;
        int64_t *whole = p->y == I4 ? w->yi : out;
        if (x.u) FN(leaky_u8)(x.u, whole, m, high, skip, &p->clipped);
        else {
            const int64_t *i = x.i;
            if (!i) {
                if (x.f) FN(f_to_i8)(x.f, w->xi, m);
                else FN(d_to_i8)(x.d, w->xi, m);
                i = w->xi;
            }
            FN(leaky_i8)(i, whole, m, p->alpha, low, high, skip, &p->clipped);
        }
        if (p->y == I4) {
            FN(i8_to_i4)(whole, out, m);
            FN(i8_to_d)(whole, w->yd, m);
            y.d = w->yd;
        } else y.i = out;
    }
    return y;
}

static int64_t FN(collide)(Values y, size_t m, const Pass *p, const uint8_t *skip) {
    if (y.f) return FN(collide_f)(y.f, m, (float)p->fill, skip);
    if (y.d) return FN(collide_d)(y.d, m, p->fill, skip);
    return FN(collide_i)(y.i, m, p->ifill, skip);
}

/* All of it; returns the position of the first NaN that has no integer, or -1. */
static int64_t FN(run)(Pass *p) {
    Scratch *w = p->scratch;
    size_t in = SIZES[p->x], out = SIZES[p->y];
    for (size_t block = 0; block < p->n; block += BLOCK) {
        size_t stop = p->n - block < BLOCK ? p->n : block + BLOCK;
        if (p->saved) memcpy(p->saved, p->from + block * in, (stop - block) * in);
        for (size_t at = block; at < stop; at += SUB) {
            size_t m = stop - at < SUB ? stop - at : SUB;
            const void *x = p->from + at * in;
            char *to = p->to + at * out;
            if (p->swap_x | p->odd_x) {
                memcpy(w->raw, x, m * in);
                if (p->swap_x) FN(swap)(w->raw, w->raw, m, in);
                x = w->raw;
            }
            void *y = p->swap_y | p->odd_y ? (void *)w->result : (void *)to;
            Values v = FN(load)(p->x, x, m, w->xf, w->xd);
            int missing = 0;
            const uint8_t *skip = w->none;
            if (p->missing | p->nan_is_missing) {
                uint8_t *found = p->found + (at - block);
                missing = FN(find)(v, m, p, found);
                if (missing) skip = found;
            }
            if (p->totals) FN(add)(v, m, skip, missing, in > 2, w->d, &p->totals->before);
            v = FN(transform)(p, v, y, m, skip, w);
            if (p->found_nan) return (int64_t)at + has_nan(w->yd, m) - 1;
            if (p->totals) FN(add)(v, m, skip, missing, out > 2, w->d, &p->totals->after);
            if (p->has_fill) p->masked += FN(collide)(v, m, p, skip);
            if (p->swap_y) FN(swap)(y, y, m, out);
            if (y != (void *)to) memcpy(to, y, m * out);
        }
        if (p->totals) {
            fold(p, &p->totals->before, p->x, p->saved ? p->saved : p->from + block * in, stop - block, p->swap_x);
            fold(p, &p->totals->after, p->y, p->to + block * out, stop - block, p->swap_y);
        }
    }
    return -1;
}
