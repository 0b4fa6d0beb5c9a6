"""Networks and kernels together: coefficients that a network makes, and kernels that a network has learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack, cast

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn
from torch.utils.checkpoint import checkpoint

from emrecon.projectors import AcquisitionModel, ImageGrid, LinearOperator, Projector
from emrecon.projectors.core.arrays import Array
from emrecon.projectors.core.progress import tracked
from emrecon.recon import Iterate, KernelOperator, ListmodeLikelihood, PoissonLikelihood, kernel_matrix
from emrecon.recon import run as run_iterates
from emrecon.recon.engines.loop import State
from emrecon.recon.kernels.matrix import Window
from emrecon.recon.likelihoods import Likelihood, image_shape, knows_counts, only_seen, sensitivity_like

from ..networks.blocks import convolution, seeded
from ..networks.scaling import counts_of
from ..networks.unet import UNet
from .dip import DeepImagePrior, Fit, NetworkWeights, WeightsState, plain_em, run_network

_PUBLISHED = Fit("adam", 151, 1e-3)  # the fit of neural KEM
_CHUNK = 8  # neighbours whose differences of features are held at a time
_SMALL = 1e-12  # beside a squared distance, since a root has no slope at 0


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelState(WeightsState):
    """What `NeuralKEM` remembers besides K alpha."""

    coefficients: torch.Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuralKEM(DeepImagePrior):
    """The most likely image x = K f(theta | z), by optimisation transfer: the likelihood never gets worse::

        alpha_EM = alpha / (K's) * K'A'(y / ybar),   alpha = f(theta | z),   ybar = A K alpha + r
        theta <- lower sum_j (K's)_j (alpha_j - alpha_EM,j log alpha_j) by `fit`, from the weights as they are

    Args:
        kernel : K, an operator of images such as a `recon.KernelOperator`; None for the identity, a deep image prior
            without a rho.
        fit : of the weights in an iteration. It never raises the sum, which lies above the negative log-likelihood and
            touches it at the present image; so with one subset the likelihood is monotone, in exact arithmetic.

    The others are those of `DeepImagePrior`; with a kernel, EM, start and first fit are of the coefficients alpha.
    An iterate's state holds the coefficients alpha, the weights and the optimiser's memory.

    Raises ValueError for a kernel that does not fit the images.

    Source: Li, Gong, Badawi, Kim, Qi & Wang 2023, IEEE Trans Med Imaging 42:785.
    """

    n_iterations: int = 60
    kernel: LinearOperator | None = None
    fit: Fit = _PUBLISHED

    def _first(self, x: torch.Tensor, parts: list[Likelihood], latent: NetworkWeights) -> NetworkWeights:
        s = sum(sensitivity_like(part, x) for part in self._of_latent(parts))
        return replace(latent, fitting=self.initial_fit).fit(x, s, self.initial_fit.steps)

    def _repeat(self, at: Iterate, parts: list[Likelihood], latent: NetworkWeights) -> Iterator[Iterate]:
        fresh = {} if KernelState.of(at) is None else latent.memory  # the first fit's optimiser was another
        latent, iteration = replace(latent, fitting=self.fit, memory=fresh), at.iteration
        through = self._of_latent(parts)
        while True:
            for part in tracked(through, f"iteration {iteration + 1}"):
                alpha = latent.image()
                latent = latent.fit(plain_em(alpha, part), sensitivity_like(part, alpha), self.fit.steps)
            alpha = latent.image()
            iteration += 1
            image = alpha if self.kernel is None else self.kernel(alpha)
            yield Iterate(iteration, only_seen(image, parts), KernelState(coefficients=alpha, **latent.state))

    def _of_latent(self, parts: list[Likelihood]) -> list[Likelihood]:
        return parts if self.kernel is None else [with_kernel(part, self.kernel) for part in parts]


class NeuralKEMOptions(TypedDict, total=False):
    """The fields of `NeuralKEM` besides its network."""

    n_iterations: int
    kernel: LinearOperator | None
    fit: Fit
    initial_steps: int
    initial_fit: Fit
    n_subsets: int
    channels: int
    seed: int
    dimensions: int | None
    positive: Callable[[torch.Tensor], torch.Tensor]
    scale: Callable[[Likelihood], float | Array]


def dip_ot(network: nn.Module | None = None, **options: Unpack[NeuralKEMOptions]) -> NeuralKEM:
    """Return the deep image prior by optimisation transfer: `NeuralKEM` without a kernel, x = f(theta | z).

    It has no rho, and the likelihood never gets worse; the options are those of `NeuralKEM`.
    """
    if options.get("kernel") is not None:
        raise ValueError("dip_ot has no kernel; use NeuralKEM(kernel=...)")
    return NeuralKEM(network, **options)


def with_kernel(likelihood: Likelihood, kernel: LinearOperator) -> Likelihood:
    """Return the likelihood of coefficients alpha, that of x = K alpha: its projector is A K, its sensitivity K's.

    Raises ValueError for a kernel that does not fit the images.
    """
    shape = image_shape(likelihood)
    if kernel.in_shape != kernel.out_shape or kernel.out_shape != shape:
        raise ValueError(f"{kernel!r} does not fit images of {shape}")
    if not knows_counts(likelihood):
        return ThroughKernel(likelihood, kernel)
    model = likelihood.model
    seen = AcquisitionModel(cast(Projector, model.projector @ kernel), model.factors, model.background, model.scale)
    if not likelihood.sensitivity_has_factors:
        weights = getattr(likelihood, "weights", None)
        return ListmodeLikelihood(seen, kernel.T(likelihood.sensitivity), weights)
    return PoissonLikelihood(counts_of(likelihood), seen)


@dataclass(frozen=True, eq=False)
class ThroughKernel:
    """The likelihood f(K alpha) of coefficients alpha, for any likelihood f of images."""

    likelihood: Likelihood
    kernel: LinearOperator

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of the coefficients."""
        return self.kernel.in_shape

    @property
    def sensitivity(self) -> Array:
        """K's."""
        return self.kernel.T(self.likelihood.sensitivity)

    def value(self, x: Array) -> Array:
        """Return f(K alpha)."""
        return self.likelihood.value(self.kernel(x))

    def gradient(self, x: Array) -> Array:
        """Return K' grad f(K alpha)."""
        return self.kernel.T(self.likelihood.gradient(self.kernel(x)))

    def subset(self, k: int, n: int) -> ThroughKernel:
        """Return the likelihood of a part of the data."""
        return ThroughKernel(self.likelihood.subset(k, n), self.kernel)


# ---- deep kernel -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbours:
    """Which voxels each voxel mixes: rows as in `KernelOperator`, filled up to the same length.

    Args:
        index : (voxels, neighbours), the voxel itself where a row is shorter.
        valid : which of them are there.
    """

    index: torch.Tensor
    valid: torch.Tensor

    @classmethod
    def of(cls, kernel: KernelOperator) -> Neighbours:
        """Return those of a kernel."""
        rows = kernel.matrix
        counts = np.diff(rows.indptr)
        valid = np.arange(counts.max())[None] < counts[:, None]
        index = np.repeat(np.arange(len(counts))[:, None], counts.max(), 1)
        index[valid] = rows.indices
        return cls(torch.from_numpy(index), torch.from_numpy(valid))

    def to(self, x: torch.Tensor) -> Neighbours:
        """Return them on the device of x."""
        return Neighbours(self.index.to(x.device), self.valid.to(x.device))

    def weights(self, features: torch.Tensor) -> torch.Tensor:
        """Return softmax over the neighbours j of -d_ij, d_ij = sqrt(mean over channels of (f_i - f_j)^2).

        Args:
            features : (voxels, channels).

        Returns (voxels, neighbours), 0 where there is none.
        """
        distances = [self._distance(features, part) for part in self.index.split(_CHUNK, 1)]
        scores = torch.cat(distances, 1).neg().masked_fill(~self.valid, -torch.inf)
        return scores.softmax(1)

    def mixed(self, weights: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return the weighted sums over neighbours of images (M, voxels)."""
        parts = zip(weights.split(_CHUNK, 1), self.index.split(_CHUNK, 1))
        return torch.stack([(w * images[:, index]).sum(-1) for w, index in parts]).sum(0)

    def matrix(self, weights: torch.Tensor, shape: Sequence[int]) -> KernelOperator:
        """Return the kernel of the weights."""
        w = weights.detach().cpu().double().numpy()
        valid, n = self.valid.cpu().numpy(), len(w)
        start = np.concatenate([[0], np.cumsum(valid.sum(1))])
        values = (w / w.sum(1, keepdims=True))[valid].astype(np.float32)
        return KernelOperator(csr_array((values, self.index.cpu().numpy()[valid], start), shape=(n, n)), tuple(shape))

    def _distance(self, features: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        def distance(f: torch.Tensor) -> torch.Tensor:
            return (((f[:, None] - f[index]) ** 2).mean(-1) + _SMALL).sqrt()

        return checkpoint(distance, features, use_reentrant=False, preserve_rng_state=False)


def deep_kernel(
    composites: Array | Sequence[Array],
    downsampled: Array | Sequence[Array],
    grid: ImageGrid | None = None,
    *,
    network: nn.Module | None = None,
    n_neighbours: int = 48,
    window: Window | None = 7,
    mask: Array | None = None,
    n_iterations: int = 501,
    rate: float = 1e-3,
    seed: int = 0,
    dimensions: int | None = None,
    callbacks: Sequence[Callable[[Iterate], object]] = (),
) -> KernelOperator:
    """Return a kernel whose weights a network has learned from the scan's own composite frames, a `KernelOperator`::

        K[i, j] = softmax over the neighbours j of -d_ij,   d_ij = root mean square over channels of f_i - f_j
        f = network(composites | theta),   theta <- lower the mean of |K(theta) downsampled - composites|^2

    Args:
        composites : images of a few long frames, (M, x, y, z) or one; the network's input and what it aims at. Each is
            divided by its mean.
        downsampled : the same images reconstructed from a part of the counts (a tenth, say), of the same shape.
        network : from (1, M, x, y[, z]) to features (1, channels, x, y[, z]); it stays as it is, and training starts at
            its weights. Default: the U-Net of DIPRecon with 16 channels, initialised by the seed.
        grid, n_neighbours, window, mask : which voxels are mixed, chosen by the composites once, see
            `recon.kernel_matrix`.
        n_iterations, rate : of Adam.
        dimensions : 2 gives the network the slices as a batch, 3 the volume (default: 2 where there is one slice).
        callbacks : see an `Iterate` after each iteration, with the filtered images; as in `recon.run`. The kernel is
            that of the last iterate.

    Repeats bit for bit on the CPU. For `recon.kem(likelihood, deep_kernel(...))` and `NeuralKEM(kernel=...)`.
    Memory in training: about 8 floats for each voxel, neighbour and channel of 8 neighbours, and 4 for each voxel and
    neighbour.

    Raises ValueError for shapes that do not fit, images that are not finite or have no mean, and a network that does
    not return features of the image's size.

    Source: Li & Wang 2022, IEEE Trans Med Imaging 41:3029.
    """
    z, low = _composites(composites, downsampled)
    if n_iterations < 1:
        raise ValueError(f"deep_kernel n_iterations must be at least 1, got {n_iterations}")
    fixed = kernel_matrix(z, grid, n_neighbours=n_neighbours, window=window, mask=mask)
    shape = tuple(z.shape[1:])
    flat = (dimensions or (2 if shape[-1] == 1 else 3)) == 2
    neighbours = Neighbours.of(fixed).to(z)
    given = z.permute(3, 0, 1, 2) if flat else z[None]
    network = network or default_features(2 if flat else 3, len(z), seed)
    latest: list[torch.Tensor] = []
    iterates = _learn(network, given, z, low, neighbours, rate, latest)
    run_iterates(iterates, n_iterations, *callbacks)
    return neighbours.matrix(latest[-1], shape)


@dataclass(frozen=True)
class LossState(State):
    """What an iterate of `deep_kernel` tells besides the filtered images: the loss before its step."""

    loss: float


def _learn(
    network: nn.Module,
    given: torch.Tensor,
    target: torch.Tensor,
    low: torch.Tensor,
    neighbours: Neighbours,
    rate: float,
    latest: list[torch.Tensor],
) -> Iterator[Iterate]:
    """Iterates whose image is that of the weights before the step; they are what `latest` holds."""
    theta = nn.utils.parameters_to_vector(p.detach() for p in network.parameters() if p.requires_grad).to(target)
    theta = theta.clone().requires_grad_()
    optimiser, iteration = torch.optim.Adam([theta], rate), 0
    images = low.reshape(len(low), -1)
    while True:
        with torch.enable_grad():
            weights = neighbours.weights(_features(network, theta, given))
            made = neighbours.mixed(weights, images)
            loss = (made - target.reshape(len(target), -1)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        latest[:] = [weights.detach()]
        iteration += 1
        yield Iterate(iteration, made.detach().reshape(low.shape), LossState(float(loss.detach())))


def _features(network: nn.Module, theta: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """The network's features, (voxels, channels)."""
    made = run_network(network, theta, given)
    if made.ndim != given.ndim or made.shape[0] != given.shape[0] or made.shape[2:] != given.shape[2:]:
        raise ValueError(
            f"deep_kernel: the network makes {tuple(made.shape)} of {tuple(given.shape)}, not features of that size"
        )
    order = (2, 3, 0, 1) if given.ndim == 4 else (0, 2, 3, 4, 1)
    return made.permute(order).reshape(-1, made.shape[1])


def _composites(
    composites: Array | Sequence[Array], downsampled: Array | Sequence[Array]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as (M, x, y, z), divided by the means of the composites."""
    z, low = (_stacked(values) for values in (composites, downsampled))
    low = low.to(z)
    if z.ndim != 4 or z.shape != low.shape:
        raise ValueError(
            f"deep_kernel: composites and downsampled must both be (M, x, y, z), got {tuple(z.shape)} and "
            f"{tuple(low.shape)}"
        )
    mean = z.mean((1, 2, 3), keepdim=True)
    if not bool(z.isfinite().all() and low.isfinite().all() and (mean > 0).all()):
        raise ValueError("deep_kernel needs images that are finite, and composites with a mean above 0")
    return z / mean, low / mean


def _stacked(images: Array | Sequence[Array]) -> torch.Tensor:
    listed = images if isinstance(images, (list, tuple)) else [images]
    stack = torch.stack([torch.as_tensor(image).detach() for image in listed])
    stack = stack[0] if stack.ndim == 5 else stack
    return stack if stack.is_floating_point() else stack.float()


def default_features(dimensions: int, in_channels: int, seed: int, n_features: int = 16) -> nn.Module:
    """Return the U-Net of DIPRecon with so many channels instead of one, with new weights that belong to a seed."""
    with seeded(seed):
        network = UNet(dimensions, in_channels, width=n_features, non_negative=False)
        network.last = convolution(dimensions, n_features, n_features, 1)
    return network
