"""Kinds of phantoms for evidence: what differs between subjects is not told by their guides."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator

from ..phantoms.anatomy import anatomy_digest, random_real_brain
from ..phantoms.body_guides import BodyGuideVariety
from ..phantoms.varied_brain import BrainVariety, GuideVariety, LesionVariety, random_varied_brain
from ..phantoms.varied_shapes import ShapeVariety, random_varied_shapes
from ..phantoms.varied_torso import BodyLesions, TorsoVariety, random_varied_torso
from .random_bodies import (
    CardiacTorso,
    Drawn,
    Ellipses,
    FoldedBrain,
    Kind,
    LabelMapBody,
    SPECTnetBrain,
    Torso,
)
from .recipe_file import Table

Ends = tuple[float, float]
Numbers = tuple[int, int]


class VariedLesionsTable(Table):
    """Lesions of which contrast, size and place are independent of the guide; see `LesionVariety`."""

    both: Numbers = (0, 1)
    emission_only: Numbers = (0, 2)
    guide_only: Numbers = (0, 1)
    diameter: Ends = (7.0, 16.0)
    hot: float = 0.5
    hot_ratio: Ends = (1.5, 4.0)
    cold_ratio: Ends = (0.0, 0.6)
    tissue: Literal["white", "grey", "brain"] = "brain"


class VariedGuideTable(Table):
    """Magnetic resonance images of several contrasts; see `GuideVariety`."""

    shift: float = 3.0
    turn: float = 3.0
    bias: float = 0.2
    noise: float = 0.03
    contrasts: tuple[str, ...] = ("t1", "t2", "pd")
    jitter: float = 0.08
    missing: float = 0.15
    absent: float = 0.05


class VariedBrainBody(Kind):
    """`random_varied_brain`: tracer, ratios, lobes, sides, texture and lesions that the guide does not show.

    Args:
        tracers, ratio, lobes, asymmetry, reduced, depth, size, smooth, texture : see `BrainVariety`.
    """

    has_guide: ClassVar[bool] = True
    kind: Literal["varied-brain"]
    tracers: tuple[str, ...] = ("fdg",)
    ratio: Ends = (1.5, 6.0)
    lobes: float = 0.2
    asymmetry: float = 0.1
    reduced: Numbers = (0, 3)
    depth: Ends = (0.2, 0.7)
    size: Ends = (20.0, 50.0)
    smooth: float = 0.12
    texture: float = 0.08
    lesions: VariedLesionsTable = VariedLesionsTable()
    guide: VariedGuideTable = VariedGuideTable()

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        lesions, guide = LesionVariety(**dict(self.lesions)), GuideVariety(**dict(self.guide))
        brain = random_varied_brain(seed, 2 if flat else 3, BrainVariety(**_own(self)), lesions, guide)
        about = {"tracer": brain.tracer, "contrast": brain.contrast, "missing": brain.missing}
        return Drawn(brain.phantom, brain.guide, brain.lesions, about)


class BodyLesionsTable(Table):
    """Lesions of bodies and shapes; see `BodyLesions`."""

    number: Numbers = (0, 4)
    in_guide: float = 0.5
    guide_only: Numbers = (0, 1)
    diameter: Ends = (12.0, 35.0)
    hot: float = 0.7
    hot_ratio: Ends = (1.5, 6.0)
    cold_ratio: Ends = (0.0, 0.6)


class BodyGuideTable(Table):
    """CT- or MR-like guides; see `BodyGuideVariety`."""

    shift: float = 3.0
    turn: float = 2.0
    bias: float = 0.2
    noise: float = 0.03
    contrasts: tuple[str, ...] = ("ct", "mr")
    absent: float = 0.05


class VariedTorsoBody(Kind):
    """`random_varied_torso`: uptake by organ, texture, lesions and defects that the guide does not show.

    Args:
        uptake, spread, smooth, texture, defects, slices : see `TorsoVariety`.
    """

    has_guide: ClassVar[bool] = True
    kind: Literal["varied-torso"]
    uptake: str = "fdg"
    spread: float = 2.0
    smooth: float = 0.1
    texture: float = 0.08
    defects: Numbers = (0, 2)
    slices: Ends = (-60.0, 200.0)
    lesions: BodyLesionsTable = BodyLesionsTable()
    guide: BodyGuideTable = BodyGuideTable()

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        variety = TorsoVariety(**_own(self))
        lesions, guide = BodyLesions(**dict(self.lesions)), BodyGuideVariety(**dict(self.guide))
        body = random_varied_torso(seed, 2 if flat else 3, variety, lesions, guide)
        return Drawn(body.phantom, body.guide, body.phantom.lesions, body.about)


class VariedShapesBody(Kind):
    """`random_varied_shapes`: ellipses, blobs and polygons, of which the guide shows a part.

    Args:
        number, size, activity, emission_only, guide_only, smooth, texture : see `ShapeVariety`.
    """

    has_guide: ClassVar[bool] = True
    kind: Literal["varied-shapes"]
    number: Numbers = (5, 12)
    size: Ends = (8.0, 35.0)
    activity: Ends = (0.2, 6.0)
    emission_only: float = 0.3
    guide_only: float = 0.2
    smooth: float = 0.1
    texture: float = 0.08
    lesions: BodyLesionsTable = BodyLesionsTable()
    guide: BodyGuideTable = BodyGuideTable()

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        lesions, guide = BodyLesions(**dict(self.lesions)), BodyGuideVariety(**dict(self.guide))
        body = random_varied_shapes(seed, 2 if flat else 3, ShapeVariety(**_own(self)), lesions, guide)
        return Drawn(body.phantom, body.guide, body.phantom.lesions, body.about)


class AnatomyBody(Kind):
    """`random_real_brain`: a real head, read where it is installed, with random activity.

    Args:
        source : "colin27" or "mni152".
        folder : of its files (default: where the package puts them).
        tracers, ratio, lobes, asymmetry, reduced, depth, size, smooth, texture : see `BrainVariety`.
        slices : mm above the middle of the brain between which the plane lies.
    """

    has_guide: ClassVar[bool] = True
    kind: Literal["anatomy"]
    source: str
    folder: str | None = None
    tracers: tuple[str, ...] = ("fdg",)
    ratio: Ends = (1.5, 6.0)
    lobes: float = 0.2
    asymmetry: float = 0.1
    reduced: Numbers = (0, 3)
    depth: Ends = (0.2, 0.7)
    size: Ends = (20.0, 50.0)
    smooth: float = 0.12
    texture: float = 0.08
    slices: Ends = (-25.0, 30.0)
    lesions: BodyLesionsTable = BodyLesionsTable(diameter=(7.0, 16.0))
    guide: BodyGuideTable = BodyGuideTable()

    def digest(self) -> str:
        """Return the SHA-256 of the files."""
        return anatomy_digest(self.source, self.folder)

    def draw(self, seed: int, flat: bool) -> Drawn:
        """Return the phantom of a seed."""
        own = {name: value for name, value in _own(self).items() if name not in ("source", "folder", "slices")}
        lesions, guide = BodyLesions(**dict(self.lesions)), BodyGuideVariety(**dict(self.guide))
        brain, image, about = random_real_brain(
            self.source, seed, 2 if flat else 3, BrainVariety(**own), lesions, guide, self.slices, self.folder
        )
        return Drawn(brain, image, brain.lesions, about)


def _own(table: Table) -> dict[str, Any]:
    """The keys of a kind without its tables."""
    return {name: value for name, value in dict(table).items() if name not in ("kind", "lesions", "guide")}


PhantomTable = Annotated[
    SPECTnetBrain
    | Ellipses
    | FoldedBrain
    | Torso
    | CardiacTorso
    | LabelMapBody
    | VariedBrainBody
    | VariedTorsoBody
    | VariedShapesBody
    | AnatomyBody,
    Discriminator("kind"),
]
"""A table [phantom] of a recipe; its `kind` says which."""
