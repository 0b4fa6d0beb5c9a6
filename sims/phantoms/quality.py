"""Quality-control phantoms: cylinders with rods, spheres and discs, as Jaszczak, Derenzo and Defrise built them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from .phantom import Phantom, Region
from .shapes import Cylinder, Ellipsoid, Solid

JASZCZAK_MODELS = {
    "ultra-deluxe": ((11.1, 9.5, 7.9, 6.4, 4.8, 3.2), (31.8, 25.4, 19.1, 15.9, 12.7, 9.5)),
    "deluxe": ((12.7, 11.1, 9.5, 7.9, 6.4, 4.8), (31.8, 25.4, 19.1, 15.9, 12.7, 9.5)),
    "standard": ((19.1, 12.7, 11.1, 9.5, 7.9, 6.4), (38.1, 31.8, 25.4, 19.1, 15.9, 12.7)),
    "benchmark": ((25.4, 19.1, 15.9, 12.7, 11.1, 9.5), (38.1, 31.8, 25.4, 19.1, 15.9, 12.7)),
}
"""Diameters of the rods and of the spheres of every Jaszczak model in mm, in their order around the axis."""

_RADIUS, _HEIGHT, _WALL = 108.0, 186.0, 3.2
_ROD_HEIGHT, _SPHERE_HEIGHT, _RING = 88.0, 127.0, 58.0
_ACRYLIC = 1.19  # g/mL, that of these phantoms; the table's own is 1.18
# between the rods and the borders of their sector, and the wall: these give the numbers of rods of a real deluxe model
_TO_BORDER, _TO_WALL = 6.0, 5.0


def jaszczak(
    model: str = "deluxe",
    background: float = 1.0,
    rods: float = 0.0,
    section: float | None = None,
    spheres: float = 0.0,
    walls: bool = True,
) -> Phantom:
    """Return a Jaszczak phantom around the origin: rods below, six spheres above, uniform in between.

    Args:
        model : one of `JASZCZAK_MODELS`, which differ in the diameters of rods and spheres.
        background, rods, spheres : activities.
        section : activity between the rods; None is that of the background. The default is the usual filling, cold rods
            and spheres in warm water; rods=4, section=0 is the insert of hot rods in a solid block.
        walls : False leaves out the wall.

    The inside has a radius of 108 mm and is 186 mm high, the wall is 3.2 mm all round. Rods fill six sectors of 60
    degrees of the lower 88 mm: a hexagonal lattice of twice the diameter, in rows across the sector's axis, 6 mm or
    more from the sector's borders and 5 mm from the wall. Spheres are centred 127 mm from the base on a ring of 58 mm
    radius, over the borders of the sectors, the largest over the largest rods.
    Where rods, section or spheres have no activity they are solid acrylic glass (PMMA, 1.19 g/mL), as is the wall;
    where they have some, they are water.
    The base is at z = -93 mm, so a grid of one slice sees the rods if its z is between -93 and -5 mm; or move the
    phantom, jaszczak().moved((0, 0, 49)).
    Region names: "wall", "background", "rod section", "rods 12.7 mm", "sphere 31.8 mm" and so on.

    Raises ValueError for an unknown model and for activities that are negative or not finite.

    Source: data sheets of Data Spectrum, as in OpenGATE. Sector margins and ring radius (57.8 mm measured) are ours,
    compared with the computed tomography of a deluxe phantom; its spheres are 6 mm further from the rods, and stems of
    6.35 mm, which are left out here, hold them.
    """
    if model not in JASZCZAK_MODELS:
        raise ValueError(f"unknown Jaszczak model {model!r}; choose from {', '.join(JASZCZAK_MODELS)}")
    rod_diameters, sphere_diameters = JASZCZAK_MODELS[model]
    middle = (_ROD_HEIGHT - _HEIGHT) / 2
    regions = [_acrylic("wall", Cylinder((0, 0, 0), _RADIUS + _WALL, _HEIGHT + 2 * _WALL))] if walls else []
    regions.append(Region("background", Cylinder((0, 0, 0), _RADIUS, _HEIGHT), background, "water"))
    if section is not None:
        regions.append(_filled("rod section", Cylinder((0, 0, middle), _RADIUS, _ROD_HEIGHT), section))
    for diameter, x, y in _rods(rod_diameters, _RADIUS):
        regions.append(_filled(f"rods {diameter:g} mm", Cylinder((x, y, middle), diameter / 2, _ROD_HEIGHT), rods))
    for diameter, ball in _spheres(sphere_diameters):
        regions.append(_filled(f"sphere {diameter:g} mm", ball, spheres))
    return Phantom(tuple(regions))


def derenzo(rods: float = 10.0, background: float = 1.0) -> Phantom:
    """Return a Derenzo phantom around the origin: hot rods of six diameters along a cylinder of 220 x 160 mm.

    Args:
        rods, background : activities; background=0 makes a solid block of acrylic glass (PMMA, 1.19 g/mL), else all is
            water.

    Rods of 11.1, 9.5, 7.9, 6.4, 4.8 and 3.2 mm diameter run along the whole length in six sectors of 60 degrees, in the
    lattice of `jaszczak`, 6 mm or more from the sector's borders and 5 mm from the edge (both ours). There is no wall.
    A grid of one slice at z = 0 is the usual two-dimensional phantom.
    Region names: "background", "rods 11.1 mm" and so on.

    Raises ValueError for activities that are negative or not finite.
    """
    radius, length = 110.0, 160.0
    regions = [_filled("background", Cylinder((0, 0, 0), radius, length), background)]
    for diameter, x, y in _rods(JASZCZAK_MODELS["ultra-deluxe"][0], radius):
        regions.append(_filled(f"rods {diameter:g} mm", Cylinder((x, y, 0), diameter / 2, length), rods))
    return Phantom(tuple(regions))


def defrise(discs: float = 1.0, background: float = 0.0) -> Phantom:
    """Return a Defrise phantom around the origin: 13 discs across the axis, which show what cone beams miss.

    Args:
        discs, background : activities; whichever is 0 is solid acrylic glass (PMMA, 1.19 g/mL), the other water.

    Discs have a diameter of 200 mm and are 8 mm thick, with gaps of 8 mm between them and beyond the last, so the
    cylinder is 216 mm long. The seventh is at z = 0. There is no wall.
    Region names: "background", and from the base at -z upwards "disc 1" to "disc 13".

    Raises ValueError for activities that are negative or not finite.
    """
    n, radius, thickness = 13, 100.0, 8.0
    regions = [_filled("background", Cylinder((0, 0, 0), radius, (2 * n + 1) * thickness), background)]
    for k in range(n):
        shape = Cylinder((0, 0, (2 * k + 1 - n) * thickness), radius, thickness)
        regions.append(_filled(f"disc {k + 1}", shape, discs))
    return Phantom(tuple(regions))


def spect_cylinder(background: float = 1.0, rods: float = 4.0, section: float = 0.0, spheres: float = 0.0) -> Phantom:
    """Return a Jaszczak-like SPECT phantom around the origin: rods below, six spheres above, uniform in between.

    The deluxe model of `jaszczak` made simpler: all of water, without a wall, and with as many rods as leave half of
    their diameter to the sector's borders and to the wall.

    Args:
        background : activity of the water; rods and spheres : theirs.
        section : activity between the rods.

    The default has hot rods in a cold solid and cold spheres; rods=0, section=1 is the usual insert of cold rods.
    """
    rod_diameters, sphere_diameters = JASZCZAK_MODELS["deluxe"]
    middle = (_ROD_HEIGHT - _HEIGHT) / 2
    regions = [
        Region("background", Cylinder((0, 0, 0), _RADIUS, _HEIGHT), background, "water"),
        Region("rod section", Cylinder((0, 0, middle), _RADIUS, _ROD_HEIGHT), section),
    ]
    for k, diameter in enumerate(rod_diameters):
        for x, y in _sector(diameter, 60.0 * k + 30, 2 * diameter, _RADIUS - diameter / 2):
            shape = Cylinder((x, y, middle), diameter / 2, _ROD_HEIGHT)
            regions.append(Region(f"rods {diameter:g} mm", shape, rods))
    regions += [Region(f"sphere {diameter:g} mm", ball, spheres) for diameter, ball in _spheres(sphere_diameters)]
    return Phantom(tuple(regions))


def _acrylic(name: str, shape: Solid, activity: float = 0.0) -> Region:
    return Region(name, shape, activity, "pmma", density=_ACRYLIC)


def _filled(name: str, shape: Solid, activity: float) -> Region:
    """Water if there is activity in it, else a solid."""
    return Region(name, shape, activity, "water") if activity > 0 else _acrylic(name, shape, activity)


def _spheres(diameters: Sequence[float]) -> Iterator[tuple[float, Ellipsoid]]:
    for k, diameter in enumerate(diameters):
        angle = math.radians(60 * k)
        centre = (_RING * math.cos(angle), _RING * math.sin(angle), _SPHERE_HEIGHT - _HEIGHT / 2)
        yield diameter, Ellipsoid(centre, diameter / 2)


def _rods(diameters: Sequence[float], radius: float) -> Iterator[tuple[float, float, float]]:
    """Yield diameter, x and y of all rods, sector k around 30 + 60 k degrees."""
    for k, diameter in enumerate(diameters):
        # a rod on the axis of the sector touches a line d / 2 + margin inside both borders at twice that distance
        tip = diameter + 2 * _TO_BORDER
        for x, y in _sector(diameter, 60.0 * k + 30, tip, radius - _TO_WALL):
            yield diameter, x, y


def _sector(diameter: float, angle: float, tip: float, reach: float) -> Iterator[tuple[float, float]]:
    """Yield the centres of rods around the direction `angle`, from `tip` mm outwards, as many as stay within `reach`.

    Row n has n + 1 rods at a distance of tip + n sqrt(3) d along the direction, so its ends keep their distance from
    the borders at 30 degrees.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for n in range(math.ceil(reach / diameter)):
        along = tip + n * math.sqrt(3) * diameter
        for across in diameter * np.arange(-n, n + 1, 2.0):
            if math.hypot(along, across) + diameter / 2 <= reach:
                yield cosine * along - sine * float(across), sine * along + cosine * float(across)
