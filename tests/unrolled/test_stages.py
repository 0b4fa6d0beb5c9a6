"""Training in stages: a run that is killed at any step of any stage ends with the same weights."""

import pytest
import torch

from emrecon import unrolled
from emrecon.unrolled.training import loop


class Two(torch.nn.Module):
    """A first and a second part."""

    def __init__(self):
        super().__init__()
        with unrolled.seeded(0):
            self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def batches(epoch):
    random = torch.Generator().manual_seed(epoch)
    return [(x, x.flip(-1)) for x in torch.rand((2, 5, 3), generator=random)]


def codes(epoch):
    return [(x, torch.cat([x, x[:, :1]], 1)) for x, _ in batches(epoch)]


class KilledError(Exception):
    pass


def run(folder, killed_at=None):
    """Train both parts in two stages, 3 and 4 steps, until a step of this call."""
    done = [0]

    def optimiser_of(module):
        optimiser = torch.optim.Adam(module.parameters(), 1e-2)
        step = optimiser.step

        def counted(*arguments, **named):
            if done[0] == killed_at:
                raise KilledError
            done[0] += 1
            return step(*arguments, **named)

        optimiser.step = counted
        return optimiser

    model = Two()
    settings = unrolled.Settings(3, 1, ema=0.5, folder=folder, watch="loss")
    longer = unrolled.Settings(4, 2, folder=folder, watch="loss")
    loss = unrolled.Supervised()
    stages = [
        unrolled.Stage("first", model.first, codes, loss, optimiser_of, settings, keep="best"),
        unrolled.Stage("both", model, batches, loss, optimiser_of, longer),
    ]
    try:
        names = [found.stage for found in unrolled.train_stages(model, stages)]
    except KilledError:
        return None
    return names, model.state_dict()


def test_a_killed_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "plot_log", lambda folder: None)  # pictures take longer than the training
    names, weights = run(tmp_path / "whole")
    assert names == ["first"] * 3 + ["both"] * 2
    for k in range(7):  # 0 to 2 in the first stage, 3 to 6 in the second
        folder = tmp_path / f"killed-{k}"
        assert run(folder, killed_at=k) is None
        _, again = run(folder)
        assert all(torch.equal(again[name], w) for name, w in weights.items()), k
    _, once_more = run(tmp_path / "whole")
    assert all(torch.equal(once_more[name], w) for name, w in weights.items())


def test_stages_need_names_of_their_own():
    model = Two()
    stage = unrolled.Stage("one", model, batches, unrolled.Supervised(), torch.optim.Adam, unrolled.Settings(1))
    with pytest.raises(ValueError, match="stages with names of their own"):
        list(unrolled.train_stages(model, [stage, stage]))
