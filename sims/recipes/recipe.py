"""Recipes of training data: typed descriptions of phantoms, scanner, counts and outputs, and the samples they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np

from emrecon.projectors import (
    DeadTime,
    EffectiveSource,
    EnergyWindow,
    ImageGrid,
    LinearResponse,
    PETScanner,
    PETSinogram,
    SPECTGeometry,
    collimator,
    isotope,
)
from emrecon.projectors.core.memory import available_memory, in_words
from emrecon.projectors.core.texts import read_text
from emrecon.projectors.spect.collimation import Response

from ..datasets.reading import Field
from ..noise import generator
from ..phantoms.bodies import with_uptake
from ..phantoms.phantom import Phantom
from ..simulators.backgrounds import BackgroundEstimate
from ..simulators.mismatch import Mismatch
from ..simulators.pet import ConvolutionScatter, PETSimulator, Randoms, SingleScatter, random_normalisation
from ..simulators.simulator import Body, Expectation, Simulation, Simulator, item_seed, shortened
from ..simulators.spect import ConvolvedScatter, SPECTSimulator
from .random_bodies import Drawn
from .recipe_file import complain, decode
from .scanners import named_scanner, own_scanner
from .second_tracer import require_two_tracers
from .tables import OUTPUTS, PETTable, Recipe, ReconstructionTable, RingTable, SPECTTable

Reconstruct = Callable[[Sequence[Simulation], "ReconstructionTable"], np.ndarray]

_HISTORIES = 2_000_000  # decays that are followed for multiple scatter
_PARTS = ("trues", "scatter", "randoms", "factors", "truth", "mu")  # arrays of an `Expectation`
_MOST_VALUES = 2**31  # of an image or of the data of one sample: 8 GiB each
_ARRAYS = 4  # of that size at once: activity, attenuation, what is expected, what is measured


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with the library."""
    found = (entry.name for entry in files(__package__).iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(name.removesuffix(".toml").replace("recipe_", "") for name in found))


def recipe_titles() -> dict[str, tuple[int, str]]:
    """Return the number of samples and the description of every recipe that comes with the library, by its name."""
    read = {name: decode(_text_of_the_library(name), Recipe, f"{name}.toml") for name in recipe_names()}
    return {name: (recipe.n, recipe.description) for name, recipe in read.items()}


def _text_of_the_library(name: str) -> str:
    return (files(__package__) / f"recipe_{name}.toml").read_text("utf-8")


def load_recipe(recipe: str | Path) -> Recipe:
    """Return a recipe by name, one of `recipe_names()`, or from a TOML file.

    Raises RecipeError, naming the line, for what is not a recipe or cannot be simulated; FileNotFoundError.
    """
    if str(recipe) in recipe_names():
        return _recipe_of_the_library(str(recipe))
    path = Path(recipe)
    if not path.exists():
        raise FileNotFoundError(
            f"unknown recipe {str(recipe)!r}; choose from {', '.join(recipe_names())}, or name a file"
        )
    return parse_recipe(read_text(path), str(path))


@cache
def _recipe_of_the_library(name: str) -> Recipe:
    """Return a recipe by its name; the checks draw a phantom, so one file is checked once."""
    return parse_recipe(_text_of_the_library(name), f"{name}.toml")


def parse_recipe(text: str, name: str = "recipe") -> Recipe:
    """Return the recipe that a TOML text describes; raises RecipeError as `load_recipe` does."""
    made = decode(text, Recipe, name)
    for keys, build in _checks(made):
        try:
            build()
        except (ValueError, TypeError, KeyError, OSError, OverflowError, MemoryError) as error:
            raise complain(name, text, keys, error) from error
    return made


def _checks(recipe: Recipe) -> list[tuple[list[str], Callable[[], object]]]:
    """What has to work before anything is simulated, with the table to blame."""
    scanner, flat = "spect" if recipe.spect is not None else "pet", recipe.grid.shape[2] == 1
    first = cache(lambda: recipe.phantom.draw(0, flat).phantom)  # drawn once: lesions of a torso take a second
    return [
        ([scanner], lambda: _one_scanner(recipe)),
        (["outputs"], lambda: _known_outputs(recipe)),
        (["split"], lambda: split_of(recipe, recipe.n)),
        (["counts", "total"], lambda: _rising(recipe.counts.total)),
        (["pet", "scatter_fraction"], lambda: _rising(recipe.pet.scatter_fraction if recipe.pet else None)),
        (["pet", "randoms_fraction"], lambda: _rising(recipe.pet.randoms_fraction if recipe.pet else None)),
        (["grid"], lambda: _affordable_grid(recipe)),
        (["spect"], lambda: _affordable_views(recipe.spect)),
        (["pet", "ring"], lambda: _affordable_ring(recipe.pet.ring if recipe.pet else None)),
        (["phantom"], first),
        ([scanner], lambda: simulator_of(recipe)),
        ([scanner], lambda: simulator_of(recipe).check(first())),
        (["background"], lambda: background_of(recipe).check(simulator_of(recipe))),
        (["phantom"], lambda: _visible(recipe, first())),
        (["reconstruction"], lambda: _enough_views(recipe)),
        (["second"], lambda: _two_tracers(recipe)),
    ]


def _one_scanner(recipe: Recipe) -> None:
    if (recipe.spect is None) == (recipe.pet is None):
        raise ValueError("a recipe needs exactly one scanner: a table [spect] or a table [pet]")


def _known_outputs(recipe: Recipe) -> None:
    unknown = [name for name in recipe.outputs if name not in OUTPUTS]
    if unknown or not recipe.outputs:
        raise ValueError(f"unknown output {unknown}; choose from {', '.join(OUTPUTS)}")
    if "reconstruction" in recipe.outputs and recipe.reconstruction is None:
        raise ValueError('the output "reconstruction" needs a table [reconstruction]')
    if "guide" in recipe.outputs and not recipe.phantom.has_guide:
        raise ValueError(f"phantoms of kind {recipe.phantom.kind!r} have no guide")


def _affordable_grid(recipe: Recipe) -> None:
    refine = 1 if recipe.mismatch is None else recipe.mismatch.refine
    n = math.prod(recipe.grid.shape) * refine ** (2 if recipe.grid.shape[2] == 1 else 3)
    _require_room(n, f"shape {list(recipe.grid.shape)}: images of the simulation")


def _affordable_views(table: SPECTTable | None) -> None:
    if table is not None:
        n = table.views * math.prod(table.bins)
        _require_room(n, f"{table.views} views of {list(table.bins)} bins: projections")


def _affordable_ring(table: RingTable | None) -> None:
    if table is not None:
        n = (table.sides * table.crystals_per_side) ** 2 * table.rings
        _require_room(n, f"{table.sides} sides of {table.crystals_per_side} crystals: pairs")


def _require_room(n: int, what: str) -> None:
    """Raise ValueError where n values do not fit in memory, or in the kernels' whole numbers."""
    n_bytes, free = 4.0 * _ARRAYS * n, available_memory()
    if n > _MOST_VALUES or n_bytes > free:
        raise ValueError(f"{what} do not fit in memory: about {in_words(n_bytes)}, and {in_words(free)} are free")


def _visible(recipe: Recipe, phantom: Body) -> None:
    grid = simulator_of(recipe).grid
    coarse = ImageGrid(
        tuple(-(-n // 4) for n in grid.shape),  # type: ignore[arg-type]
        tuple(d * n / -(-n // 4) for n, d in zip(grid.shape, grid.voxel_size)),  # type: ignore[arg-type]
        tuple(o + (n / -(-n // 4) - 1) / 2 * d for n, d, o in zip(grid.shape, grid.voxel_size, grid.origin)),  # type: ignore[arg-type]
    )
    if not phantom.activity(coarse).any():
        raise ValueError("there is no activity in the grid; is it too small, or are the slices beside the phantom?")


def _enough_views(recipe: Recipe) -> None:
    n_views = simulator_of(recipe).geometry.n_views
    if recipe.reconstruction is not None and recipe.reconstruction.subsets > n_views:
        raise ValueError(f"{recipe.reconstruction.subsets} subsets of {n_views} views; take no more subsets than views")


def _two_tracers(recipe: Recipe) -> None:
    if recipe.second is not None:
        require_two_tracers(recipe)
        body = recipe.phantom.draw(0, recipe.grid.shape[2] == 1).phantom
        assert isinstance(body, Phantom)  # of a torso
        with_uptake(body, recipe.second.uptake, 0)


def _rising(values: float | tuple[float, float] | None) -> None:
    if isinstance(values, tuple) and values[0] > values[1]:
        raise ValueError(f"a range runs from low to high, got {list(values)}")


def split_of(recipe: Recipe, n: int) -> dict[str, int]:
    """Return how many of n samples each part of the split has: shares of the whole, the rest to the largest part."""
    total = sum(recipe.split.values())
    if not recipe.split or abs(total - 1) > 1e-6:
        raise ValueError(f"the shares of the split must add up to 1, got {total:g}")
    parts = {name: int(share * n + 1e-9) for name, share in recipe.split.items()}
    parts[max(recipe.split, key=recipe.split.__getitem__)] += n - sum(parts.values())
    return parts


def simulator_of(recipe: Recipe) -> Simulator:
    """Return the scanner of a recipe; raises ValueError where it is impossible."""
    shape, size = recipe.grid.shape, recipe.grid.voxel_size
    mismatch = Mismatch.none() if recipe.mismatch is None else Mismatch(**dict(recipe.mismatch))
    centred = tuple(-(n - 1) / 2 * d for n, d in zip(shape, size))
    if recipe.spect is not None:
        return _spect(recipe.spect, ImageGrid(shape, size, centred), mismatch)  # type: ignore[arg-type]
    assert recipe.pet is not None
    return _pet(recipe.pet, recipe, mismatch)


def background_of(recipe: Recipe) -> BackgroundEstimate:
    """Return how the background of a recipe's scans is known."""
    return BackgroundEstimate(**dict(recipe.background))


def _spect(table: SPECTTable, grid: ImageGrid, mismatch: Mismatch) -> SPECTSimulator:
    geometry = SPECTGeometry.circular(
        table.views,
        table.radius,
        table.bins,
        table.pixel_size,
        start=table.start,
        direction=table.direction,
        extent=table.extent,
    )
    window = table.energy_window
    if table.scatter and window is None:
        raise ValueError("scatter needs an energy_window in keV")
    if (table.scatter == "convolution") != (table.scatter_fraction is not None):
        raise ValueError('scatter = "convolution" and a scatter_fraction need each other')
    if table.windows and not table.scatter:
        raise ValueError("windows need scatter: what they hold follows from it")
    energy = isotope(table.radionuclide).energy_in(window)
    scatter: EffectiveSource | ConvolvedScatter | None = None
    if table.scatter and window:
        scatter = EffectiveSource(window, energy)
        scatter = ConvolvedScatter(scatter, table.scatter_fraction) if table.scatter_fraction is not None else scatter
    return SPECTSimulator(
        grid,
        geometry,
        _response(table),
        table.sensitivity,
        table.duration,
        table.radionuclide,
        scatter,
        tuple(EnergyWindow(*limits, name=f"window {k}") for k, limits in enumerate(table.windows, 1)),
        room=table.room,
        dead_time=table.dead_time and DeadTime(table.dead_time),  # type: ignore[arg-type]
        mismatch=mismatch,
    )


def _response(table: SPECTTable) -> Response | None:
    if table.collimator and table.response:
        raise ValueError("give a collimator or a response, not both")
    if table.response:
        return LinearResponse(*table.response)
    energy = isotope(table.radionuclide).energy_in(table.energy_window)
    return collimator(table.collimator).response(energy, table.intrinsic_fwhm) if table.collimator else None


def _pet(table: PETTable, recipe: Recipe, mismatch: Mismatch) -> PETSimulator:
    scanner = _scanner(table)
    if table.tof and scanner.time_of_flight is None:
        raise ValueError(f"tof: {scanner} has no time of flight; {_TOF_ADVICE[table.ring is None]}")
    tof = scanner.time_of_flight.mashed(table.tof_mashing) if table.tof and scanner.time_of_flight else None
    sinogram = PETSinogram(
        scanner,
        table.max_ring_difference,  # type: ignore[arg-type]
        table.span,
        n_radial=table.n_radial,  # type: ignore[arg-type]
        mashing=table.mashing,
        tof=tof,
    )
    shape, size = recipe.grid.shape, recipe.grid.voxel_size
    middle = float(scanner.rings.mean())
    origin = (-(shape[0] - 1) / 2 * size[0], -(shape[1] - 1) / 2 * size[1], middle - (shape[2] - 1) / 2 * size[2])
    fraction = table.scatter_fraction
    if table.histories is not None and table.scatter != "histories":
        raise ValueError(f'histories are for scatter = "histories", and scatter is "{table.scatter}"')
    scatter: ConvolutionScatter | SingleScatter | None = None
    if table.scatter == "convolution":
        if fraction is None:
            raise ValueError('scatter = "convolution" needs a scatter_fraction')
        scatter = ConvolutionScatter(_highest(fraction))
    elif table.scatter in ("single", "histories"):
        followed = table.histories or _HISTORIES if table.scatter == "histories" else 0
        scatter = SingleScatter(None if fraction is None else _highest(fraction), histories=followed)
    elif isinstance(fraction, tuple):
        raise ValueError(f'scatter = "none" leaves nothing to scale to a scatter_fraction of {list(fraction)}')
    true = random_normalisation(scanner, recipe.seed, table.crystal_spread) if table.crystal_spread else None
    seed = item_seed(recipe.seed, 0, "normalisation error")
    given = random_normalisation(scanner, seed, table.normalisation_error, true) if table.normalisation_error else None
    return PETSimulator(
        ImageGrid(shape, size, origin),
        sinogram,
        table.sensitivity,
        table.duration,
        table.radionuclide,
        table.resolution,
        scatter,
        Randoms(_highest(table.randoms_fraction), table.randoms) if _highest(table.randoms_fraction) else None,
        true,
        given,
        table.dead_time and DeadTime(table.dead_time),  # type: ignore[arg-type]
        mismatch,
    )


_TOF_ADVICE = (
    "give [pet.ring] a key tof = [bins, ps of a bin, FWHM in ps]",
    "choose a scanner that has it, or a table [pet.ring] with a key tof",
)


def _scanner(table: PETTable) -> PETScanner:
    if (table.scanner is None) == (table.ring is None):
        raise ValueError("give either a scanner by name or a table [pet.ring]")
    if table.ring is not None:
        if table.rings is not None:
            raise ValueError("rings is for a scanner by name; a table [pet.ring] has rings of its own")
        return own_scanner(dict(table.ring))
    return named_scanner(str(table.scanner), table.rings)


def _highest(value: float | tuple[float, float]) -> float:
    """A fraction, or the end of its range: what is simulated before it is scaled."""
    return float(value[1] if isinstance(value, tuple) else value)


def _thin(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1] if shape[-1] == 1 else shape


@dataclass(frozen=True, eq=False)
class RecipeSource:
    """The samples of a recipe, by index: a `Source` of `write_dataset` and `SimulatedDataset`.

    Args:
        recipe : what to simulate.
        n : how many samples (default: the recipe's).
        reconstruct : makes the images (levels, nx, ny, nz) of the output "reconstruction" from the scans of all levels;
            `emrecon simulate` brings one.

    Sample i depends on the recipe, its seed and i alone: on no other sample, batch, worker or rank.

    Raises ValueError where the recipe wants reconstructions and nothing makes them.
    """

    recipe: Recipe
    n: int = 0
    reconstruct: Reconstruct | None = None
    samples_per_phantom: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", self.n or self.recipe.n)
        if self.recipe.second is not None:
            raise ValueError(f"recipe {self.recipe.name!r} has two tracers; `source_of` makes its samples")
        if "reconstruction" in self.recipe.outputs and self.reconstruct is None:
            raise ValueError(
                f"recipe {self.recipe.name!r} needs reconstructions: pass reconstruct=, or use `emrecon simulate`"
            )

    @property
    def split(self) -> Mapping[str, int]:
        """How many consecutive samples each part has."""
        return split_of(self.recipe, self.n)

    @property
    def batch(self) -> int:
        """How many samples are simulated together."""
        return self.recipe.batch or (64 if self.is_flat else 1)

    @property
    def is_flat(self) -> bool:
        """Whether images have one slice."""
        return self.recipe.grid.shape[2] == 1

    @cached_property
    def simulator(self) -> Simulator:
        """The scanner."""
        return simulator_of(self.recipe)

    def describe(self) -> dict[str, object]:
        """Return every parameter and seed, for JSON."""
        made, digest = self.recipe.model_dump(mode="json"), self.recipe.phantom.digest()
        if digest is not None:  # or a set could go on with another file of the same name
            made["phantom"]["sha256"] = digest
        return {**made, "n": self.n}

    @cached_property
    def fields(self) -> Mapping[str, Field]:
        """Shape, type and unit of every output; one slice or one plane has no axis, and neither has one level."""
        image, data = (_thin(shape) for shape in (self.recipe.grid.shape, self.simulator.geometry.shape))
        levels = (len(self._levels),) if len(self._levels) > 1 else ()
        counts = "uint32" if self.recipe.counts.noise else "float32"
        kinds = {
            "counts": ((*levels, *data), counts, "counts"),
            "expected": (data, "float32", "counts"),
            "background": (data, "float32", "counts"),
            "scatter": (data, "float32", "counts"),
            "randoms": (data, "float32", "counts"),
            "factors": (data, "float32", "counts / (kBq/mL) of a projection"),
            "truth": (image, "float32", "kBq/mL"),
            "mu": (image, "float32", "1/cm"),
            "ct": (image, "int16", "HU"),
            "guide": (image, "float32", ""),
            "labels": (image, "int16", ""),
            "lesions": (image, "float32", ""),
            "reconstruction": ((*levels, *image), "float32", "kBq/mL"),
        }
        made = {name: Field(*kinds[name], OUTPUTS[name]) for name in self.recipe.outputs}
        return made | {
            "level_counts": Field((len(self._levels),), "float32", "counts", "expected counts of each level")
        }

    def samples(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the samples of some indices, each field (len(indices), ``*shape``)."""
        drawn = [self.draw(int(i)) for i in indices]
        expected = self._expected([d.phantom for d in drawn], indices)
        results = [self._sample(int(i), d, expected[k]) for k, (i, d) in enumerate(zip(indices, drawn))]
        return {name: np.stack([result[name] for result in results]) for name in self.fields}

    def draw(self, index: int) -> Drawn:
        """Return the phantom of a sample."""
        return self.recipe.phantom.draw(item_seed(self.recipe.seed, index, "phantom"), self.is_flat)

    def simulations(self, index: int) -> tuple[Simulation, ...]:
        """Return the scans of a sample, one for each level."""
        return self._simulations(index, self._expected([self.draw(index).phantom], [index])[0])

    @property
    def _levels(self) -> tuple[float, ...]:
        return self.recipe.counts.levels

    def _expected(self, phantoms: list[Body], indices: Sequence[int]) -> Expectation:
        expected, table = self.simulator.expect(phantoms), self.recipe.pet
        if table is not None:
            fractions = {"scatter": table.scatter_fraction, "randoms": table.randoms_fraction}
            ranges = {
                name: self._drawn(value, name, indices) for name, value in fractions.items() if isinstance(value, tuple)
            }
            expected = expected.with_fractions(**ranges) if ranges else expected
        total = self.recipe.counts.total
        return (
            expected if total is None else expected.with_counts(self._drawn(total, "counts", indices, logarithmic=True))
        )

    def _drawn(
        self, value: float | tuple[float, float], purpose: str, indices: Sequence[int], logarithmic: bool = False
    ) -> np.ndarray:
        """One number for each sample, even in a range (in its log for counts)."""
        low, high = value if isinstance(value, tuple) else (value, value)
        u = np.array([generator(item_seed(self.recipe.seed, int(i), purpose)).uniform() for i in indices])
        return low * (high / low) ** u if logarithmic else low + (high - low) * u

    def _simulations(self, index: int, expected: Expectation) -> tuple[Simulation, ...]:
        seed = item_seed(self.recipe.seed, index, "noise")
        scan = self.simulator.scan(expected, seed)
        if not self.recipe.counts.noise:
            scan = replace(scan, counts=expected.total)
        estimate = background_of(self.recipe)
        if not estimate.is_exact:
            parts = {part: np.asarray(getattr(expected, part))[None] for part in _PARTS}
            batch = Expectation(**parts, simulator=expected.simulator)  # of one scan
            found = estimate(batch, np.asarray(scan.counts)[None], [item_seed(self.recipe.seed, index, "background")])
            scan = replace(scan, background=found.total[0])
        if not self.recipe.counts.noise:
            return tuple(Simulation(shortened(scan, f), expected.shorter(f)) for f in self._levels)
        return Simulation(scan, expected).levels(self._levels, seed)

    def _sample(self, index: int, drawn: Drawn, expected: Expectation) -> dict[str, np.ndarray]:
        wanted = self.recipe.outputs
        out: dict[str, np.ndarray] = {"level_counts": float(expected.total.sum(dtype=float)) * np.array(self._levels)}
        out["background"] = expected.background
        estimated = "background" in wanted and not background_of(self.recipe).is_exact
        if estimated or {"counts", "reconstruction"} & set(wanted):
            scans = self._simulations(index, expected)
            if estimated:  # of the whole scan's counts, in its own unit
                out["background"] = np.asarray(scans[0].scan.background) / np.float32(self._levels[0])
            if "counts" in wanted:
                out["counts"] = np.stack([s.scan.counts for s in scans])
            if "reconstruction" in wanted:
                out["reconstruction"] = self.reconstruct(scans, self.recipe.reconstruction)  # type: ignore[misc, arg-type]
        out |= {"expected": expected.total, "scatter": expected.scatter, "randoms": expected.randoms}
        out["factors"] = expected.factors
        out |= {"truth": expected.truth, "mu": expected.mu}
        for name in {"ct", "guide", "labels", "lesions"} & set(wanted):
            out[name] = drawn.image(name, self.simulator.grid)
        return {name: self._shaped(name, out[name]) for name in self.fields}

    def _shaped(self, name: str, values: np.ndarray) -> np.ndarray:
        field_ = self.fields[name]
        values = np.asarray(values)
        if name in ("factors", "scatter", "randoms"):
            values = np.broadcast_to(values, self.simulator.geometry.shape)
        return np.ascontiguousarray(values.reshape(field_.shape).astype(field_.dtype, copy=False))
