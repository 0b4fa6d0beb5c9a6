"""The work of the suite `learned`, on a toy task from the first unit to the report."""

from dataclasses import replace

import pytest
from learned_suite_cases import ToyTask

from emrecon.evaluation import Options, Picture, Suite, Table, Text
from emrecon.evaluation.learned import sections as shown
from emrecon.evaluation.learned.suite import SUITE
from emrecon.evaluation.learned.training import Budget
from emrecon.evaluation.learned.units import SIZES, Work, _units, units
from emrecon.evaluation.running import ordered, results_of, run_units
from emrecon.unrolled import load_network
from emrecon.unrolled.methods import PRESETS

pytestmark = pytest.mark.slow

WANTED = ("map-rdp", "guide-only", "post-unet")


def test_the_units_of_the_suite_have_what_they_need():
    found = SUITE.units(Options(size="full"))
    names = [unit.name for unit in ordered(found)]
    assert len(set(names)) == len(names) == len(found)
    for name in (
        "brain-pet/guide-only/seed-2",
        "brain-spect/map-bowsher/changes",
        "brain-pet/shipped-fbsem-net-brain-pet",
    ):
        assert name in names
    assert sum("/seed-" in name for name in names) == 2 * 9 * 3
    budgets = [unit.arguments["budget"] for unit in found if "budget" in unit.arguments]
    assert all(budget == budgets[0] for budget in budgets)


def test_methods_that_are_named_are_the_only_ones_beside_reference_and_control():
    names = {unit.name.split("/")[1] for unit in units(Options(size="quick", methods=("fbsem-net",), seeds=1))}
    assert names == {"fbsem-net", "map-rdp", "guide-only", "guide-only-long", "scans", "statistics"}
    with pytest.raises(ValueError, match="unknown method 'x'; choose from bcd-net, "):
        units(Options(methods=("x",)))


def test_from_the_first_unit_to_the_report(tmp_path, monkeypatch):
    size = replace(
        SIZES["quick"], changes=(), budget=Budget(2, 4, 1, (1e-3,), 2, 4), n_test=4, n_changed=4, n_measured=8
    )
    work = Work(ToyTask(), size, 1, WANTED)
    monkeypatch.setattr(shown, "works", lambda options: [work])
    options, own = Options(size="quick", seeds=1), list(_units(work))
    suite = Suite("toy", "toy", 1.0, lambda _: own, shown.sections)
    steps = list(run_units(ordered(own), tmp_path, suite, options))
    assert [step.record.error for step in steps if step.state == "failed"] == []
    results, _ = results_of(own, tmp_path, suite, options)
    first, second = shown.sections(results, options)
    assert isinstance(first.parts[0], Text)
    assert first.parts[0].title == "Is the task accepted?"
    assert "NOT DECIDED: the guide alone" in first.parts[0].paragraphs[0]
    tables = [part for part in (*first.parts, *second.parts) if isinstance(part, Table)]
    assert len(tables) == 6
    assert sorted(row[0] for row in tables[0].rows) == [
        "MAP-RDP",
        "U-Net after OSEM *",
        "guide only *",
        "guide only, 4 x steps *",
    ]
    assert tuple(tables[4].columns) == ("method", "as trained", "a quarter of the counts")
    assert all(row[2].value > 0 for row in tables[4].rows if row[0] == "MAP-RDP")
    assert tables[5].rows[0][2] == "4 of 4"
    assert any(isinstance(part, Picture) for part in first.parts)
    network, card = load_network(tmp_path / "units/toy/post-unet/seed-0/weights.safetensors", PRESETS)
    assert card.data["statistics"]["n"] == 8
    assert card.data["training"]["budget"]["steps"] == 2
    assert network.guide_channels == 1
    assert {step.state for step in run_units(ordered(own), tmp_path, suite, options)} == {"kept"}
