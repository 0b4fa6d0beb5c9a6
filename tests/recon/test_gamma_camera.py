"""Uniformity of floods, centre of rotation, and loss of counts, as NEMA NU 1 defines them."""

import numpy as np
import pytest

from emrecon.projectors import DeadTime
from emrecon.recon import centre_of_rotation, flood_uniformity, join_pixels, rate_at_loss


def test_one_hot_pixel_is_smoothed_to_a_quarter():
    flood = np.full((60, 60), 20_000.0)
    flood[30, 30] += 8_000
    found = flood_uniformity(flood, 6.4)
    contrast = 100 * 2_000 / 42_000  # 4 / 16 of the excess is left in its place
    for field in found.values():
        assert field.integral == pytest.approx(contrast)
        assert (field.differential_x, field.differential_y) == pytest.approx((contrast, contrast))
    assert found["UFOV"].n_pixels == 58**2  # centres within 0.95 of 60 pixels
    assert found["CFOV"].n_pixels == 42**2


def test_a_slope_is_integral_over_all_and_differential_over_five():
    flood = np.full((60, 60), 20_000.0) + 10.0 * np.arange(60)[:, None]
    ufov, cfov = flood_uniformity(flood, 6.4).values()
    inner = flood[1:59]
    high, low = inner.max() - 2.5, inner.min() + 2.5  # the rim is smoothed with its inner neighbours alone
    assert ufov.integral == pytest.approx(100 * (high - low) / (high + low), rel=2e-2)
    assert cfov.differential_x == pytest.approx(100 * 40 / (2 * flood[11, 0]), rel=2e-2)
    assert cfov.differential_y == pytest.approx(0, abs=1e-9)


def test_a_low_rim_is_left_out_with_its_neighbours():
    flood = np.full((60, 60), 20_000.0)
    flood[1, :] = 12_000.0  # the first row of the UFOV, below 75 %
    found = flood_uniformity(flood, 6.4)["UFOV"]
    assert found.integral == pytest.approx(0, abs=1e-9)
    assert not found.pixels[:3].any()
    assert found.n_pixels == 56 * 58
    flood[1, :] = 16_000.0  # kept
    assert flood_uniformity(flood, 6.4)["UFOV"].integral > 5


@pytest.mark.parametrize(
    ("flood", "size", "words"),
    [
        (np.full((60, 60), 2e4), 3.2, "join_pixels"),
        (np.full((60, 60), 500.0), 6.4, "10,000"),
        (np.full((5, 60, 60), 2e4), 6.4, "one image"),
    ],
)
def test_floods_that_are_not_nemas_are_refused(flood, size, words):
    with pytest.raises(ValueError, match=words):
        flood_uniformity(flood, size)


def test_pixels_are_joined():
    joined, size = join_pixels(np.ones((25, 16)), (3.2, 2.0))
    assert (joined.shape, size) == ((12, 5), (6.4, 6.0))
    assert (joined == 6).all()


def test_the_centre_of_rotation():
    angles = np.arange(0, 360, 12.0)
    u, z = 2.0 * (np.arange(64) - 31.5), 2.0 * (np.arange(16) - 7.5)
    at = 1.7 + 40 * np.sin(np.radians(angles + 25))
    views = np.exp(-((u[None, :, None] - at[:, None, None]) ** 2) / 50 - (z - 3) ** 2 / 20)
    found = centre_of_rotation(views, angles, 2.0)
    assert (found.offset, found.radius, found.phase) == pytest.approx((1.7, 40, 25), abs=0.1)
    assert np.abs(found.deviations).max() < 0.3
    assert found.axial == pytest.approx(3, abs=0.1)
    assert found.axial_spread < 1e-6
    with pytest.raises(ValueError, match="cut by the edge"):
        centre_of_rotation(views[:, 14:], angles, 2.0)
    with pytest.raises(ValueError, match="no counts"):
        centre_of_rotation(np.zeros((8, 4, 4)), np.arange(8) * 45, 2.0)


def test_the_rate_of_a_fifth_lost_is_that_of_the_model():
    counter = DeadTime(2e-6)
    true = np.linspace(1e3, 7e5, 400)
    rate, highest = rate_at_loss(true, counter.measured_rate(true))
    assert rate == pytest.approx(0.8 * -np.log(0.8) / 2e-6, rel=1e-4)
    assert highest == pytest.approx(1 / (np.e * 2e-6), rel=1e-3)
    with pytest.raises(ValueError, match="losses run"):
        rate_at_loss(true[:20], counter.measured_rate(true[:20]))
