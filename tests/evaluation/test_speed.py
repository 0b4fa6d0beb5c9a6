"""The suite of speed: every part runs on small problems, and a peer is compared where there is one."""

import sys
from dataclasses import replace

import pytest

from emrecon.evaluation import Options, Table, speed
from emrecon.evaluation.report import make_report
from emrecon.evaluation.running import ordered, run_units


@pytest.mark.slow
def test_everything_is_timed(tmp_path, monkeypatch):
    small = replace(speed.SIZES["quick"], spect=(8,), pet_voxels=8, pet_views=1, engine=8, repeats=2, passes=2)
    monkeypatch.setitem(speed.SIZES, "quick", small)
    monkeypatch.setattr(speed, "_VIEWS", 6)
    monkeypatch.setattr(speed, "ENGINES", ("osem", "kem"))
    monkeypatch.setattr(speed, "NETWORKS", ("mapem-net",))
    monkeypatch.setitem(sys.modules, "pytomography", None)  # as if it were not installed
    options = Options("quick")
    units = ordered(speed.SUITE.units(options))
    steps = list(run_units(units, tmp_path, speed.SUITE, options))
    assert not [step.record.error for step in steps if step.state == "failed"]
    report = make_report(units, tmp_path, speed.SUITE, options)
    tables = [part for section in report.sections for part in section.parts if isinstance(part, Table)]
    assert [table.title for table in tables] == ["Projections", "Seconds of a pass", "Networks"]
    assert all(table.varies for table in tables)
    assert [row[0] for row in tables[1].rows] == list(speed.ENGINES)
    assert [row[0] for row in tables[2].rows] == list(speed.NETWORKS)
    numbers = report.results["speed/spect-8"]
    assert numbers["peer"] is None
    assert len(numbers["seconds"]["adjoint"]) == 2


def test_it_takes_no_methods():
    with pytest.raises(ValueError, match="takes no methods"):
        speed.SUITE.units(Options("quick", methods=("osem",)))
