"""PET sinograms in Interfile, as STIR and Siemens scanners write them; docs/interfile_pet.md lists keys and traps."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emrecon.projectors import EquallySpacedLines, PETScanner, PETSinogram, isotope
from emrecon.projectors.core.errors import FormatError, naming

from .entries import axes_of, energy_window_of, radionuclide_of
from .header import (
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
from .orbits import lying_of
from .scanners import scanner_of, system_name, tof_of

SINOGRAM_OVERRIDES = (
    *("n_views", "n_radial", "n_planes", "n_tof_bins", "min_ring_difference", "max_ring_difference", "span"),
    *("segments", "scanner", "radius", "crystal_map", "tof", "arc_corrected", "bin_size"),
    *("duration", "radionuclide", "energy_window", "description", "patient_orientation", "patient_rotation"),
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
    "tof bin": "tof",
}

ARC_CORRECTED = ("arc correction", "arc corrected", "radial arc-correction")
"""Corrections after which bins are no longer crystal pairs, as headers name them."""


@dataclass(frozen=True)
class PETSinogramFacts:
    """What a header says about a PET sinogram besides its bins; None or "" where it does not say.

    Args:
        scanner : where the crystals come from: the name of a scanner of the library, "header" for crystals on a circle
            from the header's numbers, or "caller".
        system : the scanner's name in the header.
        data_type : "emission", "transmission", "blank", "attenuationcorrection" or "normalisation".
        corrections : what has been applied to the data.
        content : "prompts" or "randoms", in Siemens' files.
        frame, n_frames : the time frame that was read, from 1, and how many there are.
        duration, start : of the frame, in s.
        radionuclide : such as "F-18".
        energy_window : keV.
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
    header_path: str | os.PathLike[str], **overrides: object
) -> tuple[np.ndarray, PETSinogram, PETSinogramFacts]:
    """Return (counts, sinogram, facts) of an Interfile PET sinogram: STIR's `.hs` or Siemens' `.s.hdr`.

    counts : in the order of `PETSinogram` (views, radial, planes) or (views, radial, TOF bins, planes) and in the
    file's own number format, whatever the order of axes and segments in the file; TOF bins are turned round, as STIR
    counts them towards the first end. Values may be negative (randoms subtracted).
    The sinogram is in the axes of the patient: for one who lies feet first, prone or on the side the scanner is turned
    around the patient, so that images come out with their left on the left and their head up.
    The scanner is one of the library's table where rings, crystals, radius and ring spacing agree (turned by the view
    offset), else the header's: crystals on a circle, in flat blocks ("BlocksOnCylindrical") or from a crystal map
    ("Generic"). Arc-corrected data have `EquallySpacedLines` instead of crystal pairs; where a header does not say
    whether they are, STIR takes them to be, and so does this function, with a warning.

    Values can be replaced: n_views, n_radial, n_planes (of every segment, in the file's order), n_tof_bins,
    min_ring_difference and max_ring_difference (lists in the file's order), span (Siemens), scanner (a `PETScanner`,
    the name of one, or "header" for the circle even where the library knows better), radius (mm, of the crystals'
    circle), crystal_map (a file of ring, crystal, x, y, z), tof (a `TimeOfFlight`), arc_corrected, bin_size (mm, of
    arc-corrected bins), patient_orientation ("head_in", "feet_in"), patient_rotation ("supine", "prone", "left",
    "right"), duration (s), radionuclide, energy_window (keV), description, byte_order, number_format,
    bytes_per_pixel, data_offset, data_file, scale; window (1, 2, ...) chooses a time frame, or Siemens' prompts (1) or
    randoms (2). segments : the outermost segment to keep (default: all).

    Raises FileNotFoundError for missing files, TypeError for unknown overrides, FormatError (a ValueError) that names
    the file where keys are missing or contradict each other or the data, and for segments that leave out or repeat ring
    differences. Segments may have different spans, as GE's do.

    Source: STIR's keys (Thielemans et al. 2012, Phys Med Biol 57:867).
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    header = load_header(header_path, given, SINOGRAM_OVERRIDES)
    _refuse_others(header)
    with naming(header.path):
        layout = _layout(header)
    values = read_values(header, (layout.size,), "sinograms", _before(header, layout))
    with naming(header.path):
        scanner, source = scanner_of(header)
        scanner = around_patient(scanner, header)
        sinogram = _sinogram(header, layout, scanner)
        counts = _ordered(values, layout, sinogram, _tof_order(header, layout.sizes.get("tof", 1)))
        return counts, sinogram, _facts(header, source)


@dataclass(frozen=True)
class _Layout:
    """How the file's values follow each other.

    Args:
        axes : names, slowest first, with "segment" in front of "axial".
        sizes : of all but those two.
        numbers, planes : of every segment, in the file's order.
        keep : the outermost segment wanted.
    """

    axes: tuple[str, ...]
    sizes: dict[str, int]
    numbers: tuple[int, ...]
    planes: tuple[int, ...]
    span: tuple[int, ...]
    keep: int

    @property
    def size(self) -> int:
        """The number of values in the file."""
        return sum(self.planes) * math.prod(self.sizes.values())


def is_sinogram(header: Header) -> bool:
    """Whether a header describes a PET sinogram: STIR's by its type of data, Siemens' (.s.hdr) by its own keys."""
    if header.plain("pet data type") == "image" or header.plain("data format") == "coincidencelist":
        return False
    space = header.plain("%sms-mi header name space")
    return header.plain("type of data") == "pet" or "sinogram" in space or _siemens(header)


def _refuse_others(header: Header) -> None:
    if header.plain("pet data type") == "image" or header.plain("process status") == "reconstructed":
        raise FormatError(f"{header.path} describes an image, not a sinogram; use read_image or read_interfile_image")
    if header.plain("type of data") == "tomographic":
        raise FormatError(f"{header.path} describes SPECT data; use read_scan or read_interfile")
    if header.plain("type of data") not in ("pet", ""):
        raise FormatError(f"{header.path}: type of data is {short(header.plain('type of data'))}, expected PET")
    for key in ("number of bed positions", "number of beds", "number of time slots", "number of gates"):
        if header.keys.get(key, "1") not in ("0", "1"):
            raise FormatError(f"{header.path}: {key} is {short(header.keys[key])}; write one file for each of them")
    if header.plain("%compression") == "on":
        raise FormatError(f"{header.path}: the sinogram is compressed; let the scanner export it uncompressed")


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
    return any(entry.lower() in ARC_CORRECTED for entry in _corrections(header))


def _layout(header: Header) -> _Layout:
    axes = _file_axes(header)
    index = {axis: axes.index(axis) + 1 for axis in axes}
    names = {"radial": "n_radial", "view": "n_views", "tof": "n_tof_bins"}
    sizes = {
        axis: header.get(override, [f"matrix size [{index[axis]}]"], count)
        for axis, override in names.items()
        if axis in axes and not (axis == "tof" and _siemens(header))
    }
    if "tof" in axes and _siemens(header):
        sizes["tof"] = _siemens_tof_bins(header)
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
        timed = _siemens_tof_bins(header) > 1
        return axes_of(header, ("radial", "view", "plane", *(["tof"] if timed else [])), _LABELS)
    timed = "matrix axis label [5]" in header.keys or header.plain("number of dimensions") == "5"
    return axes_of(header, ("radial", "axial", "view", "segment", *(["tof"] if timed else [])), _LABELS)


def _siemens_tof_bins(header: Header) -> int:
    """How many TOF bins the chosen part of Siemens' data has: randoms (window=2) have none."""
    n = header.get("n_tof_bins", ["%number of tof time bins"], whole, 1)
    window = header.get("window", [], count, 1)
    return 1 if "random" in header.plain(f"scan data type description [{window}]") else n


def _before(header: Header, layout: _Layout) -> int | None:
    """How many values come before the chosen part of Siemens' TOF data: prompts have TOF bins, randoms have none."""
    n_tof = header.get("n_tof_bins", ["%number of tof time bins"], whole, 1)
    n = header.as_written().get("window", ["number of scan data types"], count, 1)
    if not _siemens(header) or n_tof < 2 or n < 2:
        return None
    window = header.get("window", [], count, None)
    if window is None or window > n:
        names = (header.plain(f"scan data type description [{i}]") or "?" for i in range(1, min(n, 9) + 1))
        choices = ", ".join(f"window={i} ({name})" for i, name in enumerate(names, 1))
        raise FormatError(f"{header.path} holds {n} types of data; choose one: {choices}")
    plain = layout.size // layout.sizes.get("tof", 1)
    types = [header.plain(f"scan data type description [{i}]") for i in range(1, window)]
    return sum(plain if "random" in name else n_tof * plain for name in types)


def _integers(value: object) -> np.ndarray:
    values = numbers(value)
    if np.any(values % 1) or np.abs(values).max() > 2**31:
        raise ValueError("expected whole numbers")
    return values.astype(int)


def _counts(value: object) -> tuple[int, ...]:
    values = _integers(value)
    if values.min() < 1:
        raise ValueError("expected whole numbers above zero")
    return tuple(values.tolist())


def _stir_segments(header: Header, index: dict[str, int]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """The lowest and highest ring difference and the number of planes of every segment, in the file's order."""
    low = header.get("min_ring_difference", ["minimum ring difference per segment"], _integers)
    high = header.get("max_ring_difference", ["maximum ring difference per segment"], _integers)
    planes = header.get("n_planes", [f"matrix size [{index['axial']}]"], _counts)
    n = header.as_written().get("n_planes", [f"matrix size [{index['segment']}]"], count, len(planes))
    if len({len(low), len(high), len(planes), len(planes) if "n_planes" in header.overrides else n}) > 1:
        raise FormatError(
            f"{header.path} has {n} segments, but {len(planes)} numbers of planes, {len(low)} minimum and {len(high)} "
            "maximum ring differences"
        )
    return low, high, planes


def _siemens_segments(header: Header, index: dict[str, int]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    planes = header.get("n_planes", ["%segment table"], _counts)
    announced = header.as_written().get("n_planes", [f"matrix size [{index['plane']}]"], count, sum(planes))
    if sum(planes) != announced and "n_planes" not in header.overrides:
        raise FormatError(f"{header.path}: the segment table holds {sum(planes)} planes, matrix size {announced}")
    span = header.get("span", ["%axial compression"], count)
    # the scanner's segment +1, which comes before its -1, has the lower ring second
    order = np.arange(1, len(planes) + 1) // 2 * np.where(np.arange(len(planes)) % 2, -1, 1)
    return order * span - span // 2, order * span + span // 2, planes


def _segments(header: Header, low: np.ndarray, high: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The number of every segment in the file's order, the spans of 0, 1, ..., and the outermost segment to keep."""
    rank = np.argsort(np.argsort(low + high, kind="stable"), kind="stable")
    direct = np.flatnonzero(low + high == 0)
    if direct.size != 1 or high[direct[0]] < low[direct[0]]:
        raise FormatError(
            f"{header.path}: exactly one segment must be segment 0, with ring differences from -d to d; the header has "
            f"{short(list(zip(low.tolist(), high.tolist())))}"
        )
    segments = rank - rank[direct[0]]
    outermost = int(min(-segments.min(), segments.max()))
    keep = header.get("segments", [], whole, int(np.abs(segments).max()))
    if keep > outermost:
        raise FormatError(f"{header.path} has segments {segments.min()} to {segments.max()}; pass segments={outermost}")
    ends = {int(number): (int(first), int(last)) for number, first, last in zip(segments, low, high)}
    for segment in range(1, keep + 1):
        first, last = ends[segment]
        before = ends[segment - 1][1]
        if first != before + 1 or last < first or ends[-segment] != (-last, -first):
            raise FormatError(
                f"{header.path}: segments {segment} and {-segment} hold ring differences {first} to {last} and "
                f"{ends[-segment][0]} to {ends[-segment][1]}; expected those that follow {before}, and their "
                f"negatives: read the inner ones with segments={segment - 1}"
            )
    return tuple(segments.tolist()), tuple(ends[k][1] - ends[k][0] + 1 for k in range(keep + 1)), keep


def _tof_order(header: Header, n: int) -> np.ndarray:
    """Where the TOF bins of `PETSinogram` are among the timing positions of the file."""
    first = -(n // 2)
    usual = np.arange(first, first + n)
    if _siemens(header):
        # the middle, then outwards by turns
        usual = np.arange(1, n + 1) // 2 * np.where(np.arange(n) % 2, 1, -1)
    order = header.as_written().get("n_tof_bins", ["tof bin order"], _integers, usual)
    if sorted(order) != list(range(first, first + n)):
        raise FormatError(
            f"{header.path}: TOF bin order {short(order.tolist())} does not list {n} timing positions once each"
        )
    # timing positions count towards the first end
    return np.argsort(-order)


def _sinogram(header: Header, layout: _Layout, scanner: PETScanner) -> PETSinogram:
    views, lines = layout.sizes["view"], None
    mashing, rest = divmod(scanner.n_crystals // 2, views)
    if _arc_corrected(header):
        lines, mashing = _lines(header, views, scanner), 1
    elif rest or not mashing:
        raise FormatError(
            f"{header.path}: the {scanner.n_crystals // 2} views of {scanner} cannot be joined to {views}; "
            "pass scanner=..."
        )
    sinogram = PETSinogram(
        scanner,
        layout.span[0] // 2 + sum(layout.span[1:]),
        layout.span,
        tof=tof_of(header, scanner, layout.sizes.get("tof")),
        n_radial=layout.sizes["radial"],
        mashing=mashing,
        lines=lines,
    )
    for segment, planes in zip(layout.numbers, layout.planes):
        expected = int((sinogram.segments == segment).sum())
        if abs(segment) <= layout.keep and planes != expected:
            raise FormatError(
                f"{header.path}: segment {segment} has {planes} planes, but {scanner.n_rings} rings make {expected}"
            )
    return sinogram


def _lines(header: Header, n_views: int, scanner: PETScanner) -> EquallySpacedLines:
    """The lines of arc-corrected data; a header that does not say that they are gets a warning."""
    if "applied corrections" not in header.keys and header.overrides.get("arc_corrected") is None:
        warnings.warn(
            f"{header.path}: the key `applied corrections` is missing; as STIR does, the data are taken to be arc "
            "corrected (equally spaced bins); pass arc_corrected=False where bins are crystal pairs",
            stacklevel=5,
        )
    in_mm = header.get("bin_size", [], positive, None)
    if in_mm is None and _siemens(header):
        in_mm = header.get("bin_size", ["scale factor (mm/pixel) [1]"], positive)
    keys = ["effective central bin size (cm)", "default bin size (cm)"]
    if in_mm is None and not any(header.keys.get(key) for key in keys):
        in_mm = scanner.bin_size
    return EquallySpacedLines(n_views, 10 * header.get("bin_size", keys, positive) if in_mm is None else in_mm)


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
            counts[..., planes_of(sinogram, segment)] = block
    return counts


def planes_of(sinogram: PETSinogram, segment: int) -> slice:
    """Return where the planes of a segment are, which follow each other."""
    planes = np.flatnonzero(sinogram.segments == segment)
    return slice(int(planes[0]), int(planes[-1]) + 1)


def around_patient(scanner: PETScanner, header: Header) -> PETScanner:
    """Return the scanner in the axes of the patient, who lies as a header says."""
    rotation = lying_of(header).rotation
    return scanner if np.array_equal(rotation, np.eye(3)) else scanner.rotated(rotation)


def _facts(header: Header, source: str) -> PETSinogramFacts:
    written, window = header.as_written(), header.get("window", [], count, 1)
    frame = 1 if _siemens(header) else window
    start = [f"image relative start time (sec) [{frame}]", "image relative start time (sec)"]
    duration = [f"image duration (sec) [{frame}]", "image duration (sec)"]
    beds = (f"start {way} bed position (mm)" for way in ("horizontal", "vertical"))
    horizontal, vertical = (written.get("description", [key], number, None) for key in beds)
    return PETSinogramFacts(
        scanner=source,
        system=system_name(header),
        data_type=header.plain("pet data type") or "emission",
        corrections=_corrections(header),
        content=header.plain(f"scan data type description [{window}]"),
        frame=frame,
        n_frames=written.get("window", ["number of time frames"], count, 1),
        duration=header.get("duration", duration, number, None) or None,
        start=written.get("duration", start, number, None),
        radionuclide=isotope(name).name if (name := radionuclide_of(header)) else None,
        energy_window=energy_window_of(replace(header, overrides={**header.overrides, "window": 1})),
        patient_orientation=header.plain("patient orientation") or header.plain("%patient orientation"),
        patient_rotation=header.plain("patient rotation"),
        bed_position=None if horizontal is None or vertical is None else (horizontal, vertical),
        description=header.get("description", ["data description", "study description"], text, ""),
    )
