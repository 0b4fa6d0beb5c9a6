"""What changes between training and a patient: uptake, tracer, counts, voxels, resolution, maps, scatter, guides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emrecon.sims import Recipe


@dataclass(frozen=True)
class Change:
    """A family of scans that differs from a task's in one thing.

    Args:
        name : of plain letters, such as "guide-2mm".
        title : for people.
        keys : of the recipe, dotted, with their new values.
        level : the counts over the task's.
        scatter : the scatter that is given over the estimate.
        voxels : the edge of voxels over the task's; the field of view stays, to whole blocks of 8 voxels.
        lesions : False for phantoms without lesions.
        guide : "" for the task's; "aligned" for one without displacement; "other" for that of another subject; "none"
            for a constant image.
        shift : mm by which an aligned guide is displaced, in a direction of each scan's own.
    """

    name: str
    title: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    level: float = 1.0
    scatter: float = 1.0
    voxels: float = 1.0
    lesions: bool = True
    guide: str = ""
    shift: float = 0.0

    def of(self, recipe: Recipe) -> Recipe:
        """Return the changed recipe."""
        for key, value in self.keys.items():
            recipe = with_key(recipe, key.split("."), value)
        if self.voxels != 1:
            recipe = with_key(recipe, ["grid"], _with_voxels(recipe.grid, self.voxels))
        for key in () if self.lesions else _numbers_of_lesions(recipe):
            recipe = with_key(recipe, ["phantom", "lesions", key], (0, 0))
        return recipe

    def fits(self, recipe: Recipe) -> bool:
        """Whether a recipe has all that changes."""
        if self.guide and not recipe.phantom.has_guide:
            return False
        if not self.lesions and not _numbers_of_lesions(recipe):
            return False
        return all(_has(recipe, key.split(".")) for key in self.keys)


def _with_voxels(grid: Any, factor: float) -> Any:
    flat = grid.shape[2] == 1
    shape = tuple(1 if n == 1 else 8 * math.ceil(n / factor / 8) for n in grid.shape)
    size = tuple(d if flat and k == 2 else d * factor for k, d in enumerate(grid.voxel_size))
    return grid.model_copy(update={"shape": shape, "voxel_size": size})


def _numbers_of_lesions(recipe: Recipe) -> tuple[str, ...]:
    table = getattr(recipe.phantom, "lesions", None)
    known = ("both", "emission_only", "guide_only", "number")
    return tuple(key for key in known if key in getattr(type(table), "model_fields", ()))


def _has(table: Any, keys: list[str]) -> bool:
    if table is None or keys[0] not in type(table).model_fields:
        return False
    return len(keys) == 1 or _has(getattr(table, keys[0]), keys[1:])


def with_key(table: Any, keys: list[str], value: Any) -> Any:
    """Return a recipe or one of its tables with another value, which is checked as that of a file.

    Raises ValueError for a key that is not there, or a value that cannot be.
    """
    first, *rest = keys
    if table is None or first not in type(table).model_fields:
        known = "" if table is None else f"; choose from {', '.join(type(table).model_fields)}"
        raise ValueError(f"the recipe has no key {'.'.join(keys)!r}{known}")
    made = with_key(getattr(table, first), rest, value) if rest else value
    return type(table).model_validate({**dict(table), first: made})


CHANGES = {
    change.name: change
    for change in (
        Change("counts-quarter", "a quarter of the counts", level=0.25),
        Change("counts-four", "four times the counts", level=4.0),
        Change("ratio-low", "grey : white 1.5 : 1", {"phantom.ratio": (1.5, 1.5)}),
        Change("ratio-high", "grey : white 10 : 1", {"phantom.ratio": (10.0, 10.0)}),
        Change("tracer-fdg", "FDG", {"phantom.tracers": ("fdg",)}),
        Change("tracer-amyloid", "amyloid", {"phantom.tracers": ("amyloid",)}),
        Change("tracer-perfusion", "perfusion", {"phantom.tracers": ("perfusion",)}),
        Change("tracer-dat", "dopamine transporter", {"phantom.tracers": ("dat",)}),
        Change("voxels-small", "voxels 0.8 times as wide", voxels=0.8),
        Change("voxels-large", "voxels 1.25 times as wide", voxels=1.25),
        Change("resolution-worse", "true resolution 20 % worse than modelled", {"mismatch.response": 1.2}),
        Change("resolution-better", "true resolution 20 % better than modelled", {"mismatch.response": 0.8}),
        Change("mu-low", "attenuation map 5 % too low", {"mismatch.attenuation": 0.95}),
        Change("mu-high", "attenuation map 5 % too high", {"mismatch.attenuation": 1.05}),
        Change("scatter-low", "scatter estimate 20 % too low", scatter=0.8),
        Change("scatter-high", "scatter estimate 20 % too high", scatter=1.2),
        Change("guide-0mm", "guide without displacement", guide="aligned"),
        Change("guide-1mm", "guide displaced by 1 mm", guide="aligned", shift=1.0),
        Change("guide-2mm", "guide displaced by 2 mm", guide="aligned", shift=2.0),
        Change("guide-3mm", "guide displaced by 3 mm", guide="aligned", shift=3.0),
        Change("guide-other", "guide of another subject", guide="other"),
        Change("guide-none", "a constant guide", guide="none"),
        Change("no-lesions", "no lesions", lesions=False),
    )
}
"""Every change by its name; `Task.changes` says which a task has."""
