"""Small networks of every kind, and images and guides for them."""

from functools import partial

import pytest
import torch

from emrecon.projectors import AcquisitionModel, ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector
from emrecon.recon import PoissonLikelihood
from emrecon.unrolled.enhancement import NetworkDenoiser
from emrecon.unrolled.networks.blocks import (
    ConvolutionalAutoencoder,
    DnCNN,
    ResidualUnit,
    SmallCNN,
    seeded,
)
from emrecon.unrolled.networks.transformer import SwinRegulariser
from emrecon.unrolled.networks.unet import ITERATIVE_CNN, UNet

BODIES = {
    "residual unit": partial(ResidualUnit, width=6),
    "residual unit, signed": partial(ResidualUnit, width=6, non_negative=False, norm="instance"),
    "dncnn": partial(DnCNN, depth=4, width=6),
    "dncnn, not negative": partial(DnCNN, depth=4, width=6, norm="none", non_negative=True),
    "autoencoder": partial(ConvolutionalAutoencoder, channels=7, alpha=-3.0),
    "small": SmallCNN,
    "small, groups": partial(SmallCNN, widths=(8, 6), norm="group"),
    "small, residual": partial(SmallCNN, widths=(3,), residual=True, non_negative=True),
    "deep image prior": partial(UNet, width=4, levels=3),
    "iterative cnn": partial(UNet, width=4, levels=3, form=ITERATIVE_CNN, norm="instance"),
    "one level": partial(UNet, width=4, levels=1, norm="none", non_negative=False),
    "swin": partial(SwinRegulariser, width=8, heads=2, depth=2),
}
SHAPE = (9, 6, 5)  # nothing that a U-Net or a window divides


def build(kind, dimensions, guides=0, dtype=torch.float64):
    """A denoiser with batch statistics of its own, in eval mode."""
    if kind == "swin":
        skip_without_monai()
    with seeded(3):
        network = NetworkDenoiser(BODIES[kind](dimensions, 1 + guides), dimensions, guides).to(dtype)
        network.train()
        for _ in range(3):
            network(torch.rand(2, *SHAPE, dtype=dtype), guide=guide_for(guides, 2, dtype))
    return network.eval()


def skip_without_monai():
    pytest.importorskip("monai")
    pytest.importorskip("einops")


def guide_for(guides, batch=2, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, guides, *SHAPE, dtype=dtype, generator=generator) if guides else None


def images(batch=2, dtype=torch.float64, seed=0):
    return 3 * torch.rand(batch, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def small_scan(scale=1.0, batch=2):
    """Counts of small random images seen by a camera, and background."""
    grid = ImageGrid((16, 16, 2), (4.0, 4.0, 8.0))
    camera = SPECTGeometry.circular(8, 80.0, (16, 2), (4.0, 8.0))
    projector = SPECTProjector(grid, camera, response=LinearResponse(0.04, 2.0))
    truth = 5 * torch.rand((batch, 16, 16, 2), generator=torch.Generator().manual_seed(0))
    counts = torch.poisson(projector(truth) + 0.5, generator=torch.Generator().manual_seed(1))
    return PoissonLikelihood(scale * counts, AcquisitionModel(projector, background=0.5 * scale))
