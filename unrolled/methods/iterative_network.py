"""Iterative network representation: the image is what a frozen network makes, and its input is reconstructed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeAlias, TypedDict, Unpack

import torch

from emrecon.projectors.core.arrays import Array
from emrecon.projectors.core.progress import tracked
from emrecon.recon import Iterate, Parameterisation, ParameterisedIterate, mlem, parameterised_em, sequential
from emrecon.recon.engines.loop import State, begin, detached
from emrecon.recon.engines.schedules import Order
from emrecon.recon.likelihoods import Likelihood, only_seen, start_image

from ..networks.guides import IMAGE_AXES
from .couplings import activity_scale, coupling_unit
from .denoising import ImageMap, denoised
from .iterations import Start, image_after, require_at_least_one
from .plug_and_play import em_towards

_LONGER, _SHORTER = 1.5, 0.5  # what a step becomes where it was short enough, and where it was not
_ROUNDING = 1e-6  # of a loss: what float32 cannot tell

Loss = Callable[[torch.Tensor], torch.Tensor]
Value: TypeAlias = float | torch.Tensor
"""A number, or one for each item, (B, 1, 1, 1)."""


class InputOptions(TypedDict, total=False):
    """The fields of `NetworkInput` besides network and alpha."""

    scale: Value
    guide: torch.Tensor | None
    step: Value
    search: bool
    floor: float


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """The parameterisation x = scale * max(f(alpha), floor) with the input alpha >= 0 of a frozen network f.

    Args:
        network : f, any differentiable map of images, called like a denoiser; in evaluation mode, its weights
            untouched.
        alpha : (..., x, y, z) tensor, not negative, in the unit that the network knows.
        scale : the activity that is 1 for the network; a number or one for each item, (B, 1, 1, 1).
        guide : what the network gets besides the image.
        step : of the descent: a number, or one for each item. With `search` it is the first; a fit returns what it
            became.
        search : take steps only where they lower the loss, and make them longer after success and shorter after
            failure; otherwise Nesterov's method with a fixed step.
        floor : the least the network may return, so that no voxel is lost for good.

    `recon.parameterised_em(likelihood, NetworkInput(network, alpha))` never raises the negative log-likelihood with one
    subset. Items of a batch are independent of each other where the network treats them so.

    Raises TypeError for an alpha that is not a tensor, and ValueError for one that is negative or not finite, and for a
    scale, step or floor that is not positive.

    Source: Gong et al. 2019, IEEE Trans Med Imaging 38:675 (the representation).
    """

    network: ImageMap
    alpha: torch.Tensor
    scale: Value = 1.0
    guide: torch.Tensor | None = None
    step: Value = 1e-3
    search: bool = True
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, torch.Tensor):
            raise TypeError(f"NetworkInput alpha must be a torch tensor, got {type(self.alpha).__name__}")
        if not bool(((self.alpha >= 0) & (self.alpha < torch.inf)).all()):
            raise ValueError("NetworkInput alpha must be finite and not negative")
        for name in ("scale", "step", "floor"):
            if not bool((torch.as_tensor(getattr(self, name)) > 0).all()):
                raise ValueError(f"NetworkInput {name} must be positive, got {getattr(self, name)}")

    @classmethod
    def of(cls, network: ImageMap, image: torch.Tensor, **options: Unpack[InputOptions]) -> NetworkInput:
        """Return the input alpha = f(image), in the network's unit: where reconstruction begins.

        Args:
            image : (..., x, y, z) activity, such as that of 30 EM updates.
            options : the other fields.
        """
        scale = options.get("scale", 1.0)
        first = cls(network, image.detach() / scale, **options)
        return replace(first, alpha=first.image() / scale)

    def image(self) -> torch.Tensor:
        """Return scale * max(f(alpha), floor), without autograd."""
        with torch.no_grad():
            return self.scale * self._made(self.alpha)

    def fit(self, target: torch.Tensor, weight: torch.Tensor, steps: int) -> NetworkInput:
        """Return the input after steps that lower sum weight (x - target log x), or leave it."""
        wanted = (target / self.scale).detach()
        share = weight.detach() / weight.detach().mean(IMAGE_AXES, keepdim=True).clamp(
            min=torch.finfo(weight.dtype).tiny
        )
        counted = share * wanted > 0

        def loss(alpha: torch.Tensor) -> torch.Tensor:
            x = self._made(alpha)
            return _total(share * (x - wanted * torch.where(counted, x, 1).log()))

        return self._after(loss, steps)

    def fit_squares(self, target: torch.Tensor, steps: int) -> NetworkInput:
        """Return the input after steps that lower ``|x - target|^2`` (each of them, with `search`)."""
        wanted = (target / self.scale).detach()
        return self._after(lambda alpha: _total((self._made(alpha) - wanted) ** 2), steps)

    def _made(self, alpha: torch.Tensor) -> torch.Tensor:
        return torch.clamp(denoised(self.network, alpha, None, self.guide), min=self.floor)

    def _after(self, loss: Loss, steps: int) -> NetworkInput:
        alpha, step = descend(loss, self.alpha, steps, self.step, self.search)
        return replace(self, alpha=alpha, step=step)


def descend(
    loss: Loss, alpha: torch.Tensor, steps: int, step: Value, search: bool = True
) -> tuple[torch.Tensor, Value]:
    """Return alpha >= 0 after projected steps of Nesterov's method, and the step as it is then::

        y = max(alpha + (t_k - 1) / t_{k+1} (alpha - alpha before), 0),   alpha <- max(y - step grad loss(y), 0)

    With `search` an item moves only where that does not raise its loss, and otherwise loses its momentum; the step
    grows by half where the loss stayed below the parabola that the step stands for, and is halved where it did not.

    Args:
        loss : images (..., x, y, z) -> one number for each item, (..., 1, 1, 1); differentiable, and of each item
            alone.

    Source: Beck & Teboulle 2009 (FISTA and its monotone version).
    """
    before, t = alpha, torch.ones_like(alpha[..., :1, :1, :1])
    if search:
        step = torch.as_tensor(step, dtype=alpha.dtype, device=alpha.device) * t
        with torch.no_grad():
            value = loss(alpha)
    for _ in tracked(range(steps), "fit of the network's input"):
        ahead = (1 + torch.sqrt(1 + 4 * t * t)) / 2
        y = (alpha + (t - 1) / ahead * (alpha - before)).clamp(min=0)
        at_y, slope = _value_and_gradient(loss, y)
        trial = (y - step * slope).clamp(min=0)
        if not search:
            before, alpha, t = alpha, trial, ahead
            continue
        with torch.no_grad():
            reached = loss(trial)
            parabola = at_y + _total(slope * (trial - y)) + _total((trial - y) ** 2) / (2 * step)
            lower, short = reached <= value, reached <= parabola + _ROUNDING * at_y.abs()
            before, alpha = alpha, torch.where(lower, trial, alpha)
            value, t = torch.where(lower, reached, value), torch.where(lower, ahead, 1)
            step = step * torch.where(short, _LONGER, _SHORTER).to(step)
    return alpha, step


@dataclass(frozen=True, eq=False)
class InputState(State):
    """What `iterative_network` remembers besides F(alpha)."""

    x: torch.Tensor
    alpha: torch.Tensor
    mu: torch.Tensor
    step: Value


def iterative_network(
    likelihood: Likelihood | Sequence[Likelihood],
    latent: NetworkInput,
    start: torch.Tensor | Iterate | None = None,
    n_subsets: int = 1,
    *,
    rho: Value,
    em_steps: int = 2,
    fit_steps: int = 10,
    order: Order = sequential,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each iteration of ADMM on the input of a network, for ever; leave the loop to stop.

    For the maximum of the likelihood in x with x = F(alpha), F(alpha) = `latent.image()`::

        x     <- em_fuse(EM_k(x), F(alpha) - mu, s_k, rho / n)    for every subset k of n, em_steps times
        alpha <- lower |F(alpha) - (x + mu)|^2                    by fit_steps projected steps
        mu    <- mu + x - F(alpha)

    The image is F(alpha): it shows only what the network can make. The problem is not convex; where rho is too small,
    x and F(alpha) drift apart.

    Args:
        latent : network and input, such as `NetworkInput.of(network, image_of_30_updates, scale=...)`.
        start : x (default: the image of the latent), or an iterate to continue from; then alpha is that of the iterate.
        n_subsets, order, iteration : as in `osem`.
        rho : in units of s / x, a number or an array that broadcasts to images; see `coupling_unit`.

    An iterate remembers x, alpha, mu and the step; with the same network it continues exactly.

    Raises ValueError for numbers that are not positive, TypeError for likelihoods of other arrays than tensors.

    Source: Gong et al. 2019, IEEE Trans Med Imaging 38:675. Defaults are those of its programme, whose rho was 7.5e-4.
    """
    if em_steps < 1 or fit_steps < 1:
        raise ValueError("iterative_network needs at least one EM step and one step of the fit")
    if not bool((torch.as_tensor(rho) > 0).all()):
        raise ValueError(f"iterative_network rho must be positive, got {rho}")
    known = InputState.of(start) if isinstance(start, Iterate) else None
    first = latent.image() if start is None else start
    if isinstance(start, Iterate) and known is not None:
        first = start._replace(image=known.x)
    at, parts = begin(likelihood, first, n_subsets, iteration)
    if not isinstance(start_image(parts[0]), torch.Tensor):
        raise TypeError("iterative_network works on torch tensors; give the likelihood torch data")
    at = detached(at._replace(image=torch.as_tensor(at.image).to(latent.alpha)))
    if known is not None:
        latent = replace(latent, alpha=_like(known.alpha, at.image), step=_step(known.step, at.image))
    mu = torch.zeros_like(at.image) if known is None else _like(known.mu, at.image)
    return _admm(at, parts, latent, mu, rho, em_steps, fit_steps, order)


def _admm(
    at: Iterate,
    parts: list[Likelihood],
    latent: NetworkInput,
    mu: torch.Tensor,
    rho: Value,
    em_steps: int,
    fit_steps: int,
    order: Order,
) -> Iterator[Iterate]:
    iteration, x = at.iteration, at.image
    z = latent.image()
    while True:
        with torch.no_grad():
            x = em_towards(x, z - mu, parts, rho, em_steps, order(iteration, len(parts)))
            latent = latent.fit_squares(x + mu, fit_steps)
            z = latent.image()
            mu = mu + x - z
        iteration += 1
        yield Iterate(iteration, only_seen(z, parts), InputState(x, latent.alpha, mu, latent.step))


@dataclass(frozen=True, eq=False)
class IterativeNetwork:
    """The iterative network representation as a method, `method(likelihood, start=None, guide=None) -> image`.

    Args:
        network : a frozen denoiser that autograd can differentiate.
        n_iterations : how many.
        method : "admm", `iterative_network`; or "transfer", optimisation transfer by `recon.parameterised_em`, which
            has no rho and with one subset never gets less likely.
        rho : of ADMM, in units of `coupling_unit`; with relative=False in units of s / x.
        em_steps, n_subsets, order : as in `iterative_network`.
        fit_steps : steps on the input in each iteration.
        step, search : see `NetworkInput`; step=1e-3 with search=False is the published descent.
        initial : EM updates before the first pass through the network, where no start is given.
        scale : the activity that is 1 for the network: a number, a function of the likelihood that gives one number for
            each item, or None for `activity_scale`.

    The first input is the network's output for the start. `iterates` is the loop of it; what it yields, given as start,
    continues exactly, up to n_iterations in all.

    Source: Gong et al. 2019, IEEE Trans Med Imaging 38:675; De Pierro 1995 (transfer).
    """

    network: ImageMap
    n_iterations: int = 100
    method: Literal["admm", "transfer"] = "admm"
    rho: Value = 0.1
    relative: bool = True
    em_steps: int = 2
    fit_steps: int = 10
    n_subsets: int = 1
    step: float = 1e-3
    search: bool = True
    initial: int = 30
    scale: Value | Callable[[Likelihood | Sequence[Likelihood]], Value] | None = None
    order: Order = sequential

    def __post_init__(self) -> None:
        require_at_least_one(self, "n_iterations", "em_steps", "fit_steps", "n_subsets", "initial")
        if self.method not in ("admm", "transfer"):
            raise ValueError(f'IterativeNetwork method must be "admm" or "transfer", got {self.method!r}')
        if self.method == "transfer" and not self.search:
            raise ValueError("IterativeNetwork by transfer needs search=True, or the likelihood may get worse")

    def __call__(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: Start | ParameterisedIterate = None,
        *,
        guide: torch.Tensor | None = None,
    ) -> Array:
        return image_after(self.iterates(likelihood, start, guide=guide), start, self.n_iterations)

    def iterates(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: Start | ParameterisedIterate = None,
        *,
        guide: torch.Tensor | None = None,
    ) -> Iterator[Iterate] | Iterator[ParameterisedIterate]:
        """Yield an `Iterate`, or by transfer a `ParameterisedIterate`, after each iteration, for ever."""
        if isinstance(start, ParameterisedIterate):
            return self._transfer(likelihood, start.parameterisation, start.iteration)
        known = InputState.of(start) if isinstance(start, Iterate) else None
        image = self._first(likelihood, start) if known is None else known.x
        scale = self._scale(likelihood, image)
        options: InputOptions = {"scale": scale, "guide": guide, "step": self.step, "search": self.search}
        if known is None:
            latent = NetworkInput.of(self.network, image, **options)
        else:
            latent = NetworkInput(self.network, torch.as_tensor(known.alpha), **options)
        if self.method == "transfer":
            return self._transfer(likelihood, latent, 0)
        rho = self.rho * coupling_unit(likelihood, scale, image) if self.relative else self.rho
        return iterative_network(
            likelihood,
            latent,
            None if known is None else start,
            self.n_subsets,
            rho=rho,
            em_steps=self.em_steps,
            fit_steps=self.fit_steps,
            order=self.order,
        )

    def _transfer(
        self, likelihood: Likelihood | Sequence[Likelihood], latent: Parameterisation, done: int
    ) -> Iterator[ParameterisedIterate]:
        return parameterised_em(likelihood, latent, self.n_subsets, steps=self.fit_steps, iteration=done)

    def _first(self, likelihood: Likelihood | Sequence[Likelihood], start: Start) -> torch.Tensor:
        at, parts = begin(likelihood, start.image if isinstance(start, Iterate) else start)
        if not isinstance(at.image, torch.Tensor):
            raise TypeError("IterativeNetwork works on torch tensors; give the likelihood torch data")
        if start is not None:
            return detached(at).image
        with torch.no_grad():
            *_, last = islice(mlem(parts, at.image * activity_scale(parts, at.image)), self.initial)
        return last.image

    def _scale(self, likelihood: Likelihood | Sequence[Likelihood], image: torch.Tensor) -> Value:
        if callable(self.scale):
            return self.scale(likelihood)
        return activity_scale(likelihood, image) if self.scale is None else self.scale


def _value_and_gradient(loss: Loss, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        leaf = at.detach().clone().requires_grad_()
        values = loss(leaf)
        if not values.requires_grad:
            raise ValueError("the network lets no gradient through to its input: does it leave torch?")
        (slope,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), slope


def _total(values: torch.Tensor) -> torch.Tensor:
    """The sum of each item in float64, (..., 1, 1, 1)."""
    return values.sum(IMAGE_AXES, keepdim=True, dtype=torch.float64)


def _like(values: Array, x: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values).to(x)


def _step(step: Value, x: torch.Tensor) -> Value:
    return step if isinstance(step, float) else _like(step, x)
