"""What every network that reconstructs has in common: one call, the networks inside it, and what they expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from emrecon.recon.likelihoods import Likelihood


@runtime_checkable
class Reconstructor(Protocol):
    """What makes an image of a scan with networks: unrolled, direct, or after another reconstruction.

        image = reconstructor(likelihood, start, guide=guide),      (..., x, y, z)

    Whatever is one is trained by `train`, kept by `save_weights`, run by `emrecon reconstruct` and measured by
    `emrecon benchmark`. Counts and background doubled give the image doubled; voxels that nothing sees are 0.

    Attributes:
        networks : what to compile, to freeze, and to run in mixed precision; nothing that projects is in them.
        guide_channels : how many guide images it takes.
        dimensions : 2 if slices are items of a batch, 3 for volumes.
    """

    @property
    def networks(self) -> Sequence[nn.Module]: ...
    @property
    def guide_channels(self) -> int: ...
    @property
    def dimensions(self) -> int: ...
    def __call__(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: Tensor | None = None,
        *,
        guide: Tensor | None = None,
    ) -> Any: ...


def networks_of(model: nn.Module) -> list[nn.Module]:
    """Return the networks inside a model that says which they are; empty for one that does not."""
    return list(getattr(model, "networks", ()))


def guides_of(module: object) -> int:
    """Return how many guide images a denoiser or reconstructor takes, 0 for one that does not say."""
    return int(getattr(module, "guide_channels", 0))


def dimensions_of(*modules: object) -> int:
    """Return 2 where one of the modules says that slices are its items, otherwise 3."""
    return min((int(getattr(module, "dimensions", 3)) for module in modules), default=3)
