"""The numbers of images: their truth has none of the errors, and all of the contrast."""

import numpy as np
import pytest
from learned_suite_cases import ToyTask

from emrecon.evaluation.learned.scoring import (
    contrasts,
    evaluated,
    held_out_cases,
    joined,
    score,
    with_guide_of_another,
)

TASK = ToyTask()


def test_the_truth_is_perfect_and_half_of_it_is_half():
    case = TASK.cases("test", [0, 1, 2], seed=1)
    found = score(case.truth, case)
    assert found["nrmse"] == [0, 0, 0]
    assert found["ssim"] == pytest.approx([1, 1, 1])
    assert found["regions"]["all"] == pytest.approx([0, 0, 0], abs=1e-6)
    hot = contrasts(found["lesions"], "hot", False)
    assert hot[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(hot[:, 1], hot[:, 2])
    assert (hot[:, 2] > 0.5).all()
    half = score(0.5 * case.truth, case)
    assert half["nrmse"] == pytest.approx([0.5] * 3)
    assert half["regions"]["all"] == pytest.approx([-0.5] * 3)
    np.testing.assert_allclose(contrasts(half["lesions"], "hot", False)[:, 1], 0.5 * hot[:, 1], rtol=1e-5)
    assert contrasts(half["lesions"], "cold", False).shape == contrasts(half["lesions"], "hot", True).shape == (0, 3)


def test_batches_join_and_subjects_count_on():
    a, b = (TASK.cases("test", which, seed=1) for which in ([0, 1], [2]))
    found = joined([score(a.truth, a), score(b.truth, b)])
    assert [one["subject"] for one in found["lesions"]] == [0, 1, 2]
    assert len(found["nrmse"]) == len(found["regions"]["all"]) == 3
    del b.regions["all"]
    assert joined([score(a.truth, a), score(b.truth, b)])["regions"]["all"][2] is None


def test_test_scans_are_the_same_for_every_method():
    numbers, images = evaluated(lambda case: case.truth + 1, held_out_cases(TASK, 4), keep=2)
    again, _ = evaluated(lambda case: case.truth + 1, held_out_cases(TASK, 4))
    assert images.shape == (2, *TASK.shape)
    assert numbers["nrmse"] == again["nrmse"]
    assert len(numbers["nrmse"]) == 4
    assert numbers["seconds"] > 0
    first, second = (next(held_out_cases(TASK, 4)) for _ in range(2))
    np.testing.assert_array_equal(first.likelihood.data, second.likelihood.data)


def test_the_guide_of_another_subject():
    case = TASK.cases("test", [0, 1, 2], seed=1)
    other = with_guide_of_another(case)
    np.testing.assert_array_equal(other.guide[1], case.guide[0])
    np.testing.assert_array_equal(other.guide[0], case.guide[2])
    assert other.likelihood is case.likelihood
