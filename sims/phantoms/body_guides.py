"""Guides of bodies and shapes: what a CT or a magnetic resonance image shows, displaced, biased and noisy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emrecon.projectors import ImageGrid, linear_attenuation

from ..noise import generator
from .brain import GuideRecipe, displacement
from .fields import MarkedLesion
from .folds import random_waves
from .phantom import Phantom, Region
from .shapes import Ellipsoid

KINDS = ("ct", "mr")
_CT_ENERGY = 70.0  # keV


@dataclass(frozen=True)
class BodyGuideVariety:
    """How guides of bodies differ from each other and from the emission image.

    Args:
        shift, turn, bias, noise : see `GuideRecipe`; the bias is of "mr" alone.
        contrasts : "ct", attenuation over that of water at 70 keV, or "mr", an intensity for every name of region that
            is drawn evenly from 0.1 to 1 and says nothing of the activity; each guide is one of them.
        absent : the part of the guides that are constant and show nothing at all.

    Raises ValueError for unknown contrasts and numbers out of range.
    """

    shift: float = 3.0
    turn: float = 2.0
    bias: float = 0.2
    noise: float = 0.03
    contrasts: tuple[str, ...] = KINDS
    absent: float = 0.05

    def __post_init__(self) -> None:
        GuideRecipe(self.shift, self.turn, self.bias, self.noise)
        unknown = [name for name in self.contrasts if name not in KINDS]
        if unknown or not self.contrasts:
            raise ValueError(f"BodyGuideVariety: unknown contrasts {unknown}; choose one or more of {', '.join(KINDS)}")
        if not 0 <= self.absent <= 1:
            raise ValueError(f"BodyGuideVariety: absent must be from 0 to 1, got {self.absent}")


@dataclass(frozen=True)
class BodyGuide:
    """A guide that is painted on any grid.

    Args:
        anatomy : regions whose "activity" is the intensity, where the guide shows them.
        contrast : "ct", "mr" or "absent".
        bias, noise, seed : of the image.
        offset, angle : by which it is displaced against the emission image.
    """

    anatomy: Phantom
    contrast: str
    bias: float
    noise: float
    seed: int
    offset: tuple[float, float, float]
    angle: float

    def __call__(self, grid: ImageGrid) -> np.ndarray:
        """Return the image, float32 (nx, ny, nz)."""
        if self.contrast == "absent":
            return np.ones(grid.shape, np.float32)
        image = self.anatomy.activity(grid).astype(float)
        if self.bias and self.contrast == "mr":
            waves = random_waves(generator(self.seed, "body guide bias"), 4, 400.0)
            limit = sum(abs(wave[4]) for wave in waves)
            x, y, z = grid.coordinates()
            total = sum(a * np.cos(kx * x + ky * y + kz * z + phase) for kx, ky, kz, phase, a in waves)
            image = image * np.exp(self.bias / limit * total)
        if self.noise:
            real, imaginary = generator(self.seed, "body guide noise").normal(0, self.noise, (2, *grid.shape))
            image = np.hypot(image + real, imaginary)
        return image.astype(np.float32)


def random_body_guide(
    seed: int,
    regions: Sequence[Region],
    lesions: Sequence[MarkedLesion],
    variety: BodyGuideVariety,
    dimensions: int,
    hidden: Sequence[str] = (),
) -> BodyGuide:
    """Return the guide of regions (without lesions) and of those lesions that it shows.

    Args:
        hidden : names of regions that it does not show.

    Raises ValueError for a seed that is negative.
    """
    random = generator(seed, "body guide")
    contrast = variety.contrasts[int(random.integers(len(variety.contrasts)))]
    absent = random.uniform() < variety.absent
    names = dict.fromkeys(region.name for region in regions)
    drawn = {name: float(random.uniform(0.1, 1.0)) for name in names}
    intensity = _of_tissue(regions) if contrast == "ct" else drawn
    shown = [
        Region(region.name, region.shape, value)
        for region, value in ((r, intensity.get(_key(r, contrast))) for r in regions if r.name not in hidden)
        if value is not None
    ]
    for lesion in lesions:
        own = float(random.uniform(0.9, 1.2) if contrast == "ct" else random.uniform(0.1, 1.2))
        if lesion.in_guide:
            shown.append(Region(lesion.name, Ellipsoid(lesion.centre, lesion.diameter / 2), own))
    offset, angle = displacement(seed, GuideRecipe(variety.shift, variety.turn), dimensions)
    moved = Phantom(tuple(shown)).moved(offset, angle)
    return BodyGuide(moved, "absent" if absent else contrast, variety.bias, variety.noise, seed, offset, angle)


def _key(region: Region, contrast: str) -> str:
    return f"{region.material} {region.density} {region.mu}" if contrast == "ct" else region.name


def _of_tissue(regions: Sequence[Region]) -> Mapping[str, float]:
    """CT numbers over that of water + 1, so that air is 0 and water 1."""
    water = linear_attenuation("water", _CT_ENERGY)
    found = {}
    for region in regions:
        mu = region.attenuation(_CT_ENERGY)
        if mu is not None and math.isfinite(mu):
            found[_key(region, "ct")] = mu / water
    return found
