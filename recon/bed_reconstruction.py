"""From a scan of several beds to one image in one call: stitched, or all beds in one likelihood."""

from __future__ import annotations

from typing import Any

from emrecon.projectors import BedScan, ImageGrid
from emrecon.projectors.core.arrays import Array
from emrecon.projectors.core.progress import stage

from .engines.schedules import Order
from .methods import Prior, matching
from .problem import bed_problems, beds_problem, checked_grid, part_of, stitch
from .problem.problem import on_grid
from .reconstruction import reconstruct

COMBINED = ("stitched", "joint")
"""How beds become one image."""


def reconstruct_beds(
    scan: BedScan,
    method: str = "osem",
    iterations: int = 4,
    *,
    beds: str = "stitched",
    prior: str | Prior | None = None,
    guide: Array | None = None,
    order: str | Order | None = None,
    neighbours: int | None = None,
    kappa: bool = False,
    grid: ImageGrid | None = None,
    subsets: int = 8,
    **physics: Any,
) -> tuple[Array, ImageGrid]:
    """Return the image of all beds, and its grid::

        image, grid = reconstruct_beds(scan, mu=formats.read_mu("ct", ...), response=response)

    Args:
        method, iterations, prior, order, neighbours, kappa : as for `reconstruct`.
        beds : "stitched", each bed alone and the images added by sensitivity (`stitch`), or "joint", all of them in one
            likelihood (`beds_problem`).
        guide : (x, y, z) on the grid over all beds.
        grid : over all beds (default: `scan.default_grid()`).
        subsets : of the views of each bed.
        physics : mu, response, scatter and what else `bed_problems` takes.

    Raises ArgumentError for unknown names, and as `bed_problems` and `reconstruct` do.
    """
    how = {"prior": prior, "order": order, "neighbours": neighbours, "kappa": kappa}
    whole = checked_grid(grid, scan.default_grid(), subsets)
    shown = None if guide is None else on_grid("guide", guide, whole)
    if matching(beds, COMBINED, "beds") == "joint":
        problem = beds_problem(scan, grid=whole, subsets=subsets, **physics)
        return reconstruct(problem, method, iterations, guide=shown, **how), whole  # type: ignore[arg-type]
    problems, images = bed_problems(scan, grid=whole, subsets=subsets, **physics), []
    for i, problem in enumerate(problems, 1):
        own = None if shown is None else shown[..., part_of(problem.grid, whole)]
        with stage(f"bed {i} of {len(problems)}"):
            images.append(reconstruct(problem, method, iterations, guide=own, **how))  # type: ignore[arg-type]
    return stitch(images, problems)
