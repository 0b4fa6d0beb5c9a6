"""Beds of one file have one start in it, and follow one another."""

from dataclasses import replace

import nm_cases

from emrecon import formats
from emrecon.projectors import BedScan, scan_seconds


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
