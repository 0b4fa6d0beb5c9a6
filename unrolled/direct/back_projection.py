"""Back projections as the start of a network: what the exact transpose, FBP or TOF makes of the data in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emrecon.projectors import ArcCorrection
from emrecon.projectors.core.arrays import divide_where
from emrecon.recon import fbp
from emrecon.recon.likelihoods import CountsLikelihood, Likelihood, only_seen, start_image

from ..networks.scaling import count_scale, counts_of
from .direct import whole
from .scans import having, image_grid

KINDS = ("transpose", "fbp")


@dataclass(frozen=True)
class BackProjection:
    """A reconstruction in one step, called like a network, without gradients: (likelihood) -> image, (..., x, y, z)::

        "transpose"   x = c A'(y - r) / A'(c A 1)      each line is spread along itself as A has it: attenuation,
                                                       response, time of flight (the likely places of an event)
        "fbp"         x = FBP( (y - r) / f ), scaled to the counts; attenuation of SPECT is left out, PET arc corrected

    c is the `count_scale`; a uniform image comes back as it was from "transpose". `y` counts, `r` background, f
    factors.

    Args:
        kind : one of these.
        cutoff : of the Hann window of "fbp", a fraction of the Nyquist frequency.

    Raises ValueError for another kind, TypeError for "fbp" of a scan whose lines are not known, ValueError for one with
    oblique planes or time of flight.
    """

    kind: str = "transpose"
    cutoff: float = 0.8

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"BackProjection: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")

    def __call__(self, likelihood: Likelihood | Sequence[Likelihood], start: Tensor | None = None) -> Tensor:
        """Return the image of each item; `start` is taken and not used."""
        counted = whole(likelihood, "BackProjection")
        with torch.no_grad():
            return only_seen(
                self._transposed(counted) if self.kind == "transpose" else self._filtered(counted), [counted]
            )

    def _transposed(self, likelihood: CountsLikelihood) -> Tensor:
        model, c = likelihood.model, count_scale(likelihood)
        uniform = model.linear(c * start_image(likelihood))
        y = counts_of(likelihood) - model.background_like(uniform)
        image: Tensor = c * divide_where(model.adjoint(y), model.adjoint(uniform))
        return image

    def _filtered(self, likelihood: CountsLikelihood) -> Tensor:
        model, c = likelihood.model, count_scale(likelihood)
        ones = torch.ones_like(c) * start_image(likelihood)
        factors = divide_where(model.linear(ones), model.projector(ones))
        y = divide_where(counts_of(likelihood) - model.background_like(factors), factors)
        lines, geometry = _parallel(model.projector, y)
        image: Tensor = torch.relu(fbp(lines, geometry, image_grid(model.projector), "hann", self.cutoff))
        bins = tuple(range(-len(model.projector.out_shape), 0))
        expected = model.linear(image).sum(bins)
        measured = (counts_of(likelihood) - model.background_like(factors)).sum(bins)
        scale = divide_where(measured.clamp(min=0), expected)
        return image * torch.as_tensor(scale)[..., None, None, None]


def _parallel(projector: Any, y: Tensor) -> tuple[Tensor, Any]:
    """Data along parallel lines, and where those are; PET of direct planes is arc corrected.

    Raises TypeError for a projector whose lines are not known, ValueError for oblique planes and TOF bins.
    """
    sinogram = having(projector, "sinogram")
    if sinogram is not None:
        corrected = ArcCorrection(sinogram.sinogram)
        return corrected(y), corrected.geometry
    camera = having(projector, "geometry")
    if camera is None:
        raise TypeError(f"FBP needs to know the lines of a scan, and {projector!r} does not say; use kind='transpose'")
    return y, camera.geometry
