"""The methods of quality_learned.py that are not trained end to end, and how validation scans choose their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

import torch
from _learned import Case, World, osem

from emrecon import recon, unrolled
from emrecon.projectors import GaussianBlur

Images = Iterator[tuple[int, torch.Tensor]]


@dataclass(frozen=True)
class Method:
    """A method as the images that it goes through, and the settings that validation tries.

    images : (world, case, **settings) -> (iteration, images).  grid : values of each setting.
    shown : iterations among which validation chooses.  n_validation : how many scans it sees.
    """

    images: Callable[..., Images]
    shown: tuple[int, ...]
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    n_validation: int = 12

    def settings(self) -> list[dict[str, Any]]:
        """Return all combinations."""
        return [dict(zip(self.grid, values)) for values in product(*self.grid.values())]

    def __call__(self, world: World, case: Case, iteration: int, **settings: Any) -> torch.Tensor:
        """Return the images of one iteration."""
        return next(images for n, images in self.images(world, case, **settings) if n == iteration)


def chosen(world: World, method: Method, samples: dict[str, torch.Tensor]) -> tuple[dict[str, Any], float]:
    """Return settings, iteration among them, of the least mean NRMSE on validation scans, and that NRMSE."""
    case, found = world.case(samples, slice(0, method.n_validation), seed=7), []
    for settings in method.settings():
        for n, images in method.images(world, case, **settings):
            if n in method.shown:
                nrmse = float(recon.nrmse(images, case.truth, dimensions=3).mean())
                found.append((nrmse, {**settings, "iteration": n}))
            if n >= method.shown[-1]:
                break
    nrmse, best = min(found, key=lambda pair: pair[0])
    return best, nrmse


# ---- classical -------------------------------------------------------------------------------------------------------


def _start(case: Case) -> torch.Tensor:
    return unrolled.count_scale(case.likelihood) * case.likelihood.ones_image()


def _numbered(iterates: Iterator[recon.Iterate]) -> Images:
    with torch.no_grad():
        for iterate in iterates:
            yield iterate.iteration, iterate.image


def _osem(world: World, case: Case) -> Images:
    return _numbered(recon.osem(case.likelihood, _start(case), 6))


def _filtered(world: World, case: Case, fwhm: float) -> Images:
    blur = GaussianBlur(world.simulator.grid, fwhm)
    return ((n, blur(image)) for n, image in _osem(world, case))


def _rdp(world: World, case: Case, beta: float) -> Images:
    return _map(case, beta, recon.RelativeDifference(2.0, epsilon=_epsilon(case)))


def _bowsher(world: World, case: Case, beta: float) -> Images:
    """RDP on the 3 neighbours that look most alike in the MR."""
    return _together(
        _map(
            item,
            beta,
            recon.RelativeDifference(
                2.0, epsilon=_epsilon(case), anatomy=recon.BowsherWeights(item.guide[0].numpy(), 3)
            ),
        )
        for item in world.items(case)
    )


def _map(case: Case, beta: float, prior: Any) -> Images:
    """BSREM; beta is in units of the mean sensitivity, as counts and camera have it."""
    s = case.likelihood.sensitivity_like(case.truth)
    return _numbered(recon.bsrem(case.likelihood, beta * float(s[s > 0].mean()) * prior, osem(case.likelihood, 2), 6))


def _epsilon(case: Case) -> float:
    return 1e-3 * float(unrolled.count_scale(case.likelihood).mean())


def _kem(world: World, case: Case, n_neighbours: int) -> Images:
    def one(item: Case) -> Images:
        kernel = recon.kernel_matrix(
            item.guide[0].numpy(), world.simulator.grid, n_neighbours=n_neighbours, window=9, sigma=0.2
        )
        return _numbered(recon.kem(item.likelihood, kernel, _start(item), 6))

    return _together(one(item) for item in world.items(case))


def _together(runs: Iterator[Images]) -> Images:
    """Iterates of several scans as a batch."""
    for parts in zip(*runs):
        yield parts[0][0], torch.cat([image for _, image in parts])


def plug_and_play(denoiser: Any) -> Method:
    """PnP-EM with a denoiser that was trained on images alone."""

    def images(world: World, case: Case, rho: float) -> Images:
        method = unrolled.PlugAndPlayEM(denoiser, rho=rho, em_steps=1, n_subsets=6)
        return _numbered(method.iterates(case.likelihood, _start(case), guide=case.guide))

    return Method(images, (5, 10, 20, 30), {"rho": (0.03, 0.1, 0.3, 1.0)})


# ---- deep image priors -----------------------------------------------------------------------------------------------


def _dip_recon(world: World, case: Case, last: int = 15) -> Images:
    first = {"initial_fit": unrolled.Fit("adam", 300, 1e-2), "initial_steps": 20}
    options = {"rho": 0.1, "em_steps": 1, "n_subsets": 6, "fit": unrolled.Fit("adam", 40, 2e-3), **first}
    return _own_network(world, case, last, lambda: unrolled.DIPRecon(dip_network("DIPRecon"), **options))


def _dip_ot(world: World, case: Case, last: int = 20) -> Images:
    first = {"initial_fit": unrolled.Fit("adam", 300, 1e-2), "initial_steps": 20}
    options = {"n_subsets": 6, "fit": unrolled.Fit("adam", 10, 5e-3), **first}
    return _own_network(world, case, last, lambda: unrolled.dip_ot(dip_network("DIP-OT"), **options))


def _own_network(world: World, case: Case, last: int, make: Callable[[], Any]) -> Images:
    """One scan after the other, each with a network of its own that begins with the same weights."""
    runs = []
    for item in world.items(case):
        iterates = make().iterates(item.likelihood, guide=item.guide[0])
        runs.append([iterate.image.reshape(item.truth.shape) for iterate in islice(iterates, last)])
    return ((n, torch.cat(images)) for n, images in enumerate(map(list, zip(*runs)), 1))


def dip_network(name: str) -> torch.nn.Module:
    """Return the chain of convolutions of a deep image prior."""
    return unrolled.dip_chain(2, norm="group" if name == "DIP-OT" else "none")


METHODS = {
    "OSEM": Method(_osem, tuple(range(1, 13)), n_validation=25),
    "OSEM + Gaussian": Method(
        _filtered, (2, 4, 6, 8, 12, 16, 24), {"fwhm": (3.0, 4.0, 5.0, 6.0, 7.0, 8.0)}, n_validation=25
    ),
    "MAP-RDP": Method(_rdp, (30,), {"beta": (0.003, 0.004, 0.005, 0.007, 0.01, 0.015)}),
    "MAP-Bowsher": Method(_bowsher, (30,), {"beta": (0.015, 0.03, 0.06)}, n_validation=6),
    "KEM": Method(_kem, (10, 15, 20, 30, 40, 60), {"n_neighbours": (24, 48)}, n_validation=6),
    "DIPRecon": Method(_dip_recon, (2, 5, 10, 15), n_validation=3),
    "DIP-OT": Method(_dip_ot, (5, 10, 15, 20), n_validation=3),
}
