"""From images at several times to the dose: one call for the whole calculation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.physics import isotope

from .curve_fitting import MODELS
from .curves import TimeActivityFit, fit_time_activity, fit_voxels
from .dose import DoseMap, DoseMethod, absorbed_dose
from .organs import OrganTable, organ_doses

_LOG = logging.getLogger("emrecon")
REST = "rest of the image"


@dataclass(frozen=True, eq=False)
class Treatment:
    """The dose of a treatment, and what it was calculated from.

    Args:
        dose : the map.
        organs : the table, None without masks.
        fits : name of an organ -> the curve of its activity in MBq.
        notes : what was assumed, in sentences.
    """

    dose: DoseMap
    organs: OrganTable | None
    fits: Mapping[str, TimeActivityFit]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([str(self.dose), *([] if self.organs is None else [str(self.organs)]), *self.notes])


def treatment_dose(
    times: Sequence[float],
    images: Sequence[Array],
    grid: ImageGrid,
    nuclide: str,
    *,
    masks: Mapping[str, Array] | None = None,
    density: Array | None = None,
    model: str = "mono",
    fit: str = "voxel",
    method: str | DoseMethod = "kernel",
    injected: float | None = None,
    half_life: float | None = None,
    thresholds: Sequence[float] = (),
) -> Treatment:
    """Return the absorbed dose of images of one treatment at several times.

    Args:
        times : h after injection, of the middle of each scan; increasing.
        images : (x, y, z) Bq/mL at these times: not corrected for decay, and all on `grid`.
        nuclide : "Lu-177", "Y-90" or "I-131", any spelling.
        masks : name -> (x, y, z) booleans of organs and lesions.
        density : (x, y, z) g/mL.
        model : curve, as in `fit_time_activity`, or "physical" for decay alone, with which one image is enough.
        fit : "voxel" fits the curve in every voxel; "organ" fits that of each mask and of the rest, and shares out the
            integral in proportion to the voxels' activities, summed over the scans with the time between them as
            weights. Where masks overlap, the first one counts.
        method : as in `absorbed_dose`, or a function such as `simulated_dose` that makes the dose.
        injected : MBq, for coefficients.
        half_life : effective, h, of everything, where it is known.
        thresholds : Gy, for volumes above them.

    Negative voxels of the images count as they are in fits; integrals are not negative.

    Raises ValueError for too few images, other shapes, units that cannot be Bq/mL, and what the steps refuse.
    """
    stack = np.stack([_image(i, image, grid) for i, image in enumerate(images)]) if len(images) else np.zeros((0,))
    t = np.ravel(np.asarray(times, float))
    if t.size != len(stack) or not t.size:
        raise ValueError(f"there are {t.size} times and {len(stack)} images; give one time per image")
    if fit not in ("voxel", "organ"):
        raise ValueError(f"unknown fit {fit!r}; choose from voxel, organ")
    if fit == "organ" and not masks:
        raise ValueError("a fit of organs needs masks")
    own = _own_half_life(model, half_life, nuclide)
    inside = {name: _inside(name, mask, grid) for name, mask in (masks or {}).items()}
    fits, notes = _organ_fits(t, stack, grid, nuclide, inside, model, own)
    if fit == "organ":
        activity = _shared(t, stack, grid, nuclide, inside, fits, model, own, notes)
    else:
        activity = _by_voxel(t, stack, nuclide, model, own, notes)
    if isinstance(method, str):
        dose = absorbed_dose(activity, grid, nuclide, density=density, method=method)
    else:
        dose = method(activity, grid, nuclide, density=density)
    table = organ_doses(dose, inside, injected=injected, fits=fits, thresholds=thresholds) if inside else None
    if table is not None:
        table = OrganTable(table.organs, table.nuclide, table.injected, tuple(notes))
    return Treatment(dose, table, fits, tuple(notes))


def _own_half_life(model: str, half_life: float | None, nuclide: str) -> float | None:
    if model == "physical":
        if half_life is not None:
            raise ValueError('a known half-life and the model "physical" exclude each other')
        return isotope(nuclide).half_life / 3600
    return half_life


def _organ_fits(
    t: np.ndarray,
    stack: np.ndarray,
    grid: ImageGrid,
    nuclide: str,
    inside: Mapping[str, np.ndarray],
    model: str,
    own: float | None,
) -> tuple[dict[str, TimeActivityFit], list[str]]:
    """Curves of the activities of masks in MBq, and notes on them."""
    fits: dict[str, TimeActivityFit] = {}
    notes: list[str] = []
    for name, mask in inside.items():
        totals = stack[:, mask].sum(1) * grid.voxel_volume / 1e6
        try:
            fits[name] = _one_fit(t, totals, nuclide, model, own)
        except ValueError as error:
            raise ValueError(f"mask {name!r}: {error}") from error
        notes += [f"{name}: {note}" for note in fits[name].notes]
    return fits, notes


def _one_fit(t: np.ndarray, totals: np.ndarray, nuclide: str, model: str, own: float | None) -> TimeActivityFit:
    name = "mono" if own is not None else model
    return fit_time_activity(t, totals, nuclide, model=name, half_life=own)


def _by_voxel(
    t: np.ndarray, stack: np.ndarray, nuclide: str, model: str, own: float | None, notes: list[str]
) -> np.ndarray:
    """Time-integrated activity concentration in MBq h/mL, from a curve in every voxel."""
    if own is not None:
        return _known(t, stack, own)
    if model == "auto":
        raise ValueError(f"the model of voxels cannot be chosen automatically; choose from {', '.join(MODELS)}")
    found = fit_voxels(t, stack, nuclide, model=model)
    some = int((found.integral > 0).sum())
    if found.n_bounded:
        notes.append(f"{found.n_bounded} of {some} voxels wash out as slowly as physical decay, which bounds them")
    if found.n_fast:
        notes.append(f"{found.n_fast} of {some} voxels wash out faster than these scans can tell, and are bounded")
    return found.integral / 1e6


def _known(t: np.ndarray, stack: np.ndarray, half_life: float) -> np.ndarray:
    """MBq h/mL with one half-life everywhere."""
    curve = np.exp2(-t / half_life)
    start = np.tensordot(curve, stack, 1) / (curve @ curve)
    integral: np.ndarray = np.maximum(start, 0) * (half_life / np.log(2)) / 1e6
    return integral


def _shared(
    t: np.ndarray,
    stack: np.ndarray,
    grid: ImageGrid,
    nuclide: str,
    inside: Mapping[str, np.ndarray],
    fits: Mapping[str, TimeActivityFit],
    model: str,
    own: float | None,
    notes: list[str],
) -> np.ndarray:
    """MBq h/mL: integrals of organs and of the rest, in proportion to the voxels' activities."""
    weights = np.gradient(t) if t.size > 1 else np.ones(1)
    weighted = np.maximum(np.tensordot(weights, stack, 1), 0)
    free, activity, overlaps = np.ones(grid.shape, bool), np.zeros(grid.shape), []
    for name, mask in inside.items():
        part = mask & free
        if (mask & ~free).any():
            overlaps.append(name)
        _share_out(activity, weighted, part, fits[name].integral * _part_of(stack, mask, part))
        free &= ~mask
    if overlaps:
        notes.append(f"overlapping masks: the voxels of {', '.join(overlaps)} that others hold count for those")
    rest = stack[:, free].sum(1) * grid.voxel_volume / 1e6
    if free.any() and (rest > 0).all():
        curve = _one_fit(t, rest, nuclide, model, own)
        notes += [f"{REST}: {note}" for note in curve.notes]
        _share_out(activity, weighted, free, curve.integral)
    elif free.any():
        notes.append(f"{REST}: no activity in one scan or more, taken as 0")
    return activity / grid.voxel_volume


def _part_of(stack: np.ndarray, mask: np.ndarray, part: np.ndarray) -> float:
    whole = float(stack[:, mask].sum())
    return float(stack[:, part].sum()) / whole if whole > 0 else 0.0


def _share_out(activity: np.ndarray, weighted: np.ndarray, part: np.ndarray, integral: float) -> None:
    """Add an integral in MBq h to the voxels of a part, in proportion to their activities."""
    total = float(weighted[part].sum())
    if total > 0:
        activity[part] += integral * weighted[part] / total


def _image(i: int, image: Array, grid: ImageGrid) -> np.ndarray:
    values = np.asarray(to_numpy(image), float)
    if values.shape != grid.shape:
        raise ValueError(f"image {i + 1} of shape {values.shape} does not fit a grid of {grid.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"image {i + 1} holds NaN or infinite values")
    if not (values > 0).any():
        raise ValueError(f"image {i + 1} holds no activity")
    return values


def _inside(name: str, mask: Array, grid: ImageGrid) -> np.ndarray:
    inside = np.asarray(to_numpy(mask))
    if inside.shape != grid.shape:
        raise ValueError(f"mask {name!r} of shape {inside.shape} does not fit a grid of {grid.shape}")
    inside = inside.astype(bool)
    if not inside.any():
        raise ValueError(f"mask {name!r} is empty: is it outside of the image, or drawn on another grid?")
    return inside
