"""The channelised Hotelling observer: closed forms, held-out scores without bias, and what it refuses."""

import math

import numpy as np
import pytest
from scipy import stats

from emrecon import recon

SIGNAL = np.array([0.9, 0.0, -0.6, 0.3])
MIXED = np.array([[1.0, 0.3, 0.0, 0.0], [0.0, 2.0, 0.5, 0.0], [0.2, 0.0, 1.0, 0.0], [0.0, 0.1, 0.0, 30.0]])
COVARIANCE = MIXED @ MIXED.T
SNR = math.sqrt(SIGNAL @ np.linalg.solve(COVARIANCE, SIGNAL))


def outputs(random, n, signal=SIGNAL):
    """Gaussian channel outputs of known covariance around 5, without and with a signal."""
    return tuple(random.normal(size=(n, len(signal))) @ MIXED.T + 5 + part for part in (0, signal))


def test_hotelling_of_many_images_has_the_snr_and_area_of_the_closed_form():
    random = np.random.default_rng(0)
    observer = recon.ChannelisedHotelling().fit(*outputs(random, 20000))
    assert observer.resubstituted_snr == pytest.approx(SNR, rel=0.03)
    np.testing.assert_allclose(observer.template, np.linalg.solve(COVARIANCE, SIGNAL), atol=0.03)
    area = recon.area_under_curve(*(observer.scores(images) for images in outputs(random, 20000)))
    assert area.low < stats.norm.cdf(SNR / math.sqrt(2)) < area.high
    assert area.high - area.low < 0.012


def test_channels_are_the_same_as_their_outputs_and_any_library_is_taken():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    absent, present = random.normal(size=(30, 8, 8)).astype("f4"), random.normal(size=(25, 8, 8)).astype("f4")
    U = recon.laguerre_gauss_channels((8, 8), 4.0, 3)
    observer = recon.ChannelisedHotelling(channels=U).fit(absent, present)
    plain = recon.ChannelisedHotelling().fit(absent.reshape(30, 64) @ U, present.reshape(25, 64) @ U)
    np.testing.assert_allclose(observer.scores(absent), plain.scores(absent.reshape(30, 64) @ U), rtol=1e-6)
    np.testing.assert_allclose(observer.scores(absent), np.tensordot(absent, observer.template, 2), rtol=1e-6)
    tensors = recon.ChannelisedHotelling(torch.from_numpy(U)).fit(torch.from_numpy(absent), list(present))
    np.testing.assert_allclose(tensors.scores(torch.from_numpy(absent)), observer.scores(absent), rtol=1e-9)


def test_channel_outputs_pass_gradients_of_tensors():
    torch = pytest.importorskip("torch")
    U = recon.square_channels((8, 8), 1 / 16, 2)
    images = torch.ones((3, 8, 8), dtype=torch.float64, requires_grad=True)
    v = recon.channel_outputs(images, U)
    v.sum().backward()
    np.testing.assert_allclose(images.grad[1].numpy().ravel(), U.sum(1))
    np.testing.assert_allclose(v.detach().numpy(), recon.channel_outputs(np.ones((3, 8, 8), "f4"), U), rtol=1e-6)


def test_internal_noise_lowers_detectability_as_its_variance_says():
    random = np.random.default_rng(2)
    white = [random.normal(size=(4000, 3)) + part for part in (0.0, 0.8)]
    for noise_on in ("channels", "decision"):
        observer = recon.ChannelisedHotelling(None, 1.0, noise_on, seed=3).fit(*white)
        scores = [observer.scores(images) for images in white]
        snr = (scores[1].mean() - scores[0].mean()) / math.sqrt((scores[0].var() + scores[1].var()) / 2)
        assert snr == pytest.approx(0.8 * math.sqrt(3 / 2), rel=0.05)
        assert observer.resubstituted_snr == pytest.approx(snr, rel=0.05)
        np.testing.assert_array_equal(observer.scores(white[0]), scores[0])
        other = recon.ChannelisedHotelling(None, 1.0, noise_on, seed=4).fit(*white)
        assert not np.allclose(other.scores(white[0]), scores[0])


def test_leaving_one_out_is_training_anew():
    random = np.random.default_rng(3)
    absent, present = random.normal(size=(7, 3)) + 9, random.normal(size=(6, 3)) + 9.7
    middle = (absent.mean(0) + present.mean(0)) / 2
    found = recon.leave_one_out(recon.ChannelisedHotelling(), absent, present)
    for i in range(7):
        w = recon.ChannelisedHotelling().fit(np.delete(absent, i, 0), present).template_weights
        assert found[0][i] == pytest.approx(w @ (absent[i] - middle))
    wins = 0
    for j in range(6):
        w = recon.ChannelisedHotelling().fit(absent, np.delete(present, j, 0)).template_weights
        assert found[1][j] == pytest.approx(w @ (present[j] - middle))
        for i in range(7):
            left = recon.ChannelisedHotelling().fit(np.delete(absent, i, 0), np.delete(present, j, 0))
            wins += left.template_weights @ (present[j] - absent[i]) > 0
    assert recon.leave_pair_out_area(recon.ChannelisedHotelling(), absent, present).value == pytest.approx(wins / 42)


def test_without_a_signal_left_out_and_held_out_areas_are_one_half_and_resubstituted_ones_are_not():
    random = np.random.default_rng(4)
    observer, areas = recon.ChannelisedHotelling(), []
    for _ in range(60):
        absent, present = random.normal(size=(200, 10)), random.normal(size=(200, 10))
        left = recon.area_under_curve(*recon.leave_one_out(observer, absent, present)).value
        pairs = recon.leave_pair_out_area(observer, absent, present).value
        held = recon.area_under_curve(*recon.held_out(observer, absent, present, seed=5)).value
        observer.fit(absent, present)
        same = recon.area_under_curve(observer.scores(absent), observer.scores(present)).value
        areas.append((left, pairs, held, same))
    left, pairs, held, same = np.mean(areas, 0)  # standard errors 0.005, 0.005, 0.005 and 0.002
    assert abs(pairs - 0.5) < 0.02
    assert abs(held - 0.5) < 0.02
    assert 0.465 < left < 0.515  # about 0.01 below, as the docstring says
    assert same > 0.57


def test_leaving_out_takes_internal_noise():
    random = np.random.default_rng(6)
    white = [random.normal(size=(1500, 3)) + part for part in (0.0, 0.7)]
    for noise_on in ("channels", "decision"):
        observer = recon.ChannelisedHotelling(None, 1.0, noise_on)
        expected = stats.norm.cdf(observer.fit(*white).resubstituted_snr / math.sqrt(2))
        left = recon.area_under_curve(*recon.leave_one_out(observer, *white)).value
        assert left == pytest.approx(expected, abs=0.02)
        assert recon.leave_pair_out_area(observer, *white).value == pytest.approx(left, abs=0.01)


def test_held_out_keeps_groups_together_and_the_observer_as_it_is():
    class Remembers:
        seen = ()

        def fit(self, absent, present):
            self.seen = {*absent[:, 0], *present[:, 0]}

        def scores(self, images):
            assert not self.seen & set(images[:, 0])
            return images[:, 0]

    patients = np.repeat(np.arange(10), 4)
    observer = Remembers()
    images = patients[:, None].astype(float)
    scores = recon.held_out(observer, images, images, fraction=0.3, groups=(patients, patients))
    assert observer.seen == ()
    assert [len(s) for s in scores] == [12, 12]


def test_multi_slice_observers_find_what_a_slice_shows():
    random = np.random.default_rng(7)
    U = recon.laguerre_gauss_channels((8, 8), 5.0, 2)
    absent, present = (random.normal(size=(400, 8, 8, 3)) for _ in range(2))
    present[..., 1] += 0.2 * U[:, 0].reshape(8, 8) / U[:, 0].max()
    train, test = [(absent[half], present[half]) for half in (slice(200), slice(200, None))]
    joint = recon.MultiSliceHotelling(U, "joint").fit(*train)
    flat = recon.ChannelisedHotelling(recon.slice_channels(U, 3)).fit(*train)
    np.testing.assert_allclose(
        np.sort(joint.scores(test[0])), np.sort(flat.scores(test[0])), rtol=1e-8
    )  # the same numbers by another road
    for way in ("slices", "central", "joint"):
        observer = recon.MultiSliceHotelling(U, way).fit(*train)
        assert recon.area_under_curve(*map(observer.scores, test)).low > 0.6
    observer = recon.MultiSliceHotelling(U).fit(*train)
    with pytest.raises(ValueError, match="fitted to 3"):
        observer.scores(test[0][..., :2])
    with pytest.raises(ValueError, match="choose from slices, central, joint"):
        recon.MultiSliceHotelling(U, "other")


GOOD = np.random.default_rng(8).normal(size=(40, 6))


@pytest.mark.parametrize(
    ("absent", "present", "message"),
    [
        (GOOD[:4], GOOD[4:7], r"7 images of both classes for 6 channels"),
        (GOOD[:20], GOOD[20:, :5], r"the shape \(6,\), those with it \(5,\)"),
        (np.where(np.arange(240).reshape(40, 6) == 13, np.nan, GOOD), GOOD, "1 of 40 images hold NaN .* number 2"),
        (GOOD[:, [0, 1, 0]], GOOD[::-1, [0, 1, 0]], "singular"),
        (GOOD * (1, 1, 1, 0, 1, 1), GOOD[::-1] * (1, 1, 1, 0, 1, 1), "channels 3 do not vary"),
        (GOOD[:1], GOOD, "two images of each class or more, got 1 and 40"),
        (GOOD[0], GOOD, "add an axis"),
        (GOOD + 1j, GOOD, "real numbers"),
        ([], GOOD, "empty"),
    ],
)
def test_what_cannot_be_fitted_is_refused(absent, present, message):
    with pytest.raises(ValueError, match=message):
        recon.ChannelisedHotelling().fit(absent, present)


def test_what_was_not_meant_is_refused():
    with pytest.raises(ValueError, match=r"call fit\(absent, present\) first"):
        recon.ChannelisedHotelling().scores(GOOD)
    with pytest.raises(ValueError, match="36 voxels, the channels 64; were they made for another size"):
        recon.ChannelisedHotelling(recon.laguerre_gauss_channels((8, 8), 4)).fit(np.ones((9, 6, 6)), np.ones((9, 6, 6)))
    with pytest.raises(ValueError, match="images of 5 voxels, it was fitted to 6"):
        recon.ChannelisedHotelling().fit(GOOD, GOOD[::-1] + 1).scores(GOOD[:, :5])
    for wrong, message in (
        ({"internal_noise": -1}, "internal_noise"),
        ({"noise_on": "eyes"}, "choose from channels, decision"),
        ({"seed": -1}, "seed"),
        ({"channels": np.ones(5)}, "must be a matrix"),
        ({"channels": np.full((5, 2), np.nan)}, "NaN"),
        ({"channels": np.eye(5, 2) * (1, 0)}, "channels 1 are zero everywhere"),
    ):
        with pytest.raises(ValueError, match=message):
            recon.ChannelisedHotelling(**wrong)
    with pytest.raises(ValueError, match="use held_out"):
        recon.leave_one_out(object(), GOOD, GOOD)
    with pytest.raises(ValueError, match="fraction"):
        recon.held_out(recon.ChannelisedHotelling(), GOOD, GOOD, fraction=1)
    with pytest.raises(ValueError, match="0 images to test"):
        recon.held_out(recon.ChannelisedHotelling(), GOOD, GOOD, fraction=0.001)


def test_normality_says_it_in_words():
    random = np.random.default_rng(9)
    good = recon.normality(random.normal(size=(500, 4)) @ MIXED.T)
    assert good.normal
    assert "no reason to doubt" in str(good)
    assert good.kurtosis == pytest.approx(24, abs=2)
    gamma = random.gamma(2.0, size=(500, 4))
    bad = recon.normality(gamma)
    assert not bad.normal
    assert "skewed" in str(bad)
    assert "heavier" in str(bad)
    rejected = sum(not recon.normality(random.normal(size=(60, 3))).normal for _ in range(200))
    assert rejected < 24  # 10 expected of 200 at a level of 0.05, or fewer
    with pytest.raises(ValueError, match="level"):
        recon.normality(gamma, level=0)


def test_many_images_are_tested_for_normality_without_a_warning():
    found = recon.normality(np.random.default_rng(10).normal(size=(5200, 2)))
    assert (found.n, found.n_tested) == (5200, 5000)
