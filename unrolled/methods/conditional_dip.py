"""Conditional deep image prior: a noisy image, and a network that makes images of the patient's MR or CT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from emrecon.projectors.core.arrays import Array
from emrecon.projectors.core.progress import tracked
from emrecon.recon import Iterate, run

from ..networks.guides import IMAGE_AXES, mean_scale, normalised_guide
from .dip import Fit, NetworkWeights, default_network, fixed_noise, smooth_positive


@dataclass(frozen=True, eq=False, kw_only=True)
class ConditionalDIP:
    """A `Denoiser` of reconstructed images that needs no training and no clean image::

        theta = argmin |f(theta | z) - x|^2,    stopped early;    the image is f(theta | z)

    z is the patient's MR or CT, which the network turns into an image that looks like x; structures that z shows come
    first, the noise of x last. It does what `DIPRecon` does, on an image in the place of the counts.

    Args:
        network : f, from (N, C, x, y[, z]) to (N, 1, x, y[, z]), C the channels of the guide or of the noise; its
            weights are where every fit begins, so that one that was trained on other patients is fine-tuned on this
            one. It stays as it is. None for the U-Net of `DIPRecon`.
        iterations : how many fits are made, each by `fit`.
        channels, seed : of the fixed noise that is z where no guide is given, and of new weights.
        dimensions : 2 gives the network the slices as a batch, 3 the volume (default: 2 where there is one slice).
        positive : from what the network returns to values >= 0.

    Called as denoiser(x, sigma, guide=...). With a sigma, the standard deviation of the noise, it stops where the
    difference to x is as large (the discrepancy principle), otherwise after `iterations`, or where a callback ends it:
    `WindowedVariance` is one. `iterates` yields the image of every iteration, of one image. Each image of a batch has
    its own network. Doubling x doubles the image.

    Raises ValueError for less than one iteration or channel, TypeError for images that are not tensors.

    Source: Cui et al. 2019, Eur J Nucl Med Mol Imaging 46:2780; Ulyanov, Vedaldi & Lempitsky 2018.
    """

    network: nn.Module | None = field(default=None, kw_only=False)
    iterations: int = 40
    fit: Fit = field(default_factory=lambda: Fit("lbfgs", 1))
    channels: int = 1
    seed: int = 0
    dimensions: int | None = None
    positive: Callable[[torch.Tensor], torch.Tensor] = smooth_positive

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.channels < 1:
            raise ValueError(
                f"ConditionalDIP needs an iteration and a channel at least, got {self.iterations} and {self.channels}"
            )

    def __call__(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor | None = None,
        *,
        guide: Array | None = None,
        callbacks: Callable[[], Sequence[Callable[[Iterate], object]]] | None = None,
    ) -> torch.Tensor:
        """Return the image of each item, of the shape of x, without gradients.

        Args:
            x : (..., x, y, z).
            sigma : a number, or one for each item, in the unit of x.
            guide : (..., x, y, z) or (..., C, x, y, z), with the batch axes of x or without.
            callbacks : a function that makes new rules for every item. Of a rule with a `best` iterate, such as
                `WindowedVariance`, the image of that iterate is taken.
        """
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"ConditionalDIP takes torch tensors, got {type(x).__name__}; use torch.as_tensor(image)?")
        items = x.detach().reshape(-1, *x.shape[-3:])
        shown = [None] * len(items) if guide is None else _guides(guide, x, len(items))
        levels = None if sigma is None else torch.as_tensor(sigma, dtype=x.dtype).expand(len(items)).tolist()
        made = []
        for k, (image, own) in enumerate(tracked(list(zip(items, shown)), "images")):
            rules = [] if callbacks is None else list(callbacks())
            stop = [] if levels is None else [_Discrepancy(image, levels[k])]
            last = run(self.iterates(image, guide=own), self.iterations, *rules, *stop)
            best = [found for rule in rules if (found := getattr(rule, "best", None)) is not None]
            made.append(best[0].image if best else last)
        return torch.stack(made).reshape(x.shape)

    def iterates(self, x: torch.Tensor, *, guide: Array | None = None) -> Iterator[Iterate]:
        """Yield an `Iterate` after each fit, for ever.

        Args:
            x : one image, (x, y, z).
            guide : (x, y, z) or (C, x, y, z).
        """
        shape = tuple(x.shape)
        if len(shape) != 3:
            raise ValueError(f"ConditionalDIP.iterates takes one image (x, y, z), got {shape}")
        z = fixed_noise(shape, self.channels, self.seed).to(x) if guide is None else torch.as_tensor(guide).to(x)
        z = z if z.ndim == 4 else z[None]
        z = z if guide is None else normalised_guide(z) / 5
        dimensions = self.dimensions or (2 if shape[-1] == 1 else 3)
        network = self.network or default_network(dimensions, z.shape[0], self.seed)
        scale = float(mean_scale(x.detach()))
        if not 0 < scale < math.inf:
            raise ValueError("ConditionalDIP: the image is 0 everywhere, or not finite")
        latent = NetworkWeights(network, z, scale, fitting=self.fit, dimensions=dimensions, positive=self.positive)
        for iteration in range(1, 2**63):
            latent = latent.fit_squares(x.detach(), self.fit.steps)
            yield Iterate(iteration, latent.image(), latent.state)


@dataclass(frozen=True, eq=False)
class _Discrepancy:
    """Stop where an image is as near to the noisy one as its noise is large."""

    noisy: torch.Tensor
    sigma: float

    def __call__(self, iterate: Iterate) -> bool:
        away = torch.as_tensor(iterate.image) - self.noisy
        return float((away**2).mean()) <= self.sigma**2


def _guides(guide: Array, x: torch.Tensor, n: int) -> list[torch.Tensor]:
    """The guide of every item, (x, y, z) or (C, x, y, z)."""
    values = torch.as_tensor(guide)
    if tuple(values.shape[-3:]) != tuple(x.shape[-3:]):
        raise ValueError(f"ConditionalDIP: a guide of {tuple(values.shape)} does not fit images of {tuple(x.shape)}")
    if not bool(values.isfinite().all()):
        raise ValueError("ConditionalDIP: the guide holds NaN or infinite values")
    batch = tuple(x.shape[:-3])
    own = tuple(values.shape[: len(batch)])
    if batch and own == batch and values.ndim >= len(batch) + len(IMAGE_AXES):
        return list(values.reshape(n, *values.shape[len(batch) :]))
    if values.ndim > 4:
        raise ValueError(f"ConditionalDIP: a guide of {tuple(values.shape)} does not fit images of {tuple(x.shape)}")
    return [values] * n
