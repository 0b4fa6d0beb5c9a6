"""Noise2Noise on thinned counts: one part of a scan explains the other, as data or as images; and how to use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from emrecon import recon
from emrecon.projectors.core.progress import tracked
from emrecon.recon.likelihoods import Likelihood

from ..networks.reconstructor import dimensions_of, guides_of, networks_of
from ..networks.scaling import count_scale
from .losses import Criterion, applied, mse, poisson_loss
from .thinning import check_share, leave_one_out, thinned

Images = Callable[[Any], torch.Tensor]
"""What makes images (B, x, y, z) of a likelihood: `OSEMPasses`, `EnginePasses`, or a function of one's own."""


@dataclass(frozen=True)
class ThinnedNoise2Noise:
    """The objective that learns from single scans: reconstruct one random part of the counts, explain the other::

        y1 ~ Binomial(y, p),   y2 = y - y1,   loss = poisson_loss(model(f1), f2)   or   criterion(model(f1), x2)

    y1 and y2 are independent Poisson counts, exactly, with means p ybar and (1 - p) ybar. So for every y1 the
    expectation of the loss over y2 is that with ybar in the place of y2 / (1 - p): the noise of y2 adds a constant. A
    new split is drawn in every step.

    Args:
        p : probability of an event to be in the network's part; or (low, high), of which each step draws one, evenly:
            the network then knows scans of all these counts, and can be given a whole one.
        reconstruct : None for the Poisson loss in the data; or a function likelihood -> image for pairs of images, x2 =
            reconstruct(f2), compared by `criterion`. That is exact for the squared error and a reconstruction without
            bias; EM has a bias at few counts.

    A batch is what the model takes, with the likelihood alone, first, or named "likelihood"; of bins or of events.
    Both parts have models that account for their share (see `thinned`), so images need no factor p / (1 - p).

    A network that was trained with one p knows images of p of the counts. `PartsAveraged` uses it as it was trained, on
    parts of the scan that make up the whole; given all counts it smooths as much as p of them need.

    Source: Lehtinen et al. 2018 for pairs of noisy images; the thinning of a Poisson process is textbook.
    """

    p: float | tuple[float, float] = 0.5
    reconstruct: Images | None = None
    criterion: Criterion = mse

    def __post_init__(self) -> None:
        for p in self._range:
            check_share(p)
        if self._range[0] > self._range[1]:
            raise ValueError(f"the shares of the counts run from low to high, got {self.p}")

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> torch.Tensor:
        likelihood, with_part = likelihood_of(batch)
        seen, held_out = thinned(likelihood, self._drawn(generator), generator)
        image = applied(model, with_part(seen))
        if self.reconstruct is None:
            return poisson_loss(image, held_out)
        with torch.no_grad():
            target = self.reconstruct(held_out)
        return self.criterion(image, target)

    @property
    def _range(self) -> tuple[float, float]:
        return self.p if isinstance(self.p, tuple) else (self.p, self.p)

    def _drawn(self, generator: torch.Generator | None) -> float:
        low, high = self._range
        if low == high:
            return low
        device = "cpu" if generator is None else generator.device
        return low + (high - low) * float(torch.rand((), generator=generator, device=device))


@dataclass(frozen=True, eq=False)
class ThinnedImages:
    """Pairs of images of independent parts of scans, made once, as batches for networks of images::

        images = ThinnedImages(cases, OSEMPasses(4, 6))
        train(denoiser, images.batches, Supervised(mse), ...)          # the loop as it is
        PartsAveraged(Enhanced(OSEMPasses(4, 6), denoiser))            # afterwards

    Each scan is divided into `folds` equal parts. For every part x1 is the image of all counts but its own and x2 that
    of its own; both have the same expectation where the reconstruction is without bias, so a network that is trained
    from x1 to x2 by the squared error learns what one trained with noise-free images of the same reconstruction does
    (Lehtinen et al. 2018). Images are divided by the `count_scale` of x1, as `Enhanced` gives them to the network.

    Args:
        cases : what the model is called with, {"likelihood": f, "guide": g} or a likelihood alone; of one scan or of a
            batch, of bins or of events, SPECT or PET.
        reconstruct : likelihood -> images, of any engine: `OSEMPasses`, `EnginePasses`, or a function.
        folds : 2 for halves, in both orders; more give the network more of the counts, and noisier targets.
        repeats : divisions of each scan, each with new random numbers.
        batch_size : of `batches`.
        seed : of the divisions and of the order of batches.

    Raises ValueError for less than 2 folds, a repeat and an item of a batch.
    """

    cases: Sequence[object]
    reconstruct: Images
    folds: int = 2
    repeats: int = 1
    batch_size: int = 8
    seed: int = 0
    _kept: list[tuple[dict[str, torch.Tensor], torch.Tensor]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.folds < 2 or self.repeats < 1 or self.batch_size < 1:
            raise ValueError(
                "ThinnedImages needs 2 folds, a repeat and an item of a batch at least, got "
                f"{self.folds}, {self.repeats} and {self.batch_size}"
            )

    @property
    def share(self) -> float:
        """The part of the counts that the network sees."""
        return 1 - 1 / self.folds

    def __len__(self) -> int:
        return len(self.pairs())

    def pairs(self) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Return all pairs ({"x": x1, "guide": g}, x2) of single scans, (x, y, z), which are made at the first call."""
        if not self._kept:
            with torch.no_grad():
                for k, case in enumerate(tracked(list(self.cases), "scans in parts")):
                    for repeat in range(self.repeats):
                        self._kept.extend(self._divided(case, k, repeat))
        return self._kept

    def batches(self, epoch: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Yield the batches of an epoch, in an order of (seed, epoch); what does not fill one is left for another."""
        pairs = self.pairs()
        size = min(self.batch_size, len(pairs))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(pairs))
        for k in range(0, len(pairs) - size + 1, size):
            yield stacked_pairs([pairs[i] for i in order[k : k + size]])

    def _divided(self, case: object, k: int, repeat: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        likelihood, _ = likelihood_of(case)
        guide = case.get("guide") if isinstance(case, Mapping) else None
        words = np.random.SeedSequence((self.seed, k, repeat)).generate_state(1, np.uint64)
        parts = leave_one_out(likelihood, self.folds, torch.Generator().manual_seed(int(words[0])))
        known = [torch.as_tensor(self.reconstruct(other)) for _, other in parts]
        for i, (seen, _) in enumerate(parts):
            # of two halves the rest is the other half, whose image is there
            first = known[1 - i] if self.folds == 2 else torch.as_tensor(self.reconstruct(seen))
            scale, shape = torch.as_tensor(count_scale(seen)), tuple(first.shape[-3:])
            given, targets = ((images / scale).reshape(-1, *shape) for images in (first, known[i]))
            for item, (x, target) in enumerate(zip(given, targets)):
                guides = {} if guide is None else {"guide": _item(guide, item, len(given), shape)}
                yield {"x": x, **guides}, target


class PartsAveraged(nn.Module):
    """A network that was trained on a part of the counts, used on a whole scan::

        x = mean over parts k of model(all counts but those of part k),

    so that each input has the counts, and the noise, of the training, and all counts are used. The outputs' remaining
    noise is independent in large part, and averages out; more `repeats` take away what the random division adds. Given
    the whole scan at once instead, such a network smooths as much as fewer counts need: the noise of its image is lower
    than is right for the counts, its resolution too. Where it was trained with a range of counts (`ThinnedNoise2Noise`
    with p = (low, high), `high` near 1), give it the whole scan: that is one call.

    Args:
        model : a `Reconstructor`, such as `Enhanced(OSEMPasses(), denoiser)` or an unrolled network.
        folds : as in training: p = 1 - 1 / folds.
        repeats : divisions of the scan.
        seed : of the divisions; the same scan gives the same image.

    Raises ValueError for less than 2 folds and a repeat.
    """

    def __init__(self, model: nn.Module, folds: int = 2, repeats: int = 1, seed: int = 0) -> None:
        super().__init__()
        if folds < 2 or repeats < 1:
            raise ValueError(f"PartsAveraged needs 2 folds and a repeat at least, got {folds} and {repeats}")
        self.model, self.folds, self.repeats, self.seed = model, folds, repeats, seed

    @property
    def networks(self) -> list[nn.Module]:
        """The networks inside."""
        return networks_of(self.model)

    @property
    def guide_channels(self) -> int:
        """How many guide images it takes."""
        return guides_of(self.model)

    @property
    def dimensions(self) -> int:
        """2 for networks of slices, 3 of volumes."""
        return dimensions_of(self.model)

    @property
    def subsets(self) -> int | None:
        """The subsets of views that the model takes, None where it does not say."""
        return getattr(self.model, "subsets", None)

    def forward(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: torch.Tensor | None = None,
        *,
        guide: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the image of each item, (..., x, y, z).

        Raises TypeError for likelihoods without counts, ValueError for counts that are not whole.
        """
        listed = list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]
        named = {} if guide is None else {"guide": guide}
        total: torch.Tensor | None = None
        for repeat in range(self.repeats):
            words = np.random.SeedSequence((self.seed, repeat)).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(words[0]))
            parts = [leave_one_out(cast(Any, one), self.folds, generator) for one in listed]
            for k in range(self.folds):
                seen = [pairs[k][0] for pairs in parts]
                image = self.model(seen if isinstance(likelihood, Sequence) else seen[0], start, **named)
                total = image if total is None else total + image
        assert total is not None
        return total / (self.folds * self.repeats)


def likelihood_of(batch: object) -> tuple[Any, Callable[[Any], object]]:
    """Return the likelihood in a model's arguments, and how to put another in its place.

    Raises ValueError for a mapping without "likelihood".
    """
    if isinstance(batch, Mapping):
        if "likelihood" not in batch:
            raise ValueError(f"ThinnedNoise2Noise looks for 'likelihood' in the batch, which has {sorted(batch)}")
        return batch["likelihood"], lambda part: {**batch, "likelihood": part}
    if isinstance(batch, (tuple, list)):
        return batch[0], lambda part: (part, *batch[1:])
    return cast(recon.PoissonLikelihood, batch), lambda part: part


def stacked_pairs(
    pairs: Sequence[tuple[Mapping[str, torch.Tensor], torch.Tensor]],
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return a batch of pairs (arguments, target) of single images."""
    given = {name: torch.stack([arguments[name] for arguments, _ in pairs]) for name in pairs[0][0]}
    return given, torch.stack([target for _, target in pairs])


def _item(guide: Any, i: int, n: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The guide of one scan of a batch of n, (x, y, z) or (channels, x, y, z); one without a batch serves all."""
    values = torch.as_tensor(guide)
    if values.ndim > 3 and values.shape[0] == n and (n > 1 or values.ndim == 5 or values.shape[0] == 1):
        return values[i]
    return values
