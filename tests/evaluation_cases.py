"""A toy task: discs with hot and cold spots, parallel beams, a guide that shows half of the spots."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from emrecon import recon
from emrecon.projectors import AcquisitionModel, ImageGrid, ParallelBeamGeometry, ParallelBeamProjector

N = 20
GRID = ImageGrid((N, N, 1), (4.0, 4.0, 4.0))
PROJECTOR = ParallelBeamProjector(GRID, ParallelBeamGeometry(np.arange(0, 180, 15.0), N, 4.0))


@dataclass(frozen=True)
class Lesion:
    """A spot of one scan."""

    item: int
    kind: str
    in_guide: bool
    diameter: float
    contrast: float
    mask: Any
    ring: Any


@dataclass(frozen=True)
class Case:
    """A batch of scans."""

    likelihood: Any
    truth: Any
    guide: Any
    grid: Any = GRID
    regions: dict = field(default_factory=dict)
    lesions: tuple = ()


@dataclass(frozen=True)
class Task:
    """Scans by their numbers."""

    name: str = "toy-disc"
    title: str = "Discs"
    counts: float = 4000.0
    n_validation: int = 4
    n_test: int = 4

    def describe(self):
        """Return what makes the scans."""
        return {"task": self.name, "counts": self.counts}

    def cases(self, part, which, *, seed, level=1.0, change=None):
        """Return scans of a part as a batch of tensors."""
        start = {"train": 0, "validation": 100, "test": 200}[part]
        made = [one(start + int(i), n) for n, i in enumerate(which)]
        truth, guide = (torch.as_tensor(np.stack([m[k] for m in made]), dtype=torch.float32) for k in (0, 1))
        expected = PROJECTOR(truth)
        factors = level * self.counts / expected.sum((1, 2, 3), keepdim=True)
        model = AcquisitionModel(PROJECTOR, factors, 0.1 * (factors * expected).mean((1, 2, 3), keepdim=True))
        counts = torch.poisson(model(truth), generator=torch.Generator().manual_seed(seed))
        body = torch.as_tensor(np.stack([m[2] for m in made]))
        lesions = tuple(lesion for m in made for lesion in m[3])
        return Case(recon.PoissonLikelihood(counts, model), truth, guide, GRID, {"disc": body}, lesions)


def one(i, item):
    """Return (truth, guide, body, lesions) of a subject."""
    random = np.random.default_rng(i)
    x, y, z = GRID.coordinates()
    body = np.broadcast_to(x**2 + y**2 < 32**2, (N, N, 1)) & (z == 0)
    truth, guide, lesions = 1.0 * body, 1.0 * body, []
    for kind, side in (("hot", -1), ("cold", 1)):
        seen = bool(random.integers(2))
        r = np.broadcast_to(np.hypot(x - side * 14, y - random.uniform(-8, 8)), (N, N, 1))
        mask, ring = r < 7, (r > 9) & (r < 14) & body
        truth = np.where(mask, 3.0 if kind == "hot" else 0.2, truth)
        guide = np.where(mask, 0.5, guide) if seen else guide
        lesions.append(Lesion(item, kind, seen, 14.0, 2.0 if kind == "hot" else -0.8, mask, ring))
    return truth, guide, body, lesions
