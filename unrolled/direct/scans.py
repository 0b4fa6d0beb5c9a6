"""What a direct network must know of a scan: where its lines are, its resolution, its image; and what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emrecon.projectors import ImageGrid

ScanDescription = Mapping[str, Any]
"""Numbers and lists alone, so that a card of weights can hold it; see `described`."""

_LENGTH, _WIDTH, _ANGLE = 0.02, 0.15, 1.0  # relative, relative, degrees: below, a network does not see the difference
_NAMES = {
    "modality": "the data are",
    "views": "views",
    "bins": "bins in a view",
    "rows": "rows of bins",
    "tof_bins": "TOF bins",
    "first_angle": "the first view is at (degrees)",
    "extent": "degrees covered",
    "bin_size": "mm of a bin",
    "row_size": "mm of a row",
    "radius": "mm of radius",
    "fwhm": "mm FWHM at the centre",
    "attenuation": "attenuation in the projector",
    "shape": "voxels",
    "voxel_size": "mm of a voxel",
}


def described(projector: Any) -> dict[str, Any]:
    """Return what a network that has learned its geometry from data depends on, of any projector of the library::

        modality, views, bins, rows, tof_bins    "SPECT" or "PET", and the shape of the data
        axes                 (views, 2): a point x, y lies at axes . (x, y) along the bins of a view, mm
        positions            (bins,): where the bins of a view are, mm
        first_angle, extent  of the axes, degrees; extent has the sign of the rotation
        bin_size, row_size, radius, fwhm         mm; radius (least, most); fwhm of a source at the centre
        attenuation          whether the projector holds a map
        shape, voxel_size, origin                of the image

    Raises TypeError for a projector whose lines are not known.
    """
    for attribute, describe in (("geometry", _of_camera), ("sinogram", _of_sinogram)):
        found = having(projector, attribute)
        if found is not None:
            return {**describe(found, projector), **_of_image(image_grid(projector))}
    raise TypeError(f"a direct network must know where the lines of a scan are, and {projector!r} does not say")


def differences(trained: ScanDescription, here: ScanDescription, besides: Sequence[str] = ()) -> list[str]:
    """Return what a scan has that the training had not, a few words each; empty where a network may be used.

    Args:
        besides : names that may differ.

    Lengths may differ by 2 %, the resolution by 15 %, angles by a degree.
    """
    found = []
    for name, said in _NAMES.items():
        there, now = trained.get(name), here.get(name)
        if name not in besides and not _alike(name, there, now):
            found.append(f"{said}: {_words(there)} in training, {_words(now)} here")
    return found


def of_slices(scan: ScanDescription) -> dict[str, Any]:
    """Return the description without what a network of slices does not depend on."""
    kept = {name: value for name, value in scan.items() if name not in ("rows", "row_size")}
    return kept | {name: list(scan[name])[:2] for name in ("shape", "voxel_size")}


def is_half_turn(scan: ScanDescription) -> bool:
    """Whether the views go on, mirrored, after half a turn, as those of PET and of parallel beams do."""
    return bool(scan["modality"] != "SPECT" and math.isclose(abs(scan["extent"]), 180, abs_tol=_ANGLE))


def is_turn(scan: ScanDescription) -> bool:
    """Whether the last view is followed by the first: a whole turn."""
    return math.isclose(abs(scan["extent"]), 360, abs_tol=_ANGLE)


def image_grid(projector: Any) -> ImageGrid:
    """Return the grid of the images of a projector, also of one that gives them room at the sides for its blur.

    Raises TypeError where it does not say.
    """
    found = having(projector, "grid")
    if found is None:
        raise TypeError(f"{projector!r} does not say where its voxels are")
    grid: ImageGrid = found.grid
    shape = tuple(int(n) for n in projector.in_shape)
    margin = [n - m for n, m in zip(grid.shape, shape)]
    if not any(margin):
        return grid
    if len(shape) != 3 or any(n < 0 or n % 2 for n in margin):
        raise TypeError(f"{projector!r} does not say where its voxels are")
    origin = tuple(o + n / 2 * d for o, n, d in zip(grid.origin, margin, grid.voxel_size))
    return ImageGrid((shape[0], shape[1], shape[2]), grid.voxel_size, (origin[0], origin[1], origin[2]))


def _of_camera(projector: Any, whole: Any) -> dict[str, Any]:
    camera = projector.geometry
    directions = getattr(camera, "directions", None)
    if directions is None:
        raise TypeError(f"a direct network must know where the lines of a scan are, and {camera!r} does not say")
    axes = np.asarray(directions[1])
    bins, _ = camera.bin_centres()
    radius = np.asarray(camera.radius)
    response = getattr(projector, "response", None)
    sigma = 0.0 if response is None or not hasattr(response, "sigma") else float(response.sigma(radius.mean()))
    return {
        "modality": "SPECT",
        "views": int(camera.n_views),
        "bins": int(camera.n_bins[0]),
        "rows": int(camera.n_bins[1]),
        "tof_bins": 0,
        "axes": _listed(axes),
        "positions": _listed(bins[0]),
        **_turn(axes),
        "bin_size": _rounded(camera.pixel_size[0]),
        "row_size": _rounded(camera.pixel_size[1]),
        "radius": [_rounded(radius.min()), _rounded(radius.max())],
        "fwhm": _rounded(math.sqrt(8 * math.log(2)) * sigma),
        "attenuation": getattr(projector, "attenuation", None) is not None,
    }


def _of_sinogram(projector: Any, whole: Any) -> dict[str, Any]:
    sinogram = projector.sinogram
    angle = np.deg2rad(sinogram.angles)
    axes = np.stack([np.cos(angle), np.sin(angle)], 1)
    positions = sinogram.radial_positions[0]
    middle = len(positions) // 2
    blur = having(whole, "fwhm")
    fwhm = 0.0 if blur is None else float(np.ravel(np.asarray(blur.fwhm, float))[0])
    return {
        "modality": "PET",
        "views": int(sinogram.n_views),
        "bins": int(sinogram.n_radial),
        "rows": int(sinogram.n_planes),
        "tof_bins": 0 if sinogram.tof is None else int(sinogram.tof.n_bins),
        "axes": _listed(axes),
        "positions": _listed(positions),
        **_turn(axes),
        "bin_size": _rounded(np.abs(np.diff(positions[max(middle - 2, 0) : middle + 3])).mean()),
        "row_size": _rounded(_pitch(sinogram.plane_ends)),
        "radius": [_rounded(sinogram.scanner.radius)] * 2,
        "fwhm": _rounded(fwhm),
        "attenuation": False,
    }


def _of_image(grid: Any) -> dict[str, Any]:
    sizes = {"voxel_size": grid.voxel_size, "origin": grid.origin}
    return {"shape": [int(n) for n in grid.shape], **{name: _listed(np.asarray(v)) for name, v in sizes.items()}}


def _turn(axes: np.ndarray) -> dict[str, float]:
    """Where the axes begin and how far they turn, the last step included."""
    angle = np.unwrap(np.arctan2(axes[:, 1], axes[:, 0]))
    covered = (angle[-1] - angle[0]) * len(angle) / max(len(angle) - 1, 1)
    return {"first_angle": _rounded(np.rad2deg(angle[0])), "extent": _rounded(np.rad2deg(covered))}


def _pitch(ends: np.ndarray) -> float:
    """The distance of neighbouring planes, mm; 0 for one plane."""
    heights = np.unique(np.round(ends.mean(1), 3))
    return float(np.diff(heights).min()) if len(heights) > 1 else 0.0


def having(operator: Any, attribute: str) -> Any:
    """Return the operator, or the one that it is composed of, that has an attribute; None where none has."""
    if getattr(operator, attribute, None) is not None:
        return operator
    inner = (getattr(operator, name, None) for name in ("outer", "inner"))
    return next((found for part in inner if part is not None and (found := having(part, attribute)) is not None), None)


def _alike(name: str, there: Any, here: Any) -> bool:
    if isinstance(there, str) or isinstance(here, str) or there is None or here is None:
        return bool(there == here)
    a, b = np.atleast_1d(np.asarray(there, float)), np.atleast_1d(np.asarray(here, float))
    if a.shape != b.shape:
        return False
    if name in ("bin_size", "row_size", "radius", "voxel_size"):
        return bool(np.allclose(a, b, rtol=_LENGTH))
    if name == "fwhm":
        return bool(np.allclose(a, b, rtol=_WIDTH, atol=0.1))
    if name == "first_angle":
        return bool(np.all(np.abs((a - b + 180) % 360 - 180) <= _ANGLE))
    return bool(np.allclose(a, b, rtol=0, atol=_ANGLE if name == "extent" else 0))


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " x ".join(_words(item) for item in value)
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _rounded(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _listed(values: np.ndarray) -> list[Any]:
    return [_listed(row) if np.ndim(row) else _rounded(row) for row in values]
