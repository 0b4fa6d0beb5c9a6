"""The published networks that reconstruct, by name: each a function of a few numbers that returns the network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Unpack, get_args, get_type_hints

from ..direct import Direct, Fused, OnData
from ..enhancement import Enhancer, NetworkDenoiser
from ..networks.blocks import ConvolutionalAutoencoder, ResidualUnit, SmallCNN
from ..networks.transformer import SwinRegulariser
from ..networks.unet import UNet
from .direct_presets import (
    automap,
    back_projection_net,
    deeppet,
    dual_tracer_net,
    fusion_net,
    radon_inversion,
    sinogram_net,
    spectnet,
)
from .enhanced import Enhanced, OSEMPasses
from .primal_dual_network import PrimalDualNetwork
from .unrolled_em import ModuleOptions, UnrolledEM, UnrolledOptions


def mapem_net(
    dimensions: int = 2,
    n_modules: int = 6,
    guide_channels: int = 0,
    *,
    tied: bool = True,
    width: int = 16,
    norm: str = "instance",
    **options: Unpack[UnrolledOptions],
) -> UnrolledEM:
    """Return MAPEM-Net: U-Nets as the prior of ADMM with two EM steps in a module and a dual variable.

    Args:
        tied : one network for all modules.
        width, norm : of the U-Net. "instance" is the same in training and use; with "batch", as published, the running
            means that are used after training mix those of all modules that share the network.
        options : of `UnrolledEM`.

    The number of modules is not published; 6 is ours.

    Source: Gong et al. 2019, Proc. SPIE 11072.
    """
    networks = [_unet(dimensions, guide_channels, width, norm) for _ in range(1 if tied else n_modules)]
    defaults: UnrolledOptions = {"em_steps": 2, "dual": True}
    return UnrolledEM(networks[0] if tied else networks, n_modules, **(defaults | options))


def fbsem_net(
    dimensions: int = 2,
    n_modules: int = 8,
    guide_channels: int = 0,
    *,
    subsets: int | None = 6,
    width: int = 32,
    depth: int = 5,
    norm: str = "instance",
    **options: Unpack[ModuleOptions],
) -> UnrolledEM:
    """Return FBSEM-Net: one residual unit before every subset's EM step, its strength learned.

    Args:
        n_modules : passes over the data.
        width, depth, norm : of the residual unit; norm="batch" as published, see `mapem_net`.
        options : of `UnrolledEM`; grad="detach" is how the released code trains it: nothing passes through the
            projector.

    28,612 parameters in 2-D, 28,900 with a guide.

    Source: Mehranian & Reader 2021, IEEE Trans Radiat Plasma Med Sci 5:54.
    """
    body = ResidualUnit(dimensions, 1 + guide_channels, width=width, depth=depth, norm=norm)
    network = NetworkDenoiser(body, dimensions, guide_channels)
    return UnrolledEM(network, n_modules, subsets=subsets, per_subset=True, **options)


def bcd_net(
    dimensions: int = 3,
    n_modules: int = 30,
    guide_channels: int = 0,
    *,
    channels: int = 78,
    alpha: float | Sequence[float] = -15.0,
    **options: Unpack[UnrolledOptions],
) -> UnrolledEM:
    """Return BCD-Net: a convolutional autoencoder with soft thresholds of its own in every module, one EM step each.

    128,700 parameters in 3-D. The source trains it layer by layer, see `train_layers`, and has no guide.

    Args:
        channels, alpha : of `ConvolutionalAutoencoder`; for a short training spread the thresholds, alpha=(-2.3, 0).
        options : of `UnrolledEM`. The strength stays at `initial_beta`, as published (there in other units).

    Source: Lim, Chun, Dewaraja & Fessler 2020, IEEE Trans Med Imaging 39:3512.
    """
    bodies = [
        ConvolutionalAutoencoder(dimensions, 1 + guide_channels, channels=channels, alpha=alpha)
        for _ in range(n_modules)
    ]
    layers = [NetworkDenoiser(body, dimensions, guide_channels) for body in bodies]
    defaults: UnrolledOptions = {"beta": "keep", "initial_beta": 1.0}
    return UnrolledEM(layers, n_modules, **(defaults | options))


def em_net(
    dimensions: int = 2,
    n_modules: int = 6,
    guide_channels: int = 0,
    *,
    subsets: int | None = None,
    width: int = 16,
    norm: str = "instance",
    **options: Unpack[ModuleOptions],
) -> UnrolledEM:
    """Return EMnet: the network takes the place of the prior's gradient in an EM-preconditioned step.

    Args:
        width, norm : of the U-Net, as in `mapem_net`.
        options : of `UnrolledEM`.

    Source: Gong et al. 2019, Proc. SPIE 10948; the exact form is our reading.
    """
    network = _unet(dimensions, guide_channels, width, norm, non_negative=False)
    return UnrolledEM(network, n_modules, subsets=subsets, form="gradient", **options)


def osem_varnet(
    dimensions: int = 2,
    n_modules: int = 2,
    guide_channels: int = 0,
    *,
    subsets: int | None = 6,
    width: int = 16,
    norm: str = "none",
    **options: Unpack[ModuleOptions],
) -> UnrolledEM:
    """Return OSEM-VarNet: a pass of OSEM and a small shared network that is added with a weight of each module's own.

    Args:
        width, norm : of its three layers, which have no normalisation in the source.
        options : of `UnrolledEM`.

    Source: SIRF-Exercises (Schramm).
    """
    body = SmallCNN(dimensions, 1 + guide_channels, widths=(width,) * 3, norm=norm)
    network = NetworkDenoiser(body, dimensions, guide_channels)
    return UnrolledEM(network, n_modules, subsets=subsets, form="residual", beta_of_each=True, **options)


def transem(
    dimensions: int = 2,
    n_modules: int = 8,
    guide_channels: int = 0,
    *,
    subsets: int | None = 6,
    width: int = 96,
    heads: int = 12,
    depth: int = 1,
    dropout: float = 0.0,
    norm: str = "instance",
    **options: Unpack[ModuleOptions],
) -> UnrolledEM:
    """Return TransEM: FBSEM-Net with a Swin transformer block instead of the residual unit (extra `monai`).

    Args:
        width, heads, depth, dropout, norm : of `SwinRegulariser`; as published, dropout is 0.1 and norm "batch", see
            `mapem_net`.
        options : of `UnrolledEM`.

    Raises ImportError that names the extra where MONAI is missing.

    Source: Hu & Liu 2022, MICCAI.
    """
    body = SwinRegulariser(
        dimensions,
        1 + guide_channels,
        width=width,
        heads=heads,
        depth=depth,
        dropout=dropout,
        norm=norm,
        non_negative=True,
    )
    network = NetworkDenoiser(body, dimensions, guide_channels)
    return UnrolledEM(network, n_modules, subsets=subsets, per_subset=True, **options)


def learned_primal_dual(
    dimensions: int = 2,
    n_iterations: int = 10,
    n_primal: int = 5,
    n_dual: int = 5,
    width: int = 32,
    guide_channels: int = 0,
) -> PrimalDualNetwork:
    """Return learned primal-dual, as published for images of one slice; see `PrimalDualNetwork`."""
    return PrimalDualNetwork(dimensions, n_iterations, n_primal, n_dual, width, guide_channels)


def post_unet(
    dimensions: int = 2,
    guide_channels: int = 0,
    *,
    passes: int = 4,
    subsets: int = 6,
    width: int = 16,
    levels: int = 4,
    norm: str = "instance",
) -> Enhanced:
    """Return OSEM with a U-Net after it, the usual enhancement of images and a control for networks inside of EM.

    Args:
        passes, subsets : of OSEM.
        width, levels, norm : of the U-Net.
    """
    return Enhanced(OSEMPasses(passes, subsets), _unet(dimensions, guide_channels, width, norm, levels=levels))


Preset = Callable[..., UnrolledEM | PrimalDualNetwork | Enhanced | Direct | OnData | Fused]

PRESETS: dict[str, Preset] = {
    "mapem-net": mapem_net,
    "fbsem-net": fbsem_net,
    "bcd-net": bcd_net,
    "em-net": em_net,
    "osem-varnet": osem_varnet,
    "transem": transem,
    "lpd": learned_primal_dual,
    "post-unet": post_unet,
    "spectnet": spectnet,
    "deeppet": deeppet,
    "automap": automap,
    "radon-inversion": radon_inversion,
    "back-projection": back_projection_net,
    "sinogram-net": sinogram_net,
    "fusion": fusion_net,
    "dual-tracer": dual_tracer_net,
}
"""The networks by the names that cards of weights, recipes of trainings and the command line have for them."""


def preset_options(preset: Callable[..., object]) -> set[str]:
    """Return the names of the arguments of a preset, with those that it hands on."""
    found: set[str] = set()
    hints = get_type_hints(preset)
    for name, parameter in inspect.signature(preset).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= set(get_type_hints(get_args(hints[name])[0]))
        else:
            found.add(name)
    return found


def _unet(
    dimensions: int, guide_channels: int, width: int, norm: str, non_negative: bool = True, levels: int = 4
) -> Enhancer:
    body = UNet(dimensions, 1 + guide_channels, width=width, levels=levels, norm=norm, non_negative=non_negative)
    return NetworkDenoiser(body, dimensions, guide_channels)
