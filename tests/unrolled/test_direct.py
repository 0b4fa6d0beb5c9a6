"""Direct networks: what they see of a scan, what they refuse, and the published sizes."""

import numpy as np
import pytest
import torch
from network_cases import small_scan as scan

from emrecon import unrolled
from emrecon.projectors import (
    AcquisitionModel,
    GaussianBlur,
    ImageGrid,
    LinearResponse,
    PETProjector,
    PETScanner,
    PETSinogram,
    SPECTGeometry,
    SPECTProjector,
    TimeOfFlight,
)
from emrecon.recon import GaussianLikelihood, PoissonLikelihood, lbfgsb, osem, run
from emrecon.unrolled.direct import differences, interpolated, normalised_data
from emrecon.unrolled.networks.encoding import dense_parameters, squared
from emrecon.unrolled.networks.pictures import resampled_views, wrapped
from emrecon.unrolled.networks.radon import patch_bins
from emrecon.unrolled.networks.spectnet import Autoencoder, connected_parameters


def camera(n=64, views=24, rows=1, start=0.0, radius=120.0, extent=360.0, mu=True):
    """A SPECT projector of n x n pixels of 4 mm."""
    grid = ImageGrid((n, n, rows), (4.0, 4.0, 4.0))
    geometry = SPECTGeometry.circular(views, radius, (n, rows), (4.0, 4.0), start=start, extent=extent)
    map_ = np.full((n, n, rows), 0.1, np.float32) if mu else None
    return SPECTProjector(grid, geometry, map_, LinearResponse(0.04, 2.0))


def of(projector, scale=1.0, batch=2, factors=1.0):
    """A likelihood of counts of a bright spot, with background."""
    truth = torch.ones((batch, *projector.in_shape))
    truth[:, 12:18, 20:30] = 5
    expected = factors * projector(truth) + 1.0
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(1))
    return PoissonLikelihood(scale * counts, AcquisitionModel(projector, factors, scale * torch.ones(expected.shape)))


def ring(tof=None, n=32, rings=1):
    """A small PET projector."""
    scanner = PETScanner.polygon(sides=24, crystals_per_side=4, radius=60.0, rings=rings, ring_pitch=4.0)
    grid = ImageGrid((n, n, rings), (2.0, 2.0, 4.0), (-(n - 1), -(n - 1), float(scanner.rings.min())))
    return PETProjector(grid, PETSinogram(scanner, 0, tof=tof, n_radial=31))


def test_published_sizes():
    assert connected_parameters() == 34_097_152
    with torch.device("meta"):
        body = unrolled.spectnet().body
        assert unrolled.count_parameters(body.decoder.connected) == 34_097_152
        assert unrolled.count_parameters(unrolled.deeppet()) > 60_000_000
    assert dense_parameters(2 * 128**2, 128) == pytest.approx(805.4e6, rel=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: unrolled.spectnet(64, code=16, hidden=32, width=4, scan=s),
        lambda s: unrolled.deeppet(small=True, size=64, attenuation="projector", scan=s),
        lambda s: unrolled.automap(64, views=24, hidden=8, width=4, scan=s),
        lambda s: unrolled.radon_inversion(s, patch=16, width=2, depth=1, attenuation="projector"),
    ],
    ids=["spectnet", "deeppet", "automap", "radon-inversion"],
)
def test_twice_the_counts_are_twice_the_image(make):
    projector = camera()
    with unrolled.seeded(0):
        model = make(unrolled.described(projector)).eval()
    assert isinstance(model, unrolled.Reconstructor)
    with torch.no_grad():
        image, doubled = model(of(projector)), model(of(projector, 2.0))
    assert image.shape == (2, 64, 64, 1)
    assert float(image.max()) > 0
    assert torch.allclose(doubled, 2 * image, rtol=1e-3, atol=1e-4 * float(image.max()))


def test_factors_are_divided_out():
    projector = camera()
    plain, c = normalised_data(of(projector))
    scaled, unit = normalised_data(of(projector, factors=3.0))
    assert torch.allclose(c, unit, rtol=0.05)
    assert float((plain - scaled).abs().mean()) < 0.2
    assert float(plain.mean()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"views": 30}, "views: 24 in training, 30 here"),
        ({"radius": 150.0}, "mm of radius: 120 x 120 in training, 150 x 150 here"),
        ({"start": 90.0}, "the first view"),
        ({"mu": False}, "attenuation in the projector: yes in training, no here"),
        ({"extent": 180.0}, "degrees covered"),
    ],
)
def test_another_geometry_is_refused(change, said):
    model = unrolled.deeppet(small=True, size=64, scan=unrolled.described(camera())).eval()
    with pytest.raises(ValueError, match=said):
        model(of(camera(**change)))


def test_small_differences_are_none():
    assert not differences(unrolled.described(camera()), unrolled.described(camera(radius=121.0, start=0.3)))


def test_rows_must_be_slices():
    scanner = PETScanner.polygon(sides=24, crystals_per_side=4, radius=60.0, rings=2, ring_pitch=4.0)
    oblique = PETProjector(ImageGrid((32, 32, 3), (2.0, 2.0, 2.0)), PETSinogram(scanner, 1, n_radial=31))
    with pytest.raises(ValueError, match="makes each slice of its own row, and there are 4 rows for 3 slices"):
        unrolled.deeppet(small=True, size=32)(of(oblique))
    with pytest.raises(ValueError, match="sees all views at once"):
        unrolled.deeppet(small=True, size=64)([of(camera()).subset(k, 2) for k in range(2)])


def test_pet_of_several_slices_and_a_map_as_guide():
    projector = ring(rings=2)
    with unrolled.seeded(0):
        model = unrolled.deeppet(small=True, size=32, attenuation="guide", norm="group").eval()
    likelihood = of(projector)
    sinogram = PETSinogram(projector.sinogram.scanner, 0, n_radial=31)
    assert projector.out_shape == sinogram.shape
    with torch.no_grad():
        both = model(likelihood, guide=torch.rand(32, 32, 2))
    assert both.shape == (2, 32, 32, 2)


# ---- data as pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 3, 4)])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("tof", ["channels", "items"])
def test_folding_and_back(shape, dimensions, tof):
    folding = unrolled.DataFolding(shape, dimensions, tof)
    data = torch.rand(2, 3, 2, *shape)
    folded = folding.fold(data)
    assert folded.ndim == 2 + dimensions
    assert folded.shape[2:4] == (6, 5)
    assert torch.equal(folding.unfold(folded, (2, 3)), data)


def test_a_turn_goes_on():
    data = torch.rand(1, 1, 6, 5)
    more = wrapped(data, 8)
    assert torch.equal(more[:, :, 6:12], data)
    both = wrapped(data, 2, before=True)
    assert torch.equal(both[:, :, :2], data[:, :, -2:])
    assert squared(torch.rand(1, 2, 60, 30), 64).shape == (1, 2, 64, 64)


def test_half_a_turn_goes_on_mirrored():
    """The views of a ring after half a turn are the first ones, seen from the other side."""
    projector = ring()
    image = torch.rand(1, *projector.in_shape)
    turned = image.flip(1, 2)  # half a turn about the axis
    data, seen = projector(image)[:, None, ..., 0], projector(turned)[:, None, ..., 0]
    views = data.shape[2]
    assert torch.allclose(wrapped(data, views, half_turn=True)[:, :, views:], seen, atol=0.02 * float(seen.max()))


def test_views_between_are_interpolated():
    angle = torch.arange(24) * (2 * torch.pi / 24)
    data = (2 + torch.cos(angle))[None, None, :, None].expand(1, 1, 24, 5)
    fine = resampled_views(data, 48)
    assert torch.allclose(fine[:, :, ::2], data)
    expected = 2 + torch.cos(torch.arange(48) * (2 * torch.pi / 48))
    assert float((fine[0, 0, :, 0] - expected).abs().max()) < 0.01


@pytest.mark.parametrize("projector", [camera(rows=1, mu=False), ring(n=48)], ids=["spect", "pet"])
def test_patches_look_where_they_project_to(projector):
    described = unrolled.described(projector)
    bins = patch_bins(described, 8, margin=0)
    point = torch.zeros(projector.in_shape)
    point[8:16, 24:32] = 1  # a patch
    seen = projector(point)[..., 0]
    n_y = projector.in_shape[1] // 8
    for view, row in enumerate(bins[1 * n_y + 3]):
        inside = seen[view, row[row >= 0]].sum()
        assert float(inside / seen[view].sum()) > 0.9


def test_an_autoencoder_keeps_slices_apart():
    with unrolled.seeded(0):
        model = Autoencoder(unrolled.spectnet(64, code=8, hidden=16, width=4).body).eval()
    images = torch.rand(2, 64, 64, 3)
    with torch.no_grad():
        assert torch.allclose(model(images)[1, ..., 2:], model(images[1:2, ..., 2:])[0], atol=1e-6)


# ---- after a back projection -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transpose", "fbp"])
def test_back_projections_have_the_scale_of_the_truth(kind):
    projector = camera(mu=False)
    truth = torch.zeros((1, *projector.in_shape))
    truth[:, 20:44, 20:44] = 3
    likelihood = PoissonLikelihood(projector(truth), AcquisitionModel(projector))
    image = unrolled.BackProjection(kind)(likelihood)
    assert float(image[:, 28:36, 28:36].mean()) == pytest.approx(3, rel=0.2 if kind == "fbp" else 0.7)
    assert torch.allclose(
        unrolled.BackProjection(kind)(of(projector, 2.0)), 2 * unrolled.BackProjection(kind)(of(projector)), rtol=1e-3
    )


def test_fbp_of_a_ring():
    projector = ring(n=32)
    truth = torch.zeros((1, *projector.in_shape))
    truth[:, 10:22, 10:22] = 3
    image = unrolled.BackProjection("fbp")(PoissonLikelihood(projector(truth), AcquisitionModel(projector, 0.5)))
    assert float(image[:, 13:19, 13:19].mean()) == pytest.approx(6, rel=0.1)
    with pytest.raises(ValueError, match="data without TOF"):
        unrolled.BackProjection("fbp")(of(ring(TimeOfFlight(5, 100.0, 100.0))))


@pytest.mark.parametrize("options", [{}, {"n_slices": 3}, {"network": "dilated", "width": 4}, {"start": "fbp"}])
def test_networks_after_a_back_projection(options):
    with unrolled.seeded(0):
        model = unrolled.back_projection_net(2, **{"width": 2, "levels": 2, **options}).eval()
    projector = camera(32, 12, rows=3)
    with torch.no_grad():
        image, doubled = model(of(projector)), model(of(projector, 2.0))
    assert image.shape == (2, 32, 32, 3)
    assert torch.allclose(doubled, 2 * image, rtol=1e-3, atol=1e-3 * float(image.max()))


def test_the_most_likely_places_of_events_with_time_of_flight():
    flat, tof = ring(n=32), ring(TimeOfFlight(9, 60.0, 100.0), 32)
    truth = torch.zeros((1, 32, 32, 1))
    truth[:, 22, 10] = 100
    spread = []
    for projector in (flat, tof):
        image = unrolled.BackProjection()(PoissonLikelihood(projector(truth), AcquisitionModel(projector)))
        spread.append(float((image * (image > 0.1 * image.max())).gt(0).sum()))
    assert spread[1] < spread[0]


@pytest.mark.parametrize("kind", ["smoothed", "betas"])
def test_one_image_of_several(kind):
    with unrolled.seeded(0):
        model = unrolled.fusion_net(2, kind=kind, widths=(3,), passes=1, subsets=2).eval()
    with torch.no_grad():
        image, doubled = model(scan()), model(scan(2.0))
    assert torch.allclose(doubled, 2 * image, rtol=1e-2, atol=1e-2 * float(image.max()))


# ---- data that are partly measured -----------------------------------------------------------------------------------


def test_bins_between_measured_ones_are_interpolated():
    data = torch.arange(12.0).reshape(1, 1, 12, 1).expand(1, 1, 12, 4).clone()
    mask = torch.zeros_like(data)
    mask[:, :, ::3] = 1
    filled = interpolated(data * mask, mask, half_turn=False)
    assert torch.allclose(filled[:, :, :10], data[:, :, :10])
    assert torch.allclose(filled[0, 0, 10:, 0], torch.tensor([6.0, 3.0]))  # from 9 back to 0, around the turn
    gap = torch.ones_like(data)
    gap[..., 2] = 0
    assert torch.allclose(interpolated(data * gap, gap, half_turn=False), data)


def test_completed_data_keep_what_was_measured():
    projector = camera(32, 12)
    likelihood = of(projector)
    part = unrolled.partly_measured(likelihood, unrolled.every_view(12, 3, projector.out_shape))
    assert part.subset(0, 3).data.shape[1] == 4
    with unrolled.seeded(0):
        model = unrolled.sinogram_net(2, width=2, depth=2, passes=1, subsets=2).eval()
    with torch.no_grad():
        done = model.completion(part)
        assert torch.equal(done.counts[:, ::3], likelihood.data[:, ::3])
        assert float(done.counts[:, 1::3].min()) > 0
        assert not done.measured[:, 1::3].any()
        assert isinstance(done.likelihood, GaussianLikelihood)
        image = model(part)
        doubled = model(unrolled.partly_measured(of(projector, 2.0), unrolled.every_view(12, 3, projector.out_shape)))
    assert torch.allclose(doubled, 2 * image, rtol=0.02, atol=0.02 * float(image.max()))


def test_variances_of_predicted_bins_are_learned():
    projector = camera(32, 12)
    part = unrolled.partly_measured(of(projector), unrolled.every_view(12, 3, projector.out_shape))
    model = unrolled.sinogram_net(2, width=2, depth=2)
    done = model.completion(part)
    loss = ((done.counts - of(projector).data) ** 2 / done.variance + done.variance.log()).mean()
    loss.backward()
    assert all(w.grad is not None for w in model.networks[0].parameters())


def test_what_cannot_be_completed_is_refused():
    projector = camera(32, 12)
    with pytest.raises(ValueError, match="no bin is measured"):
        unrolled.partly_measured(of(projector), torch.zeros(projector.out_shape, dtype=torch.bool))
    with pytest.raises(ValueError, match="not evenly spaced"):
        unrolled.every_view(12, 5, projector.out_shape)


def test_weighted_least_squares_find_the_image():
    projector = camera(16, 12, mu=False)
    truth = torch.rand((2, *projector.in_shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = AcquisitionModel(projector, background=0.1)
    y = model(truth)
    f = GaussianLikelihood(y, model, 1 + y)
    x = (0.5 + truth).clone().requires_grad_()
    (slope,) = torch.autograd.grad(f.value(x).sum(), x)
    assert torch.allclose(slope, f.gradient(x.detach()), rtol=1e-6, atol=1e-9)
    assert torch.allclose(
        f.gradient(x.detach()) - f.gradient(truth), f.hessian_vector(truth, x.detach() - truth), atol=1e-6
    )
    parts = f.subset(0, 2).value(truth + 1) + f.subset(1, 2).value(truth + 1)
    assert torch.allclose(parts, f.value(truth + 1))
    start = 0.5 * f.ones_image()
    assert float(f.value(run(osem(f, start, 2), 30)).sum()) < float(f.value(start).sum()) / 10
    assert float(f.value(run(lbfgsb(f, start=start), 20)).sum()) < float(f.value(start).sum()) / 100
    with pytest.raises(ValueError, match="must not be negative"):
        GaussianLikelihood(y, model, -y)


@pytest.mark.parametrize("hides", [{"pattern": unrolled.EvenlySpacedViews(2, shifted=True)}, {"share": 0.5}])
def test_networks_of_data_learn_what_was_hidden(hides):
    projector = camera(32, 12)
    with unrolled.seeded(0):
        model = unrolled.sinogram_net(2, width=4, depth=2, keep_measured="pattern" in hides, passes=1, subsets=2)
    objective, optimiser = unrolled.Completing(**hides), torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = objective(model, ({"likelihood": of(projector, 5.0)}, None), torch.Generator().manual_seed(step))
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    with pytest.raises(ValueError, match="give one of them"):
        unrolled.Completing()


def test_crystals_that_failed_take_their_bins_with_them():
    sinogram = ring(rings=2).sinogram
    lost = [3, 4, 5]
    kept = unrolled.without_crystals(sinogram, lost, rings=[1]).numpy()
    pairs = sinogram.crystal_pairs[:, 0]  # (views, radial, 2)
    failed = np.isin(pairs, lost).any(-1)
    for plane, rings in enumerate(sinogram.ring_pairs):
        expected = failed if (rings == 1).all() else np.zeros_like(failed)
        assert np.array_equal(~kept[..., plane], expected)
    with pytest.raises(ValueError, match="no bin is left"):
        unrolled.without_crystals(sinogram, range(sinogram.scanner.n_crystals))
    columns = unrolled.without_bins((12, 8, 1), [3])
    assert columns[:, 3].sum() == 0
    assert columns.sum() == 12 * 7
    with pytest.raises(ValueError, match="bins are 0 to 7"):
        unrolled.without_bins((12, 8, 1), [8])


def test_room_for_a_blur_is_not_a_part_of_the_image():
    projector = ring(n=32)
    blurred = projector @ GaussianBlur(projector.grid, 5.0)
    assert blurred.inner is not None
    plain, with_blur = unrolled.described(projector), unrolled.described(blurred)
    assert {name for name in plain if plain[name] != with_blur[name]} == {"fwhm"}
    assert unrolled.BackProjection("fbp")(of(blurred)).shape == (2, 32, 32, 1)
