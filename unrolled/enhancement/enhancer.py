"""The denoiser of images that every network of the image domain becomes: image in, better image out."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from emrecon.projectors.core.arrays import Array, dtype_name

from ..networks.guides import GuideScale, check_scale, guide_channels, mean_scale
from .channels import neighbours, noise_level, overlapped, positions

Body = Callable[[Tensor], Tensor]
Scale = Callable[[Tensor], Tensor]


class Enhancer(nn.Module):
    """A denoiser made of a channels-first network: images in, images out, whatever their unit::

        enhancer(x, guide=g) = c body([x / c, g]),      c = scale(x),

    so that twice the image gives twice the result. It is a `Denoiser`: apply it to a reconstructed image, hand it to
    `PlugAndPlayEM` or `ScaleEquivariant`, build `UnrolledEM` and `Enhanced` with it, train it with `train` on pairs
    (image, target), and keep it with `save_weights`. `Windowed` applies it to large images piece by piece.

    Args:
        body : a module (N, channels, ...) -> (N, 1, ...). The channels are the image, the guides, then the noise and
            the two coordinates where they are asked for; with several slices first the image and guides of the middle
            slice, then those of its neighbours, nearest first. In 2.5-D it may return (N, n_slices, ...), an image of
            every slice that it saw in that order; what several places say of a slice is averaged, with weight 1 for
            the middle and 1 / (1 + k) for the k-th neighbour.
        dimensions : 2, slices z are items of a batch, (..., x, y, z) -> (N, channels, x, y); or 3, (N, channels, x, y,
            z).
        guide_channels : how many images (MR, CT, mu) go in beside the image: guide is (..., x, y, z) for one, or (...,
            guide_channels, x, y, z), a tensor or a NumPy array. A guide without the batch axes of the image serves all
            items.
        guide_scale : guides may have any unit: each is made 5 guide / max ``|guide|`` ("max"), or guide over its mean
            in the object ("mean"), see `normalised_guide`; "none" for bodies that know the unit.
        n_slices : slices that a network of slices sees, odd; 3 or more make it 2.5-D. Beyond the ends the last repeats.
        noise : whether the level of the noise is a channel, sigma / c: the sigma of the call, or `noise_level(x)` where
            it gives none. One network then serves many doses (personalised denoising, Liu et al. 2022).
        coordinates : whether the distance from the axis and the place along it are channels, both -1 to 1 (Song et al.
            2020).
        scale : c as a function of images (..., x, y, z) -> (..., 1, 1, 1), default `mean_scale`; None leaves images as
            they are, for networks whose caller takes the scale away, as `UnrolledEM` does. Where c is 0 the result is.

    Without `noise`, sigma is taken and not used: such a network knows the noise it was trained with.

    Raises ValueError for a body of other channels or dimensions, images and guides that do not fit, and a guide that is
    missing, not expected or not finite; TypeError for an image of another precision than the weights.
    """

    def __init__(
        self,
        body: nn.Module,
        dimensions: int,
        guide_channels: int = 0,
        guide_scale: GuideScale = "max",
        *,
        n_slices: int = 1,
        noise: bool = False,
        coordinates: bool = False,
        scale: Scale | None = mean_scale,
    ) -> None:
        super().__init__()
        if dimensions not in (2, 3):
            raise ValueError(f"Enhancer: dimensions must be 2 or 3, got {dimensions!r}")
        if n_slices < 1 or n_slices % 2 == 0 or (dimensions == 3 and n_slices > 1):
            raise ValueError(f"Enhancer: n_slices must be odd, and 1 for volumes, got {n_slices}")
        self.body, self.dimensions, self.guide_channels = body, dimensions, guide_channels
        self.guide_scale, self.n_slices, self.noise, self.coordinates = guide_scale, n_slices, noise, coordinates
        self.scale = scale
        check_scale(guide_scale, self._name)
        channels = getattr(body, "in_channels", self.in_channels)
        if channels != self.in_channels:
            raise ValueError(
                f"{self._name}: the body takes {channels} channels, {self._said} are {self.in_channels}; build it with "
                f"in_channels={self.in_channels}, or set guide_channels"
            )
        if getattr(body, "dimensions", dimensions) != dimensions:
            raise ValueError(f"{self._name}: the body is {body.dimensions}-D, not {dimensions}-D")

    @property
    def in_channels(self) -> int:
        """How many channels the body gets."""
        return self.n_slices * (1 + self.guide_channels) + int(self.noise) + 2 * int(self.coordinates)

    def forward(
        self,
        x: Tensor,
        sigma: float | Tensor | None = None,
        *,
        guide: Array | None = None,
        scale: float | Tensor | None = None,
        every: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the enhanced image, of the shape of x, (..., x, y, z).

        Args:
            sigma : standard deviation of the noise, a number or one for each item.
            scale : c, a number or (..., 1, 1, 1), such as the `count_scale` of the data (default: the scale of x).
            every : return a tuple of the image and those that the body's side outputs make, for deep supervision.
        """
        if every and not hasattr(self.body, "outputs"):
            raise ValueError(f"{self._name} has one output; every=True is for bodies with side outputs, such as U2Net")
        return self.applied(self.body.outputs if every else self.body, x, sigma, guide=guide, scale=scale)

    def applied(
        self,
        body: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
        x: Tensor,
        sigma: float | Tensor | None = None,
        *,
        guide: Array | None = None,
        scale: float | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Return what another map of the same channels makes of an image: the body in windows, or one of its parts."""
        folded, c = self.channels(x, sigma, guide=guide, scale=scale)
        made = body(folded)
        if isinstance(made, tuple):
            return tuple(self._finished(part, folded, x, c) for part in made)
        return self._finished(made, folded, x, c)

    def channels(
        self,
        x: Tensor,
        sigma: float | Tensor | None = None,
        *,
        guide: Array | None = None,
        scale: float | Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the body gets, (N, channels, ...), and the scale c of the images, (..., 1, 1, 1) or None."""
        self._check(x)
        c = self._scale_of(x, scale)
        safe = None if c is None else torch.where(c > 0, c, torch.ones_like(c))
        shown = x if safe is None else x / safe
        channels = shown.unsqueeze(-4)
        guides = guide_channels(guide, x, self.guide_channels, self._name, self.guide_scale)
        if guides is not None:
            channels = torch.cat([channels, guides], -4)
        if self.n_slices > 1:
            channels = neighbours(channels, self.n_slices)
        beside = [] if not self.noise else [self._noise(shown, sigma, safe).expand_as(x)]
        beside += positions(x) if self.coordinates else []
        if beside:
            channels = torch.cat([channels, torch.stack(beside, -4)], -4)
        return self._fold(channels), c

    @property
    def _name(self) -> str:
        return f"Enhancer({type(self.body).__name__})"

    @property
    def _said(self) -> str:
        """What the channels are, in words."""
        if self.n_slices == 1 and not self.noise and not self.coordinates:
            return f"the image and {self.guide_channels} guides"
        beside = ["the noise"] * self.noise + ["two coordinates"] * self.coordinates
        slices = f"{self.n_slices} slices of the image and {self.guide_channels} guides"
        return ", ".join([slices, *beside])

    def _scale_of(self, x: Tensor, scale: float | Tensor | None) -> Tensor | None:
        if scale is None:
            return None if self.scale is None else self.scale(x)
        c = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
        one_each = (*x.shape[:-3], 1, 1, 1)
        if c.ndim and (c.ndim > x.ndim or any(n not in (1, m) for n, m in zip(c.shape[::-1], one_each[::-1]))):
            raise ValueError(
                f"{self._name}: a scale of {tuple(c.shape)} is not one number for each image of {tuple(x.shape)}; it "
                f"must be {one_each}"
            )
        return c

    def _noise(self, shown: Tensor, sigma: float | Tensor | None, c: Tensor | None) -> Tensor:
        if sigma is None:
            return noise_level(shown)
        level = torch.as_tensor(sigma, dtype=shown.dtype, device=shown.device)
        level = level[..., None, None, None] if 0 < level.ndim < 3 else level
        return level if c is None else level / c

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"{self._name} takes torch tensors, got {type(x).__name__}; use torch.as_tensor(image)?")
        if x.ndim < 3:
            raise ValueError(
                f"{self._name} expects images (..., x, y, z), got {tuple(x.shape)}; a slice has z = 1: x[..., None]?"
            )
        weight = next(self.body.parameters(), x)
        if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"{self._name} holds {dtype_name(weight)} weights, got a {dtype_name(x)} image; "
                "convert one of them, such as network.to(image.dtype)"
            )

    def _fold(self, channels: Tensor) -> Tensor:
        if self.dimensions == 2:
            channels = channels.movedim(-1, -4)  # slices beside the items
        return channels.reshape(-1, *channels.shape[-1 - self.dimensions :])

    def _finished(self, made: Tensor, folded: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
        n = {1, self.n_slices}
        if made.ndim != folded.ndim or made.shape[1] not in n or made[:, :1].shape != folded[:, :1].shape:
            raise ValueError(
                f"{self._name}: the body made {tuple(made.shape)} of {tuple(folded.shape)}; it must return one "
                "channel of the same size" + (f", or {self.n_slices}" if self.n_slices > 1 else "")
            )
        image = self._unfold(made, x).to(x.dtype)  # automatic mixed precision ends here
        return image if c is None else c * image

    def _unfold(self, made: Tensor, x: Tensor) -> Tensor:
        if self.dimensions == 3:
            return made.reshape(x.shape)
        *batch, nx, ny, nz = x.shape
        slices = made.reshape(*batch, nz, made.shape[1], nx, ny).movedim(-4, -1)  # (..., slices, x, y, z)
        return slices.squeeze(-4) if made.shape[1] == 1 else overlapped(slices)


def NetworkDenoiser(
    body: nn.Module, dimensions: int, guide_channels: int = 0, guide_scale: GuideScale = "max"
) -> Enhancer:
    """Return an `Enhancer` that leaves the scale of its images alone, for networks whose caller takes it away.

    `UnrolledEM`, `Enhanced` and `ScaleEquivariant` do.
    """
    return Enhancer(body, dimensions, guide_channels, guide_scale, scale=None)


def image_of(made: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the image alone of what an `Enhancer` has made."""
    return made[0] if isinstance(made, tuple) else cast(Tensor, made)
