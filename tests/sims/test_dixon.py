"""Dixon-like images: what tissues show, noise and bias, refusals."""

import numpy as np
import pytest

from emrecon import sims
from emrecon.projectors import ImageGrid

GRID = ImageGrid((40, 28, 1), (11.0, 11.0, 11.0))


def test_fat_is_fat_lungs_are_dark_and_seeds_repeat():
    torso = sims.torso().moved((0.0, 0.0, -120.0))
    water, fat = sims.dixon_images(torso, GRID, 1, noise=0.0, bias=0.0)
    mu = torso.attenuation(GRID, 511.0)
    assert water.shape == GRID.shape
    lung = (mu > 0.02) & (mu < 0.03)
    assert water[lung].mean() < 0.3
    assert water[(mu > 0.094) & (mu < 0.098)].mean() > 0.7
    assert fat.max() > 0.8
    assert max(water[mu == 0].max(), fat[mu == 0].max()) == 0
    noisy = sims.dixon_images(torso, GRID, 1)
    np.testing.assert_array_equal(noisy, sims.dixon_images(torso, GRID, 1))
    assert (noisy != sims.dixon_images(torso, GRID, 2)).any()


def test_unknown_materials_and_numbers_are_refused():
    lead = sims.Phantom((sims.Region("block", sims.Ellipsoid((0, 0, 0), 50.0), 1.0, "lead"),))
    with pytest.raises(ValueError, match="'block' is of lead; known are water"):
        sims.dixon_images(lead, GRID, 0)
    with pytest.raises(ValueError, match="noise must not be negative"):
        sims.dixon_images(sims.torso(), GRID, 0, noise=-1)
