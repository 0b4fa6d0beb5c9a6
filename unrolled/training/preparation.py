"""From samples to what a network is trained on: likelihoods of batches, each item with its own map and background."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from emrecon.projectors import AcquisitionModel, ImageGrid, Projector, SPECTProjector
from emrecon.projectors.core.arrays import Array
from emrecon.recon import PoissonLikelihood

Samples = Mapping[str, Array]
"""Arrays by name, (B, ...) each, such as a loader of a data set hands out."""


class Geometry(Protocol):
    """The bins of a scan."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Scanner(Protocol):
    """What `Preparation` asks of a scanner; the simulators of `emrecon.sims` have it."""

    @property
    def grid(self) -> ImageGrid: ...
    @property
    def geometry(self) -> Geometry: ...
    def projector(self, mu: np.ndarray) -> Projector: ...


@dataclass(frozen=True, eq=False)
class Preparation:
    """What makes training pairs of samples: prepare(samples) -> ({"likelihood": f, "guide": g}, target)::

        f : y ~ Poisson(level (factors A x + background)),     x, the target, in the same unit at every level

    Every item of a batch has its own attenuation map (of SPECT, the field `mu`; the factors of PET hold it already),
    factors and background. All tensors are float32 on one device.

    Args:
        scanner : grid, geometry and `projector(mu)`, such as `RecipeSource(recipe).simulator`; for measured scans
            `MeasuredScanner`.
        levels : of the counts, where `counts` are (B, levels, ``*geometry.shape``).
        level : the one that the network sees (default: the lowest).
        guides : names of the fields that the network sees beside the image, such as ("guide",) or ("guide", "mu").
        target : the field that it learns; of one with an axis of levels the highest.
        floor : the least expected background of a bin over the mean counts in a bin; it keeps the likelihood finite
            where the model expects no counts.
        device : where tensors go.
        frames : of a scan whose frames a network sees together: counts, factors and background are (B, frames,
            ``*geometry.shape``), and the target is (B, tracers, x, y, z). PET alone.
        counts : the field that stands for the counts: "counts", or "expected" for data without noise (level 1).

    Samples hold `counts`, `factors`, `background`, the target, the guides and, for SPECT, `mu`: arrays or tensors.

    Raises ValueError for a level that is not there and samples without a field that is needed.
    """

    scanner: Scanner
    levels: Sequence[float] = (1.0,)
    level: float | None = None
    guides: Sequence[str] = ()
    target: str = "truth"
    floor: float = 1e-3
    device: torch.device | str = "cpu"
    counts: str = "counts"
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.level is not None and self.level not in self.levels:
            raise ValueError(f"Preparation: level {self.level:g} is not among the levels {list(self.levels)}")

    def __call__(self, samples: Samples) -> tuple[dict[str, Any], torch.Tensor]:
        """Return (arguments of the network, target (B, x, y, z))."""
        arguments: dict[str, Any] = {"likelihood": self.likelihood(samples)}
        if self.guides:
            guides = [self._images(self._field(samples, name)) for name in self.guides]
            arguments["guide"] = torch.stack(guides, -4) if len(guides) > 1 else guides[0]
        target = self._tensor(self._field(samples, self.target))
        if self.frames is not None:
            return arguments, target.reshape(len(target), -1, *self.scanner.grid.shape)
        if target[0].numel() == len(self.levels) * math.prod(self.scanner.grid.shape) and len(self.levels) > 1:
            target = target[:, int(np.argmax(self.levels))]
        return arguments, self._images(target)

    def likelihood(self, samples: Samples) -> PoissonLikelihood:
        """Return the likelihood of a batch's counts at the chosen level."""
        level = min(self.levels) if self.level is None else self.level
        y = self._counts(samples, level)
        factors, background = (self._data(self._field(samples, name)) for name in ("factors", "background"))
        least = self.floor * y.mean(tuple(range(-len(self.scanner.geometry.shape), 0)), keepdim=True)
        model = AcquisitionModel(self._projector(samples), level * factors, (level * background).maximum(least))
        return PoissonLikelihood(y, model)

    def _counts(self, samples: Samples, level: float) -> torch.Tensor:
        counts = self._tensor(self._field(samples, self.counts))
        if self.counts == "expected":
            return level * self._data(counts)
        return self._data(counts[:, list(self.levels).index(level)] if len(self.levels) > 1 else counts)

    def _projector(self, samples: Samples) -> Projector:
        empty = self._empty
        if not isinstance(empty, SPECTProjector):
            return empty
        maps = self._tensor(self._field(samples, "mu")).reshape(-1, *self.scanner.grid.shape)
        return empty.with_attenuation(maps.cpu().numpy())

    @cached_property
    def _empty(self) -> Projector:
        """The projector without a patient, with all its tables."""
        return self.scanner.projector(np.zeros(self.scanner.grid.shape, np.float32))

    def _field(self, samples: Samples, name: str) -> Array:
        if name not in samples:
            raise ValueError(
                f"Preparation: the samples have no field {name!r}, only {', '.join(samples)}; is it among the outputs "
                "of the recipe?"
            )
        return samples[name]

    def _data(self, values: Array) -> torch.Tensor:
        frames = () if self.frames is None else (self.frames,)
        return self._tensor(values).reshape(-1, *frames, *self.scanner.geometry.shape)

    def _images(self, values: Array) -> torch.Tensor:
        return self._tensor(values).reshape(-1, *self.scanner.grid.shape)

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.as_tensor(values).to(self.device, torch.float32)


@dataclass(frozen=True, eq=False)
class MeasuredScanner:
    """The scanner of measured scans for `Preparation`: one grid and geometry for all, and a projector for each map.

    Args:
        empty : the projector without attenuation: a `SPECTProjector` with its response, or a `PETProjector`, with or
            without a resolution model, where the samples' factors hold attenuation and normalisation.
    """

    grid: ImageGrid
    geometry: Geometry
    empty: Projector

    def projector(self, mu: np.ndarray) -> Projector:
        """Return the projector of a map, or of a batch of them."""
        return self.empty.with_attenuation(mu) if isinstance(self.empty, SPECTProjector) else self.empty
