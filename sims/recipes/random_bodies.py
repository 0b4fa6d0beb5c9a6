"""Kinds of random phantoms that recipes name, each a pure function of a seed."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field as Limit
from pydantic import model_serializer

from emrecon.projectors import ImageGrid, linear_attenuation

from ..noise import generator
from ..phantoms.bodies import random_torso
from ..phantoms.brain import GuideRecipe, LesionRecipe, random_folded_brain
from ..phantoms.cardiac import random_cardiac_torso
from ..phantoms.ellipses import EllipseRanges, random_brain, random_ellipses
from ..phantoms.fields import MarkedLesion
from ..phantoms.label_map import LabelMap, brainweb_labels, read_label_map, read_tissues, xcat_labels
from ..phantoms.phantom import Phantom
from ..simulators.simulator import Body
from .recipe_file import Table

_CT_ENERGY = 70.0  # keV, about the mean of a CT spectrum of 120 kV


class LabelledBody(Body, Protocol):
    """A phantom whose regions have names; `Phantom` and `LabelMap` are."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the labels mean."""

    def fraction(self, grid: ImageGrid, name: str) -> np.ndarray:
        """Return the part of every voxel that the regions of one name fill."""

    def labels(self, grid: ImageGrid) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the label at every voxel's centre, and `names`."""


@dataclass(frozen=True)
class Drawn:
    """A phantom that was drawn, with the images that go with it.

    Args:
        guide : makes the MR-like image on a grid, None without.
        lesions : those that are measured one by one; kinds that do not tell theirs have none.
        about : what was drawn, by name, such as the tracer.
    """

    phantom: LabelledBody
    guide: Callable[[ImageGrid], np.ndarray] | None = None
    lesions: tuple[MarkedLesion, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    def image(self, name: str, grid: ImageGrid) -> np.ndarray:
        """Return the image "ct", "labels", "lesions" or "guide" of a recipe's outputs."""
        phantom = self.phantom
        if name == "ct":
            water = linear_attenuation("water", _CT_ENERGY)
            return np.asarray(np.rint(1000 * (phantom.attenuation(grid, _CT_ENERGY) / water - 1)))
        if name == "labels":
            return np.asarray(phantom.labels(grid)[0])
        if name == "lesions":
            lesions = [region for region in phantom.names if region.startswith("lesion")]
            return np.asarray(sum((phantom.fraction(grid, region) for region in lesions), np.zeros(grid.shape)))
        assert self.guide is not None
        return self.guide(grid)


class Kind(Table):
    """A kind of phantom with its parameters."""

    has_guide: ClassVar[bool] = False

    @abstractmethod
    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed; flat ones are painted on a grid of one slice, at z = 0."""

    def digest(self) -> str | None:
        """Return the SHA-256 of what comes from files, None without files."""
        return None


class SPECTnetBrain(Kind):
    """`random_brain`: an ellipse with hot regions in a ring of bone."""

    kind: Literal["spectnet-brain"]

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        return Drawn(random_brain(seed, 2 if flat else 3))


class Ellipses(Kind):
    """`random_ellipses`: ellipses or ellipsoids anywhere in an elliptic body; see `EllipseRanges`."""

    kind: Literal["ellipses"]
    number: tuple[int, int] = (3, 12)
    size: tuple[float, float] = (5.0, 30.0)
    activity: tuple[float, float] = (0.0, 4.0)
    overlap: bool = True
    bones: tuple[int, int] = (0, 0)
    lungs: tuple[int, int] = (0, 0)

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        ranges = EllipseRanges(self.number, self.size, self.activity, self.overlap, self.bones, self.lungs)
        return Drawn(random_ellipses(seed, 2 if flat else 3, ranges))


class LesionsTable(Table):
    """How many lesions a brain gets, and which; see `LesionRecipe`."""

    both: int = 0
    emission_only: int = 0
    guide_only: int = 0
    diameter: tuple[float, float] = (2.0, 8.0)
    hot: float = 0.6
    tissue: Literal["white", "grey"] = "white"


class GuideTable(Table):
    """What is wrong with the guide; see `GuideRecipe`."""

    shift: float = 0.0
    turn: float = 0.0
    bias: float = 0.0
    noise: float = 0.0


class FoldedBrain(Kind):
    """`random_folded_brain`: a head with a folded cortex, and an MR-like guide.

    Args:
        uptake : "fdg", "amyloid", "dat", "perfusion", or activities by tissue.
    """

    has_guide: ClassVar[bool] = True
    kind: Literal["brain"]
    uptake: str | dict[str, float] = "fdg"
    lesions: LesionsTable = LesionsTable()
    guide: GuideTable = GuideTable()

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        lesions, guide = LesionRecipe(**dict(self.lesions)), GuideRecipe(**dict(self.guide))
        brain = random_folded_brain(seed, 2 if flat else 3, self.uptake, lesions, guide)
        return Drawn(brain.phantom, brain.guide)


class Torso(Kind):
    """`random_torso`: a patient from the neck to the thighs, with lesions.

    Args:
        uptake : "bone-scan", "fdg", "lu-177", or activities by organ.
        lesions : the lowest and highest number.
        lesion_size : their diameters times this.
        slices : heights in mm between which the plane (or the middle of the volume) lies that comes to z = 0.
    """

    kind: Literal["torso"]
    uptake: str | dict[str, float] = "fdg"
    lesions: tuple[int, int] = (0, 6)
    lesion_size: float = 1.0
    slices: tuple[float, float] = (0.0, 0.0)

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        body = random_torso(seed, self.uptake, self.lesions, lesion_size=self.lesion_size)
        return Drawn(_at_slice(body, self.slices, seed))

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without what recipes of earlier versions have not, so that their samples are still theirs."""
        made = handler(self)
        if made.get("lesion_size") == 1:
            del made["lesion_size"]
        return made


class CardiacTorso(Kind):
    """`random_cardiac_torso`: a patient for myocardial perfusion, with defects of the left ventricle.

    Args:
        ratios : "tc-99m", "tl-201", or activities by organ.
        defects : the lowest and highest number.
        slices : as for the torso.
    """

    kind: Literal["cardiac"]
    ratios: str | dict[str, float] = "tc-99m"
    defects: tuple[int, int] = (0, 2)
    slices: tuple[float, float] = (0.0, 0.0)

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        return Drawn(_at_slice(random_cardiac_torso(seed, self.ratios, self.defects), self.slices, seed))


class LabelMapBody(Kind):
    """A label map from a file, `read_label_map`, displaced and with other activities for every seed.

    Args:
        file : of the labels.
        tissues : a CSV or TOML table, or "xcat" or "brainweb".
        shape, voxel_size, dtype, orientation : as in `read_label_map`.
        slices : as for the torso.
        shift : the largest displacement in mm along x and y, drawn evenly.
        spread : every tissue's activity times 1 / spread to spread, drawn evenly in the logarithm.
    """

    kind: Literal["label-map"]
    file: str
    tissues: str
    shape: tuple[int, int, int] | None = None
    voxel_size: tuple[float, float, float] | None = None
    dtype: str = "uint8"
    orientation: str = "LPS"
    slices: tuple[float, float] = (0.0, 0.0)
    shift: float = Limit(default=0.0, ge=0)
    spread: float = Limit(default=1.0, ge=1)

    def digest(self) -> str:
        """Return the SHA-256 of labels, voxels and tissues."""
        given = self._given()
        about = repr((given.voxels.shape, str(given.voxels.dtype), given.grid, sorted(given.table.items())))
        return hashlib.sha256(about.encode() + np.ascontiguousarray(given.voxels).tobytes()).hexdigest()

    def _given(self) -> LabelMap:
        return _label_map(self.file, self.tissues, self.shape, self.voxel_size, self.dtype, self.orientation)

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        given = self._given()
        random = generator(seed, "label map")
        factors = {name: self.spread ** random.uniform(-1, 1) for name in given.names}
        table = {k: replace(t, activity=t.activity * factors[t.name]) for k, t in given.table.items()}
        x, y = (float(v) for v in random.uniform(-self.shift, self.shift, 2))
        z = -_slice_of(self.slices, seed)
        return Drawn(replace(given, table=table).moved((x, y, z)))


@cache
def _label_map(
    file: str,
    tissues: str,
    shape: tuple[int, int, int] | None,
    voxel_size: tuple[float, float, float] | None,
    dtype: str,
    orientation: str,
) -> LabelMap:
    own = {"xcat": xcat_labels, "brainweb": brainweb_labels}
    table = own[tissues]() if tissues in own else read_tissues(tissues)
    return read_label_map(file, table, shape=shape, voxel_size=voxel_size, dtype=dtype, orientation=orientation)


def _slice_of(slices: tuple[float, float], seed: int) -> float:
    low, high = slices
    if low > high:
        raise ValueError(f"slices run from low to high z in mm, got {list(slices)}")
    return float(generator(seed, "slice").uniform(low, high))


def _at_slice(phantom: Phantom, slices: tuple[float, float], seed: int) -> Phantom:
    """Return a phantom shifted along z such that a plane between two heights (mm), drawn evenly, is at z = 0."""
    return phantom.moved((0.0, 0.0, -_slice_of(slices, seed)))
