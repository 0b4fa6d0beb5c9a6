"""Methods without training: OSEM, post-filtered, with priors (and guides), kernels; deep image priors by name, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from emrecon import recon
from emrecon.projectors import GaussianBlur
from emrecon.projectors.core.arrays import to_numpy

from .methods import Images, Method
from .single import Single, grid_of, one_by_one, scale_of, start_of, subsets_of

_EPSILON = 1e-3  # of the activity of a uniform image: what priors take for nothing


def method_named(name: str) -> Method:
    """Return a method by its name, those of `CLASSICAL` and `DEEP_PRIORS`.

    Raises ValueError for an unknown name.
    """
    if name in CLASSICAL:
        return CLASSICAL[name]
    if name in DEEP_PRIORS:
        from .deep import deep_prior

        return deep_prior(name)
    raise ValueError(f"unknown method '{name}'; choose from {', '.join((*CLASSICAL, *DEEP_PRIORS))}")


# ---- the parts -------------------------------------------------------------------------------------------------------


def _numbered(iterates: Iterator[recon.Iterate]) -> Images:
    for iterate in iterates:
        yield iterate.iteration, iterate.image


def _after_osem(case: Any, passes: int = 2) -> Any:
    return recon.run(recon.osem(case.likelihood, start_of(case), subsets_of(case)), passes)


def _strength(case: Any, beta: float) -> float:
    """Beta in units of the mean sensitivity: so it means the same for other counts and cameras."""
    s = to_numpy(case.likelihood.sensitivity_like(case.truth))
    return float(beta * s[s > 0].mean())


def _nothing(case: Any) -> float:
    return _EPSILON * float(scale_of(case).mean())


# ---- the methods -----------------------------------------------------------------------------------------------------


def osem_images(case: Any) -> Images:
    """OSEM, pass after pass."""
    return _numbered(recon.osem(case.likelihood, start_of(case), subsets_of(case)))


def filtered_images(case: Any, fwhm: float) -> Images:
    """OSEM with a Gaussian after it; fwhm in mm, 0 for none."""
    if fwhm <= 0:
        return osem_images(case)
    blur = GaussianBlur(grid_of(case), fwhm)
    return ((n, blur(image)) for n, image in osem_images(case))


def _map(case: Any, beta: float, prior: Any) -> Images:
    start = _after_osem(case)
    return _numbered(recon.bsrem(case.likelihood, _strength(case, beta) * prior, start, subsets_of(case)))


def rdp_images(case: Any, beta: float) -> Images:
    """BSREM with the relative difference prior, gamma 2."""
    return _map(case, beta, recon.RelativeDifference(2.0, epsilon=_nothing(case)))


def tv_images(case: Any, beta: float) -> Images:
    """BSREM with total variation, its corner rounded at a hundredth of the uniform image."""
    return _map(case, beta, recon.SmoothedTotalVariation(10 * _nothing(case), grid_of(case).voxel_size))


def quadratic_images(case: Any, beta: float) -> Images:
    """BSREM with the quadratic prior, in units of the uniform image."""
    return _map(case, beta / float(scale_of(case).mean()), recon.Quadratic())


def bowsher_images(case: Any, beta: float, n_chosen: int) -> Images:
    """BSREM with the relative difference prior on the neighbours that look most alike in the guide."""

    def one(scan: Single) -> Images:
        weights = recon.BowsherWeights(_guides(scan)[0], n_chosen)
        return _map(scan, beta, recon.RelativeDifference(2.0, epsilon=_nothing(scan), anatomy=weights))

    return one_by_one(case, one)


def directional_images(case: Any, beta: float) -> Images:
    """BSREM with directional total variation along the guide's edges."""

    def one(scan: Single) -> Images:
        rounded, size = 10 * _nothing(scan), grid_of(scan).voxel_size
        prior = recon.SmoothedDirectionalTotalVariation(_guides(scan)[0], rounded, voxel_size=size)
        return _map(scan, beta, prior)

    return one_by_one(case, one)


def kem_images(case: Any, n_neighbours: int) -> Images:
    """The kernel method, with a kernel from the guides."""

    def one(scan: Single) -> Images:
        guides = _guides(scan)
        window = (9, 9, 5 if guides.shape[-1] > 1 else 1)  # voxels
        kernel = recon.kernel_matrix(guides, grid_of(scan), n_neighbours=n_neighbours, window=window, sigma=0.2)
        return _numbered(recon.kem(scan.likelihood, kernel, start_of(scan), subsets_of(scan)))

    return one_by_one(case, one)


def _guides(scan: Single) -> np.ndarray:
    """The guides of a scan, (C, x, y, z)."""
    if scan.guide is None:
        raise ValueError("this method needs a guide, and the scan has none")
    guide = to_numpy(scan.guide)[0]
    return guide if guide.ndim == 4 else guide[None]


_CONVERGED = (30,)


def _make(
    name: str,
    title: str,
    images: Callable[..., Images],
    grid: dict[str, tuple[Any, ...]],
    shown: tuple[int, ...] = _CONVERGED,
    sees_guide: bool = False,
    n_validation: int = 12,
) -> Method:
    kind = "prior" if sees_guide else "classical"
    return Method(name, title, kind, images, grid, shown, sees_guide, n_validation)


_MANY = (1, 2, 3, 4, 5, 6, 8, 10, 12)
CLASSICAL: dict[str, Method] = {
    method.name: method
    for method in (
        _make("osem", "OSEM", osem_images, {}, _MANY),
        _make(
            "osem-gaussian",
            "OSEM + Gaussian",
            filtered_images,
            {"fwhm": (3.0, 4.0, 5.0, 6.0, 7.0, 8.0)},
            (2, 4, 6, 8, 12, 16, 24),
        ),
        _make("map-quadratic", "MAP, quadratic", quadratic_images, {"beta": (0.01, 0.02, 0.04, 0.08)}),
        _make("map-rdp", "MAP-RDP", rdp_images, {"beta": (0.0025, 0.005, 0.01, 0.02)}),
        _make("map-tv", "MAP-TV", tv_images, {"beta": (0.005, 0.01, 0.02, 0.04)}),
        _make(
            "map-bowsher",
            "MAP-Bowsher",
            bowsher_images,
            {"beta": (0.015, 0.03, 0.06), "n_chosen": (2, 3, 4)},
            sees_guide=True,
        ),
        _make("map-dtv", "MAP-dTV", directional_images, {"beta": (0.01, 0.02, 0.04, 0.08)}, sees_guide=True),
        _make("kem", "KEM", kem_images, {"n_neighbours": (12, 24, 48)}, (5, 10, 15, 20, 30, 40, 60), True),
    )
}
"""The methods by name; betas are in units of the mean sensitivity."""

DEEP_PRIORS = ("dip-recon", "dip-ot")
"""The names of deep image priors, which need torch."""
