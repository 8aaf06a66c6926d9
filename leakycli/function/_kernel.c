/* Leaky ReLU of a run of elements and everything the report needs of them, in one pass while they are in the cache.

   `reference.py` is the definition; this gives the same bits, results and statistics alike. Statistics are taken block by block (BLOCK
   elements, from the start of the call) and merged exactly, so that neither order nor grouping of the blocks leaves a trace:

   - shift c: the block's first valid finite element; 0 for types of 16 bits or less, whose sums need none
   - lanes: the difference d = x - c of element i, rounded to double once, is added to sum[i % 16], and d * d to squares[i % 16]; what is
     not finite or missing adds 0. The lanes are added from left to right. No fused multiply-add.
   - where the largest finite magnitude of a float64 block is outside [2^-300, 2^300], the sums are taken of x / 2^e, with that
     magnitude / 2^e in [0.5, 1)
   - sum(x) = n c + s and sum(x^2) = n c^2 + 2 c s + q are then added, exactly, to integers that count 2^-1074 and 2^-2148.

   The loops are in _kernel_loops.h, which is included once for each instruction set. The module uses Python's limited API and buffers, and
   nothing of numpy. The interpreter's lock is released while the loops run. */

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if (defined(__x86_64__) || defined(__amd64__)) && defined(__GNUC__) && !defined(LEAKYCLI_PORTABLE)
#define X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

#define BLOCK ((size_t)1 << 16) /* elements whose sums are taken together: part of the definition */
#define LANES 16                /* part of the definition */
#define SUB ((size_t)2048)      /* elements that go through all stages together: a multiple of LANES */
#define MOST_MISSING 8          /* values that stand for "no value" */

#define PRAGMA(x) _Pragma(#x)
#define SIMD PRAGMA(omp simd)
#define SIMD_(clauses) PRAGMA(omp simd clauses)

/* clang makes a product by 1 of the choice of a number, and so a quiet NaN of every NaN: put those back. (Not in place.) */
#ifdef __clang__
#define KEEP_NAN(WORD, ABSOLUTE, INFINITE)                              \
    const WORD *from = (const WORD *)(const void *)x;                   \
    WORD *to = (WORD *)(void *)y;                                       \
    SIMD                                                                \
    for (size_t j = 0; j < m; j++) to[j] = (from[j] & ABSOLUTE) > INFINITE ? from[j] : to[j];
#else
#define KEEP_NAN(WORD, ABSOLUTE, INFINITE)
#endif

/* Floats first, then integers; the order is that of TYPES in compiled.py. */
enum type { F2, B2, F4, F8, I1, I2, I4, I8, U1, U2, U4, U8 };
static const size_t SIZES[] = {2, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8};

/* Elements as numbers of a type that holds them exactly; the other three are NULL. */
typedef struct {
    const float *f;
    const double *d;
    const int64_t *i;
    const uint64_t *u;
} Values;

/* Exact sums: numbers of 32 bits, the lowest first, each with room for 2^31 additions. */
#define PLACES1 1074
#define PLACES2 2148
#define WORDS1 70
#define WORDS2 138

/* The statistics of one side of the pass. */
typedef struct {
    int64_t missing, nan, neginf, posinf, zero, positive;
    double low, high;          /* of floats, and of integers of up to 32 bits */
    int64_t ilow, ihigh;       /* of int64 */
    uint64_t ulow, uhigh;      /* of uint64 */
    int wary;                  /* not all of the last elements were finite */
    /* of the block at hand */
    int begun;                 /* the shift is known */
    double shift, biggest;
    int64_t ishift;
    uint64_t ushift;
    int64_t finite;
    double sum[LANES], squares[LANES];
    /* of all blocks */
    int64_t exact1[WORDS1], exact2[WORDS2];
} Side;

/* What is known of all elements of some calls. */
typedef struct {
    Side before, after;
    int64_t clipped, replaced, masked;
} Totals;

/* Memory for one sub-block on its way. */
typedef struct {
    float xf[SUB], yf[SUB];
    double xd[SUB], yd[SUB], d[SUB];
    int64_t xi[SUB], yi[SUB];
    uint64_t raw[SUB], result[SUB];
    uint8_t none[SUB];         /* zeros: no element is missing */
} Scratch;

/* One call. */
typedef struct {
    const char *from;
    char *to;
    size_t n;
    enum type x, y;
    int swap_x, swap_y, odd_x, odd_y; /* the other byte order; not aligned */
    int compute_float;
    double alpha;
    int refuse_nan, found_nan;
    int64_t nan;
    int missing, nan_is_missing, has_fill;
    float missing_f[MOST_MISSING];
    double missing_d[MOST_MISSING];
    int64_t missing_i[MOST_MISSING];
    uint64_t missing_u[MOST_MISSING];
    double fill;
    int64_t ifill;
    Totals *totals;            /* of this and earlier calls; NULL: no statistics */
    int64_t clipped, replaced, masked;
    Scratch *scratch;
    uint8_t *found;            /* which elements of the block are missing, where any may be */
    char *saved;               /* the block's elements, where the result takes their place and they may be needed again */
} Pass;

/* ---- half precision, one element ------------------------------------------------------------------------------------------------ */

static inline float float_of(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t bits_of(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static inline double double_of(uint64_t u) { double d; memcpy(&d, &u, 8); return d; }
static inline uint64_t bits_of_double(double d) { uint64_t u; memcpy(&u, &d, 8); return u; }

static inline float half_value(uint16_t h) {
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    float scaled = float_of(magnitude) * 0x1p112f; /* exact, subnormals too */
    uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0; /* infinity and NaN */
    return float_of(bits_of(scaled) | special | sign);
}

static inline uint16_t half_of_float(float f) {
    uint32_t u = bits_of(f), sign = u & 0x80000000u, a = u ^ sign;
    uint32_t small = bits_of(float_of(a) + 0.5f) - bits_of(0.5f); /* below 2^-14: the sum rounds at 2^-24 */
    uint32_t normal = (a + 0xc8000fffu + ((a >> 13) & 1)) >> 13;
    uint32_t r = a < 0x38800000u ? small : normal;
    uint32_t nan = 0x7e00u | (a >> 13 & 0x3ffu);
    r = a >= 0x47800000u ? (a > 0x7f800000u ? nan : 0x7c00u) : r;
    return (uint16_t)(r | (sign >> 16));
}

static inline uint16_t half_of_double(double d) {
    uint64_t u = bits_of_double(d), sign = u & 0x8000000000000000u, a = u ^ sign;
    uint64_t small = bits_of_double(double_of(a) + 0x1p28) - bits_of_double(0x1p28);
    uint64_t normal = (a - ((uint64_t)(1023 - 15) << 52) + 0x1ffffffffffu + ((a >> 42) & 1)) >> 42;
    uint64_t r = a < 0x3f10000000000000u ? small : normal;
    uint64_t nan = 0x7e00u | (a >> 42 & 0x3ffu);
    r = a >= 0x40f0000000000000u ? (a > 0x7ff0000000000000u ? nan : 0x7c00u) : r;
    return (uint16_t)(r | (sign >> 48));
}

static inline float bfloat_value(uint16_t b) { return float_of((uint32_t)b << 16); }

static inline uint16_t bfloat_of_float(float f) {
    uint32_t u = bits_of(f), rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40u : rounded);
}

static inline uint16_t bfloat_of_double(double d) {
    uint64_t u = bits_of_double(d), sign = u & 0x8000000000000000u, a = u ^ sign;
    uint64_t small = bits_of_double(double_of(a) + 0x1p-81) - bits_of_double(0x1p-81); /* below 2^-126: the sum rounds at 2^-133 */
    uint64_t normal = (a - ((uint64_t)(1023 - 127) << 52) + 0xfffffffffffu + ((a >> 45) & 1)) >> 45;
    uint64_t r = a < 0x3810000000000000u ? small : normal;
    uint64_t nan = 0x7fc0u | (a >> 45 & 0x7fu);
    r = a >= 0x47f0000000000000u ? (a > 0x7ff0000000000000u ? nan : 0x7f80u) : r;
    return (uint16_t)(r | (sign >> 48));
}

/* ---- exact sums ------------------------------------------------------------------------------------------------------------------ */

/* Add (or take away) (high, low) * 2^exponent. Bits below the last place are zeros. */
static void add_exactly(int64_t *words, int count, int places, uint64_t high, uint64_t low, int exponent, int negative) {
    int at = exponent + places;
    for (; at < 0; at++) {
        low = low >> 1 | high << 63;
        high >>= 1;
    }
    uint32_t parts[4] = {(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32)};
    for (int k = 0; k < 4; k++) {
        int word = at / 32 + k;
        uint64_t shifted = (uint64_t)parts[k] << at % 32;
        if (!shifted || word + 1 >= count) continue;
        int64_t lower = (int64_t)(shifted & 0xffffffffu), upper = (int64_t)(shifted >> 32);
        words[word] += negative ? -lower : lower;
        words[word + 1] += negative ? -upper : upper;
    }
}

static void multiply(uint64_t a, uint64_t b, uint64_t *high, uint64_t *low) {
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t low_part = a0 * b0, middle = a1 * b0 + (low_part >> 32), other = a0 * b1 + (uint32_t)middle;
    *high = a1 * b1 + (middle >> 32) + (other >> 32);
    *low = other << 32 | (uint32_t)low_part;
}

static void add_product(int64_t *words, int count, int places, uint64_t a, uint64_t b, int exponent, int negative) {
    uint64_t high, low;
    multiply(a, b, &high, &low);
    add_exactly(words, count, places, high, low, exponent, negative);
}

typedef struct {
    uint64_t mantissa;
    int exponent, negative;
} Number;

/* A finite double as a whole number times a power of two. */
static Number whole(double x) {
    int exponent;
    double fraction = frexp(fabs(x), &exponent);
    return (Number){(uint64_t)ldexp(fraction, 53), exponent - 53, x < 0};
}

/* The words as one number in two's complement, the lowest byte first. */
static PyObject *as_bytes(int64_t *words, int count) {
    unsigned char bytes[4 * WORDS2];
    int64_t carry = 0;
    for (int k = 0; k < count; k++) {
        int64_t value = words[k] + carry;
        uint32_t low = (uint32_t)((uint64_t)value & 0xffffffffu);
        carry = (value - (int64_t)low) / ((int64_t)1 << 32);
        for (int b = 0; b < 4; b++) bytes[4 * k + b] = (unsigned char)(low >> 8 * b);
    }
    return PyBytes_FromStringAndSize((const char *)bytes, 4 * count);
}

static double load_double(const char *at, int swapped) {
    uint64_t u;
    memcpy(&u, at, 8);
    return double_of(swapped ? __builtin_bswap64(u) : u);
}

/* Take the sums of a float64 block again, of its `n` elements `x` divided by 2^exponent. */
static void sum_scaled(const Pass *p, Side *s, const char *x, size_t n, int swapped, int exponent) {
    double first = ldexp(1.0, -(exponent >> 1)), second = ldexp(1.0, -(exponent - (exponent >> 1)));
    memset(s->sum, 0, sizeof s->sum);
    memset(s->squares, 0, sizeof s->squares);
    s->shift = s->shift * first * second;
    for (size_t i = 0; i < n; i++) {
        double v = load_double(x + 8 * i, swapped);
        if (!(fabs(v) <= 0x1.fffffffffffffp1023) || (p->found && p->found[i])) continue;
        double d = v * first * second - s->shift;
        s->sum[i % LANES] += d;
        s->squares[i % LANES] += d * d;
    }
}

/* The end of a block: add its sums to those of all blocks. x: its elements, of `type`. */
static void fold(const Pass *p, Side *s, enum type type, const char *x, size_t n, int swapped) {
    int scale = 0;
    if (s->finite) {
        if (type == F8 && s->biggest != 0 && !(s->biggest >= 0x1p-300 && s->biggest <= 0x1p300)) {
            frexp(s->biggest, &scale);
            sum_scaled(p, s, x, n, swapped, scale);
        }
        double sum = s->sum[0], squares = s->squares[0];
        for (int k = 1; k < LANES; k++) {
            sum += s->sum[k];
            squares += s->squares[k];
        }
        Number c, s1 = whole(sum), s2 = whole(squares);
        if (type == I8) c = (Number){s->ishift < 0 ? 0 - (uint64_t)s->ishift : (uint64_t)s->ishift, 0, s->ishift < 0};
        else if (type == U8) c = (Number){s->ushift, 0, 0};
        else c = whole(s->shift);
        uint64_t count = (uint64_t)s->finite, high, low;
        add_product(s->exact1, WORDS1, PLACES1, c.mantissa, count, c.exponent + scale, c.negative);
        add_product(s->exact1, WORDS1, PLACES1, s1.mantissa, 1, s1.exponent + scale, s1.negative);
        multiply(c.mantissa, c.mantissa, &high, &low);
        add_product(s->exact2, WORDS2, PLACES2, low, count, 2 * (c.exponent + scale), 0);
        add_product(s->exact2, WORDS2, PLACES2, high, count, 2 * (c.exponent + scale) + 64, 0);
        add_product(s->exact2, WORDS2, PLACES2, c.mantissa, s1.mantissa, c.exponent + s1.exponent + 1 + 2 * scale, c.negative != s1.negative);
        add_product(s->exact2, WORDS2, PLACES2, s2.mantissa, 1, s2.exponent + 2 * scale, 0);
    }
    s->begun = 0;
    s->finite = 0;
    s->shift = s->biggest = 0;
    s->ishift = 0;
    s->ushift = 0;
    memset(s->sum, 0, sizeof s->sum);
    memset(s->squares, 0, sizeof s->squares);
}

/* ---- what the loops share ---------------------------------------------------------------------------------------------------------- */

/* Whether the lanes are finite numbers; if so, they become those of the block. (What is not finite never leaves a lane again.) */
static inline int keep_lanes(Side *s, const double *sum, const double *squares) {
    double total = 0;
    for (int k = 0; k < LANES; k++) total += sum[k] * 0;
    if (total != 0) return 0;
    memcpy(s->sum, sum, sizeof s->sum);
    memcpy(s->squares, squares, sizeof s->squares);
    return 1;
}

/* Take in `m` elements that are all valid and finite. */
static inline void take_plain(Side *s, size_t m, int64_t positive, int64_t zero, double low, double high) {
    s->finite += (int64_t)m;
    s->positive += positive;
    s->zero += zero;
    s->low = low < s->low ? low : s->low;
    s->high = high > s->high ? high : s->high;
    double biggest = -low > high ? -low : high;
    s->biggest = biggest > s->biggest ? biggest : s->biggest;
}

/* One more than the position of the first NaN, or 0. */
static size_t has_nan(const double *y, size_t m) {
    int any = 0;
    SIMD_(reduction(| : any))
    for (size_t j = 0; j < m; j++) any |= y[j] != y[j];
    for (size_t j = 0; any && j < m; j++)
        if (y[j] != y[j]) return j + 1;
    return 0;
}

#define ISA 0
#define FN(name) name##_portable
#include "_kernel_loops.h"
#undef ISA
#undef FN

#ifdef X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,f16c,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c,popcnt")
#endif
#define ISA 1
#define FN(name) name##_avx2
#include "_kernel_loops.h"
#undef ISA
#undef FN
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,f16c,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,f16c,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define ISA 2
#define FN(name) name##_avx512
#include "_kernel_loops.h"
#undef ISA
#undef FN
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

typedef int64_t (*Run)(Pass *);

/* The copies that were compiled, by name, and whether this processor runs them; the best last. */
static const struct {
    const char *name;
    Run run;
} COPIES[] = {
    {"baseline", run_portable},
#ifdef X86
    {"avx2", run_avx2},
    {"avx512", run_avx512},
#endif
};
#define COPY_COUNT ((int)(sizeof COPIES / sizeof COPIES[0]))

/* How many of them this processor runs. */
static int usable(void) {
#ifdef X86
    unsigned a, b, c, d;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 29)) return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512cd") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return 2;
#endif
    return COPY_COUNT;
}

/* ---- the module -------------------------------------------------------------------------------------------------------------------- */

static PyObject *copies(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *names = PyTuple_New(usable());
    for (int k = 0; names && k < usable(); k++) {
        PyObject *name = PyUnicode_FromString(COPIES[k].name);
        if (!name || PyTuple_SetItem(names, k, name)) {
            Py_DECREF(names);
            return NULL;
        }
    }
    return names;
}

static PyObject *extreme(const Side *s, enum type type, int high) {
    switch (type) {
    case I8: return s->ilow > s->ihigh ? Py_NewRef(Py_None) : PyLong_FromLongLong(high ? s->ihigh : s->ilow);
    case U8: return s->ulow > s->uhigh ? Py_NewRef(Py_None) : PyLong_FromUnsignedLongLong(high ? s->uhigh : s->ulow);
    default:
        if (s->low > s->high) return Py_NewRef(Py_None);
        return type < I1 ? PyFloat_FromDouble((high ? s->high : s->low) + 0.0) : PyLong_FromDouble(high ? s->high : s->low);
    }
}

static PyObject *side(Side *s, enum type type) {
    return Py_BuildValue("LLLLLLNNNN", (long long)s->missing, (long long)s->nan, (long long)s->neginf, (long long)s->posinf, (long long)s->zero,
                         (long long)s->positive, extreme(s, type, 0), extreme(s, type, 1), as_bytes(s->exact1, WORDS1), as_bytes(s->exact2, WORDS2));
}

static void clear(Side *s) {
    memset(s, 0, sizeof *s);
    s->ilow = INT64_MAX;
    s->low = INFINITY;
    s->high = -INFINITY;
    s->ihigh = INT64_MIN;
    s->ulow = UINT64_MAX;
}

/* Whether the pass may write y while it reads x: apart, or one and the same with elements of one size. */
static int may_run(const Py_buffer *x, const Py_buffer *y, size_t in, size_t out) {
    uintptr_t a = (uintptr_t)x->buf, b = (uintptr_t)y->buf;
    if (a == b && in == out) return 1;
    return x->len == 0 || a + (size_t)x->len <= b || b + (size_t)y->len <= a;
}

/* Values that stand for "no value", `values` being elements of the input's type. */
static int read_missing(Pass *p, const Py_buffer *values) {
    size_t size = SIZES[p->x], count = (size_t)values->len / size;
    if ((size_t)values->len % size || count > MOST_MISSING) {
        PyErr_Format(PyExc_ValueError, "missing: at most %d elements of the input's type", MOST_MISSING);
        return 0;
    }
    union {
        uint64_t words[MOST_MISSING];
        char bytes[8 * MOST_MISSING];
    } raw;
    memcpy(raw.bytes, values->buf, (size_t)values->len);
    Values v = load_portable(p->x, raw.bytes, count, p->missing_f, p->missing_d);
    if (v.f) memmove(p->missing_f, v.f, count * sizeof(float));
    else if (v.d) memmove(p->missing_d, v.d, count * sizeof(double));
    else if (v.i) memcpy(p->missing_i, v.i, count * 8);
    else memcpy(p->missing_u, v.u, count * 8);
    p->missing = (int)count;
    return 1;
}

static int read_fill(Pass *p, PyObject *fill) {
    p->has_fill = fill != Py_None;
    if (!p->has_fill) return 1;
    if (p->y == I8) p->ifill = PyLong_AsLongLong(fill);
    else p->fill = PyFloat_AsDouble(fill);
    return !PyErr_Occurred();
}

PyDoc_STRVAR(transform_doc,
"transform(copy, x, y, source, dtype, swap_x, swap_y, compute_float, alpha, nan, missing, nan_is_missing, fill, totals)\n--\n\n"
"Write the leaky ReLU of the buffer x to the buffer y, of as many elements.\n\n"
"copy: a number into copies(). source, dtype: numbers into TYPES of compiled.py. swap_x, swap_y: the elements are in the other byte order.\n"
"compute_float: the product is taken in float32, not float64. alpha: as rounded to the compute type. nan: the integer that NaN becomes, or None.\n"
"missing: elements of type source, in native order, that stand for no value. fill: the result that stands for no value, or None.\n"
"totals: a buffer that `clear` made ready, to which what is known of these elements is added, or None. One call at a time may use it.\n\n"
"Returns the position of the first NaN that has no integer, or -1. Raises ValueError and TypeError for arguments that do not fit;\n"
"nothing is written then.");

/* The totals in a writable buffer, or NULL and an error. */
static Totals *totals_in(const Py_buffer *buffer) {
    if (buffer->len == (Py_ssize_t)sizeof(Totals) && (uintptr_t)buffer->buf % sizeof(int64_t) == 0) return buffer->buf;
    PyErr_Format(PyExc_ValueError, "totals: a buffer of %zu bytes", sizeof(Totals));
    return NULL;
}

PyDoc_STRVAR(clear_doc, "clear(totals)\n--\n\nMake a buffer of TOTALS bytes ready: of no elements.");

static PyObject *clear_totals(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer buffer;
    if (!PyArg_ParseTuple(args, "w*:clear", &buffer)) return NULL;
    Totals *totals = totals_in(&buffer);
    if (totals) {
        totals->clipped = totals->replaced = totals->masked = 0;
        clear(&totals->before);
        clear(&totals->after);
    }
    PyBuffer_Release(&buffer);
    return totals ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(read_doc, "read(totals, source, dtype)\n--\n\n"
"The clipped, nan_replaced and masked elements, and of input and output each: missing, nan, neginf, posinf, zero, positive, least, most,\n"
"sum and sum of squares (as integers in two's complement, the lowest byte first).");

static PyObject *read_totals(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer buffer;
    int source, dtype;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "w*ii:read", &buffer, &source, &dtype)) return NULL;
    Totals *totals = totals_in(&buffer);
    if (totals && (source < F2 || source > U8 || dtype < F2 || dtype > U8)) PyErr_SetString(PyExc_ValueError, "source or dtype is out of range");
    else if (totals)
        result = Py_BuildValue("LLLNN", (long long)totals->clipped, (long long)totals->replaced, (long long)totals->masked, side(&totals->before, source),
                               side(&totals->after, dtype));
    PyBuffer_Release(&buffer);
    return result;
}

static PyObject *transform(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *nan, *fill, *into, *result = NULL;
    Py_buffer x = {0}, y = {0}, missing = {0}, totals = {0};
    int copy, source, dtype;
    Pass *p = PyMem_Calloc(1, sizeof *p);
    char *memory = NULL;
    if (!p) return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "iy*w*iipppdOy*pOO:transform", &copy, &x, &y, &source, &dtype, &p->swap_x, &p->swap_y, &p->compute_float, &p->alpha,
                          &nan, &missing, &p->nan_is_missing, &fill, &into))
        goto end;
    if (copy < 0 || copy >= usable() || source < F2 || source > U8 || !(dtype == F2 || dtype == B2 || dtype == F4 || dtype == F8 || dtype == I4 || dtype == I8)) {
        PyErr_SetString(PyExc_ValueError, "copy, source or dtype is out of range");
        goto end;
    }
    p->x = source;
    p->y = dtype;
    size_t in = SIZES[p->x], out = SIZES[p->y];
    p->n = (size_t)x.len / in;
    if ((size_t)x.len % in || (size_t)y.len % out || p->n != (size_t)y.len / out) {
        PyErr_SetString(PyExc_ValueError, "x and y do not have as many whole elements");
        goto end;
    }
    if (!may_run(&x, &y, in, out)) {
        PyErr_SetString(PyExc_ValueError, "x and y overlap: y may be x itself where the elements have one size, or lie apart");
        goto end;
    }
    if (p->compute_float && (p->x == F8 || p->y == F8 || p->y >= I1)) {
        PyErr_SetString(PyExc_ValueError, "these types are not computed in float32");
        goto end;
    }
    p->refuse_nan = p->y >= I1 && nan == Py_None;
    if (p->y >= I1 && nan != Py_None) {
        p->nan = PyLong_AsLongLong(nan);
        if (PyErr_Occurred()) goto end;
        if (p->y == I4 && (p->nan < INT32_MIN || p->nan > INT32_MAX)) {
            PyErr_SetString(PyExc_OverflowError, "nan does not fit int32");
            goto end;
        }
    }
    if (p->x >= I1) p->nan_is_missing = 0;
    if (!read_missing(p, &missing) || !read_fill(p, fill)) goto end;
    if (into != Py_None && (PyObject_GetBuffer(into, &totals, PyBUF_WRITABLE) || !(p->totals = totals_in(&totals)))) goto end;
    int may_miss = p->missing || p->nan_is_missing;
    int saves = p->totals && p->x == F8 && x.buf == y.buf;
    memory = PyMem_Malloc(sizeof(Scratch) + 64 + (may_miss ? BLOCK : 0) + (saves ? BLOCK * 8 : 0));
    if (!memory) {
        PyErr_NoMemory();
        goto end;
    }
    p->scratch = (Scratch *)(memory + 64 - (uintptr_t)memory % 64);
    memset(p->scratch->none, 0, sizeof p->scratch->none);
    char *rest = (char *)(p->scratch + 1);
    if (saves) p->saved = rest, rest += BLOCK * 8;
    if (may_miss) p->found = (uint8_t *)rest;
    p->from = x.buf;
    p->to = y.buf;
    p->odd_x = (uintptr_t)x.buf % in != 0;
    p->odd_y = (uintptr_t)y.buf % out != 0;
    int64_t position;
    Py_BEGIN_ALLOW_THREADS
    position = COPIES[copy].run(p);
    Py_END_ALLOW_THREADS
    if (p->totals && position < 0) {
        p->totals->clipped += p->clipped;
        p->totals->replaced += p->replaced;
        p->totals->masked += p->masked;
    }
    result = PyLong_FromLongLong(position);
end:
    if (x.obj) PyBuffer_Release(&x);
    if (y.obj) PyBuffer_Release(&y);
    if (missing.obj) PyBuffer_Release(&missing);
    if (totals.obj) PyBuffer_Release(&totals);
    PyMem_Free(memory);
    PyMem_Free(p);
    return result;
}

PyDoc_STRVAR(differs_doc, "differs(a, b)\n--\n\nThe position of the first byte in which the buffers differ, -1 where none does. They must be of one length.");

static PyObject *differs(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer a = {0}, b = {0};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*:differs", &a, &b)) goto end;
    if (a.len != b.len) {
        PyErr_SetString(PyExc_ValueError, "the buffers have different lengths");
        goto end;
    }
    Py_ssize_t at = 0, step = 1 << 16;
    Py_BEGIN_ALLOW_THREADS
    const unsigned char *p = a.buf, *q = b.buf;
    while (at < a.len) {
        Py_ssize_t size = a.len - at < step ? a.len - at : step;
        if (memcmp(p + at, q + at, (size_t)size)) {
            while (p[at] == q[at]) at++;
            break;
        }
        at += size;
    }
    Py_END_ALLOW_THREADS
    result = PyLong_FromSsize_t(at < a.len ? at : -1);
end:
    if (a.obj) PyBuffer_Release(&a);
    if (b.obj) PyBuffer_Release(&b);
    return result;
}

static PyMethodDef METHODS[] = {
    {"copies", copies, METH_NOARGS, "copies()\n--\n\nThe names of the copies of the loops that this processor runs, the fastest last."},
    {"transform", transform, METH_VARARGS, transform_doc},
    {"clear", clear_totals, METH_VARARGS, clear_doc},
    {"read", read_totals, METH_VARARGS, read_doc},
    {"differs", differs, METH_VARARGS, differs_doc},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module) { return PyModule_AddIntConstant(module, "TOTALS", sizeof(Totals)); }

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, fill_module}, {0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "leakycli.function._kernel", .m_doc = "The compiled pass: see _kernel.c.", .m_size = 0, .m_methods = METHODS, .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&MODULE); }
