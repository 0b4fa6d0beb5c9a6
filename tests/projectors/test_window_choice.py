"""Which window is the photopeak, and which windows beside it hold its scatter."""

import numpy as np
import pytest

from emrecon.projectors import EnergyWindow, SPECTGeometry, WindowedScan, peak_window, scatter_windows

CAMERA = SPECTGeometry.circular(2, 100, (2, 2), 5.0)
TC = [(126.45, 154.55, "peak"), (120.45, 126.45, "lower"), (154.55, 160.55, "upper")]
LU = [
    (101.7, 124.3, "113"),
    (84.75, 101.7, "113 low"),
    (124.3, 141.25, "113 high"),
    (187.2, 228.8, "208"),
    (145.6, 187.2, "208 low"),
    (228.8, 270.4, "208 high"),
]


def scan(windows, nuclide="Tc-99m"):
    made = [EnergyWindow(low, high, name) for low, high, name in windows]
    return WindowedScan(made, [np.ones(CAMERA.shape, np.float32)] * len(made), CAMERA, radionuclide=nuclide)


def names(chosen):
    return [window and window.name for window in (chosen.peak, chosen.lower, chosen.upper)]


def chosen(windows, nuclide="Tc-99m", peak=None):
    data = scan(windows, nuclide)
    return scatter_windows(data, peak_window(data, peak))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_windows_are_found_in_any_order(order):
    assert names(chosen([TC[i] for i in order])) == ["peak", "lower", "upper"]


@pytest.mark.parametrize(
    ("peak", "found"),
    [
        (None, ["208", "208 low", "208 high"]),
        ("113", ["113", "113 low", "113 high"]),
        (113.0, ["113", "113 low", "113 high"]),
        ("101.7-124.3", ["113", "113 low", "113 high"]),
        ((187, 229), ["208", "208 low", "208 high"]),
        ("200", ["208", "208 low", "208 high"]),
    ],
)
def test_both_peaks_of_lutetium(peak, found):
    result = chosen(LU, "Lu-177", peak)
    assert names(result) == found
    assert any("other photopeaks" in note for note in result.notes)


def test_windows_apart_belong_to_the_nearer_peak():
    result = chosen([LU[0], LU[3], LU[4]], "Lu-177", 113)
    assert names(result) == ["113", None, None]
    assert "208 low (145.6 to 187.2 keV) is 21.3 keV from 113" in " ".join(result.notes)
    assert names(chosen([LU[0], LU[3], LU[4]], "Lu-177")) == ["208", "208 low", None]


def test_a_window_between_two_peaks_serves_both():
    indium = [(154, 188, "171"), (188, 221, "between"), (221, 270, "245")]
    assert names(chosen(indium, "In-111", "171")) == ["171", None, "between"]
    assert names(chosen(indium, "In-111")) == ["245", "between", None]


def test_a_window_apart_is_taken_and_noted_where_far():
    assert chosen([TC[0], (92, 125, "low")]).notes == ()
    far = chosen([TC[0], (60, 80, "low")])
    assert names(far) == ["peak", "low", None]
    assert "46.5 keV below the photopeak" in far.notes[0]


def test_rounded_limits_touch_and_others_overlap():
    assert names(chosen([TC[0], (114, 126.7, "low")])) == ["peak", "low", None]
    overlapping = chosen([TC[0], (114, 130, "low")])
    assert names(overlapping) == ["peak", None, None]
    assert "low (114 to 130 keV) overlap the photopeak" in overlapping.notes[0]


def test_what_is_ambiguous_is_refused_with_the_windows():
    with pytest.raises(ValueError, match=r"2 windows hold the strongest line of Tc-99m.*narrow \(130 to 150 keV\)"):
        chosen([TC[0], (130, 150, "narrow")])
    with pytest.raises(ValueError, match=r"2 windows lie alike below peak .*: lower .*wide \(100 to 126.45 keV\)"):
        chosen([*TC, (100, 126.45, "wide")])
    data = scan([*TC, (100, 126.45, "wide")])
    assert names(scatter_windows(data, data.windows[0], lower="wide")) == ["peak", "wide", "upper"]
    with pytest.raises(ValueError, match="does not lie below peak"):
        scatter_windows(data, data.windows[0], lower="upper")


@pytest.mark.parametrize(
    ("nuclide", "peak", "message"),
    [
        (None, None, "names no radionuclide.*choose one of peak"),
        ("I-131", None, "no line of I-131 lies in any window"),
        ("Tc-99m", "photo", "unknown energy window 'photo'; choose from peak"),
        ("Tc-99m", 300, "no windows hold 300 keV"),
        ("Tc-99m", "100-120", "no windows have the limits 100 to 120 keV"),
    ],
)
def test_peaks_that_are_not_there(nuclide, peak, message):
    with pytest.raises(ValueError, match=message):
        peak_window(scan(TC, nuclide), peak)
