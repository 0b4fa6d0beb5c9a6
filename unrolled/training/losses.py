"""What training minimises: image losses, the Poisson data fit, and objectives that need no noise-free image."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import torch
from torch import nn

from emrecon import recon
from emrecon.projectors import AcquisitionModel
from emrecon.recon.likelihoods import Likelihood, knows_counts

from ..networks.blocks import require_denoiser
from ..networks.optional import optional_module
from ..networks.scaling import counts_of, of_bins

if TYPE_CHECKING:
    import deepinv

Criterion = Callable[..., torch.Tensor]
"""criterion(image, target, weight=None) -> one number; images (..., x, y, z)."""

Case: TypeAlias = tuple[object, torch.Tensor] | tuple[object, torch.Tensor, torch.Tensor]
"""(arguments of the model, target) or (arguments of the model, target, weight)."""

Result = TypeVar("Result")


# ---- image against target --------------------------------------------------------------------------------------------


def mse(image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean over voxels and items of w (image - target)^2.

    Args:
        weight : broadcasts to the images, such as `lesion_weight(mask)`; the mean is over all voxels, so that a weight
            above 1 somewhere changes nothing elsewhere.

    Raises ValueError for shapes that differ: broadcasting one image against a batch is rarely meant.
    """
    return _mean((image - _checked(image, target)) ** 2, weight)


def l1(image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean over voxels and items of w ``|image - target|``. Weight and errors as in `mse`."""
    return _mean((image - _checked(image, target)).abs(), weight)


def relative_mse(
    image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, *, dimensions: int = 3
) -> torch.Tensor:
    """Return the mean over items of ``|image - target|^2 / |target|^2``: every count level and unit weighs the same.

    Args:
        dimensions : how many trailing axes make one item.  Weight and errors as in `mse`, and ValueError for an item
            whose target is zero everywhere.
    """
    axes = tuple(range(-dimensions, 0))
    scale = (_checked(image, target) ** 2).mean(axes, keepdim=True)
    if not bool((scale > 0).all()):
        raise ValueError(
            "relative_mse: the target of an item is zero everywhere; is the image empty, or `dimensions` wrong?"
        )
    return _mean((image - target) ** 2 / scale, weight)


def ssim_loss(
    image: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    data_range: float | None = None,
    dimensions: int = 3,
) -> torch.Tensor:
    """Return the mean over voxels and items of w (1 - SSIM), with the map of `recon.metrics.ssim_map`.

    Args:
        data_range : L; default: of every item the maximum of its target, so that the loss does not depend on units.
        dimensions : how many trailing axes make one item, (x, y, z); an axis of one voxel is not smoothed along, so 2-D
            images (x, y, 1) get the two-dimensional index. Computed in float64; all voxels count, mirrored at the
            edges.

    Raises ValueError for targets without activity (L would be 0), NaN, and as `mse` does.

    Source: Wang et al. 2004.
    """
    similarity = recon.ssim_map(image, _checked(image, target), data_range=data_range, dimensions=dimensions)
    return _mean(1 - similarity, weight).to(image.dtype)


@dataclass(frozen=True)
class WeightedSum:
    """The criterion sum of w_i * criterion_i, such as WeightedSum((1, l1), (0.5, ssim_loss))."""

    terms: tuple[tuple[float, Criterion], ...]

    def __init__(self, *terms: tuple[float, Criterion]) -> None:
        if not terms or not all(math.isfinite(factor) for factor, _ in terms):
            raise ValueError("WeightedSum needs (number, criterion) pairs with finite numbers, at least one")
        object.__setattr__(self, "terms", terms)

    def __call__(self, image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        return torch.stack([factor * term(image, target, weight) for factor, term in self.terms]).sum()


def lesion_weight(mask: torch.Tensor, factor: float = 100.0, blur: float = 0.0) -> torch.Tensor:
    """Return the weight image 1 + factor * mask, by which lesions count more than the rest.

    Args:
        mask : (..., x, y, z) booleans or parts of voxels, 0 to 1.
        factor : 100 adds 100 l M to a loss l (Pan 2022); 9 with `blur` gives 10 in lesions and 1 outside, with soft
            edges.
        blur : standard deviation in voxels of a Gaussian that the mask is smoothed with along every axis longer than
            one voxel; edges are mirrored.

    Raises ValueError for values outside 0 to 1, and a negative factor or blur.
    """
    values = mask if mask.dtype == torch.float64 else mask.to(torch.float32)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError("lesion_weight: the mask must hold booleans or parts of voxels between 0 and 1")
    if not (factor >= 0 and blur >= 0):
        raise ValueError(f"lesion_weight: factor and blur must not be negative, got {factor} and {blur}")
    return 1 + factor * (_blurred(values, blur) if blur > 0 else values)


def poisson_loss(image: torch.Tensor, likelihood: Likelihood) -> torch.Tensor:
    """Return how badly an image explains the counts, the mean over bins of ybar - y + y log(y / ybar).

    It is `likelihood.value` less its least possible value, per bin: 0 for ybar = y, about 1/2 for the true image. Of
    list-mode data: the value per event, without a zero point. Of any other likelihood: its value as it is.

    Args:
        image : (B, x, y, z) or (x, y, z) >= 0, in the unit of the likelihood's model.

    Raises ValueError where counts were measured but none are expected.
    """
    value = torch.as_tensor(likelihood.value(image))
    if not knows_counts(likelihood):
        return value.mean().to(image.dtype)
    shape = likelihood.model.projector.out_shape
    if likelihood.sensitivity_has_factors:  # all bins are known, those without counts too
        y = torch.as_tensor(counts_of(likelihood), device=value.device).to(torch.float64)
        value = value - (y - torch.xlogy(y, y)).sum(tuple(range(-len(shape), 0)))
    return (value / math.prod(shape)).mean().to(image.dtype)


def _checked(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if image.shape != target.shape:
        raise ValueError(f"a loss compares images of one shape, got {tuple(image.shape)} and {tuple(target.shape)}")
    return target


def _mean(values: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    if weight is None:
        return values.mean()
    if torch.broadcast_shapes(values.shape, weight.shape) != values.shape:
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} does not broadcast to images of {tuple(values.shape)}"
        )
    return (weight.to(values.dtype) * values).mean()


def _blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    for axis in (-3, -2, -1):
        n = x.shape[axis]
        if n > 1:
            distance = torch.arange(n, dtype=x.dtype, device=x.device)
            distance = distance[:, None] - torch.cat([distance, -1 - distance, 2 * n - 1 - distance])
            taps = torch.exp(-0.5 * (distance / sigma) ** 2).unflatten(1, (3, n)).sum(1)
            x = torch.moveaxis(torch.moveaxis(x, axis, -1) @ (taps / taps.sum(1, keepdim=True)).T, -1, axis)
    return x


# ---- objectives: what `train` calls as loss(model, batch, generator) -------------------------------------------------


@dataclass(frozen=True)
class Supervised:
    """The objective criterion(model(``*arguments``), target, weight).

    A batch is (arguments, target) or (arguments, target, weight). Arguments are what the model takes: a tensor or a
    likelihood, a tuple of positional or a mapping of named ones, such as {"likelihood": f, "guide": mr}.
    """

    criterion: Criterion = mse

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> torch.Tensor:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise ValueError("Supervised takes batches (arguments, target) or (arguments, target, weight)")
        return self.criterion(applied(model, batch[0]), *batch[1:])


@dataclass(frozen=True)
class ThinnedNoise2Noise:
    """The objective that learns from single scans: reconstruct one random part of the counts, explain the other::

        y1 ~ Binomial(y, p),   y2 = y - y1,   loss = poisson_loss(model(f1), f2)   or   criterion(model(f1), x2)

    y1 and y2 are independent Poisson counts, exactly, with means p ybar and (1 - p) ybar. So for every y1 the
    expectation of the loss over y2 is that with ybar in the place of y2 / (1 - p): the noise of y2 adds a constant. A
    new split is drawn in every step.

    Args:
        p : probability of an event to be in the network's part.
        reconstruct : None for the Poisson loss in the data; or a function likelihood -> image for pairs of images, x2 =
            reconstruct(f2), compared by `criterion`. That is exact for the squared error and a reconstruction without
            bias; EM has a bias at few counts.

    A batch is what the model takes, with the likelihood alone, first, or named "likelihood".
    Both parts have models that account for their share (see `thinned`), so images need no factor p / (1 - p).

    Source: Lehtinen et al. 2018 for pairs of noisy images; the thinning of a Poisson process is textbook.
    """

    p: float = 0.5
    reconstruct: Callable[[recon.PoissonLikelihood], torch.Tensor] | None = None
    criterion: Criterion = mse

    def __post_init__(self) -> None:
        _check_share(self.p)

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> torch.Tensor:
        likelihood, with_part = _likelihood_of(batch)
        seen, held_out = thinned(likelihood, self.p, generator)
        image = applied(model, with_part(seen))
        if self.reconstruct is None:
            return poisson_loss(image, held_out)
        with torch.no_grad():
            target = self.reconstruct(held_out)
        return self.criterion(image, target)


@dataclass(frozen=True)
class Noise2Void:
    """The objective that hides single voxels from a denoiser and asks for them: the mean over hidden voxels of
    (model(hidden) - image)^2.

    Args:
        box, reach : see `blind_spots`. A batch is the noisy images, or a tuple with them first.

    It assumes noise that is independent from voxel to voxel. That of reconstructed images is not, and the network
    learns to reproduce it in part; `ThinnedNoise2Noise` does not assume it.

    Source: Krull et al. 2019.
    """

    box: tuple[int, int, int] = (8, 8, 1)
    reach: int = 2

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> torch.Tensor:
        given = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        image = given[0] if given else None
        if not isinstance(image, torch.Tensor):
            raise TypeError(f"Noise2Void takes noisy images, tensors (..., x, y, z), got {type(image).__name__}")
        require_denoiser(model, "Noise2Void")
        hidden, spots = blind_spots(image, generator, self.box, self.reach)
        return ((model(hidden, *given[1:]) - image) ** 2)[spots].mean()


@dataclass(frozen=True)
class DeepinvLoss:
    """The objective of any deepinv loss, called as loss(x_net=, x=, y=, physics=, model=) in deepinv's conventions.

    Args:
        loss : such as what `equivariant` and `measurement_splitting` return, or a sum's part of your own.
        physics : a `deepinv.physics.Physics`.  A batch is y, or (y, x) for losses that compare with x; the model is
            called as model(y, physics), with channels-first data.

    Random numbers that the loss or the physics take from torch's global state belong to the step.
    """

    loss: deepinv.loss.Loss
    physics: deepinv.physics.Physics

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> torch.Tensor:
        y, x = batch if isinstance(batch, (tuple, list)) else (batch, None)
        adapted = self.loss.adapt_model(model)
        # a loss that splits or adds noise to the data remembers how, when asked to
        remember = "update_parameters" in inspect.signature(adapted.forward).parameters
        x_net = adapted(y, self.physics, update_parameters=True) if remember else adapted(y, self.physics)
        value: torch.Tensor = self.loss(x_net=x_net, x=x, y=y, physics=self.physics, model=adapted)
        return value.mean()


def equivariant(
    physics: deepinv.physics.Physics, transform: deepinv.transform.Transform, metric: nn.Module | None = None
) -> DeepinvLoss:
    """Return the equivariant-imaging objective of deepinv, ``|T x - model(A T x)|^2`` with x = model(y).

    Args:
        transform : T, such as `deepinv.transform.Rotate()`. It constrains only what the data do not see: add a data
            fit.

    Raises ImportError that names the extra where deepinv is missing.

    Source: Chen, Tachella & Davies 2021.
    """
    return DeepinvLoss(_deepinv("equivariant").loss.EILoss(transform, metric), physics)


def measurement_splitting(
    physics: deepinv.physics.Physics,
    data_shape: Sequence[int],
    kept: float = 0.9,
    metric: nn.Module | None = None,
) -> DeepinvLoss:
    """Return the measurement-splitting objective of deepinv, ``|y2 - A2 model(y1, A1)|^2`` of random halves of bins.

    Args:
        data_shape : (channels, ..., bins), of one item.
        kept : the part of the bins that the model sees.

    For counts `ThinnedNoise2Noise` splits the events instead, and no bin is missing.

    Raises ImportError that names the extra where deepinv is missing, ValueError for a part outside 0 to 1.
    """
    _check_share(kept)
    theirs = _deepinv("measurement_splitting")
    masks = theirs.physics.generator.BernoulliSplittingMaskGenerator(tuple(data_shape), split_ratio=kept)
    return DeepinvLoss(theirs.loss.SplittingLoss(metric, split_ratio=kept, mask_generator=masks), physics)


def applied(model: Callable[..., Result], arguments: object) -> Result:
    """Return `model(*arguments)` for a tuple, `model(**arguments)` for a mapping, and `model(arguments)` otherwise."""
    if isinstance(arguments, Mapping):
        return model(**arguments)
    return model(*arguments) if isinstance(arguments, (tuple, list)) else model(arguments)


# ---- parts of scans and of images ------------------------------------------------------------------------------------


def thin(counts: torch.Tensor, p: float, generator: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return counts split at random into two independent parts, y1 ~ Binomial(y, p) and y2 = y - y1.

    Args:
        counts : integers >= 0 of any dtype and shape.  Both parts have its dtype and device.
        generator : the draw is done on its device; one on the CPU gives the same parts everywhere (default: torch's
            global one on the CPU).

    Raises ValueError for counts that are not non-negative integers (usual cause: corrected or expected counts), and
    for p outside 0 to 1.
    """
    _check_share(p)
    generator = torch.default_generator if generator is None else generator
    values = counts.detach().to(device=generator.device, dtype=torch.float64)
    if not bool((torch.isfinite(values) & (values >= 0) & (values == values.floor())).all()):
        raise ValueError("thin needs counts, integers >= 0; are these expected or corrected counts?")
    part = torch.binomial(values, torch.full_like(values, p), generator=generator)
    first = part.to(device=counts.device, dtype=counts.dtype)
    return first, counts.detach() - first


def thinned(
    likelihood: recon.PoissonLikelihood, p: float, generator: torch.Generator | None = None
) -> tuple[recon.PoissonLikelihood, recon.PoissonLikelihood]:
    """Return the likelihoods of two random parts of the counts, with models p and 1 - p times that of the whole::

        y1 ~ Binomial(y, p),  ybar1 = p ybar;    y2 = y - y1,  ybar2 = (1 - p) ybar

    ybar holds the background, so it is shared out as well, and an image means the same activity for both parts and the
    whole. The sensitivity image is made once, for the whole.

    Raises TypeError for likelihoods without counts in bins, such as list-mode (thin the events instead), and as `thin`
    does.
    """
    of_bins(likelihood, "thinned", "thin the events of a list instead")
    counts = torch.as_tensor(counts_of(likelihood))
    first, second = thin(counts, p, generator)
    return _part(likelihood, first, p), _part(likelihood, second, 1 - p)


def _part(likelihood: recon.PoissonLikelihood, counts: torch.Tensor, share: float) -> recon.PoissonLikelihood:
    model = likelihood.model
    part = recon.PoissonLikelihood(
        counts, AcquisitionModel(model.projector, model.factors, share * model.background, share * model.scale)
    )
    if not any(getattr(values, "requires_grad", False) for values in (model.factors, model.scale)):
        like = counts if counts.dtype == torch.float64 else counts.to(torch.float32)
        part._plans["sensitivity"].get(like, lambda: share * likelihood.sensitivity_like(like))
    return part


def blind_spots(
    image: torch.Tensor,
    generator: torch.Generator | None = None,
    box: tuple[int, int, int] = (8, 8, 1),
    reach: int = 2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images with some voxels replaced by a neighbour, and booleans that say which.

    Args:
        image : (..., x, y, z).
        generator : of the random numbers (default: torch's global one on the CPU).
        box : one voxel in every box of this size is replaced, at a random place (the last boxes may reach beyond the
            image, and their voxel may be lost): (8, 8, 1) for slices, (4, 4, 4) for volumes; both hide 1 of 64.
        reach : the new value is that of a voxel at most so far along each axis on which the box is longer than one
            voxel, drawn uniformly from those inside the image, and never the voxel itself.

    Raises ValueError for a box or reach below 1, and images without a neighbour to take.
    """
    shape = tuple(image.shape[-3:])
    generator = torch.default_generator if generator is None else generator
    if len(box) != 3 or min(box) < 1 or reach < 1 or image.ndim < 3:
        raise ValueError(f"blind_spots takes images (..., x, y, z), box and reach of at least 1, got {box} and {reach}")
    active = [axis for axis in range(3) if box[axis] > 1]
    if not any(shape[axis] > 1 for axis in active):
        raise ValueError(f"blind_spots: images of {shape} have no neighbours along the axes of a box {box}")

    def drawn(limit: int | torch.Tensor) -> torch.Tensor:
        return torch.floor(torch.rand(grid, generator=generator, device=generator.device) * limit).long()

    items = image.reshape(-1, *shape)
    grid = (len(items), *(math.ceil(n / edge) for n, edge in zip(shape, box)))
    place = torch.meshgrid(*(torch.arange(n, device=generator.device) for n in grid), indexing="ij")
    spots = [place[0], *(place[axis + 1] * box[axis] + drawn(box[axis]) for axis in range(3))]
    low = [(spots[a + 1] - (reach if a in active else 0)).clamp(min=0) for a in range(3)]
    high = [torch.minimum(spots[a + 1] + (reach if a in active else 0), torch.tensor(shape[a] - 1)) for a in range(3)]
    width = [(b - a + 1).clamp(min=1) for a, b in zip(low, high)]
    own = ((spots[1] - low[0]) * width[1] + (spots[2] - low[1])) * width[2] + (spots[3] - low[2])
    other = drawn(width[0] * width[1] * width[2] - 1)
    other = other + (other >= own)  # uniform over the window without the voxel itself
    source = [
        low[0] + other // (width[1] * width[2]),
        low[1] + other // width[2] % width[1],
        low[2] + other % width[2],
    ]
    inside = torch.stack([spots[a + 1] < shape[a] for a in range(3)]).all(0)
    at = [index[inside].to(image.device) for index in spots]
    values = items[(at[0], *(index[inside].to(image.device) for index in source))]
    hidden, chosen = items.clone(), torch.zeros_like(items, dtype=torch.bool)
    hidden[tuple(at)], chosen[tuple(at)] = values, True
    return hidden.reshape(image.shape), chosen.reshape(image.shape)


def _likelihood_of(
    batch: object,
) -> tuple[recon.PoissonLikelihood, Callable[[recon.PoissonLikelihood], object]]:
    """Return the likelihood in a model's arguments, and how to put another in its place."""
    if isinstance(batch, Mapping):
        if "likelihood" not in batch:
            raise ValueError(f"ThinnedNoise2Noise looks for 'likelihood' in the batch, which has {sorted(batch)}")
        return batch["likelihood"], lambda part: {**batch, "likelihood": part}
    if isinstance(batch, (tuple, list)):
        return batch[0], lambda part: (part, *batch[1:])
    return cast(recon.PoissonLikelihood, batch), lambda part: part


def _check_share(p: float) -> None:
    if not 0 < p < 1:
        raise ValueError(f"the share of the counts must be above 0 and below 1, got {p}")


def _deepinv(who: str) -> ModuleType:
    return optional_module("deepinv", who, "deepinv", "deepinv")
