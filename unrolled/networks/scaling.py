"""Networks that know no units: the scale of an image, of its guide and of the counts, and denoisers that follow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from emrecon.projectors.core.arrays import Array, array_namespace, divide_where, like
from emrecon.recon.likelihoods import CountsLikelihood, Likelihood, start_image

from .blocks import Denoiser, called, require_denoiser
from .guides import mean_scale

_OF_COUNTS = ("model", "ratio", "counts_like", "total_counts", "sensitivity_like", "sensitivity_has_factors")


class ScaleEquivariant(nn.Module):
    """A denoiser that follows the scale of its image, x -> c * denoiser(x / c): twice the image, twice the result.

    Args:
        denoiser : any `denoiser(x, sigma=None, guide=None)`.
        scale : c as a function of the images, (..., x, y, z) -> (..., 1, 1, 1), with scale(2 x) = 2 scale(x); default
            `mean_scale`.

    A call may bring its own c, such as the `count_scale` of the data. sigma has the units of the image and is divided,
    too; guides are not: `Enhancer` takes their unit away by itself. Where c is 0 the result is 0: an image of
    zeros stays one. Gradients pass through c.
    """

    def __init__(self, denoiser: Denoiser, scale: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        require_denoiser(denoiser, "ScaleEquivariant")
        self.denoiser, self.scale = denoiser, mean_scale if scale is None else scale

    def forward(
        self,
        x: Tensor,
        sigma: float | Tensor | None = None,
        *,
        guide: Tensor | None = None,
        scale: float | Tensor | None = None,
    ) -> Tensor:
        """Return the denoised image, of the shape of x.

        Args:
            scale : c, a number or (..., 1, 1, 1) (default: the scale of the image).
            sigma : a number, or one for each item.

        Raises ValueError for a scale of another shape.
        """
        c = self.scale(x) if scale is None else torch.as_tensor(scale, dtype=x.dtype, device=x.device)
        if c.ndim and (c.ndim > x.ndim or any(n not in (1, m) for n, m in zip(c.shape[::-1], _one_each(x)[::-1]))):
            raise ValueError(
                f"ScaleEquivariant: a scale of {tuple(c.shape)} is not one number for each image of {tuple(x.shape)}; "
                f"it must be {_one_each(x)}"
            )
        safe = torch.where(c > 0, c, torch.ones_like(c))
        return c * called(self.denoiser, x / safe, _divided(sigma, safe), guide)


def count_scale(likelihood: Likelihood, steps: int = 16, *, total: Callable[[Array], Array] | None = None) -> Array:
    """Return the activity of the uniform image that explains the counts best, for each item: (..., 1, 1, 1).

    EM for an image of one number c, started from all counts, so that c stays positive and the background is included::

        c <- c / sum_j(s_j) * sum_i( y_i a_i / (c a_i + r_i) ),    a = A 1,  s = A'1

    The right-hand side is the mean, weighted with s, of the EM update of the uniform image; without background one
    step is exact, c = sum(y) / sum(s). Counts and background doubled give c doubled.
    Never below a hundredth of where it starts, also where all counts are background; 1 where nothing was counted.
    Takes one projection and the sensitivity that EM needs anyway, and keeps no gradient.

    Args:
        total : a function that makes sums over all bins of sums over the bins of this process, where other processes
            hold the rest (default: the likelihood's own `over_ranks`, where it is one of `recon.shard`).

    Raises TypeError for a likelihood without counts, and ValueError where nothing of the image is seen.
    """
    counted = of_counts(likelihood, "count_scale", "give the network a scale of its own, or scale=None")
    if total is None:
        total = getattr(likelihood, "over_ranks", _as_they_are)
    with torch.no_grad():
        model, ones = counted.model, start_image(counted)
        a = model.linear(ones)
        xp, background, y = array_namespace(a), like(model.background, a), counted.counts_like(a)
        bins, image = (tuple(range(-len(shape), 0)) for shape in (model.projector.out_shape, model.projector.in_shape))
        seen = xp.sum(counted.sensitivity_like(ones) * ones, axis=image)
        counts = total(xp.sum(y, axis=bins))
        if not bool(xp.all(seen > 0)):
            raise ValueError("count_scale: the sensitivity is 0 everywhere; nothing of the image is seen")
        c = start = xp.where(counts > 0, counts / seen, xp.ones_like(counts / seen))
        for _ in range(steps):
            expected = c[(..., *[None] * len(bins))] * a + background
            ratio = divide_where(y * a, expected)
            c = c * total(xp.sum(ratio, axis=bins)) / seen
        least = xp.where(counts > 0, start / 100, start)
        return xp.where(c > least, c, least)[..., None, None, None]


def _as_they_are(sums: Array) -> Array:
    return sums


def over_ranks(likelihood: object, sums: Array) -> Array:
    """Return sums over all bins from those over the bins of this process; the same where it holds all of them."""
    found: Array = getattr(likelihood, "over_ranks", _as_they_are)(sums)
    return found


def of_counts(likelihood: Likelihood, who: str, instead: str) -> CountsLikelihood:
    """Return a likelihood that knows its counts and their model.

    Args:
        who, instead : who asks for them, and what one may do without.

    Raises TypeError that names what the likelihood lacks.
    """
    missing = [name for name in _OF_COUNTS if not hasattr(likelihood, name)]
    if missing:
        raise TypeError(
            f"{who} needs a likelihood that knows its counts, and {type(likelihood).__name__} has no "
            f"{', '.join(missing)}; {instead}"
        )
    return cast(CountsLikelihood, likelihood)


def of_bins(likelihood: Likelihood, who: str, instead: str) -> CountsLikelihood:
    """Return a likelihood of counts whose model expects all bins, not those of events alone; otherwise as `of_counts`.

    Raises TypeError for other likelihoods, list-mode ones among them.
    """
    counted = of_counts(likelihood, who, instead)
    if not counted.sensitivity_has_factors:
        raise TypeError(f"{who} needs counts in bins, and {type(likelihood).__name__} knows single events; {instead}")
    return counted


def counts_of(likelihood: CountsLikelihood) -> Array:
    """Return the counts of all bins: the `data` as they are, or where there are none those like the start image."""
    data: Array | None = getattr(likelihood, "data", None)
    return likelihood.counts_like(start_image(likelihood)) if data is None else data


def _one_each(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:-3], 1, 1, 1)


def _divided(sigma: float | Tensor | None, scale: Tensor) -> Tensor | None:
    """sigma / scale, for a number, one for each item (...), or (..., 1, 1, 1)."""
    if sigma is None:
        return None
    noise = torch.as_tensor(sigma, dtype=scale.dtype, device=scale.device)
    return (noise[..., None, None, None] if 0 < noise.ndim < 3 else noise) / scale
