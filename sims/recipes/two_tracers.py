"""Two tracers in one scan of several frames, which their decay and the time of the second injection tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from emrecon.projectors import isotope

from ..datasets.reading import Field
from ..noise import generator, poisson
from ..phantoms.bodies import with_uptake
from ..phantoms.phantom import Phantom
from ..simulators.simulator import Expectation, Simulator, item_seed
from .recipe import RecipeSource, Reconstruct
from .tables import Recipe, SecondTable

_PARTS = ("trues", "scatter", "randoms")


def source_of(recipe: Recipe, n: int = 0, reconstruct: Reconstruct | None = None) -> RecipeSource | TwoTracerSource:
    """Return the samples of a recipe: of one tracer, or of two where it has a table [second]."""
    return RecipeSource(recipe, n, reconstruct) if recipe.second is None else TwoTracerSource(recipe, n)


def frame_weights(radionuclide: str, table: SecondTable) -> tuple[tuple[float, float], ...]:
    """Return the mean activity of both tracers in every frame over that at their injection, (frames, 2).

        w_fk = mean over frame f of 2^(-(t - t_k) / T_k),      0 before t_k

    The first tracer is there from the beginning, t_1 = 0; `delay` is t_2.
    """
    edges = np.concatenate([[0.0], np.cumsum(table.frames)])
    found = []
    for name, at in ((radionuclide, 0.0), (table.radionuclide, table.delay)):
        rate = math.log(2) / isotope(name).half_life
        since = np.maximum(edges - at, 0)
        found.append(np.diff(-np.expm1(-rate * since) / rate) / np.diff(edges))
    return tuple((float(a), float(b)) for a, b in zip(*found))


@dataclass(frozen=True, eq=False)
class TwoTracerSource:
    """The samples of a recipe with a table [second]: frames of one scan, and the images of both tracers.

        y_f ~ Poisson( sum over k of w_fk A_f x_k + r_f ),      x_k activity at the injection of tracer k

    Fields are those of `RecipeSource` with an axis of frames for counts, expected counts, background and factors, and
    one of the two tracers for the truth. The body is the same for both tracers; each has its own uptake, and lesions
    take up each tracer as they like. Scatter and randoms of a frame are shared out as the trues are.

    Args:
        recipe : of PET, phantoms of kind "torso", one level of counts, exact backgrounds.
        n : how many samples (default: the recipe's).

    Raises ValueError for other recipes.

    Source: after the single-scan dual-tracer studies that Kadrmas & Hoffman 2013, Phys Med Biol 58:R37 review.
    """

    recipe: Recipe
    n: int = 0
    samples_per_phantom: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", self.n or self.recipe.n)
        require_two_tracers(self.recipe)

    @property
    def table(self) -> SecondTable:
        """The second tracer."""
        assert self.recipe.second is not None
        return self.recipe.second

    @cached_property
    def first(self) -> RecipeSource:
        """The same recipe with the first tracer alone."""
        outputs = tuple(name for name in self.recipe.outputs if name in ("expected", "background", "factors", "mu"))
        counts = self.recipe.counts.model_copy(update={"total": None})
        update = {"second": None, "outputs": outputs or ("expected",), "counts": counts}
        return RecipeSource(self.recipe.model_copy(update=update), self.n)

    @property
    def split(self) -> Mapping[str, int]:
        """How many consecutive samples each part has."""
        return self.first.split

    @property
    def batch(self) -> int:
        """How many samples are simulated together."""
        return self.first.batch

    @property
    def is_flat(self) -> bool:
        """Whether images have one slice."""
        return self.first.is_flat

    @property
    def simulator(self) -> Simulator:
        """The scanner."""
        return self.first.simulator

    @property
    def weights(self) -> tuple[tuple[float, float], ...]:
        """See `frame_weights`."""
        return frame_weights(self.simulator.radionuclide, self.table)

    def describe(self) -> dict[str, object]:
        """Return every parameter and seed, for JSON."""
        return {**self.recipe.model_dump(mode="json"), "n": self.n}

    @cached_property
    def fields(self) -> Mapping[str, Field]:
        """Shape, type and unit of every output."""
        of_one = RecipeSource(self.recipe.model_copy(update={"second": None}), self.n).fields
        lead = {"truth": 2} | dict.fromkeys(("counts", "expected", "background", "factors"), len(self.table.frames))
        return {
            name: Field((lead[name], *one.shape), one.dtype, one.unit, one.description) if name in lead else one
            for name, one in of_one.items()
        }

    def samples(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the samples of some indices, each field (len(indices), ``*shape``)."""
        bodies = [self.bodies(int(i)) for i in indices]
        expected = [self.first._expected([pair[k] for pair in bodies], indices) for k in range(2)]
        made = [self._sample(int(i), expected[0][n], expected[1][n]) for n, i in enumerate(indices)]
        return {name: np.stack([sample[name] for sample in made]) for name in self.fields}

    def bodies(self, index: int) -> tuple[Phantom, Phantom]:
        """Return the body of a sample with the first tracer, and with the second."""
        drawn = self.first.draw(index).phantom
        assert isinstance(drawn, Phantom)
        return drawn, with_uptake(drawn, self.table.uptake, item_seed(self.recipe.seed, index, "second tracer"))

    def _sample(self, index: int, first: Expectation, second: Expectation) -> dict[str, np.ndarray]:
        weights, seconds = np.asarray(self.weights), np.asarray(self.table.frames)
        parts = weights * seconds[:, None]  # (frames, tracers)
        sums = np.array([float(e.total.sum(dtype=float)) for e in (first, second)])
        scale = self._counts(index) / (parts.sum(0) * sums)
        shape = (-1, *[1] * len(self.simulator.geometry.shape))

        def of_frames(name: str) -> np.ndarray:
            both = [np.asarray(getattr(e, name), np.float64) for e in (first, second)]
            shares = (parts * scale).T
            return np.asarray(sum(s.reshape(shape) * values[None] for s, values in zip(shares, both)))

        trues, scatter, randoms = (of_frames(name) for name in _PARTS)
        total = trues + scatter + randoms
        decayed = isotope(self.simulator.radionuclide).mean_decay(self.simulator.duration) * self.simulator.duration
        factors = np.broadcast_to(first.factors, self.simulator.geometry.shape) * (seconds / decayed).reshape(shape)
        seeds = [item_seed(self.recipe.seed, index, f"noise of frame {f}") for f in range(len(seconds))]
        noisy = self.recipe.counts.noise
        counts = np.stack([poisson(t, s) for t, s in zip(total, seeds)]) if noisy else total
        out = {
            "level_counts": np.array([total.sum()]),
            "counts": counts,
            "expected": total,
            "background": self.simulator.mismatch.background * (scatter + randoms),
            "factors": factors,
            # of each tracer: what stands for one count of its frames, over how much of it decays in the usual scan
            "truth": np.stack([e.truth * s * decayed for e, s in zip((first, second), scale)]),
            "mu": first.mu,
        }
        return {name: np.asarray(out[name]).reshape(f.shape).astype(f.dtype) for name, f in self.fields.items()}

    def _counts(self, index: int) -> np.ndarray:
        """The expected counts of both tracers in all frames."""
        total = self.recipe.counts.total
        assert total is not None
        n = float(self.first._drawn(total, "counts", [index], logarithmic=True)[0])
        low, high = self.table.share
        share = float(generator(item_seed(self.recipe.seed, index, "share of the second tracer")).uniform(low, high))
        return np.array([(1 - share) * n, share * n])


def require_two_tracers(recipe: Recipe) -> None:
    """Raise ValueError, in the words of the recipe's keys, for a recipe that cannot have a second tracer."""
    table, pet = recipe.second, recipe.pet
    if table is None:
        raise ValueError("two tracers need a table [second]")
    if pet is None or recipe.phantom.kind != "torso":
        raise ValueError('a second tracer is for PET and phantoms of kind "torso"')
    if recipe.counts.total is None or len(recipe.counts.levels) > 1:
        raise ValueError("a second tracer needs a total of counts, and one level")
    if pet.dead_time or recipe.reconstruction is not None:
        raise ValueError("a scan of two tracers has no dead time and no reconstruction")
    if (recipe.background.scatter, recipe.background.randoms) != ("exact", "exact"):
        raise ValueError("a scan of two tracers has exact backgrounds")
    known = {"counts", "expected", "background", "factors", "truth", "mu"}
    if other := sorted(set(recipe.outputs) - known):
        raise ValueError(f"a scan of two tracers has no output {other[0]!r}; choose from {', '.join(sorted(known))}")
    if not 0 < table.share[0] <= table.share[1] < 1:
        raise ValueError(f"share must run from above 0 to below 1, got {list(table.share)}")
    weights = np.asarray(frame_weights(pet.radionuclide, table))
    singular = np.linalg.svd(weights / np.linalg.norm(weights, axis=0).clip(min=1e-300), compute_uv=False)
    if len(weights) < 2 or not singular[-1] > 1e-3:
        raise ValueError(
            "frames do not tell the tracers apart: two frames at least, and other half-lives or a delay that is longer "
            "than the first frame"
        )
