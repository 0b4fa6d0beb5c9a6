"""Samples of a recipe that are simulated once and kept: for training, for the choice of settings, and for the test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrecon import __version__, sims
from emrecon.unrolled import Preparation

from ..kept import kept

_TOGETHER = 50  # samples of a file
_FIELDS = ("expected", "background", "factors", "mu", "truth")

Pair = tuple[dict[str, Any], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Samples:
    """The scans of a recipe, by number: those of training first, then of validation, then of the test.

    Counts are drawn anew from what is expected, by seed and level, so that every step of a training has its own.

    Args:
        recipe : of `sims`, with any outputs.
        n_train, n_validation, n_test : how many there are.
        folder : where they are kept; None keeps them in memory.
        noise : False gives expected counts.
        frames : of scans that a network sees together, of several tracers.
    """

    recipe: sims.Recipe
    n_train: int
    n_validation: int
    n_test: int
    folder: Path | None = None
    noise: bool = True
    frames: int | None = None
    _kept: dict[int, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    @cached_property
    def source(self) -> sims.RecipeSource | sims.TwoTracerSource:
        """What simulates them."""
        recipe = self.recipe.model_copy(update={"outputs": _FIELDS})
        return sims.source_of(recipe, self.n_train + self.n_validation + self.n_test)

    def describe(self) -> dict[str, Any]:
        """Return what decides the samples, for JSON."""
        return {"recipe": self.recipe.model_dump(mode="json"), "version": __version__}

    def of(self, split: str, which: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return samples of a part by number, each field (B, ...).

        Raises ValueError for numbers that the part has not.
        """
        first, n = self._range(split)
        if len(which) == 0 or min(which) < 0 or max(which) >= n:
            raise ValueError(f"{self.recipe.name}: {split} has samples 0 to {n - 1}, got {list(which)[:3]}...")
        files = [(self._file((first + i) // _TOGETHER), (first + i) % _TOGETHER) for i in which]
        return {name: torch.as_tensor(np.stack([file[name][k] for file, k in files])) for name in _FIELDS}

    def pair(self, split: str, which: Sequence[int], seed: int, level: float = 1.0) -> Pair:
        """Return (arguments of a network, truth) of samples, with the counts of a seed at a part of the recipe's.

        Images keep the unit of the truth at every level.
        """
        fields = self.of(split, which)
        expected = level * fields["expected"]
        counts = torch.poisson(expected, torch.Generator().manual_seed(seed)) if self.noise else expected
        scaled = {"background": level * fields["background"], "factors": level * fields["factors"]}
        return self._prepare({**fields, **scaled, "counts": counts})

    def batches(self, size: int, seed: int) -> Any:
        """Return epoch -> batches of the training samples, in an order and with counts of (seed, epoch)."""

        def of_epoch(epoch: int) -> Iterator[Pair]:
            order = sims.generator(seed, f"order of epoch {epoch}").permutation(self.n_train)
            for k in range(self.n_train // size):
                which = [int(i) for i in order[k * size : (k + 1) * size]]
                yield self.pair("train", which, seed=1_000_003 * seed + 10_007 * epoch + k)

        return of_epoch

    def pairs(self, split: str, n: int, *, size: int = 25, seed: int = 5, level: float = 1.0) -> Iterator[Pair]:
        """Yield the first n samples of a part, in batches."""
        n = min(n, self._range(split)[1])
        for k in range(0, n, size):
            yield self.pair(split, range(k, min(k + size, n)), seed + k, level)

    def _range(self, split: str) -> tuple[int, int]:
        sizes = {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}
        first = sum(list(sizes.values())[: list(sizes).index(split)])
        return first, sizes[split]

    @cached_property
    def _prepare(self) -> Preparation:
        return Preparation(self.source.simulator, frames=self.frames)

    @cached_property
    def _own(self) -> Path | None:
        if self.folder is None:
            return None
        about = json.dumps(self.describe(), sort_keys=True, default=str)
        return self.folder / f"{self.recipe.name}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"

    def _file(self, k: int) -> dict[str, np.ndarray]:
        if k not in self._kept:
            path = None if self._own is None else self._own / f"{k:05d}.npz"
            self._kept[k] = kept(path, lambda: self._made(k))
        return self._kept[k]

    def _made(self, k: int) -> dict[str, np.ndarray]:
        last = min((k + 1) * _TOGETHER, self.n_train + self.n_validation + self.n_test)
        made = self.source.samples(range(k * _TOGETHER, last))
        return {name: np.asarray(made[name], np.float32) for name in _FIELDS}
