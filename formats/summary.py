"""What `emrecon info` prints about a scan or an image: plain names and plain values."""

from __future__ import annotations

import numpy as np

from emrecon.projectors import (
    BedScan,
    DynamicScan,
    GatedScan,
    ImageGrid,
    PETSinogram,
    Scan,
    SPECTGeometry,
    WindowedScan,
)
from emrecon.projectors.core.arrays import Array


def scan_summary(scan: Scan) -> dict[str, object]:
    """Return the facts about a scan, ready to print; what is unknown is left out."""
    geometry, counts = scan.geometry, np.asarray(scan.counts)
    where = sinogram_facts(geometry) if isinstance(geometry, PETSinogram) else _camera_facts(geometry)
    facts = {
        "holds": "scan",
        "counts": f"{' x '.join(map(str, counts.shape))} {counts.dtype}",
        "total counts": float(counts.sum(dtype=float)),
        "largest count": float(counts.max()),
        **where,
        "background": _value(scan.background),
        "factors": _value(scan.factors),
        "duration (s)" if isinstance(geometry, PETSinogram) else "duration (s per view)": scan.duration,
        "radionuclide": scan.radionuclide,
        "energy window (keV)": scan.energy_window,
        "description": scan.description or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def series_summary(scan: DynamicScan | GatedScan) -> dict[str, object]:
    """Return the facts about a dynamic or gated scan, ready to print."""
    kind = "dynamic" if isinstance(scan, DynamicScan) else "gated"
    facts = scan_summary(Scan(scan.counts, scan.geometry, scan.background, scan.factors))
    low, high = scan.seconds.min(), scan.seconds.max()
    facts |= {
        "holds": f"{kind} scan",
        "parts": str(scan.frames) if isinstance(scan, DynamicScan) else f"{len(scan)} gates",
        "seconds per view": f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}",
        "radionuclide": scan.radionuclide,
        "energy window (keV)": scan.energy_window,
        "description": scan.description or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def beds_summary(scan: BedScan) -> dict[str, object]:
    """Return the facts about a scan of several beds, ready to print."""
    first = scan[0]
    facts: dict[str, object] = {"holds": f"SPECT scan of {len(scan)} beds"}
    if isinstance(first, WindowedScan):
        facts["energy windows (keV)"] = ", ".join(f"{w.name} ({w.lower:g} to {w.upper:g})" for w in first.windows)
    else:
        facts["energy window (keV)"] = first.energy_window
    facts["radionuclide"] = scan.radionuclide
    for i, (bed, camera) in enumerate(zip(scan, scan.geometries), 1):
        all_counts = bed.counts if isinstance(bed.counts, tuple) else (bed.counts,)
        total = sum(float(np.asarray(counts).sum(dtype=float)) for counts in all_counts)
        half = camera.n_bins[1] * camera.pixel_size[1] / 2
        time = "" if bed.duration is None else f", {bed.duration:g} s per view"
        start = "" if bed.study is None or bed.study.start is None else f", begun {bed.study.start:%H:%M:%S}"
        low, high = camera.axial_shift - half, camera.axial_shift + half
        facts[f"bed {i}"] = f"{camera}; z {low:.4g} to {high:.4g} mm; {total:.6g} counts{time}{start}"
    facts["description"] = first.description or None
    return {name: value for name, value in facts.items() if value is not None}


def _camera_facts(geometry: SPECTGeometry) -> dict[str, object]:
    return {
        "views": geometry.n_views,
        "bins": geometry.n_bins,
        "pixel size (mm)": geometry.pixel_size,
        "angles (degrees)": f"{geometry.angles[0]:g} to {geometry.angles[-1]:g}",
        "radius (mm)": _range(geometry.radius),
        "shift (mm)": _range(geometry.shift) if geometry.shift.any() else None,
        "axial shift (mm)": geometry.axial_shift or None,
        "heads": len(np.unique(geometry.head)),
    }


def sinogram_facts(sinogram: PETSinogram) -> dict[str, object]:
    """Return the facts about a PET sinogram's bins."""
    tof = sinogram.tof
    timing = None if tof is None else f"{tof.n_bins} of {tof.bin_width:.4g} mm, resolution {tof.fwhm:.4g} mm"
    return {
        "scanner": str(sinogram.scanner),
        "views": sinogram.n_views,
        "radial bins": sinogram.n_radial,
        "arc corrected to (mm)": None if sinogram.lines is None else sinogram.lines.bin_size,
        "planes": sinogram.n_planes,
        "span": sinogram.span if isinstance(sinogram.span, int) else " and ".join(map(str, sinogram.span)),
        "largest ring difference": sinogram.max_ring_difference,
        "views joined": sinogram.mashing if sinogram.mashing > 1 else None,
        "TOF bins": timing,
    }


def image_summary(image: np.ndarray, grid: ImageGrid) -> dict[str, object]:
    """Return the facts about an image, ready to print."""
    several = {"frames": int(np.prod(image.shape[:-3]))} if image.ndim > 3 else {}
    return {
        "holds": "image",
        **several,
        "values": f"{' x '.join(map(str, image.shape))} {image.dtype}",
        "voxel size (mm)": grid.voxel_size,
        "origin (mm, LPS)": grid.origin,
        "lowest value": float(image.min()),
        "largest value": float(image.max()),
        "sum": float(image.sum(dtype=float)),
    }


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _value(values: Array | float) -> str:
    array = np.asarray(values)
    return f"{array:g}" if array.ndim == 0 else f"{_range(array)}, {' x '.join(map(str, array.shape))} {array.dtype}"
