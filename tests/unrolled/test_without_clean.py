"""Learning without clean images: independent parts of counts, spots that are blind, and parts put together."""

import itertools
import math

import pytest
import torch
from network_cases import small_scan
from pet_cases import likelihoods_of_one_scan

from emrecon import recon, unrolled
from emrecon.unrolled.training.noise2void import Noise2Void, blind_spots, noise_radius
from emrecon.unrolled.training.thinning import divided, leave_one_out, thinned


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(width=2):
    with unrolled.seeded(0):
        return unrolled.NetworkDenoiser(unrolled.SmallCNN(2, widths=(width,), residual=True), 2)


# ---- parts of counts -------------------------------------------------------------------------------------------------


def test_parts_are_unbiased_and_independent():
    f, shares, n = small_scan(batch=1), (0.2, 0.3, 0.5), 30
    drawn = [divided(f, shares, seeded(k)) for k in range(n)]
    y = f.data
    sums = torch.stack([torch.stack([part.data.sum() for part in parts]) for parts in drawn])
    for k, share in enumerate(shares):
        error = math.sqrt(share * (1 - share) * float(y.sum()) / n)
        assert float(sums[:, k].mean()) == pytest.approx(share * float(y.sum()), abs=4 * error)
    assert all(torch.equal(sum(part.data for part in parts), y) for parts in drawn[:3])
    # over noise of the scan as well: parts of Poisson counts are independent
    scans = torch.poisson(torch.full((40_000,), 6.0), generator=seeded(5))
    parts = unrolled.training.thinning._split(scans, shares, seeded(6))
    for a, b in itertools.combinations(parts, 2):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 5 / math.sqrt(len(scans))
    for part, share in zip(parts, shares):
        assert float(part.var()) == pytest.approx(6 * share, rel=0.04)


def test_leave_one_out_holds_every_count_once():
    f = small_scan(batch=1)
    pairs = leave_one_out(f, 3, seeded())
    assert torch.equal(sum(other.data for _, other in pairs), f.data)
    x = f.ones_image()
    for seen, other in pairs:
        assert torch.equal(seen.data + other.data, f.data)
        torch.testing.assert_close(seen.model(x), 2 / 3 * f.model(x))
        torch.testing.assert_close(seen.sensitivity, 2 / 3 * f.sensitivity)
    for call, message in (
        (lambda: leave_one_out(f, 1), "2 folds or more"),
        (lambda: divided(f, (0.5, 0.4)), "add up to 1"),
        (lambda: divided(f, (1.0,)), "two parts or more"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("timed", [False, True])
def test_events_are_thinned_as_bins_are(timed):
    _, events, _, _ = likelihoods_of_one_scan(timed)
    events = events.converted(lambda values: torch.as_tensor(values, dtype=torch.float32))
    n = events.model.projector.out_shape[0]
    first, second = thinned(events, 0.25, seeded(2))
    sizes = [part.model.projector.out_shape[0] for part in (first, second)]
    assert sum(sizes) == n
    assert sizes[0] == pytest.approx(n / 4, abs=5 * math.sqrt(n * 3 / 16))
    x = torch.rand(events.image_shape, generator=seeded()) + 0.1
    torch.testing.assert_close(first.gradient(x) + second.gradient(x), events.gradient(x), rtol=1e-3, atol=1e-3)
    # the same events, told by weights
    one = recon.ListmodeLikelihood(events.model, events.sensitivity, torch.ones(n))
    weighted, _ = thinned(one, 0.25, seeded(2))
    torch.testing.assert_close(weighted.gradient(x), first.gradient(x), rtol=1e-3, atol=1e-3)
    for seen, other in leave_one_out(events, 2, seeded(1)):
        assert seen.model.projector.out_shape[0] + other.model.projector.out_shape[0] == n


# ---- Noise2Noise -----------------------------------------------------------------------------------------------------


def test_pairs_of_images_are_those_of_the_parts():
    f, reconstruct = small_scan(), unrolled.OSEMPasses(2, 2)
    guide = torch.rand(2, 16, 16, 2, generator=seeded())
    images = unrolled.ThinnedImages([{"likelihood": f, "guide": guide}], reconstruct, repeats=2, batch_size=3)
    assert len(images) == 2 * 2 * 2
    assert images.share == 0.5
    (first, target), (_, again) = images.pairs()[0], images.pairs()[2]
    assert torch.equal(first["guide"], guide[0])
    # both directions: the images of the halves change places, each over the scale of the network's input
    ratio = again[target > 0] / first["x"][target > 0]
    assert float(ratio.std() / ratio.mean()) < 1e-4
    batches = list(images.batches(1))
    assert [len(target) for _, target in batches] == [3, 3]
    for (a, _), (b, _) in zip(batches, images.batches(1)):
        assert torch.equal(a["x"], b["x"])
    denoiser = network()
    before = [w.clone() for w in denoiser.parameters()]
    for _ in unrolled.train(
        denoiser,
        unrolled.ThinnedImages([f], reconstruct).batches,
        unrolled.Supervised(),
        torch.optim.Adam(denoiser.parameters(), 1e-2),
        unrolled.Settings(2, 2),
    ):
        pass
    assert any(not torch.equal(w, v) for w, v in zip(before, denoiser.parameters()))


def test_parts_averaged_is_the_mean_of_what_the_parts_make():
    f = small_scan()
    model = unrolled.Enhanced(unrolled.OSEMPasses(1, 2), network())
    whole = unrolled.PartsAveraged(model, folds=3)
    assert isinstance(whole, unrolled.Reconstructor)
    assert (whole.dimensions, whole.guide_channels, len(whole.networks)) == (2, 0, 1)
    with torch.no_grad():
        image = whole(f)
        assert torch.equal(image, whole(f))
        assert not torch.equal(image, unrolled.PartsAveraged(model, 3, seed=1)(f))
        parts = [whole([f.subset(k, 2) for k in range(2)]), unrolled.PartsAveraged(model, 3, 2)(f)]
    for other in parts:
        assert float((other - image).abs().mean() / image.mean()) < 0.2
    # of a linear reconstruction it is the image of all counts: nothing is lost and nothing is counted twice
    linear = unrolled.PartsAveraged(lambda likelihood, start: likelihood.model.adjoint(likelihood.data), 2)
    torch.testing.assert_close(linear(f), f.model.adjoint(f.data) / 4)  # half of the counts, by a model of half


def test_a_range_of_shares_draws_one_for_each_step():
    f, shares = small_scan(), []

    def model(likelihood):
        shares.append(float(likelihood.data.sum() / f.data.sum()))
        return likelihood.ones_image()

    objective = unrolled.ThinnedNoise2Noise((0.3, 0.9))
    for k in range(6):
        objective(model, f, seeded(k))
    assert 0.25 < min(shares) < 0.5 < 0.7 < max(shares) < 0.95
    with pytest.raises(ValueError, match="from low to high"):
        unrolled.ThinnedNoise2Noise((0.9, 0.3))


def test_images_of_any_engine():
    f = small_scan()
    prior = 0.1 * recon.Quadratic()
    made = unrolled.EnginePasses(lambda g, start: recon.map_em(g, prior, start, n_subsets=2), 2)(f)
    start = unrolled.count_scale(f) * f.ones_image()
    torch.testing.assert_close(made, recon.run(recon.map_em(f, prior, start, n_subsets=2), 2))
    with pytest.raises(ValueError, match="a pass at least"):
        unrolled.EnginePasses(lambda g, start: iter(()), 0)


# ---- blind spots -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "box"), [(0.0, (4, 4, 1)), (1.5, (8, 8, 1)), (1.0, (5, 5, 5))])
def test_a_network_never_sees_what_it_is_asked_for(radius, box):
    shape = (1, 16, 16, 1) if box[2] == 1 else (1, 10, 10, 10)
    image = torch.rand(shape, generator=seeded(), dtype=torch.float64).requires_grad_()
    with unrolled.seeded(1):
        body = unrolled.SmallCNN(2 if box[2] == 1 else 3, widths=(3, 3)).double()
    denoiser = unrolled.NetworkDenoiser(body, 2 if box[2] == 1 else 3)
    hidden, spots = blind_spots(image, seeded(3), box, radius=radius)
    made = denoiser(hidden)
    for place in torch.nonzero(spots)[:6]:
        (gradient,) = torch.autograd.grad(made[tuple(place)], image, retain_graph=True)
        assert gradient[tuple(place)] == 0
        assert gradient.abs().sum() > 0
        near = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape[1:]), indexing="ij"), -1) - place[1:]
        assert not gradient[0][(near**2).sum(-1) <= radius**2].any()


def test_noise2void_takes_guides_and_hides_balls():
    image = torch.rand(2, 16, 16, 1, generator=seeded())
    hidden, spots = blind_spots(image, seeded(), radius=1.0)
    assert int((hidden != image).sum()) > 3 * int(spots.sum())
    seen = []

    def model(x, guide):
        seen.append(guide)
        return x

    value = Noise2Void(radius=1.0)(model, {"x": image, "guide": image}, seeded())
    torch.testing.assert_close(value, ((hidden - image) ** 2)[spots].mean())
    assert seen[0] is image
    for seed in range(9):  # a box that is larger than the image asks for a voxel of it all the same
        assert blind_spots(image, seeded(seed), (64, 64, 1))[1].sum((1, 2, 3)).tolist() == [1, 1]
    with pytest.raises(ValueError, match="no value is left to take"):
        blind_spots(image, seeded(), (2, 2, 1), reach=1, radius=3.0)
    with pytest.raises(ValueError, match="radius must be 0 or more"):
        blind_spots(image, seeded(), radius=-1)


def test_the_reach_of_correlated_noise_is_measured():
    white = torch.randn(2, 2, 64, 64, 1, generator=seeded())
    assert noise_radius(*white) == 0
    smooth = torch.nn.functional.avg_pool2d(white[..., 0], 3, stride=1, padding=1)[..., None]
    assert noise_radius(*smooth) == 2  # correlations 2/3, 1/3, 0
    with pytest.raises(ValueError, match="hold no noise"):
        noise_radius(white[0], white[0])


# ---- conditional deep image prior ------------------------------------------------------------------------------------


def test_a_conditional_prior_follows_its_guide_and_the_scale_of_the_image():
    guide = torch.zeros(2, 12, 12, 1)
    guide[0, 3:9, 3:9], guide[1, 2:6, :] = 1, 2
    truth = 1 + 3 * guide / guide.amax((1, 2, 3), keepdim=True)
    noisy = truth + torch.randn(truth.shape, generator=seeded())
    body = unrolled.dip_chain(2, norm="none")
    prior = unrolled.ConditionalDIP(body, iterations=6, fit=unrolled.Fit("adam", 10, 1e-2))
    made = prior(noisy, guide=guide)
    assert float((made - truth).norm()) < 0.6 * float((noisy - truth).norm())
    torch.testing.assert_close(prior(2 * noisy[0], guide=guide[0]), 2 * made[0], rtol=1e-3, atol=1e-3)
    early = prior(noisy, 3.0, guide=guide)  # of so much noise one iteration is enough
    first = next(prior.iterates(noisy[0], guide=guide[0])).image
    torch.testing.assert_close(early[0], first)
    rules = []
    prior(noisy[:1], callbacks=lambda: rules.append(unrolled.WindowedVariance(2, 2)) or rules[-1:])
    assert len(rules[0].history) >= 1
    for call, message in (
        (lambda: prior(noisy, guide=guide[:, :3]), "does not fit"),
        (lambda: prior(noisy, guide=guide / 0), "NaN or infinite"),
        (lambda: prior(torch.zeros(12, 12, 1)), "0 everywhere"),
        (lambda: unrolled.ConditionalDIP(iterations=0), "an iteration and a channel"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
