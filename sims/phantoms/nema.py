"""The NEMA IEC body phantom: its shape, its fillings, and where the image-quality test of NEMA NU 2 measures."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TypedDict

import numpy as np

from .phantom import Phantom, Region
from .shapes import Box, Cylinder, Ellipsoid, Intersection, Solid

NEMA_SPHERES = (37.0, 28.0, 22.0, 17.0, 13.0, 10.0)
"""Inner diameters of the six spheres in mm, in their order around the ring."""

_RING = 57.2  # mm from the axis of the lung insert to the spheres' centres
_FLAT = 35.0  # y of the line between the half disc in front and the rounded rectangle behind it
_FRONT, _BACK, _HALF_WIDTH = 147.0, 77.0, 70.0  # radius in front, radius of the corners behind, where their centres are
_LID, _BASE = 70.0, -110.0  # z of the ends of the inside
_BODY_WALL, _END_WALL, _SPHERE_WALL = 3.0, 10.0, 1.0
_LUNG_INSIDE, _LUNG_OUTSIDE = 22.5, 25.0
_LUNG_DENSITY = 0.30
# in a ring close to the wall; every region of interest of 37 mm is 15 mm away from it
_BESIDE = ((70, -50), (96, -19), (109, 19), (103, 60), (68, 39))
_BACKGROUND = ((0, -77), *_BESIDE, (0, 77), *((-x, y) for x, y in reversed(_BESIDE)))


class NEMALayout(TypedDict):
    """The arguments of `recon.ImageQualityLayout`: where the image-quality test measures, in mm."""

    centres: np.ndarray
    diameters: np.ndarray
    ratios: np.ndarray
    background_centres: np.ndarray
    slices: np.ndarray
    lung_centre: tuple[float, float] | None


def nema_iec_body(
    hot_ratio: float = 4.0,
    background: float = 1.0,
    cold: Collection[float] = (),
    lung: bool = True,
    walls: bool = True,
) -> Phantom:
    """Return the NEMA IEC body phantom: six spheres and a lung insert in a torso of 9.7 L.

    Args:
        hot_ratio : activity of the spheres over that of the background.
        background : its activity per mL, any unit.
        cold : diameters of the spheres without activity.  The defaults are NU 2-2018, all spheres hot 4:1;
            `nema_iec_body(8, cold=(28, 37))`, or 4 instead of 8, is NU 2-2007 and NU 2-2012.
        lung : the cylinder of 45 mm in a wall of 2.5 mm along the whole length, without activity, density 0.30 g/mL;
            False leaves background there.
        walls : False leaves out all walls: of the torso (3 mm, 10 mm at the ends), of the spheres (1 mm) and of the
            insert. They are acrylic glass (PMMA, 1.18 g/mL).

    Positions are those of a patient on the back: the flat side at +y. The inside is half a disc of radius 147 mm in
    front and a rectangle of 140 x 77 mm with quarters of discs of radius 77 mm behind, 294 x 224 mm in all, and 180 mm
    long. The spheres' centres (diameters 37, 28, 22, 17, 13 and 10 mm) are at z = 0, 70 mm from the lid at +z, on a
    circle of 114.4 mm around the insert, whose axis is x = y = 0 and the middle of the cross-section. The largest is at
    the patient's left (+x), the others follow over the front: which one is where is our choice.
    Region names: "wall", "background", "lung", "sphere 37 mm" and so on.

    Raises ValueError for activities that are negative or not finite, and for cold spheres that are not there.

    Source: NEMA NU 2 and IEC 61675-1; dimensions as in OpenGATE and dynamicPET, which agree.
    """
    _check_cold(cold)
    regions = []
    if walls:
        regions += [Region("wall", part, 0.0, "pmma") for part in _torso(_BODY_WALL, _END_WALL)]
    regions += [Region("background", part, background, "water") for part in _torso(0.0, 0.0)]
    if lung:
        axis, length = (0.0, 0.0, (_LID + _BASE) / 2), _LID - _BASE
        if walls:
            regions.append(Region("wall", Cylinder(axis, _LUNG_OUTSIDE, length), 0.0, "pmma"))
        inside = Cylinder(axis, _LUNG_INSIDE if walls else _LUNG_OUTSIDE, length)
        regions.append(Region("lung", inside, 0.0, "lung", density=_LUNG_DENSITY))
    for diameter, centre in zip(NEMA_SPHERES, _centres()):
        activity = 0.0 if diameter in cold else hot_ratio * background
        if walls:
            regions.append(Region("wall", Ellipsoid(centre, diameter / 2 + _SPHERE_WALL), 0.0, "pmma"))
        regions.append(Region(f"sphere {diameter:g} mm", Ellipsoid(centre, diameter / 2), activity, "water"))
    return Phantom(tuple(regions))


def nema_layout(hot_ratio: float = 4.0, cold: Collection[float] = (), lung: bool = True) -> NEMALayout:
    """Return where `nema_iec_body` is measured, as the arguments of `recon.ImageQualityLayout`.

    Args:
        hot_ratio, cold, lung : as for the phantom.

    The twelve background regions lie around the spheres; where is our choice. One of 37 mm stays 15 mm away from the
    torso's wall, 1.5 mm or more from the wall of every sphere, however the spheres are ordered, and touches no other.
    Slices are at z = 0, +-10 and +-20 mm. All lengths in mm.

    Raises ValueError for cold spheres that are not there.
    """
    _check_cold(cold)
    return {
        "centres": np.array(_centres()),
        "diameters": np.array(NEMA_SPHERES),
        "ratios": np.array([0.0 if diameter in cold else hot_ratio for diameter in NEMA_SPHERES]),
        "background_centres": np.array(_BACKGROUND, float),
        "slices": np.array([-20.0, -10.0, 0.0, 10.0, 20.0]),
        "lung_centre": (0.0, 0.0) if lung else None,
    }


def _check_cold(cold: Collection[float]) -> None:
    missing = [diameter for diameter in cold if diameter not in NEMA_SPHERES]
    if missing:
        raise ValueError(
            f"cold={missing}: unknown spheres; choose diameters from {', '.join(f'{d:g}' for d in NEMA_SPHERES)}"
        )


def _centres() -> list[tuple[float, float, float]]:
    angles = [math.radians(60 * k) for k in range(len(NEMA_SPHERES))]
    return [(_RING * math.cos(angle), -_RING * math.sin(angle), 0.0) for angle in angles]


def _torso(wall: float, end: float) -> list[Solid]:
    """The torso, `wall` mm wider all round and `end` mm longer at both ends, as solids that touch or overlap."""
    z, length = (_LID + _BASE) / 2, _LID - _BASE + 2 * end
    front, back = _FRONT + wall, _BACK + wall
    corners = [Cylinder((side * _HALF_WIDTH, _FLAT, z), back, length) for side in (-1, 1)]
    half = Box((0, _FLAT - front / 2, z), (2 * front, front, length))
    middle = Box((0, _FLAT + back / 2, z), (2 * _HALF_WIDTH, back, length))
    return [Intersection((Cylinder((0, _FLAT, z), front, length), half)), middle, *corners]
