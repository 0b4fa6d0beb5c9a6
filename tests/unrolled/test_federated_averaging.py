"""Federated averaging: one site is plain training, equal sites are pooled training, and a killed run goes on."""

from itertools import islice

import pytest
import torch
from torch import nn

from emrecon.unrolled import (
    Federation,
    Settings,
    Site,
    Supervised,
    averaged,
    best_weights,
    federated,
    seeded,
    train,
    warmup_cosine,
)

N = 4  # batches of an epoch


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    for name in ("loop", "federated_averaging"):
        monkeypatch.setattr(f"emrecon.unrolled.training.{name}.plot_log", lambda folder: None)


class Net(nn.Module):
    """A network with dropout, and batch normalisation where that is asked for."""

    def __init__(self, norm=True):
        super().__init__()
        with seeded(0):
            middle = [nn.BatchNorm1d(4)] if norm else []
            self.layers = nn.Sequential(nn.Linear(3, 4), *middle, nn.Dropout(0.2 * norm), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, x):
        return self.layers(x)


def data(site, n=N, size=6):
    random = torch.Generator().manual_seed(site)

    def batches(epoch):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
        return [pairs[int(i)] for i in order]

    pairs = [(x := torch.randn(size, 3, generator=random), (x.sum(1, keepdim=True) + site) ** 2) for _ in range(n)]
    return batches


def adam(model):
    return torch.optim.Adam(model.parameters(), 1e-2)


def cosine(optimiser):
    return warmup_cosine(optimiser, 15, 2)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run(model, sites, rounds=3, steps=5, n=None, **options):
    federation = Federation(rounds, steps, clip=1.0, **options)
    found = federated(model, sites, Supervised(), adam, federation, schedule_of=cosine)
    return list(islice(found, n))


def test_one_site_is_plain_training_bit_for_bit(tmp_path):
    plain, alone = Net(), Net()
    optimiser = adam(plain)
    settings = Settings(15, 5, clip=1.0, folder=tmp_path / "plain", seed=3)
    records = list(train(plain, data(0), Supervised(), optimiser, settings, schedule=cosine(optimiser)))
    rounds = run(alone, [Site("one", data(0), 24)], seed=3)
    assert same(plain.state_dict(), alone.state_dict())
    assert [r.losses["one"] for r in rounds] == [r.loss for r in records]
    assert rounds[-1].step == 15


def test_equal_sites_with_whole_batches_are_pooled_training():
    sites = [Site(f"site-{k}", data(k, 1), 6) for k in range(3)]
    x, y = (torch.cat(parts) for parts in zip(*(data(k, 1)(0)[0] for k in range(3))))

    def descent(model):
        return torch.optim.SGD(model.parameters(), 0.01)

    apart, pooled = Net(norm=False), Net(norm=False)
    list(federated(apart, sites, Supervised(), descent, Federation(4, 1)))
    list(train(pooled, lambda epoch: [(x, y)], Supervised(), descent(pooled), Settings(4, 4)))
    for a, b in zip(apart.parameters(), pooled.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_run_that_stops_anywhere_ends_with_the_same_weights(tmp_path, monkeypatch):
    sites = [Site("a", data(0), 30), Site("b", data(1), 10)]
    options = {"local": ("*running_*",), "proximal": 0.1}
    whole, parts = Net(), Net()
    run(whole, sites, folder=tmp_path / "whole", **options)
    calls = []

    def stopping(model, batch, generator):
        calls.append(0)
        if len(calls) in (3, 9, 18):
            raise KeyboardInterrupt
        return Supervised()(model, batch, generator)

    federation = Federation(3, 5, clip=1.0, folder=tmp_path / "parts", **options)
    for _ in range(6):
        parts = Net()
        try:
            records = list(federated(parts, sites, stopping, adam, federation, schedule_of=cosine))
        except KeyboardInterrupt:
            continue
        break
    assert len(calls) > 18
    assert len(records) >= 1
    assert same(whole.state_dict(), parts.state_dict())
    assert same(best_weights(tmp_path / "whole"), best_weights(tmp_path / "parts"))
    run(Net(), sites, n=1, folder=tmp_path / "third", **options)  # leaving the loop after a round
    third = Net()
    run(third, sites, folder=tmp_path / "third", **options)
    assert same(whole.state_dict(), third.state_dict())
    with pytest.raises(ValueError, match="belongs to another federation"):
        run(Net(), sites, folder=tmp_path / "whole")


def test_weights_count_by_scans_and_statistics_are_those_of_all():
    random = torch.Generator().manual_seed(0)
    samples = [torch.randn(50, 4, generator=random) + k for k in range(3)]
    norms = [nn.BatchNorm1d(4, momentum=1.0) for _ in samples]
    for norm, x in zip(norms, samples):
        norm(x)
    found = averaged([norm.state_dict() for norm in norms], [1 / 3] * 3)
    torch.testing.assert_close(found["running_mean"], torch.cat(samples).mean(0))
    torch.testing.assert_close(found["running_var"], torch.cat(samples).var(0), rtol=0.02, atol=0)
    assert found["num_batches_tracked"] == 1
    two = averaged([{"w": torch.zeros(2)}, {"w": torch.ones(2)}], [0.25, 0.75])
    assert torch.equal(two["w"], torch.full((2,), 0.75))
    with pytest.raises(ValueError, match="different names or shapes"):
        averaged([{"w": torch.zeros(2)}, {"v": torch.ones(2)}], [0.5, 0.5])


def test_what_is_local_stays_and_a_pull_keeps_sites_together():
    sites = [Site("a", data(0), 10), Site("b", data(4), 10)]
    *_, last = run(Net(), sites, rounds=1, steps=2, local=("layers.1.*",))
    assert set(last.own["a"]) == {name for name in last.weights if name.startswith("layers.1.")}
    assert not torch.equal(last.own["a"]["layers.1.running_mean"], last.own["b"]["layers.1.running_mean"])
    start = Net().state_dict()["layers.0.weight"]
    away = []
    for proximal in (0.0, 1e3):
        *_, record = run(Net(), sites, rounds=1, proximal=proximal)
        away.append(float((record.weights["layers.0.weight"] - start).norm()))
    assert away[1] < 0.5 * away[0]
    fresh, kept = (run(Net(), sites[:1], rounds=2, steps=2, optimiser=kind)[-1].weights for kind in ("reset", "keep"))
    assert not same(fresh, kept)


def test_what_cannot_be_federated_is_refused():
    site = Site("a", data(0), 10)
    for call, message in (
        (lambda: Site("a/b", data(0), 1), "letters, digits"),
        (lambda: Site("a", data(0), 0), "a scan at least"),
        (lambda: Federation(0, 1), "a round and a local step"),
        (lambda: Federation(1, 1, proximal=-1), "proximal must be 0 or more"),
        (lambda: Federation(1, 1, optimiser="forget"), "keep"),
        (lambda: run(Net(), [site, site]), "names of their own"),
        (lambda: run(Net(), []), "names of their own"),
        (lambda: run(Net(), [site], local=("*nothing*",)), "nothing in the network is called"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
