"""Unrolled MAP-EM: modules of EM steps and networks, with gradients that reach the projector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, TypedDict

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from emrecon.projectors.core.arrays import divide_where
from emrecon.recon import em_fuse, em_step, osem, run
from emrecon.recon.engines.autograd import em_update as differentiable_em
from emrecon.recon.engines.loop import require_filled
from emrecon.recon.likelihoods import (
    Likelihood,
    image_shape,
    knows_counts,
    only_seen,
    sensitivity_like,
    start_image,
)

from ..networks.blocks import Denoiser, called, require_denoiser
from ..networks.reconstructor import dimensions_of, guides_of
from ..networks.scaling import count_scale

Network = Callable[[torch.Tensor], torch.Tensor]
Mode = Literal["full", "checkpoint", "detach"]
MODES = ("full", "checkpoint", "detach")


def em_update(x: torch.Tensor, likelihood: Likelihood, grad: Mode = "full") -> torch.Tensor:
    """Return one EM step, x A'(y / ybar) / A'1.

    Args:
        grad : "full" keeps one array of the size of the data and differentiates exactly; "checkpoint" keeps the image
            alone and computes the rest again, with one more projection and back projection; "detach" lets no
            gradient through, as if the EM image were data.
        likelihood : of counts, or any other whose gradient torch can differentiate; see `recon.em_step`.
    """
    if grad not in MODES:
        raise ValueError(f"grad must be one of {', '.join(MODES)}, got {grad!r}")
    if grad == "detach":
        with torch.no_grad():
            return em_step(x, likelihood)
    if knows_counts(likelihood):
        return differentiable_em(x, likelihood, grad == "full")
    if grad == "full":
        return em_step(x, likelihood)
    return checkpoint(lambda image: em_step(image, likelihood), x, use_reentrant=False)


class ModuleOptions(TypedDict, total=False):
    """Arguments of `UnrolledEM` that mean the same in every published form."""

    em_steps: int
    dual: bool
    beta: Literal["learn", "keep"] | float | torch.Tensor
    grad: Mode
    initial_beta: float
    scale: Callable[[Likelihood], torch.Tensor] | None
    initial: Sequence[int]


class UnrolledOptions(ModuleOptions, total=False):
    """Arguments of `UnrolledEM` besides denoisers and their number."""

    subsets: int | None
    per_subset: bool
    form: Literal["fuse", "gradient", "residual"]
    beta_of_each: bool


class UnrolledEM(nn.Module):
    """A number of modules, each a denoiser and MAP-EM steps towards what it returns::

        z = D(x + mu),      mu <- mu + x - z  (with `dual`),      x <- em_fuse(EM_k(x), z - mu, s_k, beta)

    for every subset k of the views, `em_steps` times. Two other forms have no fusion, and beta has no unit in them::

        form="gradient"    x <- max(EM_k(x) - beta mean(s) x / s_k D(x), 0)    the network is a prior's gradient
        form="residual"    x <- max(EM(x) + beta D(x), 0)                      EM over all subsets, as in OSEM-VarNet

    Args:
        denoisers : one denoiser for all modules (shared weights), or a sequence with one for each.
        n_modules : how many (default: as many as there are denoisers).
        em_steps : MAP-EM steps in a module.
        dual : the scaled dual variable mu of ADMM.
        subsets : of the views; None for one. A module passes over all of them; `per_subset` runs the denoiser before
            each subset instead of once in a module.
        beta : "learn" for a positive number that is learned, in units of mean(s) / scale of each item, "keep" for one
            that stays at `initial_beta`; or a number or tensor in units of s / x (broadcast to images): 0 leaves the EM
            image.
        grad : see `em_update`; "checkpoint" makes the networks' activations again, too.
        initial_beta : where learning begins, without unit.
        beta_of_each : whether every module has its own.
        scale : the typical value of each item's image, (B, 1, 1, 1); denoisers get images divided by it, so that
            doubling counts and background doubles the result exactly. None gives them the image as it is.
        initial : (passes, subsets) of OSEM, from a uniform image and without gradients, that make the start where none
            is given; so that modules improve an image instead of making one. Where the likelihood is a list
            of subsets, the passes take these.

    Called with a likelihood (or a list, one for each subset), a start and a guide, it returns the image; `each=True`
    returns those after every module. The scale is a constant for gradients.
    SPECT and PET, 2-D and 3-D, TOF and list-mode: whatever the likelihood is of.

    Raises ValueError for numbers that contradict each other.

    Source: Gong et al. 2019 (MAPEM-Net, EMnet); Lim et al. 2020 (BCD-Net); Mehranian & Reader 2021 (FBSEM-Net); the
    step is that of De Pierro 1995.
    """

    def __init__(
        self,
        denoisers: Denoiser | Sequence[Denoiser],
        n_modules: int | None = None,
        em_steps: int = 1,
        dual: bool = False,
        subsets: int | None = None,
        beta: Literal["learn", "keep"] | float | torch.Tensor = "learn",
        grad: Mode = "full",
        *,
        per_subset: bool = False,
        form: Literal["fuse", "gradient", "residual"] = "fuse",
        initial_beta: float = 0.1,
        beta_of_each: bool = False,
        scale: Callable[[Likelihood], torch.Tensor] | None = count_scale,
        initial: Sequence[int] = (0, 1),
    ) -> None:
        super().__init__()
        several = isinstance(denoisers, (Sequence, nn.ModuleList))
        given: list[Denoiser] = list(denoisers) if several else [denoisers]  # type: ignore[arg-type, list-item]
        self.n_modules = len(given) if n_modules is None else n_modules
        if not all(isinstance(n, int) for n in (self.n_modules, em_steps, subsets or 1, *initial)):
            raise ValueError("UnrolledEM: n_modules, em_steps, subsets and initial must be whole numbers")
        if self.n_modules < 1 or em_steps < 1 or (subsets is not None and subsets < 1):
            raise ValueError("UnrolledEM needs at least one module, one EM step and one subset")
        if several and len(given) != self.n_modules:
            raise ValueError(
                f"UnrolledEM has {len(given)} denoisers for {self.n_modules} modules; give one, or as many"
            )
        if len(initial) != 2 or initial[0] < 0 or initial[1] < 1:
            raise ValueError(f"initial is (passes, subsets) of OSEM, at least (0, 1), got {initial!r}")
        if grad not in MODES or form not in ("fuse", "gradient", "residual"):
            raise ValueError(
                f"UnrolledEM: grad must be one of {', '.join(MODES)} and form one of fuse, gradient, residual; "
                f"got grad={grad!r} and form={form!r}"
            )
        if dual and (form != "fuse" or per_subset):
            raise ValueError("a dual variable needs form='fuse' and one denoiser for a whole module")
        for denoiser in given:
            require_denoiser(denoiser, "UnrolledEM")
        self.denoisers = nn.ModuleList(d if isinstance(d, nn.Module) else _Function(d) for d in given)
        self.em_steps, self.dual, self.subsets, self.grad = em_steps, dual, subsets, grad
        self.per_subset, self.form, self.scale, self.initial = per_subset, form, scale, tuple(initial)
        self.without_unit = isinstance(beta, str)
        if self.without_unit:
            if beta not in ("learn", "keep") or not 0 < initial_beta < math.inf:
                raise ValueError(f'beta must be "learn", "keep" or values >= 0, got {beta!r} from {initial_beta}')
            first = torch.full(
                (self.n_modules if beta_of_each else 1,), initial_beta + math.log(-math.expm1(-initial_beta))
            )
        else:
            first = torch.as_tensor(beta, dtype=torch.float64)
            if not bool((first >= 0).all() and first.isfinite().all()):
                raise ValueError("beta must be finite and not negative")
        self.beta: torch.Tensor
        if beta == "learn" and self.without_unit:
            self.beta = nn.Parameter(first)
        else:
            self.register_buffer("beta", first)

    @property
    def networks(self) -> list[nn.Module]:
        """The denoisers."""
        return list(self.denoisers)

    @property
    def guide_channels(self) -> int:
        """How many guide images the denoisers take."""
        return guides_of(self.denoisers[0])

    @property
    def dimensions(self) -> int:
        """2 for denoisers of slices, 3 of volumes."""
        return dimensions_of(*self.denoisers)

    def forward(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: torch.Tensor | None = None,
        *,
        guide: torch.Tensor | None = None,
        each: bool = False,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Return the image of each item, or with `each` the list of images after all modules.

        Voxels that nothing sees (`recon.seen_voxels`) are 0 in all of them.

        Args:
            likelihood : batched or not; with a list, each is a subset and `subsets` is not used.
            start : (..., x, y, z), positive (default: `scale` where something is seen, after the passes of `initial`).
            guide : as the denoisers take it; of `Enhancer`, in any unit.

        Raises TypeError for NumPy data or starts, ValueError for a start of another shape.
        """
        parts, unit, x = self.begin(likelihood, start)
        mu, images = torch.zeros_like(x), []
        for n in range(self.n_modules):
            x, mu = self.run_module(n, x, mu, parts, unit, guide)
            images.append(x)
        return images if each else x

    def begin(
        self, likelihood: Likelihood | Sequence[Likelihood], start: torch.Tensor | None = None
    ) -> tuple[list[Likelihood], torch.Tensor, torch.Tensor]:
        """Return the likelihoods of the subsets, the scale of each item, (..., 1, 1, 1), and the first image.

        Arguments and errors as in `forward`.
        """
        parts = self.parts_of(likelihood)
        if start is not None:
            _check_start(start, image_shape(parts[0]))
        unit = self._unit(likelihood, start)
        if len(parts) > 1 and not self.training:
            require_filled(parts, ones_of(parts))
        first = self._start(likelihood, unit * ones_of(parts)) if start is None else only_seen(start, parts)
        return parts, unit, first

    def run_module(
        self,
        n: int,
        x: torch.Tensor,
        mu: torch.Tensor,
        parts: Sequence[Likelihood],
        unit: torch.Tensor,
        guide: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and dual variable after module n; parts and unit are those of `begin`."""
        denoiser, weight = self.denoisers[n % len(self.denoisers)], self._weight(n, x)

        def network(image: torch.Tensor) -> torch.Tensor:
            if self.grad == "checkpoint" and torch.is_grad_enabled():
                return _made_again(denoiser, image / unit, guide)
            return called(denoiser, image / unit, guide=guide)

        if self.form != "fuse":
            return only_seen(self._without_fusion(x, network, parts, unit, weight), parts), mu
        target = x
        if not self.per_subset:
            z = unit * network(x + mu)
            mu = mu + x - z if self.dual else mu
            target = z - mu
        for _ in range(self.em_steps):
            for part in parts:
                z = unit * network(x) if self.per_subset else target
                s = sensitivity_like(part, x)
                em, strength = em_update(x, part, self.grad), self._strength(weight, s, unit)
                x = torch.where((s > 0) | (strength > 0), em_fuse(em, z, s, strength), em)
        return only_seen(x, parts), mu

    def _without_fusion(
        self, x: torch.Tensor, network: Network, parts: Sequence[Likelihood], unit: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        if self.form == "residual":
            em = x
            for part in (*parts,) * self.em_steps:
                em = em_update(em, part, self.grad)
            return torch.relu(em + weight * unit * network(x))
        for part in (*parts,) * self.em_steps:
            s = sensitivity_like(part, x)
            step = divide_where(x, s, 0.0)
            x = torch.relu(em_update(x, part, self.grad) - weight * _mean_over_seen(s) * step * network(x))
        return x

    def _start(self, likelihood: Likelihood | Sequence[Likelihood], uniform: torch.Tensor) -> torch.Tensor:
        passes, subsets = self.initial
        if passes == 0:
            return uniform
        with torch.no_grad():
            start: torch.Tensor = run(osem(likelihood, uniform, subsets), passes)
        return start

    def _weight(self, n: int, like: torch.Tensor) -> torch.Tensor:
        """beta of a module, positive; without unit where it is learned or kept."""
        if not self.without_unit:
            return self.beta.to(like)
        return torch.nn.functional.softplus(self.beta[n % len(self.beta)].to(like))

    def _strength(self, weight: torch.Tensor, s: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        return weight * _mean_over_seen(s) / unit if self.without_unit else weight

    def parts_of(self, likelihood: Likelihood | Sequence[Likelihood]) -> list[Likelihood]:
        """Return the likelihoods of the subsets; a list is taken as it is."""
        if isinstance(likelihood, Sequence):
            return list(likelihood)
        n = self.subsets or 1
        return [likelihood] if n == 1 else [likelihood.subset(k, n) for k in range(n)]

    def _unit(self, likelihood: Likelihood | Sequence[Likelihood], start: torch.Tensor | None) -> torch.Tensor:
        """One number for each item, (..., 1, 1, 1); of given subsets that of the first."""
        if self.scale is None:
            return torch.ones((1, 1, 1)) if start is None else torch.ones((1, 1, 1)).to(start)
        return self.scale(likelihood[0] if isinstance(likelihood, Sequence) else likelihood)


def fixed_point(
    step: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    *,
    n_iterations: int = 100,
    n_adjoint: int = 100,
    tolerance: float = 1e-6,
) -> torch.Tensor:
    """Return x = step(x), with the gradient of the solution instead of that of the iterations::

        dx = (I - J)^-1 dstep,      J the derivative of step by x

    The transposed system v = g + J' v is solved by as many iterations as it takes; memory is that of one step whatever
    their number. Both loops stop when the relative change falls below `tolerance`.

    Args:
        step : a map that contracts near its fixed point, such as an EM step with a denoiser; differentiable by what it
            contains.

    Source: implicit function theorem, as in Bai, Kolter & Koltun 2019; Gilton, Ongie & Willett 2021.
    """
    with torch.no_grad():
        x = start
        for _ in range(n_iterations):
            last, x = x, step(x)
            if _small(x - last, x, tolerance):
                break
    result = step(x)
    if not result.requires_grad:
        return result
    at = x.detach().requires_grad_()
    again = step(at)

    def solve(g: torch.Tensor) -> torch.Tensor:
        v = g
        for _ in range(n_adjoint):
            last, (back,) = v, torch.autograd.grad(again, at, v, retain_graph=True)
            v = g + back
            if _small(v - last, v, tolerance):
                break
        return v

    result.register_hook(solve)
    return result


def _made_again(denoiser: nn.Module, image: torch.Tensor, guide: torch.Tensor | None) -> torch.Tensor:
    """Apply a denoiser and keep nothing but its input; its running statistics count once."""
    return checkpoint(
        lambda x: called(denoiser, x, guide=guide),
        image,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _unchanged_buffers(denoiser)),
    )


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    kept = {name: value.clone() for name, value in module.named_buffers()}
    try:
        yield
    finally:
        for name, value in module.named_buffers():
            value.copy_(kept[name])


class _Function(nn.Module):
    """A denoiser that is not a network."""

    def __init__(self, function: Denoiser) -> None:
        super().__init__()
        self.function = function

    def forward(
        self, x: torch.Tensor, sigma: float | torch.Tensor | None = None, *, guide: torch.Tensor | None = None
    ) -> torch.Tensor:
        return called(self.function, x, sigma, guide)


def ones_of(parts: Sequence[Likelihood]) -> torch.Tensor:
    """Return ones where any of the parts sees something.

    Raises TypeError for likelihoods of other arrays than torch tensors.
    """
    each = [start_image(part) for part in parts]
    if not all(isinstance(ones, torch.Tensor) for ones in each):
        raise TypeError("UnrolledEM works on torch tensors; give the likelihood torch data")
    seen = [ones * (sensitivity_like(part, ones) > 0) for ones, part in zip(each, parts)]
    return torch.stack(seen).amax(0)


def _check_start(start: object, shape: Sequence[int]) -> None:
    if not isinstance(start, torch.Tensor):
        raise TypeError(f"UnrolledEM starts from a torch tensor, got {type(start).__name__}")
    if tuple(start.shape[-3:]) != tuple(shape):
        raise ValueError(f"UnrolledEM: a start of {tuple(start.shape)} does not fit images of {tuple(shape)}")


def _mean_over_seen(s: torch.Tensor) -> torch.Tensor:
    """The mean of s where it is positive, one number for each item, (..., 1, 1, 1)."""
    n = (s > 0).sum((-3, -2, -1), keepdim=True).clamp(min=1)
    return s.sum((-3, -2, -1), keepdim=True) / n


def _small(change: torch.Tensor, x: torch.Tensor, tolerance: float) -> bool:
    return bool(change.norm() <= tolerance * x.norm())
