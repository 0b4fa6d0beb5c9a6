"""PET sinograms in Interfile, as STIR and Siemens scanners write them; docs/interfile_pet.md lists keys and traps."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from emrecon.projectors import PETScanner, PETSinogram, TimeOfFlight, isotope
from emrecon.projectors._arrays import to_numpy
from emrecon.projectors._files import atomic_path
from emrecon.projectors.tof import MM_PER_PS

from ._errors import FormatError, naming
from ._interfile_header import (
    DATA_OVERRIDES,
    Header,
    count,
    load_header,
    number,
    numbers,
    positive,
    read_values,
    short,
    split_list,
    text,
    whole,
)
from .interfile import _axes, _data_name, _energy_window, _one_line, _radionuclide, _stir_name, _writable

__all__ = ["PETSinogramFacts", "read_interfile_pet", "write_interfile_pet"]

SINOGRAM_OVERRIDES = (
    *("n_views", "n_radial", "n_planes", "n_tof_bins", "min_ring_difference", "max_ring_difference", "span"),
    *("segments", "scanner", "tof", "arc_corrected", "duration", "radionuclide", "energy_window", "description"),
    *DATA_OVERRIDES,
)

_LABELS = {
    "tangential coordinate": "radial",
    "axial coordinate": "axial",
    "view": "view",
    "segment": "segment",
    "timing positions": "tof",
    # the scanner's own, which counts the planes of all segments in one axis
    "bin": "radial",
    "projection": "view",
    "plane": "plane",
    "sinogram projections": "radial",
    "sinogram views": "view",
    "number of sinograms": "plane",
}
_ARC_CORRECTED = ("arc correction", "arc corrected", "radial arc-correction")
_UNSAID = " (as STIR takes it where the key `applied corrections` is missing)"
_MOST_RINGS, _MOST_CRYSTALS = 2**11, 2**22  # what is more is a damaged or hostile header
_SAME_SIZE = 0.01  # of a radius or a ring spacing
_SAME_PLACE = 1e-3  # mm


@dataclass(frozen=True)
class PETSinogramFacts:
    """What a header says about a PET sinogram besides its bins; None or "" where it does not say.

    scanner : where the crystals come from: the name of a scanner of the library, "header" for crystals on a circle from
        the header's numbers, or "caller".
    system : the scanner's name in the header.
    data_type : "emission", "transmission", "blank", "attenuationcorrection" or "normalisation".
    corrections : what has been applied to the data.
    content : "prompts" or "randoms", in Siemens' files.
    frame, n_frames : the time frame that was read, from 1, and how many there are.
    duration, start : of the frame, in s.  radionuclide : such as "F-18".  energy_window : keV.
    patient_orientation, patient_rotation : such as "head_in" and "supine".
    bed_position : horizontal and vertical, mm.
    """

    scanner: str = ""
    system: str = ""
    data_type: str = "emission"
    corrections: tuple[str, ...] = ()
    content: str = ""
    frame: int = 1
    n_frames: int = 1
    duration: float | None = None
    start: float | None = None
    radionuclide: str | None = None
    energy_window: tuple[float, float] | None = None
    patient_orientation: str = ""
    patient_rotation: str = ""
    bed_position: tuple[float, float] | None = None
    description: str = ""


def read_interfile_pet(
    header_path: str | os.PathLike[str], **overrides: Any
) -> tuple[np.ndarray, PETSinogram, PETSinogramFacts]:
    """Return (counts, sinogram, facts) of an Interfile PET sinogram: STIR's `.hs` or Siemens' `.s.hdr`.

    counts : in the order of `PETSinogram` (views, radial, planes) or (views, radial, TOF bins, planes) and in the
    file's own number format, whatever the order of axes and segments in the file; TOF bins are turned round, as STIR
    counts them towards the first end. Values may be negative (randoms subtracted).
    The scanner is one of the library's table where rings, crystals, radius and ring spacing agree (turned by the view
    offset), else crystals on a circle of the header's radius and depth.

    Values can be replaced: n_views, n_radial, n_planes (of every segment, in the file's order), n_tof_bins,
    min_ring_difference and max_ring_difference (lists in the file's order), span (Siemens), scanner (a `PETScanner`,
    the name of one, or "header" for the circle even where the library knows better), tof (a `TimeOfFlight`),
    arc_corrected, duration (s), radionuclide, energy_window (keV), description, byte_order, number_format,
    bytes_per_pixel, data_offset, data_file, scale; window (1, 2, ...) chooses a time frame, or Siemens' prompts (1) or
    randoms (2). segments : the outermost segment to keep (default: all).
    Raises FileNotFoundError for missing files, TypeError for unknown overrides, FormatError (a ValueError) that names
    the file where keys are missing or contradict each other or the data, for arc-corrected data (bins that are no
    crystal pairs), and for segments of different span.
    Source: STIR's keys (Thielemans et al. 2012, Phys Med Biol 57:867).
    """
    header = _completed(load_header(header_path, overrides, SINOGRAM_OVERRIDES))
    _refuse_others(header)
    with naming(header.path):
        layout = _layout(header)
    values = read_values(header, (layout.size,))
    with naming(header.path):
        scanner, source = _scanner(header)
        sinogram = _sinogram(header, layout, scanner)
        counts = _ordered(values, layout, sinogram, _tof_order(header, layout.sizes.get("tof", 1)))
        return counts, sinogram, _facts(header, source)


def write_interfile_pet(
    header_path: str | os.PathLike[str],
    counts: Any,
    sinogram: PETSinogram,
    facts: PETSinogramFacts | None = None,
    *,
    approximate: bool = False,
    overwrite: bool = True,
) -> None:
    """Write a sinogram as a header `.hs` and data `.s` that STIR reads: [TOF bin][segment][view][axial][radial].

    counts : of `sinogram.shape`; whole numbers of up to 4 bytes and floats keep their number format.
    facts : what else the header says; `scanner`, `content`, `frame` and `n_frames` are not used.
    approximate : STIR puts crystals on a circle. True writes the circle nearest to a scanner that is neither on one nor
        in the library's table (reading it again then needs scanner=...); False refuses such a scanner.
    Segments are in the order 0, +1, -1, ...; both files are written atomically, little endian.
    Raises ValueError for counts of another shape or that are not finite, for a subset of views, for arc-corrected data
    and for scanners the header cannot describe; OSError naming the file that cannot be written.
    """
    facts = facts or PETSinogramFacts()
    values = _checked(counts, sinogram)
    data_path = _data_name(Path(header_path))
    if data_path.suffix != ".s":
        raise ValueError(f"{header_path}: a PET sinogram is written as .hs")
    content = "\n".join([*_lines(data_path.name, values.dtype, sinogram, facts, approximate), ""])
    # the inner file is moved first: a header never stands without its data
    with atomic_path(header_path, overwrite) as header, atomic_path(data_path, overwrite) as data:
        header.write_text(content, encoding="utf-8")
        with data.open("wb") as stream:
            for block in _blocks(values, sinogram):
                np.ascontiguousarray(block).tofile(stream)


# ---- what the header says about the data -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """How the file's values follow each other.

    axes : names, slowest first, with "segment" in front of "axial".  sizes : of all but those two.
    numbers, planes : of every segment, in the file's order.  keep : the outermost segment wanted.
    """

    axes: tuple[str, ...]
    sizes: dict[str, int]
    numbers: tuple[int, ...]
    planes: tuple[int, ...]
    span: int
    keep: int

    @property
    def size(self) -> int:
        """The number of values in the file."""
        return sum(self.planes) * math.prod(self.sizes.values())


def _completed(header: Header) -> Header:
    """The header with what its usual keys do not say: Siemens' name of the byte order, the factor of a later frame."""
    frame = header.get("window", [], count, 1)
    other = {"byte_order": "image data byte order", "scale": f"image scaling factor [{frame}]"}
    found = {name: header.keys[key] for name, key in other.items() if header.keys.get(key)}
    return replace(header, overrides=found | {k: v for k, v in header.overrides.items() if v is not None})


def _bare(header: Header) -> Header:
    """The header as it was written, without the caller's values."""
    return replace(header, overrides={})


def _refuse_others(header: Header) -> None:
    if header.plain("pet data type") == "image" or header.plain("process status") == "reconstructed":
        raise FormatError(f"{header.path} describes an image, not a sinogram; use read_image or read_interfile_image")
    if header.plain("type of data") == "tomographic":
        raise FormatError(f"{header.path} describes SPECT data; use read_scan or read_interfile")
    if header.plain("type of data") not in ("pet", ""):
        raise FormatError(f"{header.path}: type of data is {short(header.plain('type of data'))}, expected PET")
    if header.plain("%compression") == "on":
        raise FormatError(f"{header.path}: the sinogram is compressed; let the scanner export it uncompressed")
    if _arc_corrected(header):
        raise FormatError(
            f"{header.path}: the data are arc corrected{'' if 'applied corrections' in header.keys else _UNSAID}: "
            "their bins are equally spaced lines, no crystal pairs; use data before arc correction, or give "
            "arc_corrected=False if the header is wrong"
        )


def _siemens(header: Header) -> bool:
    return "%segment table" in header.keys


def _corrections(header: Header) -> tuple[str, ...]:
    value = header.keys.get("applied corrections", "")
    entries = split_list(value) if isinstance(value, str) else value
    return tuple(entry for entry in entries if entry.lower() != "none")


def _arc_corrected(header: Header) -> bool:
    if "arc_corrected" in header.overrides:
        return bool(header.overrides["arc_corrected"])
    if "applied corrections" not in header.keys:
        return not _siemens(header)
    return any(entry.lower() in _ARC_CORRECTED for entry in _corrections(header))


def _layout(header: Header) -> _Layout:
    axes = _file_axes(header)
    index = {axis: axes.index(axis) + 1 for axis in axes}
    names = {"radial": "n_radial", "view": "n_views", "tof": "n_tof_bins"}
    sizes = {
        axis: header.get(override, [f"matrix size [{index[axis]}]"], count)
        for axis, override in names.items()
        if axis in axes
    }
    low, high, planes = _siemens_segments(header, index) if _siemens(header) else _stir_segments(header, index)
    segments, span, keep = _segments(header, low, high)
    return _Layout(_slowest_first(header, axes, len(segments)), sizes, segments, planes, span, keep)


def _slowest_first(header: Header, axes: Sequence[str], n_segments: int) -> tuple[str, ...]:
    order = list(reversed(axes))
    if "plane" in order or n_segments == 1:
        # planes of all segments in one axis, or a segment axis that may stand anywhere
        order = ["axial" if axis == "plane" else axis for axis in order if axis != "segment"]
        order.insert(order.index("axial"), "segment")
    if order.index("axial") < order.index("segment"):
        raise FormatError(f"{header.path}: the axial coordinate is slower than the segment; edited by hand?")
    return tuple(order)


def _file_axes(header: Header) -> tuple[str, ...]:
    if _siemens(header):
        if _bare(header).get("n_tof_bins", ["%number of tof time bins"], whole, 1) > 1:
            raise FormatError(f"{header.path}: Siemens sinograms with TOF bins are not read; convert them with STIR")
        return _axes(header, ("radial", "view", "plane"), _LABELS)
    timed = "matrix axis label [5]" in header.keys or header.plain("number of dimensions") == "5"
    return _axes(header, ("radial", "axial", "view", "segment", *(["tof"] if timed else [])), _LABELS)


def _integers(value: Any) -> np.ndarray:
    values = numbers(value)
    if np.any(values % 1) or np.abs(values).max() > 2**31:
        raise ValueError("expected whole numbers")
    return values.astype(int)


def _counts(value: Any) -> tuple[int, ...]:
    values = _integers(value)
    if values.min() < 1:
        raise ValueError("expected whole numbers above zero")
    return tuple(values.tolist())


def _stir_segments(header: Header, index: dict[str, int]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """The lowest and highest ring difference and the number of planes of every segment, in the file's order."""
    low = header.get("min_ring_difference", ["minimum ring difference per segment"], _integers)
    high = header.get("max_ring_difference", ["maximum ring difference per segment"], _integers)
    planes = header.get("n_planes", [f"matrix size [{index['axial']}]"], _counts)
    n = _bare(header).get("n_planes", [f"matrix size [{index['segment']}]"], count, len(planes))
    if len({len(low), len(high), len(planes), len(planes) if "n_planes" in header.overrides else n}) > 1:
        raise FormatError(
            f"{header.path}: {n} segments, but {len(planes)} numbers of planes, {len(low)} minimum and {len(high)} "
            "maximum ring differences"
        )
    return low, high, planes


def _siemens_segments(header: Header, index: dict[str, int]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    planes = header.get("n_planes", ["%segment table"], _counts)
    announced = _bare(header).get("n_planes", [f"matrix size [{index['plane']}]"], count, sum(planes))
    if sum(planes) != announced and "n_planes" not in header.overrides:
        raise FormatError(f"{header.path}: the segment table holds {sum(planes)} planes, matrix size {announced}")
    span = header.get("span", ["%axial compression"], count)
    # the scanner's segment +1, which comes before its -1, has the lower ring second
    order = np.arange(1, len(planes) + 1) // 2 * np.where(np.arange(len(planes)) % 2, -1, 1)
    return order * span - span // 2, order * span + span // 2, planes


def _segments(header: Header, low: np.ndarray, high: np.ndarray) -> tuple[tuple[int, ...], int, int]:
    """The number of every segment in the file's order, the span, and the outermost segment to keep."""
    rank = np.argsort(np.argsort(low + high, kind="stable"), kind="stable")
    direct = np.flatnonzero(low + high == 0)
    if direct.size != 1 or high[direct[0]] < low[direct[0]]:
        raise FormatError(
            f"{header.path}: ring differences {short(list(zip(low.tolist(), high.tolist())))} hold no single segment 0"
        )
    segments, span = rank - rank[direct[0]], int(high[direct[0]] - low[direct[0]] + 1)
    outermost = int(min(-segments.min(), segments.max()))
    keep = header.get("segments", [], whole, int(np.abs(segments).max()))
    if keep > outermost:
        raise FormatError(f"{header.path}: segments {segments.min()} to {segments.max()}; segments={outermost}?")
    kept = np.abs(segments) <= keep
    wrong = kept & ((low != segments * span - span // 2) | (high != segments * span + span // 2))
    if wrong.any():
        k = np.flatnonzero(wrong)[0]
        inner = int(np.abs(segments[wrong]).min()) - 1
        raise FormatError(
            f"{header.path}: segment {segments[k]} holds ring differences {low[k]} to {high[k]}, which is not span "
            f"{span} as in segment 0; a PETSinogram has one span, so read the inner ones with segments={inner}"
        )
    return tuple(segments.tolist()), span, keep


def _tof_order(header: Header, n: int) -> np.ndarray:
    """Where the TOF bins of `PETSinogram` are among the timing positions of the file."""
    first = -(n // 2)
    order = _bare(header).get("n_tof_bins", ["tof bin order"], _integers, np.arange(first, first + n))
    if sorted(order) != list(range(first, first + n)):
        raise FormatError(f"{header.path}: TOF bin order {short(order.tolist())} is no order of {n} timing positions")
    # timing positions count towards the first end
    return np.argsort(-order)


# ---- the scanner -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _System:
    """A scanner of the library's table as STIR's own table has it; lengths in mm."""

    names: tuple[str, ...]
    rings: int
    crystals: int
    inner_radius: float
    depth: float
    ring_pitch: float


_SYSTEMS = {
    "mmr": _System(("Siemens mMR", "mMR", "2008"), 64, 504, 328.0, 7.0, 4.0625),
    "mct": _System(("Siemens mCT", "mCT", "2011", "1104", "1094"), 55, 672, 421.0, 7.0, 4.054),
    "vision600": _System(("Siemens Vision 600", "Vision 600"), 80, 798, 410.0, 7.0, 3.29114),
    "dmi": _System(("GE Discovery MI 4 rings", "Discovery MI4"), 36, 544, 371.1, 9.4, 5.52296),
    "d690": _System(("GE Discovery 690", "GE Discovery 710"), 24, 576, 405.1, 9.4, 6.54),
    "signa": _System(("GE Signa PET/MR", "PET/MR Signa", "Signa PET/MR"), 45, 448, 311.8, 8.5, 5.56),
}


@dataclass(frozen=True)
class _Circle:
    """Rings of crystals on a circle: crystal i of N at the angle 2 pi i / N + offset from the front to the left."""

    rings: int
    crystals: int
    radius: float
    ring_pitch: float
    offset: float

    def positions(self) -> np.ndarray:
        """The crystals (rings, crystals, 3) in mm."""
        angle = np.deg2rad(self.offset) + 2 * np.pi / self.crystals * np.arange(self.crystals)
        positions = np.empty((self.rings, self.crystals, 3))
        positions[..., 0], positions[..., 1] = self.radius * np.sin(angle), -self.radius * np.cos(angle)
        positions[..., 2] = (((self.rings - 1) / 2 - np.arange(self.rings)) * self.ring_pitch)[:, None]
        return positions

    @classmethod
    def nearest(cls, scanner: PETScanner) -> _Circle:
        """The circle nearest to a scanner's crystals."""
        n, xy, z = scanner.n_crystals, scanner.crystals[0, :, :2], scanner.rings
        ahead = (-xy[:, 1] + 1j * xy[:, 0]) * np.exp(-2j * np.pi / n * np.arange(n))
        offset = round(float(np.rad2deg(np.angle(ahead.mean()))), 9) + 0.0
        pitch = float(z[0] - z[-1]) / (len(z) - 1) if len(z) > 1 else 2 * np.pi * scanner.radius / n
        return cls(scanner.n_rings, n, float(np.abs(ahead).mean()), pitch, offset)


def _scanner(header: Header) -> tuple[PETScanner, str]:
    given = header.overrides.get("scanner")
    if isinstance(given, PETScanner):
        return given, "caller"
    if isinstance(given, str) and given != "header":
        return PETScanner.named(given), given
    if not (given is None or given == "header"):
        raise FormatError(f"{header.path}: scanner= is {short(given)}, expected a PETScanner or the name of one")
    header = _bare(header)
    offset = header.get("scanner", ["view offset (degrees)"], number, 0.0)
    name = next((name for name, system in _SYSTEMS.items() if _is(header, system)), None)
    if name is None or given == "header":
        return _circular(header, offset), "header"
    return _turned(PETScanner.named(name), offset), name


def _system_name(header: Header) -> str:
    known = [header.keys.get(key, "") for key in ("scanner type", "originating system")]
    return next((name for name in known if isinstance(name, str) and name), "")


def _is(header: Header, system: _System) -> bool:
    """Whether the header's numbers, or its name where it gives no numbers, are those of a scanner of the table."""
    rings = header.get("scanner", ["number of rings"], whole, None)
    crystals = header.get("scanner", ["number of detectors per ring"], whole, None)
    said = {"".join(header.plain(key).split()) for key in ("originating system", "scanner type")}
    named = bool(said & {"".join(name.lower().split()) for name in system.names})
    if rings is None or crystals is None:
        return named and rings in (None, system.rings) and crystals in (None, system.crystals)
    radius, pitch = _radius(header), _ring_pitch(header)
    return bool(
        (rings, crystals) == (system.rings, system.crystals)
        and (radius is None or np.isclose(radius, system.inner_radius + system.depth, rtol=_SAME_SIZE))
        and (pitch is None or np.isclose(pitch, system.ring_pitch, rtol=_SAME_SIZE))
        and (named or radius is not None)
    )


def _radius(header: Header) -> float | None:
    diameter = header.get("scanner", ["inner ring diameter (cm)"], number, None)
    depth = header.get("scanner", ["average depth of interaction (cm)"], number, 0.0)
    return None if diameter is None or diameter <= 0 else 5 * diameter + 10 * max(depth, 0.0)


def _ring_pitch(header: Header) -> float | None:
    pitch = header.get("scanner", ["distance between rings (cm)"], number, None)
    return None if pitch is None or pitch <= 0 else 10 * pitch


def _turned(scanner: PETScanner, degrees: float) -> PETScanner:
    """The scanner turned from the front to the left."""
    if degrees == 0:
        return scanner
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    crystals = scanner.crystals @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    return replace(scanner, crystals=crystals)


def _circular(header: Header, offset: float) -> PETScanner:
    geometry = header.plain("scanner geometry (blocksoncylindrical/cylindrical/generic)") or "cylindrical"
    layers = header.get("scanner", ["number of detector layers"], whole, 1)
    if geometry != "cylindrical" or layers > 1:
        raise FormatError(
            f"{header.path}: a {geometry} scanner with {layers} layers of crystals cannot be built from the header; "
            "give it as scanner=PETScanner(...)"
        )
    rings = header.get("scanner", ["number of rings"], count)
    crystals = header.get("scanner", ["number of detectors per ring"], count)
    if rings > _MOST_RINGS or rings * crystals > _MOST_CRYSTALS:
        raise FormatError(f"{header.path}: {rings} rings of {crystals} crystals; damaged header?")
    header.get("scanner", ["inner ring diameter (cm)"], positive)
    header.get("scanner", ["distance between rings (cm)"], positive)
    circle = _Circle(rings, crystals, _radius(header) or 0.0, _ring_pitch(header) or 0.0, offset)
    bins = header.get("scanner", ["maximum number of non-arc-corrected bins"], number, 0.0)
    bin_size = header.get("scanner", ["default bin size (cm)"], number, 0.0)
    resolution = header.get("scanner", ["energy resolution"], number, 0.0)
    name = _system_name(header)
    return PETScanner(
        circle.positions(),
        name="" if name.lower() in ("unknown", "userdefined") else name,
        n_radial=int(bins) if bins >= 1 else None,
        bin_size=10 * bin_size if bin_size > 0 else None,
        time_of_flight=_timing(header),
        energy_resolution=resolution if resolution > 0 else None,
    )


def _timing(header: Header) -> TimeOfFlight | None:
    """The scanner's own TOF bins, None where the header does not give them."""
    keys = (
        ("maximum number of (unmashed) tof time bins", "number of tof time bins"),
        ("size of unmashed tof time bins (ps)", "size of timing bin (ps)"),
        ("tof timing resolution (ps)", "timing resolution (ps)"),
    )
    n, width, fwhm = (header.get("tof", names, number, 0.0) for names in keys)
    return TimeOfFlight.from_ps(int(n), width, fwhm) if min(n, width, fwhm) > 0 else None


def _tof(header: Header, scanner: PETScanner, n: int | None) -> TimeOfFlight | None:
    """The TOF bins of data with `n` timing positions: the scanner's, joined by the mashing factor."""
    if n is None:
        return None
    given = header.overrides.get("tof")
    if given is not None:
        if not isinstance(given, TimeOfFlight) or given.n_bins != n:
            raise FormatError(f"{header.path}: tof= is {short(given)}, expected a TimeOfFlight of {n} bins")
        return given
    factor = _bare(header).get("tof", ["tof mashing factor", "%tof mashing factor"], count, 1)
    fine = _timing(header) or scanner.time_of_flight
    if fine is not None and fine.n_bins // factor == n:
        return TimeOfFlight(n, fine.bin_width * factor, fine.fwhm)
    if fine is not None and fine.n_bins == n:
        return fine
    if n == 1:
        return None
    has = f"{fine.n_bins} TOF bins, joined by {factor}" if fine else "no TOF bins"
    raise FormatError(f"{header.path}: {n} TOF bins of a scanner with {has}; give tof=TimeOfFlight(...)")


# ---- bins ------------------------------------------------------------------------------------------------------------


def _sinogram(header: Header, layout: _Layout, scanner: PETScanner) -> PETSinogram:
    views = layout.sizes["view"]
    mashing, rest = divmod(scanner.n_crystals // 2, views)
    if rest or not mashing:
        raise FormatError(
            f"{header.path}: {views} views do not share the {scanner.n_crystals // 2} of {scanner}; give scanner=..."
        )
    sinogram = PETSinogram(
        scanner,
        layout.keep * layout.span + layout.span // 2,
        layout.span,
        tof=_tof(header, scanner, layout.sizes.get("tof")),
        n_radial=layout.sizes["radial"],
        mashing=mashing,
    )
    for segment, planes in zip(layout.numbers, layout.planes):
        expected = int((sinogram.segments == segment).sum())
        if abs(segment) <= layout.keep and planes != expected:
            raise FormatError(
                f"{header.path}: segment {segment} has {planes} planes, {expected} follow from {scanner.n_rings} rings"
            )
    return sinogram


def _ordered(values: np.ndarray, layout: _Layout, sinogram: PETSinogram, tof_order: np.ndarray) -> np.ndarray:
    """Return the file's values in the order of the sinogram's bins."""
    at = layout.axes.index("segment")
    outer, inner = layout.axes[:at], layout.axes[at + 1 :]
    axes = (*outer, *inner)
    order = [axes.index(axis) for axis in ("view", "radial", "tof", "axial") if axis in axes]
    per_plane = math.prod(layout.sizes[axis] for axis in inner if axis != "axial")
    values = values.reshape(*(layout.sizes[axis] for axis in outer), -1)
    counts = np.empty(sinogram.shape, values.dtype)
    stops = np.cumsum(layout.planes) * per_plane
    for segment, planes, stop in zip(layout.numbers, layout.planes, stops):
        if abs(segment) <= layout.keep:
            shape = [planes if axis == "axial" else layout.sizes[axis] for axis in axes]
            block = values[..., stop - planes * per_plane : stop].reshape(shape).transpose(order)
            if "tof" in axes:
                block = block[:, :, 0] if sinogram.tof is None else block[:, :, tof_order]
            counts[..., _columns(sinogram, segment)] = block
    return counts


def _columns(sinogram: PETSinogram, segment: int) -> slice:
    """The planes of a segment, which follow each other."""
    planes = np.flatnonzero(sinogram.segments == segment)
    return slice(int(planes[0]), int(planes[-1]) + 1)


def _facts(header: Header, source: str) -> PETSinogramFacts:
    written, window = _bare(header), header.get("window", [], count, 1)
    frame = 1 if _siemens(header) else window
    start = [f"image relative start time (sec) [{frame}]", "image relative start time (sec)"]
    duration = [f"image duration (sec) [{frame}]", "image duration (sec)"]
    beds = (f"start {way} bed position (mm)" for way in ("horizontal", "vertical"))
    horizontal, vertical = (written.get("description", [key], number, None) for key in beds)
    return PETSinogramFacts(
        scanner=source,
        system=_system_name(header),
        data_type=header.plain("pet data type") or "emission",
        corrections=_corrections(header),
        content=header.plain(f"scan data type description [{window}]"),
        frame=frame,
        n_frames=written.get("window", ["number of time frames"], count, 1),
        duration=header.get("duration", duration, number, None) or None,
        start=written.get("duration", start, number, None),
        radionuclide=isotope(name).name if (name := _radionuclide(header)) else None,
        energy_window=_energy_window(replace(header, overrides={**header.overrides, "window": 1})),
        patient_orientation=header.plain("patient orientation") or header.plain("%patient orientation"),
        patient_rotation=header.plain("patient rotation"),
        bed_position=None if horizontal is None or vertical is None else (horizontal, vertical),
        description=header.get("description", ["data description", "study description"], text, ""),
    )


# ---- writing ---------------------------------------------------------------------------------------------------------


def _checked(counts: Any, sinogram: PETSinogram) -> np.ndarray:
    """The values to write, once all that the format cannot say is refused."""
    values = np.asarray(to_numpy(counts))
    if values.shape != sinogram.shape:
        raise ValueError(f"write_interfile_pet: counts of shape {values.shape} for a sinogram of {sinogram.shape}")
    whole_turn = np.arange(sinogram.scanner.n_crystals // 2 // sinogram.mashing)
    if not np.array_equal(sinogram.views, whole_turn):
        raise ValueError("write_interfile_pet: a file holds all views; write the whole sinogram, not a subset")
    if (sinogram.max_ring_difference - sinogram.span // 2) % sinogram.span:
        raise ValueError("write_interfile_pet: the outermost segments must be full; see SinogramCompression")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"write_interfile_pet: {int((~np.isfinite(values)).sum())} counts are NaN or infinite")
    return _writable(values)


def _blocks(values: np.ndarray, sinogram: PETSinogram) -> Iterator[np.ndarray]:
    """The data in the order of the file: (view, axial, radial) of every segment, for every TOF bin."""
    # STIR counts TOF bins towards the first end
    bins = [values] if sinogram.tof is None else [values[:, :, k] for k in reversed(range(sinogram.tof.n_bins))]
    for part in bins:
        for segment in _in_order(sinogram):
            yield part[..., _columns(sinogram, segment)].transpose(0, 2, 1)


def _in_order(sinogram: PETSinogram) -> list[int]:
    return list(dict.fromkeys(sinogram.segments.tolist()))


def _lines(
    data_name: str, dtype: np.dtype, sinogram: PETSinogram, facts: PETSinogramFacts, approximate: bool
) -> Iterator[str]:
    name, scanner_lines = _scanner_lines(sinogram, approximate)
    if any(entry.lower() in _ARC_CORRECTED for entry in facts.corrections):
        raise ValueError("write_interfile_pet: facts.corrections tells of an arc correction, bins are crystal pairs")
    kind = {"f": "float", "u": "unsigned integer", "i": "signed integer"}[dtype.kind]
    yield "!INTERFILE :="
    yield "!imaging modality := PT"
    yield f"name of data file := {data_name}"
    yield f"originating system := {name}"
    yield "!version of keys := STIR6.0"
    yield "!GENERAL DATA :="
    yield from _said("data description", _one_line(facts.description))
    yield from _said("patient orientation", facts.patient_orientation)
    yield from _said("patient rotation", facts.patient_rotation)
    if facts.radionuclide:
        yield "number of radionuclides := 1"
        yield f"radionuclide name [1] := {_stir_name(facts.radionuclide)}"
    yield "!GENERAL IMAGE DATA :="
    yield "!type of data := PET"
    yield "imagedata byte order := LITTLEENDIAN"
    yield "!PET STUDY (General) :="
    yield f"!PET data type := {facts.data_type or 'emission'}"
    yield f"applied corrections := {{{', '.join(facts.corrections) or 'None'}}}"
    yield f"!number format := {kind}"
    yield f"!number of bytes per pixel := {dtype.itemsize}"
    yield from _axis_lines(sinogram)
    yield from scanner_lines
    yield "number of time frames := 1"
    yield from _said("image duration (sec) [1]", facts.duration)
    yield from _said("image relative start time (sec) [1]", facts.start if facts.duration else None)
    if facts.energy_window:
        yield "number of energy windows := 1"
        yield f"energy window lower level [1] := {float(facts.energy_window[0])!r}"
        yield f"energy window upper level [1] := {float(facts.energy_window[1])!r}"
    if facts.bed_position:
        yield f"start horizontal bed position (mm) := {float(facts.bed_position[0])!r}"
        yield f"start vertical bed position (mm) := {float(facts.bed_position[1])!r}"
    yield "!END OF INTERFILE :="


def _said(key: str, value: str | float | None) -> Iterator[str]:
    if value not in ("", None):
        yield f"{key} := {_one_line(value) if isinstance(value, str) else repr(float(value))}"


def _axis_lines(sinogram: PETSinogram) -> Iterator[str]:
    order, half = _in_order(sinogram), sinogram.span // 2
    planes = [int((sinogram.segments == segment).sum()) for segment in order]
    axes: list[tuple[str, str]] = [
        ("tangential coordinate", str(sinogram.n_radial)),
        ("axial coordinate", _listed(planes)),
        ("view", str(sinogram.n_views)),
        ("segment", str(len(order))),
    ]
    if sinogram.tof is not None:
        axes.append(("timing positions", str(sinogram.tof.n_bins)))
    yield f"number of dimensions := {len(axes)}"
    for index, (label, size) in reversed(list(enumerate(axes, 1))):
        yield f"matrix axis label [{index}] := {label}"
        yield f"!matrix size [{index}] := {size}"
    if sinogram.tof is not None:
        yield f"TOF mashing factor := {_own_timing(sinogram)[1]}"
    yield f"minimum ring difference per segment := {_listed([s * sinogram.span - half for s in order])}"
    yield f"maximum ring difference per segment := {_listed([s * sinogram.span + half for s in order])}"


def _listed(values: Sequence[int]) -> str:
    return f"{{{','.join(map(str, values))}}}"


def _own_timing(sinogram: PETSinogram) -> tuple[TimeOfFlight | None, int]:
    """The scanner's TOF bins, and how many of them one of the sinogram's joins."""
    tof, own = sinogram.tof, sinogram.scanner.time_of_flight
    if tof is None:
        return own, 1
    factor = max(1, round(tof.bin_width / own.bin_width)) if own else 1
    if own is None or tof != TimeOfFlight(own.n_bins // factor or 1, own.bin_width * factor, own.fwhm):
        return tof, 1
    return own, factor


def _scanner_lines(sinogram: PETSinogram, approximate: bool) -> tuple[str, list[str]]:
    """The scanner's name and its block of the header."""
    scanner = sinogram.scanner
    name, circle, depth = _described(scanner, approximate)
    own = _own_timing(sinogram)[0]
    central = circle.radius * np.sin(np.pi / circle.crystals)
    timing = () if own is None else (own.n_bins, own.bin_width / MM_PER_PS, own.fwhm / MM_PER_PS)
    timing_keys = (
        "Maximum number of (unmashed) TOF time bins",
        "Size of unmashed TOF time bins (ps)",
        "TOF timing resolution (ps)",
    )
    bins = scanner.n_radial or scanner.n_crystals - 1
    return name, [
        "Scanner parameters :=",
        f"Scanner type := {name}",
        f"Number of rings := {circle.rings}",
        f"Number of detectors per ring := {circle.crystals}",
        f"Inner ring diameter (cm) := {_centimetres(2 * (circle.radius - depth))}",
        f"Average depth of interaction (cm) := {_centimetres(depth)}",
        f"Distance between rings (cm) := {_centimetres(circle.ring_pitch)}",
        f"Default bin size (cm) := {_centimetres(scanner.bin_size or central)}",
        f"View offset (degrees) := {circle.offset!r}",
        f"Maximum number of non-arc-corrected bins := {bins}",
        f"Default number of arc-corrected bins := {bins}",
        *([f"Energy resolution := {float(scanner.energy_resolution)!r}"] if scanner.energy_resolution else []),
        *(["Reference energy (in keV) := 511"] if scanner.energy_resolution else []),
        *(f"{key} := {value!r}" for key, value in zip(timing_keys, timing)),
        "end scanner parameters :=",
        f"effective central bin size (cm) := {_centimetres(central)}",
    ]


def _centimetres(length: float) -> str:
    """A length in mm as the header has it, without the last digits that divisions leave."""
    return repr(round(float(length) / 10, 12))


def _described(scanner: PETScanner, approximate: bool) -> tuple[str, _Circle, float]:
    """The name, the circle and the depth of interaction that a header gives for a scanner."""
    circle = _Circle.nearest(scanner)
    for key, system in _SYSTEMS.items():
        if (system.rings, system.crystals) == (scanner.n_rings, scanner.n_crystals):
            known = PETScanner.named(key)
            offset = round(circle.offset - _Circle.nearest(known).offset, 9) + 0.0
            if _same(_turned(known, offset), scanner):
                radius = system.inner_radius + system.depth
                known_circle = _Circle(system.rings, system.crystals, radius, system.ring_pitch, offset)
                return system.names[0], known_circle, system.depth
    if not approximate and not _same(PETScanner(circle.positions()), scanner):
        raise ValueError(
            f"write_interfile_pet: the crystals of {scanner} are neither on a circle, all of them real and the rings "
            "evenly spaced, nor those of a scanner in the library's table, and a header can say no more; "
            "approximate=True writes the nearest circle"
        )
    return _one_line(scanner.name) or "unknown", circle, 0.0


def _same(scanner: PETScanner, other: PETScanner) -> bool:
    same_places = np.allclose(scanner.crystals, other.crystals, rtol=0, atol=_SAME_PLACE)
    return bool(same_places and np.array_equal(scanner.virtual, other.virtual))
