"""Kinds of phantoms for evidence: what differs between subjects is not told by their guides."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator

from ..phantoms.varied_brain import BrainVariety, GuideVariety, LesionVariety, random_varied_brain
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
        own = {name: value for name, value in dict(self).items() if name not in ("kind", "lesions", "guide")}
        lesions, guide = LesionVariety(**dict(self.lesions)), GuideVariety(**dict(self.guide))
        brain = random_varied_brain(seed, 2 if flat else 3, BrainVariety(**own), lesions, guide)
        about = {"tracer": brain.tracer, "contrast": brain.contrast, "missing": brain.missing}
        return Drawn(brain.phantom, brain.guide, brain.lesions, about)


PhantomTable = Annotated[
    SPECTnetBrain | Ellipses | FoldedBrain | Torso | CardiacTorso | LabelMapBody | VariedBrainBody,
    Discriminator("kind"),
]
"""A table [phantom] of a recipe; its `kind` says which."""
