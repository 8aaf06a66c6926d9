"""Chunk grids: every element that is to be worked on is covered exactly once, however units are joined."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakycli.engine.plan import Codecs, FlatPlan, GridPlan
from leakycli.engine.route import Terms, array_plan
from leakycli.formats import ArrayInfo
from leakycli.formats.base import Chunking
from leakycli.formats.flat import runs
from leakycli.regions import Box, Grid, Presence, Span, cuts
from leakycli.tuning import Tuning

LENGTHS = st.integers(0, 13)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    shape = tuple(draw(st.lists(LENGTHS, max_size=3)))
    return Grid(shape, tuple(draw(st.integers(1, 6)) for _ in shape), draw(st.booleans()))


@st.composite
def plans(draw: st.DrawFn) -> GridPlan:
    grid = draw(grids())
    stored = None
    if draw(st.booleans()):
        stored = Presence(grid.size)
        for number in draw(st.sets(st.integers(0, max(grid.size - 1, 0)))) if grid.size else ():
            stored.add(number)
    slabs = stored is None and draw(st.booleans())
    plan = GridPlan.of("", grid, (4, 4), 0, (False, False), slabs, stored, Codecs(1.0, 100, (3,)))
    return plan.fitted(draw(st.integers(1, 3)), draw(st.sampled_from([0, 500, 1 << 30])))


@given(plans())
def test_parts_and_units_cover_each_element_that_is_stored_exactly_once(plan: GridPlan) -> None:
    by_part, by_unit = np.zeros(plan.grid.shape, int), np.zeros(plan.grid.shape, int)
    addresses = []
    for region in plan.regions():
        for part in plan.parts(region):
            assert 0 < part.size <= plan.largest_part
            by_part[part.slices or ...] += 1
            for selection, start in plan.units(part):
                by_unit[part.slices or ...][selection] += 1
                addresses.append(start)
    expected = np.ones(plan.grid.shape, int)
    if plan.stored is not None:
        for number in range(plan.grid.size):
            expected[plan.grid.box(plan.grid.index(number)).slices or ...] = number in plan.stored
    assert (by_part == expected).all()
    assert (by_unit == expected).all()
    # The order of units, and so the sample, does not depend on how they were joined: each begins where those before it end.
    assert addresses == sorted(addresses)
    sizes = [plan.grid.box(plan.grid.index(number)).size for number in range(plan.grid.size)]
    starts = [sum(sizes[:number]) for number in range(plan.grid.size)]
    assert addresses == [start for number, start in enumerate(starts) if plan.stored is None or number in plan.stored]
    assert len(addresses) == (plan.grid.size if plan.stored is None else plan.stored.count)


@given(plans(), st.data())
def test_an_element_of_a_unit_is_found_again_by_its_index(plan: GridPlan, data: st.DataObject) -> None:
    regions = list(plan.regions())
    if not regions:
        return
    x = np.arange(np.prod(plan.grid.shape, dtype=int)).reshape(plan.grid.shape)
    part = next(plan.parts(data.draw(st.sampled_from(regions))))
    selection, _ = next(plan.units(part))
    unit = x[part.slices or ...][selection]
    position = data.draw(st.integers(0, unit.size - 1))
    assert x[plan.index(part, selection, unit.shape, position)] == unit.reshape(-1)[position]


@given(grids())
def test_numbers_and_indices_of_units_are_inverse(grid: Grid) -> None:
    assert [grid.number(grid.index(number)) for number in range(grid.size)] == list(range(grid.size))
    assert list(grid.units(Box((0,) * len(grid.shape), grid.shape))) == list(range(grid.size))


@given(st.integers(0, 70_000), st.sets(st.integers(0, 69_999), max_size=5), st.integers(0, 70_000))
def test_the_first_stored_unit_is_found(size: int, numbers: set[int], start: int) -> None:
    presence = Presence(size)
    inside = sorted(number for number in numbers if number < size)
    for number in (*inside, *inside):
        presence.add(number)
    assert presence.count == len(inside)
    assert presence.first(start) == next((number for number in inside if number >= start), None)


@given(st.lists(LENGTHS, max_size=4), st.integers(1, 40))
def test_cuts_are_runs_of_the_c_order_that_cover_everything(shape: list[int], most: int) -> None:
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    seen = []
    for at, piece in cuts(tuple(shape), most):
        values = x[piece].reshape(-1)
        assert 0 < values.size <= most
        assert values[0] == at
        seen += values.tolist()
    assert seen == list(range(x.size))


@given(grids(), st.booleans())
def test_the_runs_of_a_box_are_its_elements_in_the_buffers_order(grid: Grid, fortran: bool) -> None:
    info = ArrayInfo("", grid.shape, np.dtype("int64"), fortran)
    order: Literal["C", "F"] = "F" if fortran else "C"
    x = np.arange(info.size).reshape(grid.shape, order=order)
    for number in range(grid.size):
        box = grid.box(grid.index(number))
        found = [np.arange(run.start, run.stop) for run in runs(box, info)]
        assert (np.concatenate(found) == x[box.slices or ...].reshape(-1, order=order)).all()
        assert all(isinstance(run, Span) for run in runs(box, info))


@pytest.mark.parametrize(("units", "joined"), [(1, 4), (256, 4), (320, 5), (1024, 16), (100_000, 16)])
def test_regions_of_larger_arrays_are_larger(units: int, joined: int) -> None:
    plan = FlatPlan.of("", units * (Tuning().unit_bytes // 4), (4, 4))
    assert plan.region == joined * plan.unit
    assert FlatPlan.of("", plan.size, (4, 4), ordered=(True, False)).region == plan.unit


@given(st.integers(0, 3 << 21), st.sampled_from([1, 2, 4, 8]), st.booleans(), st.data())
def test_parts_of_a_flat_array_cover_it_once(size: int, itemsize: int, ordered: bool, data: st.DataObject) -> None:
    plan = FlatPlan.of("", size, (itemsize, 4), 0, (ordered, False))
    start = data.draw(st.sampled_from([region.start for region in plan.regions()] or [0]))
    parts = [part for region in plan.regions(start) for part in plan.parts(region)]
    assert all(0 < part.size <= plan.largest_part for part in parts)
    edges = [start, *(part.stop for part in parts)]
    assert edges == sorted(edges)
    assert [part.start for part in parts] == edges[:-1]
    assert edges[-1] == size
    assert [at for part in parts for _, at in plan.units(part)] == edges[:-1]


def test_chunks_go_one_by_one_between_folders_and_many_at_once_behind_a_url() -> None:
    info = ArrayInfo("", (64, 64), np.dtype("f4"), False, Chunking((8, 8), None, "none"))
    for by_requests in (False, True):
        plan = array_plan("", info, info, Terms(by_requests=by_requests)).fitted(2, 1 << 30)
        assert isinstance(plan, GridPlan)
        assert [len(list(plan.parts(region))) for region in plan.regions()] == ([1] if by_requests else [64])
