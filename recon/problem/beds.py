"""Several bed positions: a problem for each bed on one lattice, images stitched, or all beds in one likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from emrecon.projectors import (
    AcquisitionModel,
    AttenuationMap,
    BedProjector,
    BedScan,
    ImageGrid,
    SPECTGeometry,
    bed_slices,
    grid_slices,
)
from emrecon.projectors.core.arrays import Array, array_namespace, like, to_numpy
from emrecon.projectors.core.resampling import resample
from emrecon.projectors.spect.collimation import Response
from emrecon.projectors.spect.direct_blur import reach_of
from emrecon.projectors.spect.plan import farthest

from ..likelihoods.poisson import PoissonLikelihood
from ..likelihoods.unexplained import say_once
from .attenuation import _outside
from .grids import checked_grid
from .problem import ArgumentError, Problem, on_grid, seen_start, start_like
from .spect import spect_problem

_SAME = 1e-4  # of a voxel
_WIDTH = 2.3548  # FWHM over sigma


def bed_problems(
    scan: BedScan,
    *,
    mu: Array | AttenuationMap | None = None,
    mu_grid: ImageGrid | None = None,
    response: Response | None = None,
    scatter: Any = None,
    grid: ImageGrid | None = None,
    subsets: int = 8,
    joint: bool = False,
    **options: Any,
) -> tuple[Problem, ...]:
    """Return the problem of each bed, on its own part of one grid over all beds.

    Args:
        scan : whose beds count time and decay as `BedScan.measured` says: images have the unit of the first bed's.
        mu : 1/cm on the whole grid, or on `mu_grid`, or what `formats.read_mu` makes of a CT.
        response : as for `spect_problem`.
        scatter : as for `spect_problem`, or a list with one for each bed.
        grid : over all beds (default: `scan.default_grid()`).
        subsets : of the views of every bed. All beds have the same number, the least that any of them can fill.
        joint : for `joint_problem`: a bed's grid then holds all slices that its response reaches, not only those of its
            rows.
        options : more of `spect_problem`.

    Notes of the first problem say where the beds leave a gap, and where they overlap by less than the response is wide.

    Raises TypeError for another scan, and as `spect_problem` does.
    """
    if not isinstance(scan, BedScan):
        raise TypeError(f"bed_problems takes a BedScan, got {type(scan).__name__}; use spect_problem?")
    whole = checked_grid(grid, scan.default_grid(), subsets)
    timed, notes = scan.timed()
    whole_mu, about_mu = _on_whole(mu, mu_grid, whole)
    margin = [bed_reach(response, whole, camera) if joint else 0.0 for camera in scan.geometries]
    slices = [bed_slices(whole, camera, m) for camera, m in zip(scan.geometries, margin)]
    each = scatter if isinstance(scatter, (list, tuple)) else [scatter] * len(scan)
    if len(each) != len(scan):
        raise ArgumentError("scatter", f"scatter has {len(each)} entries for {len(scan)} beds")

    def made(n: int) -> list[Problem]:
        return [
            spect_problem(
                bed,
                mu=_slices_of_map(whole_mu, mu, whole, own),
                response=response,
                scatter=more,
                grid=grid_slices(whole, own),
                subsets=n,
                **options,
            )
            for bed, own, more in zip(timed, slices, each)
        ]

    found = made(subsets)
    fewest = min(problem.n_subsets for problem in found)
    if any(problem.n_subsets > fewest for problem in found):
        found = made(fewest)
    return labelled(found, (*notes, *about_mu, *notes_on_overlap(scan, response)))


def labelled(problems: Sequence[Problem], notes: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Return problems of beds whose notes say which bed they are about; `notes` go to the first."""
    n = len(problems)
    common = [note for note in problems[0].notes if all(note in problem.notes for problem in problems)]
    own = [
        tuple(f"bed {i} of {n}: {note}" for note in problem.notes if note not in common)
        for i, problem in enumerate(problems, 1)
    ]
    own[0] = (*notes, *common, *own[0])
    return tuple(replace(problem, notes=notes) for problem, notes in zip(problems, own))


def notes_on_overlap(scan: BedScan, response: Response | None = None) -> tuple[str, ...]:
    """Return where beds leave a gap, in mm along z, and where they overlap by less than the response on the axis."""
    found = []
    for i, ((low, high), overlap) in enumerate(zip(pairwise(scan.extents), scan.overlaps), 1):
        width = _width(response, scan.geometries[i - 1])
        if overlap < -1e-3:
            found.append(
                f"beds {i} and {i + 1} leave a gap: nothing looks at z {low[1]:.4g} to {high[0]:.4g} mm, and the image "
                "is 0 there, or what blurs into the beds beside it"
            )
        elif overlap < width:
            found.append(
                f"beds {i} and {i + 1} overlap by {max(0.0, overlap):.3g} mm, less than the response is wide on the "
                f"axis ({width:.3g} mm): activity of the one blurs into the last rows of the other, and only all beds "
                "in one likelihood (joint) account for it"
            )
    return tuple(found)


def joint_problem(problems: Sequence[Problem], grid: ImageGrid) -> Problem:
    """Return one problem of all beds: the sum of their likelihoods over one image, for any engine::

        f(x) = sum over beds of f_b(x[slices of bed b])

    Args:
        problems : of `bed_problems(..., joint=True)`, each on a part of the grid.
        grid : over all beds, the one that they were made with.

    Activity where beds overlap is found from the counts of both, and what blurs from one bed into another is accounted
    for. Subset k holds the views k, k + n, ... of all beds in a row.

    Raises ValueError where grids do not fit, subsets differ, or beds have different bins.
    """
    first = [part_of(problem.grid, grid).start for problem in problems]
    if len({problem.n_subsets for problem in problems}) != 1:
        raise ValueError(f"joint_problem: beds have {[p.n_subsets for p in problems]} subsets; they must be the same")
    parts = tuple(
        _joined([problem.parts[k] for problem in problems], grid, first) for k in range(problems[0].n_subsets)
    )
    say_once(parts)
    counts = parts[0].data
    start = start_like(seen_start(parts), counts, 3)
    shown = "\n".join(f"bed {i} of {len(problems)}: {problem.summary}" for i, problem in enumerate(problems, 1))
    signature = f"all of {len(problems)} beds at once: {'; '.join(problem.signature for problem in problems)}"
    notes = tuple(note for problem in problems for note in problem.notes)
    summary = f"{len(problems)} beds in one likelihood, {grid}\n{shown}"
    mu = joined_mu(problems, grid)
    said = {"summary": summary, "signature": signature}
    return replace(problems[0], parts=parts, grid=grid, start=start, mu=mu, notes=notes, **said)


def beds_problem(scan: BedScan, *, grid: ImageGrid | None = None, subsets: int = 8, **options: Any) -> Problem:
    """Return the problem of all beds in one likelihood over one image, for `reconstruct` or any engine.

    Args:
        grid : over all beds (default: `scan.default_grid()`).
        options : those of `bed_problems`.
    """
    whole = checked_grid(grid, scan.default_grid(), subsets)
    return joint_problem(bed_problems(scan, grid=whole, subsets=subsets, joint=True, **options), whole)


def stitch(images: Sequence[Array], problems: Sequence[Problem]) -> tuple[Array, ImageGrid]:
    """Return one image of those of several beds, and its grid::

        x = sum_b w_b x_b / sum_b w_b,      w_b = s_b r_b(z)

    s_b is the sensitivity A'1 of a bed in each voxel, with its attenuation, time, decay and all other factors: how many
    counts a unit of activity gives there. r_b rises as sin^2(pi/2 min(1, d / L)) with the distance d of a slice from
    the end of the bed's grid, over the length L of the overlap with the next bed, and is 1 where no other bed is: the
    last slices of a bed, which know least about what lies beyond them, give way smoothly.

    Args:
        images : (..., x, y, z_b) of each bed.
        problems : of `bed_problems`, in the same order.

    Voxels that no bed sees are 0.

    Raises ValueError where grids are not parts of one lattice, or images do not fit them.
    """
    whole = joined_grid([problem.grid for problem in problems])
    slices = [part_of(problem.grid, whole) for problem in problems]
    xp, batch = array_namespace(images[0]), tuple(images[0].shape[:-3])
    total, weight = (
        xp.zeros((*shape, *whole.shape), dtype=images[0].dtype, device=images[0].device) for shape in (batch, ())
    )
    for b, (image, problem, own) in enumerate(zip(images, problems, slices, strict=True)):
        if tuple(image.shape) != (*batch, *problem.grid.shape):
            raise ValueError(
                f"stitch: the image of bed {b + 1} has shape {tuple(image.shape)}, not {problem.grid.shape}"
            )
        w = like(_sensitivity(problem) * _roll_off(b, slices).astype(np.float32), image)
        total[..., own] += w * image
        weight[..., own] += w
    seen = weight > 0
    return xp.where(seen, total / xp.where(seen, weight, xp.ones_like(weight)), xp.zeros_like(total)), whole


def joined_mu(problems: Sequence[Problem], grid: ImageGrid) -> np.ndarray | None:
    """Return the attenuation map of several beds on a grid over all of them, None without maps; 0 where no bed is."""
    whole = np.zeros(grid.shape, np.float32)
    for problem in problems:
        if problem.mu is None:
            return None
        whole[..., part_of(problem.grid, grid)] = to_numpy(problem.mu)
    return whole


def joined_grid(grids: Sequence[ImageGrid]) -> ImageGrid:
    """Return the grid over several that are parts of one lattice along z; ValueError where they are not."""
    first = min(grids, key=lambda grid: grid.origin[2])
    size = first.voxel_size[2]
    ends = []
    for grid in grids:
        steps = (grid.origin[2] - first.origin[2]) / size
        same = np.allclose(grid.voxel_size, first.voxel_size, rtol=1e-6) and grid.shape[:2] == first.shape[:2]
        if not same or not np.allclose(grid.origin[:2], first.origin[:2]) or abs(steps - round(steps)) > _SAME:
            raise ValueError(f"the grids of beds must be parts of one lattice along z, got {first} and {grid}")
        ends.append(round(steps) + grid.shape[2])
    return ImageGrid((*first.shape[:2], max(ends)), first.voxel_size, first.origin)


def part_of(grid: ImageGrid, whole: ImageGrid) -> slice:
    """Return which slices of the whole a grid is; ValueError where it is no part of it."""
    start = round((grid.origin[2] - whole.origin[2]) / whole.voxel_size[2])
    expected = grid_slices(whole, slice(start, start + grid.shape[2])) if start >= 0 else whole
    if expected.shape != grid.shape or not np.allclose(expected.affine, grid.affine, atol=_SAME * whole.voxel_size[2]):
        raise ValueError(f"a bed's grid is no part of the grid over all beds: {grid} of {whole}")
    return slice(start, start + grid.shape[2])


def _roll_off(bed: int, slices: Sequence[slice]) -> np.ndarray:
    """r of the slices of a bed, (z,)."""
    own = slices[bed]
    middle, weights = np.arange(own.start, own.stop) + 0.5, np.ones(own.stop - own.start)
    for other in (other for i, other in enumerate(slices) if i != bed):
        shared = min(own.stop, other.stop) - max(own.start, other.start)
        if shared <= 0:
            continue
        ends = [own.start] if other.start < own.start else [own.stop] if other.start > own.start else []
        for end in ends:
            weights = np.minimum(weights, np.sin(np.pi / 2 * np.minimum(1, np.abs(middle - end) / shared)) ** 2)
    return weights


def _sensitivity(problem: Problem) -> np.ndarray:
    total: np.ndarray = sum(np.asarray(to_numpy(part.sensitivity), np.float32) for part in problem.parts)  # type: ignore[assignment]
    return total


def _joined(parts: Sequence[Any], grid: ImageGrid, first: Sequence[int]) -> PoissonLikelihood:
    """The likelihood of the views of one subset of all beds."""
    for part in parts:
        if not isinstance(part, PoissonLikelihood) or np.size(to_numpy(part.model.scale)) > 1 or part.data.ndim != 3:
            raise ValueError("joint_problem takes problems of one scan for each bed, such as `bed_problems` makes")
    models = [part.model for part in parts]
    xp = array_namespace(parts[0].data)
    projector = BedProjector(grid.shape, [model.projector for model in models], first)
    data = xp.concat([part.data for part in parts], axis=0)
    values = [_stacked([getattr(m, name) for m in models], models) for name in ("factors", "background")]
    return PoissonLikelihood(data, AcquisitionModel(projector, *values))


def _stacked(values: Sequence[Array | float], models: Sequence[AcquisitionModel]) -> Array | float:
    """Factors or backgrounds of all beds, one bed after another, as small as they broadcast."""
    if all(isinstance(value, (int, float)) and value == values[0] for value in values):
        return values[0]
    arrays = [np.asarray(to_numpy(value)) for value in values]
    arrays = [array.reshape((1,) * (3 - array.ndim) + array.shape) for array in arrays]
    rest = np.broadcast_shapes(*(array.shape[1:] for array in arrays))
    return np.concatenate(
        [np.broadcast_to(a, (m.projector.out_shape[0], *rest)) for a, m in zip(arrays, models)], dtype=np.float32
    )


def _on_whole(
    mu: Array | AttenuationMap | None, own_grid: ImageGrid | None, whole: ImageGrid
) -> tuple[Array | None, tuple[str, ...]]:
    """A map on the grid over all beds, and what it leaves out."""
    if isinstance(mu, AttenuationMap):
        if own_grid is not None:
            raise ArgumentError("mu_grid", "mu is an AttenuationMap, which has its own grid; leave mu_grid out")
        own_grid, mu = mu.grid, mu.values
    if mu is None:
        if own_grid is not None:
            raise ArgumentError("mu_grid", "mu_grid is given, but mu is not")
        return None, ()
    if own_grid is None:
        return on_grid("mu", mu, whole), ()
    missing = _outside(own_grid, whole)
    try:
        return resample(mu, own_grid, whole), (missing,) if missing else ()
    except ValueError as error:
        raise ArgumentError("mu", str(error)) from error


def _slices_of_map(
    on_whole: Array | None, given: Array | AttenuationMap | None, whole: ImageGrid, own: slice
) -> Array | AttenuationMap | None:
    """The slices of a map that a bed sees, with what its maker told about it."""
    if on_whole is None:
        return None
    part = on_whole[..., own]
    if not isinstance(given, AttenuationMap):
        return part
    return replace(given, values=np.asarray(to_numpy(part)), grid=grid_slices(whole, own))


def bed_reach(response: Response | None, grid: ImageGrid, camera: SPECTGeometry) -> float:
    """Return how far beyond its rows a bed sees, mm along z."""
    pixel = camera.pixel_size[1] + grid.voxel_size[2]
    if response is None:
        return pixel
    return pixel + float(np.max(reach_of(response, np.linspace(0, farthest(grid, camera), 64))[1]))


def _width(response: Response | None, camera: SPECTGeometry) -> float:
    """The FWHM of the response on the axis in mm, as far as it is known; at least one row."""
    sigma = getattr(response, "sigma", None)
    return max(camera.pixel_size[1], 0.0 if sigma is None else _WIDTH * float(np.max(sigma(camera.radius.max()))))
