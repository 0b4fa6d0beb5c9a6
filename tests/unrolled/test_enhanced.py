"""A reconstruction with a network after it, and what all networks that reconstruct have in common."""

import pytest
import torch
from network_cases import small_scan as scan

from emrecon import unrolled
from emrecon.recon import osem, run, seen_voxels
from emrecon.unrolled.methods import PRESETS, preset_options

SMALL = {
    "mapem-net": {"n_modules": 1, "width": 2},
    "fbsem-net": {"n_modules": 1, "width": 2, "depth": 2, "subsets": 2},
    "bcd-net": {"n_modules": 1, "channels": 3, "dimensions": 2},
    "em-net": {"n_modules": 1, "width": 2},
    "osem-varnet": {"n_modules": 1, "width": 2, "subsets": 2},
    "transem": {"n_modules": 1, "width": 4, "heads": 2, "subsets": 2},
    "lpd": {"n_iterations": 1, "n_primal": 2, "n_dual": 1, "width": 2},
    "post-unet": {"passes": 1, "subsets": 2, "width": 2, "levels": 2},
}


def make(name, guides=0):
    if name == "transem":
        pytest.importorskip("monai")
    with unrolled.seeded(0):
        return PRESETS[name](**{**SMALL[name], **({"guide_channels": guides} if guides else {})}).eval()


@pytest.mark.parametrize("name", SMALL)
def test_every_guided_preset_is_a_reconstructor(name):
    model, guide = make(name, 1), torch.rand(2, 16, 16, 2)
    assert isinstance(model, unrolled.Reconstructor)
    assert (model.guide_channels, model.dimensions) == (1, 2)
    assert model.networks
    assert all(any(n is part for part in model.modules()) for n in model.networks)
    held = {id(w) for n in model.networks for w in n.parameters()}
    assert held >= {id(w) for key, w in model.named_parameters() if "beta" not in key}
    with torch.no_grad():
        image, doubled = (model(scan(c), guide=guide) for c in (1.0, 2.0))
    assert torch.allclose(doubled, 2 * image, rtol=1e-4, atol=1e-5 * float(image.max()))
    assert not image[..., ~torch.as_tensor(seen_voxels(scan()))].any()
    assert {"dimensions", "guide_channels"} <= preset_options(PRESETS[name])


def test_no_network_leaves_osem():
    likelihood = scan()
    plain = run(osem(likelihood, unrolled.count_scale(likelihood) * likelihood.ones_image(), 4), 3)
    image = unrolled.Enhanced(unrolled.OSEMPasses(3, 4), lambda x, *_, **__: x)(likelihood)
    assert torch.allclose(image, plain, rtol=1e-6)
    given = unrolled.OSEMPasses(1, 1)([likelihood.subset(k, 4) for k in range(4)])
    assert torch.allclose(given, unrolled.OSEMPasses(1, 4)(likelihood), rtol=2e-3)


def test_gradients_reach_what_can_learn():
    likelihood, after = scan(), make("post-unet").denoiser
    fixed = unrolled.Enhanced(unrolled.OSEMPasses(1, 2), after)
    fixed(likelihood).sum().backward()
    assert all(w.grad is not None for w in after.parameters())
    inner = make("fbsem-net")
    both = unrolled.Enhanced(inner, after)
    both(likelihood).sum().backward()
    assert all(w.grad is not None for w in inner.networks[0].parameters())
    assert len(both.networks) == 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a pass and a subset at least"):
        unrolled.OSEMPasses(0, 2)
    with pytest.raises(TypeError, match="a reconstruction to call"):
        unrolled.Enhanced(None, lambda x: x)
    with pytest.raises(ValueError, match="neither the reconstruction nor the network takes a guide"):
        make("post-unet")(scan(), guide=torch.ones(2, 16, 16, 2))
