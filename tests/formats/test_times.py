"""Frames and gates of images: 4-D NIfTI and HDF5 with their times, and beds in HDF5."""

import json
from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pytest
from bed_cases import beds_of

from emrecon import formats
from emrecon.formats import FormatError, ImageTimes
from emrecon.projectors import (
    BedScan,
    DynamicScan,
    EnergyWindow,
    Frames,
    GatedScan,
    ImageGrid,
    SPECTGeometry,
    WindowedScan,
)

GRID = ImageGrid((4, 3, 2), (1.5, 2.5, 3.32), (-7.0, 0.1, 12.0))
IMAGE = np.random.default_rng(3).random((3, *GRID.shape), dtype=np.float32)
CAMERA = SPECTGeometry.circular(2, 40, (4, 2), 5.0)
EVEN = ImageTimes((10, 10, 10), (5, 15, 25), 0.0)
UNEVEN = ImageTimes((10, 20, 60), (0, 10, 30))
GATES = ImageTimes((1.5, 1.5, 2))


@pytest.mark.parametrize("times", [EVEN, UNEVEN, GATES, None])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.h5"])
def test_frames_come_back(tmp_path, name, times):
    path = tmp_path / name
    formats.write_image(path, IMAGE, GRID, times=times)
    again, grid = formats.read_image(path)
    np.testing.assert_array_equal(again, IMAGE)
    assert again.flags.c_contiguous
    assert grid == GRID
    assert formats.read_times(path) == times
    facts = formats.describe(path)
    assert facts["frames"] == 3
    assert times is None or str(times) in facts.values()


def test_what_other_programs_see(tmp_path):
    formats.write_image(tmp_path / "a.nii.gz", IMAGE, GRID, times=EVEN)
    volume = nibabel.load(tmp_path / "a.nii.gz")
    assert volume.shape == (4, 3, 2, 3)
    np.testing.assert_array_equal(volume.get_fdata()[..., 1], IMAGE[1])
    assert volume.header["pixdim"][4] == 10
    assert volume.header["toffset"] == 5
    assert volume.header.get_xyzt_units() == ("mm", "sec")
    said = json.loads((tmp_path / "a.json").read_text())
    assert said["FrameTimesStart"] == [5, 15, 25]
    assert said["FrameDuration"] == [10, 10, 10]
    assert said["ImageDecayCorrected"] is True
    formats.write_image(tmp_path / "b.nii", IMAGE, GRID, times=UNEVEN)
    assert nibabel.load(tmp_path / "b.nii").header["toffset"] == 0


def test_times_of_scans():
    counts = np.ones((2, *CAMERA.shape))
    dynamic = DynamicScan(counts, CAMERA, Frames.parse("10,20", 30), reference=-5.0, radionuclide="Tc-99m")
    assert ImageTimes.of(dynamic) == ImageTimes((10, 20), (30, 40), -5.0)
    assert ImageTimes.of(dynamic, decay=False).reference is None
    assert ImageTimes.of(GatedScan(counts, CAMERA, np.array([1.0, 2]))) == ImageTimes((1, 2))


def test_times_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="do not fit an image"):
        formats.write_image(tmp_path / "a.nii", IMAGE[:2], GRID, times=GATES)
    with pytest.raises(ValueError, match="do not go into one file"):
        formats.write_image(tmp_path / "a.hv", IMAGE, GRID)
    formats.write_image(tmp_path / "a.nii", IMAGE, GRID, times=GATES)
    for text in ('{"FrameDuration": [1, 2]}', '{"FrameDuration": "a"}', "[]", '{"GateDuration": [1, 2, -3]}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(FormatError, match=r"a\.json"):
            formats.read_times(tmp_path / "a.nii")


@pytest.mark.parametrize("windows", [False, True])
def test_beds_come_back(tmp_path, windows):
    scan = beds_of(3)
    if windows:
        names = EnergyWindow(126, 154, "peak"), EnergyWindow(100, 126, "low")
        beds = tuple(WindowedScan(names, (b.counts, b.counts), b.geometry, duration=b.duration) for b in scan)
        scan = BedScan(beds, timed_factors=True)
    formats.write_beds(tmp_path / "a.h5", scan)
    again = formats.read_acquisition(tmp_path / "a.h5")
    assert type(again) is BedScan
    assert again.timed_factors is windows
    for old, new in zip(scan, again):
        assert type(old) is type(new)
        np.testing.assert_array_equal(np.asarray(old.counts), np.asarray(new.counts))
        assert new.geometry == old.geometry
        assert new.duration == old.duration
        assert (new.study is None) == (old.study is None)
        assert new.study is None or new.study.start == old.study.start
    facts = formats.describe(tmp_path / "a.h5")
    assert facts["holds"] == "SPECT scan of 3 beds"
    assert "counts" in facts["bed 3"]


def test_damaged_beds(tmp_path):
    formats.write_beds(tmp_path / "a.h5", beds_of(2))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["bed_1"]
        file["bed_1"] = file["bed_0"]
    with pytest.raises(FormatError, match="one and the same group"):
        formats.read_beds(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["bed_1"]
    with pytest.raises(FormatError, match="bed_1 is missing"):
        formats.read_beds(tmp_path / "a.h5")
    with pytest.raises(TypeError, match="write_beds expects a BedScan"):
        formats.write_beds(tmp_path / "b.h5", beds_of(2)[0])


def test_acquisitions_are_what_files_hold(tmp_path):
    counts = np.ones((2, *CAMERA.shape))
    gated = GatedScan(counts, CAMERA, np.array([1.0, 2]))
    formats.write_dynamic(tmp_path / "a.h5", gated)
    assert isinstance(formats.read_acquisition(tmp_path / "a.h5"), GatedScan)
    formats.write_scan(tmp_path / "b.h5", replace(gated.gate(0), factors=1.0))
    assert formats.read_acquisition(tmp_path / "b.h5").duration == 1.0
