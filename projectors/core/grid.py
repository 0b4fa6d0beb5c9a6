"""Where voxels are: the image grid, and the checks that all geometries share.

Axes are those of a patient image (LPS): x to the patient's left, y to the back, z to the head; in mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .html import html_table


class FrozenArrays:
    """What frozen dataclasses with arrays share: equality by value, and arrays that stay read-only after pickling."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class ImageGrid:
    """A regular grid of voxels in patient space.

    Args:
        shape : (nx, ny, nz) voxels; use nz = 1 for a two-dimensional image.
        voxel_size : (dx, dy, dz) in mm, or one number for cubes.
        origin : centre of voxel (0, 0, 0) in mm (LPS); by default the grid is centred on (0, 0, 0), the rotation axis.

    Raises ValueError for sizes that are not positive and finite.
    """

    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    origin: tuple[float, float, float] = None  # type: ignore[assignment]  # None only as an argument

    def __post_init__(self) -> None:
        shape = positive_integers(self.shape, 3, "ImageGrid shape")
        voxel = positive_numbers(self.voxel_size, 3, "ImageGrid voxel_size (mm)")
        centred = tuple(-(n - 1) / 2 * d for n, d in zip(shape, voxel))
        origin = centred if self.origin is None else tuple(float(v) for v in np.ravel(self.origin))
        if len(origin) != 3 or not np.all(np.isfinite(origin)):
            raise ValueError(f"ImageGrid origin must be 3 finite numbers in mm, got {self.origin}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "voxel_size", voxel)
        object.__setattr__(self, "origin", origin)

    @property
    def affine(self) -> np.ndarray:
        """The 4 x 4 matrix from voxel indices to LPS mm."""
        matrix = np.diag([*self.voxel_size, 1.0])
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def voxel_volume(self) -> float:
        """The volume of a voxel in mL."""
        return float(np.prod(self.voxel_size)) / 1000

    @property
    def centre(self) -> np.ndarray:
        """The middle of the grid in mm (LPS)."""
        return np.asarray(self.origin) + (np.asarray(self.shape) - 1) / 2 * np.asarray(self.voxel_size)

    def coordinates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Voxel centres in mm as three arrays that broadcast to `shape`."""
        x, y, z = (o + d * np.arange(n) for o, d, n in zip(self.origin, self.voxel_size, self.shape))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def _repr_html_(self) -> str:
        low = [o - d / 2 for o, d in zip(self.origin, self.voxel_size)]
        ends = zip("xyz", low, self.shape, self.voxel_size)
        rows = {
            "voxels": self.shape,
            "size (mm)": self.voxel_size,
            "volume of a voxel (mL)": self.voxel_volume,
            "from, to (mm, LPS)": "\n".join(f"{name} {start:.5g} to {start + n * d:.5g}" for name, start, n, d in ends),
        }
        return html_table("ImageGrid", rows)

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} voxels of {' x '.join(f'{d:g}' for d in self.voxel_size)} mm"


def check_subset(k: int, n: int, n_views: int) -> None:
    """Raise ValueError unless subset k of n exists and holds at least one of `n_views` views."""
    if not (isinstance(k, (int, np.integer)) and isinstance(n, (int, np.integer))):
        raise TypeError(f"subset takes two integers, got {k!r} and {n!r}")
    if not (0 <= k < n):
        raise ValueError(f"subset {k} of {n} does not exist; k runs from 0 to n - 1")
    if n > n_views:
        raise ValueError(f"{n} subsets of {n_views} views would leave subsets empty; use at most {n_views}")


def finite_numbers(values: ArrayLike, n: int | None, what: str) -> np.ndarray:
    """Return one number for each of n views, from a list or from one for all; ValueError names `what`."""
    array = np.atleast_1d(np.array(values, float))
    if array.ndim != 1 or not np.all(np.isfinite(array)):
        raise ValueError(f"{what} must be one finite number or a list of them, got {values!r}")
    if n is None or array.size == n:
        return array
    if array.size != 1:
        raise ValueError(f"{what} has {array.size} entries, but there are {n} views")
    return np.full(n, array[0])


def positive_numbers(values: ArrayLike, n: int, what: str) -> tuple[float, ...]:
    """Return n positive numbers as a tuple, from a list or from one for all; ValueError names `what`."""
    array = np.ravel(np.asarray(values, float))
    if array.size == 1:
        array = np.full(n, array[0])
    if array.size != n or not np.all(np.isfinite(array)) or np.any(array <= 0):
        raise ValueError(f"{what} must be {n} positive numbers, got {values!r}")
    return tuple(array.tolist())


def positive_integers(values: ArrayLike, n: int, what: str) -> tuple[int, ...]:
    """Return n positive integers as a tuple; ValueError names `what`."""
    array = np.ravel(np.asarray(values, float))
    if array.size != n or not np.all(np.isfinite(array)) or np.any(array % 1) or np.any(array < 1):
        raise ValueError(f"{what} must be {n} positive integers, got {values!r}")
    return tuple(int(v) for v in array)
