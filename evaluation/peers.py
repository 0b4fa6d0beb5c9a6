"""Projectors of other packages for the same thing: PyTomography's matrix, libparallelproj's lines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emrecon.projectors import PETProjector, SPECTProjector

PEER_ANGLE_OFFSET = 180.0  # degrees, see `peer_matrix`


def peer_matrix(
    projector: SPECTProjector,
    *,
    offset: float = PEER_ANGLE_OFFSET,
    sign: int = 1,
    min_sigmas: float = 3,
    device: str = "cpu",
) -> Any:
    """Return PyTomography's system matrix with the image axes, data axes and physics of `projector`.

    PyTomography's lengths are in cm, its attenuation in 1/cm. Its image axes are ours, and so are its data axes (view,
    bin, row). It turns the image by 270 degrees minus its angle b, so that the detector sees it along the first axis
    from the far end. In coordinates of the image that puts the detector at (-sin b, -cos b), and its bins run along
    (cos b, -sin b). Our detector at gantry angle a is at (sin a, cos a), and our bins run along (-cos a, sin a). Both
    agree for b = a + 180, and neither images nor data need a flip. `benchmarks/agreement_spect.py` tries
    the alternatives.

    offset, sign : b = sign * a + offset, for that trial.
    device : "cpu" or "cuda".
    min_sigmas : where PyTomography cuts its Gaussians off, in standard deviations (3 is its default).
    Raises ValueError for what PyTomography cannot model: pixels that are not voxels, shifts, images off the axis.
    """
    import pytomography
    from pytomography.metadata.SPECT import SPECTObjectMeta, SPECTProjMeta
    from pytomography.projectors.SPECT import SPECTSystemMatrix

    pytomography.set_device(device)
    grid, geometry = projector.grid, projector.geometry
    _require_common_ground(projector)
    size = tuple(d / 10 for d in grid.voxel_size)
    angles = (sign * geometry.angles + offset) % 360
    return SPECTSystemMatrix(
        obj2obj_transforms=_peer_transforms(projector, min_sigmas, device),
        proj2proj_transforms=[],
        object_meta=SPECTObjectMeta(list(size), list(grid.shape)),
        proj_meta=SPECTProjMeta(geometry.n_bins, [size[0], size[2]], angles, geometry.radius / 10),
    )


def _peer_transforms(projector: SPECTProjector, min_sigmas: float, device: str) -> list[Any]:
    import torch
    from pytomography.metadata.SPECT import SPECTPSFMeta
    from pytomography.transforms.SPECT import SPECTAttenuationTransform, SPECTPSFTransform

    transforms: list[Any] = []
    if projector.attenuation is not None:
        mu = torch.from_numpy(np.ascontiguousarray(projector.attenuation, np.float32)).to(device)
        transforms.append(SPECTAttenuationTransform(attenuation_map=mu))
    if projector.response is not None:
        response: Any = projector.response
        bins = projector.aperture * projector.geometry.pixel_size[0] / math.sqrt(12)

        def sigma(distance_cm: Any) -> Any:
            return np.hypot(response.sigma(10 * distance_cm), bins) / 10  # its bins sample the response, ours count

        meta = SPECTPSFMeta((), sigma, min_sigmas=min_sigmas)
        transforms.append(SPECTPSFTransform(meta))
    return transforms


def _require_common_ground(projector: SPECTProjector) -> None:
    grid, geometry = projector.grid, projector.geometry
    (nx, ny, nz), (dx, dy, dz) = grid.shape, grid.voxel_size
    same = nx == ny and geometry.n_bins == (nx, nz) and dx == dy and geometry.pixel_size == (dx, dz)
    centred = np.allclose(grid.centre, 0) and not geometry.shift.any() and geometry.axial_shift == 0
    if not (same and centred):
        raise ValueError(f"PyTomography needs pixels equal to voxels and everything centred; {grid}, {geometry}")


class Parallelproj:
    """libparallelproj's Joseph projector of the same image along the same lines, without time of flight.

    Raises ImportError where `parallelproj_core`, which comes from conda alone, is not installed.
    """

    def __init__(self, projector: PETProjector, image: np.ndarray, data: np.ndarray) -> None:
        import parallelproj_core  # type: ignore[import-not-found, unused-ignore]

        ends = projector.sinogram.line_ends()
        self._core = parallelproj_core
        self._ends = [np.ascontiguousarray(one, np.float32) for one in ends]
        self._place = [np.asarray(values, np.float32) for values in (projector.grid.origin, projector.grid.voxel_size)]
        self._image, self._data = np.ascontiguousarray(image, np.float32), np.ascontiguousarray(data, np.float32)

    def forward(self) -> np.ndarray:
        """Project the image."""
        out = np.zeros(self._data.shape, np.float32)
        self._core.joseph3d_fwd(*self._ends, self._image, *self._place, out)
        return out

    def adjoint(self) -> np.ndarray:
        """Project the data back."""
        image = np.zeros(self._image.shape, np.float32)
        self._core.joseph3d_back(*self._ends, image, *self._place, self._data)
        return image
