"""The training loop: killed and resumed bit for bit, averaged, stopped, logged, and shared by two processes."""

import csv
import json
import math
import signal
import subprocess
import sys
import textwrap
from itertools import islice

import numpy as np
import pytest
import torch
from ranks import run_ranks
from torch import nn

from emrecon.sims.datasets.reading import loader
from emrecon.unrolled.training.distributed import ShardedProjector, process_group, rank_and_size, sum_over_ranks
from emrecon.unrolled.training.loop import (
    Settings,
    Validation,
    by_epoch,
    mixed_precision,
    random_step,
    train,
    update_average,
)
from emrecon.unrolled.training.losses import Supervised, mse
from emrecon.unrolled.training.names import load_plain
from emrecon.unrolled.training.records import best_weights, plot_log
from emrecon.unrolled.training.schedules import warmup_cosine, warmup_steps

# What several processes share, as text: a network with all that makes resuming hard, and data that follow the epoch.
COMMON = '''
import os, sys
import numpy as np, torch
from torch import nn
from emrecon.unrolled.training.losses import Supervised
from emrecon.unrolled.training.loop import Settings, Validation, train
from emrecon.unrolled.training.schedules import warmup_cosine

class Network(nn.Module):
    """A slice denoiser with dropout and batch normalisation."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            first, last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
            self.layers = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), last)
        self.networks = nn.ModuleList([self.layers])

    def forward(self, x):
        return x + self.layers(x.movedim(-1, 1)).movedim(1, -1)

def pairs(epoch, n=5, batch=4):
    random = torch.Generator().manual_seed(epoch)
    truth = torch.rand((n, batch, 12, 12, 1), generator=random)
    return [(x + 0.3 * torch.randn(x.shape, generator=random), x) for x in truth]

def noisy(model, batch, generator):
    x, target = batch
    return ((model(x + 0.1 * torch.randn(x.shape, generator=generator)) - target) ** 2).mean()

def setup(folder, steps=23, **options):
    model = Network()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    settings = Settings(steps, 5, clip=1.0, ema=0.9, folder=folder, save_seconds=0, **options)
    options = {"schedule": warmup_cosine(optimiser, 23, 4), "validate": Validation(pairs(1000)[:2])}
    return train(model, pairs, noisy, optimiser, settings, **options), model
'''
SPACE: dict = {"__name__": "common"}
exec(COMMON, SPACE)
Network, pairs, noisy, setup = (SPACE[name] for name in ("Network", "pairs", "noisy", "setup"))


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """One thread, and pictures only where they are looked at."""
    if "tells" not in request.node.name:
        monkeypatch.setattr("emrecon.unrolled.training.loop.plot_log", lambda folder: None)
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def run_alone(folder):
    records, model = setup(folder)
    return list(records), model


def same(a, b):
    a, b = (x if isinstance(x, dict) else x.state_dict() for x in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def script(tmp_path, body):
    path = tmp_path / "script.py"
    path.write_text(COMMON + textwrap.dedent(body))
    return str(path)


# ---- the loop --------------------------------------------------------------------------------------------------------


def test_it_learns_and_tells(tmp_path):
    records, _ = run_alone(tmp_path)
    assert [record.step for record in records] == [5, 10, 15, 20, 23]
    assert [record.epoch for record in records] == [0, 1, 2, 3, 4]
    assert records[-1].loss < records[0].loss
    assert set(records[0].metrics) == {"nrmse", "psnr", "ssim"}
    assert records[0].improved
    best = min(records, key=lambda record: record.metrics["nrmse"])
    assert same(best_weights(tmp_path), best.weights)
    rows = json.loads((tmp_path / "log.json").read_text())
    with (tmp_path / "log.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == [int(row["step"]) for row in table] == [5, 10, 15, 20, 23]
    assert rows[2]["nrmse"] == records[2].metrics["nrmse"] == float(table[2]["nrmse"])
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert len(plot_log(tmp_path).axes) == 6
    assert list(setup(tmp_path)[0]) == []  # it is finished


def test_leaving_the_loop_and_going_on_changes_nothing(tmp_path):
    whole, model = run_alone(tmp_path / "whole")
    for n in (1, 1, 2):
        records, _ = setup(tmp_path / "parts")
        assert len(list(islice(records, n))) == n
        records.close()
    records, resumed = setup(tmp_path / "parts")
    rest = list(records)
    assert [record.step for record in rest] == [23]
    assert same(resumed, model)
    assert same(rest[-1].weights, whole[-1].weights)
    assert same(best_weights(tmp_path / "parts"), best_weights(tmp_path / "whole"))
    logs = [json.loads((tmp_path / name / "log.json").read_text()) for name in ("whole", "parts")]
    pace = {"seconds": 0, "samples_per_second": 0, "data_share": 0}
    assert [row | pace for row in logs[0]] == [row | pace for row in logs[1]]


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_weights(tmp_path):
    _, model = run_alone(tmp_path / "whole")
    path = script(
        tmp_path,
        """
        import time
        torch.set_num_threads(1)
        quick = noisy
        def noisy(model, batch, generator):
            print("step", flush=True)
            time.sleep(0.03)
            return quick(model, batch, generator)
        records, model = setup(sys.argv[1])
        list(records)
        """,
    )
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, path, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(8)] == ["step\n"] * 8
    process.kill()
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    records, resumed = setup(folder)
    assert len(list(records)) >= 3
    assert same(resumed, model)
    assert same(best_weights(folder), best_weights(tmp_path / "whole"))
    logs = [json.loads((at / "log.json").read_text()) for at in (tmp_path / "whole", folder)]
    pace = {"seconds": 0, "samples_per_second": 0, "data_share": 0}
    assert [row | pace for row in logs[0]] == [row | pace for row in logs[1]]


def test_an_interrupt_leaves_a_valid_checkpoint(tmp_path):
    _, model = run_alone(tmp_path / "whole")
    records, interrupted = setup(tmp_path / "parts")
    calls = []

    def interrupt(module, *_):
        calls.append(0)
        if module.training and len(calls) > 14:
            raise KeyboardInterrupt

    handle = interrupted.layers.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(records)
    handle.remove()
    assert not list((tmp_path / "parts").glob(".*"))
    records, resumed = setup(tmp_path / "parts")
    list(records)
    assert same(resumed, model)


def test_torch_random_numbers_outside_are_untouched():
    torch_state = torch.get_rng_state()
    records, _ = setup(None, steps=6)
    list(records)
    assert torch.equal(torch.get_rng_state(), torch_state)
    draws = []
    for seed, step, rank in ((0, 1, 0), (0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)):
        with random_step(seed, step, rank, torch.device("cpu")) as generator:
            draws.append((torch.rand(1).item(), torch.rand(1, generator=generator).item()))
    assert draws[0] == draws[1]
    assert len({number for pair in draws for number in pair}) == 8


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    run_alone(tmp_path)
    for options, match in (({"seed": 1}, "seed: 0 there, 1 here"), ({"signature": "x"}, "signature: '' there, 'x'")):
        with pytest.raises(ValueError, match=match):
            next(setup(tmp_path, **options)[0])
    data = (tmp_path / "checkpoint.pt").read_bytes()
    for bad in (data[: len(data) // 2], b"", b"no checkpoint"):
        (tmp_path / "checkpoint.pt").write_bytes(bad)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is (not a checkpoint of a training|empty)"):
            next(setup(tmp_path)[0])
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        next(setup(tmp_path)[0])
    torch.save([1], tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        next(setup(tmp_path)[0])


def plain(model, settings, loss=None, batches=pairs, **options):
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    return train(model, batches, loss or Supervised(mse), optimiser, settings, **options)


def test_one_step_is_that_of_the_optimiser_with_clipped_gradients():
    model, reference = Network().double(), Network().double()
    model.layers[3].p = reference.layers[3].p = 0.0
    data = [(x.double(), t.double()) for x, t in pairs(0)]
    record = next(plain(model, Settings(1, clip=0.01), batches=lambda epoch: data))
    loss = mse(reference(data[0][0]), data[0][1])
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in reference.parameters()))
    with torch.no_grad():
        for p in reference.parameters():
            p -= 0.05 * p.grad * min(1, 0.01 / (norm + 1e-6))
    assert record.loss == pytest.approx(loss.item())
    assert record.gradient_norm == pytest.approx(norm.item())
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q)


def test_the_average_follows_its_formula():
    model = Network()
    weights = []

    def loss(model, batch, generator):
        weights.append({name: w.clone() for name, w in model.state_dict().items()})
        return Supervised()(model, batch)

    record = next(plain(model, Settings(5, 5, ema=0.3), loss))
    expected = weights[0]["layers.0.weight"]
    for t, after in enumerate([*weights[1:], model.state_dict()], 1):
        d = min(0.3, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * after["layers.0.weight"]
    torch.testing.assert_close(record.weights["layers.0.weight"], expected)
    assert record.weights["layers.1.num_batches_tracked"] == 5
    assert not same(record.weights, model)
    average = {name: w.clone() for name, w in model.state_dict().items()}
    update_average(average, model, 0.99, 1)
    torch.testing.assert_close(average, dict(model.state_dict()))


def test_early_stopping_keeps_the_best(tmp_path):
    values = iter([3.0, 2.0, 2.5, 2.0, 1.0])
    settings = Settings(100, 2, patience=2, watch="error", folder=tmp_path)
    records = list(plain(Network(), settings, validate=lambda model: {"error": next(values)}))
    assert [record.improved for record in records] == [True, True, False, False]
    assert same(best_weights(tmp_path), records[1].weights)
    values = iter([3.0, 4.0, 2.0])
    settings = Settings(6, 2, watch="gain", maximise=True)
    records = plain(Network(), settings, validate=lambda model: {"gain": next(values)})
    assert [record.improved for record in records] == [True, True, False]


def test_a_first_metric_that_is_no_number_is_not_the_best_for_good():
    model, values = nn.Linear(1, 1), iter([math.nan, 0.5, 0.6, 0.4])
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    batch = [(torch.ones(2, 1), torch.ones(2, 1))]
    validate = lambda model: {"nrmse": next(values)}  # noqa: E731
    records = train(model, lambda epoch: batch, Supervised(mse), optimiser, Settings(4, 1), validate=validate)
    assert [record.improved for record in records] == [True, True, False, True]


def test_a_validation_that_comes_later_is_logged(tmp_path):
    def run(steps, **options):
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        optimiser = torch.optim.SGD(model.parameters(), 1e-3)
        batch = [(torch.ones(2, 1), torch.ones(2, 1))]
        settings = Settings(steps, 1, folder=tmp_path, watch="loss")
        list(train(model, lambda epoch: batch, Supervised(mse), optimiser, settings, **options))

    run(1)
    run(2, validate=lambda model: {"nrmse": 0.5})
    with (tmp_path / "log.csv").open(newline="") as stream:
        assert [row["nrmse"] for row in csv.DictReader(stream)] == ["", "0.5"]


def test_errors_say_what_is_wrong(tmp_path):
    fixed = nn.Linear(1, 1).requires_grad_(False)
    optimiser = torch.optim.SGD(nn.Linear(1, 1).parameters(), 1e-3)
    with pytest.raises(ValueError, match="no parameters"):
        next(train(fixed, lambda epoch: [], mse, optimiser, Settings(1)))
    with pytest.raises(ValueError, match=r"batches\(0\) is empty"):
        next(plain(Network(), Settings(3), batches=lambda epoch: []))
    with pytest.raises(ValueError, match="watch is 'nrmse', but validation gives error"):
        next(plain(Network(), Settings(1), validate=lambda model: {"error": 1.0}))
    model = Network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(FloatingPointError, match="step 1: loss nan"):
        next(plain(model, Settings(1), lambda model, batch, generator: math.nan * model(batch[0]).sum()))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    with pytest.raises(ValueError, match="no pairs"):
        Validation([])(model)
    for bad in (
        {"steps": 0},
        {"steps": 1, "clip": 0},
        {"steps": 1, "ema": 1.0},
        {"steps": 1, "precision": torch.int8},
        {"steps": 1, "patience": 0},
        {"steps": 1, "seed": -1},
    ):
        with pytest.raises(ValueError, match="Settings"):
            Settings(**bad)


def test_schedules():
    def rates(make, n):
        optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 2.0)
        schedule = make(optimiser)
        found = []
        for _ in range(n):
            found.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        return found

    cosine = rates(lambda optimiser: warmup_cosine(optimiser, 14, 4, floor=0.1), 16)
    assert cosine[:4] == [0.5, 1.0, 1.5, 2.0]
    assert cosine[4] == 2.0
    assert cosine[9] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert cosine[14] == cosine[15] == pytest.approx(0.2)
    assert rates(lambda optimiser: warmup_steps(optimiser, [3, 5], 0.5, 2), 6) == [1.0, 2.0, 2.0, 1.0, 1.0, 0.5]
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 2.0)
    with pytest.raises(ValueError, match="warmup < steps"):
        warmup_cosine(optimiser, 4, 4)
    with pytest.raises(ValueError, match="rising milestones"):
        warmup_steps(optimiser, [5, 3])


@pytest.mark.parametrize(
    "make",
    [
        lambda optimiser: torch.optim.lr_scheduler.StepLR(optimiser, 3),
        lambda optimiser: torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, 12),
        lambda optimiser: warmup_steps(optimiser, [4, 6], 0.1, 2),
    ],
)
def test_every_schedule_and_optimiser_goes_through_a_checkpoint(tmp_path, make):
    def run(folder, steps):
        model = Network()
        optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        settings = Settings(steps, 3, folder=folder)
        list(train(model, pairs, noisy, optimiser, settings, schedule=make(optimiser)))
        return model

    whole = run(tmp_path / "whole", 12)
    run(tmp_path / "parts", 7)
    assert same(run(tmp_path / "parts", 12), whole)


def test_data_orders_follow_the_epoch():
    class Sampler:
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

    class Loader:
        batch_sampler = Sampler()

        def __iter__(self):
            return iter([self.batch_sampler.epoch, 100 + self.batch_sampler.epoch])

    assert list(by_epoch(Loader())(3)) == [3, 103]
    assert list(by_epoch(Loader(), lambda number: -number)(1)) == [-1, -101]
    with pytest.raises(TypeError, match="set_epoch"):
        by_epoch([1, 2])
    assert list(by_epoch(Loader()).after(3, 1)) == [103]


def test_batches_that_were_used_are_not_even_made(tmp_path):
    made = []

    class Samples:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            made.append(index)
            return {"x": np.full((12, 12, 1), index, np.float32)}

    def run(steps):
        model = Network()
        optimiser = torch.optim.SGD(model.parameters(), 1e-3)
        batches = by_epoch(loader(Samples(), 2, seed=1), lambda batch: (batch["x"], batch["x"]))
        settings = Settings(steps, 3, folder=tmp_path)
        list(train(model, batches, Supervised(mse), optimiser, settings))

    run(3)
    before = list(made)
    run(5)
    assert len(before) == 6
    assert sorted(made) == list(range(10))


# ---- mixed precision -------------------------------------------------------------------------------------------------


def test_precision_is_that_of_the_networks_alone():
    class Unrolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.networks = nn.ModuleList([nn.Linear(8, 8)])
            self.outside = nn.Linear(8, 8)
            self.seen = []

        def forward(self, x):
            assert not torch.is_autocast_enabled("cpu")
            inner = self.networks[0](x)
            self.seen.append((self.networks[0].weight.dtype, inner.dtype, self.outside(x).dtype))
            return self.outside(inner)

    model, x = Unrolled(), torch.rand(4, 8)
    inside = []
    model.networks[0].register_forward_hook(lambda *_: inside.append(torch.is_autocast_enabled("cpu")))
    exact = model.networks[0](x)
    with mixed_precision(model.networks, torch.bfloat16):
        rounded = model.networks[0](x)
        model(x).sum().backward()
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.02
    assert model.seen == [(torch.float32,) * 3]
    assert model.networks[0].weight.grad.dtype == torch.float32
    assert "forward" not in vars(model.networks[0])
    assert torch.equal(model.networks[0](x), exact)
    with mixed_precision(model.networks, None):
        assert torch.equal(model.networks[0](x), exact)
    model.networks[0].forward = own = model.networks[0].forward
    with mixed_precision([model.networks[0], model.networks[0]], torch.bfloat16):
        pass
    assert model.networks[0].forward is own


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_training_in_mixed_precision_resumes_exactly(tmp_path, precision):
    def run(folder, stop=None):
        model = Network()
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        settings = Settings(8, 2, precision=precision, folder=folder)
        records = train(model, pairs, noisy, optimiser, settings)
        taken = list(islice(records, stop))
        records.close()
        return model, taken

    whole, records = run(tmp_path / "whole")
    assert all(math.isfinite(record.loss) for record in records)
    run(tmp_path / "parts", 2)
    assert same(run(tmp_path / "parts")[0], whole)
    assert {w.dtype for w in whole.parameters()} == {torch.float32}


def test_precision_needs_to_know_the_networks():
    model = nn.Conv1d(1, 1, 1)
    with pytest.raises(ValueError, match=r"networks=\[model\]"):
        next(plain(model, Settings(1, precision=torch.bfloat16)))


# ---- several processes -----------------------------------------------------------------------------------------------


def test_alone_there_is_one_rank():
    with process_group("cpu") as ranks:
        assert ranks == (0, 1, torch.device("cpu"))
    assert rank_and_size() == (0, 1)
    x = torch.ones(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(sum_over_ranks(x).sum(), x)
    assert torch.equal(gradient, torch.ones(2))
    with pytest.raises(ValueError, match="'cpu' or 'cuda'"), process_group("tpu"):
        pass


def test_incomplete_variables_of_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match=r"RANK.*start the script with torchrun"), process_group("cpu"):
        pass


TWO = """
from emrecon import projectors, recon
from emrecon.projectors import AcquisitionModel, SPECTProjector
from emrecon.recon import PoissonLikelihood, em_step, em_fuse, mlem, osem
from emrecon.unrolled.training.distributed import ShardedProjector, process_group, shared_count_scale
from emrecon.unrolled.training.distributed import sum_over_ranks, view_sharded
from emrecon.unrolled import Stage, UnrolledEM, count_scale, train_stages
from itertools import islice

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 12)).double()
        self.unused = nn.Parameter(torch.zeros(3))
    def forward(self, x):
        return self.layers(x)

def halves(rank, n_ranks):
    def batches(epoch):
        random = torch.Generator().manual_seed(epoch)
        data = torch.rand((4, 6, 2, 12), generator=random, dtype=torch.float64)
        return [(x[rank::n_ranks], t[rank::n_ranks]) for x, t in zip(data[..., 0, :], data[..., 1, :])]
    return batches

def train_net(rank, n_ranks, folder):
    model = Net()
    if rank:
        with torch.no_grad():
            model.layers[0].weight += 1  # the first rank's are given to all
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    settings = Settings(10, 4, clip=0.5, ema=0.9, folder=folder, watch="loss")
    records = train(model, halves(rank, n_ranks), Supervised(), optimiser, settings)
    for record in records:
        assert rank == 0 or n_ranks == 1 or record.metrics == {}
    return model.state_dict()

def train_in_stages(rank, n_ranks, folder):
    model = Net()
    if rank:
        with torch.no_grad():
            model.unused += 1  # which no stage trains, and is the first rank's all the same
    settings = Settings(4, 2, folder=folder, watch="loss")
    adam = lambda module: torch.optim.Adam(module.parameters(), 1e-2)
    stages = [
        Stage("layers", model.layers, halves(rank, n_ranks), Supervised(), adam, settings, keep="best"),
        Stage("all", model, halves(rank, n_ranks), Supervised(), adam, settings),
    ]
    list(train_stages(model, stages))
    return model.state_dict()

def scan():
    grid = projectors.ImageGrid((8, 8, 3), 6.0)
    camera = projectors.SPECTGeometry.circular(n_views=7, radius=80, n_bins=(8, 3), pixel_size=6.0)
    A = SPECTProjector(grid, camera, attenuation=np.full((8, 8, 3), 0.1))
    truth = torch.rand((2, 8, 8, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = AcquisitionModel(A, 0.5 + torch.rand((7, 8, 3), generator=torch.Generator().manual_seed(2)).double(), 0.3)
    counts = torch.poisson(20 * model(truth), generator=torch.Generator().manual_seed(3))
    return PoissonLikelihood(counts, model)

class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
    def forward(self, x, sigma=None, *, guide=None):
        return x + self.weight * torch.roll(x, 1, -2)

def unrolled(f, scale):
    # the image, and the gradients of the weights
    found = []
    for grad in ("full", "checkpoint"):
        network = UnrolledEM(Denoiser(), 3, grad=grad, scale=scale).double()
        image = network(f)
        found += [image.detach(), *torch.autograd.grad((image ** 2).mean(), tuple(network.parameters()))]
    return torch.cat([part.reshape(-1) for part in found])

def results(f, total):
    x = next(islice(mlem(f), 4, None)).image
    z = torch.rand(x.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype).requires_grad_()
    start = x.clone().requires_grad_()
    fused = em_fuse(em_step(start, f), z, f.sensitivity_like(x), torch.tensor(0.2, dtype=x.dtype))
    again = em_step(fused, f)
    gradients = torch.autograd.grad((again ** 2).sum(), (start, z), retain_graph=True)
    fit = total(f.value(again)).sum()
    by_fit = torch.autograd.grad(fit, z)
    assert isinstance(f.gradient(x.numpy()), np.ndarray)
    return {"mlem": x, "step": again.detach(), "start": gradients[0], "z": gradients[1], "fit": fit.detach(),
            "by_fit": by_fit[0], "sensitivity": f.sensitivity, "numpy": torch.from_numpy(f.gradient(x.numpy())),
            "hessian": f.hessian_vector(x, x), "float": em_step(x.float(), f)}
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two gloo processes compute together, and the same code alone."""
    folder = tmp_path_factory.mktemp("two")
    body = TWO + textwrap.dedent(
        """
        with process_group("cpu") as (rank, n_ranks, device):
            assert n_ranks == 2
            mine = view_sharded(scan())
            assert mine.model.projector.out_shape[0] == (4, 3)[rank]
            found = results(mine, sum_over_ranks) | {"unrolled": unrolled(mine, shared_count_scale)}
            found |= {"net": train_net(rank, n_ranks, sys.argv[1])}
            found |= {"stages": train_in_stages(rank, n_ranks, sys.argv[1] + "/stages")}
            subsets = [mine.subset(k, 2) for k in range(2)]
            assert sum(s.model.projector.out_shape[0] for s in subsets) == (4, 3)[rank]
            found["subsets"] = sum(s.gradient(found["mlem"]) for s in subsets)
            try:
                ShardedProjector(scan().model.projector.subset(0, 7))
                raise SystemExit("one view for two ranks")
            except ValueError:
                pass
            torch.save(found, f"{sys.argv[1]}/rank{rank}.pt")
        """
    )
    imports = "import runpy, emrecon.recon, emrecon.unrolled"
    run_ranks(imports, "runpy.run_path(sys.argv[2], run_name='__main__')", folder, script(folder, body))
    space: dict = {}
    exec(COMMON + TWO, space)
    f = space["scan"]()
    alone = space["results"](f, lambda value: value) | {"net": space["train_net"](0, 1, str(folder / "alone"))}
    alone["stages"] = space["train_in_stages"](0, 1, str(folder / "stages-alone"))
    alone["unrolled"] = space["unrolled"](f, space["count_scale"])
    torch.testing.assert_close(space["shared_count_scale"](f), space["count_scale"](f))
    alone["subsets"] = f.gradient(alone["mlem"])
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)], alone, folder


@pytest.mark.slow
def test_two_ranks_have_the_same_bits(two_ranks):
    (first, second), _, _ = two_ranks
    for name in first.keys() - {"net", "stages"}:
        assert torch.equal(first[name], second[name]), name
    assert same(first["net"], second["net"])
    assert same(first["stages"], second["stages"])


def test_two_ranks_train_in_stages_as_one(two_ranks):
    (found, _), alone, folder = two_ranks
    for name, w in alone["stages"].items():
        torch.testing.assert_close(found["stages"][name], w, rtol=1e-9, atol=1e-11)
    assert (folder / "stages" / "stage-02-all" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    "name", ["mlem", "step", "start", "z", "fit", "by_fit", "sensitivity", "numpy", "hessian", "subsets", "unrolled"]
)
def test_a_scan_shared_by_views_equals_one_process(two_ranks, name):
    (found, _), alone, _ = two_ranks
    torch.testing.assert_close(found[name], alone[name], rtol=1e-11, atol=1e-11)


def test_a_shared_scan_in_single_precision(two_ranks):
    (found, _), alone, _ = two_ranks
    assert found["float"].dtype == torch.float32
    torch.testing.assert_close(found["float"], alone["float"], rtol=1e-5, atol=1e-6)


def test_two_ranks_train_as_one_with_the_doubled_batch(two_ranks):
    (found, _), alone, folder = two_ranks
    for name, w in alone["net"].items():
        torch.testing.assert_close(found["net"][name], w, rtol=1e-9, atol=1e-11)
    shared, own = (json.loads((where / "log.json").read_text()) for where in (folder, folder / "alone"))
    assert [row["step"] for row in shared] == [4, 8, 10]
    assert [row["loss"] for row in shared] == pytest.approx([row["loss"] for row in own], rel=1e-9)  # of both ranks
    assert (folder / "best.pt").exists()


def test_a_sharded_projector_alone_is_the_projector():
    from emrecon.projectors.core.operator import DenseOperator, Projector

    class Dense(DenseOperator, Projector):
        def subset(self, k, n):
            matrix = self.matrix[k::n]
            return Dense(matrix, self.in_shape, (len(matrix),))

    A = Dense(np.random.default_rng(0).random((6, 8)), (2, 2, 2), (6,))
    sharded, x = ShardedProjector(A), np.random.default_rng(1).random((3, 2, 2, 2))
    assert np.array_equal(sharded(x), A(x))
    assert np.array_equal(sharded.T(A(x)), A.T(A(x)))
    assert np.array_equal(sharded.subset(1, 2)(x), A.subset(1, 2)(x))
    assert sharded.n_items is None


# ---- compiled models, and what would train nothing -------------------------------------------------------------------


def test_a_compiled_model_trains_into_plain_files_and_resumes(tmp_path):
    def run(model, steps):
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        settings = Settings(steps, 2, ema=0.5, folder=tmp_path)
        return list(train(model, pairs, Supervised(mse), optimiser, settings, validate=Validation(pairs(9)[:1])))

    network = Network()
    run(torch.compile(network, backend="eager"), 4)
    plain = Network(seed=1)
    plain.load_state_dict(best_weights(tmp_path))
    inside = Network(seed=2)
    inside.layers = torch.compile(inside.layers, backend="eager")
    inside.networks = nn.ModuleList([inside.layers])
    load_plain(inside, best_weights(tmp_path))
    x = torch.rand(1, 12, 12, 1)
    assert torch.equal(plain.eval()(x), inside.eval()(x))
    again = Network()  # the checkpoint of the compiled one serves it
    assert run(again, 6)[-1].step == 6
    assert not any("_orig_mod" in name for name in best_weights(tmp_path))


def test_what_would_train_nothing_is_refused():
    model, other = Network(), Network()
    settings = Settings(2)

    def begin(optimiser, **more):
        next(train(model, pairs, Supervised(mse), optimiser, settings, **more))

    with pytest.raises(ValueError, match="holds none of the parameters of Network"):
        begin(torch.optim.Adam(other.parameters(), 1e-2))
    frozen = torch.optim.Adam([p.requires_grad_(False) for p in model.layers[0].parameters()], 1e-2)
    with pytest.raises(ValueError, match="holds none of the parameters"):
        begin(frozen)
    mine = torch.optim.Adam(model.layers[4].parameters(), 1e-2)  # a part is fine: the rest is kept as it is
    with pytest.raises(ValueError, match="schedule belongs to another optimiser"):
        begin(mine, schedule=warmup_cosine(torch.optim.Adam(other.parameters(), 1e-2), 5))
    with pytest.raises(ValueError, match="networks holds Network, which is not a part of Network"):
        begin(mine, networks=[other])
    begin(mine)
