"""The comparisons of the suite: SPECTnet's brains and fewer views of them, DeepPET's torsos, completed data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from emrecon import sims, unrolled
from emrecon.sims.recipes.tables import MismatchTable
from emrecon.sims.recipes.varied_bodies import VariedShapesBody
from emrecon.unrolled.methods import PRESETS

from ..suite import Options
from .partial import BLOCK, COARSE, HALF_THE_COUNTS, VIEWS, Part
from .samples import Samples

UNROLLED = {"n_modules": 3, "subsets": 2, "width": 24, "initial": [2, 6]}
"""FBSEM-Net, which has the physics inside, at a size that trains in the time that direct networks get."""


@dataclass(frozen=True)
class Entry:
    """A network of a family.

    Args:
        name, title : short, and for people.
        preset : of `unrolled.methods.PRESETS`, with its arguments; "scan" is filled in for those that take it.
        rate : the learning rate of Adam.
        size : samples in a step.
        loss : "image", the relative squared error (of a family with a part: of its data), or "dpir", DPIR-Net's.
    """

    name: str
    title: str
    preset: str
    arguments: Mapping[str, Any]
    rate: float = 1e-3
    size: int = 16
    loss: Literal["image", "dpir"] = "image"

    def build(self, samples: Samples) -> nn.Module:
        """Return it with the first weights of seed 0."""
        arguments = dict(self.arguments)
        if self.preset in ("spectnet", "deeppet", "automap", "radon-inversion"):
            arguments["scan"] = scan_of(samples)
        with unrolled.seeded(0):
            return PRESETS[self.preset](**arguments)


@dataclass(frozen=True)
class Family:
    """Scans of one recipe, and the networks that are trained on them for the same time.

    Args:
        subsets : of OSEM.
        passes : among which the best is taken, in each case (`each`) as SPECTnet's authors did, or on validation scans.
        staged : a SPECTnet that is trained in three stages in the same time.
        regions : whether errors of hot regions and background are measured.
        views : of the camera, instead of the recipe's.
        part : what of each scan is measured; the networks complete it.
    """

    name: str
    title: str
    recipe: str
    entries: tuple[Entry, ...]
    noise: bool = True
    subsets: int = 6
    passes: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12)
    staged: Entry | None = None
    regions: bool = False
    views: int | None = None
    part: Part | None = None

    def samples(
        self, options: Options, folder: Path, change: Callable[[sims.Recipe], sims.Recipe] | None = None
    ) -> Samples:
        """Return the scans, those of the test changed where `change` says so."""
        recipe = sims.load_recipe(self.recipe)
        n = (96, 16, 16) if options.size == "quick" else (2400, 100, 2000 if self.name == "spectnet" else 200)
        if self.views is not None:
            assert recipe.spect is not None
            camera = recipe.spect.model_copy(update={"views": self.views})
            recipe = recipe.model_copy(update={"name": self.name, "spect": camera})
        changed = recipe if change is None else change(recipe)
        return Samples(changed, *n, folder, self.noise)


def scan_of(samples: Samples) -> dict[str, Any]:
    """Return what the scans are, as cards of direct networks have it."""
    (arguments, _) = samples.pair("validation", [0], 0)
    found: dict[str, Any] = unrolled.described(arguments["likelihood"].model.projector)
    return found


_ONE_STEP = Entry("one-step", "SPECTnet, one step", "spectnet", {"size": 64, "hidden": 1024, "width": 16}, 3e-4, 40)
SPECTNET = Family(
    "spectnet",
    "Random brains, SPECT without noise, after SPECTnet",
    "spectnet-small",
    (
        _ONE_STEP,
        Entry("fbsem-net", "FBSEM-Net, unrolled", "fbsem-net", UNROLLED, 2e-3, 8),
        Entry("back-projection", "U-Net after a back projection", "back-projection", {"width": 16}),
    ),
    noise=False,
    subsets=12,
    passes=(5, 7, 9, 11, 13, 15),
    staged=_ONE_STEP,
    regions=True,
)
FEWER_VIEWS = tuple(
    Family(
        f"spectnet-{views}",
        f"The same with {views} views, as {2 * views} of 120 in the publication",
        "spectnet-small",
        (),
        noise=False,
        subsets=subsets,
        passes=SPECTNET.passes,
        staged=_ONE_STEP,
        regions=True,
        views=views,
    )
    for views, subsets in ((30, 10), (15, 5))
)
"""SPECTnet and OSEM where fewer views are measured: a half and a quarter, as its authors tried."""
_DEEPPET = {"small": True, "size": 64, "norm": "group"}
TORSOS = Family(
    "deeppet",
    "Torsos, PET, after DeepPET",
    "deeppet-small",
    (
        Entry("deeppet", "DeepPET, small", "deeppet", _DEEPPET),
        Entry("dpir", "DeepPET, small, by DPIR-Net's loss", "deeppet", _DEEPPET, loss="dpir"),
        Entry("automap", "AUTOMAP", "automap", {"size": 64, "views": 96, "bins": 95, "hidden": 512, "width": 16}),
        Entry("radon-inversion", "DirectPET", "radon-inversion", {"patch": 8, "width": 16, "depth": 2}),
        Entry("back-projection", "U-Net after a back projection", "back-projection", {"width": 16}),
        Entry("post-unet", "U-Net after OSEM", "post-unet", {"width": 16, "passes": 4, "subsets": 6}),
        Entry("fusion", "OSEM and smoothed OSEM, fused", "fusion", {"passes": 4, "subsets": 6, "fwhm": [8.0, 16.0]}),
        Entry("fusion-betas", "OSEM of several beta, fused", "fusion", {"kind": "betas", "passes": 4, "subsets": 6}),
        Entry("fbsem-net", "FBSEM-Net, unrolled", "fbsem-net", UNROLLED, 2e-3, 8),
    ),
)
_BRAINS = {"width": 24, "depth": 6, "passes": 5, "subsets": 5}
_LU_NET = {"network": "lu-net", "width": 12, "levels": 3, "passes": 5, "subsets": 5}
_RINGS = {"width": 24, "depth": 6, "passes": 4, "subsets": 6}
COMPLETED = (
    Family(
        "sparse",
        "Random brains, SPECT with 30 of 60 views",
        "spectnet-small",
        (
            Entry("sinogram-net", "Network of data", "sinogram-net", _BRAINS),
            Entry("lu-net", "LU-Net, a memory along the views", "sinogram-net", _LU_NET),
        ),
        part=VIEWS,
    ),
    Family(
        "low-dose",
        "Random brains, SPECT with half of the counts",
        "spectnet-small",
        (Entry("sinogram-net", "Network of data", "sinogram-net", {**_BRAINS, "keep_measured": False}),),
        part=HALF_THE_COUNTS,
    ),
    *(
        Family(
            name, title, "deeppet-small", (Entry("sinogram-net", "Network of data", "sinogram-net", _RINGS),), part=part
        )
        for name, title, part in (
            ("failed-block", "Torsos, PET without 12 of 192 crystals", BLOCK),
            ("fine-bins", "Torsos, PET with 19 bins for 95", COARSE),
        )
    ),
)
"""Scans of which a part is measured, and networks of data that complete it."""
FAMILIES = (SPECTNET, TORSOS, *COMPLETED, *FEWER_VIEWS)

_SHAPES = VariedShapesBody(kind="varied-shapes", number=(5, 12), size=(15.0, 50.0))
CHANGES: Mapping[str, tuple[str, float, Callable[[sims.Recipe], sims.Recipe] | None]] = {
    "as-trained": ("as trained", 1.0, None),
    "counts-quarter": ("counts x 1/4", 0.25, None),
    "counts-four": ("counts x 4", 4.0, None),
    "large-lesions": ("lesions of twice the size", 1.0, lambda r: _with_phantom(r, lesion_size=2.0)),
    "many-lesions": ("20 to 40 lesions, where training had 0 to 20", 1.0, lambda r: _with_phantom(r, lesions=(20, 40))),
    "shifted-map": ("attenuation map 9 mm aside", 1.0, lambda r: _with_mismatch(r, shift=(9.0, 0.0, 0.0))),
    "bone-uptake": ("bones instead of FDG", 1.0, lambda r: _with_phantom(r, uptake="bone-scan")),
    "shapes": ("random shapes instead of torsos", 1.0, lambda r: r.model_copy(update={"phantom": _SHAPES})),
}
"""What changes in the test scans of DeepPET's family: name -> title, level of counts, recipe."""


def _with_phantom(recipe: sims.Recipe, **changes: Any) -> sims.Recipe:
    return recipe.model_copy(update={"phantom": recipe.phantom.model_copy(update=changes)})


def _with_mismatch(recipe: sims.Recipe, **changes: Any) -> sims.Recipe:
    table = MismatchTable() if recipe.mismatch is None else recipe.mismatch
    return recipe.model_copy(update={"mismatch": table.model_copy(update=changes)})
