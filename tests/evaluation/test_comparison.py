"""Methods compared on a toy task: numbers for each subject and lesion, controls, settings, sections."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_cases import Lesion, Task

from emrecon import recon
from emrecon.evaluation import MissingUnitError, Options, Results, Suite, Table
from emrecon.evaluation.classical import method_named
from emrecon.evaluation.comparison import Comparison, has_choices, methods_wanted, units, with_guide_of_another
from emrecon.evaluation.comparison_sections import comparison_sections
from emrecon.evaluation.methods import Method
from emrecon.evaluation.running import ordered, results_of, run_units
from emrecon.evaluation.scoring import bias_and_deviation, contrast_recovery, false_transfer, joined, object_of, scores
from emrecon.evaluation.trained import PAINTED

TASK = Task()
CASE = TASK.cases("test", range(4), seed=1)
METHODS = (
    replace(method_named("osem"), shown=(1, 2, 4)),
    replace(method_named("map-bowsher"), shown=(4,), grid={"beta": (0.02, 0.05), "n_chosen": (3,)}),
    PAINTED,
)
COMPARISON = Comparison(TASK, METHODS, 2, 4, 3, 2, 4)
SUITE = Suite("toy", "t", 1.0, lambda o: [], lambda r, o: [])


def test_the_truth_scores_best_and_lesions_are_measured():
    right = scores(CASE.truth, CASE)
    assert right["nrmse"] == [0.0] * 4
    assert right["ssim"] == pytest.approx([1.0] * 4)
    assert all(0.8 < fit < 1.2 for fit in right["data_fit"])
    assert right["regions"]["disc"] == pytest.approx([0.0] * 4, abs=1e-6)
    assert contrast_recovery(right["lesions"], "hot").value == pytest.approx(1.0)
    assert contrast_recovery(right["lesions"], "hot").n == 4
    half = scores(0.5 * CASE.truth, CASE)
    assert half["nrmse"] == pytest.approx([0.5] * 4)
    assert half["regions"]["disc"] == pytest.approx([-0.5] * 4)
    assert contrast_recovery(half["lesions"], "cold").value == pytest.approx(0.5)
    seen, unseen = (contrast_recovery(half["lesions"], "hot", in_guide) for in_guide in (True, False))
    assert (seen.n if seen else 0) + (unseen.n if unseen else 0) == 4
    assert contrast_recovery(half["lesions"], "none") is None


def test_what_the_guide_alone_shows_is_false_transfer():
    mask, ring = np.zeros((20, 20, 1), bool), np.zeros((20, 20, 1), bool)
    mask[10, 10], ring[10, 8] = True, True
    case = replace(CASE, lesions=(Lesion(1, "none", True, 4.0, 0.0, mask, ring),))
    image = CASE.truth.clone()
    image[1][torch.as_tensor(mask)] += 0.3 * CASE.truth[1][torch.as_tensor(ring)]
    base = float((CASE.truth[1, 10, 10] - CASE.truth[1, 10, 8])[0])
    found = false_transfer(scores(image, case)["lesions"])
    assert found.value == pytest.approx(0.3, abs=1e-6), base
    assert false_transfer(scores(image, CASE)["lesions"]) is None


def test_batches_join_with_subjects_counted_on():
    first, second = scores(CASE.truth, CASE), scores(0.5 * CASE.truth, replace(CASE, regions={"ring": CASE.truth > 0}))
    both = joined([first, second])
    assert len(both["nrmse"]) == 8
    assert max(one["subject"] for one in both["lesions"]) == 7
    assert both["regions"]["disc"][4:] == [None] * 4
    assert both["regions"]["ring"][:4] == [None] * 4


def test_bias_and_deviation_are_those_of_the_noise():
    truth = np.ones((8, 8, 1))
    images = 1.1 * truth + np.random.default_rng(0).normal(0, 0.2, (400, 8, 8, 1))
    found = bias_and_deviation(images, truth, truth > 0)
    assert found["bias"] == pytest.approx(0.1, abs=0.01)
    assert found["sd"] == pytest.approx(0.2, rel=0.03)
    assert found["realisations"] == 400


def test_the_object_is_where_the_truth_is():
    assert torch.equal(torch.as_tensor(object_of(CASE)), CASE.truth > 0.15)


def test_guides_are_given_to_others():
    other = with_guide_of_another(CASE)
    assert torch.equal(other.guide[1], CASE.guide[0])
    assert torch.equal(other.guide[0], CASE.guide[3])
    assert other.likelihood is CASE.likelihood


def test_a_painted_guide_has_the_guide_s_contours():
    case = replace(CASE, guide=CASE.truth)
    ((_, image),) = PAINTED.images(case)
    assert image.shape == CASE.truth.shape
    error, osem = (float(recon.nrmse(x, CASE.truth)) for x in (image, method_named("osem").at(CASE, 4)))
    assert error < osem


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder, todo = tmp_path_factory.mktemp("comparison"), ordered(list(units(COMPARISON)))
    options = Options("quick")
    failed = [step for step in run_units(todo, folder, SUITE, options) if step.state == "failed"]
    assert not failed, failed[0].record.error
    return results_of(todo, folder, SUITE, options)[0]


def test_every_method_has_settings_of_its_own_and_numbers(results):
    assert set(results) == {
        "toy-disc/data",
        "toy-disc/osem/settings",
        "toy-disc/osem",
        "toy-disc/map-bowsher/settings",
        "toy-disc/map-bowsher",
        "toy-disc/guide-painted",
    }
    assert not has_choices(PAINTED)
    chosen = results["toy-disc/map-bowsher/settings"]
    assert len(chosen["trials"]) == 2
    assert chosen["edges"]
    bowsher = results["toy-disc/map-bowsher"]
    assert bowsher["settings"] == chosen["settings"]
    assert len(bowsher["subjects"]["nrmse"]) == len(bowsher["subjects"]["nrmse, guide of another"]) == 4
    assert bowsher["realisations"]["realisations"] == 3
    assert bowsher["realisations"]["sd"] > 0.01
    assert "nrmse, guide of another" not in results["toy-disc/osem"]["subjects"]
    assert results["toy-disc/data"]["counts"] == pytest.approx(4400, rel=0.05)


def test_sections_show_ranking_controls_pictures(results):
    (section,) = comparison_sections(results, COMPARISON)
    titles = [part.title for part in section.parts]
    assert titles[0] == "Ranking by NRMSE: Discs"
    for title in (
        "What rests on the guide",
        "Lesions",
        "Bias and deviation",
        "Images",
        "Settings chosen on validation scans",
    ):
        assert title in titles
    table = section.parts[0]
    assert [row[2] for row in table.rows] == [1, 2, 3]
    assert any(cell.endswith(" *") for row in table.rows for cell in row if isinstance(cell, str))
    cost = next(part for part in section.parts if part.title.startswith("Seconds"))
    assert isinstance(cost, Table)
    assert cost.varies


def test_methods_without_numbers_are_named(results):
    numbers = {name: results[name] for name in results if not name.startswith("toy-disc/osem")}
    (section,) = comparison_sections(Results(numbers, results.root), COMPARISON)
    assert any(part.title == "Methods without numbers" and part.paragraphs == ["OSEM"] for part in section.parts)
    (section,) = comparison_sections(Results({}, results.root), COMPARISON)
    assert section.parts[0].title == "No results"
    with pytest.raises(MissingUnitError):
        results["toy-disc/kem"]


def test_the_user_chooses_methods():
    own = Method("own-mine", "mine", "own", lambda case: iter(()))
    assert [m.name for m in methods_wanted(METHODS, ("osem", "a:b"), [own])] == ["osem", "own-mine"]
    assert len(methods_wanted(METHODS, ("a:b",), [own])) == 4
    with pytest.raises(ValueError, match="unknown method 'mlem'; choose from osem, map-bowsher, guide-painted"):
        methods_wanted(METHODS, ("mlem",), [])
