"""The three comparisons of the suite: SPECTnet's brains, DeepPET's torsos, and SPECT with half of its views."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from emrecon import sims, unrolled
from emrecon.sims.recipes.tables import MismatchTable
from emrecon.unrolled.methods import PRESETS

from ..suite import Options
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
    """

    name: str
    title: str
    preset: str
    arguments: Mapping[str, Any]
    rate: float = 1e-3
    size: int = 16

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
    """

    name: str
    title: str
    recipe: str
    entries: tuple[Entry, ...]
    noise: bool = True
    subsets: int = 6
    passes: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12)

    def samples(
        self, options: Options, folder: Path, change: Callable[[sims.Recipe], sims.Recipe] | None = None
    ) -> Samples:
        """Return the scans, those of the test changed where `change` says so."""
        recipe = sims.load_recipe(self.recipe)
        n = (96, 16, 16) if options.size == "quick" else (2400, 100, 2000 if self.name == "spectnet" else 200)
        changed = recipe if change is None else change(recipe)
        return Samples(changed, *n, folder, self.noise)


def scan_of(samples: Samples) -> dict[str, Any]:
    """Return what the scans are, as cards of direct networks have it."""
    (arguments, _) = samples.pair("validation", [0], 0)
    found: dict[str, Any] = unrolled.described(arguments["likelihood"].model.projector)
    return found


SPECTNET = Family(
    "spectnet",
    "Random brains, SPECT without noise, after SPECTnet",
    "spectnet-small",
    (
        Entry("one-step", "SPECTnet, one step", "spectnet", {"size": 64, "hidden": 1024, "width": 16}, 3e-4, 40),
        Entry("fbsem-net", "FBSEM-Net, unrolled", "fbsem-net", UNROLLED, 2e-3, 8),
        Entry("back-projection", "U-Net after a back projection", "back-projection", {"width": 16}),
    ),
    noise=False,
    subsets=12,
    passes=(5, 7, 9, 11, 13, 15),
)
TORSOS = Family(
    "deeppet",
    "Torsos, PET, after DeepPET",
    "deeppet-small",
    (
        Entry("deeppet", "DeepPET, small", "deeppet", {"small": True, "size": 64, "norm": "group"}),
        Entry("automap", "AUTOMAP", "automap", {"size": 64, "views": 96, "bins": 95, "hidden": 512, "width": 16}),
        Entry("radon-inversion", "DirectPET", "radon-inversion", {"patch": 8, "width": 16, "depth": 2}),
        Entry("back-projection", "U-Net after a back projection", "back-projection", {"width": 16}),
        Entry("post-unet", "U-Net after OSEM", "post-unet", {"width": 16, "passes": 4, "subsets": 6}),
        Entry("fusion", "OSEM and smoothed OSEM, fused", "fusion", {"passes": 4, "subsets": 6, "fwhm": [8.0, 16.0]}),
        Entry("fbsem-net", "FBSEM-Net, unrolled", "fbsem-net", UNROLLED, 2e-3, 8),
    ),
)
SPARSE = Family(
    "sparse",
    "Random brains, SPECT with 30 of 60 views",
    "spectnet-small",
    (Entry("sinogram-net", "Network of data", "sinogram-net", {"width": 24, "depth": 6, "passes": 5, "subsets": 5}),),
)
FAMILIES = (SPECTNET, TORSOS, SPARSE)

CHANGES: Mapping[str, tuple[str, float, Callable[[sims.Recipe], sims.Recipe] | None]] = {
    "as-trained": ("as trained", 1.0, None),
    "counts-quarter": ("counts x 1/4", 0.25, None),
    "counts-four": ("counts x 4", 4.0, None),
    "many-lesions": ("20 to 40 lesions, where training had 0 to 20", 1.0, lambda r: _with_phantom(r, lesions=(20, 40))),
    "shifted-map": ("attenuation map 9 mm aside", 1.0, lambda r: _with_mismatch(r, shift=(9.0, 0.0, 0.0))),
    "bone-uptake": ("bones instead of FDG", 1.0, lambda r: _with_phantom(r, uptake="bone-scan")),
}
"""What changes in the test scans of DeepPET's family: name -> title, level of counts, recipe."""


def _with_phantom(recipe: sims.Recipe, **changes: Any) -> sims.Recipe:
    return recipe.model_copy(update={"phantom": recipe.phantom.model_copy(update=changes)})


def _with_mismatch(recipe: sims.Recipe, **changes: Any) -> sims.Recipe:
    table = MismatchTable() if recipe.mismatch is None else recipe.mismatch
    return recipe.model_copy(update={"mismatch": table.model_copy(update=changes)})
