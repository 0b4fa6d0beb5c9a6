"""Phantoms from files: label volumes with a table of tissues, and images of activity, on any grid."""

from __future__ import annotations

import csv
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from scipy.sparse import csr_array

from emrecon.formats import FormatError, read_image
from emrecon.projectors import ImageGrid, linear_attenuation, materials
from emrecon.projectors.core.archives import read_arrays
from emrecon.projectors.core.errors import naming, require_file
from emrecon.projectors.core.texts import read_text

_COLUMNS = ("label", "name", "activity", "material", "density", "mu")
_XCAT = ("air", "body", "air cavity", "brain", "bronchi", "liver", "lungs", "skeleton")
_XCAT_ACTIVITY = {"body": 1.0, "brain": 8.0, "liver": 2.5, "lungs": 0.5, "skeleton": 1.0}
_BRAINWEB = (
    "background", "csf", "grey", "white", "fat", "muscle", "skin", "skull", "vessels", "connective", "dura", "marrow",
)  # fmt: skip
_BRAINWEB_ACTIVITY = {"background": 0.0, "csf": 0.0, "grey": 4.0, "white": 1.0, "skin": 0.5}
_SKELETON_DENSITY = 1.4  # g/mL of bones with their marrow; cortical bone alone has 1.92


@dataclass(frozen=True)
class Tissue:
    """What a label stands for.

    Args:
        name : labels of one name are one region.
        activity : per mL, in any unit.
        material : one of `projectors.materials()`, with a density in g/mL (default: the material's own), or mu : linear
            attenuation in 1/cm, the same at every energy; with neither, nothing is attenuated (air).

    Raises ValueError for negative or non-finite values, an unknown material, material and mu together, and a density
    without a material.
    """

    name: str
    activity: float = 0.0
    material: str | None = None
    density: float | None = None
    mu: float | None = None

    def __post_init__(self) -> None:
        for what in ("activity", "density", "mu"):
            value = getattr(self, what)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"tissue {self.name!r}: {what} must be finite and >= 0, got {value}")
        if self.material is not None and self.mu is not None:
            raise ValueError(f"tissue {self.name!r} has a material and a mu; give one of them")
        if self.material is None and self.density is not None:
            raise ValueError(f"tissue {self.name!r} has a density but no material; name one, or give mu alone")
        if self.material is not None and self.material not in materials():
            raise ValueError(
                f"tissue {self.name!r}: unknown material {self.material!r}; choose from {', '.join(materials())}"
            )

    def attenuation(self, energy_kev: float) -> float:
        """Return the linear attenuation coefficient in 1/cm."""
        if self.material is None:
            return self.mu or 0.0
        return linear_attenuation(self.material, energy_kev, self.density)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A volume of labels as a phantom, with the methods of `Phantom` that need no line.

    Args:
        voxels : (nx, ny, nz) labels on `grid`, whole numbers; kept as they are, or as int32 where a reader gave floats.
        table : label -> `Tissue`.  Outside of the grid there is no activity and no attenuation.

    A voxel of another grid gets the mean over its volume, sum over tissues of fraction x value, so sums over the field
    of view are kept exactly; a finer grid repeats the voxels. A grid of one slice shows the plane through its middle,
    as `Phantom` does.

    Raises ValueError where labels do not fit the grid, are not whole numbers, or are not in the table.
    """

    voxels: np.ndarray
    grid: ImageGrid
    table: Mapping[int, Tissue]

    def __post_init__(self) -> None:
        labels = np.asarray(self.voxels)
        if labels.shape != self.grid.shape:
            raise ValueError(f"labels of shape {labels.shape} do not fit a grid of {self.grid.shape}")
        if labels.dtype.kind not in "buif":
            raise ValueError(f"labels must be whole numbers, got {labels.dtype}")
        if labels.dtype.kind in "bf":
            labels = _whole(labels)
        present = np.unique(labels)
        missing = [int(label) for label in present if int(label) not in self.table]
        if missing:
            raise ValueError(
                f"the table has no row for the labels {', '.join(map(str, missing[:10]))}; "
                f"it has {', '.join(map(str, sorted(self.table)))}"
            )
        object.__setattr__(self, "voxels", labels)
        object.__setattr__(self, "table", dict(self.table))

    @property
    def names(self) -> tuple[str, ...]:
        """What `labels` means: "outside", then the names of the tissues in the order of the table."""
        return ("outside", *dict.fromkeys(tissue.name for tissue in self.table.values() if tissue.name != "outside"))

    def activity(self, grid: ImageGrid) -> np.ndarray:
        """Return the mean activity concentration of every voxel, float32 (nx, ny, nz)."""
        return self._mean(lambda tissue: tissue.activity, grid)

    def attenuation(self, grid: ImageGrid, energy_kev: float) -> np.ndarray:
        """Return the mean linear attenuation coefficient of every voxel in 1/cm, float32 (nx, ny, nz).

        Raises ValueError for an energy outside the tables (1 to 20000 keV).
        """
        return self._mean(lambda tissue: tissue.attenuation(energy_kev), grid)

    def fraction(self, grid: ImageGrid, name: str) -> np.ndarray:
        """Return the part of every voxel that the tissues of one name fill, 0 to 1, float32 (nx, ny, nz).

        Raises ValueError for a name that no tissue has.
        """
        if name not in self.names[1:]:
            raise ValueError(f"unknown tissue {name!r}; choose from {', '.join(self.names[1:])}")
        return self._mean(lambda tissue: float(tissue.name == name), grid)

    def labels(self, grid: ImageGrid) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the tissue at every voxel's centre, int16 (nx, ny, nz), and `names`, so that names[label] is there."""
        number = {name: float(i) for i, name in enumerate(self.names)}
        image = self._looked_up(lambda tissue: number[tissue.name]).astype(np.int16)
        for axis in range(3):
            centres = grid.origin[axis] + grid.voxel_size[axis] * np.arange(grid.shape[axis])
            index = _voxel_at(centres, self.grid, axis)
            shape = [-1 if k == axis else 1 for k in range(3)]
            image = np.where(index.reshape(shape) >= 0, np.take(image, index, axis), np.int16(0))
        return image, self.names

    def moved(self, offset: tuple[float, float, float]) -> LabelMap:
        """Return the map shifted by `offset` mm (its voxels stay along the axes: there is no turn)."""
        x, y, z = (float(o + d) for o, d in zip(self.grid.origin, offset))
        return replace(self, grid=ImageGrid(self.grid.shape, self.grid.voxel_size, (x, y, z)))

    def _looked_up(self, value: Callable[[Tissue], float]) -> np.ndarray:
        present, index = np.unique(self.voxels, return_inverse=True)
        values = np.array([value(self.table[int(label)]) for label in present])
        return values[index.reshape(self.grid.shape)]

    def _mean(self, value: Callable[[Tissue], float], grid: ImageGrid) -> np.ndarray:
        return average_onto(self._looked_up(value), self.grid, grid)


@dataclass(frozen=True, eq=False)
class VoxelPhantom:
    """An image of activity with the tissues that attenuate it, each on its own grid.

    Args:
        image : (nx, ny, nz) activity per mL on `grid`, >= 0.
        tissues : whose attenuation (not their activity) counts.

    Raises ValueError where the image does not fit its grid or is negative or not finite.
    """

    image: np.ndarray
    grid: ImageGrid
    tissues: LabelMap

    def __post_init__(self) -> None:
        if self.image.shape != self.grid.shape:
            raise ValueError(f"an image of shape {self.image.shape} does not fit a grid of {self.grid.shape}")
        if not np.all(np.isfinite(self.image)) or np.any(self.image < 0):
            raise ValueError("activity must be finite and >= 0; are these labels or a difference of images?")

    def activity(self, grid: ImageGrid) -> np.ndarray:
        """Return the mean activity concentration of every voxel, float32 (nx, ny, nz)."""
        return average_onto(self.image, self.grid, grid)

    def attenuation(self, grid: ImageGrid, energy_kev: float) -> np.ndarray:
        """Return the mean linear attenuation coefficient of every voxel in 1/cm, float32 (nx, ny, nz)."""
        return self.tissues.attenuation(grid, energy_kev)


def average_onto(image: np.ndarray, grid: ImageGrid, target: ImageGrid) -> np.ndarray:
    """Return the mean of an image of piecewise constant voxels over the voxels of another grid, zero outside of it::

        mean_j = sum over i of x_i volume(i and j) / volume(j),  an axis at a time

    Args:
        image : (nx, ny, nz) on `grid`.

    Returns float32 of the target's shape. What lies inside both keeps its sum x volume exactly. A target of one slice
    shows the plane through its middle (the upper voxel where it runs between two).

    Raises ValueError where the image does not fit its grid.
    """
    if image.shape != grid.shape:
        raise ValueError(f"average_onto: an image of shape {image.shape} does not fit a grid of {grid.shape}")
    # the axis that shrinks most first
    for axis in sorted(range(3), key=lambda axis: target.shape[axis] / grid.shape[axis]):
        image = _along(_overlap(grid, target, axis), image, axis)
    return np.ascontiguousarray(image, np.float32)


def read_label_map(
    path: str | os.PathLike[str],
    table: Mapping[int, Tissue],
    *,
    shape: tuple[int, int, int] | None = None,
    voxel_size: tuple[float, float, float] | float | None = None,
    dtype: str = "uint8",
    orientation: str = "LPS",
) -> LabelMap:
    """Return the labels of a file as a phantom.

    Args:
        path : `.npz` with "labels" [z][y][x] and "voxel_mm" (z, y, x); NIfTI, Interfile or HDF5 as `formats.read_image`
            reads them (they say where they are); anything else is raw, x fastest, and needs `shape` and `voxel_size`.
        table : label -> `Tissue`: `read_tissues(file)`, `xcat_labels()`, `brainweb_labels()` or your own.
        shape : (nx, ny, nz) voxels and voxel_size : mm, both as stored.
        dtype : of raw files, NumPy's name, such as "uint8" or "<u2".
        orientation : of npz and raw files, where the stored x, y and z run to, of R or L, A or P, I or S; they are
            turned to LPS and centred on the origin. The 4 mm XCAT volumes are "LPS", BrainWeb is "RAS".

    Raises FileNotFoundError; FormatError naming the file for a size that is not that of the shape, damaged or hostile
    archives, labels that are not whole numbers, and labels without a row.
    """
    path = require_file(path)
    with naming(path):
        if path.suffix.lower() == ".npz":
            labels, size = _npz(path)
        elif shape is not None and voxel_size is not None:
            labels, size = _raw(path, shape, dtype), tuple(np.broadcast_to(np.asarray(voxel_size, float), 3))
        elif path.name.lower().endswith((".nii", ".nii.gz", ".hv", ".h33", ".h5", ".hdf5")):
            return LabelMap(*read_image(path), table)
        else:
            raise FormatError(f"{path}: a raw file does not say its shape; pass shape and voxel_size")
        labels, size = _to_lps(labels, size, orientation)
        return LabelMap(labels, ImageGrid(labels.shape, size), table)


def read_tissues(path: str | os.PathLike[str]) -> dict[int, Tissue]:
    """Return the table of tissues in a file.

    A `.csv` file has the columns label, name, activity, material, density and mu, of which label and name are needed
    and empty cells mean "not given"; a `.toml` file has the same as keys of [[tissue]] tables.

    Raises FileNotFoundError; FormatError naming file and line for unknown or missing keys, wrong types, labels that
    occur twice and whatever `Tissue` refuses.
    """
    path = require_file(path)
    if path.suffix.lower() not in (".csv", ".toml"):
        raise FormatError(f"{path}: a table of tissues is a .csv or .toml file")
    table: dict[int, Tissue] = {}
    from_csv = path.suffix.lower() == ".csv"
    for line, row in _csv_rows(path) if from_csv else _toml_rows(path):
        try:
            label, tissue = _tissue({key: _number(key, str(text)) for key, text in row.items()} if from_csv else row)
        except (ValueError, TypeError) as error:
            raise FormatError(f"{path}, line {line}: {str(error)[:500]}") from error
        if label in table:
            raise FormatError(f"{path}, line {line}: label {label} already has a row ({table[label].name!r})")
        table[label] = tissue
    if not table:
        raise FormatError(f"{path} has no tissues; a .toml file needs [[tissue]] tables, a .csv file rows")
    return table


def xcat_labels(activity: Mapping[str, float] | None = None) -> dict[int, Tissue]:
    """Return the table of the label volumes made from the XCAT mesh phantom of a median man.

    0 air, 1 body, 2 air cavity, 3 brain, 4 bronchi, 5 liver, 6 lungs, 7 skeleton. There are no heart and no kidneys.

    Args:
        activity : per mL by name, instead of ours, which is like FDG: body 1, brain 8, liver 2.5, lungs 0.5, skeleton
            1.

    Soft tissue attenuates as muscle, lungs as lung of 0.26 g/mL, the skeleton as cortical bone thinned to 1.4 g/mL.

    Raises ValueError for a name that is not among these.
    """
    material: dict[str, tuple[str | None, float | None]] = {
        "air": (None, None), "air cavity": (None, None), "bronchi": (None, None), "lungs": ("lung", None),
        "skeleton": ("bone-cortical", _SKELETON_DENSITY),
    }  # fmt: skip
    values = _activities(_XCAT, _XCAT_ACTIVITY, activity)
    rows = ((name, *material.get(name, ("muscle", None))) for name in _XCAT)
    return {label: Tissue(name, values[name], kind, density) for label, (name, kind, density) in enumerate(rows)}


def brainweb_labels(activity: Mapping[str, float] | None = None) -> dict[int, Tissue]:
    """Return the table of BrainWeb's discrete anatomical models.

    0 background, 1 csf, 2 grey, 3 white, 4 fat, 5 muscle, 6 skin, 7 skull, 8 vessels, 9 connective (around fat),
    10 dura, 11 marrow.

    Args:
        activity : per mL by name, instead of grey 4, white 1, skin 0.5, CSF 0 and 0.25 elsewhere (FDG).

    Soft tissue attenuates as muscle, fat and marrow as fat, CSF as water and the skull as cortical bone.

    Raises ValueError for a name that is not among these.

    Source: activities as in the training sets of Mehranian & Reader 2021 (FBSEM).
    """
    material = {"background": None, "csf": "water", "fat": "adipose", "marrow": "adipose", "skull": "bone-cortical"}
    values = _activities(_BRAINWEB, dict.fromkeys(_BRAINWEB, 0.25) | _BRAINWEB_ACTIVITY, activity)
    return {label: Tissue(name, values[name], material.get(name, "muscle")) for label, name in enumerate(_BRAINWEB)}


def _activities(
    names: tuple[str, ...], ours: Mapping[str, float], theirs: Mapping[str, float] | None
) -> dict[str, float]:
    unknown = [name for name in theirs or () if name not in names]
    if unknown:
        raise ValueError(f"unknown tissue {unknown[0]!r}; choose from {', '.join(names)}")
    return dict.fromkeys(names, 0.0) | dict(ours) | dict(theirs or {})


# ---- averaging -------------------------------------------------------------------------------------------------------


def _overlap(grid: ImageGrid, target: ImageGrid, axis: int) -> csr_array:
    """Return the matrix (target voxels, voxels) of the part of each target voxel that a voxel fills along an axis."""
    n, size = grid.shape[axis], grid.voxel_size[axis]
    n_target, target_size = target.shape[axis], target.voxel_size[axis]
    if axis == 2 and n_target == 1:
        index = _voxel_at(np.array([target.origin[2]]), grid, 2)
        inside = index >= 0
        return csr_array((np.ones(inside.sum()), (np.nonzero(inside)[0], index[inside])), shape=(1, n))
    # edges of the target's voxels in voxels of the source
    edges = (target.origin[axis] - grid.origin[axis] + (np.arange(n_target + 1) - 0.5) * target_size) / size + 0.5
    edges = np.where(np.abs(edges - np.round(edges)) < 1e-9 * (1 + np.abs(edges)), np.round(edges), edges)
    low, high = np.clip(edges[:-1], 0, n), np.clip(edges[1:], 0, n)
    first, last = np.floor(low).astype(int), np.ceil(high).astype(int)
    row = np.repeat(np.arange(n_target), last - first)
    column = np.arange(row.size) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[row]
    length = np.minimum(high[row], column + 1) - np.maximum(low[row], column)
    return csr_array((length * size / target_size, (row, column)), shape=(n_target, n))


def _along(matrix: csr_array, image: np.ndarray, axis: int) -> np.ndarray:
    first = np.moveaxis(image, axis, 0)
    product = matrix @ first.reshape(first.shape[0], -1)
    return np.moveaxis(product.reshape(-1, *first.shape[1:]), 0, axis)


def _voxel_at(positions: np.ndarray, grid: ImageGrid, axis: int) -> np.ndarray:
    """Return the voxel that holds each position along an axis, -1 outside."""
    index = np.floor((positions - grid.origin[axis]) / grid.voxel_size[axis] + 0.5 + 1e-9).astype(int)
    return np.where((index >= 0) & (index < grid.shape[axis]), index, -1)


# ---- files -----------------------------------------------------------------------------------------------------------


def _whole(labels: np.ndarray) -> np.ndarray:
    if not np.all(np.isfinite(labels)) or np.any(labels != np.round(labels)):
        raise ValueError("labels must be whole numbers; was the volume interpolated, or is it an image?")
    if np.abs(labels).max(initial=0) >= 2**31:
        raise ValueError(f"labels must be below 2**31, got {np.abs(labels).max():.3g}")
    return labels.astype(np.int32)


def _npz(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return labels (x, y, z) and voxel size of an archive, after a look at the size it announces."""
    found = read_arrays(path, ("labels", "voxel_mm"))
    labels, size = found["labels"], found["voxel_mm"]
    if labels.ndim != 3 or labels.dtype.kind not in "buif":
        raise FormatError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}; expected whole numbers [z][y][x]"
        )
    if size.shape != (3,) or size.dtype.kind not in "iuf":
        raise FormatError(f"{path}: voxel_mm is {size.dtype} of shape {size.shape}; expected three numbers")
    return labels.transpose(2, 1, 0), tuple(size.astype(float)[::-1])


def _raw(path: Path, shape: tuple[int, int, int], dtype: str) -> np.ndarray:
    """Return labels (x, y, z) of a file that holds nothing else, x fastest."""
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        raise FormatError(f"{path}: labels are whole numbers, got dtype={dtype!r}")
    grid = ImageGrid(shape, 1.0)  # type: ignore[arg-type]  # checks the shape
    expected, found = math.prod(grid.shape) * kind.itemsize, path.stat().st_size
    if found != expected:
        sizes = " x ".join(map(str, grid.shape))
        raise FormatError(f"{path} has {found} bytes; {sizes} voxels of {kind.name} have {expected}: another shape?")
    return np.fromfile(path, kind).reshape(grid.shape[::-1]).transpose(2, 1, 0)


def _to_lps(
    labels: np.ndarray, size: tuple[float, ...], orientation: str
) -> tuple[np.ndarray, tuple[float, float, float]]:
    from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

    pairs = [frozenset("LR"), frozenset("AP"), frozenset("IS")]
    found = [pair for letter in orientation.upper() for pair in pairs if letter in pair]
    if len(orientation) != 3 or set(found) != set(pairs) or len(found) != 3:
        raise ValueError(
            f"orientation is one letter each of L or R, A or P, S or I, such as 'LPS', not {orientation!r}"
        )
    turn = ornt_transform(axcodes2ornt(orientation.upper()), axcodes2ornt("LPS"))
    turned = np.ascontiguousarray(apply_orientation(labels, turn))
    x, y, z = (float(size[list(turn[:, 0]).index(axis)]) for axis in range(3))
    return turned, (x, y, z)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    lines = read_text(path).splitlines()
    reader = csv.DictReader(lines, skipinitialspace=True)
    unknown = [name for name in reader.fieldnames or () if name not in _COLUMNS]
    if unknown or not {"label", "name"} <= set(reader.fieldnames or ()):
        raise FormatError(
            f"{path}, line 1: columns are {', '.join(_COLUMNS)} (the first two needed); got {lines[0][:200]!r}"
        )
    for row in reader:
        if None in row:
            raise FormatError(f"{path}, line {reader.line_num}: more cells than columns; a comma too many?")
        yield reader.line_num, {key: text.strip() for key, text in row.items() if text and text.strip()}


def _toml_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    text = read_text(path)
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the first also for whole numbers of thousands of digits
        raise FormatError(f"{path}: {error}") from error
    rows = document.pop("tissue", [])
    if document or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FormatError(f"{path}: expected [[tissue]] tables and nothing else, got {', '.join(document) or 'tissue'}")
    starts = [i for i, line in enumerate(text.splitlines(), 1) if line.strip().startswith("[[tissue]]")]
    # tables written inline have no line of their own
    yield from zip(starts if len(starts) == len(rows) else [1] * len(rows), rows)


def _number(key: str, text: str) -> float | int | str:
    if key in ("name", "material"):
        return text
    try:
        return int(text) if key == "label" else float(text)
    except ValueError:
        raise ValueError(f"{key} must be a {'whole number' if key == 'label' else 'number'}, got {text!r}") from None


class _Row(TypedDict, total=False):
    """A checked row of a table of tissues."""

    label: int
    name: str
    activity: float
    material: str
    density: float
    mu: float


def _tissue(row: Mapping[str, object]) -> tuple[int, Tissue]:
    unknown = [key for key in row if key not in _COLUMNS]
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; choose from {', '.join(_COLUMNS)}")
    for key in ("label", "name"):
        if key not in row:
            raise ValueError(f"a tissue needs a {key}")
    for key, value in row.items():
        kinds: tuple[type, ...] = (str,) if key in ("name", "material") else (int,) if key == "label" else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"{key} must be {'text' if str in kinds else 'a number'}, got {value!r}")
    kept = cast("_Row", row)
    about = kept.get("activity", 0.0), kept.get("material"), kept.get("density"), kept.get("mu")
    return kept["label"], Tissue(kept["name"], *about)
