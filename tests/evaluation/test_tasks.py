"""Tasks: samples that are kept, cases that depend on seed and sample alone, regions, lesions, and what changes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from emrecon.evaluation import CHANGES, TASKS, Change, Task, task_named
from emrecon.evaluation.tasks.changes import with_key
from emrecon.evaluation.tasks.samples import Store, measured
from emrecon.projectors import ImageGrid
from emrecon.projectors.core.errors import FormatError
from emrecon.sims import MarkedLesion, load_recipe


def small(name="evidence-brain-pet", **keys):
    recipe = load_recipe(name)
    own = {
        "n": 10,
        "split": {"train": 0.5, "validation": 0.2, "test": 0.3},
        "grid.shape": (32, 32, 1),
        "grid.voxel_size": (7.2, 7.2, 7.2),
        "phantom.lesions.diameter": (15.0, 24.0),
    }
    own |= {"pet.n_radial": 55, "pet.mashing": 8} if recipe.pet else {"spect.views": 16, "spect.bins": (32, 1)}
    own |= {} if recipe.pet else {"spect.pixel_size": (7.2, 7.2)}
    for key, value in (own | keys).items():
        recipe = with_key(recipe, key.split("."), value)
    return recipe


@cache
def pet():
    return Task("small-pet", "small PET", small())


def test_counts_depend_on_seed_and_sample_alone():
    together, alone = pet().cases("test", [0, 1, 2], seed=4), pet().cases("test", [1], seed=4)
    assert torch.equal(together.likelihood.data[1], alone.likelihood.data[0])
    assert torch.equal(together.likelihood.model.background[1], alone.likelihood.model.background[0])
    other = pet().cases("test", slice(1, 2), seed=5)
    assert not torch.equal(other.likelihood.data, alone.likelihood.data)
    assert torch.equal(other.truth, alone.truth)
    assert len(together) == 3
    assert together.truth.shape == together.guide.shape == together.mu.shape == (3, 32, 32, 1)
    assert [about["number"] for about in together.about] == [7, 8, 9]
    assert {about["tracer"] for about in together.about} <= {"fdg", "amyloid"}


def test_model_and_counts_belong_together():
    case = pet().cases("test", [0, 1], seed=1)
    expected = case.likelihood.model(case.truth)
    ratio = expected.sum((1, 2, 3)) / case.likelihood.data.sum((1, 2, 3))
    torch.testing.assert_close(ratio, torch.ones(2), atol=0.06, rtol=0)
    quarter = pet().cases("test", [0, 1], seed=1, level=0.25)
    assert quarter.likelihood.data.sum() == pytest.approx(0.25 * float(case.likelihood.data.sum()), rel=0.01)
    assert torch.equal(quarter.truth, case.truth)
    assert not torch.equal(quarter.likelihood.model.background, 0.25 * case.likelihood.model.background)


def test_samples_are_kept_and_read_again(tmp_path):
    first = replace(pet(), work=tmp_path).cases("validation", [1], seed=0)
    files = sorted((tmp_path / "tasks" / "small-pet").rglob("*.npz"))
    assert len(files) == 1
    from emrecon.evaluation.tasks import samples

    samples._kept.clear()
    again = replace(pet(), work=tmp_path).cases("validation", [1], seed=0)
    assert torch.equal(first.likelihood.data, again.likelihood.data)
    assert torch.equal(first.guide, again.guide)
    assert [a.contrast for a in again.lesions] == [a.contrast for a in first.lesions]
    samples._kept.clear()
    files[0].write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(FormatError, match="delete it, and it is made again"):
        replace(pet(), work=tmp_path).cases("validation", [1], seed=0)
    samples._kept.clear()


def test_regions_do_not_overlap_but_for_groups():
    case = pet().cases("test", [0, 1, 2], seed=1)
    own = [mask for name, mask in case.regions.items() if not name.startswith("all ")]
    assert int(torch.stack(own).sum(0).max()) == 1
    assert {"white", "all grey matter"} <= set(case.regions)
    grey = torch.stack([mask for name, mask in case.regions.items() if name.endswith(" grey")]).sum(0)
    assert torch.equal(grey > 0, case.regions["all grey matter"])


def test_lesions_have_rings_and_contrast():
    numbers = {f"phantom.lesions.{kind}": (1, 1) for kind in ("both", "emission_only", "guide_only")}
    case = Task("lesions", "", small(**numbers)).cases("test", [0, 1, 2], seed=1)
    assert len(case.lesions) == 6
    assert len(case.decoys) == 3
    for lesion in (*case.lesions, *case.decoys):
        assert lesion.mask.any()
        assert lesion.ring.any()
        assert not (lesion.mask & lesion.ring).any()
        truth = case.truth[lesion.item]
        ratio = float(truth[lesion.mask].mean() / truth[lesion.ring].mean())
        assert lesion.contrast == pytest.approx(ratio - 1, abs=1e-5)
        assert lesion.kind == ("none" if lesion in case.decoys else "hot" if ratio > 1 else "cold")
    assert {lesion.in_guide for lesion in case.lesions} == {True, False}


def test_masks_of_lesions_are_exact():
    grid = ImageGrid((40, 40, 1), 2.0)
    lesions = (
        MarkedLesion("lesion 1", (10.0, 0.0, 0.0), 12.0, True, True, True),
        MarkedLesion("lesion 2", (-11.0, 1.0, 0.0), 1.0, True, False, False),
        MarkedLesion("lesion 3", (0.0, 0.0, 50.0), 12.0, True, False, False),
    )
    found = measured(lesions, grid, np.ones(grid.shape, bool))
    assert [lesion.name for lesion, _, _ in found] == ["lesion 1", "lesion 2"], "the third lies in another plane"
    inside, ring = found[0][1:]
    x, y, _ = grid.coordinates()
    r = np.broadcast_to(np.hypot(x - 10, y), grid.shape)
    assert inside.sum() == pytest.approx(np.pi * 36 / 4, rel=0.2)
    assert r[inside].max() < 7
    assert (r[ring].min() > 8, r[ring].max() < 20) == (True, True)
    assert found[1][1].sum() == 1, "the fullest voxel of one that fills none"


def test_changes_of_data_alone():
    task, plain = pet(), pet().cases("test", [0, 1], seed=2)
    high = task.cases("test", [0, 1], seed=2, change="scatter-high")
    assert torch.equal(high.likelihood.data, plain.likelihood.data)
    assert high.likelihood.model.background.sum() > 1.05 * plain.likelihood.model.background.sum()
    four = task.cases("test", [0, 1], seed=2, change="counts-four")
    assert four.likelihood.data.sum() == pytest.approx(4 * float(plain.likelihood.data.sum()), rel=0.01)
    none = task.cases("test", [0, 1], seed=2, change="guide-none")
    assert torch.equal(none.guide, torch.full_like(none.guide, 5.0))
    other = task.cases("test", [0, 1], seed=2, change="guide-other")
    assert torch.equal(other.guide[0], plain.guide[1])
    assert torch.equal(other.likelihood.data, plain.likelihood.data)


def test_guides_are_displaced_by_so_many_mm():
    keys = {"phantom.guide.noise": 0.0, "phantom.guide.bias": 0.0, "phantom.guide.absent": 0.0}
    task = Task("guides", "", small(**keys))
    still, moved = (task.cases("test", [0], seed=2, change=f"guide-{mm}mm").guide[0, ..., 0] for mm in (0, 3))
    middle = [
        np.array([float((g * c).sum() / g.sum()) for c in np.meshgrid(*[7.2 * np.arange(32)] * 2, indexing="ij")])
        for g in (still.numpy(), moved.numpy())
    ]
    assert np.linalg.norm(middle[1] - middle[0]) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize(
    "name", ["ratio-high", "voxels-large", "mu-high", "resolution-worse", "no-lesions", "tracer-dat"]
)
def test_changes_of_the_simulation(name):
    plain, case = pet().cases("test", [0], seed=2), pet().cases("test", [0], seed=2, change=name)
    if name == "voxels-large":
        assert case.truth.shape == (1, 32, 32, 1)
        assert case.voxel_size[:2] == (9.0, 9.0)
    elif name == "mu-high":
        assert float(case.mu.sum() / plain.mu.sum()) == pytest.approx(1.05 / 0.98, rel=1e-3)
        assert torch.equal(case.truth, plain.truth)
        assert not torch.equal(case.likelihood.model.factors, plain.likelihood.model.factors)
        return
    elif name == "no-lesions":
        assert not (*case.lesions, *case.decoys)
        return
    elif name == "tracer-dat":
        assert case.about[0]["tracer"] == "dat"
    assert not torch.equal(case.likelihood.data, plain.likelihood.data)


def test_spect_has_its_own_maps():
    task = Task("small-spect", "small SPECT", small("evidence-brain-spect"))
    case = task.cases("test", [0, 1], seed=1)
    assert task.modality == "spect"
    assert case.likelihood.model.projector.attenuation.shape == (2, 32, 32, 1)
    ratio = case.likelihood.model(case.truth).sum((1, 2, 3)) / case.likelihood.data.sum((1, 2, 3))
    torch.testing.assert_close(ratio, torch.ones(2), atol=0.08, rtol=0)
    with pytest.raises(ValueError, match="one PET scan"):
        case.listmode()


def test_event_by_event():
    task = Task("events", "", small(**{"pet.mashing": 1, "counts.total": (3e4, 3e4)}))
    case = task.cases("test", [0], seed=1)
    listed, truth = case.listmode(3), case.truth
    assert listed.likelihood.model.projector.out_shape == (int(case.likelihood.data.sum()),)
    by_event, by_bin = (c.likelihood.value(0.9 * truth) - c.likelihood.value(truth) for c in (listed, case))
    assert float(by_event) == pytest.approx(float(by_bin), rel=0.01)
    one = replace(task, listmode=True)
    assert type(one.cases("test", [0], seed=1).likelihood).__name__ == "ListmodeLikelihood"
    with pytest.raises(ValueError, match="one scan at a time"):
        one.cases("test", [0, 1], seed=1)


def test_the_tasks_of_the_library():
    for name, task in TASKS.items():
        assert task.name == name
        assert task_named(name).title
        assert task.n_train >= 0
        assert task.n_test > 0
        assert task.shape[2] in (1, 64)
    assert TASKS["shapes"].describe()["task"] == "shapes"
    assert task_named("real-brain-pet").n_train == 0
    assert task_named("real-brain-pet").base.phantom.source == "colin27"
    assert {change.name for change in task_named("brain-pet").changes} == set(CHANGES)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: task_named("brian"), "unknown task 'brian'; choose from brain-pet"),
        (lambda: pet().cases("tests", [0], seed=0), "unknown part 'tests'"),
        (lambda: pet().cases("test", [3], seed=0), r"has 3 samples in 'test'"),
        (lambda: pet().cases("test", [], seed=0), "asked for"),
        (lambda: pet().cases("test", [0], seed=0, change="guide-4mm"), "unknown change 'guide-4mm'; choose from"),
        (
            lambda: pet().cases("test", [0], seed=0, change=Change("x", "", {"spect.views": 3})),
            "nothing that 'x' changes",
        ),
        (lambda: replace(pet(), n_test=4), "n_test must be from 0 to 3"),
        (lambda: with_key(small(), ["phantom", "ratoi"], 1.0), "no key 'ratoi'; choose from .*ratio"),
        (lambda: with_key(small(), ["pet", "duration"], -1.0), "greater than 0"),
        (lambda: Store(small()).number("test", 5), "no sample 5"),
    ],
)
def test_what_cannot_be_asked(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
