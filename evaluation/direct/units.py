"""The work of the suite `direct`: pace, trainings of the same time, and what is measured of the images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from emrecon import recon, unrolled
from emrecon.recon.likelihoods import start_image
from emrecon.unrolled.training.records import best_weights

from ..suite import Options, Unit, folder_of, numbers_of
from .families import CHANGES, COMPLETED, FAMILIES, TORSOS, Entry, Family
from .partial import WIDTHS, best_width, compared
from .samples import Pair, Samples
from .scores import edge_width, joined, region_errors, scores
from .tracers import tracer_units
from .training import objective_of, seconds_per_step, trained, trainee_of, validation

_STAGES = (0.4, 0.25, 0.35)  # of the time: autoencoder, codes, joint
_REALISATIONS = 20
_TOGETHER = 10  # scans that miss the same bins
Images = Callable[[Pair], torch.Tensor]


def units_of(options: Options) -> Sequence[Unit]:
    """Return all work, in an order in which it can be done."""
    found: list[Unit] = []
    for family in FAMILIES:
        found += [_pace(family, options), *(_network(family, entry, options) for entry in family.entries)]
        found += [_staged(family, options)] if family.staged is not None else []
        found += [_osem(family, options)] if family.part is None else []
    found += [_fbp(options)]
    found += [_changes(entry, options) for entry in TORSOS.entries] + [_classical_changes(options)]
    found += [_noise(entry, options) for entry in TORSOS.entries] + [_classical_noise(options)]
    found += [_compared(family, options) for family in COMPLETED]
    return [*found, *tracer_units(options, _seconds(options), lambda own, unit: _folder(options, own, unit))]


def _seconds(options: Options) -> float:
    """How long every network trains."""
    return 600.0 if options.size == "full" else 4.0


def _about(options: Options, **more: Any) -> dict[str, Any]:
    return {"size": options.size, "seconds": _seconds(options), **more}


def _folder(options: Options, own: Path, unit: str) -> Path:
    """Where samples are kept: the folder that all suites share, or beside the units."""
    return folder_of(own, unit, "samples") if options.work is None else options.work / "direct"


# ---- training --------------------------------------------------------------------------------------------------------


def _pace(family: Family, options: Options) -> Unit:
    """Seconds of a step of every network, and the steps that fit into the time."""
    name = f"{family.name}/pace"

    def run(folder: Path) -> Mapping[str, Any]:
        samples = family.samples(options, _folder(options, folder, name))
        pace = {
            entry.name: seconds_per_step(
                trainee_of(entry, entry.build(samples)),
                samples,
                entry.size,
                objective_of(family, entry, samples, None),
            )
            for entry in family.entries
        }
        if family.staged is not None:
            pace |= _stage_paces(family.staged, samples)
        started = time.perf_counter()
        samples.source.samples(range(4))
        return {"seconds per step": pace, "seconds per sample": (time.perf_counter() - started) / 4}

    return Unit(name, run, arguments=_about(options))


def _stage_paces(entry: Entry, samples: Samples) -> dict[str, float]:
    """Seconds of a step of each of SPECTnet's stages."""
    model = entry.build(samples)
    assert isinstance(model, unrolled.Direct)
    stages = unrolled.spectnet_stages(model, samples.batches(entry.size, 0), (1, 1, 1), unrolled.Settings(1))
    found = {}
    for stage in stages:
        optimiser = stage.optimiser_of(stage.module)
        batches = chain.from_iterable(stage.batches(epoch) for epoch in count())
        times = []
        for step in range(4):
            started = time.perf_counter()
            optimiser.zero_grad(set_to_none=True)
            stage.loss(stage.module, next(batches), torch.Generator().manual_seed(step)).backward()
            optimiser.step()
            times.append(time.perf_counter() - started)
        found[stage.name] = sorted(times[1:])[1]
    return found


def _steps(options: Options, pace: float, share: float = 1.0) -> int:
    return max(4, int(share * _seconds(options) / pace))


def _network(family: Family, entry: Entry, options: Options) -> Unit:
    """Train a network and measure its images of the test scans."""
    name, pace = f"{family.name}/{entry.name}", f"{family.name}/pace"

    def run(folder: Path) -> Mapping[str, Any]:
        samples = family.samples(options, _folder(options, folder, name))
        steps = _steps(options, numbers_of(folder, name, pace)["seconds per step"][entry.name])
        model = trainee_of(entry, entry.build(samples))
        numbers = trained(
            model,
            samples,
            folder / "training",
            steps,
            size=entry.size,
            rate=entry.rate,
            objective=objective_of(family, entry, samples, folder),
            signature=entry.name,
            validate=_validate(family, samples),
        )
        return {**numbers, **_tested(family, samples, _images_of(model), options)}

    about = _about(options, entry=dict(entry.arguments), rate=entry.rate, batch=entry.size)
    return Unit(name, run, (pace,), about if entry.loss == "image" else {**about, "loss": entry.loss})


def _validate(family: Family, samples: Samples) -> Callable[[nn.Module], Mapping[str, float]]:
    if family.part is None:
        return validation(samples, samples.n_validation)
    return unrolled.Validation(list(_pairs(family, samples, "validation", 25)))


def _pairs(family: Family, samples: Samples, split: str, n: int) -> Iterator[Pair]:
    """The first n samples of a part of them, measured as those of the family are, in batches."""
    geometry = samples.source.simulator.geometry
    for k, pair in enumerate(samples.pairs(split, n, size=100 if family.part is None else _TOGETHER)):
        yield pair if family.part is None else family.part.pair(pair, geometry, k)


def _staged(family: Family, options: Options) -> Unit:
    """SPECTnet in its three stages, in the same time as its one step."""
    name, pace, entry = f"{family.name}/staged", f"{family.name}/pace", family.staged
    assert entry is not None

    def run(folder: Path) -> Mapping[str, Any]:
        samples = family.samples(options, _folder(options, folder, name))
        paces = numbers_of(folder, name, pace)["seconds per step"]
        first, second, third = (
            _steps(options, paces[stage], share) for stage, share in zip(("autoencoder", "codes", "joint"), _STAGES)
        )
        model = entry.build(samples)
        assert isinstance(model, unrolled.Direct)
        stages = unrolled.spectnet_stages(
            model,
            samples.batches(entry.size, 0),
            (first, second, third),
            unrolled.Settings(1, max(1, third // 4), 1.0, folder=folder / "training"),
            rate=entry.rate,
            loss=unrolled.relative_mse,
            validate=validation(samples, samples.n_validation),
        )
        last = {record.stage: record.record.loss for record in unrolled.train_stages(model, stages)}
        model.load_state_dict(best_weights(folder / "training" / "stage-03-joint"))
        numbers = {"steps": [first, second, third], "losses": last, "parameters": unrolled.count_parameters(model)}
        return {**numbers, **_tested(family, samples, _images_of(model.eval()), options)}

    return Unit(name, run, (pace,), _about(options, shares=list(_STAGES)))


def _model(own: Path, unit: str, family: Family, entry: Entry, samples: Samples) -> nn.Module:
    """Return a network with the weights of its unit."""
    model = entry.build(samples)
    weights = best_weights(folder_of(own, unit, f"{family.name}/{entry.name}") / "training")
    trainee_of(entry, model).load_state_dict(weights)  # which has the model's parameters as its own
    return model.eval()


# ---- test ------------------------------------------------------------------------------------------------------------


def _images_of(model: nn.Module) -> Images:
    def images(pair: Pair) -> torch.Tensor:
        with torch.no_grad():
            made: torch.Tensor = model(**pair[0])
        return made

    return images


def _tested(family: Family, samples: Samples, images: Images, options: Options) -> dict[str, Any]:
    """Return the scores of the test scans, by subject, and the seconds of an image."""
    parts, seconds = [], 0.0
    for pair in _pairs(family, samples, "test", samples.n_test):
        started = time.perf_counter()
        made = images(pair)
        seconds += time.perf_counter() - started
        parts.append(_numbers(family, made, pair))
    return {"subjects": joined(parts), "seconds an image": seconds / samples.n_test}


def _numbers(family: Family, made: torch.Tensor, pair: Pair) -> dict[str, list[Any]]:
    arguments, truth = pair
    found = scores(made, truth, arguments["likelihood"])
    return found | region_errors(made, truth) if family.regions else found


def _osem_images(family: Family, pair: Pair) -> Iterator[tuple[int, torch.Tensor]]:
    likelihood = pair[0]["likelihood"]
    start = unrolled.count_scale(likelihood) * start_image(likelihood)
    with torch.no_grad():
        for iterate in recon.osem(likelihood, start, family.subsets):
            if iterate.iteration in family.passes:
                yield iterate.iteration, iterate.image
            if iterate.iteration >= family.passes[-1]:
                return


def _osem(family: Family, options: Options) -> Unit:
    """OSEM at its best pass: of each scan by its truth, better than anybody can choose; and on validation scans."""
    name = f"{family.name}/osem"

    def run(folder: Path) -> Mapping[str, Any]:
        samples = family.samples(options, _folder(options, folder, name))
        chosen, parts, seconds = _best_pass(family, samples), [], 0.0
        fixed: list[dict[str, list[Any]]] = []
        for pair in samples.pairs("test", samples.n_test, size=100):
            started = time.perf_counter()
            found = dict(_osem_images(family, pair))
            seconds += time.perf_counter() - started
            errors = torch.stack([((x - pair[1]) ** 2).sum((1, 2, 3)) for x in found.values()])
            best, stack = errors.argmin(0), torch.stack(list(found.values()))
            each = stack[best, torch.arange(stack.shape[1])]
            parts.append(_numbers(family, each, pair))
            fixed.append(_numbers(family, found[chosen], pair))
        return {
            "subjects": joined(parts) | {f"{key}, fixed": value for key, value in joined(fixed).items()},
            "pass": chosen,
            "seconds an image": seconds / samples.n_test,
        }

    return Unit(name, run, arguments=_about(options, subsets=family.subsets, passes=list(family.passes)))


def _best_pass(family: Family, samples: Samples) -> int:
    errors: dict[int, list[float]] = {}
    for pair in samples.pairs("validation", samples.n_validation):
        for n, image in _osem_images(family, pair):
            errors.setdefault(n, []).extend(np.asarray(recon.nrmse(image, pair[1], dimensions=3)).tolist())
    return min(errors, key=lambda n: float(np.mean(errors[n])))


def _fbp(options: Options) -> Unit:
    name = "deeppet/fbp"

    def run(folder: Path) -> Mapping[str, Any]:
        samples = TORSOS.samples(options, _folder(options, folder, name))
        return _tested(TORSOS, samples, lambda pair: unrolled.BackProjection("fbp")(pair[0]["likelihood"]), options)

    return Unit(name, run, arguments=_about(options))


# ---- where things change ---------------------------------------------------------------------------------------------


def _changed(options: Options, folder: Path, images: Images) -> dict[str, Any]:
    """Return the scores of the first test scans under every change."""
    found, n = {}, 100 if options.size == "full" else 8
    for name, (_, level, change) in CHANGES.items():
        samples = TORSOS.samples(options, folder, change)
        pairs = list(samples.pairs("test", n, size=50, level=level))
        found[name] = joined([scores(images(pair), pair[1], pair[0]["likelihood"]) for pair in pairs])
    return found


def _changes(entry: Entry, options: Options) -> Unit:
    name = f"deeppet-changes/{entry.name}"

    def run(folder: Path) -> Mapping[str, Any]:
        kept = _folder(options, folder, name)
        model = _model(folder, name, TORSOS, entry, TORSOS.samples(options, kept))
        return {"subjects": _flat(_changed(options, kept, _images_of(model)))}

    return Unit(name, run, (f"deeppet/{entry.name}",), _about(options, changes=list(CHANGES)))


def _classical_changes(options: Options) -> Unit:
    name = "deeppet-changes/osem"

    def run(folder: Path) -> Mapping[str, Any]:
        kept = _folder(options, folder, name)
        chosen = numbers_of(folder, name, "deeppet/osem")["pass"]
        return {"subjects": _flat(_changed(options, kept, _at_pass(chosen)))}

    return Unit(name, run, ("deeppet/osem",), _about(options, changes=list(CHANGES)))


def _at_pass(chosen: int) -> Images:
    return lambda pair: dict(_osem_images(TORSOS, pair))[chosen]


def _flat(found: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    return {f"{change}: {name}": values for change, numbers in found.items() for name, values in numbers.items()}


# ---- bias and noise --------------------------------------------------------------------------------------------------


def _realisations(options: Options, folder: Path, images: Images) -> dict[str, Any]:
    """Return bias, standard deviation and edge width over 20 realisations of the first test scan."""
    samples = TORSOS.samples(options, folder)
    made = [images(samples.pair("test", [0], 9000 + k))[0].numpy() for k in range(_REALISATIONS)]
    truth = samples.of("test", [0])["truth"].reshape(made[0].shape).numpy()
    inside, mean = truth > 0.05 * truth.max(), np.mean(made, 0)
    unit = float(truth[inside].mean())
    voxel = float(samples.source.simulator.grid.voxel_size[0])
    return {
        "bias": float(np.abs(mean - truth)[inside].mean() / unit),
        "sd": float(np.std(made, 0, ddof=1)[inside].mean() / unit),
        "edge": edge_width(mean, truth, voxel),
    }


def _noise(entry: Entry, options: Options) -> Unit:
    name = f"deeppet-noise/{entry.name}"

    def run(folder: Path) -> Mapping[str, Any]:
        kept = _folder(options, folder, name)
        model = _model(folder, name, TORSOS, entry, TORSOS.samples(options, kept))
        return _realisations(options, kept, _images_of(model))

    return Unit(name, run, (f"deeppet/{entry.name}",), _about(options))


def _classical_noise(options: Options) -> Unit:
    name = "deeppet-noise/osem"

    def run(folder: Path) -> Mapping[str, Any]:
        chosen = numbers_of(folder, name, "deeppet/osem")["pass"]
        return _realisations(options, _folder(options, folder, name), _at_pass(chosen))

    return Unit(name, run, ("deeppet/osem",), _about(options))


# ---- data that are completed ----------------------------------------------------------------------------------------


def _compared(family: Family, options: Options) -> Unit:
    """Projections completed by networks and by a simple rule, and OSEM of them, of what is measured, and of all."""
    name, part = f"{family.name}/compared", family.part
    assert part is not None

    def run(folder: Path) -> Mapping[str, Any]:
        samples = family.samples(options, _folder(options, folder, name))
        geometry = samples.source.simulator.geometry
        models: dict[str, unrolled.OnData] = {}
        for entry in family.entries:
            model = _model(folder, name, family, entry, samples)
            assert isinstance(model, unrolled.OnData)
            models[entry.name] = model
        reconstruct = models[family.entries[0].name].reconstruct
        width = best_width(part, geometry, list(samples.pairs("validation", 25)), reconstruct)
        pairs = samples.pairs("test", min(samples.n_test, 100), size=_TOGETHER)
        found = [compared(models, part, geometry, pair, k, width) for k, pair in enumerate(pairs)]
        return {"subjects": joined(found), "width": width}

    needs = tuple(f"{family.name}/{entry.name}" for entry in family.entries)
    about = _about(options, part=part.measured)
    return Unit(name, run, needs, about if part.share is None else {**about, "widths": WIDTHS})
