"""Networks of attenuation and of scatter: scales, shapes, what stays, training, and their way into problems."""

import numpy as np
import pytest
import torch

from emrecon import recon, unrolled
from emrecon.projectors import (
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    Scan,
    SPECTGeometry,
    TimeOfFlight,
)
from emrecon.unrolled.corrections.scatter import attenuation_lines

RNG = np.random.default_rng(0)
IMAGE = torch.tensor(RNG.uniform(0.5, 2, (2, 8, 8, 2)).astype(np.float32))
GUIDES = torch.tensor(RNG.uniform(0, 1, (2, 2, 8, 8, 2)).astype(np.float32))
SCANNER = PETScanner.polygon(sides=6, crystals_per_side=4, radius=120, rings=2, ring_pitch=20)
SINOGRAM = PETSinogram(SCANNER, n_radial=11)
GRID = ImageGrid((8, 8, 3), (20.0, 20.0, 10.0))
MU = np.pad(np.full((4, 4, 3), 0.096, np.float32), ((2, 2), (2, 2), (0, 0)))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(source, dimensions=2):
    return unrolled.attenuation_unet(source, dimensions, width=2, levels=2)


@pytest.mark.parametrize("source", list(unrolled.ATTENUATION_SOURCES))
@pytest.mark.parametrize("dimensions", [2, 3])
def test_maps_do_not_depend_on_the_unit_of_the_image(source, dimensions):
    network = small(source, dimensions)
    guide = GUIDES[:, : network.guide_channels] if network.guide_channels > 1 else GUIDES[:, 0]
    named = {"guide": guide} if network.guide_channels else {}
    x = 0.1 * IMAGE if network.is_map else IMAGE
    found = network(x, **named)
    assert found.shape == IMAGE.shape
    assert found.min() >= 0
    assert 0.01 < found.mean() < 1  # 1/cm: it begins about 0.1
    if not network.is_map:
        torch.testing.assert_close(network(7 * x, **named), found)


def test_a_cut_map_stays_what_it_is_within_the_field_of_view():
    network = small("truncation")
    inside = torch.zeros_like(IMAGE)
    inside[:, 2:6] = 1
    cut = 0.1 * IMAGE * inside
    found = network(cut, guide=torch.stack([IMAGE, inside], 1))
    torch.testing.assert_close(found[:, 2:6], cut[:, 2:6])
    assert (found[:, :2] != 0).any()


def test_a_network_learns_a_map_and_it_goes_into_a_problem():
    target = torch.where(IMAGE > 1, 0.1, 0.03)
    network = small("emission")
    optimiser = torch.optim.Adam(network.parameters(), 2e-2)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = ((network(IMAGE) - target) ** 2).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    mu = unrolled.predicted_attenuation(network, MU + 1)
    assert mu.dtype == np.float32
    counts = np.ones(SINOGRAM.shape, np.float32)
    problem = recon.pet_problem(Scan(counts, SINOGRAM, background=0.1), mu=mu, grid=GRID, subsets=2)
    np.testing.assert_array_equal(problem.mu, mu)


@pytest.mark.parametrize("body", list(unrolled.SCATTER_NETWORKS))
@pytest.mark.parametrize("with_single", [False, True])
def test_scatter_is_in_the_unit_of_the_emission(body, with_single):
    network = unrolled.scatter_preset(body, with_single=with_single, width=2)
    y, depth, single = (torch.tensor(RNG.uniform(0, 2, (2, 12, 11, 3)).astype(np.float32)) for _ in range(3))
    more = (single,) if with_single else ()
    found = network(y, depth, *more)
    assert found.shape == y.shape
    assert found.min() >= 0
    torch.testing.assert_close(network(5 * y, depth, *(5 * m for m in more)), 5 * found, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="simulation of single scatter"):
        network(y, depth, *(() if with_single else (single,)))


def test_views_of_half_a_turn_come_round_with_their_bins_reversed():
    """A network of a sinogram turned by some views makes the scatter turned by them."""
    network = unrolled.scatter_preset("layers", width=2, margin=9)
    y, depth = (torch.tensor(RNG.uniform(0, 2, (12, 11, 1)).astype(np.float32)) for _ in range(2))

    def turned(v, k):
        return torch.cat([v[k:], v[:k].flip(-2)])

    network.body = _Symmetric()
    torch.testing.assert_close(network(turned(y, 5), turned(depth, 5)), turned(network(y, depth), 5))


class _Symmetric(torch.nn.Module):
    """A mean over neighbouring views and bins."""

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x[:, :1], 3, 1, 1, count_include_pad=False)


def test_the_two_paths_have_thirteen_layers_and_six_are_six():
    def convolutions(module, path):
        return sum(isinstance(m, torch.nn.Conv2d) for name in path for m in getattr(module, name).modules())

    two = unrolled.SCATTER_NETWORKS["two-paths"](2)
    assert convolutions(two, ("emission", "joined", "last")) == 13
    assert convolutions(unrolled.SCATTER_NETWORKS["layers"](2), ("layers",)) == 6


@pytest.mark.parametrize("tof", [None, TimeOfFlight(3, 60.0, 60.0)])
def test_predicted_scatter_goes_into_a_problem(tof):
    sinogram = PETSinogram(SCANNER, n_radial=11, tof=tof)
    counts = RNG.poisson(5, sinogram.shape).astype(np.float32)
    scan = Scan(counts, sinogram, background=0.5)
    network = unrolled.scatter_preset("layers", width=2, kernel=3)
    single = None if tof is None else RNG.uniform(0.1, 1, sinogram.shape)
    found = unrolled.predicted_scatter(network, scan, MU, GRID, single=single)
    assert found.shape == counts.shape
    if tof is None:
        y = np.maximum(counts - 0.5, 0)
        depth = PETProjector(GRID, sinogram)(MU) / 10
        with torch.no_grad():
            np.testing.assert_allclose(found, network(torch.tensor(y), torch.tensor(depth)).numpy(), rtol=1e-5)
    else:
        share = found / found.sum(2, keepdims=True)
        np.testing.assert_allclose(share, single / single.sum(2, keepdims=True), rtol=1e-4)
        with pytest.raises(ValueError, match="give single"):
            unrolled.predicted_scatter(network, scan, MU, GRID)
    recon.pet_problem(scan, mu=MU, grid=GRID, scatter=found, subsets=2)


def test_lines_of_spect_go_through_the_whole_body():
    camera = SPECTGeometry.circular(4, 150, (8, 3), (20.0, 10.0))
    lines = attenuation_lines(camera, MU, GRID)
    assert lines.shape == camera.shape
    assert lines[0].max() == pytest.approx(4 * 2.0 * 0.096, rel=1e-3)  # 80 mm of water


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="unknown source 'ct'; choose from emission"):
        unrolled.attenuation_unet("ct")
    with pytest.raises(ValueError, match="unknown body 'gan'; choose from unet"):
        unrolled.scatter_preset("gan")
    with pytest.raises(ValueError, match="is_map needs a guide"):
        unrolled.AttenuationNetwork(torch.nn.Identity(), 2, is_map=True)
    with pytest.raises(ValueError, match="does not fit"):
        unrolled.scatter_preset("layers", width=2)(IMAGE, IMAGE[:1])
