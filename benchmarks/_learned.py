"""The two scans of quality_learned.py, their brains, and every network with how it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from emrecon import recon, sims, unrolled
from emrecon.projectors import AcquisitionModel
from emrecon.sims.phantoms.brain import UPTAKES
from emrecon.sims.recipes.recipe import simulator_of
from emrecon.unrolled.training.loop import Settings, Validation, train
from emrecon.unrolled.training.records import best_weights
from emrecon.unrolled.training.schedules import warmup_cosine

INITIAL = (2, 6)  # passes and subsets of the OSEM that every unrolled network starts from
FIRST_STEPS = {"pet": 1000, "spect": 400}  # of a shared denoiser alone
STEPS = 1200  # of a whole network
RATE, EMA, CLIP = 2e-3, 0.99, 1.0
_FIELDS = ("expected", "background", "factors", "truth", "mu", "guide", "lesions")
_FLOOR = 1e-3  # least background over the mean counts in a bin


# ---- scans -----------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A batch of scans: likelihood, guide, truth and attenuation map, tensors (B, x, y, 1)."""

    likelihood: recon.PoissonLikelihood
    guide: torch.Tensor
    truth: torch.Tensor
    mu: torch.Tensor


class Regions(NamedTuple):
    """A lesion of one brain: who shows it, whether it is hot, its voxels and the ring around it.

    reference : 1.5 x grey - white matter, a hot lesion's contrast, in the unit of the truth.
    """

    seen: str
    hot: bool
    inside: torch.Tensor
    around: torch.Tensor
    reference: float


@dataclass(frozen=True, eq=False)
class World:
    """One of the two scans, with its samples in a folder."""

    name: str
    folder: Path

    @cached_property
    def recipe(self) -> sims.Recipe:
        """The recipe of the library, with expected counts instead of one realisation."""
        return sims.load_recipe(f"brain-{self.name}").model_copy(update={"outputs": _FIELDS})

    @cached_property
    def source(self) -> sims.RecipeSource:
        """The samples by index."""
        return sims.RecipeSource(self.recipe)

    @cached_property
    def simulator(self) -> Any:
        """The scanner."""
        return simulator_of(self.recipe)

    def prepare(self) -> None:
        """Simulate the samples, or those that are missing."""
        sims.write_dataset(self.source, self.folder, workers=1)

    def samples(self, split: str) -> dict[str, torch.Tensor]:
        """Return the samples of a part of the split, each field as one tensor, without axes of length one."""
        data = sims.Dataset(self.folder, split)
        read = data.__getitems__(list(range(len(data))))
        return {name: torch.as_tensor(np.stack([s[name] for s in read])) for name in read[0]}

    def case(self, samples: dict[str, torch.Tensor], which: Any, seed: int, level: float = 1.0) -> Case:
        """Return some of the samples as one batch, counts drawn by the seed at `level` times the counts of training.

        The expectation is the simulation's, with all that the model does not know of.
        """
        mu, truth, guide = (samples[name][which][..., None] for name in ("mu", "truth", "guide"))
        expected, background, factors = (
            level * samples[name][which][..., None] for name in ("expected", "background", "factors")
        )
        counts = torch.poisson(expected, generator=torch.Generator().manual_seed(seed))
        least = _FLOOR * expected.mean((1, 2, 3), keepdim=True)
        model = AcquisitionModel(self.projector(mu.numpy()), factors, background.maximum(least))
        return Case(recon.PoissonLikelihood(counts, model), unrolled.normalised_guide(guide), truth, mu)

    def items(self, case: Case) -> list[Case]:
        """Return each scan as a batch of one."""
        model, found = case.likelihood.model, []
        for i in range(len(case.truth)):
            one = slice(i, i + 1)
            own = AcquisitionModel(self.projector(case.mu[one].numpy()), model.factors[one], model.background[one])
            likelihood = recon.PoissonLikelihood(case.likelihood.data[one], own)
            found.append(Case(likelihood, case.guide[one], case.truth[one], case.mu[one]))
        return found

    def projector(self, mu: np.ndarray) -> Any:
        """Return the projector of a batch of attenuation maps; PET has attenuation in its factors."""
        return self._empty.with_attenuation(mu) if self.name == "spect" else self._empty

    def lesions(self, split: str, which: int, truth: torch.Tensor) -> list[Regions]:
        """Return the lesions of a sample; truth : (x, y, 1)."""
        start = {"train": 0, "validation": 1000, "test": 1050}[split]
        table: Any = self.recipe.phantom
        lesions, guide = sims.LesionRecipe(**dict(table.lesions)), sims.GuideRecipe(**dict(table.guide))
        seed = sims.item_seed(self.recipe.seed, start + which, "phantom")
        brain = sims.random_folded_brain(seed, 2, table.uptake, lesions, guide)
        uptake, grid = UPTAKES[table.uptake], self.simulator.grid
        per_unit = float(truth.sum()) / float(brain.phantom.activity(grid).sum())
        reference = per_unit * (1.5 * uptake["grey"] - uptake["white"])
        x, y, _ = grid.coordinates()
        found = []
        for lesion in brain.lesions:
            r = torch.as_tensor(np.hypot(x - lesion.centre[0], y - lesion.centre[1]))
            size = max(lesion.diameter / 2, 1.01 * grid.voxel_size[0] / math.sqrt(2))  # a voxel at least
            ring = (r > lesion.diameter / 2 + 4) & (r < lesion.diameter / 2 + 11)
            hot = lesion.activity is not None and lesion.activity > uptake["grey"]
            found.append(Regions(lesion.seen, hot, r <= size, ring, reference))
        return found

    @cached_property
    def _empty(self) -> Any:
        return self.simulator.projector(np.zeros(self.simulator.grid.shape, np.float32))


# ---- networks --------------------------------------------------------------------------------------------------------

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "MAPEM-Net": ("mapem-net", {"n_modules": 4, "width": 8, "norm": "instance"}),
    "FBSEM-Net": ("fbsem-net", {"n_modules": 4, "subsets": 2, "norm": "instance"}),
    "post-U-Net": ("post-unet", {}),
    "MAPEM-Net, detached": ("mapem-net", {"n_modules": 4, "width": 8, "norm": "instance", "grad": "detach"}),
    "FBSEM-Net, detached": ("fbsem-net", {"n_modules": 4, "subsets": 2, "norm": "instance", "grad": "detach"}),
    "EMnet": ("em-net", {"n_modules": 6, "width": 8, "norm": "instance"}),
    "LPD": ("lpd", {"n_iterations": 5, "width": 16}),
    "BCD-Net": ("bcd-net", {"n_modules": 6, "channels": 78, "alpha": [-2.3, 0.0]}),
    "BCD-Net, no MR": ("bcd-net", {"n_modules": 6, "channels": 78, "alpha": [-2.3, 0.0]}),
    "MAPEM-Net, no MR": ("mapem-net", {"n_modules": 4, "width": 8, "norm": "instance"}),
}
BLIND = ("BCD-Net, no MR", "MAPEM-Net, no MR")  # do not see the MR
BATCH = {"FBSEM-Net": 8, "FBSEM-Net, detached": 8}
SHIPPED = ("MAPEM-Net", "FBSEM-Net")


def arguments_of(name: str) -> dict[str, Any]:
    """Return what builds a network of the table, for its card."""
    architecture, options = NETWORKS[name]
    guide = {} if name in BLIND else {"guide_channels": 1}
    passes = 12 if architecture == "bcd-net" else INITIAL[0]  # it removes noise and does not sharpen
    initial = {} if architecture in ("lpd", "post-unet") else {"initial": [passes, INITIAL[1]]}
    return {"dimensions": 2, **options, **guide, **initial}


def network(name: str) -> Any:
    """Return an untrained network by its name in the table."""
    makers: dict[str, Callable[..., torch.nn.Module]] = {
        "mapem-net": unrolled.mapem_net,
        "fbsem-net": unrolled.fbsem_net,
        "bcd-net": unrolled.bcd_net,
        "em-net": unrolled.em_net,
        "lpd": unrolled.learned_primal_dual,
        "post-unet": PostUNet,
    }
    with unrolled.seeded(0):
        return makers[NETWORKS[name][0]](**arguments_of(name))


class PostUNet(torch.nn.Module):
    """A U-Net after reconstruction: the enhancement that knows no data."""

    def __init__(self, dimensions: int = 2, guide_channels: int = 0) -> None:
        super().__init__()
        body = unrolled.UNet(dimensions, 1 + guide_channels, width=16, norm="instance")
        self.denoiser = unrolled.NetworkDenoiser(body, dimensions, guide_channels)

    def forward(self, likelihood: Any, start: Any = None, *, guide: Any = None) -> torch.Tensor:
        """Return the enhanced OSEM image."""
        with torch.no_grad():
            image = osem(likelihood, 4)
            unit = unrolled.count_scale(likelihood)
        enhanced: torch.Tensor = unit * self.denoiser(image / unit, guide=guide)
        return enhanced


def osem(likelihood: recon.PoissonLikelihood, passes: int, subsets: int = 6) -> torch.Tensor:
    """Return the OSEM image after so many passes from a uniform image of the right size."""
    start = unrolled.count_scale(likelihood) * likelihood.ones_image()
    with torch.no_grad():
        image: torch.Tensor = recon.run(recon.osem(likelihood, start, subsets), passes)
    return image


# ---- training --------------------------------------------------------------------------------------------------------


def inputs(name: str, case: Case) -> dict[str, Any]:
    """Return what a network is called with."""
    return {"likelihood": case.likelihood} | ({} if name in BLIND else {"guide": case.guide})


def batches(world: World, samples: dict[str, torch.Tensor], name: str) -> Callable[[int], Iterator[Any]]:
    """Return epoch -> batches of (arguments, target): every epoch has its own order and its own noise."""
    n, size = len(samples["truth"]), BATCH.get(name, 16)

    def of_epoch(epoch: int) -> Iterator[Any]:
        order = sims.generator(epoch, "order").permutation(n)
        for k in range(n // size):
            case = world.case(samples, order[k * size : (k + 1) * size], seed=100_000 * (epoch + 1) + k)
            yield inputs(name, case), case.truth

    return of_epoch


def held_out(world: World, name: str) -> list[Any]:
    """Return the validation scans as (arguments, target)."""
    samples = world.samples("validation")
    cases = [world.case(samples, slice(0, 25), seed=1), world.case(samples, slice(25, 50), seed=2)]
    return [(inputs(name, case), case.truth) for case in cases]


def train_network(world: World, name: str, folder: Path, steps: int) -> Any:
    """Train a network and return it in eval mode; a run that was cut off goes on, a finished one is read."""
    if NETWORKS[name][0] == "bcd-net":
        return _train_layers(world, name, folder, steps)
    model = network(name)
    if NETWORKS[name][0] in ("mapem-net", "fbsem-net"):
        blind = "-blind" if name in BLIND else ""
        _train_denoiser_first(world, name, folder.with_name(f"{NETWORKS[name][0]}-first{blind}"), model)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    settings = Settings(steps, validate_every=max(steps // 6, 1), clip=CLIP, ema=EMA, folder=folder)
    records = train(
        model,
        batches(world, world.samples("train"), name),
        unrolled.Supervised(unrolled.relative_mse),
        optimiser,
        settings,
        schedule=warmup_cosine(optimiser, steps, min(40, steps // 10)),
        validate=Validation(held_out(world, name)),
        networks=[],
    )
    for record in records:
        nrmse = record.metrics["nrmse"]
        print(f"{world.name}, {name}: step {record.step}, loss {record.loss:.4f}, NRMSE {nrmse:.4f}", flush=True)
    model.load_state_dict(best_weights(folder))
    return model.eval()


def _train_denoiser_first(world: World, name: str, folder: Path, model: Any) -> None:
    """Let the denoiser that all modules share see OSEM images first: cheap, since no projector takes part."""
    samples = world.samples("train")
    n, steps = len(samples["truth"]), FIRST_STEPS[world.name]
    passes = (2, 4, 8)
    images, units = _osem_images(world, samples, passes)

    def pairs(epoch: int) -> Iterator[Any]:
        random = sims.generator(epoch, "order of the denoiser")
        order = random.permutation(n)
        for k in range(n // 16):
            which = order[16 * k : 16 * k + 16]
            unit, x = units[which], images[int(random.integers(len(passes)))][which]
            guide, truth = (samples[part][which][..., None] for part in ("guide", "truth"))
            seen = {} if name in BLIND else {"guide": unrolled.normalised_guide(guide)}
            yield {"x": x / unit, **seen}, truth / unit

    denoiser = model.denoisers[0]
    optimiser = torch.optim.Adam(denoiser.parameters(), RATE)
    settings = Settings(steps, validate_every=steps, clip=CLIP, ema=EMA, folder=folder, watch="loss")
    loss, schedule = unrolled.Supervised(unrolled.relative_mse), warmup_cosine(optimiser, steps, 40)
    for record in train(denoiser, pairs, loss, optimiser, settings, schedule=schedule, networks=[]):
        print(f"{world.name}, {name}: denoiser alone, loss {record.loss:.4f}", flush=True)
    denoiser.load_state_dict(best_weights(folder))


def _osem_images(world: World, samples: dict[str, torch.Tensor], passes: tuple[int, ...]) -> tuple[Any, torch.Tensor]:
    """OSEM images of all samples after so many passes, and the unit of each."""
    found: list[list[torch.Tensor]] = [[] for _ in passes]
    units = []
    for k in range(0, len(samples["truth"]), 25):
        case = world.case(samples, slice(k, k + 25), seed=700_000 + k)
        units.append(unrolled.count_scale(case.likelihood))
        start = units[-1] * case.likelihood.ones_image()
        with torch.no_grad():
            for iterate in recon.osem(case.likelihood, start, INITIAL[1]):
                if iterate.iteration in passes:
                    found[passes.index(iterate.iteration)].append(iterate.image)
                if iterate.iteration == passes[-1]:
                    break
    return [torch.cat(images) for images in found], torch.cat(units)


def _train_layers(world: World, name: str, folder: Path, steps: int) -> Any:
    """BCD-Net, module by module: squared errors, and thresholds of all sizes at first, for a short training."""
    samples, model = world.samples("train"), network(name)
    n = len(samples["truth"])

    def cases() -> Iterator[Any]:
        for k in range(0, n, 25):
            case = world.case(samples, slice(k, k + 25), seed=500_000 + k)
            yield inputs(name, case), case.truth

    def optimiser_of(denoiser: Any) -> torch.optim.Optimizer:
        rates = {"encoder": 1e-2, "decoder": 1e-2, "threshold": 1e-1}
        parts = [{"params": getattr(denoiser.body, part).parameters(), "lr": rate} for part, rate in rates.items()]
        return torch.optim.Adam(parts)

    settings = Settings(steps, validate_every=max(steps // 2, 1), folder=folder)
    for layer in unrolled.train_layers(
        model,
        cases,
        unrolled.Supervised(unrolled.relative_mse),
        optimiser_of,
        settings,
        batch_size=8,
        schedule_of=lambda optimiser: warmup_cosine(optimiser, steps),
        validation=held_out(world, name),
        warm=True,
    ):
        print(f"{world.name}, {name}: module {layer.layer}, loss {layer.loss:.4f}, NRMSE {layer.nrmse:.4f}", flush=True)
    return model.eval()


def train_denoiser(world: World, folder: Path, steps: int) -> Any:
    """Return a denoiser for plug-and-play: it saw true images with white noise of many strengths, and their MR."""
    with unrolled.seeded(0):
        body = unrolled.DnCNN(2, 2, depth=6, width=24, non_negative=True)
        model = unrolled.ScaleEquivariant(unrolled.NetworkDenoiser(body, 2, guide_channels=1))
    samples = world.samples("train")
    n = len(samples["truth"])

    def noisy(epoch: int) -> Iterator[Any]:
        random = torch.Generator().manual_seed(epoch)
        order = torch.randperm(n, generator=random)
        for k in range(n // 16):
            which = order[16 * k : 16 * k + 16]
            truth, guide = (samples[part][which][..., None] for part in ("truth", "guide"))
            strength = torch.rand((16, 1, 1, 1), generator=random) * 0.5 * unrolled.mean_scale(truth)
            noise = strength * torch.randn(truth.shape, generator=random)
            yield {"x": truth + noise, "guide": unrolled.normalised_guide(guide)}, truth

    optimiser = torch.optim.Adam(model.parameters(), RATE)
    settings = Settings(steps, validate_every=steps, clip=CLIP, ema=EMA, folder=folder, watch="loss")
    loss = unrolled.Supervised(unrolled.relative_mse)
    for record in train(model, noisy, loss, optimiser, settings, schedule=warmup_cosine(optimiser, steps), networks=[]):
        print(f"{world.name}, denoiser: step {record.step}, loss {record.loss:.4f}", flush=True)
    model.load_state_dict(best_weights(folder))
    return model.eval()
