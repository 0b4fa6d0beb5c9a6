"""PET sinograms written as Interfile that STIR reads: the data, the header, and the scanner's block in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from emrecon.projectors import PETScanner, PETSinogram, TimeOfFlight
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.pet.tof import MM_PER_PS

from .entries import data_path_of, format_lines, one_line, stir_name, window_lines, writable, write_pair
from .orbits import Lying, lying_as
from .pet import ARC_CORRECTED, PETSinogramFacts, planes_of
from .scanners import SYSTEMS, Circle, turned

_SAME_PLACE = 1e-3  # mm


def write_interfile_pet(
    header_path: str | os.PathLike[str],
    counts: Array,
    sinogram: PETSinogram,
    facts: PETSinogramFacts | None = None,
    *,
    approximate: bool = False,
    overwrite: bool = True,
) -> None:
    """Write a sinogram as a header `.hs` and data `.s` that STIR reads: [TOF bin][segment][view][axial][radial].

    Args:
        counts : of `sinogram.shape`; whole numbers of up to 4 bytes and floats keep their number format.
        facts : what else the header says; `scanner`, `content`, `frame` and `n_frames` are not used.
        approximate : STIR puts crystals on a circle. True writes the circle nearest to a scanner that is neither on one
            nor in the library's table (reading it again then needs scanner=...); False refuses such a scanner.

    Segments are in the order 0, +1, -1, ...; both files are written atomically, little endian.

    Raises ValueError for counts of another shape or that are not finite, for a subset of views
    and for scanners the header cannot describe; OSError naming the file that cannot be written.
    """
    facts = facts or PETSinogramFacts()
    values = _checked(counts, sinogram)
    data_path = data_path_of(Path(header_path))
    if data_path.suffix != ".s":
        raise ValueError(f"{header_path}: the header of a PET sinogram must end in .hs")
    lines = _lines(data_path.name, values.dtype, sinogram, facts, approximate)
    write_pair(header_path, lines, _blocks(values, sinogram), overwrite)


def _checked(counts: Array, sinogram: PETSinogram) -> np.ndarray:
    """The values to write; whatever the format cannot hold is refused."""
    values = np.asarray(to_numpy(counts))
    if values.shape != sinogram.shape:
        raise ValueError(f"write_interfile_pet: counts of shape {values.shape} for a sinogram of {sinogram.shape}")
    n_views = sinogram.scanner.n_crystals // 2 // sinogram.mashing if sinogram.lines is None else sinogram.lines.n_views
    whole_turn = np.arange(n_views)
    if not np.array_equal(sinogram.views, whole_turn):
        raise ValueError("write_interfile_pet: a file holds all views; write the whole sinogram, not a subset")
    if not sinogram.is_filled:
        raise ValueError("write_interfile_pet: the outermost segments must be full; see SinogramCompression")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"write_interfile_pet: {int((~np.isfinite(values)).sum())} counts are NaN or infinite")
    return writable(values)


def _blocks(values: np.ndarray, sinogram: PETSinogram) -> Iterator[np.ndarray]:
    """The data in the order of the file: (view, axial, radial) of every segment, for every TOF bin."""
    # STIR counts TOF bins towards the first end
    bins = [values] if sinogram.tof is None else [values[:, :, k] for k in reversed(range(sinogram.tof.n_bins))]
    for part in bins:
        for segment in _in_order(sinogram):
            yield part[..., planes_of(sinogram, segment)].transpose(0, 2, 1)


def _in_order(sinogram: PETSinogram) -> list[int]:
    return list(dict.fromkeys(sinogram.segments.tolist()))


def _lines(
    data_name: str, dtype: np.dtype, sinogram: PETSinogram, facts: PETSinogramFacts, approximate: bool
) -> Iterator[str]:
    lying = _lying(sinogram.scanner, facts)
    upright = replace(sinogram, scanner=_upright(sinogram.scanner, lying))
    orientation, rotation = facts.patient_orientation, facts.patient_rotation
    if not (orientation or rotation) and lying != Lying():
        orientation, rotation = lying.words
    name, scanner_lines = _scanner_lines(upright, approximate)
    corrections = _corrections(sinogram, facts)
    yield "!INTERFILE :="
    yield "!imaging modality := PT"
    yield f"name of data file := {data_name}"
    yield f"originating system := {name}"
    yield "!version of keys := STIR6.0"
    yield "!GENERAL DATA :="
    yield from _said("data description", one_line(facts.description))
    yield from _said("patient orientation", orientation)
    yield from _said("patient rotation", rotation)
    if facts.radionuclide:
        yield "number of radionuclides := 1"
        yield f"radionuclide name [1] := {stir_name(facts.radionuclide)}"
    yield "!GENERAL IMAGE DATA :="
    yield "!type of data := PET"
    yield "imagedata byte order := LITTLEENDIAN"
    yield "!PET STUDY (General) :="
    yield f"!PET data type := {facts.data_type or 'emission'}"
    yield f"applied corrections := {{{', '.join(corrections) or 'None'}}}"
    yield from format_lines(dtype)
    yield from _axis_lines(sinogram)
    yield from scanner_lines
    yield "number of time frames := 1"
    yield from _said("image duration (sec) [1]", facts.duration)
    yield from _said("image relative start time (sec) [1]", facts.start if facts.duration else None)
    yield from window_lines(facts.energy_window)
    if facts.bed_position:
        yield f"start horizontal bed position (mm) := {float(facts.bed_position[0])!r}"
        yield f"start vertical bed position (mm) := {float(facts.bed_position[1])!r}"


def _corrections(sinogram: PETSinogram, facts: PETSinogramFacts) -> tuple[str, ...]:
    """What has been applied to the data; arc correction must be true of the bins."""
    said = any(entry.lower() in ARC_CORRECTED for entry in facts.corrections)
    if sinogram.lines is None and said:
        raise ValueError(
            "write_interfile_pet: facts.corrections has an arc correction, but the bins of this PETSinogram are "
            "crystal pairs (it has no lines=)"
        )
    return facts.corrections if sinogram.lines is None or said else ("arc correction", *facts.corrections)


def _said(key: str, value: str | float | None) -> Iterator[str]:
    if value not in ("", None):
        yield f"{key} := {one_line(value) if isinstance(value, str) else repr(float(value))}"


def _axis_lines(sinogram: PETSinogram) -> Iterator[str]:
    order = _in_order(sinogram)
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
    yield f"minimum ring difference per segment := {_listed([sinogram.differences(s)[0] for s in order])}"
    yield f"maximum ring difference per segment := {_listed([sinogram.differences(s)[1] for s in order])}"


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
    central = circle.radius * np.sin(np.pi / circle.crystals) if sinogram.lines is None else sinogram.lines.bin_size
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


def _described(scanner: PETScanner, approximate: bool) -> tuple[str, Circle, float]:
    """The name, the circle and the depth of interaction that a header gives for a scanner."""
    circle = Circle.nearest(scanner)
    for key, system in SYSTEMS.items():
        if (system.rings, system.crystals) == (scanner.n_rings, scanner.n_crystals):
            known = PETScanner.named(key)
            offset = round(circle.offset - Circle.nearest(known).offset, 9) + 0.0
            if _same(turned(known, offset), scanner):
                radius = system.inner_radius + system.depth
                known_circle = Circle(system.rings, system.crystals, radius, system.ring_pitch, offset)
                return system.names[0], known_circle, system.depth
    if not approximate and not _same(PETScanner(circle.positions()), scanner):
        raise ValueError(
            "write_interfile_pet: a header can describe a scanner of the library's table, or evenly spaced rings of "
            f"real crystals on a circle, but {scanner} is neither; approximate=True writes the nearest circle"
        )
    return one_line(scanner.name) or "unknown", circle, 0.0


def _lying(scanner: PETScanner, facts: PETSinogramFacts) -> Lying:
    """How the patient lies in whose axes a scanner is: as the facts say, else the first way that puts it upright."""
    said = lying_as(facts.patient_orientation, facts.patient_rotation)
    if said is not None:
        if not (said.feet_first and scanner.n_rings > 1) or scanner.rings[0] < scanner.rings[-1]:
            return said
        raise ValueError(
            f"write_interfile_pet: the patient lies {' and '.join(said.words)}, but the scanner is not turned around "
            "the patient: a PETSinogram is in the patient's axes; use scanner.rotated(...)"
        )
    ways = [Lying(feet_first, turn) for feet_first in (False, True) for turn in (0.0, 180.0, 90.0, -90.0)]
    return next((way for way in ways if _is_described(_upright(scanner, way))), Lying())


def _upright(scanner: PETScanner, lying: Lying) -> PETScanner:
    """The scanner in its own axes."""
    return scanner if lying == Lying() else scanner.rotated(lying.rotation.T)


def _is_described(scanner: PETScanner) -> bool:
    try:
        _described(scanner, approximate=False)
    except ValueError:
        return False
    return scanner.n_rings == 1 or scanner.rings[0] > scanner.rings[-1]


def _same(scanner: PETScanner, other: PETScanner) -> bool:
    same_places = np.allclose(scanner.crystals, other.crystals, rtol=0, atol=_SAME_PLACE)
    return bool(same_places and np.array_equal(scanner.virtual, other.virtual))
