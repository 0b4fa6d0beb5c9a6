"""Smooth fields that vary the activity inside of tissues: lobes, spots with soft borders, waves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from emrecon.projectors import ImageGrid

from .folds import Wave, random_waves
from .layers import painted_together
from .phantom import Phantom
from .shapes import Coordinate

_MOST_SIGMAS = 3.0  # standard deviations at which waves are cut


@dataclass(frozen=True)
class Spot:
    """An ellipsoid with a soft border in which activity is multiplied::

        1 + (factor - 1) / (1 + exp((n - 1) r / edge)),     n = ``|(p - centre) / radii|``, r the mean radius

    Args:
        centre, radii : (x, y, z) in mm.
        factor : in the middle; 0.5 takes half of the activity away.
        edge : mm over which the border falls, more than 0.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    factor: float
    edge: float

    def __post_init__(self) -> None:
        if not (min(self.radii) > 0 and self.edge > 0 and 0 <= self.factor < math.inf):
            raise ValueError(f"a Spot needs positive radii and edge, and a factor that is not negative, got {self}")

    def __call__(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Return the factor at points in mm."""
        squares = [((c - m) / r) ** 2 for c, m, r in zip((x, y, z), self.centre, self.radii)]
        n = np.sqrt(squares[0] + squares[1] + squares[2])
        exponent = np.clip((n - 1) * (sum(self.radii) / 3) / self.edge, -50, 50)
        return np.asarray(1 + (self.factor - 1) / (1 + np.exp(exponent)))


@dataclass(frozen=True)
class Lobes:
    """Parts of space around centres, whose factors pass into one another: weights w_k = softmax(-d_k^2 / (2 s^2)).

    Args:
        names, centres, factors : of each lobe; centres (x, y, z) in mm.
        softness : s in mm. Between centres D apart the border is about 4 s^2 / D wide.
    """

    names: tuple[str, ...]
    centres: tuple[tuple[float, float, float], ...]
    factors: tuple[float, ...]
    softness: float

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.centres) == len(self.factors) or not self.names:
            raise ValueError("Lobes need one name, one centre and one factor each, and at least one lobe")
        if not self.softness > 0:
            raise ValueError(f"Lobes softness must be positive mm, got {self.softness}")

    def __call__(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Return the factor at points in mm."""
        distance = self._squares(x, y, z) / (2 * self.softness**2)
        weights = np.exp(distance.min(0) - distance)
        return np.asarray(np.tensordot(np.array(self.factors), weights, 1) / weights.sum(0))

    def nearest(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Return the number of the lobe that a point belongs to."""
        return np.asarray(self._squares(x, y, z).argmin(0))

    def _squares(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        return np.array([(x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 for a, b, c in self.centres])


@dataclass(frozen=True)
class SmoothField:
    """A positive factor at every point: constant x lobes x spots x exp(waves), waves cut at 3 standard deviations.

    Args:
        waves : see `random_waves`; their sum is the logarithm.
        strength : the standard deviation of the logarithm.
    """

    constant: float = 1.0
    lobes: Lobes | None = None
    spots: tuple[Spot, ...] = ()
    waves: tuple[Wave, ...] = ()
    strength: float = 0.0

    def __call__(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Return the factor at points in mm; x, y and z broadcast."""
        factor = np.full(np.broadcast_shapes(*(np.shape(c) for c in (x, y, z))), self.constant)
        if self.lobes is not None:
            factor = factor * self.lobes(x, y, z)
        for spot in self.spots:
            factor = factor * spot(x, y, z)
        if self.waves:
            limit = _MOST_SIGMAS * self.strength
            total = sum(a * np.cos(kx * x + ky * y + kz * z + phase) for kx, ky, kz, phase, a in self.waves)
            factor = factor * np.exp(np.clip(total, -limit, limit))
        return np.asarray(factor)

    def on(self, grid: ImageGrid) -> np.ndarray:
        """Return the factor at the centres of a grid's voxels, (nx, ny, nz)."""
        return self(*grid.coordinates())


def random_texture(random: np.random.Generator, parts: Mapping[float, float]) -> tuple[tuple[Wave, ...], float]:
    """Return waves and the standard deviation of their sum.

    Args:
        parts : wavelength in mm to standard deviation of the logarithm; each has 16 waves within 30 % of its length.
    """
    waves: list[Wave] = []
    for wavelength, strength in parts.items():
        own = random_waves(random, 16, wavelength, spread=0.3)
        waves += [(*wave[:4], strength * wave[4]) for wave in own] if strength else []
    return tuple(waves), math.sqrt(sum(strength**2 for strength in parts.values()))


@dataclass(frozen=True)
class MarkedLesion:
    """A lesion, as those who measure it need it.

    Args:
        name : of its region in the phantom, or in the guide's where the emission does not show it.
        centre : (x, y, z) in mm.
        diameter : mm, the mean over the axes.
        in_emission, in_guide : which images show it.
        hot : whether it is hotter than what is around it; None where the emission does not show it.
    """

    name: str
    centre: tuple[float, float, float]
    diameter: float
    in_emission: bool
    in_guide: bool
    hot: bool | None


@dataclass(frozen=True)
class Modulated:
    """A phantom whose regions' activities vary smoothly inside of them: activity of the region x field at the voxel.

    Args:
        phantom : regions in painter's order.
        fields : by name of region; regions without one are uniform.
        lobes : name of a region to the lobes that its label is told apart by, "left frontal grey".
        lesions : what was put in.

    The field is taken at the voxel's centre, the region's part of the voxel as a mean over it.
    """

    phantom: Phantom
    fields: Mapping[str, SmoothField] = field(default_factory=dict)
    lobes: Mapping[str, Lobes] = field(default_factory=dict)
    lesions: tuple[MarkedLesion, ...] = ()

    def activity(self, grid: ImageGrid, oversample: int = 4) -> np.ndarray:
        """Return the mean activity concentration of every voxel, float32 (nx, ny, nz)."""
        return self.painted(grid, None, oversample)[0]

    def attenuation(self, grid: ImageGrid, energy_kev: float, oversample: int = 4) -> np.ndarray:
        """Return the mean linear attenuation coefficient of every voxel in 1/cm, float32 (nx, ny, nz)."""
        return self.phantom.attenuation(grid, energy_kev, oversample)

    def painted(self, grid: ImageGrid, energy_kev: float | None, oversample: int = 4) -> tuple[np.ndarray, ...]:
        """Return activity and, with an energy, attenuation at once: the shapes are evaluated once for both."""
        regions = self.phantom.regions
        chosen = list(dict.fromkeys(self.fields.get(region.name) for region in regions))
        column = {made: k for k, made in enumerate(chosen)}
        emission = np.zeros((len(regions), len(chosen)))
        for row, region in enumerate(regions):
            emission[row, column[self.fields.get(region.name)]] = region.activity or 0.0
        pictures, values = [[-1 if r.activity is None else k for k, r in enumerate(regions)]], [emission]
        if energy_kev is not None:
            mu = [region.attenuation(energy_kev) for region in regions]
            pictures.append([-1 if value is None else k for k, value in enumerate(mu)])
            values.append(np.array([[value or 0.0] for value in mu]))
        parts, *maps = painted_together(regions, pictures, values, grid, oversample)
        total = np.zeros(grid.shape)
        for part, made in zip(parts, chosen):
            there = part > 0
            if made is None:
                total += part
            elif there.any():
                points = (np.broadcast_to(c, grid.shape)[there] for c in grid.coordinates())
                total[there] += part[there] * made(*points)
        return (total.astype(np.float32), *(image[0] for image in maps))

    @property
    def names(self) -> tuple[str, ...]:
        """What the labels mean: "outside", the phantom's regions, one for each lobe, and at last the lesions.

        So the numbers of all but the lesions are the same whatever lesions there are.
        """
        own = (f"{lobe} {name}" for name, lobes in self.lobes.items() for lobe in lobes.names)
        plain = [name for name in self.phantom.names if not name.startswith("lesion")]
        return (*plain, *own, *(name for name in self.phantom.names if name.startswith("lesion")))

    def fraction(self, grid: ImageGrid, name: str, oversample: int = 4) -> np.ndarray:
        """Return the part of every voxel that the regions of one name of the phantom fill, see `Phantom.fraction`."""
        return self.phantom.fraction(grid, name, oversample)

    def labels(self, grid: ImageGrid) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the label at every voxel's centre, int16, and `names`; regions with lobes have those of their lobes.

        Every voxel has one label, so that regions do not overlap.
        """
        found, before = self.phantom.labels(grid)
        number = {name: k for k, name in enumerate(self.names)}
        out = np.array([number[name] for name in before])[found]
        for name, lobes in self.lobes.items():
            if name in before:
                table = np.array([number[f"{lobe} {name}"] for lobe in lobes.names])
                own = table[np.broadcast_to(lobes.nearest(*grid.coordinates()), grid.shape)]
                out = np.where(found == before.index(name), own, out)
        return out.astype(np.int16), self.names
