"""Scans of several windows in HDF5: exact round trips, and clear errors for other and damaged files."""

import h5py
import numpy as np
import pytest
import torch

from emrecon.formats import FormatError
from emrecon.formats.hdf5 import files as hdf5
from emrecon.formats.hdf5.windows import read_windowed_scan, write_windowed_scan
from emrecon.projectors import ImageGrid, SPECTGeometry
from emrecon.projectors.scan.energy_windows import EnergyWindow, WindowedScan

RNG = np.random.default_rng(5)
CAMERA = SPECTGeometry([0.1, 10, 350.25], [150, 151.5, 1e2 / 3], (6, 4), (3.32, 4.4), shift=0.1, head=[0, 0, 1])
WINDOWS = (EnergyWindow(126.45, 154.55, "peak"), EnergyWindow(1e3 / 9, 126.45, "lower Ω"))


def scan_of(**changes):
    counts = (RNG.poisson(20, CAMERA.shape).astype(np.float32), RNG.random(CAMERA.shape))
    values = {"factors": RNG.random((3, 1, 1)), "duration": 12.5, "radionuclide": "tc99m", "description": "two\nlines"}
    return WindowedScan(WINDOWS, counts, CAMERA, **(values | changes))


@pytest.mark.parametrize("changes", [{}, {"factors": 2.0, "duration": None, "radionuclide": None, "description": ""}])
def test_everything_comes_back(tmp_path, changes):
    scan = scan_of(**changes)
    write_windowed_scan(tmp_path / "scan.h5", scan)
    back = read_windowed_scan(tmp_path / "scan.h5")
    assert back.windows == scan.windows
    assert back.geometry == scan.geometry
    for one, two in zip(scan.counts, back.counts):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(back.factors, scan.factors)
    for name in ("duration", "radionuclide", "description"):
        assert getattr(back, name) == getattr(scan, name)
    one, two = (s.scatter_corrected("peak", "lower Ω", fwhm=6.0) for s in (scan, back))
    np.testing.assert_array_equal(one.background, two.background)


def test_tensors_and_gated_counts_are_stored(tmp_path):
    counts = tuple(torch.ones(2, *CAMERA.shape) for _ in WINDOWS)
    write_windowed_scan(tmp_path / "scan.h5", WindowedScan(WINDOWS, counts, CAMERA))
    assert read_windowed_scan(tmp_path / "scan.h5").counts[0].shape == (2, *CAMERA.shape)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "scan.h5"
    write_windowed_scan(path, scan_of(description="old"))
    broken = scan_of()
    object.__setattr__(broken, "factors", np.ones(3, complex))
    with pytest.raises(TypeError, match="complex"):
        write_windowed_scan(path, broken)
    assert read_windowed_scan(path).description == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]


def test_other_files(tmp_path):
    path = tmp_path / "file.h5"
    with pytest.raises(FileNotFoundError, match=r"file\.h5"):
        read_windowed_scan(path)
    path.write_text("text")
    with pytest.raises(FormatError, match="not an HDF5 file"):
        read_windowed_scan(path)
    hdf5.write_scan(path, scan_of().scan("peak"))
    with pytest.raises(FormatError, match="use read_scan"):
        read_windowed_scan(path)
    hdf5.write_image(path, np.ones((2, 2, 2)), ImageGrid((2, 2, 2), 1.0))
    with pytest.raises(FormatError, match="use read_image"):
        read_windowed_scan(path)
    write_windowed_scan(path, scan_of())
    with pytest.raises(FormatError, match="windowed-scan"):
        hdf5.read_scan(path)


def change(name, value):
    def edit(file):
        del file[name]
        if value is not None:
            file[name] = value

    return edit


def newer(file):
    file.attrs["schema_version"] = 99


def nonsense(file):
    file.attrs["schema_version"] = "x"


def scribble(file):
    file["counts_0"][0, 0, 0] += 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (newer, "upgrade emrecon"),
        (nonsense, "schema_version"),
        (scribble, "checksum of counts_0"),
        (change("counts_1", None), "counts_1 is missing"),
        (change("n_windows", 5), "counts_2 is missing|windows/2"),
        (change("n_windows", 1e9), "n_windows"),
        (change("n_windows", 1.5), "n_windows"),
        (change("windows/0/limits", [154.0, 126.0]), "0 <= lower < upper"),
        (change("windows/0/limits", [1.0, 2.0, 3.0]), "expected 2"),
        (change("windows/1/name", "peak"), "all different"),
        (change("windows/1/name", 3.0), "not text"),
        (change("geometry/radius", [1.0, 2.0]), "3 views"),
        (change("windows/1/limits", h5py.SoftLink("/windows/0/limits")), "link to somewhere else"),
    ],
)
def test_damaged_files(tmp_path, edit, message):
    path = tmp_path / "scan.h5"
    write_windowed_scan(path, scan_of())
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(FormatError, match=message) as error:
        read_windowed_scan(path)
    assert "scan.h5" in str(error.value)


def test_a_truncated_file(tmp_path):
    path = tmp_path / "scan.h5"
    write_windowed_scan(path, scan_of())
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FormatError):
        read_windowed_scan(path)
