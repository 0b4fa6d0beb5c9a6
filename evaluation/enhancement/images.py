"""Reconstructed images of simulated scans at several levels of counts, made once and kept, for topics of the suite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrecon import __version__, recon, sims, unrolled
from emrecon.unrolled import Preparation

from ..kept import kept
from ..suite import Options, folder_of

_TOGETHER = 8  # samples that are reconstructed at once
_DATA = ("expected", "background", "factors", "mu", "truth")
SPLITS = ("train", "validation", "test")

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Images:
    """OSEM images of the scans of a recipe, by part: at every level of counts, of all counts, and without noise.

    `of(split)` gives arrays: "low" (levels, N, x, y, z), "full" and "clean" (N, x, y, z), the truth, and what else is
    asked for, (N, x, y, z).

    Args:
        recipe : of `sims`, with any outputs.
        sizes : of train, validation and test.
        levels : parts of the counts.
        passes, subsets : of OSEM.
        beside : outputs of the recipe beside the truth: "lesions", "guide", "ct", "labels", "mu".
        folder : where they are kept; None makes them anew.
    """

    recipe: sims.Recipe
    sizes: tuple[int, int, int]
    levels: tuple[float, ...]
    passes: int = 4
    subsets: int = 8
    beside: tuple[str, ...] = ()
    folder: Path | None = None

    @cached_property
    def source(self) -> sims.RecipeSource:
        """What simulates the scans."""
        outputs = tuple(dict.fromkeys((*_DATA, *self.beside)))
        return sims.RecipeSource(self.recipe.model_copy(update={"outputs": outputs}), sum(self.sizes))

    def describe(self) -> dict[str, Any]:
        """Return what decides the images, for JSON."""
        own = {"sizes": self.sizes, "levels": self.levels, "passes": self.passes, "subsets": self.subsets}
        return {**own, "beside": self.beside, "recipe": self.recipe.model_dump(mode="json"), "version": __version__}

    def of(self, split: str) -> Arrays:
        """Return the arrays of a part, float32."""
        path = None if self._place is None else self._place / f"{split}.npz"
        return kept(path, lambda: self._made(split))

    @property
    def _place(self) -> Path | None:
        if self.folder is None:
            return None
        about = json.dumps(self.describe(), sort_keys=True, default=str)
        return self.folder / f"{self.recipe.name}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"

    def _made(self, split: str) -> dict[str, np.ndarray]:
        first = sum(self.sizes[: SPLITS.index(split)])
        last = first + self.sizes[SPLITS.index(split)]
        parts = [self._some(range(k, min(k + _TOGETHER, last))) for k in range(first, last, _TOGETHER)]
        return {name: np.concatenate([part[name] for part in parts], 1 if name == "low" else 0) for name in parts[0]}

    def _some(self, which: range) -> dict[str, np.ndarray]:
        samples = self.source.samples(which)
        shape = (len(which), *self.recipe.grid.shape)
        found = {
            name: np.asarray(samples[name], np.float32).reshape(shape)
            for name in dict.fromkeys(("truth", *self.beside))
        }
        found["low"] = np.stack([self.reconstructed(samples, level, which[0]) for level in self.levels])
        found["full"] = self.reconstructed(samples, 1.0, which[0])
        found["clean"] = self.reconstructed(samples, 1.0, None)
        return found

    def reconstructed(self, samples: Mapping[str, Any], level: float, seed: int | None) -> np.ndarray:
        """Return OSEM images of samples at a level, of counts drawn with a seed, or of what is expected for None."""
        expected = level * np.asarray(samples["expected"], np.float64)
        counts = expected
        if seed is not None:
            counts = np.random.default_rng([seed, round(1e6 * level)]).poisson(expected).astype(float)
        scaled = {name: level * np.asarray(samples[name], np.float32) for name in ("background", "factors")}
        likelihood = self._prepare.likelihood({**samples, **scaled, "counts": counts.astype(np.float32)})
        with torch.no_grad():
            image = unrolled.OSEMPasses(self.passes, self.subsets)(likelihood)
        return image.numpy().astype(np.float32)

    @cached_property
    def _prepare(self) -> Preparation:
        return Preparation(self.source.simulator)


def folder_for(options: Options, own: Path, unit: str) -> Path:
    """Return where samples are kept: the folder that all suites share, or beside the units."""
    return folder_of(own, unit, "samples") if options.work is None else options.work / "enhance"


def pairs_of(
    arrays: Arrays,
    target: str = "full",
    *,
    guides: Sequence[str] = (),
    weight: Callable[[torch.Tensor], torch.Tensor] | None = None,
    size: int = 8,
    seed: int = 0,
) -> Callable[[int], Iterator[tuple[Any, ...]]]:
    """Return epoch -> batches ({"x": image, "guide": g}, target), or with a weight image, over the image's mean.

    Every image of every level comes once in an epoch, in an order of (seed, epoch).

    Args:
        target : "full", "clean" or "truth".
        guides : names of what is beside.
        weight : lesion masks (B, x, y, z) -> weights.
        size : of a batch.
    """
    n_levels, n = arrays["low"].shape[:2]

    def of_epoch(epoch: int) -> Iterator[tuple[Any, ...]]:
        order = sims.generator(seed, f"order of epoch {epoch}").permutation(n_levels * n)
        for k in range(max(1, len(order) // size)):
            chosen = order[k * size : (k + 1) * size]
            yield pair(arrays, chosen // n, chosen % n, target, guides, weight)

    return of_epoch


def pair(
    arrays: Arrays,
    levels: np.ndarray,
    which: np.ndarray,
    target: str = "full",
    guides: Sequence[str] = (),
    weight: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[Any, ...]:
    """Return one batch of images by level and number, as `pairs_of` does."""
    x, t = (torch.as_tensor(a) for a in (arrays["low"][levels, which], arrays[target][which]))
    scale = unrolled.mean_scale(x)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    arguments = {"x": x / scale}
    if guides:
        shown = [torch.as_tensor(arrays[name][which]) for name in guides]
        arguments["guide"] = torch.stack(shown, -4) if len(shown) > 1 else shown[0]
    found = (arguments, t / scale)
    return found if weight is None else (*found, weight(torch.as_tensor(arrays["lesions"][which]).clamp(0, 1)))


def nrmse(images: np.ndarray, truth: np.ndarray) -> list[float]:
    """Return the NRMSE of each image."""
    return np.asarray(recon.nrmse(images, truth, dimensions=3)).tolist()
