"""Beds of one file have one start in it, and follow one another."""

from dataclasses import replace

import nm_cases
import numpy as np
import pytest

from emrecon import formats
from emrecon.projectors import BedScan, DynamicScan, Frames, GatedScan, scan_seconds


def test_beds_of_one_file_follow_one_another(tmp_path, caplog):
    beds = [replace(nm_cases.scan(axial=z), duration=12.0) for z in (-30.0, 40.0)]
    formats.write_dicom_nm(tmp_path / "a.dcm", BedScan(tuple(beds)))
    found = formats.read_scan(tmp_path / "a.dcm")
    first, second = sorted(found, key=lambda bed: bed.study.start)
    assert first.study.start == beds[0].study.start
    assert (second.study.start - first.study.start).total_seconds() == scan_seconds(first) == 48
    assert "follow one another without pauses" in caplog.text
    weights, notes = found.measured()
    assert sorted(weights)[0] < 1 == max(weights)
    assert notes == ()


@pytest.mark.parametrize("kind", ["gate", "frame"])
def test_beds_of_frames_or_gates_say_what_to_type(tmp_path, kind):
    files = []
    for z in (-30.0, 40.0):
        one = nm_cases.scan(axial=z)
        counts = np.stack([one.counts, 2 * one.counts])
        about = {"radionuclide": one.radionuclide, "energy_window": one.energy_window, "study": one.study}
        gates = GatedScan(counts, one.geometry, [5.0, 5.0], **about)
        series = DynamicScan(counts, one.geometry, Frames.from_durations([60.0, 60.0]), **about)
        files.append(tmp_path / f"{z}.dcm")
        formats.write_dicom_nm(files[-1], gates if kind == "gate" else series)
    words = f"2 beds of 2 {kind}s each, .* --header {kind}=1 or --header bed=1"
    with pytest.raises(formats.FormatError, match=words):
        formats.read_dicom_nm(files)
    chosen = formats.read_dicom_nm(files, **{kind: 2})
    assert isinstance(chosen, BedScan)
    assert isinstance(formats.read_dicom_nm(files, bed=1), GatedScan if kind == "gate" else DynamicScan)
    for bed, z in zip(chosen, (-30.0, 40.0)):
        assert np.array_equal(bed.counts, 2 * nm_cases.scan(axial=z).counts)
