"""The function itself: every path of the kernel against a plain definition, written here a second time and without any of its code."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from leakycli import leaky_relu
from leakycli.errors import UnsupportedError, UsageError
from leakycli.function.kernel import transform
from leakycli.function.rule import Rule
from leakycli.function.stats import Losses, NanError

Array = NDArray[Any]

#: More than the kernel has in hand at once.
PIECE = 1 << 17

FLOATS = ("float16", "float32", "float64")
SMALL_INTEGERS = ("int8", "uint8", "int16", "uint16")
INTEGERS = (*SMALL_INTEGERS, "int32", "uint32", "int64", "uint64")
SOURCES = FLOATS + INTEGERS
OUTPUTS = ("float16", "float32", "float64", "int32", "int64")

REFERENCE = Path(__file__).parents[1] / "data" / "leaky_relu.npz"

# Signs and zeros; either side of 1, as given and as rounded to the compute type; numbers that vanish or overflow in one of the types.
ALPHAS = [0.0, -0.0, 0.2, 0.01, 1.0, -1.0, -0.3, 2.0, 1.5, 1 - 1e-4, 1 + 1e-4, 1 - 1e-9, 1 + 1e-9, math.nextafter(1, 2)]
ALPHAS += [1e-9, -1e-9, 1e-46, -1e-46, 5e-324, 1e-310, 65504.0, -65504.0, 65519.0, 65520.0, 1e5, 3.4e38, 3.5e38, -1e300, 1.7e308]
alphas = st.sampled_from(ALPHAS) | st.floats(allow_nan=False, allow_infinity=False) | st.floats(-2, 2)


def specials(dtype: np.dtype[Any]) -> Array:
    """Values at which implementations differ."""
    if dtype.kind != "f":
        info = np.iinfo(dtype)
        wanted = [
            -(1 << 53) - 1,
            -(1 << 53),
            -(1 << 31) - 1,
            -(1 << 31),
            -5,
            -1,
            0,
            1,
            5,
            (1 << 24) + 1,
            (1 << 31) - 1,
            1 << 31,
            (1 << 53) + 1,
        ]
        wanted += [info.min, info.min + 1, info.max - 1, info.max, 65519, 65520]
        return np.array([v for v in wanted if info.min <= v <= info.max], dtype)
    limits = np.finfo(dtype)
    tiny, least = float(limits.tiny), float(limits.smallest_subnormal)
    wanted_floats = [0.0, math.inf, math.nan, tiny, least, tiny - least, float(limits.max), 1.0, 0.3, 0.5, 1.5, 2.5, 65504.0, 65520.0]
    for edge in (2.0**31, 2.0**63):
        wanted_floats += [edge, math.nextafter(edge, 0), edge - 0.5, edge - 1, edge + 0.5, 5 * edge]
    with np.errstate(over="ignore"):
        positive = np.array(wanted_floats).astype(dtype)
    bits = np.dtype(f"u{dtype.itemsize}")
    signalling_nan = (np.array([np.inf], dtype).view(bits) + bits.type(1)).view(dtype)
    return np.concatenate([positive, signalling_nan, -positive, -signalling_nan])


def arrays(source: str, max_size: int = 24) -> st.SearchStrategy[Array]:
    """1-D native arrays of any bit patterns of the type, specials often among them."""
    dtype = np.dtype(source)
    bits = np.dtype(f"u{dtype.itemsize}")
    known = [int(pattern) for pattern in specials(dtype).view(bits)]
    patterns = st.sampled_from(known) | st.integers(0, (1 << 8 * dtype.itemsize) - 1)
    return st.lists(patterns, max_size=max_size).map(lambda drawn: np.array(drawn, bits).view(dtype))


def strided(x: Array) -> Array:
    spread = np.zeros(3 * x.size, x.dtype)
    spread[1::3] = x
    return spread[1::3]


def unaligned(x: Array) -> Array:
    return np.frombuffer(bytearray(b"\0" + x.tobytes()), x.dtype, offset=1)


def swapped(x: Array) -> Array:
    return x.astype(x.dtype.newbyteorder(">"))


def rows(x: Array) -> Array:
    return x[: x.size // 2 * 2].reshape(2, -1)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda x: x,
    "0-d": lambda x: x[:1].reshape(()) if x.size else np.zeros((), x.dtype),
    "empty": lambda x: x[:0].reshape(3, 0, 2),
    "big-endian": swapped,
    "strided": strided,
    "reversed": lambda x: x[::-1],
    "transposed": lambda x: rows(x).T,
    "Fortran": lambda x: np.asfortranarray(rows(x)),
    "every other column, upside down": lambda x: rows(x)[::-1, ::2],
    "axes moved": lambda x: x[: x.size // 4 * 4].reshape(2, -1, 2).transpose(1, 2, 0),
    "repeated": lambda x: np.broadcast_to(x, (2, x.size)),
    "unaligned": unaligned,
    "big-endian, strided": lambda x: strided(swapped(x)),
}
layouts = st.sampled_from(sorted(LAYOUTS))


def plain_compute(source: np.dtype[Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that alpha is rounded to."""
    if dtype.kind != "f":
        return np.dtype("float64")
    return np.result_type(source if source.kind == "f" else np.float32, dtype)


def plain_float(x: Array, alpha: float, dtype: np.dtype[Any]) -> Array:
    """Leaky ReLU to a floating type as the definition has it, one whole array after the other."""
    compute = plain_compute(x.dtype, dtype)
    with np.errstate(all="ignore"):
        factor, converted = compute.type(alpha), x.astype(compute)
        # In float64 the product of two half-precision numbers is exact.
        product = (np.float64(factor) * converted.astype(np.float64)).astype(compute) if compute.itemsize == 2 else factor * converted
        return np.where(converted > 0, converted, product).astype(dtype)


def plain_integer(value: int | float, alpha: float, dtype: np.dtype[Any]) -> tuple[int | None, bool]:
    """Leaky ReLU of one number to an integer type, in Python's numbers; None is NaN. Second: whether it was saturated."""
    info = np.iinfo(dtype)
    if isinstance(value, int) and (value > 0 or alpha == 1):
        whole = value
    else:
        y = float(value) if value > 0 else alpha * float(value)
        if math.isnan(y):
            return None, False
        if math.isinf(y):
            return int(info.max if y > 0 else info.min), True
        whole = round(y)  # half to even, exact
    saturated = min(max(whole, int(info.min)), int(info.max))
    return saturated, saturated != whole


class Plain:
    """What the definition says of an array: the result, where it is NaN, and what the cast lost."""

    def __init__(self, x: Array, alpha: float, dtype: np.dtype[Any], nan: int | None = None) -> None:
        clipped = replaced = 0
        if dtype.kind == "f":
            self.y = plain_float(x, alpha, dtype)
            self.undefined = np.isnan(self.y)
            kept = np.ones(x.shape, np.bool_)
        else:
            results = [plain_integer(value, alpha, dtype) for value in x.ravel().tolist()]
            self.undefined = np.array([whole is None for whole, _ in results], np.bool_).reshape(x.shape)
            self.y = np.array([nan or 0 if whole is None else whole for whole, _ in results], dtype).reshape(x.shape)
            clipped, replaced = sum(lost for _, lost in results), int(self.undefined.sum())
            # A NaN that became 0 did not underflow: it was replaced.
            kept = ~self.undefined
        overflowed = np.isfinite(x) & np.isinf(self.y)
        underflowed = (x != 0) & (self.y == 0) & kept
        self.losses = Losses(int(overflowed.sum()), int(underflowed.sum()), clipped, replaced)


def assert_same_bits(found: Array, expected: Array) -> None:
    """Equal in shape, type and every bit; of NaN only that it is one."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    found, expected = np.ascontiguousarray(found), np.ascontiguousarray(expected)
    bits = np.dtype(f"u{found.itemsize}")
    differs = found.view(bits) != expected.view(bits)
    if found.dtype.kind == "f":
        differs &= ~(np.isnan(found) & np.isnan(expected))
    where = np.flatnonzero(differs)
    assert not where.size, f"{where.size} differ, first at {where[0]}: {found.flat[where[0]]!r} for {expected.flat[where[0]]!r}"


def reference_cases() -> list[str]:
    with np.load(REFERENCE) as archive:
        return [name.removesuffix(".alpha") for name in archive.files if name.endswith(".alpha")]


def test_reference_has_cases_of_both_libraries_and_all_types() -> None:
    kinds = {case.split("-")[0] + "-" + case.split("-")[1] for case in reference_cases()}
    assert kinds == {"torch-float32", "torch-float64"} | {f"tf-{source}" for source in SOURCES}


def test_every_reference_case_agrees_bit_for_bit() -> None:
    cases = reference_cases()
    assert cases
    with np.load(REFERENCE) as archive:
        for case in cases:
            assert_same_bits(leaky_relu(archive[f"{case}.x"], alpha=float(archive[f"{case}.alpha"])), archive[f"{case}.y"])


@pytest.mark.parametrize("dtype", OUTPUTS)
@pytest.mark.parametrize("source", SOURCES)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), alpha=alphas, layout=layouts)
def test_any_array_gives_the_bits_and_losses_of_the_plain_definition(
    source: str, dtype: str, data: st.DataObject, alpha: float, layout: str
) -> None:
    x = LAYOUTS[layout](data.draw(arrays(source)))
    native, to = x.astype(source), np.dtype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        allowed = np.isfinite(plain_compute(np.dtype(source), to).type(alpha))
    if not allowed:
        with pytest.raises(UsageError, match="alpha"):
            leaky_relu(x, alpha, dtype)
        return
    before, plain = x.tobytes(), Plain(native, alpha, to)
    if to.kind != "f" and plain.undefined.any():
        with pytest.raises(NanError) as caught:
            leaky_relu(x, alpha, dtype)
        assert caught.value.position == int(plain.undefined.ravel().argmax())
        return
    assert_same_bits(leaky_relu(x, alpha, dtype), plain.y)
    out = LAYOUTS[layout](np.zeros(24, to)) if layout in ("strided", "reversed") else np.empty(x.shape, to)
    out = out[: x.size] if layout in ("strided", "reversed") else out
    assert transform(x, out, Rule.of(x.dtype, alpha, dtype)) == plain.losses
    assert_same_bits(out, plain.y)
    assert x.tobytes() == before


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("source", FLOATS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), alpha=alphas, layout=layouts, nan=st.sampled_from([0, 1, -7, 2**31 - 1, -(2**31)]))
def test_nan_becomes_the_number_given_and_is_counted(
    source: str, dtype: str, data: st.DataObject, alpha: float, layout: str, nan: int
) -> None:
    x = LAYOUTS[layout](data.draw(arrays(source)))
    plain = Plain(x.astype(source), alpha, np.dtype(dtype), nan)
    out = np.empty(x.shape, dtype)
    assert transform(x, out, Rule.of(source, alpha, dtype, nan)) == plain.losses
    assert_same_bits(out, plain.y)


def test_extreme_nan_replacements_of_int64_arrive_exactly() -> None:
    for nan in (2**63 - 1, -(2**63)):
        out = np.empty(2, np.int64)
        assert transform(np.array([np.nan, 1.0]), out, Rule.of("float64", 0.2, "int64", nan)) == Losses(nan_replaced=1)
        assert out.tolist() == [nan, 1]


def test_minus_infinity_with_alpha_zero_is_nan() -> None:
    x = np.array([1.0, -1.0, -np.inf, np.nan])
    for alpha in (0.0, -0.0):
        assert np.isnan(leaky_relu(x, alpha)).tolist() == [False, False, True, True]
        with pytest.raises(NanError, match="flat index 2 "):
            leaky_relu(x, alpha, "int32")
        out = np.empty(4, np.int32)
        assert transform(x, out, Rule.of("float64", alpha, "int32", 5)) == Losses(underflowed=1, nan_replaced=2)
        assert out.tolist() == [1, 0, 5, 5]


def test_integers_past_2_to_the_53_pass_through_as_integers() -> None:
    big = 2**53 + 1
    assert leaky_relu(np.array([big, 2**63 - 1]), 0.2, "int64").tolist() == [big, 2**63 - 1]
    assert leaky_relu(np.array([-big, -(2**63) + 1]), 1, "int64").tolist() == [-big, -(2**63) + 1]
    assert leaky_relu(np.array([2**64 - 1, 2**63 - 1], np.uint64), 0.2, "int64").tolist() == [2**63 - 1, 2**63 - 1]


def test_products_round_half_to_even_once() -> None:
    x = np.array([-1, -3, -5, -7, 0], np.int8)
    assert leaky_relu(x, 0.5, "int32").tolist() == [0, -2, -2, -4, 0]
    assert leaky_relu(np.array([0.5, 1.5, 2.5, -0.5, -1.5]), 1, "int32").tolist() == [0, 2, 2, 0, -2]


def test_saturation_compares_with_2_to_the_63() -> None:
    below = np.nextafter(2.0**63, 0)
    x = np.array([below, 2.0**63, -(2.0**63), np.nextafter(-(2.0**63), -np.inf), np.inf])
    out = np.empty(5, np.int64)
    assert transform(x, out, Rule.of("float64", 1, "int64")) == Losses(clipped=3)
    assert out.tolist() == [int(below), 2**63 - 1, -(2**63), -(2**63), 2**63 - 1]


def test_integers_reach_float64_without_passing_float32() -> None:
    assert leaky_relu(np.array([2**24 + 1, -(2**24) - 1], np.int32), 1, "float64").tolist() == [2.0**24 + 1, -(2.0**24) - 1]


def test_losses_count_every_kind() -> None:
    def lost(x: Array, alpha: float, dtype: str, nan: int | None = None) -> Losses:
        return transform(x, np.empty(x.shape, dtype), Rule.of(x.dtype, alpha, dtype, nan))

    assert lost(np.array([1e39, -1e39, np.inf, -np.inf, 1.0]), 1, "float32") == Losses(overflowed=2)
    assert lost(np.array([1e-46, -1e-46, 0.0, -0.0, 1e-45]), 1, "float32") == Losses(underflowed=2)
    assert lost(np.array([-1.0, -2.0, -0.0, 3.0]), 0, "float64") == Losses(underflowed=2)
    assert lost(np.array([0.3, -0.3, 0.0, 7.0]), 1, "int32") == Losses(underflowed=2)
    assert lost(np.array([-1, -2, 0, 3]), 0, "int32") == Losses(underflowed=2)
    assert lost(np.array([65520, -65520, 65519]), 1, "float16") == Losses(overflowed=2)
    assert lost(np.array([-np.inf, -60000.0], np.float16), 2, "float16") == Losses(overflowed=1)
    assert lost(np.array([1e10, -1e10, np.inf, np.nan, 5.0]), 1, "int32", 0) == Losses(clipped=3, nan_replaced=1)


def test_what_was_infinite_or_zero_before_is_no_loss() -> None:
    x = np.array([0.0, -0.0, 1e-46, 1e39, np.inf, -np.inf])
    assert transform(x, np.empty(6, np.float32), Rule.of("float64", 1, "float32")) == Losses(overflowed=1, underflowed=1)


def test_sums_of_losses_add_kind_by_kind() -> None:
    assert Losses(1, 2, 3, 4, 5) + Losses(10, 20, 30, 40, 50) == Losses(11, 22, 33, 44, 55)
    assert Losses(1, 2, 3, 4, 5) * 3 == Losses(3, 6, 9, 12, 15)


def large(source: str, size: int, nan: bool = True) -> Array:
    """Random bit patterns and specials, more than one piece of them."""
    dtype = np.dtype(source)
    x = np.random.default_rng(7).integers(0, 256, size * dtype.itemsize, np.uint8).view(dtype).copy()
    x[: specials(dtype).size] = specials(dtype)
    if dtype.kind == "f" and not nan:
        x[np.isnan(x)] = -2
    return x


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("source", ["float32", "float64", "int32", "uint64"])
@pytest.mark.parametrize("layout", ["contiguous", "big-endian", "strided", "reversed", "transposed", "Fortran", "axes moved", "unaligned"])
def test_arrays_of_several_pieces_are_the_same_in_every_layout(source: str, dtype: str, layout: str) -> None:
    x = LAYOUTS[layout](large(source, 2 * PIECE + 20))
    for alpha in (0.2, 0.0, -1.5):
        plain = Plain(x.astype(source), alpha, np.dtype(dtype))
        out = np.empty(x.shape, dtype)
        assert transform(x, out, Rule.of(x.dtype, alpha, dtype)) == plain.losses
        assert_same_bits(out, plain.y)


@pytest.mark.parametrize("source", ["float64", "int64", "uint64"])
def test_arrays_of_several_pieces_give_the_plain_integers(source: str) -> None:
    x = large(source, PIECE + 20, nan=False)
    plain = Plain(x, 0.3, np.dtype("int64"))
    out = np.empty(x.shape, np.int64)
    assert transform(x, out, Rule.of(source, 0.3, "int64")) == plain.losses
    assert_same_bits(out, plain.y)


@pytest.mark.parametrize("size", [7, PIECE + 20])
@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0, 0.0, -0.5])
def test_out_may_be_x_itself(source: str, alpha: float, size: int) -> None:
    x = large(source, max(size, 64))[:size]
    plain = Plain(x, alpha, x.dtype)
    assert transform(x, x, Rule.of(source, alpha)) == plain.losses
    assert_same_bits(x, plain.y)


def overlapping(name: str, buffer: Array, size: int) -> tuple[Array, Array]:
    """(x, out) in the float32 `buffer` of at least 2 * size + 2 elements."""
    if name == "ahead":
        return buffer[:size], buffer[1 : size + 1]
    if name == "behind":
        return buffer[1 : size + 1], buffer[:size]
    if name == "mirrored":
        return buffer[:size], buffer[:size][::-1]
    if name == "transposed":
        side = math.isqrt(size)
        square = buffer[: side * side].reshape(side, side)
        return square, square.T
    if name == "spreading":
        return buffer[:size], buffer[: 2 * size : 2]
    if name == "to wider":
        return buffer[:size], buffer[: 2 * size].view(np.float64)
    if name == "to wider, at the end":
        return buffer[size : 2 * size], buffer[: 2 * size].view(np.float64)
    if name == "to narrower":
        return buffer[:size], buffer.view(np.float16)[1 : size + 1]
    assert name == "to an integer in place"
    return buffer[:size], buffer[:size].view(np.int32)


OVERLAPS = (
    "ahead",
    "behind",
    "mirrored",
    "transposed",
    "spreading",
    "to wider",
    "to wider, at the end",
    "to narrower",
    "to an integer in place",
)


@pytest.mark.parametrize("size", [5, 2 * PIECE + 20])
@pytest.mark.parametrize("name", OVERLAPS)
def test_out_may_overlap_x(name: str, size: int) -> None:
    buffer = np.resize(large("float32", PIECE, nan=False)[::-1], 2 * size + 2)
    x, out = overlapping(name, buffer, size)
    plain = Plain(x.copy(), -0.7, out.dtype)
    assert transform(x, out, Rule.of("float32", -0.7, out.dtype)) == plain.losses
    assert_same_bits(out, plain.y)


def test_nan_position_is_right_where_out_overlaps_x() -> None:
    buffer = np.full(3 * PIECE, -1e9, np.float32)
    buffer[2 * PIECE + 5] = np.nan
    with pytest.raises(NanError) as caught:
        transform(buffer, buffer.view(np.int32), Rule.of("float32", 0.2, "int32"))
    assert caught.value.position == 2 * PIECE + 5


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("layout", ["contiguous", "big-endian", "strided", "reversed", "transposed", "Fortran", "axes moved"])
def test_first_nan_is_first_in_C_order_in_every_layout(source: str, layout: str) -> None:  # noqa: N802
    x = np.ones(2 * PIECE, source)
    generator = np.random.default_rng(3)
    for _ in range(8):
        x[generator.integers(PIECE, x.size, 3)] = np.nan
        laid_out = LAYOUTS[layout](x)
        with pytest.raises(NanError) as caught:
            leaky_relu(laid_out, 0.2, "int64")
        assert caught.value.position == int(np.isnan(laid_out).ravel(order="C").argmax())


@pytest.mark.parametrize("dtype", OUTPUTS)
@pytest.mark.parametrize("source", ["float16", *SMALL_INTEGERS])
@settings(max_examples=3, deadline=None)
@given(alpha=st.sampled_from(ALPHAS) | st.floats(-6e4, 6e4), nan=st.sampled_from([0, -1]))
def test_every_bit_pattern_gives_the_plain_definition(source: str, dtype: str, alpha: float, nan: int) -> None:
    kind, to = np.dtype(source), np.dtype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        if not np.isfinite(plain_compute(kind, to).type(alpha)):
            alpha = math.copysign(65504, alpha)
    patterns = np.arange(1 << 8 * kind.itemsize, dtype=f"u{kind.itemsize}").view(kind)
    replacement = nan if to.kind != "f" else None
    plain = Plain(patterns, alpha, to, replacement)
    repeats = PIECE // patterns.size
    out = np.empty(PIECE, dtype)
    lost = transform(np.tile(patterns, repeats), out, Rule.of(source, alpha, dtype, replacement))
    assert_same_bits(out, np.tile(plain.y, repeats))
    once = plain.losses
    assert lost == Losses(once.overflowed * repeats, once.underflowed * repeats, once.clipped * repeats, once.nan_replaced * repeats)


REFUSED: list[tuple[Any, str]] = [
    (np.bool_, "boolean"),
    (np.complex64, "complex"),
    (np.complex128, "complex"),
    (np.longdouble, "extended precision"),
    ("datetime64[s]", "datetime"),
    ("timedelta64[ms]", "timedelta"),
    ("U5", "string"),
    ("S5", "byte string"),
    (object, "object"),
    ([("a", "f4"), ("b", "i4")], "structured"),
    ("V2", "bfloat16"),
    ("V1", "float8"),
    ("V3", "void"),
]


@pytest.mark.parametrize(("source", "named"), REFUSED, ids=[str(np.dtype(source)) for source, _ in REFUSED])
def test_types_without_a_leaky_relu_are_refused_by_name(source: Any, named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        leaky_relu(np.zeros(3, source))
    with pytest.raises(UnsupportedError, match=named):
        Rule.of(source)


def test_strings_of_variable_width_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="string"):
        leaky_relu(np.array(["a"], np.dtypes.StringDType()))


def test_a_refused_void_type_says_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match=r"view\(ml_dtypes.bfloat16\)"):
        leaky_relu(np.zeros(3, "V2"))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint64", "bool", "complex64", "longdouble", "U5", "V2", "object", "datetime64[s]"])
def test_output_types_that_are_not_offered_are_a_usage_error(dtype: str) -> None:
    with pytest.raises(UsageError, match="float16, float32, float64, int32, int64"):
        leaky_relu(np.zeros(3), dtype=dtype)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", OUTPUTS)
def test_alpha_must_be_finite(alpha: float, dtype: str) -> None:
    with pytest.raises(UsageError, match="alpha"):
        leaky_relu(np.zeros(3), alpha, dtype)


@pytest.mark.parametrize(
    ("source", "dtype", "alpha"),
    [("float16", None, 1e5), ("float16", None, -65520), ("float32", None, 1e39), ("int8", None, 1e39), ("int8", "float16", 3.5e38)],
)
def test_alpha_must_be_finite_in_the_compute_type(source: str, dtype: str | None, alpha: float) -> None:
    with pytest.raises(UsageError, match="not finite in"):
        leaky_relu(np.zeros(3, source), alpha, dtype)


@pytest.mark.parametrize(("source", "dtype", "alpha"), [("float16", "float32", 1e5), ("float16", None, 65519), ("int8", "int32", 1e308)])
def test_alpha_may_be_as_large_as_the_compute_type_holds(source: str, dtype: str | None, alpha: float) -> None:
    assert not leaky_relu(np.zeros(3, source), alpha, dtype).any()


def test_nan_with_a_floating_output_is_a_usage_error() -> None:
    for source, dtype in (("float32", None), ("int32", None), ("float64", "float16")):
        with pytest.raises(UsageError, match="nan"):
            Rule.of(source, 0.2, dtype, nan=0)


@pytest.mark.parametrize(("dtype", "nan"), [("int32", 2**31), ("int32", -(2**31) - 1), ("int64", 2**63), ("int64", -(2**63) - 1)])
def test_nan_must_fit_the_output(dtype: str, nan: int) -> None:
    with pytest.raises(UsageError, match="does not fit"):
        Rule.of("float64", 0.2, dtype, nan)
    assert Rule.of("float64", 0.2, dtype, nan - int(math.copysign(1, nan))).nan is not None


@settings(max_examples=100, deadline=None)
@given(data=st.data(), alpha=st.floats(-3, 3), source=st.sampled_from(FLOATS), dtype=st.sampled_from(FLOATS))
def test_monotone_rules_are_what_they_say(data: st.DataObject, alpha: float, source: str, dtype: str) -> None:
    rule = Rule.of(source, alpha, dtype)
    x = data.draw(arrays(source))
    x = np.sort(x[np.isfinite(x)])
    y = leaky_relu(x, alpha, dtype)
    if rule.monotone:
        assert np.all(y[1:] >= y[:-1])


@pytest.mark.parametrize("source", SOURCES)
def test_the_default_output_is_the_floating_input_type_or_float32(source: str) -> None:
    assert leaky_relu(np.ones(2, source)).dtype == (source if source in FLOATS else "float32")
    assert leaky_relu(np.ones(2, np.dtype(source).newbyteorder(">"))).dtype == (source if source in FLOATS else "float32")


def test_the_default_alpha_is_a_fifth() -> None:
    assert leaky_relu(np.array([-1.0, 1.0])).tolist() == [-0.2, 1.0]
    assert leaky_relu([-5, 5]).tolist() == [-1.0, 5.0]
    assert leaky_relu(-5.0).shape == ()


@pytest.mark.parametrize("dtype", ["<f8", ">f8"])
def test_out_is_filled_in_its_own_type_and_byte_order_and_returned(dtype: str) -> None:
    x = large("float32", 100)
    out = np.empty(100, dtype)
    assert leaky_relu(x, 0.3, out=out) is out
    assert_same_bits(out.astype(np.float64), Plain(x, 0.3, np.dtype("float64")).y)


def test_out_of_another_shape_or_type_is_refused() -> None:
    x = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="shape"):
        leaky_relu(x, out=np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="shape"):
        leaky_relu(x, out=np.zeros((1, 3), np.float32))
    with pytest.raises(TypeError, match="float64"):
        leaky_relu(x, dtype="float32", out=np.zeros(3))
    with pytest.raises(TypeError, match="float16"):
        transform(np.zeros(3, np.float16), np.zeros(3, np.float32), Rule.of("float32"))


@pytest.mark.parametrize(("source", "dtype"), [("float32", None), ("float16", None), ("float64", "int32"), ("int64", "int64")])
@pytest.mark.parametrize("layout", ["contiguous", "big-endian", "strided", "transposed"])
def test_temporary_memory_does_not_grow_with_the_array(source: str, dtype: str | None, layout: str) -> None:
    x = LAYOUTS[layout](np.ones(24 * PIECE, source))
    rule = Rule.of(source, 0.2, dtype)
    out = np.empty_like(x, rule.dtype)
    tracemalloc.start()
    try:
        transform(x, out, rule)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * PIECE * 8
