"""Deep image prior: images that a network makes, whose weights are fitted to one scan alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

import torch
from torch import nn
from torch.func import functional_call

from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.progress import tracked
from emrecon.recon import Iterate, ProgressBar, em_fuse, em_step, run, surrogate
from emrecon.recon.engines.loop import State, begin
from emrecon.recon.likelihoods import Likelihood, image_shape, only_seen, sensitivity_like, start_image

from ..networks.blocks import SmallCNN, seeded
from ..networks.scaling import count_scale
from ..networks.unet import UNet
from .couplings import listed
from .iterations import Start

Loss = Callable[[torch.Tensor], torch.Tensor]
Memory = Mapping[str, float | Array]
"""What an optimiser remembers, by name."""

_FLOOR = 1e-5  # of the typical value: the least an image can be, since the surrogate takes its logarithm

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Fitted(NamedTuple):
    """What a fit returns: the weights, and what the optimiser remembers for the next fit, by name."""

    weights: torch.Tensor
    memory: Memory


@dataclass(frozen=True)
class Fit:
    """How the weights of a network are fitted: by L-BFGS or Adam, and for how long.

    Args:
        steps : calls of the optimiser; one of L-BFGS has up to `max_iterations` iterations, one of Adam is one.
        rate : of learning (default: 1 for L-BFGS, 1e-3 for Adam).
        line_search : L-BFGS looks for a step by the strong Wolfe conditions, instead of taking `rate`.

    Called with a loss and weights, it returns weights of the least loss that was met on the way, so a fit never raises
    it. Adam's moments are remembered from fit to fit; L-BFGS begins anew, since its curvature belongs to one loss.
    Where no step lowers the loss, the rate is halved and the moments are forgotten, so that the next fit may succeed.

    Raises ValueError for another method and for numbers that are not positive.

    Source: Liu & Nocedal 1989 (L-BFGS); Kingma & Ba 2015 (Adam).
    """

    method: Literal["lbfgs", "adam"] = "lbfgs"
    steps: int = 10
    rate: float | None = None
    max_iterations: int = 20
    line_search: bool = True

    def __post_init__(self) -> None:
        if self.method not in ("lbfgs", "adam"):
            raise ValueError(f'Fit method must be "lbfgs" or "adam", got {self.method!r}')
        if self.steps < 1 or self.max_iterations < 1 or not 0 < self.first_rate < math.inf:
            raise ValueError(f"Fit needs steps, iterations and a rate that are positive, got {self}")

    @property
    def first_rate(self) -> float:
        """The rate of learning of the first fit."""
        return self.rate if self.rate is not None else 1.0 if self.method == "lbfgs" else 1e-3

    def __call__(self, loss: Loss, weights: torch.Tensor, memory: Memory = MappingProxyType({})) -> Fitted:
        """Return weights whose loss is at most that of the given ones. loss : of a vector of weights, one number."""
        with torch.inference_mode(False), torch.enable_grad():
            theta = weights.detach().clone().requires_grad_()
            optimiser, rate = self._optimiser(theta, memory)
            first = least = float(loss(theta).detach())
            best = weights

            def closure() -> torch.Tensor:
                nonlocal least, best
                optimiser.zero_grad()
                value = loss(theta)
                if value < least:
                    least, best = float(value.detach()), theta.detach().clone()
                value.backward()
                return value.detach()

            for _ in tracked(range(self.steps), "fit of the network"):
                optimiser.step(closure)
            with torch.no_grad():
                last = float(loss(theta))
            best = theta.detach() if last < least else best
            return Fitted(best, self._memory(optimiser, theta, rate, min(least, last) < first))

    def _optimiser(self, theta: torch.Tensor, memory: Memory) -> tuple[torch.optim.Optimizer, float]:
        rate = float(memory.get("rate", self.first_rate))
        if self.method == "lbfgs":
            search = "strong_wolfe" if self.line_search else None
            return torch.optim.LBFGS([theta], rate, self.max_iterations, line_search_fn=search), rate
        optimiser = torch.optim.Adam([theta], rate)
        if "moments" in memory:
            first, second = torch.as_tensor(memory["moments"]).to(theta).clone()
            known = {"step": torch.tensor(float(memory["steps"])), "exp_avg": first, "exp_avg_sq": second}
            optimiser.load_state_dict(optimiser.state_dict() | {"state": {0: known}})
        return optimiser, rate

    def _memory(self, optimiser: torch.optim.Optimizer, theta: torch.Tensor, rate: float, better: bool) -> Memory:
        if not better:
            return {"rate": rate if self.method == "lbfgs" and self.line_search else rate / 2}
        if self.method == "lbfgs":
            return {"rate": rate}
        state = optimiser.state[theta]
        moments = torch.stack([state["exp_avg"], state["exp_avg_sq"]])
        return {"rate": rate, "moments": moments, "steps": float(state["step"])}


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightsState(State):
    """Weights of a network as a vector, and what their optimiser remembers; checkpoints make arrays of numbers."""

    weights: Array
    rate: float | Array | None = None
    moments: float | Array | None = None
    steps: float | Array | None = None


def smooth_positive(values: torch.Tensor) -> torch.Tensor:
    """Return log(1 + exp(10 v)) / 10: nearly max(v, 0), but with a slope everywhere, so that no voxel is lost."""
    return nn.functional.softplus(values, beta=10)


@dataclass(frozen=True, eq=False)
class NetworkWeights:
    """The parameterisation x = scale * positive(f(theta | z)) of a deep image prior; theta are a network's weights.

    Args:
        network : f, any module from (1, C, x, y[, z]) to (1, 1, x, y[, z]). It stays as it is: theta is kept here, as
            one vector of all weights that require gradients, and its buffers never change. Batch normalisation works as
            it does in the mode the module is in; of one image, in training mode, with that image's own mean and
            variance.
        input : z, (x, y, z) or (C, x, y, z); a leading axis of one item stays an axis of the images.
        scale : the typical value of the image; the network's output is about one then, and no step size depends on
            counts.
        fitting : the optimiser, a `Fit`; its `steps` are those asked for in each fit.
        dimensions : 2 gives the network the slices as a batch, 3 the volume (default: 2 where there is one slice).
        positive : from what the network returns to values >= 0; `torch.relu` for a network that ends with it.
        weights : theta, and what the optimiser remembers with it, `memory` (default: those of the network, and
            nothing).

    A frozen value: fits return another one, whose `state` can be kept and given to `resumed`.
    One network belongs to one scan: a batch of several is refused.

    Raises ValueError for a batch, shapes that do not fit, a network without weights to fit, or with active dropout.

    Source: Ulyanov, Vedaldi & Lempitsky 2018; Gong et al. 2019, IEEE Trans Med Imaging 38:1655.
    """

    network: nn.Module
    input: torch.Tensor
    scale: float = 1.0
    fitting: Fit = Fit("adam")
    dimensions: int | None = None
    positive: Callable[[torch.Tensor], torch.Tensor] = smooth_positive
    weights: torch.Tensor | None = None
    memory: Memory = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_network(self.network)
        if not isinstance(self.input, torch.Tensor) or self.input.ndim not in (3, 4, 5):
            raise ValueError(
                f"NetworkWeights input must be a tensor (x, y, z) or (C, x, y, z), got {_shape(self.input)}"
            )
        if self.input.ndim == 5 and self.input.shape[0] != 1:
            raise ValueError(
                f"NetworkWeights has one network for one scan, and the input is a batch of {self.input.shape[0]}; "
                "make one for each item"
            )
        if not 0 < self.scale < math.inf:
            raise ValueError(f"NetworkWeights scale must be positive and finite, got {self.scale}")
        if self.dimensions not in (None, 2, 3):
            raise ValueError(f"NetworkWeights dimensions must be 2 or 3, got {self.dimensions}")
        n = sum(p.numel() for p in _fitted(self.network).values())
        if self.weights is None:
            own = [p.detach().reshape(-1).to(self.input) for p in _fitted(self.network).values()]
            object.__setattr__(self, "weights", torch.cat(own))
        elif tuple(self.weights.shape) != (n,):
            raise ValueError(f"NetworkWeights needs {n} weights for this network, got {_shape(self.weights)}")
        with torch.no_grad():
            made = self._network_output(self.theta)
        if not bool(made.isfinite().all()):
            raise ValueError("the network returns NaN or infinite values; is its input finite?")

    @property
    def theta(self) -> torch.Tensor:
        """The weights as a vector."""
        assert self.weights is not None
        return self.weights

    @property
    def state(self) -> WeightsState:
        """The weights and what the optimiser remembers."""
        return WeightsState(weights=self.theta, **self.memory)

    def resumed(self, state: Mapping[str, float | Array]) -> Self:
        """Return the value that had this `state`."""
        memory = {name: state[name] for name in ("rate", "moments", "steps") if name in state}
        weights = torch.as_tensor(state["weights"]).to(self.input)
        return replace(self, weights=weights, memory=memory)

    def image(self) -> torch.Tensor:
        """Return x, (x, y, z), without a gradient."""
        with torch.no_grad():
            return self.scale * self._relative(self.theta)

    def fit(self, target: torch.Tensor, weight: float | torch.Tensor, steps: int) -> Self:
        """Return the value after `steps` steps for sum of weight (x - target log x), which is never raised."""
        t, w = self._matched(target) / self.scale, self._matched(weight)
        total = w.sum().clamp(min=torch.finfo(w.dtype).tiny)

        def loss(theta: torch.Tensor) -> torch.Tensor:
            return surrogate(self._relative(theta).double(), t, w) / total

        return self._fitted(loss, steps)

    def fit_squares(self, target: torch.Tensor, steps: int) -> Self:
        """Return the value after `steps` steps for the mean of (x - target)^2, which is never raised."""
        t = self._matched(target) / self.scale
        return self._fitted(lambda theta: (self._relative(theta).double() - t).square().mean(), steps)

    def _fitted(self, loss: Loss, steps: int) -> Self:
        weights, memory = replace(self.fitting, steps=steps)(loss, self.theta, self.memory)
        return replace(self, weights=weights, memory=memory)

    def _relative(self, theta: torch.Tensor) -> torch.Tensor:
        """The image divided by its scale."""
        return self.positive(self._network_output(theta)) + _FLOOR

    def _network_output(self, theta: torch.Tensor) -> torch.Tensor:
        z = self.input if self.input.ndim > 3 else self.input[None]
        channels = z.reshape(z.shape[-4:])
        shape = (*z.shape[:-4], *z.shape[-3:])
        flat = (self.dimensions or (2 if shape[-1] == 1 else 3)) == 2
        given = channels.permute(3, 0, 1, 2) if flat else channels[None]
        made = run_network(self.network, theta, given)
        expected = (given.shape[0], 1, *given.shape[2:])
        if tuple(made.shape) != expected:
            raise ValueError(
                f"the network makes {_shape(made)} of {_shape(given)}, and should make {expected}; "
                "give the body, (items, channels, x, y[, z]) to one channel"
            )
        return (made[:, 0].permute(1, 2, 0) if flat else made[0, 0]).reshape(shape)

    def _matched(self, values: float | torch.Tensor) -> torch.Tensor:
        """Values as a constant of the image's shape, in float64."""
        shape = (*self.input.shape[:-4], *self.input.shape[-3:])
        with torch.inference_mode(False):  # what was made in that mode could take no part in a fit
            constant = torch.as_tensor(values, device=self.input.device).detach().double().clone()
        if constant.numel() > math.prod(shape):
            raise ValueError(f"NetworkWeights makes one image {tuple(shape)}, and is to fit {_shape(constant)}")
        return constant.reshape(shape) if constant.numel() == math.prod(shape) else constant.expand(shape)


def run_network(network: nn.Module, theta: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Return what the network makes of an input with the weights theta, a vector; the network itself stays as it is."""
    fitted = _fitted(network)
    parts = theta.split([p.numel() for p in fitted.values()])
    weights = {name: part.view(p.shape) for (name, p), part in zip(fitted.items(), parts)}
    fixed = {name: p.detach() for name, p in network.named_parameters() if name not in fitted}
    constants = {**fixed, **{name: b.clone() for name, b in network.named_buffers()}}
    floats = {name: c.to(theta) if c.is_floating_point() else c.to(theta.device) for name, c in constants.items()}
    made: torch.Tensor = functional_call(network, {**floats, **weights}, (given,))
    return made


def fixed_noise(shape: Sequence[int], channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Return the input of a deep image prior without a guide: uniform noise in [0, 1), (channels, x, y, z).

    Source: Ulyanov, Vedaldi & Lempitsky 2018.
    """
    return torch.rand((channels, *shape), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, eq=False, kw_only=True)
class DeepImagePrior(ABC):
    """What reconstructions share whose image is that of a network, with weights fitted to the scan itself.

    Args:
        network : from (1, C, x, y[, z]) to (1, 1, x, y[, z]), C the channels of the guide or of the noise; its weights
            are where it begins, and it stays as it is. None for a U-Net of weights by the seed.
        n_iterations : how many a call makes.
        initial_steps : passes of EM for the image that the network is fitted to first.
        initial_fit : how.
        n_subsets : of the views.
        channels : of the fixed noise that is the network's input where no guide is given.
        seed : of noise and of new weights; nothing else is random.
        dimensions, positive : as in `NetworkWeights`.
        scale : the typical value of the image, a function of the likelihood.

    Called with a likelihood it returns the image; `iterates` yields the image of every iteration. It continues exactly
    from an iterate, also from one that a `recon.Checkpoint` has kept. Doubling counts and background doubles the image.
    One network belongs to one scan: a batch of several is refused; call it for each.
    """

    network: nn.Module | None = field(default=None, kw_only=False)
    n_iterations: int = 100
    initial_steps: int = 60
    initial_fit: Fit = Fit("adam", 300, 1e-2)
    n_subsets: int = 1
    channels: int = 1
    seed: int = 0
    dimensions: int | None = None
    positive: Callable[[torch.Tensor], torch.Tensor] = smooth_positive
    scale: Callable[[Likelihood], float | Array] = count_scale

    def __post_init__(self) -> None:
        if self.n_iterations < 1 or self.initial_steps < 1 or self.n_subsets < 1 or self.channels < 1:
            raise ValueError(f"{type(self).__name__} needs at least one iteration, initial step, subset and channel")

    def __call__(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: Start = None,
        *,
        guide: Array | None = None,
        callbacks: Sequence[Callable[[Iterate], object]] = (),
        progress: bool = False,
    ) -> Array:
        """Return the image after `n_iterations`, or where a callback ends the run, as those of `recon.run` do.

        Args:
            callbacks : stopping rules, logs, checkpoints. Of a rule with a `best` iterate, such as `HeldOut`, the image
                of that iterate is returned instead of the last.
            progress : show a bar.
            likelihood, start, guide : as in `iterates`.
        """
        bar = [ProgressBar(self.n_iterations)] if progress else []
        image = run(self.iterates(likelihood, start, guide=guide), self.n_iterations, *callbacks, *bar)
        best = [found for rule in callbacks if (found := getattr(rule, "best", None)) is not None]
        return best[0].image if best else image

    def iterates(
        self, likelihood: Likelihood | Sequence[Likelihood], start: Start = None, *, guide: Array | None = None
    ) -> Iterator[Iterate]:
        """Yield an `Iterate` after each iteration, for ever; stop by leaving the loop.

        Args:
            likelihood : of one scan, with torch data; a list is one of subsets.
            start : the image that the network is fitted to first (default: that of EM), or an iterate to continue from.
            guide : the network's input, (x, y, z) or (C, x, y, z), MR or CT; each channel is divided by its largest
                magnitude. None for fixed noise.

        Raises ValueError for batches of several, guides that do not fit and iterates of other engines.
        """
        who = type(self).__name__
        at, parts = begin(likelihood, start if start is not None else self._flat(likelihood), self.n_subsets)
        if not isinstance(at.image, torch.Tensor):
            raise TypeError(f"{who} works on torch tensors; give the likelihood torch data")
        shape = image_shape(parts[0])
        items = max(math.prod(_leading(part, at.image)) for part in parts)
        if items > 1:
            raise ValueError(f"{who} has one network for one scan, and got a batch of {items}; loop over its items")
        if isinstance(start, Iterate) and "weights" not in start.state:
            raise ValueError(f"{who} continues only from its own iterates, which hold weights; give the image instead?")
        latent = self._latent(at.image, self._unit(likelihood), shape, guide)
        return self._iterates(at, parts, latent, start is None)

    def _iterates(
        self, at: Iterate, parts: list[Likelihood], latent: NetworkWeights, from_flat: bool
    ) -> Iterator[Iterate]:
        if "weights" in at.state:
            yield from self._repeat(at, parts, latent.resumed(at.state))
            return
        x = at.image.detach()
        for part in self._of_latent(parts) * (self.initial_steps if from_flat else 0):
            x = plain_em(x, part)
        yield from self._repeat(Iterate(0, x), parts, self._first(x, parts, latent))

    def _of_latent(self, parts: list[Likelihood]) -> list[Likelihood]:
        """The likelihoods of what the network makes: that of the image, unless something lies between."""
        return parts

    @abstractmethod
    def _first(self, x: torch.Tensor, parts: list[Likelihood], latent: NetworkWeights) -> NetworkWeights:
        """The network after it has been fitted to a first image."""

    @abstractmethod
    def _repeat(self, at: Iterate, parts: list[Likelihood], latent: NetworkWeights) -> Iterator[Iterate]:
        """The iterations."""

    def _latent(self, image: torch.Tensor, unit: float, shape: Sequence[int], guide: Array | None) -> NetworkWeights:
        z = fixed_noise(shape, self.channels, self.seed).to(image) if guide is None else _guide(guide, image, shape)
        with torch.inference_mode(False):
            z = z.reshape(*image.shape[:-3], *z.shape).clone()
        flat = (self.dimensions or (2 if shape[-1] == 1 else 3)) == 2
        network = self.network or default_network(2 if flat else 3, z.shape[-4], self.seed)
        return NetworkWeights(network, z, unit, dimensions=self.dimensions, positive=self.positive)

    def _unit(self, likelihood: Likelihood | Sequence[Likelihood]) -> float:
        return float(to_numpy(self.scale(listed(likelihood)[0])).max())

    def _flat(self, likelihood: Likelihood | Sequence[Likelihood]) -> Array:
        """The typical value, wherever anything is seen."""
        parts = listed(likelihood)
        return begin(parts, None)[0].image * self._unit(likelihood)


@dataclass(frozen=True, eq=False, kw_only=True)
class DIPState(WeightsState):
    """What `DIPRecon` remembers besides f(theta)."""

    x: torch.Tensor
    mu: torch.Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class DIPRecon(DeepImagePrior):
    """The most likely image that a network can make, by ADMM: maximise L(y | x) subject to x = f(theta | z)::

        x     <- em_fuse(EM(x), f(theta) - mu, s, rho)        `em_steps` times
        theta <- a smaller |f(theta) - (x + mu)|^2            by `fit`, from the weights as they are
        mu    <- mu + x - f(theta)

    and the image is f(theta). There is no training: z is the patient's MR or CT, or noise, and the form of the network
    is the prior. It must be stopped before it learns the noise, too: see the rules
    `WindowedVariance` and `HeldOut`.

    Args:
        rho : > 0, without unit: that of the algorithm is rho mean(s) / scale. With `relative=False` it is in units of s
            / x itself, and step sizes then depend on counts.
        em_steps : passes of EM in an iteration.
        fit : of the weights in an iteration.

    The others are those of `DeepImagePrior`.
    An iterate's state holds x, mu, the weights and the optimiser's memory, which is all that the loop remembers.

    Raises ValueError for numbers that are not positive.

    Source: Gong, Catana, Qi & Li 2019, IEEE Trans Med Imaging 38:1655.
    """

    rho: float = 0.5
    relative: bool = True
    em_steps: int = 2
    fit: Fit = Fit("lbfgs", 10)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rho < math.inf or self.em_steps < 1:
            raise ValueError(f"DIPRecon needs a rho and EM steps that are positive, got {self.rho} and {self.em_steps}")

    def _first(self, x: torch.Tensor, parts: list[Likelihood], latent: NetworkWeights) -> NetworkWeights:
        return replace(latent, fitting=self.initial_fit).fit_squares(x, self.initial_fit.steps)

    def _repeat(self, at: Iterate, parts: list[Likelihood], latent: NetworkWeights) -> Iterator[Iterate]:
        known = DIPState.of(at)
        fresh = {} if known is None else latent.memory  # the first fit's optimiser was another
        latent = replace(latent, fitting=self.fit, memory=fresh)
        f, iteration = latent.image(), at.iteration
        x, mu = (at.image, torch.zeros_like(at.image)) if known is None else (known.x, known.mu)
        while True:
            for part in tracked(parts * self.em_steps, f"iteration {iteration + 1}"):
                x = fused(x, f - mu, part, self._strength(part, x, latent.scale, len(parts)))
            x = only_seen(x, parts)
            latent = latent.fit_squares(x + mu, self.fit.steps)
            f = latent.image()
            mu = mu + x - f
            iteration += 1
            yield Iterate(iteration, only_seen(f, parts), DIPState(x=x, mu=mu, **latent.state))

    def _strength(self, part: Likelihood, x: torch.Tensor, scale: float, n: int) -> float:
        if not self.relative:
            return self.rho / n
        s = sensitivity_like(part, x)
        return self.rho * float(s.sum() / (s > 0).sum().clamp(min=1)) / scale


def plain_em(x: torch.Tensor, likelihood: Likelihood) -> torch.Tensor:
    """Return one EM step as a constant."""
    with torch.no_grad():
        made: torch.Tensor = em_step(x, likelihood)
        return made


def fused(x: torch.Tensor, z: torch.Tensor, likelihood: Likelihood, beta: float) -> torch.Tensor:
    """Return one MAP-EM step towards z as a constant."""
    with torch.no_grad():
        made: torch.Tensor = em_fuse(em_step(x, likelihood), z, sensitivity_like(likelihood, x), beta)
        return made


def default_network(dimensions: int, in_channels: int, seed: int) -> nn.Module:
    """Return the U-Net of DIPRecon, without its last ReLU, with new weights that belong to a seed."""
    with seeded(seed):
        return UNet(dimensions, in_channels, non_negative=False)


def dip_chain(dimensions: int, in_channels: int = 1, seed: int = 0, *, norm: str = "group") -> nn.Module:
    """Return a chain of four convolutions with 24 channels, with weights that belong to a seed, for small images.

    Where an image has few voxels and counts, the U-Net learns its noise as easily as the object. A network that
    sees only 9 voxels across learns what the guide shows first, and noise late.

    Args:
        norm : as for `SmallCNN`. "group" for optimisation transfer; "none" for DIPRecon, whose squares fit noise
            faster.
    """
    with seeded(seed):
        return SmallCNN(dimensions, in_channels, widths=(24, 24, 24), norm=norm)


def _fitted(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def _check_network(network: object) -> None:
    if not isinstance(network, nn.Module):
        raise TypeError(f"a deep image prior needs a torch module, got {type(network).__name__}")
    if not _fitted(network):
        raise ValueError("the network has no weights that require gradients, and nothing can be fitted")
    if any(isinstance(module, _DROPOUT) and module.training and module.p > 0 for module in network.modules()):
        raise ValueError(
            "the network has active dropout, and makes another image each time; set its p = 0 or call eval()"
        )


def _guide(guide: Array, image: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The channels of a guide, (C, x, y, z), each divided by its largest magnitude."""
    values = torch.as_tensor(guide).detach().to(image)
    if values.ndim < 3 or tuple(values.shape[-3:]) != tuple(shape):
        raise ValueError(f"a guide of shape {_shape(values)} does not fit images of {tuple(shape)}")
    if values.ndim > 5 or (values.ndim == 5 and values.shape[0] != 1):
        raise ValueError(f"a guide is (x, y, z) or (C, x, y, z) for one scan, got {_shape(values)}")
    if not bool(values.isfinite().all()):
        raise ValueError("the guide holds NaN or infinite values")
    channels = values.reshape(-1, *shape)
    largest = channels.abs().amax((1, 2, 3), keepdim=True)
    return channels / torch.where(largest > 0, largest, 1)


def _leading(likelihood: Likelihood, image: torch.Tensor) -> Sequence[int]:
    """The batch axes of image and data together."""
    return max(tuple(image.shape[:-3]), tuple(start_image(likelihood).shape[:-3]), key=math.prod)


def _shape(values: object) -> tuple[int, ...] | str:
    return tuple(values.shape) if hasattr(values, "shape") else type(values).__name__
