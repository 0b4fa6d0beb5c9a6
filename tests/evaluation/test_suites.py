"""The suites by name, and the quick one at its smallest on real tasks."""

import json

import numpy as np
import pytest
from cli_cases import emrecon

from emrecon.evaluation import SUITES, Options, families, quick, suites
from emrecon.evaluation.running import ordered

pytestmark = pytest.mark.slow


def test_suites_are_those_whose_module_is_there():
    assert {"quick", "spect", "pet", "speed"} <= set(SUITES)
    assert all(SUITES[name].name == name for name in SUITES)
    assert not suites._exists("emrecon.evaluation.nowhere.suite")
    with pytest.raises(KeyError):
        SUITES["nowhere"]


@pytest.mark.parametrize("name", ["quick", "spect", "pet"])
@pytest.mark.parametrize("size", ["quick", "full"])
def test_units_are_in_order_and_have_all_families(name, size):
    units = ordered(SUITES[name].units(Options(size)))
    names = {unit.name for unit in units}
    kinds = {"quick": ("pet", "spect")}.get(name, (name,))
    for kind in kinds:
        wanted = ["osem", "map-rdp", "map-bowsher", "kem", "guide-painted", "shipped-fbsem-net"]
        wanted += ["dip-recon", "map-tv"] if name != "quick" else []
        assert {f"brain-{kind}/{method}" for method in wanted} <= names


@pytest.mark.parametrize("kind", ["pet", "spect"])
def test_bias_and_noise_are_traced_at_the_settings_that_validation_chose(kind):
    units = {unit.name: unit for unit in SUITES[kind].units(Options("quick"))}
    for method in ("osem", "osem-gaussian", "map-rdp", "map-bowsher"):
        traced = units[f"brain-{kind}/bias-noise/{method}"]
        assert traced.needs == (f"brain-{kind}/{method}/settings",)
        assert set(traced.needs) <= set(units)


def test_methods_follow_the_task():
    task = families.task_named("brain-pet")
    blind = families.replace(task, guides=())
    assert not any(method.sees_guide for method in families.methods_of(blind))
    with pytest.raises(ValueError, match="unknown method 'mlem'"):
        SUITES["pet"].units(Options("quick", methods=("mlem",)))


def test_quick_runs_with_a_method_of_one_s_own(tmp_path, monkeypatch):
    monkeypatch.setattr(quick, "TASKS", ("brain-pet",))
    monkeypatch.setitem(quick.SIZES, "quick", (1, 2, 0, 1, 2))
    (tmp_path / "ones_of_a_test.py").write_text(
        "def ones(likelihood, start=None, *, guide=None):\n    return likelihood.ones_image()\n"
    )
    chosen = ("--method", "osem", "--method", "shipped-fbsem-net", "--method", "ones_of_a_test:ones")
    emrecon("benchmark", "quick", "--out", tmp_path / "b", *chosen, "-q", cwd=tmp_path, check=0)
    read = json.loads((tmp_path / "b" / "report.json").read_text())
    errors = {
        name.partition("/")[2]: np.mean(n["subjects"]["nrmse"]) for name, n in read["units"].items() if "subjects" in n
    }
    assert errors["shipped-fbsem-net"] < errors["own-ones-of-a-test-ones"]
    assert read["data"]["brain-pet/data"]
    assert "Brain PET" in (tmp_path / "b" / "report.html").read_text()
