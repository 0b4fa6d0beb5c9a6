"""Networks of data: coarse bins made fine, memories along the views, fewer views than in training, patterns."""

import numpy as np
import pytest
import torch

from emrecon import unrolled
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    LinearResponse,
    PETProjector,
    PETScanner,
    PETSinogram,
    SPECTGeometry,
    SPECTProjector,
)
from emrecon.recon import GaussianLikelihood, PoissonLikelihood
from emrecon.unrolled.direct import among_views
from emrecon.unrolled.direct.coarse import SummedBins, repeated, summed, upsampled
from emrecon.unrolled.networks import ConvLSTM
from emrecon.unrolled.training import hidden


def camera(views=12, n=16, radius=120.0, angles=None):
    """A SPECT projector of n x n pixels of 8 mm."""
    grid = ImageGrid((n, n, 1), (8.0, 8.0, 8.0))
    geometry = SPECTGeometry.circular(views, radius, (n, 1), (8.0, 8.0))
    if angles is not None:
        geometry = SPECTGeometry(geometry.angles[angles], geometry.radius[0], geometry.n_bins, geometry.pixel_size)
    return SPECTProjector(grid, geometry, np.full((n, n, 1), 0.1, np.float32), LinearResponse(0.04, 2.0))


def ring():
    scanner = PETScanner.polygon(sides=12, crystals_per_side=4, radius=40.0, rings=1, ring_pitch=4.0)
    return PETProjector(
        ImageGrid((16, 16, 1), (3.0, 3.0, 4.0), (-22.5, -22.5, 0.0)), PETSinogram(scanner, 0, n_radial=20)
    )


def of(projector, scale=1.0, seed=1):
    """The likelihood of two scans with factors that vary from bin to bin."""
    truth = torch.ones((2, *projector.in_shape))
    truth[:, 5:8, 9:12] = 6
    random = torch.Generator().manual_seed(seed)
    factors = 0.5 + torch.rand(projector.out_shape, generator=torch.Generator().manual_seed(0))
    counts = torch.poisson(20 * (factors * projector(truth) + 0.5), generator=random)
    return PoissonLikelihood(
        scale * counts, AcquisitionModel(projector, 20 * factors, 10 * scale * torch.ones(counts.shape))
    )


def test_coarse_bins_are_sums_and_their_model_is_exact():
    projector = camera()
    fine = of(projector)
    coarse = unrolled.coarse_bins(fine, 4)
    assert coarse.data.shape == (2, 12, 4, 1)
    assert torch.equal(coarse.data.sum((1, 2, 3)), fine.data.sum((1, 2, 3)))
    x = torch.rand((2, *projector.in_shape), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(coarse.model(x), summed(fine.model(x), (4, 1), 3))
    y = torch.rand(coarse.data.shape, generator=torch.Generator().manual_seed(3))
    left, right = (coarse.model.linear(x) * y).sum(), (x * coarse.model.adjoint(y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)
    part = coarse.subset(1, 3)
    torch.testing.assert_close(part.model(x), coarse.model(x)[:, 1::3])
    assert part.complete.projector.out_shape == (4, 16, 1)
    with pytest.raises(ValueError, match="coarse bins of 5 x 1 do not divide 16 bins and 1 rows"):
        unrolled.coarse_bins(fine, 5)


def test_repeating_is_the_transpose_of_adding_with_tof_bins_and_rows():
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(3, 6, 2, 4, generator=random), torch.rand(3, 2, 2, 2, generator=random)
    torch.testing.assert_close((summed(x, (3, 2), 4) * y).sum(), (x * repeated(y, (3, 2), 4)).sum())
    line = torch.arange(4.0).reshape(1, 4, 1)
    assert upsampled(line, (2, 1), 3)[0, :, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]


@pytest.mark.parametrize("projector", [camera(), ring()], ids=["spect", "pet"])
def test_fine_bins_add_up_to_what_was_counted(projector):
    with unrolled.seeded(0):
        model = unrolled.sinogram_net(2, width=2, depth=2, passes=1, subsets=2).eval()
    coarse = unrolled.coarse_bins(of(projector), 2)
    with torch.no_grad():
        done = model.completion(coarse)
        doubled = model(unrolled.coarse_bins(of(projector, 2.0), 2))
        image = model(coarse)
    torch.testing.assert_close(summed(done.counts, (2, 1), 3), coarse.data)
    assert isinstance(done.likelihood, GaussianLikelihood)
    assert torch.allclose(doubled, 2 * image, rtol=0.05, atol=0.05 * float(image.max()))


def test_the_variance_of_fine_bins_is_honest():
    """Where the division is right, and its variance that of hidden counts, the bins weigh as the measured one does."""
    projector = camera()
    fine = of(projector)
    coarse = unrolled.coarse_bins(fine, 2)
    with unrolled.seeded(0):
        done = unrolled.sinogram_net(2, width=2, depth=2).completion(coarse)
    share = done.counts / repeated(coarse.data, (2, 1), 3)
    own = done.variance - done.spread
    torch.testing.assert_close(own, repeated(coarse.data, (2, 1), 3) * share**2)
    y = repeated(coarse.data, (2, 1), 3)
    stated = y * share * (1 - share) + own  # with the variance that a multinomial division of y has
    weight = summed(done.counts**2 / stated, (2, 1), 3)  # information on the scale of a bin's counts
    torch.testing.assert_close(weight, coarse.data, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_memory_along_the_views_knows_those_before(dimensions):
    shape = (1, 1, 6, 5) if dimensions == 2 else (1, 1, 6, 5, 3)
    with unrolled.seeded(0):
        layers = [ConvLSTM(dimensions, 1, 2, backwards=backwards) for backwards in (False, True)]
    x = torch.zeros(shape)
    changed = x.clone()
    changed[:, :, 3] = 1
    with torch.no_grad():
        moved = [(layer(changed) - layer(x)).abs().flatten(3).sum((0, 1, 3)) for layer in layers]
    assert moved[0][:3].max() == 0
    assert moved[0][3:].min() > 0
    assert moved[1][:4].min() > 0
    assert moved[1][4:].max() == 0


def test_lu_net_begins_as_the_interpolation_and_learns():
    projector = camera()
    with unrolled.seeded(0):
        model = unrolled.sinogram_net(2, network="lu-net", width=2, levels=2, passes=1, subsets=2)
        chain = unrolled.sinogram_net(2, width=2, depth=2)
    part = unrolled.partly_measured(of(projector), unrolled.every_view(12, 3, projector.out_shape))
    with torch.no_grad():
        torch.testing.assert_close(model.completion(part).counts, chain.completion(part).counts)
    loss = unrolled.Completing(unrolled.EvenlySpacedViews(2))(model, of(projector), torch.Generator().manual_seed(0))
    loss.backward()
    assert all(w.grad is not None for w in model.networks[0].parameters())
    with pytest.raises(ValueError, match='network must be "chain" or "lu-net"'):
        unrolled.sinogram_net(2, network="unet")


@pytest.mark.parametrize("projector", [camera(), ring()], ids=["spect", "pet"])
def test_patterns_of_training_hide_what_they_say(projector):
    shape, random = tuple(projector.out_shape), torch.Generator().manual_seed(4)
    arc = unrolled.MissingViews(3)(shape, random)
    assert (~arc[:, 0, 0]).sum() == 3
    gap = unrolled.MissingBins(2, rows=1)(shape, random)
    assert (~gap[0, :, 0]).sum() == 2
    assert torch.equal(gap[0], gap[-1])
    if hasattr(projector, "sinogram"):
        lost = unrolled.FailedCrystals(projector.sinogram, 4)(shape, random)
        assert 0 < (~lost).float().mean() < 0.5
        part, missing = hidden(of(projector), unrolled.FailedCrystals(projector.sinogram, 20), random)
        assert not part.data[missing].any()
    with pytest.raises(ValueError, match="of 12 views at least one must be missing and one left, got 12 missing"):
        unrolled.MissingViews(12)((12, 4, 1), random)


@pytest.mark.parametrize("pattern", [unrolled.MergedBins(2), unrolled.MissingBins(2), unrolled.MissingViews(2)])
def test_networks_learn_from_every_pattern(pattern):
    with unrolled.seeded(0):
        model = unrolled.sinogram_net(2, width=2, depth=2)
    objective, optimiser, losses = unrolled.Completing(pattern), torch.optim.Adam(model.parameters(), 2e-2), []
    for _ in range(12):
        optimiser.zero_grad()
        loss = objective(model, of(camera()), torch.Generator().manual_seed(0))
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


# ---- fewer views than in training ------------------------------------------------------------------------------------


def test_a_scan_of_some_views_is_completed_as_one_whose_others_are_hidden():
    whole = camera()
    scan = unrolled.described(whole)
    with unrolled.seeded(0):
        model = unrolled.sinogram_net(2, width=2, depth=2, passes=1, subsets=2, scan=scan).eval()
    full = of(whole)
    flat = PoissonLikelihood(full.data, AcquisitionModel(whole, 20.0, 10.0))
    taken = [0, 3, 6, 9]
    few = PoissonLikelihood(full.data[:, taken], AcquisitionModel(camera(angles=taken), 20.0, 10.0))
    hide = unrolled.partly_measured(flat, unrolled.every_view(12, 3, whole.out_shape))
    with torch.no_grad():
        torch.testing.assert_close(model(few), model(hide), rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="of this scan none is: use OSEM"):
            model(flat)
        broken = torch.full((12, 16, 1), 20.0)
        broken[3] = 0
        failed = PoissonLikelihood(full.data, AcquisitionModel(whole, broken, 10.0))
        with pytest.raises(ValueError, match=r"16 bins have a factor of 0, .*partly_measured"):
            model(failed)
    found = among_views(few, scan, 2)
    assert np.allclose(found.complete.projector.geometry.angles, whole.geometry.angles)
    order = [9, 0, 6, 3]  # in any order
    mixed = PoissonLikelihood(full.data[:, order], AcquisitionModel(camera(angles=order), 20.0, 10.0))
    torch.testing.assert_close(among_views(mixed, scan, 2).data, found.data)


def test_factors_of_other_views_are_interpolated_around_the_turn():
    whole, taken = camera(), [0, 4, 8]
    factors = torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1).expand(3, 16, 1).clone()
    few = PoissonLikelihood(of(whole).data[:, taken], AcquisitionModel(camera(angles=taken), factors, 0.1))
    complete = among_views(few, unrolled.described(whole), 2).complete
    expected = torch.tensor([1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 3.25, 2.5, 1.75])
    torch.testing.assert_close(complete.factors[:, 0, 0], expected)


@pytest.mark.parametrize(
    ("projector", "said"),
    [
        (camera(views=8), "view 1 of the scan is not among the 12 views of the training: it is 15.0 degrees"),
        (camera(angles=[0, 0, 3]), "two views of the scan are at the same angle"),
        (camera(views=6, radius=150.0), "mm of radius"),
        (camera(views=24), "views: 12 in training, 24 here"),
    ],
)
def test_views_that_do_not_belong_to_the_training_are_refused(projector, said):
    model = unrolled.sinogram_net(2, width=2, depth=2, scan=unrolled.described(camera()))
    with pytest.raises(ValueError, match=said):
        model(of(projector))


def test_summed_bins_know_their_items():
    assert SummedBins(AcquisitionModel(camera()), (2, 1)).n_items is None
