"""Files that hold a number for every bin of a scan: factors, randoms, scatter, the additive term of STIR and SIRF."""

from __future__ import annotations

import os

import numpy as np

from emrecon.projectors import PETSinogram, Scan, ScanSeries, SPECTGeometry
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.errors import FormatError

from .interfile import read_interfile_pet
from .registry import read_acquisition, read_scan

_SAME = 1e-3  # mm and degrees


def read_term(path: str | os.PathLike[str], scan: Scan | ScanSeries) -> np.ndarray:
    """Return the values of a file of projections or of a sinogram that has the bins of a scan (frames, gates).

    Args:
        path : Interfile header or emrecon HDF5 file; its counts are the values, which may be any numbers.
        scan : whose scanner, TOF bins or camera the file must have. For a dynamic or gated scan the file is HDF5 of as
            many frames or gates, or of one scan for all of them.

    Returns values in the order of the scan's counts, ([frames,] views, bins, rows) or ([frames,] views, radial, [TOF,]
    planes); of a file
    without TOF for a TOF scan (views, radial, 1, planes), which broadcasts. The expected counts of data as SIRF and
    PETRIC have them, prompts.hs with mult_factors.hs (m) and additive_term.hs (a), are m (A x + a)::

        m, a = (formats.read_term(name, scan) for name in ("mult_factors.hs", "additive_term.hs"))
        problem = recon.pet_problem(replace(scan, factors=m, background=m * a))

    Raises FileNotFoundError; FormatError, which names the file, where it cannot be read or its bins are others.
    """
    series = _series_in(path) if isinstance(scan, ScanSeries) else None
    if series is not None:
        return _of_series(path, series, scan)  # type: ignore[arg-type]  # a series, too
    if isinstance(scan.geometry, PETSinogram):
        return _of_sinogram(path, scan.geometry)
    found = _one_scan(path)
    if not isinstance(found.geometry, SPECTGeometry):
        raise FormatError(f"{path}: holds a PET sinogram, and the scan is of SPECT")
    _compare_cameras(path, found.geometry, scan.geometry)
    return _checked(path, np.asarray(to_numpy(found.counts)))


def _one_scan(path: str | os.PathLike[str]) -> Scan:
    found = read_scan(path)
    if not isinstance(found, Scan):
        raise FormatError(f"{path}: holds a {type(found).__name__}, and a term has one number for each bin of a scan")
    return found


def _series_in(path: str | os.PathLike[str]) -> ScanSeries | None:
    """The frames or gates of an HDF5 file, None for other files."""
    if not str(path).lower().endswith((".h5", ".hdf5")):
        return None
    found = read_acquisition(path)
    return found if isinstance(found, ScanSeries) else None


def _of_series(path: str | os.PathLike[str], found: ScanSeries, wanted: ScanSeries) -> np.ndarray:
    if len(found) != len(wanted):
        raise FormatError(f"{path}: holds {len(found)} frames or gates, and the scan has {len(wanted)}")
    values, there, here = np.asarray(to_numpy(found.counts)), found.geometry, wanted.geometry
    if isinstance(there, PETSinogram) and isinstance(here, PETSinogram):
        _compare_bins(path, there, here)
        values = values[..., None, :] if there.tof is None and here.tof is not None else values
    elif isinstance(there, SPECTGeometry) and isinstance(here, SPECTGeometry):
        _compare_cameras(path, there, here)
    else:
        raise FormatError(f"{path}: of SPECT and PET, the file holds one and the scan the other")
    return _checked(path, values)


def _of_sinogram(path: str | os.PathLike[str], wanted: PETSinogram) -> np.ndarray:
    if str(path).lower().endswith((".h5", ".hdf5")):
        other = _one_scan(path)
        if not isinstance(other.geometry, PETSinogram):
            raise FormatError(f"{path}: holds SPECT projections, and the scan is of PET")
        values, found = to_numpy(other.counts), other.geometry
    else:
        values, found, _ = read_interfile_pet(path, scanner=wanted.scanner, **_timing(path, wanted))
    _compare_bins(path, found, wanted)
    values = _checked(path, np.asarray(values))
    return values[..., None, :] if found.tof is None and wanted.tof is not None else values


def _compare_bins(path: str | os.PathLike[str], found: PETSinogram, wanted: PETSinogram) -> None:
    wrong = _differences(found, wanted)
    if found.tof is not None and (wanted.tof is None or found.tof.n_bins != wanted.tof.n_bins):
        wrong.append(f"{found.tof.n_bins} TOF bins, not {wanted.tof.n_bins if wanted.tof else 'none'}")
    if wrong:
        raise FormatError(f"{path}: its bins are not those of the scan: {', '.join(wrong)}")


def _differences(found: PETSinogram, wanted: PETSinogram) -> list[str]:
    """What tells the bins of two sinograms apart, TOF aside."""
    names = ("span", "max_ring_difference", "n_radial", "n_views", "lines")
    wrong = [
        f"{name.replace('n_views', 'views').replace('_', ' ')} {there}, not {here}"
        for name, there, here in ((name, getattr(found, name), getattr(wanted, name)) for name in names)
        if there != here
    ]
    there, here = found.scanner.crystals, wanted.scanner.crystals
    if there.shape != here.shape or not np.allclose(there, here, atol=_SAME):
        wrong.append("another scanner")
    return wrong


def _timing(path: str | os.PathLike[str], wanted: PETSinogram) -> dict[str, object]:
    """The scan's TOF bins for a file with as many timing positions, which its header may not describe."""
    from .interfile.header import load_header

    axis = load_header(path, {}, ()).keys.get("matrix axis label [5]")
    return {"tof": wanted.tof} if axis and wanted.tof is not None else {}


def _compare_cameras(path: str | os.PathLike[str], found: SPECTGeometry, wanted: SPECTGeometry) -> None:
    if found.shape != wanted.shape:
        raise FormatError(f"{path}: holds {found.shape} (views, bins, rows), and the scan has {wanted.shape}")
    turned = np.abs((found.angles - wanted.angles + 180) % 360 - 180).max()
    if turned > _SAME or not np.allclose(found.pixel_size, wanted.pixel_size, atol=_SAME):
        raise FormatError(
            f"{path}: its views or bins are not those of the scan: angles differ by up to {turned:.3g} degrees, bins "
            f"are {found.pixel_size} mm, not {wanted.pixel_size} mm"
        )


def _checked(path: str | os.PathLike[str], values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise FormatError(f"{path}: {int((~np.isfinite(values)).sum())} values are NaN or infinite")
    return values
