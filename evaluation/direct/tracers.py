"""Two tracers in one PET scan: a network that tells them apart, against decay alone and against joint EM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from emrecon import recon, sims, unrolled
from emrecon.recon import PoissonLikelihood
from emrecon.recon.likelihoods import start_image
from emrecon.unrolled.direct.tracers import Separated

from ..suite import Options, Unit, numbers_of
from .samples import Pair, Samples
from .scores import joined
from .training import seconds_per_step, trained, validation

TRACERS = ("FDG", "Ga-68")
WIDTHS = (8.0, 12.0, 16.0, 24.0)
"""FWHM, mm, of the Gaussians over frames before decay tells the tracers apart."""
ITERATIONS = (20, 40, 80, 160, 320)
"""Of joint EM; validation scans choose one of each."""
_SIZE, _RATE = 8, 1e-3
_RECIPE = "two-tracers"
_NETWORK: Mapping[str, Any] = {"passes": 4, "subsets": 6, "width": 16}

Images = Callable[[Pair], Tensor]


def tracer_units(options: Options, seconds: float, kept: Callable[[Path, str], Path]) -> Sequence[Unit]:
    """Return pace, training, and the classical methods.

    Args:
        seconds : of training.
        kept : (folder of a unit, its name) -> where samples are.
    """
    about = {"size": options.size, "seconds": seconds}

    def samples_of(folder: Path, unit: str) -> Samples:
        recipe = sims.load_recipe(_RECIPE)
        assert recipe.second is not None
        n = (32, 8, 8) if options.size == "quick" else (1600, 50, 100)
        return Samples(recipe, *n, kept(folder, unit), frames=len(recipe.second.frames))

    def pace(folder: Path) -> Mapping[str, Any]:
        samples = samples_of(folder, "two-tracers/pace")
        objective = unrolled.Supervised(unrolled.relative_mse)
        return {"seconds per step": seconds_per_step(network_of(samples), samples, _SIZE, objective)}

    def network(folder: Path) -> Mapping[str, Any]:
        name = "two-tracers/network"
        samples = samples_of(folder, name)
        steps = max(4, int(seconds / numbers_of(folder, name, "two-tracers/pace")["seconds per step"]))
        model = network_of(samples)
        numbers = trained(
            model,
            samples,
            folder / "training",
            steps,
            size=_SIZE,
            rate=_RATE,
            objective=unrolled.Supervised(unrolled.relative_mse),
            signature="two-tracers",
            validate=validation(samples, samples.n_validation),
        )

        def images(pair: Pair) -> Tensor:
            with torch.no_grad():
                made: Tensor = model(**pair[0])
            return made

        return {**numbers, **tested(samples, images)}

    def classical(folder: Path) -> Mapping[str, Any]:
        samples = samples_of(folder, "two-tracers/classical")
        apart = network_of(samples)
        voxels = samples.source.simulator.grid.voxel_size
        by_decay: dict[Any, Images] = {width: partial(by_decay_alone, apart, width, voxels) for width in WIDTHS}
        jointly: dict[Any, Images] = {n: partial(_jointly, apart, n) for n in ITERATIONS}
        found: dict[str, Any] = {"subjects": {}}
        for name, ways in (("decay alone", by_decay), ("joint EM", jointly)):
            best = _best(samples, ways)
            found[name] = best
            found["subjects"] |= {f"{name}, {k}": v for k, v in tested(samples, ways[best])["subjects"].items()}
        return found

    return [
        Unit("two-tracers/pace", pace, arguments=about),
        Unit("two-tracers/network", network, ("two-tracers/pace",), {**about, "network": dict(_NETWORK)}),
        Unit("two-tracers/classical", classical, arguments={**about, "widths": WIDTHS, "iterations": ITERATIONS}),
    ]


def network_of(samples: Samples) -> Separated:
    """Return the network with the first weights of seed 0."""
    second = samples.recipe.second
    assert second is not None
    assert samples.recipe.pet is not None
    with unrolled.seeded(0):
        return unrolled.dual_tracer_net(sims.frame_weights(samples.recipe.pet.radionuclide, second), **_NETWORK)


def by_decay_alone(apart: Separated, width: float, voxels: Sequence[float], pair: Pair) -> Tensor:
    """Return the tracers of OSEM's images of the frames, smoothed, by least squares of decay, and 0 where below."""
    with torch.no_grad():
        frames = apart.reconstruct(pair[0]["likelihood"])
        across = [width / size / 2.3548 for size in voxels[:2]]  # of images of one slice
        smooth = torch.as_tensor(gaussian_filter(frames.numpy(), (*[0.0] * (frames.ndim - 3), *across, 0.0)))
        return apart.linear(smooth).clamp(min=0)


def _jointly(apart: Separated, iterations: int, pair: Pair) -> Tensor:
    return joint_em(apart, pair[0]["likelihood"], iterations)


def joint_em(apart: Separated, likelihood: PoissonLikelihood, iterations: int) -> Tensor:
    """Return the images of both tracers after EM of all frames together::

    x_k <- x_k / (sum_f w_fk A_f^T 1) sum_f w_fk A_f^T ( y_f / (sum_k w_fk A_f x_k + r_f) )
    """
    model, y, w = likelihood.model, likelihood.data, apart.weights
    with torch.no_grad():
        one = start_image(likelihood)
        x = torch.einsum("fk,...fxyz->...kxyz", torch.ones_like(w) / len(w), unrolled.count_scale(likelihood) * one)
        sensitivity = torch.einsum("fk,...fxyz->...kxyz", w, torch.as_tensor(likelihood.sensitivity_like(one)))
        for _ in range(iterations):
            ratio = y / torch.as_tensor(model(apart.frames_of(x))).clamp(min=1e-12)
            back = torch.einsum("fk,...fxyz->...kxyz", w, torch.as_tensor(model.adjoint(ratio)))
            x = torch.where(sensitivity > 0, x * back / sensitivity.clamp(min=1e-12), torch.zeros_like(x))
    return x


def tested(samples: Samples, images: Images) -> dict[str, Any]:
    """Return the errors of the test scans, each tracer's."""
    return {"subjects": joined([_errors(images(pair), pair[1]) for pair in samples.pairs("test", samples.n_test)])}


def _errors(made: Tensor, truth: Tensor) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for k, tracer in enumerate(TRACERS):
        found[f"{tracer}: nrmse"] = np.asarray(recon.nrmse(made[:, k], truth[:, k], dimensions=3)).tolist()
        found[f"{tracer}: ssim"] = np.asarray(recon.ssim(made[:, k], truth[:, k], dimensions=3)).tolist()
    return found


def _best(samples: Samples, ways: Mapping[Any, Images]) -> Any:
    """The setting of the least error over both tracers on validation scans."""
    pairs = list(samples.pairs("validation", samples.n_validation))
    errors = {}
    for setting, images in ways.items():
        numbers = joined([_errors(images(pair), pair[1]) for pair in pairs])
        errors[setting] = np.mean([np.mean(numbers[f"{tracer}: nrmse"]) for tracer in TRACERS])
    return min(errors, key=lambda setting: errors[setting])
