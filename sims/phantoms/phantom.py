"""Phantoms made of solids: painted on any grid, and integrated exactly along any line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors import ImageGrid, SPECTGeometry, linear_attenuation, materials

from .painting import Integrate, Layer, attenuated, painted, pieces, rays
from .shapes import Cylinder, Solid

_CROSSINGS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Region:
    """A solid with what fills it.

    Args:
        name : regions of one name share a label, so a shape that is not convex is a union of regions.
        activity : per mL, in any unit; None keeps the activity that is below.
        material : one of `projectors.materials()`, or mu : linear attenuation in 1/cm, the same at every energy; with
            neither, the region keeps the attenuation that is below.
        density : of the material in g/mL; None takes the material's own.

    Raises ValueError for a negative or non-finite value, an unknown material, material and mu together, and a density
    that is not positive or has no material.
    """

    name: str
    shape: Solid
    activity: float | None = None
    material: str | None = None
    mu: float | None = None
    density: float | None = None

    def __post_init__(self) -> None:
        for what, value in (("activity", self.activity), ("mu", self.mu)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"region {self.name!r}: {what} must be finite and >= 0, got {value}")
        if self.material is not None and self.mu is not None:
            raise ValueError(f"region {self.name!r} has a material and a mu; give one of them")
        if self.material is not None and self.material not in materials():
            raise ValueError(
                f"region {self.name!r}: unknown material {self.material!r}; choose from {', '.join(materials())}"
            )
        if self.density is not None and self.material is None:
            raise ValueError(f"region {self.name!r} has a density but no material; name one, or give mu alone")
        if self.density is not None and not 0 < self.density < math.inf:
            raise ValueError(f"region {self.name!r}: density must be positive and finite (g/mL), got {self.density}")

    def attenuation(self, energy_kev: float) -> float | None:
        """Return the linear attenuation coefficient in 1/cm, None where the region keeps what is below."""
        return self.mu if self.material is None else linear_attenuation(self.material, energy_kev, self.density)


@dataclass(frozen=True)
class Phantom:
    """Regions in painter's order: where they overlap, the last one that has a value replaces the others.

    Args:
        regions : a sequence of `Region`; `Phantom((*phantom.regions, lesion))` adds one on top. Outside of all of them
            there is no activity and no attenuation.
    """

    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", tuple(self.regions))

    def activity(self, grid: ImageGrid, oversample: int = 4) -> np.ndarray:
        """Return the mean activity concentration of every voxel, float32 (nx, ny, nz).

        Voxels that an edge crosses are the mean of oversample^3 points, all others are exact. A grid of one slice is
        two-dimensional: it shows the plane through its middle, and edges are averaged along x and y only.
        """
        return painted(self._layers(_activity), grid, oversample)

    def attenuation(self, grid: ImageGrid, energy_kev: float, oversample: int = 4) -> np.ndarray:
        """Return the mean linear attenuation coefficient of every voxel in 1/cm, float32 (nx, ny, nz); see `activity`.

        Raises ValueError for an energy outside the tables (1 to 20000 keV).
        """
        return painted(self._layers(partial(Region.attenuation, energy_kev=energy_kev)), grid, oversample)

    def fraction(self, grid: ImageGrid, name: str, oversample: int = 4) -> np.ndarray:
        """Return the part of every voxel that the regions of one name fill and no later one covers, 0 to 1, float32.

        Raises ValueError for a name that no region has.
        """
        if name not in self.names:
            raise ValueError(f"unknown region {name!r}; choose from {', '.join(self.names[1:])}")
        return painted(self._layers(lambda region: float(region.name == name)), grid, oversample)

    @property
    def names(self) -> tuple[str, ...]:
        """What the labels mean: "outside", then the names of the regions in the order of their first appearance."""
        return ("outside", *dict.fromkeys(region.name for region in self.regions))

    def labels(self, grid: ImageGrid) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the label at every voxel's centre, int16 (nx, ny, nz), and `names`, so that names[label] is there."""
        number = {name: i for i, name in enumerate(self.names)}
        image = painted(self._layers(lambda region: number[region.name]), grid, oversample=1)
        return image.astype(np.int16), self.names

    def line_integral(self, points: ArrayLike, directions: ArrayLike) -> np.ndarray:
        """Return the integral of the activity along whole lines, exactly: sum over pieces of activity x length in mm.

        Args:
            points, directions : (..., 3) any point of each line in mm and its direction (any length); they broadcast.

        Returns (...), float64.

        Raises ValueError where a line never leaves an infinite region.
        """
        return self._along(points, directions, (_activity,), lambda activity: activity.sum(0))

    def attenuation_integral(self, points: ArrayLike, directions: ArrayLike, energy_kev: float) -> np.ndarray:
        """Return the integral of mu along whole lines, without unit: exp(-integral) is the transmission.

        Args:
            points, directions : as in `line_integral`.
        """
        mu = partial(Region.attenuation, energy_kev=energy_kev)
        return self._along(points, directions, (mu,), lambda depth: depth.sum(0) / 10)

    def attenuated_integral(self, points: ArrayLike, directions: ArrayLike, energy_kev: float) -> np.ndarray:
        """Return the activity integral as a detector far along `directions` sees it through the phantom, exactly::

            integral of a(t) exp(-integral of mu from t to infinity) dt,  in mm

        Args:
            points, directions : as in `line_integral`; directions point to the detector.

        On a piece of length l with constant a and mu the integral is a l (1 - exp(-mu l)) / (mu l).
        """
        mu = partial(Region.attenuation, energy_kev=energy_kev)
        return self._along(points, directions, (_activity, mu), attenuated)

    def projection(self, geometry: SPECTGeometry, energy_kev: float | None = None, oversample: int = 1) -> np.ndarray:
        """Return ideal parallel projections: the line integral through every bin in mm x activity, (views, bins, rows).

        Args:
            energy_kev : attenuate at this energy; None for no attenuation.
            oversample : every bin is the mean of oversample^2 lines; 1 takes the line through its centre.

        No blur, float32. A projector without response sums voxels instead: if x holds the concentration, du x dz is the
        size of a bin and dx dy dz' that of a voxel, SPECTProjector's counts are this integral x du dz / (dx dy dz')
        (for an image of one slice seen by one row: x du / (dx dy)).
        """
        views = [self._seen(points, toward, energy_kev) for points, toward in rays(geometry, oversample)]
        fine = np.reshape(views, (geometry.n_views, geometry.n_bins[0], oversample, geometry.n_bins[1], oversample))
        mean: np.ndarray = fine.mean((2, 4)).astype(np.float32)
        return mean

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), angle: float = 0.0) -> Phantom:
        """Return the phantom turned by `angle` degrees (from x towards y) about the z axis, then shifted by `offset`.

        Args:
            offset : mm.  Seen at the gantry angle g - angle, a turned phantom looks as it did at g.
        """
        return Phantom(tuple(replace(region, shape=region.shape.moved(offset, angle)) for region in self.regions))

    def _seen(self, points: np.ndarray, toward: np.ndarray, energy_kev: float | None) -> np.ndarray:
        if energy_kev is None:
            return self.line_integral(points, toward)
        return self.attenuated_integral(points, toward, energy_kev)

    def _layers(self, value: Callable[[Region], float | None]) -> list[Layer]:
        valued = [(region.shape, value(region)) for region in self.regions]
        return [(shape, v) for shape, v in valued if v is not None]

    def _along(
        self,
        points: ArrayLike,
        directions: ArrayLike,
        values: Sequence[Callable[[Region], float | None]],
        integrate: Integrate,
    ) -> np.ndarray:
        """Return `integrate` of value x length (pieces, lines) of every quantity, some lines at a time."""
        shapes = [region.shape for region in self.regions]
        table = np.array([[value(region) for value in values] for region in self.regions], float)  # None becomes NaN
        at, along = np.broadcast_arrays(np.asarray(points, float), np.asarray(directions, float))
        lines, n = at.shape[:-1], max(1, _CROSSINGS_AT_ONCE // max(1, len(shapes)))
        at, along = at.reshape(-1, at.shape[-1]), along.reshape(-1, along.shape[-1])
        starts = range(0, max(1, len(at)), n)
        table = table.reshape(len(shapes), len(values))
        parts = [integrate(*pieces(shapes, table, at[i : i + n], along[i : i + n])) for i in starts]
        return np.concatenate(parts).reshape(lines)


def uniform_cylinder(radius: float = 100.0, height: float = 200.0, activity: float = 1.0) -> Phantom:
    """Return a water cylinder along z around the origin.

    Args:
        radius, height : mm; height=math.inf for two dimensions.
    """
    return Phantom((Region("cylinder", Cylinder((0, 0, 0), radius, height), activity, "water"),))


def _activity(region: Region) -> float | None:
    return region.activity
