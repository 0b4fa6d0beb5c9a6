"""What tells two tracers of one scan apart, and which recipes can have a second one."""

from __future__ import annotations

import math

import numpy as np

from emrecon.projectors import isotope

from .tables import Recipe, SecondTable


def frame_weights(radionuclide: str, table: SecondTable) -> tuple[tuple[float, float], ...]:
    """Return the mean activity of both tracers in every frame over that at their injection, (frames, 2).

        w_fk = mean over frame f of 2^(-(t - t_k) / T_k),      0 before t_k

    The first tracer is there from the beginning, t_1 = 0; `delay` is t_2.
    """
    edges = np.concatenate([[0.0], np.cumsum(table.frames)])
    found = []
    for name, at in ((radionuclide, 0.0), (table.radionuclide, table.delay)):
        rate = math.log(2) / isotope(name).half_life
        since = np.maximum(edges - at, 0)
        found.append(np.diff(-np.expm1(-rate * since) / rate) / np.diff(edges))
    return tuple((float(a), float(b)) for a, b in zip(*found))


def require_two_tracers(recipe: Recipe) -> None:
    """Raise ValueError, in the words of the recipe's keys, for a recipe that cannot have a second tracer."""
    table, pet = recipe.second, recipe.pet
    if table is None:
        raise ValueError("two tracers need a table [second]")
    if pet is None or recipe.phantom.kind != "torso":
        raise ValueError('a second tracer is for PET and phantoms of kind "torso"')
    if recipe.counts.total is None or len(recipe.counts.levels) > 1:
        raise ValueError("a second tracer needs a total of counts, and one level")
    if pet.dead_time or recipe.reconstruction is not None:
        raise ValueError("a scan of two tracers has no dead time and no reconstruction")
    if (recipe.background.scatter, recipe.background.randoms) != ("exact", "exact"):
        raise ValueError("a scan of two tracers has exact backgrounds")
    known = {"counts", "expected", "background", "factors", "truth", "mu"}
    if other := sorted(set(recipe.outputs) - known):
        raise ValueError(f"a scan of two tracers has no output {other[0]!r}; choose from {', '.join(sorted(known))}")
    if not 0 < table.share[0] <= table.share[1] < 1:
        raise ValueError(f"share must run from above 0 to below 1, got {list(table.share)}")
    weights = np.asarray(frame_weights(pet.radionuclide, table))
    singular = np.linalg.svd(weights / np.linalg.norm(weights, axis=0).clip(min=1e-300), compute_uv=False)
    if len(weights) < 2 or not singular[-1] > 1e-3:
        raise ValueError(
            "frames do not tell the tracers apart: two frames at least, and other half-lives or a delay that is longer "
            "than the first frame"
        )
