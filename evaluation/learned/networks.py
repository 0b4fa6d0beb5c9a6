"""The networks of the suite `learned`, and the controls among them: small, of about one size, all trained alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from emrecon import unrolled
from emrecon.recon.likelihoods import Likelihood, start_image
from emrecon.unrolled.methods import PRESETS

from ..methods import Images, Method

START = (2, 6)
"""Passes and subsets of the OSEM that unrolled networks begin with."""


@dataclass(frozen=True)
class Network:
    """A network of the suite.

    Args:
        name, title, kind : as of a `Method`.
        architecture : a key of `BUILDERS`, and the arguments that it is built with.
        sees_guide : whether it gets the guide; one more channel.
        fast : parameters whose name contains this text learn ten times as fast: thresholds of BCD-Net, as published.
        longer : times the steps of the others; for a control that must not look weak.
    """

    name: str
    title: str
    kind: str
    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sees_guide: bool = True
    fast: str = ""
    longer: int = 1

    def build(self, seed: int = 0, dimensions: int = 2) -> nn.Module:
        """Return it with the first weights of a seed."""
        with unrolled.seeded(seed):
            return BUILDERS[self.architecture](**self.all_arguments(dimensions))

    def all_arguments(self, dimensions: int = 2) -> dict[str, Any]:
        """Return the arguments that build it, as a card of weights holds them."""
        return {"dimensions": dimensions, **self.arguments, "guide_channels": int(self.sees_guide)}

    def inputs(self, case: Any, guide: torch.Tensor | None = None) -> dict[str, Any]:
        """Return what it is called with on a case; guide : another one than the case's."""
        shown = case.guide if guide is None else guide
        return {"likelihood": case.likelihood} | ({"guide": shown} if self.sees_guide else {})

    def method(self, model: nn.Module) -> Method:
        """Return a trained model as a method."""

        def images(case: Any) -> Images:
            with torch.no_grad():
                yield 1, model.eval()(**self.inputs(case))

        return Method(self.name, self.title, self.kind, images, sees_guide=self.sees_guide)


class UniformImage:
    """The reconstruction that knows how much there was and not where: `count_scale`, the same in all voxels."""

    def __call__(
        self, likelihood: Likelihood | Sequence[Likelihood], start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the image of each item, (..., x, y, z)."""
        part = likelihood[0] if isinstance(likelihood, Sequence) else likelihood
        with torch.no_grad():
            image: torch.Tensor = unrolled.count_scale(part) * start_image(part)
        return image


def guide_only(dimensions: int = 2, guide_channels: int = 1, width: int = 8) -> nn.Module:
    """Return the U-Net of `unrolled.methods.presets.post_unet` after a uniform image instead of OSEM.

    It sees the guide, and of the counts their sum alone. Its image is multiplied by `count_scale` as that of every
    other network here, so what it lacks is where the counts are, and nothing else.
    """
    body = unrolled.UNet(dimensions, 1 + guide_channels, width=width, norm="instance")
    return unrolled.Enhanced(UniformImage(), unrolled.NetworkDenoiser(body, dimensions, guide_channels))


BUILDERS: Mapping[str, Callable[..., nn.Module]] = {**PRESETS, "guide-only": guide_only}
"""What builds each architecture."""

_FBSEM = {"n_modules": 3, "subsets": 2, "width": 24, "norm": "instance", "initial": list(START)}
_BCD = {"n_modules": 4, "channels": 32, "alpha": [-2.3, 0.0], "initial": [8, START[1]]}  # it removes noise only
NETWORKS = (
    Network("guide-only", "guide only", "control", "guide-only", {"width": 8}),
    Network("guide-only-long", "guide only, 4 x steps", "control", "guide-only", {"width": 8}, longer=4),
    Network("fbsem-net", "FBSEM-Net", "unrolled", "fbsem-net", _FBSEM),
    Network("post-unet", "U-Net after OSEM", "enhancement", "post-unet", {"width": 8}),
    Network("counts-only", "FBSEM-Net, counts only", "control", "fbsem-net", _FBSEM, sees_guide=False),
    Network("mapem-net", "MAPEM-Net", "unrolled", "mapem-net", {"n_modules": 3, "width": 8, "initial": list(START)}),
    Network("em-net", "EMnet", "unrolled", "em-net", {"n_modules": 4, "width": 8, "initial": list(START)}),
    Network("lpd", "learned primal-dual", "unrolled", "lpd", {"n_iterations": 5, "width": 16}),
    Network("bcd-net", "BCD-Net", "unrolled", "bcd-net", _BCD, fast="threshold"),
)
"""What is trained, controls among them."""


def network_named(name: str) -> Network:
    """Return the network of a name; raises ValueError for an unknown one."""
    found = {network.name: network for network in NETWORKS}
    if name not in found:
        raise ValueError(f"unknown network '{name}'; choose from {', '.join(found)}")
    return found[name]
