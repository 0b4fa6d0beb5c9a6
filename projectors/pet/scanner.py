"""PET scanners: where their crystals are, and the table of those with names."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from math import pi
from typing import Any, Self, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ..core.grid import FrozenArrays
from ..core.html import html_table
from .tof import TimeOfFlight


class _Details(TypedDict, total=False):
    """What a scanner is besides its crystals, as in `PETScanner`."""

    name: str
    n_radial: int | None
    bin_size: float | None
    time_of_flight: TimeOfFlight | None
    energy_resolution: float | None


@dataclass(frozen=True, eq=False)
class PETScanner(FrozenArrays):
    """The crystals of a PET scanner.

    Args:
        crystals : (rings, crystals per ring, 3) positions in mm (LPS) where photons are detected on average, or
            (crystals, 3) for scanners without rings; crystal c of ring r has the number r * (crystals per ring) + c.
        virtual : (rings, crystals per ring) booleans, true for numbers that are gaps between blocks (default: none).
        name : free text.
        n_radial : radial bins of its sinograms (default: all that are lines, crystals per ring - 1).
        bin_size : mm between radial bins after arc correction (default: the spacing of lines near the centre).
        time_of_flight : the scanner's TOF bins, None without.
        energy_resolution : FWHM at 511 keV as a fraction, None where unknown.

    Raises ValueError for positions that are not finite or of the wrong shape.
    """

    crystals: np.ndarray
    virtual: np.ndarray = None  # type: ignore[assignment]  # None only as an argument
    name: str = ""
    n_radial: int | None = None
    bin_size: float | None = None
    time_of_flight: TimeOfFlight | None = None
    energy_resolution: float | None = None

    def __post_init__(self) -> None:
        crystals = np.array(self.crystals, float, order="C")
        if crystals.ndim == 2:
            crystals = crystals[None]
        if crystals.ndim != 3 or crystals.shape[-1] != 3 or crystals.shape[0] * crystals.shape[1] < 2:
            raise ValueError(f"PETScanner crystals must be (rings, crystals, 3) in mm, got {np.shape(self.crystals)}")
        if not np.isfinite(crystals).all():
            raise ValueError("PETScanner crystals hold NaN or infinite positions")
        for name in ("n_radial", "bin_size", "energy_resolution"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"PETScanner {name} must be positive, got {value}")
        virtual = np.zeros(crystals.shape[:2], bool) if self.virtual is None else np.array(self.virtual, bool)
        if virtual.shape != crystals.shape[:2]:
            raise ValueError(f"PETScanner virtual must have shape {crystals.shape[:2]}, got {virtual.shape}")
        for array in (crystals, virtual):
            array.flags.writeable = False
        object.__setattr__(self, "crystals", crystals)
        object.__setattr__(self, "virtual", virtual)

    @classmethod
    def polygon(
        cls,
        *,
        sides: int,
        crystals_per_side: int,
        radius: float,
        rings: int,
        ring_pitch: float,
        depth: float = 0.0,
        crystal_pitch: float | None = None,
        virtual_crystals: int = 0,
        ring_block: int | None = None,
        block_gap: float = 0.0,
        virtual_rings: int = 0,
        phase: float = 0.0,
        **more: Unpack[_Details],
    ) -> Self:
        """Return a scanner of flat blocks on a regular polygon.

        Args:
            sides, crystals_per_side : `virtual_crystals` of each side, the first ones, are gaps.
            radius : mm from the axis to the middle of a block's front.
            depth : mean depth of interaction behind it.
            crystal_pitch : mm between crystals of a block (default: spread evenly over the polygon's side).
            rings, ring_pitch : mm between rings, ring 0 at the highest z; after every `ring_block` rings comes
                `block_gap` more, and the last `virtual_rings` of every `ring_block` rings are gaps.
            phase : degrees by which the scanner is turned from the front of the patient to the left.

        More keywords go to `PETScanner`.
        """
        for name, value in (("sides", sides), ("crystals_per_side", crystals_per_side), ("rings", rings)):
            if value != int(value) or value < 1:
                raise ValueError(f"PETScanner.polygon {name} must be a positive integer, got {value}")
        if not (radius > 0 and ring_pitch > 0 and 0 <= virtual_crystals < crystals_per_side and depth >= 0):
            raise ValueError("PETScanner.polygon needs radius, ring_pitch > 0, depth >= 0 and fewer gaps than crystals")
        sides, crystals_per_side, rings = int(sides), int(crystals_per_side), int(rings)
        xy, gaps = _polygon(sides, crystals_per_side, radius + depth, crystal_pitch, virtual_crystals, phase)
        ring = np.arange(rings)
        block = ring_block or rings
        z = -(ring * float(ring_pitch) + block_gap * (ring // block))
        z -= (z[0] + z[-1]) / 2
        crystals = np.empty((rings, len(xy), 3))
        crystals[..., :2], crystals[..., 2] = xy[None], z[:, None]
        between = ring % block >= block - virtual_rings
        return cls(crystals, gaps[None] | between[:, None], **more)

    @classmethod
    def named(cls, name: str) -> Self:
        """Return a scanner of the library's table, such as "mmr"; `pet_scanners()` lists them.

        Raises ValueError for an unknown name.
        """
        table = _scanner_table()
        key = "".join(c for c in name.lower() if c.isalnum())
        if key not in table:
            raise ValueError(f"unknown PET scanner {name!r}; choose from {', '.join(table)}")
        row = dict(table[key])
        tof, title, n_radial = row.pop("tof"), row.pop("title"), row.pop("radial_bins")
        timing = None if tof is None else TimeOfFlight.from_ps(*tof)
        return cls.polygon(**row, name=title, n_radial=n_radial, time_of_flight=timing)

    def rotated(self, rotation: ArrayLike) -> Self:
        """Return the scanner in other axes: crystals at rotation @ position, rings and crystals numbered as before.

        Args:
            rotation : (3, 3), a rotation that keeps rings perpendicular to z: about z, or one that turns z round, as
                from the axes of the gantry to those of a patient who lies feet first.

        Raises ValueError for a matrix that is not such a rotation.
        """
        matrix = np.array(rotation, float)
        if matrix.shape != (3, 3) or not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-9):
            raise ValueError(f"PETScanner.rotated needs a (3, 3) rotation, got {np.array(rotation).tolist()}")
        if np.linalg.det(matrix) < 0 or not np.isclose(abs(matrix[2, 2]), 1, atol=1e-9):
            raise ValueError(
                f"PETScanner.rotated needs a rotation that keeps the z axis or turns it round, got {matrix.tolist()}"
            )
        return replace(self, crystals=self.crystals @ np.round(matrix, 15).T)

    def is_same_as(self, other: PETScanner) -> bool:
        """Whether crystals have the same numbers and distances from each other, in the same axes or in rotated ones."""
        if self is other or self == other:
            return True
        if self.virtual.shape != other.virtual.shape or not np.array_equal(self.virtual, other.virtual):
            return False
        corners = [0, self.n_crystals // 4, self.positions.shape[0] - 1]
        mine, theirs = (
            [np.linalg.norm(scanner.positions - scanner.positions[i], axis=1) for i in corners]
            for scanner in (self, other)
        )
        return bool(np.allclose(mine, theirs))

    @property
    def n_rings(self) -> int:
        """The number of rings."""
        return int(self.crystals.shape[0])

    @property
    def n_crystals(self) -> int:
        """The number of crystals in a ring, gaps counted."""
        return int(self.crystals.shape[1])

    @property
    def positions(self) -> np.ndarray:
        """The crystals in the order of their numbers, (crystals, 3) mm."""
        return self.crystals.reshape(-1, 3)

    @cached_property
    def is_cylinder(self) -> bool:
        """Whether all rings have the same crystals at different heights, as sinograms need."""
        same_rings = np.allclose(self.crystals[:, :, :2], self.crystals[:1, :, :2], atol=1e-6)
        flat = np.allclose(self.crystals[:, :, 2], self.crystals[:, :1, 2], atol=1e-6)
        return bool(same_rings and flat)

    @property
    def rings(self) -> np.ndarray:
        """The height of every ring in mm, (rings,)."""
        return self.crystals[:, 0, 2]

    @property
    def radius(self) -> float:
        """The mean distance of the crystals from the z axis in mm."""
        return float(np.hypot(self.crystals[..., 0], self.crystals[..., 1]).mean())

    @property
    def radial_spacing(self) -> float:
        """The distance in mm between neighbouring lines through the centre: `bin_size`, else pi radius / crystals."""
        return self.bin_size or pi * self.radius / self.n_crystals

    def _repr_html_(self) -> str:
        z = self.crystals[..., 2]
        rows = {
            "name": self.name,
            "rings": self.n_rings,
            "crystals of a ring": self.n_crystals,
            "radius (mm)": self.radius,
            "axial length (mm)": float(z.max() - z.min()),
            "TOF resolution (mm)": None if self.time_of_flight is None else self.time_of_flight.fwhm,
            "energy resolution": self.energy_resolution,
        }
        return html_table("PETScanner", rows)

    def __str__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        return f"{name}{self.n_rings} rings of {self.n_crystals} crystals at radius {self.radius:.1f} mm"


def pet_scanners() -> tuple[str, ...]:
    """Return the names `PETScanner.named` knows."""
    return tuple(_scanner_table())


@cache
def _scanner_table() -> dict[str, dict[str, Any]]:
    table = json.loads((files(__package__) / "scanners.json").read_text(encoding="utf-8"))
    return {name: row for name, row in table.items() if not name.startswith("_")}


def _polygon(
    sides: int, per_side: int, radius: float, pitch: float | None, virtual: int, phase: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (x, y) of the crystals of a ring in mm, and which of them are gaps."""
    if sides < 3:
        raise ValueError(f"a polygon has at least 3 sides, got {sides}")
    angle_of_one = 2 * pi / (sides * per_side)
    pitch = 2 * radius * np.tan(pi / sides) / per_side if pitch is None else pitch
    middle = (per_side - 1 + virtual) / 2  # of the real crystals
    side, within = np.divmod(np.arange(sides * per_side), per_side)
    turn = np.deg2rad(phase) + angle_of_one * (side * per_side + middle)
    outward, along = np.stack([np.sin(turn), -np.cos(turn)], 1), np.stack([np.cos(turn), np.sin(turn)], 1)
    return radius * outward + ((within - middle) * pitch)[:, None] * along, within < virtual
