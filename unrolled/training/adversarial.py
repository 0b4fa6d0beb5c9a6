"""Training against a discriminator: images that cannot be told from the targets, patch by patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.optional import optional_module
from ..networks.reconstructor import networks_of
from .losses import Criterion, applied, mse

KINDS = ("hinge", "standard", "least-squares", "wasserstein")


class WithDiscriminator(nn.Module):
    """A network and the discriminator that it is trained against, as one module for one optimiser.

    Args:
        generator : the network of interest; calling this module calls it.
        discriminator : images (N, 1, ...) -> scores, higher for what looks like a target, such as
            `patch_discriminator`; (N, 2, ...), the image that went in after it, where the objective is conditional.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    @property
    def networks(self) -> list[nn.Module]:
        """Those of the generator."""
        return networks_of(self.generator)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return what the generator makes of the arguments."""
        return self.generator(*arguments, **named)


def patch_discriminator(dimensions: int = 2, widths: Sequence[int] = (16, 32), in_channels: int = 1) -> nn.Sequential:
    """Return a discriminator of patches: strided convolutions (N, 1, ...) -> (N, 1, ...), a score for every patch.

    Args:
        dimensions : 2 or 3.
        in_channels : 2 for conditional objectives.
        widths : channels, one for each halving of the image; a patch has 4, 10, 22, ... voxels and the last
            convolution 2 of the halved ones more.

    Raises ValueError for other dimensions and no widths.

    Source: Isola et al. 2017 (PatchGAN), smaller and without normalisation.
    """
    if dimensions not in (2, 3) or not widths:
        raise ValueError(f"patch_discriminator has 2 or 3 dimensions and a width or more, got {dimensions}, {widths}")
    convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
    layers: list[nn.Module] = []
    for before, after in zip((in_channels, *widths), widths):
        layers += [convolution(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, convolution(widths[-1], 1, 3, padding=1))


def monai_discriminator(
    dimensions: int = 2, in_channels: int = 2, *, width: int = 64, layers: int = 3, norm: str = "INSTANCE"
) -> nn.Module:
    """Return the PatchGAN of pix2pix as MONAI has it (extra `monai`), patches of 70 voxels with three layers.

    Args:
        width : channels of the first layer, doubled from layer to layer.

    Raises ImportError that names the extra where MONAI is not installed.

    Source: Isola et al. 2017, CVPR.
    """
    nets = optional_module(
        "monai.networks.nets.patchgan_discriminator", "monai_discriminator", "MONAI and einops", "monai"
    )
    return _Last(
        nets.PatchDiscriminator(
            spatial_dims=dimensions, channels=width, in_channels=in_channels, num_layers_d=layers, norm=norm
        )
    )


class _Last(nn.Module):
    """The last of a list of features: MONAI's discriminators return all."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)[-1]
        return scores


@dataclass(frozen=True)
class Adversarial:
    """The objective of a `WithDiscriminator`: near the target, and taken for one by the discriminator::

        G: criterion(x, t) + weight g(D(x))         D: d(D(t), D(x))

        hinge           g = -mean s              d = mean max(0, 1 - r) + mean max(0, 1 + s)
        standard        g = mean log(1 + e^-s)   d = mean log(1 + e^-r) + mean log(1 + e^s)
        least-squares   g = mean (s - 1)^2       d = mean (r - 1)^2 + mean s^2
        wasserstein     g = -mean s              d = mean s - mean r + penalty mean (``|grad D(m)|`` - 1)^2

    x = generator(``*arguments``), r and s the scores of targets and of images, m a random mixture of them.
    Their sum is one number for one optimiser: D is held fixed in the first line and x in the second, so that each
    learns from its own line alone, and runs resume as exactly as any other.

    Args:
        weight : of the discriminator's opinion, beside the criterion.
        criterion : (image, target) -> one number, or (image, target, weight) where batches have a weight.
        dimensions : of the discriminator; with 2 the slices z of images (..., x, y, z) are items of a batch.
        kind : "hinge"; "standard", as of pix2pix; "least-squares", LS-GAN; "wasserstein", WGAN with a gradient penalty.
        conditional : whether the discriminator sees the image that went in as well (pix2pix): the first of the
            arguments, or "x" of named ones.
        penalty : of "wasserstein".

    A batch is (arguments, target) or (arguments, target, weight), as for `Supervised`.

    Raises TypeError for a model without discriminator, ValueError for other batches, kinds and negative weights.

    Source: Isola et al. 2017 for the sum and pix2pix; the hinge of Lim & Ye 2017; Mao et al. 2017 (LS-GAN); Gulrajani
    et al. 2017 (WGAN with a gradient penalty).
    """

    weight: float = 0.01
    criterion: Criterion = mse
    dimensions: int = 2
    kind: str = "hinge"
    conditional: bool = False
    penalty: float = 10.0

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.penalty >= 0):
            raise ValueError(f"Adversarial: the weight must be 0 or more, got {min(self.weight, self.penalty)}")
        if self.dimensions not in (2, 3):
            raise ValueError(f"Adversarial: dimensions are 2 or 3, got {self.dimensions}")
        if self.kind not in KINDS:
            raise ValueError(f"Adversarial: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(model, WithDiscriminator):
            raise TypeError(
                f"Adversarial trains a WithDiscriminator(network, discriminator), got {type(model).__name__}"
            )
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise ValueError("Adversarial takes batches (arguments, target) or (arguments, target, weight)")
        arguments, target, *weight = batch
        image = applied(model.generator, arguments)
        given = self._given(arguments) if self.conditional else None
        return self.criterion(image, target, *weight) + self.between(
            model.discriminator, image, target, given, generator
        )

    def between(
        self,
        discriminator: nn.Module,
        image: Tensor,
        target: Tensor,
        given: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return weight g(D(x)) + d(D(t), D(x)) of images and targets (..., x, y, z), which need not be pairs."""
        made, real = folded(image, self.dimensions), folded(target, self.dimensions)
        beside = None if given is None else folded(given, self.dimensions)
        held = {name: w.detach() for name, w in discriminator.state_dict(keep_vars=True).items()}
        opinion = _called(discriminator, held, _joined(made, beside))
        scores = [discriminator(_joined(x.detach(), beside)) for x in (real, made)]
        loss = self.weight * self._wanted(opinion) + self._told_apart(*scores)
        if self.kind == "wasserstein" and self.penalty:
            loss = loss + self.penalty * _steepness(discriminator, real.detach(), made.detach(), beside, generator)
        return loss

    def _wanted(self, s: Tensor) -> Tensor:
        if self.kind == "standard":
            return nn.functional.softplus(-s).mean()
        return ((s - 1) ** 2).mean() if self.kind == "least-squares" else -s.mean()

    def _told_apart(self, r: Tensor, s: Tensor) -> Tensor:
        if self.kind == "standard":
            return nn.functional.softplus(-r).mean() + nn.functional.softplus(s).mean()
        if self.kind == "least-squares":
            return ((r - 1) ** 2).mean() + (s**2).mean()
        if self.kind == "wasserstein":
            return s.mean() - r.mean()
        return nn.functional.relu(1 - r).mean() + nn.functional.relu(1 + s).mean()

    @staticmethod
    def _given(arguments: object) -> Tensor:
        if isinstance(arguments, Mapping):
            arguments = arguments.get("x")
        elif isinstance(arguments, (tuple, list)):
            arguments = arguments[0]
        if not isinstance(arguments, Tensor):
            raise ValueError('Adversarial: conditional needs the image that goes in, the first argument or "x"')
        return arguments


class CycleGAN(nn.Module):
    """Two networks, from one kind of images to the other and back, and a discriminator of each kind.

    Args:
        generator : from noisy images to good ones; calling this module calls it.
        backward : from good images to noisy ones.
        discriminator, backward_discriminator : of good images, and of noisy ones.
    """

    def __init__(
        self, generator: nn.Module, backward: nn.Module, discriminator: nn.Module, backward_discriminator: nn.Module
    ) -> None:
        super().__init__()
        self.generator, self.backward_generator = generator, backward
        self.discriminator, self.backward_discriminator = discriminator, backward_discriminator

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return what the generator makes of the arguments."""
        return self.generator(*arguments, **named)


@dataclass(frozen=True)
class CycleConsistent:
    """The objective of a `CycleGAN`: images go over to the other kind, and come back as they were::

        adversarial(G(x), t) + adversarial(F(t), x)
        + cycle ( ``|F(G(x)) - x|`` + ``|G(F(t)) - t|`` ) + supervised ( ``|G(x) - t|`` + ``|F(t) - x|`` )

    means over voxels. Without `supervised` targets and images need not belong together, and to make sure that they do
    not help, targets of a batch are shuffled.

    Args:
        adversarial : how the discriminators are asked; its criterion is not used.
        cycle, supervised : weights.

    A batch is (arguments, target), the arguments an image, (image,) or {"x": image, "guide": guide}; guides go with
    their image both ways.

    Raises TypeError for another model, ValueError for other batches.

    Source: Zhu et al. 2017, ICCV; Lei et al. 2019, Phys Med Biol 64:215017 (PET at low counts, supervised).
    """

    adversarial: Adversarial = Adversarial(1.0, kind="least-squares")
    cycle: float = 10.0
    supervised: float = 0.0

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(model, CycleGAN):
            raise TypeError(f"CycleConsistent trains a CycleGAN, got {type(model).__name__}")
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError("CycleConsistent takes batches (arguments, target)")
        arguments, target = batch
        given = dict(arguments) if isinstance(arguments, Mapping) else {"x": self.adversarial._given(arguments)}
        x, beside = given.pop("x"), given
        of_target = beside
        if not self.supervised:
            order = torch.randperm(len(target), generator=generator).to(target.device)
            target = target[order]
            of_target = {k: g[order] if getattr(g, "ndim", 0) >= x.ndim else g for k, g in beside.items()}
        good, noisy = model.generator(x, **beside), model.backward_generator(target, **of_target)
        back = (model.backward_generator(good, **beside) - x).abs().mean()
        forth = (model.generator(noisy, **of_target) - target).abs().mean()
        loss = self.cycle * (back + forth)
        if self.supervised:
            loss = loss + self.supervised * ((good - target).abs().mean() + (noisy - x).abs().mean())
        between = self.adversarial.between
        return (
            loss
            + between(model.discriminator, good, target, generator=generator)
            + between(model.backward_discriminator, noisy, x, generator=generator)
        )


def folded(images: Tensor, dimensions: int) -> Tensor:
    """(..., x, y, z) as networks of patches take it, (N, 1, ...): in 2-D slices are items."""
    if dimensions == 2:
        images = images.movedim(-1, -3)
    return images.reshape(-1, 1, *images.shape[-dimensions:])


def _joined(x: Tensor, beside: Tensor | None) -> Tensor:
    return x if beside is None else torch.cat([x, beside], 1)


def _steepness(
    discriminator: nn.Module, real: Tensor, made: Tensor, beside: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """The mean of (|grad D| - 1)^2 at random mixtures of real and made images."""
    share = torch.rand((len(real), *[1] * (real.ndim - 1)), generator=generator, dtype=real.dtype).to(real.device)
    mixed = (share * real + (1 - share) * made).requires_grad_()
    scores = discriminator(_joined(mixed, beside))
    (slope,) = torch.autograd.grad(scores.sum(), mixed, create_graph=True)
    return ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()


def _called(module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    result: Tensor = torch.func.functional_call(module, dict(weights), (x,))
    return result
