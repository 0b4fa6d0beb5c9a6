"""Simulated samples of tasks, made when they are first asked for, and kept in files of a folder or in memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from scipy.ndimage import distance_transform_edt

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.files import atomic_path
from emrecon.sims import SEGMENTS, Ellipsoid, MarkedLesion, Phantom, Recipe, RecipeSource, Region, generator, item_seed

OUTPUTS = ("expected", "scatter", "randoms", "factors", "truth", "mu", "guide", "labels")
"""The fields of a sample."""

_FORMAT = 1  # of the files
_TOGETHER = {True: 25, False: 1}  # samples of a file: slices, volumes
_GAP, _WIDTH = 4.0, 8.0  # mm between a lesion and the ring around it, and the ring's width
_KEPT = 80  # files' contents in memory, in all
_kept: OrderedDict[tuple[str, str, int], dict[str, Any]] = OrderedDict()


@dataclass(frozen=True)
class Store:
    """The samples of a recipe, by part of the split and number in it.

    Args:
        recipe : what is simulated.
        folder : where samples are kept; None keeps them in memory only.
    """

    recipe: Recipe
    folder: Path | None = None

    @cached_property
    def source(self) -> RecipeSource:
        """The samples of the recipe, with the fields that tasks need."""
        own = self.recipe.model_copy(update={"outputs": self.outputs, "reconstruction": None})
        return RecipeSource(own)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The fields; without the guide where phantoms have none."""
        return OUTPUTS if self.recipe.phantom.has_guide else tuple(name for name in OUTPUTS if name != "guide")

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all that decides the samples, 12 characters."""
        about = {"format": _FORMAT, "recipe": self.source.describe()}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]

    def size(self, part: str) -> int:
        """Return how many samples a part has; raises ValueError for another part."""
        if part not in self.source.split:
            raise ValueError(f"unknown part {part!r}; choose from {', '.join(self.source.split)}")
        return self.source.split[part]

    def number(self, part: str, which: int) -> int:
        """Return the number of a sample among all of the recipe."""
        n, before = self.size(part), 0
        if not 0 <= which < n:
            raise ValueError(f"there is no sample {which} in {part!r}; it has {n}")
        for name, size in self.source.split.items():
            if name == part:
                break
            before += size
        return before + which

    def read(self, part: str, which: Sequence[int]) -> dict[str, Any]:
        """Return samples: arrays (len(which), ...) by field, and lists "lesions", "about" and "names" (of labels).

        Each list has an entry for every sample; that of "lesions" is a list of (`MarkedLesion`, mask,
        ring), bool (nx, ny, nz).
        """
        size = _TOGETHER[self.source.is_flat]
        found = [(self._file(part, i // size), i % size) for i in which if self.number(part, i) >= 0]
        out: dict[str, Any] = {name: np.stack([file[name][k] for file, k in found]) for name in self.outputs}
        out["lesions"] = [self._lesions(file, k) for file, k in found]
        out["names"] = [file["names"][k] for file, k in found]
        out["about"] = [file["about"][k] for file, k in found]
        return out

    def guides(self, part: str, which: Sequence[int], shift: float = 0.0) -> np.ndarray:
        """Return the guides of samples (len(which), nx, ny, nz), displaced by so many mm in a direction of each one's.

        They are painted anew, with the recipe's own displacement before.
        """
        return np.stack([self._guide(part, i, shift) for i in which])

    def _guide(self, part: str, which: int, shift: float) -> np.ndarray:
        number = self.number(part, which)
        name = f"guide-{shift:g}-{part}-{which:05d}.npy"
        path = None if self.folder is None else self.folder / self.digest / name
        if path is not None and path.exists():
            return np.asarray(_loaded(path)["guide"])
        grid, random = self.source.simulator.grid, generator(item_seed(self.recipe.seed, number, "shift of guides"))
        way = random.normal(size=3) * [1, 1, grid.shape[2] > 1]
        way *= shift / np.linalg.norm(way)
        x, y, z = (float(o - w) for o, w in zip(grid.origin, way))
        there = replace(grid, origin=(x, y, z))
        made = self.source.draw(number).guide
        if made is None:
            raise ValueError(f"phantoms of kind {self.recipe.phantom.kind!r} have no guide")
        image = np.asarray(made(there), np.float32)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                np.save(temporary, image)
        return image

    # ---- files -------------------------------------------------------------------------------------------------------

    def _file(self, part: str, k: int) -> dict[str, Any]:
        key = (self.digest, part, k)
        if key not in _kept:
            path = None if self.folder is None else self.folder / self.digest / f"{part}-{k:04d}.npz"
            if path is not None and path.exists():
                _kept[key] = _loaded(path)
            else:
                _kept[key] = self._made(part, k)
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_path(path) as temporary:
                        _save(temporary, _kept[key])
            while len(_kept) > (_KEPT if self.source.is_flat else 4):
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        return _kept[key]

    def _made(self, part: str, k: int) -> dict[str, Any]:
        size = _TOGETHER[self.source.is_flat]
        numbers = [self.number(part, i) for i in range(k * size, min((k + 1) * size, self.size(part)))]
        made = self.source.samples(numbers)
        grid, geometry = self.source.simulator.grid, self.source.simulator.geometry
        images = ("truth", "mu", "guide", "labels")
        file: dict[str, Any] = {
            name: made[name].reshape(-1, *(grid.shape if name in images else geometry.shape)) for name in self.outputs
        }
        marked, masks, rings, about, meanings = [], [], [], [], []
        for row, number in enumerate(numbers):
            drawn = self.source.draw(number)
            names, labels = drawn.phantom.names, file["labels"][row]
            body = np.isin(labels, [i for i, name in enumerate(names) if name not in NOT_AROUND])
            meanings.append(list(names))
            about.append({"number": number, **drawn.about})
            spheres = [lesion for lesion in drawn.lesions if lesion.diameter > 0]
            parts = [lesion for lesion in drawn.lesions if lesion.diameter == 0]
            for lesion, inside, ring in (*measured(spheres, grid, body), *_parts(parts, labels, names, grid)):
                marked.append({"row": row, **asdict(lesion)})
                masks.append(inside)
                rings.append(ring)
        empty = np.zeros((0, *grid.shape), bool)
        file |= {"masks": np.stack(masks) if masks else empty, "rings": np.stack(rings) if rings else empty}
        return file | {"marked": marked, "about": about, "names": meanings}

    def _lesions(self, file: dict[str, Any], row: int) -> list[tuple[MarkedLesion, np.ndarray, np.ndarray]]:
        found = []
        for entry, inside, ring in zip(file["marked"], file["masks"], file["rings"]):
            if entry["row"] == row:
                own = {name: value for name, value in entry.items() if name != "row"}
                found.append((MarkedLesion(**{**own, "centre": tuple(own["centre"])}), inside, ring))
        return found


NOT_AROUND = ("outside", "skin", "skull", "csf", "ventricles", "fat")
"""Labels that are no background of a lesion."""


def measured(
    lesions: Sequence[MarkedLesion], grid: ImageGrid, body: np.ndarray
) -> list[tuple[MarkedLesion, np.ndarray, np.ndarray]]:
    """Return the lesions that the grid shows, each with the voxels that it fills and those of the ring around it.

    A voxel is the lesion's where it fills more than half of it; of one that fills no voxel so far, the
    fullest is taken.
    The ring is what is 4 to 12 mm from the lesion's voxels, in the `body`, and 2 mm or more from all other lesions.
    """
    parts = [_fraction(lesion, grid) for lesion in lesions]
    inside = [part > min(0.5, 0.999 * float(part.max())) if part.max() > 0.1 else None for part in parts]
    depth = tuple(size if n > 1 else 1e6 for size, n in zip(grid.voxel_size, grid.shape))
    away = [None if own is None else distance_transform_edt(~own, depth) for own in inside]
    found = []
    for k, lesion in enumerate(lesions):
        own, distance = inside[k], away[k]
        if own is None or distance is None:
            continue
        ring = (distance > _GAP) & (distance <= _GAP + _WIDTH) & body
        for j, other in enumerate(away):
            if j != k and other is not None:
                ring &= other > _GAP / 2
        if ring.any():
            found.append((lesion, own, ring))
    return found


def _parts(
    defects: Sequence[MarkedLesion], labels: np.ndarray, names: Sequence[str], grid: ImageGrid
) -> list[tuple[MarkedLesion, np.ndarray, np.ndarray]]:
    """Defects of the myocardium by their labels; around each is what is left of the myocardium.

    Their diameter is that of a disc (in a volume a ball) with as many voxels.
    """
    healthy = np.isin(labels, [k for k, name in enumerate(names) if name in SEGMENTS])
    found = []
    for defect in defects:
        inside = labels == names.index(defect.name)
        if inside.any() and healthy.any():
            dx, dy, dz = grid.voxel_size
            n = int(inside.sum())
            flat = grid.shape[2] == 1
            diameter = (
                2 * math.sqrt(n * dx * dy / math.pi) if flat else 2 * (0.75 * n * dx * dy * dz / math.pi) ** (1 / 3)
            )
            found.append((replace(defect, diameter=diameter), inside, healthy))
    return found


def _fraction(lesion: MarkedLesion, grid: ImageGrid) -> np.ndarray:
    ball = Region("lesion", Ellipsoid(lesion.centre, lesion.diameter / 2), 1.0)
    return Phantom((ball,)).activity(grid)


def _save(path: Path, file: Mapping[str, Any]) -> None:
    arrays = {name: value for name, value in file.items() if isinstance(value, np.ndarray)}
    about = {name: value for name, value in file.items() if not isinstance(value, np.ndarray)}
    packed = {name: np.packbits(arrays.pop(name)) for name in ("masks", "rings")}
    shape = np.array(file["masks"].shape)
    with open(path, "wb") as stream:
        np.savez(stream, shape_of_masks=shape, text=np.array(json.dumps(about)), **arrays, **packed)  # type: ignore[arg-type]


def _loaded(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            read = np.load(stream, allow_pickle=False)
            if isinstance(read, np.ndarray):
                return {"guide": read}
            file: dict[str, Any] = {name: read[name] for name in read.files}
        shape = tuple(int(n) for n in file.pop("shape_of_masks"))
        count = int(np.prod(shape))
        for name in ("masks", "rings"):
            file[name] = np.unpackbits(file[name], count=count).reshape(shape).astype(bool)
        return file | dict(json.loads(str(file.pop("text"))))
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise FormatError(f"{path} is damaged ({error}); delete it, and it is made again") from None
