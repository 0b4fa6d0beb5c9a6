"""Denoisers as smooth priors: regularisation by denoising, and networks that stand for a gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from emrecon.projectors.core.arrays import Array, array_namespace, is_torch
from emrecon.recon import SmoothPrior

from ..networks.guides import IMAGE_AXES
from .denoising import ImageMap, denoised, name_of, transposed_jacobian
from .iterations import require_weights


@dataclass(frozen=True, eq=False)
class RegularisationByDenoising(SmoothPrior):
    """Regularisation by denoising (RED): images that the denoiser leaves alone::

        gradient = beta (x - D(x))

    The gradient needs no derivative of D. It is that of a function::

        U(x) = beta / 2 <x, x - D(x)>,

    only where D has a symmetric Jacobian and is homogeneous, D(c x) = c D(x). `conservative=True` states that
    this is so; there are a `value` and, on tensors, the Hessian beta (v - J'v) then. Otherwise these raise
    NotImplementedError.

    Engines: `osl`, `bsrem` and, by the curvature, `map_em` need no value; `svrg`, `saga` and `lbfgsb` do.

    Args:
        denoiser : any map of images (B, x, y, z); see `pnp_em`.
        beta : the weight, in units of s / x (`coupling_unit`).
        sigma, guide : what the denoiser gets besides the image.
        lipschitz : L, by which you state that ``|D(x) - D(y)|`` <= L ``|x - y|``. The curvature is beta (1 + L), whose
            parabolas lie above U; with a D that is too steep `map_em` may rise. The same number stands for the diagonal
            of the Hessian, by which `bsrem` and `svrg` shorten their steps. A conservative D that is a proximal map has
            0 <= J <= 1, so that L = 0 is right for it.
        conservative : D is homogeneous with a symmetric Jacobian.

    Source: Romano, Elad & Milanfar 2017; Reehorst & Schniter 2019 (when it is the gradient of a function).
    """

    denoiser: ImageMap
    beta: float = 1.0
    sigma: float | Array | None = None
    guide: Array | None = None
    lipschitz: float = 1.0
    conservative: bool = False

    def __post_init__(self) -> None:
        require_weights(self, "beta", "lipschitz")

    def _gradient(self, x: Array) -> Array:
        return self.beta * (x - denoised(self.denoiser, x, self.sigma, self.guide))

    def _value(self, x: Array) -> Array:
        self._require_conservative("value")
        xp = array_namespace(x)
        return xp.sum(x * self._gradient(x), axis=IMAGE_AXES, dtype=xp.float64) / 2

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        self._require_conservative("Hessian")
        return self.beta * (v - transposed_jacobian(self.denoiser, x, v, self.sigma, self.guide))

    def _curvature(self, x: Array) -> Array:
        return self.beta * (1 + self.lipschitz) * array_namespace(x).ones_like(x)

    def _curvature_transposed(self, x: Array, v: Array) -> Array:
        return 0 * v

    def _hessian_diagonal(self, x: Array) -> Array:
        return self._curvature(x)

    def _require_conservative(self, what: str) -> None:
        if not self.conservative:
            raise NotImplementedError(
                f"{self!r} has a gradient but no {what}, unless its denoiser is homogeneous with a symmetric Jacobian "
                "(conservative=True); use osl, bsrem or map_em"
            )

    def __repr__(self) -> str:
        return f"RegularisationByDenoising({name_of(self.denoiser)}, beta={self.beta:g})"


@dataclass(frozen=True, eq=False)
class LearnedGradient(SmoothPrior):
    """A network in place of a prior's gradient: gradient = beta N(x).

    Engines: `osl` needs the gradient alone; with `lipschitz` also `bsrem` (with `EMPreconditioner()` without it) and
    `map_em`; `svrg`, `saga` and `lbfgsb` need `potential` besides.

    Args:
        network : any map of images (B, x, y, z), called like a denoiser.
        beta : the weight; beta N(x) has the unit of the sensitivity s.
        guide : what the network gets besides the image.
        lipschitz : L with ``|N(x) - N(y)|`` <= L ``|x - y|``, in units of N / x, or None where it is not known; the
            curvature, and what stands for the diagonal of the Hessian, is beta L.
        potential : the function of which N is the gradient, images (B, x, y, z) -> (B,), where there is one.

    Source: the prior of EMnet, Gong et al. 2019 (SPIE 10948), trained apart.
    """

    network: ImageMap
    beta: float = 1.0
    guide: Array | None = None
    lipschitz: float | None = None
    potential: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        require_weights(self, "beta", *([] if self.lipschitz is None else ["lipschitz"]))

    def _gradient(self, x: Array) -> Array:
        return self.beta * denoised(self.network, x, None, self.guide)

    def _value(self, x: Array) -> Array:
        if self.potential is None:
            raise NotImplementedError(f"{self!r} has a gradient but no value; give its potential, or use osl or bsrem")
        xp = array_namespace(x)
        with torch.no_grad():
            values = self.beta * self.potential(x)
        return values.to(xp.float64) if is_torch(values) else xp.astype(values, xp.float64)

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        if self.potential is None:
            raise NotImplementedError(f"{self!r} is not known to be the gradient of a function: it has no Hessian")
        return self.beta * transposed_jacobian(self.network, x, v, None, self.guide)

    def _curvature(self, x: Array) -> Array:
        if self.lipschitz is None:
            raise NotImplementedError(
                f"{self!r} has no curvature without a lipschitz constant; use osl, or bsrem with EMPreconditioner()"
            )
        return self.beta * self.lipschitz * array_namespace(x).ones_like(x)

    def _curvature_transposed(self, x: Array, v: Array) -> Array:
        return 0 * v

    def _hessian_diagonal(self, x: Array) -> Array:
        return self._curvature(x)

    def __repr__(self) -> str:
        return f"LearnedGradient({name_of(self.network)}, beta={self.beta:g})"
