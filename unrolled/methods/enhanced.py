"""A reconstruction with a network after it: the image first, then a better one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emrecon.recon import Iterate, osem, run
from emrecon.recon.likelihoods import Likelihood, only_seen

from ..networks.blocks import Denoiser, called, require_denoiser
from ..networks.reconstructor import dimensions_of, guides_of, networks_of
from ..networks.scaling import count_scale
from .unrolled_em import ones_of

Reconstruct = Callable[..., Tensor]


@dataclass(frozen=True)
class OSEMPasses:
    """OSEM as a reconstruction that is called like a network, without gradients: (likelihood, start) -> image.

    Args:
        passes, subsets : of OSEM; where the likelihood is a list of subsets, the passes take these.

    The start is uniform, the `count_scale` of the counts, unless one is given.

    Raises ValueError for less than one pass or subset.
    """

    passes: int = 4
    subsets: int = 6

    def __post_init__(self) -> None:
        if self.passes < 1 or self.subsets < 1:
            raise ValueError(f"OSEMPasses needs a pass and a subset at least, got {self.passes} and {self.subsets}")

    def __call__(self, likelihood: Likelihood | Sequence[Likelihood], start: Tensor | None = None) -> Tensor:
        """Return the image of each item, (..., x, y, z)."""
        parts = _parts(likelihood)
        with torch.no_grad():
            first = count_scale(_whole(likelihood)) * ones_of(parts) if start is None else start
            image: Tensor = run(osem(likelihood, first, self.subsets), self.passes)
        return image


@dataclass(frozen=True)
class EnginePasses:
    """The image of any engine as a reconstruction that is called like a network, without gradients::

        EnginePasses(lambda f, start: recon.map_em(f, prior, start, 6), passes=8)

    Args:
        engine : (likelihood, start) -> iterates, such as a function that calls `recon.map_em`, `recon.bsrem` or
            `recon.svrg` with its prior and subsets; of bins or of events.
        passes : over the data.

    The start is uniform, the `count_scale` of the counts, unless one is given.

    Raises ValueError for less than one pass.
    """

    engine: Callable[[Likelihood | Sequence[Likelihood], Tensor], Iterator[Iterate]]
    passes: int = 4

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"EnginePasses needs a pass at least, got {self.passes}")

    def __call__(self, likelihood: Likelihood | Sequence[Likelihood], start: Tensor | None = None) -> Tensor:
        """Return the image of each item, (..., x, y, z)."""
        with torch.no_grad():
            first = count_scale(_whole(likelihood)) * ones_of(_parts(likelihood)) if start is None else start
            image: Tensor = run(self.engine(likelihood, first), self.passes)
        return image


class Enhanced(nn.Module):
    """A reconstruction, and a network that makes a better image of it::

        x = R(y),      image = relu(c D(x / c)),      c the `count_scale` of the counts

    so that counts and background doubled give the image doubled. With OSEM and a U-Net it is the usual enhancement of
    images; `OSEMPasses` is that OSEM.

    Args:
        reconstruct : (likelihood, start) -> image: `OSEMPasses`, a `Reconstructor`, or a function of one's own. What
            has no weights to learn runs without gradients.
        denoiser : image -> image, with guides if it takes them; a `Reconstructor` before it gets the same guides.
        scale : the typical value of each item's image, (..., 1, 1, 1); None gives the network images as they are.

    Raises TypeError for what is no denoiser or cannot be called.
    """

    def __init__(
        self,
        reconstruct: Reconstruct,
        denoiser: Denoiser,
        scale: Callable[[Likelihood], Tensor] | None = count_scale,
    ) -> None:
        super().__init__()
        require_denoiser(denoiser, "Enhanced")
        if not callable(reconstruct):
            raise TypeError(f"Enhanced takes a reconstruction to call, got {type(reconstruct).__name__}")
        self.reconstruct, self.denoiser, self.scale = reconstruct, denoiser, scale

    @property
    def networks(self) -> list[nn.Module]:
        """The networks inside, those of the reconstruction first."""
        own = [self.denoiser] if isinstance(self.denoiser, nn.Module) else []
        return [*(networks_of(self.reconstruct) if isinstance(self.reconstruct, nn.Module) else ()), *own]

    @property
    def guide_channels(self) -> int:
        """How many guide images it takes."""
        return max(guides_of(self.reconstruct), guides_of(self.denoiser))

    @property
    def dimensions(self) -> int:
        """2 for networks of slices, 3 of volumes."""
        return dimensions_of(self.reconstruct, self.denoiser)

    @property
    def subsets(self) -> int | None:
        """The subsets of views that the reconstruction takes, None where it does not say."""
        return getattr(self.reconstruct, "subsets", None)

    def forward(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: Tensor | None = None,
        *,
        guide: Tensor | None = None,
    ) -> Tensor:
        """Return the image of each item, (..., x, y, z), 0 where nothing is seen.

        Raises ValueError for a guide that nothing here takes, and what the two parts raise.
        """
        if guide is not None and not self.guide_channels:
            raise ValueError("Enhanced: neither the reconstruction nor the network takes a guide")
        x = self._first(likelihood, start, guide)
        c = torch.ones_like(x[..., :1, :1, :1]) if self.scale is None else self.scale(_whole(likelihood))
        image = c * called(self.denoiser, x / c, guide=guide if guides_of(self.denoiser) else None)
        return only_seen(torch.relu(image), _parts(likelihood))

    def _first(
        self, likelihood: Likelihood | Sequence[Likelihood], start: Tensor | None, guide: Tensor | None
    ) -> Tensor:
        learns = isinstance(self.reconstruct, nn.Module) and any(
            weight.requires_grad for weight in self.reconstruct.parameters()
        )
        named = {"guide": guide} if guides_of(self.reconstruct) else {}
        with nullcontext() if learns else torch.no_grad():
            return self.reconstruct(likelihood, start, **named)


def _parts(likelihood: Likelihood | Sequence[Likelihood]) -> list[Likelihood]:
    return list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]


def _whole(likelihood: Likelihood | Sequence[Likelihood]) -> Likelihood:
    """The likelihood, or the first of its subsets, whose counts say the scale as well."""
    return _parts(likelihood)[0]
