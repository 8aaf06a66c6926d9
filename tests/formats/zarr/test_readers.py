"""Results as the libraries of a field read them; each test runs where its library is installed (extra `zarr-readers`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import leakycli
from leakycli import Options, leaky_relu

pytestmark = pytest.mark.filterwarnings("ignore")

X = np.array([[-5, -1.5, 3, 2], [-4, 7, -0.5, 0]], "f4")


def apply(source: Path, out: Path, **options: Any) -> dict[str, str]:
    """What became of each array."""
    report = leakycli.apply(str(source), str(out), Options(**options, verify=True))
    return {array.name: array.action for array in report.arrays}


@pytest.mark.parametrize("layout", [{}, {"compressor": "gzip:1"}, {"chunks": (2, 2)}], ids=str)
def test_anndata(layout: dict[str, Any], tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")
    obs = pandas.DataFrame({"kind": pandas.Categorical([-1.5, 2.5]), "n": [1, -2]}, index=["a", "b"])
    made = anndata.AnnData(X=X, obs=obs, layers={"raw": X * 2})
    made.write_zarr(tmp_path / "in.zarr")
    apply(tmp_path / "in.zarr", tmp_path / "out.zarr", only=("X", "layers/*"), **layout)
    found = anndata.read_zarr(tmp_path / "out.zarr")
    np.testing.assert_array_equal(found.X, leaky_relu(X))
    np.testing.assert_array_equal(found.layers["raw"], leaky_relu(X * 2))
    pandas.testing.assert_frame_equal(found.obs, made.obs)
    apply(tmp_path / "in.zarr", tmp_path / "all.zarr")
    assert list(anndata.read_zarr(tmp_path / "all.zarr").obs.kind) == [-1.5, 2.5]  # labels, not values


def test_spatialdata(tmp_path: Path) -> None:
    pytest.importorskip("spatialdata")
    # In a process of its own: it starts threads and configures dask.
    code = """
import sys, warnings; warnings.simplefilter("ignore")
import numpy as np, pandas as pd, spatialdata as sd
from spatialdata.models import Image2DModel, PointsModel
x = np.linspace(-1, 1, 3 * 16 * 16).astype("f4").reshape(3, 16, 16)
points = PointsModel.parse(pd.DataFrame({"x": [-1.0, 2.0], "y": [3.0, -4.0], "gene": ["a", "b"]}), coordinates={"x": "x", "y": "y"})
sd.SpatialData(images={"im": Image2DModel.parse(x, dims=("c", "y", "x"))}, points={"pts": points}).write(sys.argv[1])
"""
    check = """
import sys, warnings; warnings.simplefilter("ignore")
import numpy as np, spatialdata as sd
from leakycli import leaky_relu
before, after = (sd.read_zarr(path) for path in sys.argv[1:3])
np.testing.assert_array_equal(np.asarray(after.images["im"].data), leaky_relu(np.asarray(before.images["im"].data)))
assert after.points["pts"].compute().equals(before.points["pts"].compute())
"""
    source, out = str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr")
    subprocess.run([sys.executable, "-c", code, source], check=True, capture_output=True)
    apply(Path(source), Path(out))
    subprocess.run([sys.executable, "-c", check, source, out], check=True, capture_output=True, cwd=Path(leakycli.__file__).parents[1])


def test_ome_zarr(tmp_path: Path) -> None:
    io, reader, writer = (pytest.importorskip(f"ome_zarr.{name}") for name in ("io", "reader", "writer"))
    import zarr

    image = np.linspace(-1, 1, 64 * 64).astype("f4").reshape(64, 64)
    writer.write_image(image, zarr.open_group(tmp_path / "in.zarr", mode="w"), axes="yx")
    apply(tmp_path / "in.zarr", tmp_path / "out.zarr")
    before, after = (next(iter(reader.Reader(io.parse_url(tmp_path / name))())) for name in ("in.zarr", "out.zarr"))
    assert len(before.data) == len(after.data) > 0
    for one, two in zip(before.data, after.data, strict=True):
        np.testing.assert_array_equal(np.asarray(two), leaky_relu(np.asarray(one)))
    assert before.metadata["axes"] == after.metadata["axes"]


def test_netcdf4_reads_its_own_kind(tmp_path: Path) -> None:
    netcdf4 = pytest.importorskip("netCDF4")
    url = f"file://{tmp_path}/in.zarr#mode=nczarr,file"
    try:
        with netcdf4.Dataset(url, "w") as made:
            made.createDimension("x", 4)
            variable = made.createVariable("n", "i4", ("x",), fill_value=-7)
            variable[:] = np.ma.masked_values([-5, -7, 3, 9], -7)
    except Exception as error:
        pytest.skip(f"netCDF4 without NCZarr: {error}")
    apply(tmp_path / "in.zarr", tmp_path / "out.zarr", only=("n",))
    with netcdf4.Dataset(f"file://{tmp_path}/out.zarr#mode=nczarr,file") as found:
        values = found["n"][:]
        assert values.dtype == np.float32
        assert values.mask.tolist() == [False, True, False, False]
        np.testing.assert_array_equal(values.compressed(), leaky_relu(np.array([-5, 3, 9], "i4")))


@pytest.mark.parametrize("version", [2, 3])
def test_xarray_writes_its_result_as_netcdf(version: Any, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("scipy")
    made = xarray.Dataset({"f": (("y", "x"), X)}, coords={"x": [1.0, -2.0, 3.0, 4.0]})
    made.to_zarr(tmp_path / "in.zarr", zarr_format=version)
    apply(tmp_path / "in.zarr", tmp_path / "out.zarr")
    with xarray.open_zarr(tmp_path / "out.zarr", chunks=None) as found:
        found.to_netcdf(tmp_path / "out.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "out.nc", engine="scipy") as again:
        np.testing.assert_array_equal(again.f.values, leaky_relu(X))
        assert again.x.values.tolist() == [1.0, -2.0, 3.0, 4.0]
