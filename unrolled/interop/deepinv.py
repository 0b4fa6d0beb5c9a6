"""Our systems, reconstructions and denoisers in deepinv, and deepinv's physics and denoisers here (extra `deepinv`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn

from emrecon.projectors import AcquisitionModel, Projector
from emrecon.projectors.core.arrays import Array, is_torch, like, to_numpy
from emrecon.projectors.core.operator import BatchOperator, Shape, broadcasts_to
from emrecon.recon import PoissonLikelihood

from ..networks.blocks import Denoiser
from ..networks.guides import IMAGE_AXES
from ..networks.optional import optional_module
from ..networks.scaling import ScaleEquivariant
from ..networks.unet import pad_to_multiple

if TYPE_CHECKING:
    import deepinv


class PhysicsOptions(TypedDict, total=False):
    """Arguments of `as_linear_physics` besides the model."""

    dimensions: int | None
    image_unit: float
    data_unit: float
    noise_model: deepinv.physics.NoiseModel | None


Given = PoissonLikelihood | Sequence[PoissonLikelihood]
"""What a method is given: the likelihood, or those of the subsets."""


# ---- our systems as physics ------------------------------------------------------------------------------------------


def as_linear_physics(
    model: AcquisitionModel | Projector,
    *,
    dimensions: int | None = None,
    image_unit: float = 1.0,
    data_unit: float = 1.0,
    noise_model: deepinv.physics.NoiseModel | None = None,
) -> deepinv.physics.LinearPhysics:
    """Return our system as a `deepinv.physics.LinearPhysics`; see `SystemPhysics` for what it offers::

        y = Poisson( data_unit A(x) ) / data_unit,   A(x) = (model.linear(image_unit x) [+ background]) / data_unit

    Args:
        model : of binned data, with one set of physics for all items or for a batch of the size of the data.
        dimensions : 2 for images (B, 1, x, y) without the last axis, which must have one slice; 3 for (B, 1, x, y, z).
            Default: 2 where there is one slice. In 2-D the data lose their last axis too, where it has one row or
            plane.
        image_unit, data_unit : what a voxel of 1 and a bin of 1 stand for there. deepinv's denoisers and samplers
            expect images in [0, 1] and an operator of norm 1; its MLEM and OSEM take any unit.
        noise_model : of deepinv (default: Poisson noise of the counts).

    Raises ImportError where deepinv is missing, ValueError for a unit that is not positive or slices that do not fit.
    """
    theirs = _deepinv("as_linear_physics")
    if not (image_unit > 0 and data_unit > 0):
        raise ValueError(f"as_linear_physics needs positive units, got image {image_unit} and data {data_unit}")
    system = model if isinstance(model, AcquisitionModel) else AcquisitionModel(model)
    if noise_model is None:
        noise_model = theirs.physics.PoissonNoise(gain=1 / data_unit, normalize=True)
    make = _subclass(SystemPhysics, theirs.physics.LinearPhysics)
    return make(system, _dimensions(system.projector, dimensions), image_unit, data_unit, noise_model)


def as_stacked(
    model: AcquisitionModel | Projector, n_subsets: int, **options: Unpack[PhysicsOptions]
) -> deepinv.physics.StackedLinearPhysics:
    """Return the views k, k + n, ... of our system as the parts of a `deepinv.physics.StackedLinearPhysics`.

    Args:
        n_subsets : n; the data belong to it as `split_views(y, n)`, for deepinv's OSEM and BSREM among others.
        options : of `as_linear_physics`.
    """
    theirs = _deepinv("as_stacked")
    system = model if isinstance(model, AcquisitionModel) else AcquisitionModel(model)
    parts = [as_linear_physics(system.subset(k, n_subsets), **options) for k in range(n_subsets)]
    return theirs.physics.StackedLinearPhysics(parts)


def split_views(y: Tensor, n_subsets: int) -> deepinv.utils.TensorList:
    """Return data (B, 1, views, ...) as a `deepinv.utils.TensorList` of the views k, k + n, ..."""
    return _deepinv("split_views").utils.TensorList([y[:, :, k::n_subsets] for k in range(n_subsets)])


class SystemPhysics(nn.Module):
    """What `as_linear_physics` adds to `deepinv.physics.LinearPhysics`; create it by that function.

    Args:
        A, A_adjoint : the linear part and its exact transpose, with gradients. physics(x) has background and noise.
        background : buffer, expected counts / data_unit, broadcasts to data (B, 1, ...).
        guide : buffer, None or (B, channels, x, y[, z]), for networks that take one; see `as_reconstructor`.

    Both are parameters that a data set may bring: `physics.update(background=..., guide=...)` replaces them.

    Args:
        likelihood, as_image, from_image : the way back, from deepinv's arrays and units to ours.
    """

    def __init__(
        self,
        model: AcquisitionModel,
        dimensions: int,
        image_unit: float,
        data_unit: float,
        noise_model: deepinv.physics.NoiseModel,
    ) -> None:
        image, data = model.projector.in_shape, model.projector.out_shape
        flat = dimensions == 2
        super().__init__(img_size=(1, *(image[:-1] if flat else image)), noise_model=noise_model)
        self.model, self.image_unit, self.data_unit = model, image_unit, data_unit
        self.flat_image, self.flat_data = flat, flat and data[-1] == 1
        background = torch.as_tensor(model.background)
        background = background.reshape(*[1] * (len(data) - background.ndim), *background.shape) / data_unit
        batch = background if background.ndim > len(data) else background[None]
        batch = batch if batch.is_floating_point() else batch.float()
        self.register_buffer("background", _with_channel(batch, self.flat_data))
        self.register_buffer("guide", None)

    def A(self, x: Tensor, add_background: bool = False, **parameters: Tensor) -> Tensor:
        """Return A x, (B, 1, ``*image``) -> (B, 1, ``*data``); parameters such as background replace the buffers."""
        self.update_parameters(**parameters)
        y = self.model.linear(self.as_image(x)) / self.data_unit
        y = _with_channel(y, self.flat_data)
        return y + self.background.to(y) if add_background else y

    def A_adjoint(self, y: Tensor, **parameters: Tensor) -> Tensor:
        """Return the transpose of `A` applied to data, (B, 1, ``*data``) -> (B, 1, ``*image``)."""
        self.update_parameters(**parameters)
        x = self.model.adjoint(self._bins(y)) * (self.image_unit / self.data_unit)
        return _with_channel(x, self.flat_image)

    def forward(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """Return simulated data, noise(A x + background)."""
        return self.sensor(self.noise(self.A(x, add_background=True, **parameters)))

    def likelihood(self, y: Tensor) -> PoissonLikelihood:
        """Return the likelihood of data (B, 1, ``*data``), counts, with the background that the physics holds now."""
        background = self.data_unit * self._bins(self.background.to(y), may_broadcast=True)
        return PoissonLikelihood(self.data_unit * self._bins(y), replace(self.model, background=background))

    def as_image(self, x: Tensor) -> Tensor:
        """Return images (B, 1, ``*image``) as ours, (B, x, y, z) in units of the model."""
        shape = self.model.projector.in_shape
        return self.image_unit * _without_channel(x, shape, self.flat_image, "SystemPhysics images")

    def from_image(self, x: Tensor) -> Tensor:
        """Return images (B, x, y, z) in units of the model as deepinv's, (B, 1, ``*image``)."""
        return _with_channel(x / self.image_unit, self.flat_image)

    def _bins(self, y: Tensor, may_broadcast: bool = False) -> Tensor:
        shape = self.model.projector.out_shape
        return _without_channel(y, shape, self.flat_data, "SystemPhysics data", may_broadcast)


# ---- deepinv's physics as our systems --------------------------------------------------------------------------------


def from_linear_physics(
    physics: deepinv.physics.LinearPhysics,
    data_shape: Sequence[int],
    image_shape: Sequence[int],
    n_items: int | None = None,
) -> AcquisitionModel:
    """Return a `deepinv.physics.LinearPhysics` as one of our models, for likelihoods without subsets.

    Args:
        data_shape : of one item, (channels, ...), as it is there; the model's data have these axes.
        image_shape : of one item, (1, x, y) or (1, x, y, z); the model's images are (x, y, 1) or (x, y, z).
        n_items : the size of the batch, where the physics is another for each item, such as a mask of its own.

    The background is A(0, add_background=True), which is 0 where the physics knows none. Gradients with respect to the
    image use `A_adjoint`; parameters of the physics get none. Its precision is that of its buffers.

    Raises ValueError for images of more than one channel.
    """
    if len(image_shape) not in (3, 4) or image_shape[0] != 1:
        raise ValueError(f"from_linear_physics needs images (1, x, y) or (1, x, y, z), got {tuple(image_shape)}")
    operator = _PhysicsOperator(physics, tuple(data_shape), tuple(image_shape), n_items)
    known = next((b for b in (*physics.parameters(), *physics.buffers()) if b.is_floating_point()), torch.zeros(()))
    with torch.no_grad():
        nothing = known.new_zeros((n_items or 1, *image_shape))
        background = physics.A(nothing, add_background=True)
    # no view axis is known, so there is no `subset`; everything else a projector has is there
    return AcquisitionModel(cast(Projector, operator), background=background[0] if n_items is None else background)


class _PhysicsOperator(BatchOperator):
    """deepinv's physics with our shapes, whole batches at a time."""

    def __init__(
        self, physics: deepinv.physics.LinearPhysics, data_shape: Shape, image_shape: Shape, n_items: int | None
    ) -> None:
        self.physics, self.image_shape, self._n_items = physics, image_shape, n_items
        self.in_shape = (*image_shape[1:], *[1] * (4 - len(image_shape)))
        self.out_shape = data_shape

    @property
    def n_items(self) -> int | None:
        return self._n_items

    def _forward_batch(self, x: Array) -> Array:
        return self._called(self.physics.A, x, self.image_shape, self.out_shape)

    def _adjoint_batch(self, y: Array) -> Array:
        return self._called(self.physics.A_adjoint, y, self.out_shape, self.in_shape)

    def _called(self, function: Callable[[Tensor], Tensor], values: Array, given: Shape, returned: Shape) -> Array:
        tensor = values if is_torch(values) else torch.as_tensor(to_numpy(values))
        with torch.no_grad():
            result = function(tensor.reshape(-1, *given))
        if len(result) != len(values):
            raise ValueError(
                f"{type(self.physics).__name__} holds physics for {len(result)} items, got a batch of {len(values)}"
            )
        return like(result.reshape(-1, *returned), values)


# ---- our reconstructions as deepinv's --------------------------------------------------------------------------------


def as_reconstructor(
    method: Callable[..., Tensor],
    *,
    start: Callable[[Given], Tensor] | None = None,
    device: str | torch.device = "cpu",
) -> deepinv.models.Reconstructor:
    """Return one of our methods as a `deepinv.models.Reconstructor`, called as reconstructor(y, physics).

    Args:
        method : `method(likelihood, start=None, guide=...)`, such as `UnrolledEM` or `PlugAndPlayEM`; the weights of a
            network are those of the reconstructor, so deepinv's Trainer and losses train it.
        start : a function from the likelihood to the first image (default: that of the method).

    The likelihood is made of y and the physics as it is at that moment, background included:

    - a `SystemPhysics`: exactly ours, in counts, and the image returns in units of the physics;
    - a stack of them (`as_stacked`), with y split alike: one likelihood for each subset, as `UnrolledEM` takes them;
    - any other LinearPhysics, masked ones of measurement splitting among them: see `from_linear_physics`.

    A guide is taken from `physics.guide`, which a data set sets by {"guide": ...} among its parameters, or is passed as
    reconstructor(y, physics, guide=...): (B, channels, x, y[, z]).

    Raises ImportError where deepinv is missing.
    """
    theirs = _deepinv("as_reconstructor")
    return _subclass(MethodReconstructor, theirs.models.Reconstructor)(method, start, device)


class MethodReconstructor(nn.Module):
    """What `as_reconstructor` adds to `deepinv.models.Reconstructor`; create it by that function."""

    def __init__(
        self, method: Callable[..., Tensor], start: Callable[[Given], Tensor] | None, device: str | torch.device
    ) -> None:
        super().__init__()
        self.method, self.start = method, start
        self.to(device)

    def forward(
        self,
        y: Tensor | deepinv.utils.TensorList,
        physics: deepinv.physics.Physics,
        *,
        guide: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """Return images (B, 1, ``*image``) of data (B, 1, ``*data``), in units of the physics."""
        stacked = not isinstance(y, Tensor)
        system = physics[0] if stacked else physics
        likelihood: Given
        if stacked:
            likelihood = [part.likelihood(values) for part, values in zip(physics, y, strict=True)]
        elif isinstance(system, SystemPhysics):
            likelihood = system.likelihood(y)
        else:
            likelihood = self._foreign(y, system)
        guide = getattr(system, "guide", None) if guide is None else guide
        flat = getattr(system, "flat_image", guide is not None and guide.ndim == 4)
        guides = {} if guide is None else {"guide": guide[..., None] if flat else guide}
        start = None if self.start is None else self.start(likelihood)
        x = self.method(likelihood, start, **guides)
        if isinstance(system, SystemPhysics):
            return system.from_image(x)
        return x.reshape(len(y), *_zeros_like_image(system, y).shape[1:])

    def _foreign(self, y: Tensor, physics: deepinv.physics.LinearPhysics) -> PoissonLikelihood:
        image_shape = tuple(_zeros_like_image(physics, y).shape[1:])
        return PoissonLikelihood(y, from_linear_physics(physics, y.shape[1:], image_shape, len(y)))


def as_loss(loss: Callable[..., Tensor], *, against: Literal["target", "data"] = "target") -> deepinv.loss.Loss:
    """Return one of our losses as a `deepinv.loss.Loss`, on images in our layout and the model's units.

    Args:
        loss : loss(image, target), such as `losses.ssim_loss`; or with against="data" loss(image, likelihood), such as
            `losses.poisson_loss`.

    The physics must be one of `as_linear_physics`.

    Raises ImportError where deepinv is missing, ValueError for another `against`.
    """
    if against not in ("target", "data"):
        raise ValueError(f'as_loss against must be "target" or "data", got {against!r}')
    return _subclass(ImageLoss, _deepinv("as_loss").loss.Loss)(loss, against)


class ImageLoss(nn.Module):
    """What `as_loss` adds to `deepinv.loss.Loss`; create it by that function."""

    def __init__(self, loss: Callable[..., Tensor], against: str) -> None:
        super().__init__()
        self.loss, self.against = loss, against

    def forward(
        self,
        x_net: Tensor,
        x: Tensor | None = None,
        y: Tensor | None = None,
        physics: deepinv.physics.Physics | None = None,
        **_: object,
    ) -> Tensor:
        """Return the loss of reconstructed images (B, 1, ``*image``)."""
        if not isinstance(physics, SystemPhysics):
            raise TypeError(f"as_loss needs physics of as_linear_physics, got {type(physics).__name__}")
        if self.against == "target" and x is None:
            raise ValueError('this loss compares with true images, and the data set brings none; use against="data"?')
        other = physics.likelihood(y) if self.against == "data" else physics.as_image(cast(Tensor, x))
        return self.loss(physics.as_image(x_net), other)


# ---- denoisers, both ways --------------------------------------------------------------------------------------------


def from_denoiser(
    denoiser: nn.Module,
    *,
    dimensions: int = 2,
    scale: Callable[[Tensor], Tensor] | float | None = None,
    sigma: float = 0.05,
    channels: int = 1,
    multiple: int = 1,
) -> ScaleEquivariant:
    """Return a deepinv denoiser as one of ours, x -> c denoiser(x / c, sigma / c) with images (..., x, y, z).

    Args:
        denoiser : any `denoiser(x, sigma)` on channels-first images in [0, 1], such as those of `deepinv.models`.
        dimensions : 2, slice by slice as (N, channels, x, y), or 3, (N, channels, x, y, z), for denoisers made for
            that.
        scale : c, a number or a function of images as in `ScaleEquivariant` (default: each image's maximum).
        sigma : the noise level that is assumed where a method gives none, as a part of c; one that is given is in units
            of the image. Denoisers get it as a tensor (N,).
        channels : 3 for networks of colour images: the image is repeated, and the mean of what comes back is taken.
        multiple : sizes that it does not divide are padded and cropped again, for networks that halve their images.

    Gradients pass through, and weights are those of the module. Guides are refused.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"from_denoiser dimensions must be 2 or 3, got {dimensions!r}")
    if not sigma >= 0 or channels < 1 or multiple < 1:
        raise ValueError(
            f"from_denoiser needs sigma >= 0 and positive channels and multiple: {sigma}, {channels}, {multiple}"
        )
    return ScaleEquivariant(_UnitRange(denoiser, dimensions, sigma, channels, multiple), _scale(scale))


def maximum_scale(x: Tensor) -> Tensor:
    """Return the largest ``|x|`` of each image, (..., x, y, z) -> (..., 1, 1, 1)."""
    return x.abs().amax(IMAGE_AXES, keepdim=True)


class _UnitRange(nn.Module):
    """A denoiser of channels-first images in [0, 1], called with images (..., x, y, z) in [0, 1]."""

    def __init__(self, denoiser: nn.Module, dimensions: int, sigma: float, channels: int, multiple: int) -> None:
        super().__init__()
        self.denoiser, self.dimensions, self.sigma = denoiser, dimensions, sigma
        self.channels, self.multiple = channels, multiple

    def forward(self, x: Tensor, sigma: float | Tensor | None = None, *, guide: Tensor | None = None) -> Tensor:
        """Return the denoised image, of the shape of x; sigma is a number or broadcasts to x with one for each item."""
        if guide is not None:
            raise ValueError("a denoiser of deepinv takes no guide; leave it out, or use Enhancer with a network")
        level = torch.as_tensor(self.sigma if sigma is None else sigma, dtype=x.dtype, device=x.device)
        levels = level.expand((*x.shape[:-3], 1, 1, x.shape[-1] if self.dimensions == 2 else 1))
        batch = x.movedim(-1, -3) if self.dimensions == 2 else x  # slices beside the items
        folded = batch.reshape(-1, 1, *batch.shape[-self.dimensions :])
        padded, crop = pad_to_multiple(folded, (self.multiple,) * self.dimensions)
        repeated = padded.expand(-1, self.channels, *padded.shape[2:])
        output = self.denoiser(repeated, levels.reshape(-1))[crop].mean(1)
        return output.reshape(batch.shape).movedim(-3, -1) if self.dimensions == 2 else output.reshape(batch.shape)


def as_denoiser(denoiser: Denoiser) -> deepinv.models.Denoiser:
    """Return one of our denoisers as a `deepinv.models.Denoiser`, for its PnP, RED and samplers.

    Args:
        denoiser : `denoiser(x, sigma=None, guide=None)` of images (..., x, y, z), network or not.

    Images there are (B, C, x, y) or (B, C, x, y, z); channels are denoised one by one. sigma is a number, or one for
    each item. guide=... is passed on, in our layout, (B C, ..., x, y, z).

    Raises ImportError where deepinv is missing.
    """
    theirs = _deepinv("as_denoiser")
    return _subclass(ImageDenoiser, theirs.models.Denoiser)(denoiser)


class ImageDenoiser(nn.Module):
    """What `as_denoiser` adds to `deepinv.models.Denoiser`; create it by that function."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, x: Tensor, sigma: float | Tensor | None = None, *, guide: Tensor | None = None, **_: object
    ) -> Tensor:
        """Return the denoised images, of the shape of x."""
        if x.ndim not in (4, 5):
            raise ValueError(f"a denoiser takes (B, C, x, y) or (B, C, x, y, z), got {tuple(x.shape)}")
        items = x.flatten(0, 1)
        items = items[..., None] if x.ndim == 4 else items
        level = sigma
        if isinstance(sigma, Tensor) and sigma.ndim:
            each = sigma.reshape(-1).to(x).expand(len(x))
            level = each.repeat_interleave(x.shape[1]).reshape(-1, 1, 1, 1)
        guides = {} if guide is None else {"guide": guide}
        return self.denoiser(items, level, **guides).reshape(x.shape)


# ---- parts -----------------------------------------------------------------------------------------------------------


@cache
def _subclass(ours: type, theirs: type) -> type[nn.Module]:
    """Ours, as a subclass of a class of deepinv, which is not imported before it is needed."""
    return type(ours.__name__, (ours, theirs), {"__doc__": ours.__doc__})


def _dimensions(projector: Projector, dimensions: int | None) -> int:
    slices = projector.in_shape[-1]
    if dimensions not in (None, 2, 3):
        raise ValueError(f"as_linear_physics dimensions must be 2, 3 or None, got {dimensions!r}")
    if dimensions == 2 and slices != 1:
        raise ValueError(f"{projector!r} has {slices} slices, not one; use dimensions=3")
    return (2 if slices == 1 else 3) if dimensions is None else dimensions


def _with_channel(values: Tensor, flat: bool) -> Tensor:
    return (values[..., 0] if flat else values)[:, None]


def _without_channel(values: Tensor, shape: Shape, flat: bool, who: str, may_broadcast: bool = False) -> Tensor:
    expected, given = (1, *(shape[:-1] if flat else shape)), tuple(values.shape[1:])
    fits = len(given) == len(expected) and broadcasts_to(given, expected) if may_broadcast else given == expected
    if not fits:
        raise ValueError(f"{who} must be (B, {str(expected)[1:-1].rstrip(',')}), got {tuple(values.shape)}")
    return (values[..., None] if flat else values)[:, 0]


def _zeros_like_image(physics: deepinv.physics.LinearPhysics, y: Tensor) -> Tensor:
    with torch.no_grad():
        image: Tensor = physics.A_adjoint(torch.zeros_like(y))
    return image


def _scale(scale: Callable[[Tensor], Tensor] | float | None) -> Callable[[Tensor], Tensor]:
    if callable(scale):
        return scale
    if scale is None:
        return maximum_scale
    if not scale > 0:
        raise ValueError(f"from_denoiser scale must be positive, got {scale}")
    return lambda x: torch.as_tensor(scale, dtype=x.dtype, device=x.device)


def _deepinv(who: str) -> ModuleType:
    return optional_module("deepinv", who, "deepinv", "deepinv")
