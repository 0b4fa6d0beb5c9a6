"""What the benchmarks share: the line about the machine, and PyTomography's matrix for one of our projectors."""

from __future__ import annotations

import json
import math
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors import SPECTProjector

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("emrecon", "numpy", "numba", "torch", "pytomography", "cupy-cuda12x", "cupy-cuda13x")
PEER_ANGLE_OFFSET = 180.0  # degrees, see `peer_matrix`


def machine() -> dict[str, Any]:
    """Return what a timing depends on: processor, cores, versions, load and date."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine_line(about: dict[str, Any]) -> str:
    """Return `machine()` as one line of text."""
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", *PACKAGES) if name in about)
    return f"{about['cpu']}, {about['cores']} cores; {versions}; {about['date']}"


def write_json(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Write values as indented JSON, making the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def peer_matrix(
    projector: SPECTProjector, *, offset: float = PEER_ANGLE_OFFSET, sign: int = 1, min_sigmas: float = 3
) -> Any:
    """Return PyTomography's system matrix on the CPU with the image axes, data axes and physics of `projector`.

    PyTomography's lengths are in cm, its attenuation in 1/cm. Its image axes are ours, and so are its data axes (view,
    bin, row). It turns the image by 270 degrees minus its angle b, so that the detector sees it along the first axis
    from the far end. In coordinates of the image that puts the detector at (-sin b, -cos b), and its bins run along
    (cos b, -sin b). Our detector at gantry angle a is at (sin a, cos a), and our bins run along (-cos a, sin a). Both
    agree for b = a + 180, and neither images nor data need a flip. `agreement_spect.py` tries the alternatives.

    offset, sign : b = sign * a + offset, for that trial.
    min_sigmas : where PyTomography cuts its Gaussians off, in standard deviations (3 is its default).
    Raises ValueError for what PyTomography cannot model: pixels that are not voxels, shifts, images off the axis.
    """
    import pytomography
    from pytomography.metadata.SPECT import SPECTObjectMeta, SPECTProjMeta
    from pytomography.projectors.SPECT import SPECTSystemMatrix

    pytomography.set_device("cpu")
    grid, geometry = projector.grid, projector.geometry
    _require_common_ground(projector)
    size = tuple(d / 10 for d in grid.voxel_size)
    angles = (sign * geometry.angles + offset) % 360
    return SPECTSystemMatrix(
        obj2obj_transforms=_peer_transforms(projector, min_sigmas),
        proj2proj_transforms=[],
        object_meta=SPECTObjectMeta(list(size), list(grid.shape)),
        proj_meta=SPECTProjMeta(geometry.n_bins, [size[0], size[2]], angles, geometry.radius / 10),
    )


def _peer_transforms(projector: SPECTProjector, min_sigmas: float) -> list[Any]:
    import torch
    from pytomography.metadata.SPECT import SPECTPSFMeta
    from pytomography.transforms.SPECT import SPECTAttenuationTransform, SPECTPSFTransform

    transforms: list[Any] = []
    if projector.attenuation is not None:
        mu = torch.from_numpy(np.ascontiguousarray(projector.attenuation, np.float32))
        transforms.append(SPECTAttenuationTransform(attenuation_map=mu))
    if projector.response is not None:
        response, bins = projector.response, projector.aperture * projector.geometry.pixel_size[0] / math.sqrt(12)

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


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
