"""Where the views of an Interfile SPECT file were taken: detector heads, orbits, offsets, and how the patient lies."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from emrecon.projectors import SPECTGeometry
from emrecon.projectors.core.errors import FormatError

from .header import Header, Value, count, number, numbers, one_of, positive, short, text

ORBIT_OVERRIDES = (
    *("n_views", "n_heads", "start_angle", "direction", "extent", "angles", "radius", "shift", "axial_shift", "head"),
    *("duration", "patient_orientation", "patient_rotation", "parallel_holes"),
)

T = TypeVar("T")

_DIRECTIONS = {"ccw": 1, "cc": 1, "counter-clockwise": 1, "cw": -1, "clockwise": -1}
_LARGEST_CENTIMETRES = 80.0
# what the standard repeats for each detector head, and what may differ there without a meaning for the geometry
_OF_A_HEAD = (
    *("number of projections", "extent of rotation", "direction of rotation", "start angle", "orbit", "radius"),
    *("radii", "#radius", "first projection angle in data set", "time per projection (sec)", "x offset", "y offset"),
    *("centre of rotation", "center of rotation"),
)
_OF_THE_SCAN = (
    *("matrix size [1]", "matrix size [2]", "matrix size [3]", "scaling factor (mm/pixel) [1]", "data offset in bytes"),
    *("scaling factor (mm/pixel) [2]", "number format", "number of bytes per pixel", "imagedata byte order"),
    *("process status", "type of data", "name of data file", "patient orientation", "patient rotation"),
    *("number of detector heads", "number of energy windows", "number of time frames", "number of time slots"),
)
_ORIENTATIONS = {"head in": 1, "headin": 1, "head first": 1, "feet in": -1, "feetin": -1, "feet first": -1}
_ROTATIONS = {"supine": 0.0, "prone": 180.0, "right": -90.0, "left": 90.0}
_ABOUT_HOLES = ("collimat", "focal", "focus", "hole", "aperture", "beam", "acquisition type", "acquisition geometry")
_ORBITS = ("", "circular", "non-circular", "noncircular")
_NOT_PARALLEL = re.compile(r"fan|cone|pin-?\s?hole|converging|diverging|slant|focus")


@dataclass(frozen=True)
class Lying:
    """How a patient lies: the axes of one who lies head first on the back are the gantry's.

    Args:
        feet_first : turned about the vertical axis.
        turn : degrees to add to the gantry angles after that: 180 for prone.
    """

    feet_first: bool = False
    turn: float = 0.0

    @property
    def signs(self) -> tuple[int, int, int] | None:
        """What the gantry's x, y and z are multiplied by to be the patient's; None for a patient on the side."""
        if self.turn % 180:
            return None
        way, flip = -1 if self.feet_first else 1, -1 if self.turn else 1
        return (way * flip, flip, way)

    @property
    def rotation(self) -> np.ndarray:
        """The matrix (3, 3) that takes places in the gantry's axes to the patient's."""
        way, turn = -1.0 if self.feet_first else 1.0, np.deg2rad(self.turn)
        about_z = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        return np.round(about_z @ np.diag([way, 1.0, way]), 15) + 0.0

    @property
    def words(self) -> tuple[str, str]:
        """The values of `patient orientation` and `patient rotation`."""
        rotation = next(word for word, turn in _ROTATIONS.items() if (turn - self.turn) % 360 == 0)
        return ("feet_in" if self.feet_first else "head_in"), rotation


CODES = {
    way + turned: Lying(way == "ff", turn)
    for way in ("hf", "ff")
    for turned, turn in (("s", 0.0), ("p", 180.0), ("dl", 90.0), ("dr", -90.0))
}
"""DICOM's and Siemens' codes of how a patient lies."""


def lying_as(orientation: str, rotation: str) -> Lying | None:
    """Return how a patient lies by the words of a header, or by Siemens' code such as "FFP"; None where both are empty.

    Raises ValueError for other words.
    """
    if not (orientation or rotation):
        return None
    if orientation.lower() in CODES:
        return CODES[orientation.lower()]
    way = _words(_ORIENTATIONS)(orientation) if orientation else 1
    return Lying(way < 0, _words(_ROTATIONS)(rotation) if rotation else 0.0)


def lying_of(header: Header) -> Lying:
    """Return how the patient lies; head first and on the back where the header does not say.

    Raises FormatError for other words than the standard's.
    """
    code = header.plain("%patient orientation")  # Siemens' own key holds both
    if code and code not in CODES and not {"patient_orientation", "patient_rotation"} <= set(header.overrides):
        raise FormatError(
            f"{header.path}: %patient orientation is {short(code)}, expected one of {', '.join(CODES).upper()}; "
            "pass patient_orientation= and patient_rotation="
        )
    usual = CODES.get(code, Lying())
    sense = -1 if usual.feet_first else 1
    way = header.get("patient_orientation", ["patient orientation"], _words(_ORIENTATIONS), sense)
    turn = header.get("patient_rotation", ["patient rotation"], _words(_ROTATIONS), usual.turn)
    return Lying(way < 0, turn)


def _words(choices: dict[str, T]) -> Callable[[object], T]:
    known = one_of(choices)
    return lambda value: known(text(value).replace("_", " ").replace("-", " "))


def heads_of(header: Header) -> list[Header]:
    """Return one header for each detector head, with the values that are given once per head.

    Raises FormatError where heads differ in what a scan has once, or the header does not say where each head starts.
    """
    if header.overrides.get("angles") is not None:
        return [header]
    announced = header.get("n_heads", ["number of detector heads"], count, None)
    repeated = {key: _different(header, key) for key in (*_OF_A_HEAD, *_OF_THE_SCAN)}
    n = announced or max((len(repeated[key]) for key in _OF_A_HEAD), default=1) or 1
    given: dict[str, tuple[Value, ...]] = {}
    for key, values in repeated.items():
        if not values:
            continue
        given[key] = _one_for_each(header, key, values, n)
        if key in _OF_THE_SCAN:
            raise FormatError(
                f"{header.path}: `{key}` is given more than once, as {short(list(values))}; the heads of one scan must "
                "share it"
            )
    heads = [_head(header, given, i, n) for i in range(n)]
    if n > 1 and "start angle" not in given and not _is_list(header.overrides.get("start_angle"), n):
        raise FormatError(
            f"{header.path}: {n} detector heads, but the header does not give the start angle of each; pass "
            f"start_angle=[{', '.join('abcdefgh'[i] for i in range(min(n, 3)))}{', ...' if n > 3 else ''}] in degrees, "
            "one for each head (n_views= and radius= likewise where they differ), or n_heads=1 if the views of all "
            "heads follow each other round one orbit"
        )
    return heads


def _different(header: Header, key: str) -> tuple[Value, ...]:
    """The values of a key that is repeated with different ones, else none."""
    values = header.every(key)
    return values if len(set(values)) > 1 else ()


def _one_for_each(header: Header, key: str, values: tuple[Value, ...], n: int) -> tuple[Value, ...]:
    """The values of n heads; every energy window may repeat them."""
    if len(values) % n or any(values[i] != values[i % n] for i in range(len(values))):
        raise FormatError(
            f"{header.path}: `{key}` is given {len(values)} times, as {short(list(values))}, for {n} detector "
            f"head{'s' if n > 1 else ''}; edited by hand?"
        )
    return values[:n]


def _head(header: Header, given: dict[str, tuple[Value, ...]], i: int, n: int) -> Header:
    keys = {**header.keys, **{key: values[i] for key, values in given.items()}}
    own = {
        name: value[i]  # type: ignore[index]
        for name in ("start_angle", "direction", "extent", "n_views", "radius", "duration")
        if n > 1 and _is_list(value := header.overrides.get(name), n)
    }
    return replace(header, keys=keys, overrides={**header.overrides, **own})


def _is_list(value: object, n: int) -> bool:
    return (
        not isinstance(value, str) and np.ndim(np.asarray(value, object)) == 1 and len(np.asarray(value, object)) == n
    )


def views_of(head: Header, view_axis: int) -> int:
    """Return how many views a head has in the file."""
    return head.get("n_views", ["number of projections", f"matrix size [{view_axis}]"], count)


def check_collimation(header: Header) -> None:
    """Raise FormatError where a key says that the holes are not parallel, which is what `SPECTGeometry` models."""
    if header.overrides.get("parallel_holes"):
        return
    for key, value in header.keys.items():
        said = " ".join(value if isinstance(value, tuple) else (value,)).lower()
        about = any(word in key for word in _ABOUT_HOLES)
        if not about or said.strip() in ("", "0", "none", "no", "n/a", "unknown", "infinity", "inf", "parallel"):
            continue
        if _NOT_PARALLEL.search(said) or (("foc" in key or "pinhole" in key) and _is_a_length(value)):
            raise FormatError(
                f"{header.path}: `{key.lstrip('#')} := {short(said)}` is not of a parallel-hole collimator, and fan "
                "beams, cone beams and pinholes cannot be modelled; pass parallel_holes=True if the header is wrong"
            )


def _is_a_length(value: Value) -> bool:
    try:
        return bool(numbers(value).any())
    except ValueError:
        return False


def geometry_of(
    header: Header, heads: list[Header], views: list[int], n_bins: tuple[int, int], pixel_size: tuple[float, float]
) -> SPECTGeometry:
    """Return the positions of all views in the axes of the patient, one head after the other.

    n_bins : (bins, rows).  pixel_size : of both, mm.
    """
    lying = lying_of(header)
    way = -1 if lying.feet_first else 1
    angles = header.get("angles", [], numbers, None)
    if angles is None:
        angles = np.concatenate([_angles(head, n) for head, n in zip(heads, views)])
        angles = way * angles + lying.turn
    if angles.size != sum(views):
        raise FormatError(f"{header.path}: {angles.size} angles do not fit the {sum(views)} views; wrong angles=?")
    radius = _joined_radius(header, heads, views)
    shift = header.get("shift", [], numbers, None)
    if shift is None:
        shift = way * np.concatenate([np.full(n, _offset(head, "x")) for head, n in zip(heads, views)])
    axial = header.get("axial_shift", [], number, None)
    heights = {_offset(head, "y") for head in heads} if axial is None else {0.0}
    if len(heights) > 1:
        raise FormatError(
            f"{header.path}: the heads have different Y_offset, {sorted(heights)} mm, which one camera cannot have; "
            "pass axial_shift= in mm"
        )
    return SPECTGeometry(
        angles,
        radius,
        n_bins,
        pixel_size,
        shift,
        way * heights.pop() if axial is None else axial,
        header.get("head", [], numbers, np.repeat(np.arange(len(heads)), views)),
    )


def duration_of(header: Header, heads: list[Header]) -> float | None:
    """Return the seconds per view, None where unknown; FormatError where heads differ."""
    keys = ["time per projection (sec)", "time per projection (sec) [1]"]
    times = {head.get("duration", keys, positive, None) for head in heads}
    if len(times) > 1:
        raise FormatError(f"{header.path}: heads with different times per projection, {short(list(times))} s")
    return times.pop()


def _angles(head: Header, n_views: int) -> np.ndarray:
    start = head.get("start_angle", ["start angle"], number, 0.0)
    first = head.get("start_angle", ["first projection angle in data set"], number, start)
    if (first - start) % 360 and "start_angle" not in head.overrides:
        raise FormatError(
            f"{head.path}: the start angle is {start:g}, but the first projection in the data set is at {first:g} "
            "degrees; pass the angle of the first view as start_angle=..."
        )
    # without the key STIR takes clockwise, too
    sign = head.get("direction", ["direction of rotation"], one_of(_DIRECTIONS), -1)
    extent = head.get("extent", ["extent of rotation"], positive)
    return gantry_angle(start) + sign * extent / n_views * np.arange(n_views)


def gantry_angle(interfile_angle: float) -> float:
    """Our gantry angle in degrees: 0 at the back (DICOM); Interfile's zero is opposite, the sense is the same."""
    return (interfile_angle + 180) % 360


def interfile_angle(angle: float) -> float:
    """Return the inverse of `gantry_angle`."""
    return (angle - 180) % 360


def _joined_radius(header: Header, heads: list[Header], views: list[int]) -> np.ndarray:
    total = sum(views)
    given = header.overrides.get("radius")
    if given is not None and not _is_list(given, len(heads)):
        radius = header.get("radius", [], numbers)
        if radius.size in (1, total) or len(heads) == 1:
            return radius
        raise FormatError(
            f"{header.path}: radius= has {radius.size} entries; pass one, one for each of {len(heads)} heads, or one "
            f"for each of {total} views"
        )
    if len(heads) == 1:
        return _radius(heads[0], total)
    return np.concatenate([_expanded(head, n) for head, n in zip(heads, views)])


def _expanded(head: Header, n_views: int) -> np.ndarray:
    radius = _radius(head, n_views)
    if radius.size not in (1, n_views):
        raise FormatError(f"{head.path}: a head has {radius.size} radii for {n_views} views; pass radius=... in mm")
    return np.broadcast_to(radius, n_views)


def _radius(header: Header, n_views: int) -> np.ndarray:
    """The radius in mm, one or one per view."""
    orbit = header.plain("orbit").replace(" ", "-")
    live = ["radii", "radius"] if orbit != "circular" else ["radius", "radii"]
    if "radius" not in header.overrides and not any(header.keys.get(key) for key in live):
        return _commented_radius(header)
    radius = header.get("radius", live, numbers)
    if radius.size == 1 and orbit not in ("", "circular") and n_views > 1 and "radius" not in header.overrides:
        known = "non-circular" if orbit in _ORBITS else short(orbit)
        raise FormatError(f"{header.path}: the orbit is {known}, but there is one radius; pass radius=[...] in mm")
    return radius


def _commented_radius(header: Header) -> np.ndarray:
    # SIMIND before version 7 writes `;#Radius := 15.000`, in cm
    if header.plain("orbit") not in ("", "circular"):
        raise FormatError(
            f"{header.path}: the orbit is {header.plain('orbit')} but no radii are given; pass radius=[...] in mm"
        )
    radius = header.get("radius", ["radius", "#radius"], numbers)
    if radius.max() > _LARGEST_CENTIMETRES:
        raise FormatError(
            f"{header.path}: a radius of {radius.max():g} cm (`;#Radius`) is not plausible; pass radius=... in mm"
        )
    return 10 * radius


def _offset(head: Header, axis: str) -> float:
    """The displacement of a head's centre from the axis in mm, 0 where the data are corrected for it."""
    centre = head.plain("centre of rotation") or head.plain("center of rotation")
    words = centre.replace("_", " ")
    if axis == "x" and words not in ("", "corrected", "single value", "none"):
        raise FormatError(
            f"{head.path}: the centre of rotation is {short(centre)}, neither Corrected nor Single_value (with "
            "X_offset in mm); pass shift= in mm, 0 for data that are corrected"
        )
    offset = head.get("shift" if axis == "x" else "axial_shift", [f"{axis} offset"], number, 0.0)
    return 0.0 if words == "corrected" else offset
