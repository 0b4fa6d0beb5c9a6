"""What a file says besides the counts: `Study`, `BedScan`, and that nothing on the way loses it."""

import pickle
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from emrecon import formats
from emrecon.projectors import (
    BedScan,
    DynamicScan,
    EnergyWindow,
    Frames,
    GatedScan,
    Scan,
    SPECTGeometry,
    Study,
    WindowedScan,
)

STUDY = Study(
    placement=(1.5, -200.0, 30.25),
    frame_of_reference="1.2.3",
    patient_position="FFS",
    injected=7400.0,
    injection=datetime(2026, 1, 2, 3, 4, 5, 600),
    start=datetime(2026, 1, 3, 3, 4, 5),
    weight=80.0,
    calibration=9.4,
    attributes={"PatientName": "Doe^Jane", "StudyInstanceUID": "1.2"},
)


def camera(shift=0.0):
    circle = SPECTGeometry.circular(n_views=4, radius=100, n_bins=(6, 4), pixel_size=5.0)
    return replace(circle, axial_shift=shift)


def scan(shift=0.0, **more):
    return Scan(np.ones((4, 6, 4)), camera(shift), radionuclide="Lu-177", study=STUDY, **more)


def test_repr_shows_no_patient():
    assert "Doe" not in repr(STUDY)
    assert "Doe" not in str(scan())


def test_pickle():
    back = pickle.loads(pickle.dumps(STUDY))
    assert back.attributes == STUDY.attributes
    assert back.placement == STUDY.placement


@pytest.mark.parametrize(
    "bad", [{"placement": (1, 2)}, {"weight": -1.0}, {"patient_position": "UP"}, {"injected": np.inf}]
)
def test_bad(bad):
    with pytest.raises(ValueError, match=next(iter(bad)).replace("_", " ")):
        Study(**bad)


def test_subsets_frames_and_windows_keep_it():
    assert scan().subset(0, 2).study is STUDY
    frames = Frames.from_durations([10, 20])
    dynamic = DynamicScan(np.ones((2, 4, 6, 4)), camera(), frames, study=STUDY)
    assert dynamic[0].study is dynamic[0:1].study is dynamic.summed().study is STUDY
    windows = WindowedScan((EnergyWindow(187, 229, "peak"),), (np.ones((4, 6, 4)),), camera(), study=STUDY)
    assert windows.scan("peak").study is STUDY


def test_hdf5_keeps_it(tmp_path):
    path = tmp_path / "scan.h5"
    gated = GatedScan(np.ones((2, 4, 6, 4)), camera(), [1.0, 2.0], study=STUDY)
    windows = WindowedScan((EnergyWindow(187, 229, "peak"),), (np.ones((4, 6, 4)),), camera(), study=STUDY)
    formats.write_scan(path, scan())
    found = [formats.read_scan(path)]
    formats.write_dynamic(path, gated)
    found += [formats.read_gated(path)]
    formats.write_windowed_scan(path, windows)
    found += [formats.read_windowed_scan(path)]
    for item in found:
        assert vars(item.study) == vars(STUDY)


def test_beds_are_in_order_and_of_one_kind():
    beds = BedScan((scan(-50.0), scan(50.0)))
    assert len(beds) == 2
    assert beds.radionuclide == "Lu-177"
    assert beds.study is STUDY
    with pytest.raises(ValueError, match="order of z"):
        BedScan((scan(50.0), scan(50.0)))
    with pytest.raises(ValueError, match="two or more"):
        BedScan((scan(),))
    with pytest.raises(ValueError, match="placement"):
        BedScan((scan(-50.0), replace(scan(50.0), study=None)))
    with pytest.raises(TypeError, match="Scan or all"):
        BedScan((scan(-50.0), 3))
