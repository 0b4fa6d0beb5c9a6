"""Networks inside the physics: learned priors, unrolled MAP-EM, deep image prior, and how they are trained."""

if __name__ != "emrecon.unrolled":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.unrolled`")

from .blocks import (
    ConvolutionalAutoencoder,
    DnCNN,
    NetworkDenoiser,
    ResidualUnit,
    SmallCNN,
    SoftThreshold,
    initial_thresholds,
    seeded,
)
from .presets import bcd_net, em_net, fbsem_net, learned_primal_dual, mapem_net, osem_varnet, transem
from .primal_dual_network import LearnedPrimalDual
from .scaling import ScaleEquivariant, count_scale, mean_scale, normalised_guide
from .transformer import SwinRegulariser
from .unet import DEEP_IMAGE_PRIOR, ITERATIVE_CNN, UNet, UNetForm
from .unrolled_em import Denoiser, UnrolledEM, em_update, fixed_point

__all__ = [
    "DEEP_IMAGE_PRIOR",
    "ITERATIVE_CNN",
    "ConvolutionalAutoencoder",
    "Denoiser",
    "DnCNN",
    "LearnedPrimalDual",
    "NetworkDenoiser",
    "ResidualUnit",
    "ScaleEquivariant",
    "SmallCNN",
    "SoftThreshold",
    "SwinRegulariser",
    "UNet",
    "UNetForm",
    "UnrolledEM",
    "bcd_net",
    "count_scale",
    "em_net",
    "em_update",
    "fbsem_net",
    "fixed_point",
    "initial_thresholds",
    "learned_primal_dual",
    "mapem_net",
    "mean_scale",
    "normalised_guide",
    "osem_varnet",
    "seeded",
    "transem",
]
