"""The scanner and TOF bins that an Interfile header of PET describes: of the library's table, or a circle."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from emrecon.projectors import PETScanner, TimeOfFlight
from emrecon.projectors.core.errors import FormatError

from .block_scanners import block_crystals, mapped_crystals
from .header import Header, count, number, positive, short, whole
from .stir_scanners import stir_scanner

_MOST_RINGS, _MOST_CRYSTALS = 2**11, 2**22  # what is more is a damaged or hostile header

_SAME_SIZE = 0.01  # of a radius or a ring spacing


@dataclass(frozen=True)
class System:
    """A scanner of the library's table as STIR's own table has it; lengths in mm."""

    names: tuple[str, ...]
    rings: int
    crystals: int
    inner_radius: float
    depth: float
    ring_pitch: float


SYSTEMS = {
    "mmr": System(("Siemens mMR", "mMR", "2008"), 64, 504, 328.0, 7.0, 4.0625),
    "mct": System(("Siemens mCT", "mCT", "2011", "1104", "1094"), 55, 672, 421.0, 7.0, 4.054),
    "vision600": System(("Siemens Vision 600", "Vision 600"), 80, 798, 410.0, 7.0, 3.29114),
    "dmi": System(("GE Discovery MI 4 rings", "Discovery MI4"), 36, 544, 371.1, 9.4, 5.52296),
    "d690": System(("GE Discovery 690", "GE Discovery 710"), 24, 576, 405.1, 9.4, 6.54),
    "signa": System(("GE Signa PET/MR", "PET/MR Signa", "Signa PET/MR"), 45, 448, 311.8, 8.5, 5.56),
}


@dataclass(frozen=True)
class Circle:
    """Rings of crystals on a circle: crystal i of N at the angle 2 pi i / N + offset from the front to the left."""

    rings: int
    crystals: int
    radius: float
    ring_pitch: float
    offset: float

    def positions(self) -> np.ndarray:
        """Return the crystals (rings, crystals, 3) in mm."""
        angle = np.deg2rad(self.offset) + 2 * np.pi / self.crystals * np.arange(self.crystals)
        positions = np.empty((self.rings, self.crystals, 3))
        positions[..., 0], positions[..., 1] = self.radius * np.sin(angle), -self.radius * np.cos(angle)
        positions[..., 2] = (((self.rings - 1) / 2 - np.arange(self.rings)) * self.ring_pitch)[:, None]
        return positions

    @classmethod
    def nearest(cls, scanner: PETScanner) -> Circle:
        """Return the circle nearest to a scanner's crystals."""
        n, xy, z = scanner.n_crystals, scanner.crystals[0, :, :2], scanner.rings
        ahead = (-xy[:, 1] + 1j * xy[:, 0]) * np.exp(-2j * np.pi / n * np.arange(n))
        offset = round(float(np.rad2deg(np.angle(ahead.mean()))), 9) + 0.0
        pitch = float(z[0] - z[-1]) / (len(z) - 1) if len(z) > 1 else 2 * np.pi * scanner.radius / n
        return cls(scanner.n_rings, n, float(np.abs(ahead).mean()), pitch, offset)


def scanner_of(header: Header) -> tuple[PETScanner, str]:
    """Return the scanner and where it comes from: a name of the library's table, "header" or "caller"."""
    given = header.overrides.get("scanner")
    if isinstance(given, PETScanner):
        return given, "caller"
    if isinstance(given, str) and given != "header":
        return PETScanner.named(given), given
    if not (given is None or given == "header"):
        raise FormatError(f"{header.path}: scanner= is {short(given)}, expected a PETScanner or its name")
    header = replace(
        header, overrides={name: v for name, v in header.overrides.items() if name in ("radius", "crystal_map")}
    )
    known = stir_scanner(_names(header))
    offset = header.get("scanner", ["view offset (degrees)"], number, known.offset if known else 0.0)
    name = next((name for name, system in SYSTEMS.items() if _is(header, system)), None)
    if name is None or given == "header" or header.overrides.get("crystal_map") is not None:
        return _circular(header, offset), "header"
    return turned(PETScanner.named(name), offset), name


def system_name(header: Header) -> str:
    """Return the scanner's name in the header, "" where it has none."""
    known = [header.keys.get(key, "") for key in ("scanner type", "originating system")]
    return next((name for name in known if isinstance(name, str) and name), "")


def _is(header: Header, system: System) -> bool:
    """Whether the header's numbers, or its name where it gives no numbers, are those of a scanner of the table."""
    rings = header.get("scanner", ["number of rings"], whole, None)
    crystals = header.get("scanner", ["number of detectors per ring"], whole, None)
    named = bool(_names(header) & {"".join(name.lower().split()) for name in system.names})
    if rings is None or crystals is None:
        return named and rings in (None, system.rings) and crystals in (None, system.crystals)
    radius, pitch = _radius(header.as_written()), _ring_pitch(header)
    return bool(
        (rings, crystals) == (system.rings, system.crystals)
        and (radius is None or np.isclose(radius, system.inner_radius + system.depth, rtol=_SAME_SIZE))
        and (pitch is None or np.isclose(pitch, system.ring_pitch, rtol=_SAME_SIZE))
        and (named or radius is not None)
    )


def _names(header: Header) -> set[str]:
    """The scanner's names in the header, in lower case without spaces."""
    return {"".join(header.plain(key).split()) for key in ("originating system", "scanner type")} - {""}


def _radius(header: Header) -> float | None:
    """Where photons are detected, mm from the axis; None where the header does not say."""
    if header.overrides.get("radius") is not None:
        return header.get("radius", [], positive)
    diameter = header.get("scanner", ["inner ring diameter (cm)"], number, None)
    depth = header.get("scanner", ["average depth of interaction (cm)"], number, 0.0)
    return None if diameter is None or diameter <= 0 else 5 * diameter + 10 * max(depth, 0.0)


def _ring_pitch(header: Header) -> float | None:
    pitch = header.get("scanner", ["distance between rings (cm)"], number, None)
    return None if pitch is None or pitch <= 0 else 10 * pitch


def turned(scanner: PETScanner, degrees: float) -> PETScanner:
    """Return the scanner turned from the front to the left."""
    if degrees == 0:
        return scanner
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    crystals = scanner.crystals @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    return replace(scanner, crystals=crystals)


def _circular(header: Header, offset: float) -> PETScanner:
    """The scanner of a header's numbers; what is missing comes from STIR's table, where it has the name."""
    header = _completed(header)
    rings = header.get("scanner", ["number of rings"], count)
    crystals = header.get("scanner", ["number of detectors per ring"], count)
    if rings > _MOST_RINGS or rings * crystals > _MOST_CRYSTALS:
        raise FormatError(f"{header.path} announces {rings} rings of {crystals} crystals; damaged header?")
    places = _places(header, rings, crystals, offset)
    bins = header.get("scanner", ["maximum number of non-arc-corrected bins"], number, 0.0)
    bin_size = header.get("scanner", ["default bin size (cm)"], number, 0.0)
    resolution = header.get("scanner", ["energy resolution"], number, 0.0)
    name = system_name(header)
    return PETScanner(
        places,
        name="" if name.lower() in ("unknown", "userdefined") else name,
        n_radial=int(bins) if bins >= 1 else None,
        bin_size=10 * bin_size if bin_size > 0 else None,
        time_of_flight=_timing(header),
        energy_resolution=resolution if resolution > 0 else None,
    )


def _completed(header: Header) -> Header:
    known = stir_scanner(_names(header))
    if known is None:
        return header
    values = {
        "number of rings": known.rings,
        "number of detectors per ring": known.crystals,
        "inner ring diameter (cm)": known.inner_radius / 5,
        "average depth of interaction (cm)": known.depth / 10,
        "distance between rings (cm)": known.ring_pitch / 10,
        "maximum number of non-arc-corrected bins": known.bins,
        "default bin size (cm)": known.bin_size / 10,
    }
    missing = {key: repr(value) for key, value in values.items() if not header.keys.get(key)}
    if "inner ring diameter (cm)" not in missing:
        missing.pop("average depth of interaction (cm)", None)  # the depth belongs to the diameter
    return replace(header, keys={**header.keys, **missing})


def _places(header: Header, rings: int, crystals: int, offset: float) -> np.ndarray:
    """Where the crystals are, (rings, crystals, 3) in mm."""
    geometry = header.plain("scanner geometry (blocksoncylindrical/cylindrical/generic)") or "cylindrical"
    layers = header.get("scanner", ["number of detector layers"], whole, 1)
    if layers > 1:
        raise FormatError(
            f"{header.path}: a scanner with {layers} layers of crystals cannot be built from the header; "
            "pass scanner=PETScanner(...)"
        )
    if geometry == "generic" or header.overrides.get("crystal_map") is not None:
        return mapped_crystals(header, rings, crystals)
    if geometry not in ("cylindrical", "blocksoncylindrical"):
        raise FormatError(
            f"{header.path}: scanner geometry is {short(geometry)}, expected cylindrical, blocksoncylindrical or "
            "generic; pass scanner=PETScanner(...)"
        )
    if header.overrides.get("radius") is None:
        header.get("radius", ["inner ring diameter (cm)"], positive)
    radius = _radius(header) or 0.0
    if geometry == "blocksoncylindrical":
        return block_crystals(header, rings, crystals, radius, offset)
    header.get("scanner", ["distance between rings (cm)"], positive)
    return Circle(rings, crystals, radius, _ring_pitch(header) or 0.0, offset).positions()


def _timing(header: Header) -> TimeOfFlight | None:
    """The scanner's own TOF bins, None where the header does not give them."""
    keys = (
        ("maximum number of (unmashed) tof time bins", "number of tof time bins"),
        ("size of unmashed tof time bins (ps)", "size of timing bin (ps)"),
        ("tof timing resolution (ps)", "timing resolution (ps)"),
    )
    n, width, fwhm = (header.get("tof", names, number, 0.0) for names in keys)
    return TimeOfFlight.from_ps(int(n), width, fwhm) if min(n, width, fwhm) > 0 else None


def tof_of(header: Header, scanner: PETScanner, n: int | None) -> TimeOfFlight | None:
    """Return the TOF bins of data with `n` timing positions: the scanner's, joined by the mashing factor."""
    if n is None:
        return None
    given = header.overrides.get("tof")
    if given is not None:
        if not isinstance(given, TimeOfFlight) or given.n_bins != n:
            raise FormatError(f"{header.path}: tof= is {short(given)}, expected a TimeOfFlight of {n} bins")
        return given
    factor = header.as_written().get("tof", ["tof mashing factor", "%tof mashing factor"], count, 1)
    fine = _timing(header) or scanner.time_of_flight
    if fine is not None and fine.n_bins // factor == n:
        return TimeOfFlight(n, fine.bin_width * factor, fine.fwhm)
    if fine is not None and fine.n_bins == n:
        return fine
    if n == 1:
        return None
    has = f"{fine.n_bins} TOF bins, joined by {factor}" if fine else "no TOF bins"
    raise FormatError(f"{header.path}: the data have {n} TOF bins, the scanner has {has}; pass tof=TimeOfFlight(...)")
