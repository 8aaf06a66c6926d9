"""The results of the pass, to the bit: reference vectors, the definition for every half, and every implementation against the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leakycli.function import reference
from leakycli.function.stats import NanError
from tests.kit.kernels import INPUTS, OUTPUTS, RUNS, Run, both, random_bits, rounded_alpha, same_bits, storage, values, work

DATA = Path(__file__).parents[1] / "data"

ALPHAS = (0.2, 0.01, 0.0, -0.0, 1.0, 1.5, -0.5, 3.0, 1e-8, -1e4, 65504.0)


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    return RUNS[request.param]


def test_the_machine_runs_more_than_the_reference() -> None:
    pytest.importorskip("leakycli.function._kernel", reason="the kernel was not built")
    assert "baseline" in RUNS


def test_reference_vectors(run: Run) -> None:
    cases = np.load(DATA / "leaky_relu.npz")
    names = [name.removesuffix(".x") for name in cases.files if name.endswith(".x")]
    assert len(names) > 50
    for name in names:
        x, wanted, alpha = cases[f"{name}.x"], cases[f"{name}.y"], float(cases[f"{name}.alpha"])
        y, _ = both(work(x.dtype.name, wanted.dtype.name, alpha), x, run)
        assert same_bits(y.dtype.name, y, wanted), name


def test_bfloat16_vectors(run: Run) -> None:
    cases = np.load(DATA / "bfloat16.npz")
    x = cases["x"]
    tiny = np.float32(2.0**-126)
    for name in set(cases.files) - {"x"}:
        alpha = float(name.removeprefix("alpha="))
        y, _ = both(work("bfloat16", "bfloat16", alpha), x, run)
        # TensorFlow flushes subnormal inputs and products to zero.
        wide = reference.widened(x)
        with np.errstate(all="ignore"):
            product = np.where(wide > 0, wide, wide * np.float32(rounded_alpha(alpha, "bfloat16", "bfloat16")))
        kept = ~((wide != 0) & (np.abs(wide) < tiny)) & ~((product != 0) & (np.abs(product) < tiny))
        assert kept.sum() > 64000
        assert same_bits("bfloat16", y[kept], cases[name][kept]), name


def test_all_halves_at_many_alphas(run: Run) -> None:
    """Every float16 x 100 alphas: the product in float32, where it is exact, rounded once by numpy."""
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    rng = np.random.default_rng(5)
    for alpha in (*ALPHAS[:-2], *rng.normal(0, 2, 60), *10.0 ** rng.uniform(-7, 4, 31)):
        factor = np.float16(alpha)
        with np.errstate(all="ignore"):
            wanted = np.where(x <= 0, x.astype(np.float32) * np.float32(factor), x).astype(np.float16)
        y, _ = both(work("float16", "float16", float(alpha)), x, run, statistics=False)
        assert same_bits("float16", y, wanted), alpha


def test_all_bfloats_at_many_alphas(run: Run) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.arange(1 << 16, dtype=np.uint16)
    for alpha in (0.2, 0.3, -0.7, 1.5, 1e-30, 3e38):
        factor = np.float32(np.array(alpha).astype(ml_dtypes.bfloat16))
        with np.errstate(all="ignore"):
            wide = x.view(ml_dtypes.bfloat16).astype(np.float32)
            wanted = np.where(wide <= 0, wide * factor, wide).astype(ml_dtypes.bfloat16).view(np.uint16)
        y, _ = both(work("bfloat16", "bfloat16", alpha), x, run, statistics=False)
        assert same_bits("bfloat16", y, wanted), alpha


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_double_is_rounded_once(run: Run, dtype: str) -> None:
    """Just above, at and just below the middle between two neighbours: by way of float32 these would be rounded twice."""
    if dtype == "float32":
        grid: Any = np.array([1.0, 1.5, 2.0**-140, 2.0**-126, 3e38], np.float32).astype(np.float64)
        steps: Any = np.spacing(grid.astype(np.float32)).astype(np.float64)
    else:
        bits = np.r_[1:200:7, 0x0380:0x0480:5, 0x3C00:0x3C80].astype(np.uint16)
        half = bits.view(np.float16) if dtype == "float16" else reference.widened(bits)
        following = (bits + 1).view(np.float16) if dtype == "float16" else reference.widened(bits + 1)
        grid, steps = half.astype(np.float64), following.astype(np.float64) - half.astype(np.float64)
    middle = grid + steps / 2
    x = np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, 0)])
    y, _ = both(work("float64", dtype), x, run)
    got = values(dtype, y).astype(np.float64)
    assert (np.abs(got - x) <= np.tile(steps / 2, 3)).all()  # a neighbour
    above, below = got[grid.size : 2 * grid.size], got[2 * grid.size :]
    assert (above == grid + steps).all()
    assert (below == grid).all()


def elements(name: str) -> st.SearchStrategy[Any]:
    bits = storage(name).itemsize * 8
    return st.integers(0, (1 << bits) - 1)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, str, Any, Any]:
    source, dtype = draw(st.sampled_from(INPUTS)), draw(st.sampled_from(OUTPUTS))
    few = draw(st.lists(elements(source), max_size=40))
    seed, many = draw(st.integers(0, 1 << 32)), draw(st.sampled_from([0, 0, 15, 2048, 5000]))
    unsigned = np.dtype(f"u{storage(source).itemsize}")
    x = np.concatenate([np.array(few, unsigned).view(storage(source)), random_bits(np.random.default_rng(seed), source, many)])
    alpha = draw(st.one_of(st.sampled_from(ALPHAS[:-1]), st.floats(-1e4, 1e4)))
    return source, dtype, x, alpha


@settings(max_examples=300)
@given(arrays(), st.booleans(), st.sampled_from([(), (0.0,), (1.0, float("nan")), (float("nan"),)]), st.booleans())
@example(("int64", "int64", np.array([2**63 - 1, -(2**63), -3, 0]), 1.0), False, (), False)
@example(("uint64", "int64", np.array([2**64 - 1, 2**63, 0], np.uint64), -2.0), False, (), True)
def test_implementations_agree(case: tuple[str, str, Any, Any], in_place: bool, missing: tuple[float, ...], with_fill: bool) -> None:
    """Results and statistics, to the bit, for all types, alphas, missing elements, byte orders."""
    source, dtype, x, alpha = case
    if "float" not in source:
        missing = tuple(int(value) for value in missing if value == value)
    todo = work(source, dtype, alpha, nan=-1 if "int" in dtype else None, missing=missing, fill=0 if with_fill else None)
    wanted, stats = both(todo, x, RUNS["reference"])
    for name, run in RUNS.items():
        y, found = both(todo, x, run)
        assert same_bits(dtype, y, wanted), name
        assert found == stats, name
        swapped = np.empty(x.size, storage(dtype).newbyteorder())
        assert run(todo, x.astype(x.dtype.newbyteorder()), swapped) == stats, name
        assert same_bits(dtype, swapped.astype(storage(dtype)), wanted), name
        if in_place and x.itemsize == y.itemsize:
            z = x.copy()
            assert run(todo, z, z.view(y.dtype)) == stats, name
            assert same_bits(dtype, z.view(y.dtype), wanted), name


@pytest.mark.parametrize("source", INPUTS)
def test_nothing_need_be_aligned(run: Run, source: str) -> None:
    x = random_bits(np.random.default_rng(2), source, 3000)
    for dtype in OUTPUTS:
        todo = work(source, dtype, nan=0 if "int" in dtype else None)
        wanted, stats = both(todo, x, run)
        room, place = np.zeros(x.nbytes + 1, np.uint8), np.zeros(wanted.nbytes + 1, np.uint8)
        odd, to = room[1:].view(x.dtype), place[1:].view(wanted.dtype)
        odd[:] = x
        assert run(todo, odd, to) == stats
        assert same_bits(dtype, to, wanted)


def test_the_first_nan_is_named(run: Run) -> None:
    x = np.zeros(150_000, np.float32)
    x[[140_003, 149_000]] = np.nan
    for dtype in ("int32", "int64"):
        with pytest.raises(NanError) as caught:
            both(work("float32", dtype), x, run)
        assert caught.value.position == 140_003
        y, stats = both(work("float32", dtype, nan=-7), x, run)
        assert stats is not None
        assert y[140_003] == y[149_000] == -7
        assert stats.losses.nan_replaced == 2
    minus = np.array([1.0, -np.inf], np.float32)
    with pytest.raises(NanError):  # 0 times infinity
        both(work("float32", "int32", 0.0), minus, run)


def test_nan_keeps_its_payload() -> None:
    """What a NaN says (VCF Zarr has two kinds) is there after the pass."""
    for run in RUNS.values():
        for dtype, bits in (("float32", [0x7F800001, 0x7F800002, 0xFFC01234]), ("float64", [0x7FF0000000000001, 0xFFF8000000001234])):
            unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
            x = np.array(bits * 9, unsigned).view(dtype)
            y, _ = both(work(dtype, dtype), x, run)
            assert (y.view(unsigned) == x.view(unsigned)).all()


class TestRefusals:
    """The compiled kernel checks what it is given, and writes nothing where that does not fit."""

    @pytest.fixture
    def kernel(self) -> Any:
        return pytest.importorskip("leakycli.function._kernel", reason="the kernel was not built")

    @staticmethod
    def call(kernel: Any, x: Any, y: Any, source: int = 2, dtype: int = 2, **more: Any) -> Any:
        arguments = {"copy": 0, "swap_x": False, "swap_y": False, "single": True, "alpha": 0.2, "nan": None, "missing": b""}
        arguments |= {"nan_missing": False, "fill": None, "totals": None}
        a = arguments | more
        return kernel.transform(
            a["copy"], x, y, source, dtype, a["swap_x"], a["swap_y"], a["single"], a["alpha"], a["nan"], a["missing"], a["nan_missing"],
            a["fill"], a["totals"],
        )  # fmt: skip

    def test_lengths(self, kernel: Any) -> None:
        y = bytearray(16)
        for x in (bytes(12), bytes(20), bytes(15)):
            with pytest.raises(ValueError, match="as many whole elements"):
                self.call(kernel, x, y)
        with pytest.raises(ValueError, match="as many whole elements"):
            self.call(kernel, bytes(16), y, 2, 3, single=False)
        assert y == bytes(16)

    def test_types(self, kernel: Any) -> None:
        for source, dtype in ((-1, 2), (12, 2), (2, 4), (2, 12), (2, 8)):
            with pytest.raises(ValueError, match="out of range"):
                self.call(kernel, bytes(16), bytearray(16), source, dtype)
        for number in (-1, 9):
            with pytest.raises(ValueError, match="out of range"):
                self.call(kernel, bytes(16), bytearray(16), copy=number)
        with pytest.raises(ValueError, match="not computed in float32"):
            self.call(kernel, bytes(16), bytearray(16), 2, 6)

    def test_read_only_and_no_buffer(self, kernel: Any) -> None:
        with pytest.raises(TypeError):
            self.call(kernel, bytes(16), bytes(16))
        with pytest.raises(TypeError):
            self.call(kernel, "text", bytearray(16))
        strided = np.zeros(8, np.float32)[::2]
        with pytest.raises((BufferError, ValueError, TypeError)):
            self.call(kernel, strided, bytearray(16))

    def test_overlap(self, kernel: Any) -> None:
        room = bytearray(64)
        view = memoryview(room)
        with pytest.raises(ValueError, match="overlap"):
            self.call(kernel, view[:32], view[4:36])
        with pytest.raises(ValueError, match="overlap"):
            self.call(kernel, view[:16], view[:32], 2, 3, single=False)
        self.call(kernel, view[:32], view[:32])
        self.call(kernel, view[:32], view[32:])

    def test_missing_and_nan(self, kernel: Any) -> None:
        with pytest.raises(ValueError, match="missing"):
            self.call(kernel, bytes(16), bytearray(16), missing=bytes(36))
        with pytest.raises(ValueError, match="missing"):
            self.call(kernel, bytes(16), bytearray(16), missing=bytes(3))
        with pytest.raises(OverflowError):
            self.call(kernel, bytes(16), bytearray(16), 2, 6, single=False, nan=1 << 31)

    def test_totals(self, kernel: Any) -> None:
        for totals in (bytearray(kernel.TOTALS - 1), bytearray(8)):
            with pytest.raises(ValueError, match="totals"):
                self.call(kernel, bytes(16), bytearray(16), totals=totals)
            with pytest.raises(ValueError, match="totals"):
                kernel.clear(totals)
            with pytest.raises(ValueError, match="totals"):
                kernel.read(totals, 2, 2)
        with pytest.raises((TypeError, BufferError)):
            self.call(kernel, bytes(16), bytearray(16), totals=bytes(kernel.TOTALS))
        with pytest.raises(ValueError, match="out of range"):
            kernel.read(bytearray(kernel.TOTALS), 2, 12)


def test_differs() -> None:
    kernel = pytest.importorskip("leakycli.function._kernel", reason="the kernel was not built")
    a = np.random.default_rng(1).integers(0, 256, 200_001, dtype=np.uint8)
    assert kernel.differs(a, a.tobytes()) == -1
    assert kernel.differs(b"", b"") == -1
    for position in (0, 7, 65_535, 65_536, 200_000):
        b = a.copy()
        b[position] ^= 1
        b[-1] ^= 1 if position < 200_000 else 0
        assert kernel.differs(a, b) == position
    with pytest.raises(ValueError, match="lengths"):
        kernel.differs(b"a", b"ab")
