"""Tasks: families of simulated scans with splits, whose cases hold data, truth, guide, regions and lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emrecon.projectors import AcquisitionModel, ImageGrid, ListmodeProjector, PETSinogram, Scan
from emrecon.projectors.core.arrays import to_numpy
from emrecon.recon import ListmodeLikelihood, PoissonLikelihood
from emrecon.sims import (
    BackgroundEstimate,
    Expectation,
    Recipe,
    SPECTSimulator,
    item_seed,
    list_events,
    load_recipe,
)
from emrecon.sims.recipes import split_of

from .changes import CHANGES, Change, with_key
from .samples import Store

if TYPE_CHECKING:
    import torch

PARTS = ("train", "validation", "test")
_FLOOR = 1e-3  # the least background of a bin over the mean counts in a bin
_BACKGROUND = ("outside", "skin", "skull", "csf", "ventricles", "air", "cavity")

_GROUPS = {"all grey matter": (" grey",), "all striatum": ("caudate", "putamen"), "all kidneys": ("kidney",)}


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion of one scan of a case.

    Args:
        item : the scan's place in the case.
        kind : "hot" or "cold" by the truth's contrast; "none" for a decoy, which the guide alone shows.
        in_guide : whether the guide shows it.
        diameter : mm.
        contrast : (mean in it - mean in the ring) / mean in the ring, of the truth.
        mask, ring : the voxels that it fills, and those around it, bool (nx, ny, nz).
    """

    item: int
    kind: str
    in_guide: bool
    diameter: float
    contrast: float
    mask: torch.Tensor
    ring: torch.Tensor


@dataclass(frozen=True, eq=False)
class Case:
    """A batch of scans; images are float32 tensors (B, nx, ny, nz).

    Args:
        likelihood : of the counts, with the background that was estimated, as the task's recipe says.
        truth : kBq/mL.
        guide : without unit, as `unrolled.normalised_guide` has it; None where the task has none.
        mu : the attenuation map that is given, 1/cm.
        regions : name -> the region's voxels in each scan, bool (B, nx, ny, nz). Names without "all" do not overlap.
        lesions : those of the emission images.
        decoys : what only the guides show; their contrast in the truth is that of chance.
        about : of each scan its number in the recipe and what was drawn, such as the tracer.
        scan : of a batch of one, what was measured.
    """

    likelihood: PoissonLikelihood | ListmodeLikelihood
    truth: torch.Tensor
    guide: torch.Tensor | None
    mu: torch.Tensor
    regions: Mapping[str, torch.Tensor]
    lesions: tuple[Lesion, ...]
    decoys: tuple[Lesion, ...]
    about: tuple[Mapping[str, Any], ...]
    grid: ImageGrid
    scan: Scan | None = None

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """mm along x, y and z."""
        return self.grid.voxel_size

    def with_guide(self, guide: torch.Tensor | None) -> Case:
        """Return the same scans with other guides."""
        return replace(self, guide=guide)

    def listmode(self, seed: int = 0) -> Case:
        """Return the case of a PET scan event by event, its likelihood a `ListmodeLikelihood`.

        Args:
            seed : of the order and the crystal pairs of the events.

        Raises ValueError for a case of several scans, and of SPECT.
        """
        if self.scan is None or not isinstance(self.scan.geometry, PETSinogram):
            raise ValueError("list mode needs a case of one PET scan")
        model = self.likelihood.model
        return replace(self, likelihood=_of_events(self.scan, model, self.grid, seed))


@dataclass(frozen=True)
class Task:
    """A family of scans with splits, each sample simulated once and kept; noise and background are drawn per case.

    Args:
        name : of plain letters, such as "brain-pet".
        title : for people.
        recipe : the name of a recipe of the library, or a recipe.
        keys : of the recipe, dotted, that the task has otherwise.
        guides : fields that methods may see beside the data: ("guide",), ("mu",), or none.
        n_train, n_validation, n_test : how many samples of each part are used; none: all that the recipe has.
        listmode : whether cases are given event by event.
        work : a folder for samples; None keeps them in memory.

    Raises ValueError for numbers that the recipe does not have.
    """

    name: str
    title: str
    recipe: str | Recipe
    keys: Mapping[str, Any] = field(default_factory=dict)
    guides: tuple[str, ...] = ("guide",)
    n_train: int = -1
    n_validation: int = -1
    n_test: int = -1
    listmode: bool = False
    work: Path | None = None

    def __post_init__(self) -> None:
        for part in PARTS:
            n = getattr(self, f"n_{part}")
            if n == -1:
                object.__setattr__(self, f"n_{part}", self._most(part))
            elif n < 0 or (not isinstance(self.recipe, str) and n > self._most(part)):
                raise ValueError(f"task {self.name!r}: n_{part} must be from 0 to {self._most(part)}, got {n}")

    def __hash__(self) -> int:
        return hash((self.name, str(self.recipe), self.n_train, self.n_validation, self.n_test))

    @cached_property
    def base(self) -> Recipe:
        """The recipe, with the task's own keys."""
        recipe = load_recipe(self.recipe) if isinstance(self.recipe, str) else self.recipe
        for key, value in self.keys.items():
            recipe = with_key(recipe, key.split("."), value)
        return recipe

    @property
    def grid(self) -> ImageGrid:
        """The voxels of images."""
        return self.store().source.simulator.grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """(nx, ny, nz)."""
        return self.base.grid.shape

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """mm along x, y and z."""
        return self.base.grid.voxel_size

    @property
    def modality(self) -> str:
        """ "pet" or "spect"."""
        return "pet" if self.base.pet is not None else "spect"

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes that this family can have, of `CHANGES`."""
        return tuple(change for change in CHANGES.values() if change.fits(self.base))

    def describe(self) -> dict[str, Any]:
        """Return every parameter and seed of the simulation, for JSON."""
        return {
            "task": self.name,
            "guides": list(self.guides),
            "listmode": self.listmode,
            **self.store().source.describe(),
        }

    def size(self, part: str) -> int:
        """Return how many samples of a part are used; raises ValueError for another part."""
        if part not in PARTS:
            raise ValueError(f"unknown part {part!r}; choose from {', '.join(PARTS)}")
        return int(getattr(self, f"n_{part}"))

    def prepare(self, part: str, n: int | None = None) -> None:
        """Simulate the first n samples of a part, or all, where they are not there."""
        for which in range(self.size(part) if n is None else n):
            self.store().read(part, [which])

    def store(self, change: Change | None = None) -> Store:
        """Return the samples, with a change of the recipe."""
        recipe = self.base if change is None else change.of(self.base)
        return _store(self, recipe)

    def cases(
        self,
        part: str,
        which: Sequence[int] | slice,
        *,
        seed: int,
        level: float = 1.0,
        change: str | Change | None = None,
    ) -> Case:
        """Return some samples as a batch, with counts drawn by the seed.

        Args:
            part : "train", "validation" or "test".
            which : numbers in the part, or a slice of them.
            seed : of counts and background. Those of a sample depend on seed and sample alone, not on the batch.
            level : the time of the scan over the task's.
            change : a `Change`, or its name in `CHANGES`.

        Raises ValueError for unknown parts, changes and numbers, and for a change that the family cannot have.
        """
        numbers = range(self.size(part))[which] if isinstance(which, slice) else [int(i) for i in which]
        if not len(numbers) or not all(0 <= i < self.size(part) for i in numbers):
            raise ValueError(f"task {self.name!r} has {self.size(part)} samples in {part!r}; asked for {list(numbers)}")
        if self.listmode and len(numbers) > 1:
            raise ValueError(f"task {self.name!r} is event by event; ask for one scan at a time")
        changed = self._change(change)
        store = self.store(changed)
        samples = store.read(part, list(numbers))
        scale = 1.0 if changed is None else changed.scatter
        level = level if changed is None else level * changed.level
        expected = _expectation(samples, store.source.simulator).shorter(level)
        seeds = [item_seed(seed, about["number"], "case") for about in samples["about"]]
        counts = expected.measure(seeds)
        estimate = BackgroundEstimate(**dict(store.recipe.background))
        found = estimate(expected, counts, [item_seed(s, 0, "background") for s in seeds])
        background = np.float32(scale) * found.scatter + found.randoms
        case = _case(
            samples, store, expected, counts, background, self._guide(changed, store, part, list(numbers), samples)
        )
        return case.listmode(seed) if self.listmode else case

    def _change(self, change: str | Change | None) -> Change | None:
        if isinstance(change, str):
            if change not in CHANGES:
                raise ValueError(f"unknown change {change!r}; choose from {', '.join(CHANGES)}")
            change = CHANGES[change]
        if change is not None and not change.fits(self.base):
            names = ", ".join(known.name for known in self.changes)
            raise ValueError(f"task {self.name!r} has nothing that {change.name!r} changes; choose from {names}")
        return change

    def _guide(
        self, change: Change | None, store: Store, part: str, numbers: list[int], samples: Mapping[str, Any]
    ) -> np.ndarray | None:
        if not self.guides:
            return None
        kind, shift = ("", 0.0) if change is None else (change.guide, change.shift)
        if kind == "none":
            return np.ones(samples["truth"].shape, np.float32)
        if kind == "other":
            others = [(i + 1) % store.size(part) for i in numbers]
            return np.asarray(store.read(part, others)[self.guides[0]])
        if kind == "aligned":
            still = Change("still", "", {"phantom.guide.shift": 0.0, "phantom.guide.turn": 0.0})
            own = _store(self, still.of(store.recipe)) if still.fits(store.recipe) else store
            return own.guides(part, numbers, shift)
        return np.asarray(samples[self.guides[0]])

    def _most(self, part: str) -> int:
        return split_of(self.base, self.base.n).get(part, 0)


def _store(task: Task, recipe: Recipe) -> Store:
    return Store(recipe, None if task.work is None else Path(task.work) / "tasks" / task.name)


# ---- cases -----------------------------------------------------------------------------------------------------------


def _expectation(samples: Mapping[str, Any], simulator: Any) -> Expectation:
    scatter, randoms = samples["scatter"], samples["randoms"]
    trues = np.maximum(samples["expected"] - scatter - randoms, 0)
    return Expectation(trues, scatter, randoms, samples["factors"], samples["truth"], samples["mu"], simulator)


def _case(
    samples: Mapping[str, Any],
    store: Store,
    expected: Expectation,
    counts: np.ndarray,
    background: np.ndarray,
    guide: np.ndarray | None,
) -> Case:
    import torch

    from emrecon.unrolled import normalised_guide

    def tensor(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values, np.float32))

    simulator = store.source.simulator
    least = _FLOOR * counts.reshape(len(counts), -1).mean(1).reshape(-1, 1, 1, 1, *[1] * (counts.ndim - 4))
    factors, behind = tensor(expected.factors), tensor(np.maximum(background, least))
    model = AcquisitionModel(_projector(store, expected.mu), factors, behind)
    truth = tensor(samples["truth"])
    marked = [
        _lesion(item, lesion, mask, ring, truth[item])
        for item, lesions in enumerate(samples["lesions"])
        for lesion, mask, ring in lesions
    ]
    scan = None
    if len(counts) == 1:
        scan = Scan(
            counts[0],
            simulator.geometry,
            to_numpy(behind)[0],
            np.broadcast_to(expected.factors[0], counts[0].shape),
            simulator.duration,
            simulator.radionuclide,
            simulator.energy_window,
        )
    return Case(
        PoissonLikelihood(tensor(counts), model),
        truth,
        None if guide is None else normalised_guide(tensor(guide)),
        tensor(samples["mu"]),
        _regions(samples["labels"], samples["names"]),
        tuple(lesion for lesion in marked if lesion.kind != "none"),
        tuple(lesion for lesion in marked if lesion.kind == "none"),
        tuple(samples["about"]),
        simulator.grid,
        scan,
    )


_projectors: dict[str, Any] = {}


def _projector(store: Store, mu: np.ndarray) -> Any:
    """The projector of a batch of maps; the tables of a scanner are made once."""
    simulator, key = store.source.simulator, store.digest
    if key not in _projectors:
        if len(_projectors) > 8:
            _projectors.clear()
        _projectors[key] = simulator.projector(np.zeros(simulator.grid.shape, np.float32))
    empty = _projectors[key]
    return empty.with_attenuation(mu) if isinstance(simulator, SPECTSimulator) else empty


def _regions(labels: np.ndarray, names: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
    """The voxels of every name; a scan without it has none."""
    import torch

    found: dict[str, np.ndarray] = {}
    known = dict.fromkeys(name for own in names for name in own)
    for name in known:
        if name not in _BACKGROUND and "lesion" not in name:
            inside = np.stack(
                [
                    own == meaning.index(name) if name in meaning else np.zeros(own.shape, bool)
                    for own, meaning in zip(labels, names)
                ]
            )
            if inside.any():
                found[name] = inside
    for group, ends in _GROUPS.items():
        parts = [mask for name, mask in found.items() if name.endswith(ends)]
        if parts:
            found[group] = np.logical_or.reduce(parts)
    return {name: torch.as_tensor(mask) for name, mask in found.items()}


def _lesion(item: int, marked: Any, inside: np.ndarray, ring: np.ndarray, truth: torch.Tensor) -> Lesion:
    import torch

    mask, around = torch.as_tensor(inside), torch.as_tensor(ring)
    level = float(truth[around].mean())
    contrast = float(truth[mask].mean()) / level - 1 if level > 0 else 0.0
    kind = "none" if not marked.in_emission else "hot" if contrast > 0 else "cold"
    return Lesion(item, kind, marked.in_guide, marked.diameter, contrast, mask, around)


def _of_events(scan: Scan, model: AcquisitionModel, grid: ImageGrid, seed: int) -> ListmodeLikelihood:
    import torch

    sinogram: PETSinogram = scan.geometry  # type: ignore[assignment]  # checked
    events, _ = list_events(scan, seed)
    bins = tuple(sinogram.bins_of(events).T)
    factors, background = (torch.as_tensor(np.asarray(part)[bins]) for part in (scan.factors, scan.background))
    outer = getattr(model.projector, "outer", model.projector)  # on a wider grid where a blur comes before it
    lines = ListmodeProjector(getattr(outer, "grid", grid), sinogram.scanner, events, sinogram.tof)
    projector = lines @ model.projector.inner if hasattr(model.projector, "inner") else lines
    sensitivity = model.projector.T(torch.as_tensor(model.factors))[0]
    return ListmodeLikelihood(AcquisitionModel(projector, factors, background), sensitivity)


# ---- the tasks -------------------------------------------------------------------------------------------------------


def _slices(name: str, title: str, recipe: str) -> Task:
    return Task(name, title, recipe, n_train=1000, n_validation=50, n_test=50)


def _volumes(name: str, title: str, recipe: str) -> Task:
    return Task(name, title, recipe, n_train=8, n_validation=2, n_test=6)


def _real(name: str, title: str, recipe: str, source: str) -> Task:
    """Never for training: slices of a real head, which is read where it is installed."""
    phantom = {"kind": "anatomy", "source": source, "lobes": 0.3, "asymmetry": 0.2, "reduced": (0, 3), "texture": 0.1}
    phantom |= {"tracers": ("fdg", "amyloid") if recipe.endswith("pet") else ("perfusion", "dat")}
    keys = {"phantom": phantom, "seed": 41, "n": 36, "split": {"validation": 1 / 3, "test": 2 / 3}}
    return Task(name, title, recipe, keys, n_train=0, n_validation=12, n_test=24)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _slices("brain-pet", "Brain PET, FDG and amyloid, with MR", "evidence-brain-pet"),
        _slices("brain-spect", "Brain SPECT, perfusion and DaT, with MR", "evidence-brain-spect"),
        _slices("torso-pet", "Torso FDG PET, with CT or MR", "evidence-torso-pet"),
        _slices("torso-spect", "Lu-177 SPECT, with CT or MR", "evidence-torso-spect"),
        _slices("bone-spect", "Bone SPECT, with CT or MR", "evidence-bone-spect"),
        _slices("heart-spect", "Myocardial perfusion SPECT, with CT or MR", "evidence-heart-spect"),
        _slices("shapes", "Random shapes in PET, with a guide of a part of them", "evidence-shapes"),
        _volumes("volume-pet", "Brain PET with time of flight and MR, 64 x 64 x 64", "evidence-volume-pet"),
        _volumes("volume-spect", "Brain SPECT with MR, 64 x 64 x 64", "evidence-volume-spect"),
        _real("real-brain-pet", "Brain PET of a real head (Colin27)", "evidence-brain-pet", "colin27"),
        _real("real-brain-spect", "Brain SPECT of a real head (Colin27)", "evidence-brain-spect", "colin27"),
        _real("mni-brain-pet", "Brain PET of the average head MNI152", "evidence-brain-pet", "mni152"),
        _real("mni-brain-spect", "Brain SPECT of the average head MNI152", "evidence-brain-spect", "mni152"),
    )
}
"""Every task by its name."""


def task_named(name: str, work: Path | None = None) -> Task:
    """Return a task by its name in `TASKS`, with its samples kept in a folder.

    Raises ValueError for an unknown name.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return replace(TASKS[name], work=work)
