"""Two tracers in one scan of several frames, which their decay and the time of the second injection tell apart."""

from __future__ import annotations

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
from .random_bodies import Drawn
from .recipe import RecipeSource, Reconstruct
from .second_tracer import frame_weights, require_two_tracers
from .tables import Recipe, SecondTable

_PARTS = ("trues", "scatter", "randoms")


def source_of(recipe: Recipe, n: int = 0, reconstruct: Reconstruct | None = None) -> RecipeSource | TwoTracerSource:
    """Return the samples of a recipe: of one tracer, or of two where it has a table [second]."""
    return RecipeSource(recipe, n, reconstruct) if recipe.second is None else TwoTracerSource(recipe, n)


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

    def draw(self, index: int) -> Drawn:
        """Return the phantom of a sample, with the first tracer."""
        return self.first.draw(index)

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
