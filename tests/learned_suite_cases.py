"""A task of small ellipses for the tests of the suite `learned`: made in no time, with lesions and a guide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from emrecon import projectors, recon, sims
from emrecon.evaluation.tasks import CHANGES, Change

N = 16
GRID = projectors.ImageGrid((N, N, 1), 8.0)
CAMERA = projectors.SPECTGeometry.circular(n_views=12, radius=120, n_bins=(N, 1), pixel_size=8.0)
MODEL = projectors.AcquisitionModel(projectors.SPECTProjector(GRID, CAMERA), background=0.2)


class ToyLesion(NamedTuple):
    """A lesion as `evaluation.tasks` has it."""

    item: int
    kind: str
    in_guide: bool
    diameter: float
    contrast: float
    mask: np.ndarray
    ring: np.ndarray


@dataclass(frozen=True)
class ToyCase:
    """A batch of scans."""

    likelihood: Any
    truth: torch.Tensor
    guide: torch.Tensor
    mu: torch.Tensor
    regions: Mapping[str, np.ndarray] = field(default_factory=dict)
    lesions: tuple[ToyLesion, ...] = ()
    decoys: tuple[ToyLesion, ...] = ()
    voxel_size: tuple[float, float, float] = GRID.voxel_size


@dataclass(frozen=True)
class ToyTask:
    """Ellipses whose guide shows their borders, and hot spots that it does not show."""

    name: str = "toy"
    title: str = "toy ellipses"
    n_train: int = 8
    n_validation: int = 4
    n_test: int = 6
    shape: tuple[int, int, int] = GRID.shape
    voxel_size: tuple[float, float, float] = GRID.voxel_size
    work: Any = None
    changes: tuple[Change, ...] = (CHANGES["counts-quarter"],)

    def cases(self, part: str, which: Any, *, seed: int, level: float = 1.0, change: Any = None) -> ToyCase:
        """Return a batch."""
        level *= CHANGES[change].level if change else 1.0
        first = {"train": 0, "validation": 100, "test": 200}[part]
        truth, guide, lesions = [], [], []
        for item, i in enumerate(which):
            image = sims.random_ellipses(seed=first + i).activity(GRID).astype(np.float32)
            image *= 4 / image.max()
            x, y, _ = GRID.coordinates()
            r = np.hypot(x - 8, y + 8 * (i % 2)) * np.ones(GRID.shape)
            mask, ring = r < 10, (r > 18) & (r < 34)
            guide.append(np.sqrt(image))
            truth.append(np.where(mask, 8.0, image).astype(np.float32))
            lesions.append(ToyLesion(item, "hot", False, 20.0, 2.0, mask, ring))
        x, g = torch.as_tensor(np.stack(truth)), torch.as_tensor(np.stack(guide))
        counts = torch.poisson(level * MODEL(x), generator=torch.Generator().manual_seed(seed))
        model = projectors.AcquisitionModel(MODEL.projector, torch.tensor(level), torch.tensor(0.2 * level))
        regions = {"all": np.ones((len(x), *GRID.shape), bool)}
        return ToyCase(recon.PoissonLikelihood(counts, model), x, g, 0 * x, regions, tuple(lesions))

    def describe(self) -> dict[str, Any]:
        """Return what decides the scans."""
        return {"name": self.name}
