"""Greedy training: equal to a loop written by hand, resumed exactly, and never worse than EM alone."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from emrecon import recon
from emrecon.projectors import AcquisitionModel, ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector
from emrecon.unrolled.enhancement import NetworkDenoiser
from emrecon.unrolled.methods.presets import bcd_net, em_net, fbsem_net, mapem_net
from emrecon.unrolled.methods.unrolled_em import UnrolledEM
from emrecon.unrolled.networks.blocks import (
    ConvolutionalAutoencoder,
    ResidualUnit,
    SmallCNN,
    initial_thresholds,
    seeded,
)
from emrecon.unrolled.networks.scaling import ScaleEquivariant, count_scale
from emrecon.unrolled.training.layerwise import first_thresholds, train_layers
from emrecon.unrolled.training.loop import Settings
from emrecon.unrolled.training.losses import Supervised, l1, mse

N = 16
GRID = ImageGrid((N, N, 1), 4.0)
CAMERA = SPECTGeometry.circular(12, 80, (N, 1), 4.0)
A = SPECTProjector(GRID, CAMERA, np.full(GRID.shape, 0.1), LinearResponse(0.03, 2.0))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One thread, no pictures."""
    monkeypatch.setattr("emrecon.unrolled.training.loop.plot_log", lambda folder: None)
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def case(n, seed, guides=0, dtype=torch.float32):
    """A batch of discs with hot spots, counts at levels that differ by item, and guides that know the spots."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*[np.arange(N) - N / 2 + 0.5] * 2, indexing="ij")
    spots = rng.uniform(-3, 3, (n, 2))
    hot = np.stack([(x - a) ** 2 + (y - b) ** 2 < 4 for a, b in spots])
    truth = torch.as_tensor((((x**2 + y**2) < 40) + 3 * hot)[..., None] * 5.0 * (1 + np.arange(n))[:, None, None, None])
    background = torch.full((n, *CAMERA.shape), 0.5, dtype=torch.float64)
    model = AcquisitionModel(A, background=background.to(dtype))
    counts = torch.poisson(A(truth) + background, generator=torch.Generator().manual_seed(seed))
    arguments = {"likelihood": recon.PoissonLikelihood(counts.to(dtype), model)}
    if guides:
        guide = torch.as_tensor(hot[..., None] + 0.1 * rng.random((n, *GRID.shape)), dtype=dtype)
        arguments["guide"] = guide if guides == 1 else torch.stack([guide] * guides, 1)
    return arguments, truth.to(dtype)


CASES, VALIDATION = [case(3, 0), case(2, 1), case(1, 2)], [case(2, 3)]


def network(n=3, guides=0, dtype=torch.float32, **options):
    with seeded(0):
        denoisers = [
            NetworkDenoiser(SmallCNN(2, 1 + guides, residual=True, non_negative=True), 2, guides) for _ in range(n)
        ]
    return UnrolledEM(denoisers, **{"beta": "keep", "initial_beta": 1.0, **options}).to(dtype)


def adam(denoiser, rate=3e-3):
    return torch.optim.Adam(denoiser.parameters(), rate)


def fit(model, settings=None, cases=CASES, loss=None, optimiser_of=adam, **options):
    settings = settings or Settings(40, 20)
    return train_layers(model, cases, loss or Supervised(mse), optimiser_of, settings, **{"batch_size": 2, **options})


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- what is learned -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_no_module_is_worse_than_em_alone(warm):
    ((held_out, truth),) = VALIDATION
    f = held_out["likelihood"]
    start = count_scale(f) * (f.sensitivity_like(f.ones_image()) > 0)
    more = [recon.run(recon.mlem(f, start), 4 + k) for k in (1, 2, 3)]
    records = list(fit(network(initial=(4, 1)), Settings(100, 100), validation=VALIDATION, warm=warm))
    assert [record.layer for record in records] == [0, 1, 2]
    for record, em in zip(records, more):
        assert record.nrmse is not None
        assert record.nrmse < 0.95 * float(recon.nrmse(em, truth, dimensions=3).mean())
    assert records[2].training_nrmse < records[0].training_nrmse
    assert all(record.loss > 0 and record.seconds > 0 for record in records)


def test_the_network_makes_the_images_of_the_last_record():
    with seeded(0):
        denoisers = [NetworkDenoiser(ResidualUnit(2, depth=2, width=4), 2) for _ in range(2)]  # batch statistics
    model = UnrolledEM(denoisers, em_steps=2, subsets=3, initial=(2, 4))
    *_, record = fit(model, validation=VALIDATION)
    assert not model.training
    with torch.no_grad():
        for (arguments, truth), image in zip(CASES, record.images):
            assert torch.equal(model(**arguments), image)
            assert image.shape == truth.shape
        image = model(**VALIDATION[0][0])
    assert record.nrmse == pytest.approx(float(recon.nrmse(image, VALIDATION[0][1], dimensions=3).mean()), rel=1e-12)


def test_it_equals_a_loop_written_by_hand():
    f = [case(2, seed, dtype=torch.float64) for seed in range(2)]
    model, reference = (network(2, dtype=torch.float64) for _ in range(2))
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=4, gamma=0.1)
    records = list(fit(model, Settings(7, 7, seed=5), cases=lambda: iter(f), loss=Supervised(l1), schedule_of=schedule))

    scale = [count_scale(arguments["likelihood"]) for arguments, _ in f]
    images = [c.expand(2, *GRID.shape) for c in scale]
    target = torch.cat([truth / c for (_, truth), c in zip(f, scale)])
    for n, denoiser in enumerate(reference.denoisers):
        optimiser = adam(denoiser)
        steps = schedule(optimiser)
        x = torch.cat([image / c for image, c in zip(images, scale)])
        step = epoch = 0
        while step < 7:
            order = np.random.default_rng((5, n, epoch)).permutation(4)
            for rows in (order[:2], order[2:]):
                if step < 7:
                    optimiser.zero_grad()
                    (denoiser(x[rows]) - target[rows]).abs().mean().backward()
                    optimiser.step()
                    steps.step()
                    step += 1
            epoch += 1
        for i, (arguments, _) in enumerate(f):
            likelihood, c = arguments["likelihood"], scale[i]
            with torch.no_grad():
                s = likelihood.sensitivity_like(images[i])
                beta = s.sum() / (s > 0).sum() / c  # one camera for all items
                em = recon.em_step(images[i], likelihood)
                images[i] = recon.em_fuse(em, c * denoiser(images[i] / c), s, beta)
        for found, expected in zip(records[n].images, images) if n == 1 else ():
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    for name, w in model.state_dict().items():
        torch.testing.assert_close(w, reference.state_dict()[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("guides", [1, 2])
def test_guides_reach_the_denoisers(guides):
    cases = [case(3, 0, guides), case(2, 1, guides)]
    model = network(2, guides)
    *_, record = fit(model, cases=cases, validation=[case(2, 3, guides)])
    with torch.no_grad():
        assert torch.equal(model(**cases[1][0]), record.images[1])
        shared = cases[0][0] | {"guide": cases[0][0]["guide"][0]}
        expected = model(**cases[0][0])
        assert not torch.equal(model(**shared), expected)
    for p in (p for name, p in model.named_parameters() if name.endswith("0.weight")):
        assert not torch.equal(p, dict(network(2, guides).named_parameters())["denoisers.0.body.layers.0.0.weight"])
    one_for_all = network(1, guides)
    *_, record = fit(one_for_all, Settings(2), cases=[(shared, cases[0][1])])
    repeated = network(1, guides)
    expand = shared["guide"].expand(3, *shared["guide"].shape)
    *_, other = fit(repeated, Settings(2), cases=[(shared | {"guide": expand}, cases[0][1])])
    assert same(one_for_all, repeated)
    assert torch.equal(record.images[0], other.images[0])


def test_weights_of_voxels_single_items_and_starts():
    arguments, truth = case(1, 0)
    one = recon.PoissonLikelihood(arguments["likelihood"].data[0], AcquisitionModel(A, background=0.5))
    start = torch.full(GRID.shape, 3.0)
    model = network(1, scale=None)
    seen = []

    def loss(layer, batch, generator):
        seen.append(batch)
        return Supervised(mse)(layer, batch, generator)

    (record,) = fit(model, Settings(1), cases=[((one, start), truth[0], torch.tensor(2.0))], loss=loss)
    (named, target, weight), *_ = seen
    assert torch.equal(named["x"], start[None])
    assert torch.equal(target, truth)
    assert torch.equal(weight, torch.full_like(truth, 2.0))
    with torch.no_grad():
        assert torch.equal(model(one, start), record.images[0])


def test_the_first_thresholds_are_those_published():
    with seeded(0):
        model = bcd_net(2, n_modules=2, channels=4)
    seen = []

    def prepare(denoiser, images):
        first_thresholds(denoiser, images)
        seen.append(torch.stack(list(images)))
        alpha = denoiser.body.threshold.alpha
        assert torch.allclose(alpha, torch.full((4,), initial_thresholds(seen[-1])))

    def optimiser_of(denoiser):
        rates = {"encoder": 1e-2, "decoder": 1e-3, "threshold": 1e-1}
        return torch.optim.Adam([{"params": getattr(denoiser.body, k).parameters(), "lr": v} for k, v in rates.items()])

    records = list(fit(model, Settings(60, 30), loss=Supervised(l1), optimiser_of=optimiser_of, prepare=prepare))
    assert [images.shape for images in seen] == [(6, *GRID.shape)] * 2
    scale = torch.cat([count_scale(arguments["likelihood"]) for arguments, _ in CASES])
    torch.testing.assert_close(seen[0] * scale, scale.expand(6, *GRID.shape))
    assert [record.layer for record in records] == [0, 1]
    with pytest.raises(ValueError, match="has no SoftThreshold"):
        first_thresholds(network().denoisers[0], [truth for _, truth in CASES])
    wrapped = ScaleEquivariant(NetworkDenoiser(ConvolutionalAutoencoder(2, channels=3), 2))
    first_thresholds(wrapped, list(seen[1]), top=0.5)
    level = initial_thresholds(seen[1], 0.5)
    assert wrapped.denoiser.body.threshold.alpha.tolist() == pytest.approx([level] * 3)


def test_a_warm_start_takes_the_weights_of_the_module_before():
    def first_weights(warm):
        model, kept = network(2), []

        def prepare(denoiser, images):
            kept.append([p.detach().clone() for p in denoiser.parameters()])

        list(fit(model, Settings(3), warm=warm, prepare=prepare))
        return kept[1], list(model.denoisers[0].parameters())

    (cold, first), (warm, before) = (first_weights(warm) for warm in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(first, before))
    assert all(torch.equal(a, b) for a, b in zip(warm, before))
    assert not all(torch.equal(a, b) for a, b in zip(cold, before))


def test_the_best_or_the_averaged_weights_are_kept(tmp_path):
    rows = {}
    for keep in ("last", "best"):
        for folder in (None, tmp_path / keep):
            settings = Settings(12, 3, ema=0.5, folder=folder)
            model = network(2)
            records = list(fit(model, settings, optimiser_of=partial(adam, rate=0.3), validation=VALIDATION, keep=keep))
            rows.setdefault(keep, []).append((model, records))
        (a, first), (b, second) = rows[keep]
        assert same(a, b)
        assert [r[1:4] for r in first] == [r[1:4] for r in second]
    state = torch.load(tmp_path / "last" / "layer-001" / "checkpoint.pt", weights_only=True)
    assert all(
        torch.equal(w, state["average"][f"denoisers.0.{k}"])
        for k, w in rows["last"][0][0].denoisers[1].state_dict().items()
    )
    assert not same(rows["last"][0][0], rows["best"][0][0])
    log = json.loads((tmp_path / "best" / "layer-000" / "log.json").read_text())
    assert [row["step"] for row in log] == [3, 6, 9, 12]
    assert not log[-1]["improved"]


# ---- killed and resumed ----------------------------------------------------------------------------------------------


def test_killed_in_any_module_and_resumed_ends_with_the_same_weights(tmp_path):
    steps = []

    def loss(layer, batch, generator, last=None):
        steps.append(0)
        if len(steps) == last:
            raise KeyboardInterrupt
        arguments, target = batch
        noise = 0.1 * torch.randn(target.shape, generator=generator)
        return mse(layer(**{**arguments, "x": arguments["x"] + noise}), target)

    def run(folder, last=None, **options):
        steps.clear()
        model = network(3)
        settings = Settings(13, 5, folder=folder, save_seconds=0, **options)
        schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=5)
        records = fit(model, settings, loss=partial(loss, last=last), schedule_of=schedule, warm=True)
        return model, records

    whole, records = run(tmp_path / "whole")
    undisturbed = list(records)
    assert len(steps) == 3 * 13
    for last in (13 + 8, 6 + 3):  # step 8 of module 1, then step 3 of module 2
        _, records = run(tmp_path / "parts", last)
        with pytest.raises(KeyboardInterrupt):
            list(records)
    resumed, records = run(tmp_path / "parts")
    again = list(records)
    assert len(steps) == 13 - 2
    assert same(resumed, whole)
    assert [r[:4] for r in again] == [r[:4] for r in undisturbed]
    assert all(torch.equal(a, b) for r, q in zip(again, undisturbed) for a, b in zip(r.images, q.images))
    finished, records = run(tmp_path / "parts")
    assert len(list(records)) == 3
    assert not steps
    assert same(finished, whole)

    with pytest.raises(ValueError, match="belongs to another run"):
        next(run(tmp_path / "parts", seed=1)[1])
    with pytest.raises(ValueError, match="6 images in batches of 2"):
        next(fit(network(3), Settings(13, 5, folder=tmp_path / "parts"), batch_size=3))


def test_a_module_that_followed_other_weights_is_refused(tmp_path):
    list(fit(network(2), Settings(4, 2, folder=tmp_path)))
    records = fit(network(2), Settings(6, 2, folder=tmp_path))
    assert next(records).layer == 0  # it goes on from step 4
    with pytest.raises(ValueError, match=r"layer-001.*signature: 'module 1 after"):
        next(records)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_errors_say_what_is_wrong():
    for model, match in (
        (mapem_net(n_modules=2, tied=False, width=2), "has a dual variable"),
        (fbsem_net(n_modules=1), "has per_subset"),
        (em_net(n_modules=1, width=2), "has form='gradient'"),
        (mapem_net(n_modules=2, width=2, dual=False), "share weights"),
        (UnrolledEM([network(1).denoisers[0]] * 2), "share weights"),
        (UnrolledEM([lambda x, sigma=None, *, guide=None: x]), "module 0 has no weights"),
    ):
        with pytest.raises(ValueError, match=match):
            next(fit(model))
    for options, match in (
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"keep": "worst"}, 'keep is "last" or "best"'),
        ({"cases": []}, "cases is empty"),
        ({"validation": []}, "validation is empty"),
        ({"cases": [CASES[0][0]]}, "takes cases"),
        ({"cases": [(CASES[0][0], CASES[1][1])]}, r"a target of \(2, 16, 16, 1\) does not fit"),
        ({"cases": [case(1, 0, 1), case(1, 0)]}, "must have a guide, and likewise a weight"),
        ({"cases": iter(CASES)}, "fewer after module 0"),
    ):
        with pytest.raises(ValueError, match=match):
            next(fit(network(1), Settings(1), **options))
    small = SPECTProjector(ImageGrid((8, 8, 1), 4.0), CAMERA)
    f = recon.PoissonLikelihood(torch.ones((1, *CAMERA.shape)), AcquisitionModel(small, background=0.5))
    mixed = [CASES[2], ({"likelihood": f}, torch.ones(1, 8, 8, 1))]
    with pytest.raises(ValueError, match="use batch_size=1"):
        next(fit(network(1), Settings(1), cases=mixed))
    assert len(next(fit(network(1), Settings(2), cases=mixed, batch_size=1)).images) == 2
