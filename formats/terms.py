"""Files that hold a number for every bin of a scan: factors, randoms, scatter, the additive term of STIR and SIRF."""

from __future__ import annotations

import os

import numpy as np

from emrecon.projectors import PETSinogram, Scan, SPECTGeometry
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.errors import FormatError

from .interfile import read_interfile_pet
from .registry import read_scan

_SAME = 1e-3  # mm and degrees


def read_term(path: str | os.PathLike[str], scan: Scan) -> np.ndarray:
    """Return the values of a file of projections or of a sinogram that has the bins of a scan.

    Args:
        path : Interfile header or emrecon HDF5 file; its counts are the values, which may be any numbers.
        scan : whose scanner, TOF bins or camera the file must have.

    Returns values in the order of the scan's counts, (views, bins, rows) or (views, radial, [TOF,] planes); of a file
    without TOF for a TOF scan (views, radial, 1, planes), which broadcasts. The expected counts of data as SIRF and
    PETRIC have them, prompts.hs with mult_factors.hs (m) and additive_term.hs (a), are m (A x + a)::

        m, a = (formats.read_term(name, scan) for name in ("mult_factors.hs", "additive_term.hs"))
        problem = recon.pet_problem(replace(scan, factors=m, background=m * a))

    Raises FileNotFoundError; FormatError, which names the file, where it cannot be read or its bins are others.
    """
    if isinstance(scan.geometry, PETSinogram):
        return _of_sinogram(path, scan, scan.geometry)
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


def _of_sinogram(path: str | os.PathLike[str], scan: Scan, wanted: PETSinogram) -> np.ndarray:
    if str(path).lower().endswith((".h5", ".hdf5")):
        other = _one_scan(path)
        if not isinstance(other.geometry, PETSinogram):
            raise FormatError(f"{path}: holds SPECT projections, and the scan is of PET")
        values, found = to_numpy(other.counts), other.geometry
    else:
        values, found, _ = read_interfile_pet(path, scanner=wanted.scanner, **_timing(path, wanted))
    wrong = _differences(found, wanted)
    if found.tof is not None and (wanted.tof is None or found.tof.n_bins != wanted.tof.n_bins):
        wrong.append(f"{found.tof.n_bins} TOF bins, not {wanted.tof.n_bins if wanted.tof else 'none'}")
    if wrong:
        raise FormatError(f"{path}: its bins are not those of the scan: {', '.join(wrong)}")
    values = _checked(path, np.asarray(values))
    return values[..., None, :] if found.tof is None and wanted.tof is not None else values


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
