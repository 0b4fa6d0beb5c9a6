"""Networks of dose: linear in the activity, voxel S values to begin with, refusals; and the command that uses them."""

import numpy as np
import pytest
import torch

from emrecon import unrolled
from emrecon.projectors import ImageGrid
from emrecon.recon.dosimetry import absorbed_dose, treatment_dose

GRID = ImageGrid((8, 7, 6), 4.8)
ARGUMENTS = {"dose-unet": {"levels": 2}, "specific-kernels": {"reach": 1}, "residual-dose": {"levels": 2}}
NAMES = sorted(unrolled.DOSE_NETWORKS)


def sample():
    random = np.random.default_rng(0)
    density = random.uniform(0.2, 1.9, GRID.shape)
    density[0] = 0.0
    return random.random(GRID.shape), density


def network(name, seed=0):
    with unrolled.seeded(seed):
        return unrolled.DOSE_NETWORKS[name]("Y-90", 4.8, width=2, **ARGUMENTS[name]).double()


@pytest.mark.parametrize("name", NAMES)
def test_twice_the_activity_gives_twice_the_dose_and_air_none(name):
    activity, density = sample()
    model = network(name)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.03
    once, twice = (model.dose(f * activity, GRID, "y90", density=density) for f in (1, 2))
    np.testing.assert_allclose(twice.image, 2 * once.image, rtol=1e-6, atol=1e-9)
    assert (once.image[0] == 0).all()
    assert (once.image >= 0).all()
    assert once.method == "network"
    model(torch.as_tensor(activity), guide=density).sum().backward()
    assert any(w.grad is not None and w.grad.abs().sum() > 0 for w in model.parameters())


def test_untrained_networks_on_kernels_are_the_kernels():
    activity, density = sample()
    kernel = absorbed_dose(activity, GRID, "Y-90", density=density).image
    residual = network("residual-dose").dose(activity, GRID, "Y-90", density=density).image
    np.testing.assert_allclose(residual, kernel, rtol=1e-6, atol=1e-9 * kernel.max())
    specific = network("specific-kernels").dose(activity, GRID, "Y-90", density=density).image
    np.testing.assert_allclose(specific, kernel, rtol=0.02)


def test_specific_kernels_add_up_over_activities():
    (first, density), second = sample(), np.random.default_rng(1).random(GRID.shape)
    model = network("specific-kernels")
    parts = [model.dose(a, GRID, "Y-90", density=density).image for a in (first, second, first + second)]
    np.testing.assert_allclose(parts[0] + parts[1], parts[2], rtol=1e-6)


def test_other_nuclides_voxels_and_units_are_refused():
    activity, density = sample()
    model = network("residual-dose")
    for arguments, match in (
        ((activity, GRID, "Lu-177", density), "made for Y-90, not for Lu-177"),
        ((activity, ImageGrid(GRID.shape, 4.0), "Y-90", density), "voxels of 4.8 x 4.8 x 4.8 mm, not of 4 x 4 x 4"),
        ((activity, GRID, "Y-90", None), "needs the density"),
        ((activity, GRID, "Y-90", 1000 * density), "are these Hounsfield units"),
        ((-activity, GRID, "Y-90", density), "activity must be finite, not negative"),
    ):
        *given, rho = arguments
        with pytest.raises(ValueError, match=match):
            model.dose(*given, density=rho)
    with pytest.raises(ValueError, match="no emissions of Tc-99m"):
        unrolled.dose_unet("Tc-99m")
    with pytest.raises(ValueError, match="guide="):
        model(torch.as_tensor(activity))


def test_a_treatment_and_a_file_of_weights(tmp_path):
    activity, density = sample()
    model = network("residual-dose").float()
    arguments = {"nuclide": "Y-90", "voxel_size": 4.8, "width": 2, "levels": 2}
    unrolled.save_weights(tmp_path / "w.safetensors", model, unrolled.Card("residual-dose", arguments))
    loaded, _ = unrolled.load_network(tmp_path / "w.safetensors", unrolled.DOSE_NETWORKS)
    about = {"density": density, "model": "physical"}
    found = treatment_dose([24.0], [1e5 * activity], GRID, "Y-90", method=loaded.dose, **about)
    kernel = treatment_dose([24.0], [1e5 * activity], GRID, "Y-90", **about)
    np.testing.assert_allclose(found.dose.image, kernel.dose.image, rtol=1e-4, atol=1e-5 * kernel.dose.image.max())
