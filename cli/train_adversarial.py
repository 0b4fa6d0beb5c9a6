"""Trainings against a critic: the network with its critic, what they minimise, and the network alone at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .train_data import Pair
from .train_recipe import Plan

if TYPE_CHECKING:
    import torch

    from emrecon.unrolled.training.loop import Objective

_ITEMS = 200
"""Steps in which the encoder of features learns."""


def with_critic(plan: Plan, network: torch.nn.Module) -> torch.nn.Module:
    """Return the network with a critic of patches beside it."""
    from emrecon.unrolled import seeded
    from emrecon.unrolled.networks.reconstructor import dimensions_of
    from emrecon.unrolled.training.adversarial import WithDiscriminator, patch_discriminator

    with seeded(plan.recipe.training.seed + 1):
        critic = patch_discriminator(dimensions_of(network))
    return WithDiscriminator(network, critic.to(next(network.parameters()).device))


def critic_loss(
    plan: Plan, model: torch.nn.Module, batches: Callable[[int], Iterable[Pair]], out: Path
) -> Objective[Pair]:
    """Return DPIR-Net's objective; its encoder of features learns from the targets first."""
    from emrecon.unrolled.networks.reconstructor import dimensions_of
    from emrecon.unrolled.training.dpir import DPIRLoss, features_of
    from emrecon.unrolled.training.image_losses import PerceptualLoss

    loss, dimensions = plan.recipe.loss, dimensions_of(model.generator)
    device = next(model.parameters()).device

    def images(epoch: int) -> Iterator[torch.Tensor]:
        for _, target in batches(epoch):
            yield target

    encoder = features_of(images, dimensions, out, min(_ITEMS, plan.recipe.training.steps), device)
    return DPIRLoss(PerceptualLoss(encoder), loss.perceptual, loss.adversarial, loss.penalty, dimensions)


def groups(model: torch.nn.Module, plan: Plan) -> list[dict[str, object]]:
    """Return the parameters of network and critic, each with its learning rate."""
    rate = plan.recipe.training.learning_rate
    parts = (model.generator, rate), (model.discriminator, rate * plan.recipe.loss.critic_rate)
    return [{"params": [w for w in part.parameters() if w.requires_grad], "lr": lr} for part, lr in parts]
