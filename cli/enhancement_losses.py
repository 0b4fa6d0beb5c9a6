"""What trainings of enhancement minimise, from a recipe's table [loss]."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field as Limit

from emrecon.sims.recipes import Table

if TYPE_CHECKING:
    import torch
    from torch import nn

Weight = Annotated[float, Limit(ge=0)]
Voxels = Annotated[int, Limit(ge=1, le=10**4)]
_TERMS = ("mse", "l1", "charbonnier", "ssim", "sobel", "observer", "perceptual")
_ENCODER_BATCHES, _ENCODER_STEPS = 8, 100


class EnhancementLoss(Table):
    """What is minimised: a sum of terms with their weights; the squared error alone where none is named.

    mse, l1, charbonnier, ssim, sobel : weights of the criteria of images; L1 + 0.5 SSIM is l1 = 1, ssim = 0.5.
    observer : weight of what the channels of a model observer see, of `observer_width` voxels.
    perceptual : weight of the features of the library's own encoder, trained on the targets first.
    lesions, blur : what the lesion mask adds to the weight 1 of voxels (100 of Pan et al. 2022; 9 with a blur of some
        voxels of the weighted residual network).
    sides : weight of every side output of U2-Net and coupled U-Nets; 0 trains the last image alone.
    gan, gan_weight, conditional : a discriminator of patches of a kind beside the terms, and whether it sees the image
        that goes in ("standard" and conditional is pix2pix).
    cycle : "paired" or "unpaired", a cycleGAN with a second network back.
    noise2void : true for training without targets: one voxel in each box of `box` voxels is hidden and asked for.
    box, radius : of its blind spots; with a radius, in voxels, their neighbours are hidden as well, for noise that is
        correlated.
    """

    mse: Weight = 0.0
    l1: Weight = 0.0
    charbonnier: Weight = 0.0
    ssim: Weight = 0.0
    sobel: Weight = 0.0
    observer: Weight = 0.0
    observer_width: Annotated[float, Limit(gt=0)] = 6.0
    perceptual: Weight = 0.0
    lesions: Weight | None = None
    blur: Weight = 0.0
    sides: Weight = 1.0
    gan: Literal["hinge", "standard", "least-squares", "wasserstein"] | None = None
    gan_weight: Weight = 0.01
    conditional: bool = False
    cycle: Literal["paired", "unpaired"] | None = None
    noise2void: bool = False
    box: tuple[Voxels, Voxels, Voxels] | None = None
    radius: Weight = 0.0


def check(table: EnhancementLoss, network: str) -> None:
    """Raise ValueError for keys that do not go together, or that a network cannot be trained by."""
    given = table.model_fields_set
    if network == "diffusion" and given:
        raise ValueError(f"{min(given)} has no meaning for a diffusion model, whose loss is that of its noise")
    if table.cycle and given - {"cycle"}:
        raise ValueError(f"{min(given - {'cycle'})} and cycle do not go together: a cycleGAN has a loss of its own")
    _check_blind_spots(table, given)
    if "blur" in given and table.lesions is None:
        raise ValueError("blur is of the lesions' weight; set lesions")
    own = {"gan_weight", "conditional"} & given
    if own and table.gan is None:
        raise ValueError(f"{min(own)} is of a discriminator; set gan")
    if table.gan and network in ("u2net", "coupled-unet") and table.sides and "sides" in given:
        raise ValueError("sides and gan do not go together: a discriminator sees the last image alone; set sides = 0")
    if "sides" in given and network not in ("u2net", "coupled-unet"):
        raise ValueError(f"sides are outputs of u2net and coupled-unet, and the network is {network}")
    if "observer_width" in given and not table.observer:
        raise ValueError("observer_width is of the observer's channels; set observer")


def _check_blind_spots(table: EnhancementLoss, given: set[str]) -> None:
    own = {"noise2void", "box", "radius"}
    if not table.noise2void and own & given - {"noise2void"}:
        raise ValueError(f"{min(own & given - {'noise2void'})} is of blind spots; set noise2void = true")
    if table.noise2void and given - own:
        raise ValueError(f"{min(given - own)} and noise2void do not go together: it knows no targets to compare with")
    if table.noise2void and table.box is not None and max(table.box) < 2:
        raise ValueError("box needs two voxels or more along an axis, of which one is asked for")


def objective(
    table: EnhancementLoss,
    network: nn.Module,
    batches: Callable[[int], Iterable[Any]],
    patch: Sequence[int] | None,
) -> tuple[nn.Module, Callable[..., torch.Tensor]]:
    """Return what is trained, the network or a module around it, and its objective.

    batches : of the training, on whose targets the perceptual encoder is trained.
    patch : voxels of a random part of the images, None for whole ones.
    """
    from emrecon.unrolled.networks.diffusion import ConditionalDiffusion
    from emrecon.unrolled.training import adversarial, enhancing, losses

    dimensions = int(network.dimensions)
    model: nn.Module = network
    found: Callable[..., Any]
    if isinstance(network.body, ConditionalDiffusion):
        found = enhancing.Diffusing()
    elif table.noise2void:
        found = _blind_spots(table, dimensions)
    elif table.cycle is not None:
        model = adversarial.CycleGAN(
            network, again(network), *(adversarial.patch_discriminator(dimensions) for _ in range(2))
        )
        found = adversarial.CycleConsistent(
            adversarial.Adversarial(1.0, dimensions=dimensions, kind="least-squares"),
            supervised=10.0 if table.cycle == "paired" else 0.0,
        )
    else:
        criterion = _criterion(table, dimensions, batches)
        if table.gan is not None:
            discriminator = adversarial.patch_discriminator(dimensions, in_channels=1 + table.conditional)
            model = adversarial.WithDiscriminator(network, discriminator)
            found = adversarial.Adversarial(
                table.gan_weight, criterion, dimensions, kind=table.gan, conditional=table.conditional
            )
        elif table.sides and hasattr(network.body, "outputs"):
            found = enhancing.DeepSupervision(criterion, table.sides)
        else:
            found = losses.Supervised(criterion)
    return model, (lambda model, batch, generator: found(model, cropped(batch, patch, generator), generator))


def _blind_spots(table: EnhancementLoss, dimensions: int) -> Callable[..., torch.Tensor]:
    """Noise2Void on what goes in, over its mean, so that its unit does not matter."""
    from emrecon.unrolled.networks.guides import mean_scale
    from emrecon.unrolled.training.noise2void import Noise2Void

    edge = 8 + 4 * math.ceil(table.radius)
    box = table.box or ((edge, edge, 1) if dimensions == 2 else (edge // 2,) * 3)
    hiding = Noise2Void(box, radius=table.radius)

    def hidden(model: nn.Module, batch: Any, generator: torch.Generator) -> torch.Tensor:
        given = batch[0]
        scale = mean_scale(given["x"])
        image = given["x"] / scale.clamp(min=float(scale.max()) * 1e-6 or 1.0)
        return hiding(model, {**given, "x": image}, generator)

    return hidden


def again(network: nn.Module) -> nn.Module:
    """Return a network of the same kind with weights of its own."""
    other = copy.deepcopy(network)
    for module in other.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return other


def cropped(batch: Any, patch: Sequence[int] | None, generator: torch.Generator) -> Any:
    """Return the same random part of images, guides, targets and weights of a batch."""
    import torch

    if patch is None:
        return batch
    shape = batch[1].shape[-3:]
    starts = [int(torch.randint(n - p + 1, (1,), generator=generator)) for n, p in zip(shape, patch)]
    place = (..., *(slice(a, a + p) for a, p in zip(starts, patch)))
    arguments = {name: values[place] for name, values in batch[0].items()}
    return (arguments, *(values[place] for values in batch[1:]))


def _criterion(table: EnhancementLoss, dimensions: int, batches: Callable[[int], Iterable[Any]]) -> Any:
    from emrecon.unrolled.training import image_losses, losses

    if not any(getattr(table, name) for name in _TERMS):
        return losses.mse
    size = 2 * round(table.observer_width) + 3
    known: dict[str, Callable[[], Any]] = {
        "mse": lambda: losses.mse,
        "l1": lambda: losses.l1,
        "charbonnier": lambda: image_losses.charbonnier,
        "ssim": lambda: losses.ssim_loss,
        "sobel": lambda: image_losses.sobel_loss,
        "observer": lambda: image_losses.ObserverLoss(size=size, width=table.observer_width, volume=dimensions == 3),
        "perceptual": lambda: _features(dimensions, batches),
    }
    return losses.WeightedSum(*((getattr(table, name), make()) for name, make in known.items() if getattr(table, name)))


def _features(dimensions: int, batches: Callable[[int], Iterable[Any]]) -> Callable[..., torch.Tensor]:
    """Perceptual loss, which has no weights of voxels, on an encoder trained on the first targets."""
    from emrecon.unrolled.training import image_losses

    encoder = image_losses.FeatureEncoder(dimensions)
    targets = [batch[1].cpu() for batch in islice(batches(0), _ENCODER_BATCHES)]
    image_losses.train_encoder(encoder, lambda epoch: iter(targets), _ENCODER_STEPS)
    loss = image_losses.PerceptualLoss(encoder)
    return lambda image, target, weight=None: loss(image, target)
