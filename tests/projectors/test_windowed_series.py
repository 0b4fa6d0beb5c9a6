"""Dynamic and gated scans of several energy windows: one camera, one set of frames or gates, and scatter in each."""

from dataclasses import replace

import numpy as np
import pytest
from nm_cases import WINDOWS, camera, numbers, study

from emrecon import formats
from emrecon.projectors import DynamicScan, Frames, GatedScan, WindowedScan, WindowedSeries

CAMERA = camera()


def gated(seed=1, n=2, geometry=CAMERA):
    return GatedScan(numbers((n, *geometry.shape), seed), geometry, np.arange(1, n + 1.0), study=study())


def dynamic(seed=1):
    frames = Frames([0.0, 70.0], [60.0, 120.0])
    return DynamicScan(numbers((2, *CAMERA.shape), seed), CAMERA, frames, radionuclide="Lu-177", description="two")


@pytest.mark.parametrize("make", [gated, dynamic])
def test_each_frame_is_a_scan_of_windows(make):
    scan = WindowedSeries(WINDOWS, tuple(make(i) for i in range(3)))
    assert (len(scan), scan.geometry, scan.window("upper")) == (2, CAMERA, WINDOWS[2])
    assert scan.scan("lower").energy_window == WINDOWS[1].limits
    for i in range(2):
        part = scan.part(i)
        assert isinstance(part, WindowedScan)
        one = scan.scan("peak")[i]
        assert np.array_equal(part.scan("peak").counts, one.counts)
        assert np.array_equal(part.factors, one.factors)
        whole = scan.scatter_corrected("peak", "lower", "upper", fwhm=8)
        alone = part.scatter_corrected("peak", "lower", "upper", fwhm=8)
        assert np.allclose(whole[i].background, alone.background)


def test_what_does_not_belong_together():
    with pytest.raises(ValueError, match="one camera and the same frames or gates"):
        WindowedSeries(WINDOWS[:2], (gated(), gated(geometry=camera(start=0))))
    with pytest.raises(ValueError, match="one camera and the same frames or gates"):
        WindowedSeries(WINDOWS[:2], (gated(), gated(n=3)))
    with pytest.raises(TypeError, match="all be a DynamicScan or all a GatedScan"):
        WindowedSeries(WINDOWS[:2], (gated(), dynamic()))
    with pytest.raises(ValueError, match="windows need names"):
        WindowedSeries((WINDOWS[0], WINDOWS[0]), (gated(), gated()))
    with pytest.raises(ValueError, match="different radionuclides"):
        WindowedSeries(WINDOWS[:2], (dynamic(), replace(dynamic(), radionuclide="I-131")))
    with pytest.raises(KeyError, match="unknown energy window 'no'; choose from peak, lower"):
        WindowedSeries(WINDOWS[:2], (gated(), gated())).scan("no")


@pytest.mark.parametrize("make", [gated, dynamic])
def test_the_native_file_keeps_all(tmp_path, make):
    scan = WindowedSeries(WINDOWS, tuple(make(i) for i in range(3)))
    formats.write_windowed_series(tmp_path / "a.h5", scan)
    found = formats.read_acquisition(tmp_path / "a.h5")
    assert found.windows == scan.windows
    for one, other in zip(found.series, scan.series):
        assert type(one) is type(other)
        assert np.array_equal(one.counts, other.counts)
        assert np.array_equal(one.seconds, other.seconds)
        assert (one.radionuclide, one.description) == (other.radionuclide, other.description)
    assert "peak (187.2 to 228.8)" in str(formats.describe(tmp_path / "a.h5")["energy windows (keV)"])
