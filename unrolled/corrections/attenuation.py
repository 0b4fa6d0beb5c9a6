"""Networks that make attenuation maps: of uncorrected images, of energy windows, of MR, of CT that is cut off."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from emrecon.projectors.core.arrays import Array, to_numpy

from ..enhancement import Enhancer
from ..networks.guides import GuideScale, mean_scale
from ..networks.unet import UNet

UNIT = 0.1
"""1/cm: the body makes maps of about 1."""


class Source(NamedTuple):
    """What an attenuation map is made of.

    Args:
        image : the first image.
        guides : what goes in beside it.
        published : whose network it is like.
        is_map : the image is a map itself, in 1/cm.
    """

    image: str
    guides: tuple[str, ...]
    published: str
    is_map: bool = False


ATTENUATION_SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "emission": Source("an image without attenuation correction", (), "Liu et al. 2018 (PET); Dong et al. 2019"),
        "windows": Source(
            "a photopeak image without attenuation correction",
            ("an image of the scatter window",),
            "Shi et al. 2020 (SPECT)",
        ),
        "mr": Source(
            "a Dixon water image", ("a Dixon fat image",), "Bradshaw et al. 2018; Torrado-Carvajal et al. 2019"
        ),
        "truncation": Source(
            "a map that ends at the field of view of the CT, 0 outside",
            ("an image without attenuation correction", "1 within the field of view, 0 outside"),
            "Thejaswi et al. 2018 (inpainting)",
            True,
        ),
    }
)
"""The sources by name."""


class AttenuationNetwork(nn.Module):
    """Attenuation maps from images of another kind, whatever their unit::

        mu = 0.1 /cm relu(body([x / c, guides])),      c = mean_scale(x)

    so that twice the counts give the same map, for `pet_problem(scan, mu=...)` and `spect_problem(scan, mu=...)`. With
    `is_map` x is a map in 1/cm that ends at the edge of a CT, c = 0.1 /cm, the last guide is 1 within the CT, and there
    the map stays what it was. It is called as a `Denoiser` is: train it with `train` on pairs (image, map).

    Args:
        body : (N, 1 + guide_channels, ...) -> (N, 1, ...), about 1 for water.
        dimensions : 2, slices are items of a batch, or 3.
        guide_channels, guide_scale : as in `Enhancer`.
        is_map : see above; needs a guide.

    Raises ValueError as `Enhancer`, and for `is_map` without a guide.
    """

    def __init__(
        self,
        body: nn.Module,
        dimensions: int,
        guide_channels: int = 0,
        guide_scale: GuideScale = "mean",
        *,
        is_map: bool = False,
    ) -> None:
        super().__init__()
        if is_map and not guide_channels:
            raise ValueError("AttenuationNetwork: is_map needs a guide that is 1 within the field of view of the CT")
        self.enhancer = Enhancer(body, dimensions, guide_channels, guide_scale, scale=None)
        self.is_map = is_map

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.enhancer.dimensions

    @property
    def guide_channels(self) -> int:
        """How many images go in beside the first."""
        return self.enhancer.guide_channels

    def forward(self, x: Tensor, sigma: float | Tensor | None = None, *, guide: Array | None = None) -> Tensor:
        """Return the map (..., x, y, z) in 1/cm.

        Args:
            x : (..., x, y, z), in any unit; with `is_map` in 1/cm.
            sigma : not used; denoisers have it.
            guide : (..., x, y, z), or (..., guide_channels, x, y, z).
        """
        del sigma
        if self.is_map:
            made = UNIT * self.enhancer(x / UNIT, guide=guide).relu()
            inside = torch.as_tensor(guide, dtype=x.dtype, device=x.device)
            inside = inside if self.guide_channels == 1 else inside.unbind(-4)[-1]
            return torch.where(inside > 0.5, x, made)
        c = mean_scale(x)
        shown = x / torch.where(c > 0, c, torch.ones_like(c))
        found: Tensor = UNIT * self.enhancer(shown, guide=guide).relu()
        return found


def attenuation_unet(
    source: str = "emission", dimensions: int = 2, *, width: int = 16, levels: int = 4, norm: str = "instance"
) -> AttenuationNetwork:
    """Return a U-Net that makes attenuation maps of a source, `ATTENUATION_SOURCES`.

    Args:
        source : "emission", "windows", "mr" or "truncation".
        width, levels, norm : of the `UNet`; theirs are not published or differ from work to work.

    Raises ValueError for an unknown source.
    """
    if source not in ATTENUATION_SOURCES:
        raise ValueError(f"unknown source {source!r}; choose from {', '.join(ATTENUATION_SOURCES)}")
    found = ATTENUATION_SOURCES[source]
    body = UNet(dimensions, 1 + len(found.guides), width=width, levels=levels, norm=norm)
    return AttenuationNetwork(body, dimensions, len(found.guides), is_map=found.is_map)


def predicted_attenuation(network: nn.Module, image: Array, *, guide: Array | None = None) -> np.ndarray:
    """Return the map that a network makes of an image, (..., x, y, z) float32 in 1/cm, for `mu=` of a problem."""
    network.eval()
    with torch.no_grad():
        x = torch.as_tensor(np.asarray(to_numpy(image), np.float32))
        made = network(x, guide=None if guide is None else torch.as_tensor(np.asarray(to_numpy(guide), np.float32)))
    return np.asarray(made.numpy(), np.float32)
