"""Tasks of detection, a network as their observer, and training against a discriminator."""

import math

import numpy as np
import pytest
from scipy import stats

from emrecon import recon, sims
from emrecon.evaluation import detection


def test_a_defect_lies_where_the_observer_looks_and_nothing_else_differs():
    task = detection.myocardial_defect(8, 0.75)
    assert task.known == "exactly"
    absent, present = (task.scans(range(3), present) for present in (False, True))
    assert absent.expected.shape == (3, *task.simulator.geometry.shape)
    np.testing.assert_array_equal(absent.expected[0], absent.expected[2])  # one patient
    assert present.kinds[0] == "segment 8, severity 0.75"
    inside = absent.truth[0] > 0
    ratio = np.where(inside, present.truth[0] / np.where(inside, absent.truth[0], 1), 1)
    ratio /= np.median(ratio[inside])  # as many counts of less activity
    x, y, _ = present.sites[0]
    assert ratio[x, y, 0] < 0.6  # a quarter, and what is beside it in the voxel
    lower = np.argwhere(ratio[..., 0] < 0.9)
    assert len(lower) > 3
    assert np.linalg.norm(lower - (x, y), axis=1).max() * 6.8 < 40


@pytest.mark.parametrize("make", [detection.liver_lesion, detection.lung_lesion, detection.bone_lesion])
def test_lesions_lie_in_their_organ_and_patients_differ(make):
    task = make()
    drawn = task.draw(5)
    names = {region.name for region in drawn.present.regions} - {region.name for region in drawn.absent.regions}
    assert names == {"lesion 1"}
    assert drawn.site != task.draw(6).site
    assert task.draw(5).site == drawn.site
    scans = task.scans([5], True)
    assert scans.expected.sum((1, 2, 3)) == pytest.approx(task.counts, rel=1e-3)
    patch = detection.patches(scans.truth, scans.sites, task.patch)[..., 0]
    middle = patch[:, 9:12, 9:12].max((1, 2))
    without = detection.patches(task.scans([5], False).truth, scans.sites, task.patch)[..., 0]
    assert (middle > 1.15 * without[:, 9:12, 9:12].mean((1, 2))).all()


def test_scans_are_kept_measured_and_reconstructed_as_arrays_and_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    task = detection.bone_lesion(counts=5e4)
    scans = task.scans([1, 2], False)
    scans.write(tmp_path / "scans.npz")
    again = detection.Scans.read(task, tmp_path / "scans.npz")
    np.testing.assert_array_equal(again.mu, scans.mu)
    y = scans.counts(0.5, 3)
    np.testing.assert_array_equal(y, again.counts(0.5, 3))
    assert y.sum() == pytest.approx(5e4, rel=0.02)
    assert not np.array_equal(y, scans.counts(0.5, 4))
    image = recon.run(recon.osem(scans.case(y, 0.5).likelihood, n_subsets=6), 2)
    tensor = recon.run(recon.osem(scans.case(y, 0.5, tensors=True).likelihood, n_subsets=6), 2)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), image, rtol=1e-3, atol=1e-3 * image.max())
    assert image.sum() == pytest.approx(scans.truth.sum(), rel=0.1)  # at any level the unit of the truth
    one = scans[np.array([1])]
    alone = recon.run(recon.osem(one.case(y[1:], 0.5).likelihood, n_subsets=6), 2)
    np.testing.assert_allclose(alone[0], image[1], rtol=1e-3, atol=1e-3 * image.max())


def test_a_volume_has_its_lesion_in_the_middle_slice():
    task = detection.lung_lesion(n_slices=3, patch=9)
    scans = task.scans([2], True)
    assert scans.truth.shape[1:] == (64, 64, 3)
    assert scans.sites[0][2] == 1
    assert task.channels(4).shape == (9 * 9 * 3, 4)
    assert detection.patches(scans.truth, scans.sites, 9).shape == (1, 9, 9, 3)


def test_patches_at_the_edge_are_padded_and_wrong_ones_refused():
    images = np.arange(2 * 5 * 4.0).reshape(2, 5, 4, 1) + 1
    cut = detection.patches(images, np.array([[0, 0, 0], [4, 3, 0]]), 3)
    assert cut.shape == (2, 3, 3, 1)
    assert cut[0, 1, 1, 0] == images[0, 0, 0, 0]
    assert cut[1, 1, 1, 0] == images[1, 4, 3, 0]
    assert cut[0, 0].max() == 0
    for sites, width in (([[0, 0, 0], [5, 0, 0]], 3), ([[0, 0, 0]] * 2, 4), ([[0, 0, 0]], 3)):
        with pytest.raises(ValueError, match="patches"):
            detection.patches(images, np.array(sites), width)


def test_tasks_refuse_what_has_no_meaning():
    with pytest.raises(ValueError, match="odd"):
        detection.bone_lesion(patch=10)
    with pytest.raises(ValueError, match="positive"):
        detection.bone_lesion(counts=0)
    with pytest.raises(ValueError, match="exactly or statistically"):
        detection.bone_lesion(known="well")
    with pytest.raises(ValueError, match="1 to 17"):
        detection.myocardial_defect(18, 0.5)
    with pytest.raises(ValueError, match="severity"):
        detection.myocardial_defect(3, 2.0)


def test_a_random_heart_takes_the_defects_it_is_given():
    plain = sims.random_cardiac_torso(4, defects=())
    given = sims.random_cardiac_torso(4, defects=(sims.Defect((5,), severity=1.0),))
    added = [region for region in given.regions if region not in plain.regions]
    assert {region.name for region in added} == {"defect 1"}
    ventricle = sims.random_ventricle(4)
    for number in (2, 9, 15, 17):
        place = ventricle.segment_centre(number)
        inside = [region.name for region in plain.regions if region.shape.contains(*place)]
        assert sims.SEGMENTS[number - 1] in inside
    with pytest.raises(ValueError, match="lowest <= highest"):
        sims.random_cardiac_torso(4, defects=(2, 1))
    assert [r.name for r in sims.random_torso(3, arms=False).regions].count("left forearm") == 0
    assert [r.name for r in sims.random_torso(3, arms=True).regions].count("left forearm") > 0


def test_a_network_is_as_good_as_hotelling_in_a_gaussian_task_and_better_where_nothing_is_linear():
    pytest.importorskip("torch")
    random = np.random.default_rng(0)
    signal = np.zeros((6, 6))
    signal[2:4, 2:5] = 0.6
    train, test = random.normal(size=(2, 700, 6, 6)), random.normal(size=(2, 2000, 6, 6))
    true = stats.norm.cdf(math.sqrt((signal**2).sum() / 2))
    observer = detection.CNNObserver(4, 1, steps=120, rate=4e-3).fit(train[0], train[1] + signal)
    scores = observer.scores(test[0]), observer.scores(test[1] + signal)
    assert recon.area_under_curve(*scores).value == pytest.approx(true, abs=0.03)
    ratio = (test[1] + signal).reshape(2000, -1) @ signal.ravel() - (signal**2).sum() / 2
    assert np.polyfit(ratio, scores[1], 1) == pytest.approx([1, 0], abs=0.25)  # the log-likelihood ratio itself

    def either(n):
        return 2 * signal * random.choice([-1, 1], size=(n, 1, 1))

    observer = detection.CNNObserver(4, 1, steps=120, rate=4e-3).fit(train[0], train[1] + either(700))
    assert recon.area_under_curve(observer.scores(test[0]), observer.scores(test[1] + either(2000))).low > 0.8
    linear = recon.ChannelisedHotelling().fit(train[0], train[1] + either(700))
    assert recon.area_under_curve(linear.scores(test[0]), linear.scores(test[1] + either(2000))).high < 0.6
    again = detection.CNNObserver(4, 1, steps=3, seed=1).fit(train[0], train[1])
    np.testing.assert_array_equal(
        again.scores(test[0]), detection.CNNObserver(4, 1, steps=3, seed=1).fit(train[0], train[1]).scores(test[0])
    )


def test_a_network_refuses_what_it_cannot_learn_from():
    pytest.importorskip("torch")
    images = np.zeros((12, 6, 6))
    with pytest.raises(ValueError, match="fit"):
        detection.CNNObserver().scores(images)
    with pytest.raises(ValueError, match="ten images"):
        detection.CNNObserver().fit(images[:5], images)
    with pytest.raises(ValueError, match=r"\(6, 6\), those with it \(6, 5\)"):
        detection.CNNObserver().fit(images, images[..., :5])
    with pytest.raises(ValueError, match="NaN"):
        detection.CNNObserver().fit(images * np.nan, images)
    with pytest.raises(ValueError, match="steps 0"):
        detection.CNNObserver(steps=0)
