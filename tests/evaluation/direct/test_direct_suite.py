"""The suite of direct networks: samples that are kept, scores by closed form, and units that know each other."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from emrecon import sims
from emrecon.evaluation import SUITES, Interval, Options, Picture, Results, Section, Table
from emrecon.evaluation.direct.families import CHANGES, COMPLETED, FAMILIES
from emrecon.evaluation.direct.partial import compared
from emrecon.evaluation.direct.samples import Samples
from emrecon.evaluation.direct.scores import edge_width, false_lesions, region_errors
from emrecon.evaluation.direct.tracers import TRACERS, joint_em, network_of

ROOT = Path(__file__).resolve().parents[3]
RECIPE = sims.parse_recipe("""
name = "small"
n = 8
outputs = ["counts"]
[grid]
shape = [16, 16, 1]
voxel_size = [15.0, 15.0, 15.0]
[phantom]
kind = "spectnet-brain"
[spect]
views = 6
bins = [16, 1]
pixel_size = [15.0, 15.0]
radius = 150.0
response = [0.04, 2.0]
[counts]
total = 1e4
[split]
train = 1.0
""")


def test_samples_are_made_once_and_counts_anew(tmp_path):
    first, again = (Samples(RECIPE, 4, 2, 2, tmp_path) for _ in range(2))
    made = first.of("test", [0, 1])
    (kept,) = tmp_path.glob("*/*.npz")
    written = kept.stat().st_mtime_ns
    assert torch.equal(again.of("test", [0, 1])["expected"], made["expected"])
    assert kept.stat().st_mtime_ns == written
    one, two = (first.pair("test", [0], seed)[0]["likelihood"].data for seed in (1, 2))
    assert not torch.equal(one, two)
    assert torch.equal(one, again.pair("test", [0], 1)[0]["likelihood"].data)
    low = first.pair("test", [0], 1, level=0.25)[0]["likelihood"]
    assert float(low.data.sum()) == pytest.approx(float(one.sum()) / 4, rel=0.1)
    assert float(low.model(made["truth"][:1, ..., None]).sum()) == pytest.approx(float(low.data.sum()), rel=0.1)
    kept.write_bytes(kept.read_bytes()[:1000])
    assert torch.equal(Samples(RECIPE, 4, 2, 2, tmp_path).of("train", [0])["truth"], first.of("train", [0])["truth"])
    with pytest.raises(ValueError, match="test has samples 0 to 1"):
        first.of("test", [2])


def test_epochs_have_every_sample_once(tmp_path):
    samples = Samples(RECIPE, 4, 1, 1, tmp_path)
    seen = [float(truth.sum()) for _, truths in samples.batches(2, 0)(3) for truth in truths]
    assert sorted(seen) == pytest.approx(sorted(float(t.sum()) for t in samples.of("train", range(4))["truth"]))


def test_errors_of_regions():
    truth = torch.zeros(1, 20, 20, 1)
    truth[:, 2:18, 2:18] = 2.0
    truth[:, 5:8, 5:8] = 12.0
    image = truth.clone()
    image[:, 5:8, 5:8] -= 3.0
    image[:, 10:18, 2:18] += 0.2
    found = region_errors(image, truth)
    assert found["hot"] == [pytest.approx(1.5)]
    assert 0.03 < found["background"][0] < 0.1


def test_lesions_that_are_wrong_are_counted():
    truth = torch.ones(1, 32, 32, 1)
    truth[:, 4:10, 4:10] = 8.0
    image = truth.clone()
    image[:, 4:10, 4:10] = 1.0
    image[:, 20:26, 20:26] = 8.0
    image[:, 15, 3] = 9.0  # a voxel alone is noise
    assert false_lesions(image, truth) == {"invented": [1], "lost": [1]}


def test_the_width_of_edges():
    from scipy.ndimage import gaussian_filter

    truth = np.zeros((48, 48, 1))
    truth[12:36, 12:36] = 1
    blurred = gaussian_filter(truth, [8 / 2.3548 / 4, 8 / 2.3548 / 4, 0])
    assert edge_width(blurred, truth, 4.0) == pytest.approx(8, abs=0.5)


def test_units_need_what_is_there():
    units = SUITES["direct"].units(Options("quick"))
    names = [unit.name for unit in units]
    assert len(set(names)) == len(names)
    assert all(need in names[:k] for k, unit in enumerate(units) for need in unit.needs)
    for family in FAMILIES:
        sims.load_recipe(family.recipe)
    for _, _, change in CHANGES.values():
        if change is not None:
            changed = change(sims.load_recipe("deeppet-small"))
            sims.RecipeSource(changed, 1).draw(0)


@pytest.mark.slow
@pytest.mark.parametrize("family", COMPLETED, ids=lambda family: family.name)
def test_what_is_measured_of_a_scan(family, tmp_path):
    """Simple rules fill in what a part leaves out; the measured part alone is a likelihood, too."""
    recipe = sims.load_recipe(family.recipe)
    samples = Samples(recipe, 1, 1, 2, tmp_path)
    part, geometry = family.part, samples.source.simulator.geometry
    (pair,) = samples.pairs("test", 2)
    seen, y, missing = part.of(pair[0]["likelihood"], geometry, 3)
    assert missing.any()
    assert float(seen.data.sum()) <= float(pair[0]["likelihood"].data.sum())
    models = {entry.name: entry.build(samples).eval() for entry in family.entries}
    numbers = compared(models, part, geometry, pair, 3, None if part.share is None else 2.0)
    for name in models:  # networks begin as the rule, or as the data themselves
        begun = numbers[f"projections, {name}: nrmse"]
        if part.share is None:
            assert begun == pytest.approx(numbers[f"projections, {part.other}: nrmse"], rel=1e-4)
        else:
            assert np.mean(begun) > np.mean(numbers[f"projections, {part.other}: nrmse"])
    assert np.mean(numbers["images, whole: nrmse"]) < 1
    assert torch.equal(part.of(pair[0]["likelihood"], geometry, 3)[1], y)


@pytest.mark.slow
def test_joint_em_tells_tracers_apart_without_noise(tmp_path):
    recipe = sims.load_recipe("two-tracers")
    samples = Samples(recipe, 1, 1, 1, tmp_path, noise=False, frames=len(recipe.second.frames))
    (arguments, truth) = samples.pair("test", [0], 0)
    apart = network_of(samples)
    few, many = (joint_em(apart, arguments["likelihood"], n) for n in (2, 60))
    assert few.shape == many.shape == truth.shape
    errors = [float(((x - truth) ** 2).sum() / (truth**2).sum()) for x in (few, many)]
    assert errors[1] < errors[0] / 2
    explained = arguments["likelihood"].model(apart.frames_of(many))
    assert float(explained.sum()) == pytest.approx(float(arguments["likelihood"].data.sum()), rel=1e-2)


def made_up(name, random):
    """Numbers as a unit has them."""
    keys = ("nrmse", "ssim", "fit", "hot", "background")
    subjects = {key: random.uniform(0.1, 1, 12).tolist() for key in keys}
    subjects |= {key: random.integers(0, 2, 12).tolist() for key in ("invented", "lost")}
    subjects |= {f"{key}, fixed": values for key, values in subjects.items()}
    subjects |= {f"{change}: {key}": subjects[key] for change in CHANGES for key in (*keys, "invented", "lost")}
    parts = ("interpolated", "smoothed", "sinogram-net", "lu-net", "measured", "whole")
    subjects |= {
        f"{what}, {part}: {key}": subjects[key] for what in ("projections", "images") for part in parts for key in keys
    }
    for network in ("sinogram-net", "lu-net"):
        subjects[f"projections, {network}: squared error over variance"] = [1.0, 1.1]
    for method in ("", "decay alone, ", "joint EM, "):
        subjects |= {f"{method}{tracer}: {key}": subjects[key] for tracer in TRACERS for key in ("nrmse", "ssim")}
    numbers = {"subjects": subjects, "seconds an image": 0.1, "pass": 3, "bias": 0.1, "sd": 0.2, "edge": None}
    numbers |= {"width": None, "decay alone": 8.0, "joint EM": 20}
    return numbers | ({"steps": [1, 2], "parameters": 3} if name.endswith("staged") else {})


def test_the_report_says_who_wins_where():
    options, random = Options("quick"), np.random.default_rng(0)
    numbers = {unit.name: made_up(unit.name, random) for unit in SUITES["direct"].units(options)}
    numbers["deeppet-changes/automap"]["subjects"]["shapes: nrmse"] = [0.01] * 12
    sections = SUITES["direct"].sections(Results(numbers, Path()), options)
    (table,) = sections[0].parts
    assert [row[1] for row in table.rows if "random shapes" in row[0]] == ["AUTOMAP"]
    (lesions,) = [section for section in sections if section.title == "Invented and lost lesions"]
    assert isinstance(lesions.parts[1], Picture)
    assert all(
        len(row) == len(part.columns)
        for s in sections
        for part in s.parts
        if hasattr(part, "rows")
        for row in part.rows
    )


def test_tables_go_into_the_page(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("quality_direct")
    target = tmp_path / "direct.md"
    made = [Section("One", [Table("T", ("a", "b"), [("x", Interval(1.0, 0.5, 1.5, 3)), ("y", None)], "Note.")])]
    for _ in range(2):
        page.with_tables(target, made)
    text = target.read_text()
    assert text.count("| x | 1 (0.5 to 1.5) |") == 1
    assert "| y |  |" in text
    assert text.count(page.BEGIN) == text.count(page.END) == 1
