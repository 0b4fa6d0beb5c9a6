"""Methods with networks that no scans trained: deep image priors; and plug-and-play with a denoiser that is given."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from emrecon import unrolled

from .methods import Images, Method
from .single import Single, one_by_one, start_of, subsets_of

_FIRST: dict[str, Any] = {"initial_fit": unrolled.Fit("adam", 300, 1e-2), "initial_steps": 20}
_LONGEST = 60  # iterations that a tuned run may take


def dip_recon_images(case: Any, rho: float) -> Images:
    """DIPRecon with a small chain of convolutions that sees the guide."""
    fit = unrolled.Fit("adam", 40, 2e-3)

    def make(scan: Single) -> Any:
        chain = unrolled.dip_chain(_dimensions(scan), _channels(scan), norm="none")
        return unrolled.DIPRecon(chain, rho=rho, em_steps=1, n_subsets=subsets_of(scan), fit=fit, **_FIRST)

    return _own_network(case, make)


def dip_ot_images(case: Any, rate: float) -> Images:
    """Optimisation transfer with a small chain of convolutions that sees the guide; rate is Adam's."""

    def make(scan: Single) -> Any:
        chain = unrolled.dip_chain(_dimensions(scan), _channels(scan), norm="group")
        return unrolled.dip_ot(chain, n_subsets=subsets_of(scan), fit=unrolled.Fit("adam", 10, rate), **_FIRST)

    return _own_network(case, make)


def _own_network(case: Any, make: Callable[[Single], Any]) -> Images:
    """Every scan with a network of its own that begins with the same weights."""

    def one(scan: Single) -> Images:
        iterates = make(scan).iterates(scan.likelihood, guide=None if scan.guide is None else scan.guide[0])
        return ((i.iteration, i.image.detach().reshape(scan.truth.shape)) for i in islice(iterates, _LONGEST))

    return one_by_one(case, one)


def _dimensions(scan: Single) -> int:
    return 2 if scan.truth.shape[-1] == 1 else 3


def _channels(scan: Single) -> int:
    return 1 if scan.guide is None or scan.guide.ndim == 4 else int(scan.guide.shape[1])


def deep_prior(name: str) -> Method:
    """Return a deep image prior by its name, "dip-recon" or "dip-ot"."""
    if name == "dip-recon":
        grid, shown = {"rho": (0.03, 0.1, 0.3)}, (2, 5, 10, 15)
        return Method(name, "DIPRecon", "deep image prior", dip_recon_images, grid, shown, True, 3)
    grid, shown = {"rate": (0.0025, 0.005, 0.01)}, (5, 10, 15, 20)
    return Method(name, "DIP-OT", "deep image prior", dip_ot_images, grid, shown, True, 3)


def plug_and_play(denoiser: Any, *, sees_guide: bool = True) -> Method:
    """Return plug-and-play EM with a denoiser that was trained on images alone."""
    import torch

    def images(case: Any, rho: float) -> Images:
        method = unrolled.PlugAndPlayEM(denoiser, rho=rho, em_steps=1, n_subsets=subsets_of(case))
        guide = {"guide": case.guide} if sees_guide else {}
        with torch.no_grad():
            for iterate in method.iterates(case.likelihood, start_of(case), **guide):
                yield iterate.iteration, iterate.image

    grid, shown = {"rho": (0.03, 0.1, 0.3, 1.0)}, (5, 10, 20, 30)
    return Method("pnp", "plug-and-play EM", "prior", images, grid, shown, sees_guide)
