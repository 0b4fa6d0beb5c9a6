"""Training of the kernels that `recon.svrg` may take in place of step sizes, through the engine itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emrecon import recon


@dataclass(frozen=True, eq=False)
class SolvedScan:
    """A scan, and the solution that an engine is to reach.

    Args:
        parts : the likelihoods of its subsets.
        prior : with its weight.
        start, solution : images (x, y, z).
        whole, background, regions : booleans (x, y, z), as in `recon.PetricRule`.
    """

    parts: Sequence[Any]
    prior: recon.SmoothPrior
    start: np.ndarray
    solution: np.ndarray
    whole: np.ndarray
    background: np.ndarray
    regions: Sequence[np.ndarray]

    def distance(self, x: torch.Tensor) -> torch.Tensor:
        """Return PETRIC's errors of an image in one number, 1 where each of them is at its threshold.

        The root of the mean of the squares of: the errors of object and background over 0.01, and those of the
        regions' means, root mean square, over 0.005; all relative to the solution's mean in the background.
        """
        change = (x - torch.as_tensor(self.solution, dtype=x.dtype)) / float(self.solution[self.background].mean())
        squares = [(change[torch.as_tensor(m)] ** 2).mean() / 0.01**2 for m in (self.whole, self.background)]
        means = [change[torch.as_tensor(m)].mean() ** 2 / 0.005**2 for m in self.regions]
        squares += [torch.stack(means).mean()] if means else []
        return torch.sqrt(torch.stack(squares).mean())


def train_kernel_steps(
    scans: Sequence[SolvedScan],
    n_passes: int = 6,
    n_steps: int = 300,
    *,
    rate: float = 0.05,
    batch: int = 2,
    seed: int = 0,
    scalar: bool = False,
    pull: float = 0.05,
    begin: recon.KernelSteps | None = None,
    about: Mapping[str, Any] | None = None,
    told: Callable[[int, float], None] | None = None,
) -> recon.KernelSteps:
    """Return kernels learned by unrolling `svrg` over its first passes: Adam on the logarithms of gains and weights.

    The loss is the mean over passes of log(0.1 + distance), see `SolvedScan.distance`: every pass counts alike by the
    factor that it gains.

    Args:
        n_passes : with kernels, anchors' passes included.
        n_steps, rate, batch : of Adam; a cosine takes the rate to a hundredth. Scans come in turn, shuffled each time.
        scalar : one number for each pass in place of kernels, the control that tells what kernels add.
        pull : towards the steps of the plain engine, times the mean square of the logarithms' distances: the engine
            halves what is too long, so that the loss alone does not keep kernels from growing.
        begin : what to start from (default: the steps 2 to 1 of the plain engine).
        about : kept with the kernels.
        told : called with the step and its loss.

    Raises ValueError without scans.
    """
    if not scans:
        raise ValueError("there are no scans to train on")
    random = np.random.default_rng(seed)
    gains, weights = _first(n_passes, begin)
    plain = _first(n_passes, None)
    values = [gains[:, :1, :1].clone() if scalar else gains, weights]
    for value in values:
        value.requires_grad_(True)
    adam = torch.optim.Adam(values, lr=rate, betas=(0.9, 0.97))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, n_steps, rate / 100)
    order: list[int] = []
    for step in range(n_steps):
        total = 0.0
        adam.zero_grad()
        for _ in range(batch):
            order = order or random.permutation(len(scans)).tolist()
            loss = unrolled_loss(scans[order.pop()], _steps(values, about)) / batch
            loss = loss + pull / batch * sum(((v - p) ** 2).mean() for v, p in zip(values, plain, strict=True))
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(values, 1.0)
        adam.step()
        falling.step()
        if told is not None:
            told(step, total)
    learned = _steps([value.detach() for value in values], about)
    return recon.KernelSteps(np.asarray(learned.gains), np.asarray(learned.weights), about=dict(about or {}))


def unrolled_loss(scan: SolvedScan, steps: recon.KernelSteps) -> torch.Tensor:
    """Return the mean over the passes of log(0.1 + distance) of `svrg` with these steps."""
    start = torch.as_tensor(np.asarray(scan.start, np.float32))
    iterates = recon.svrg(list(scan.parts), scan.prior, start, preconditioner=steps)
    images = (iterate.image for iterate in itertools.islice(iterates, steps.n_passes))
    return torch.stack([torch.log(0.1 + scan.distance(x)) for x in images]).mean()


def _first(n_passes: int, begin: recon.KernelSteps | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The logarithms to start from."""
    if begin is not None:
        return tuple(torch.as_tensor(np.log(np.asarray(v, np.float32))) for v in (begin.gains, begin.weights))
    plain = recon.StepDown()
    sizes = torch.tensor([np.log(plain(float(n))) for n in range(n_passes)], dtype=torch.float32)
    return sizes[:, None, None].repeat(1, 2, 6), torch.full((n_passes,), float(np.log(1.5)))


def _steps(values: Sequence[torch.Tensor], about: Mapping[str, Any] | None) -> recon.KernelSteps:
    gains, weights = values
    shape = (len(gains), 2, 6)
    return recon.KernelSteps(gains.exp().expand(shape), weights.exp(), about=dict(about or {}))
