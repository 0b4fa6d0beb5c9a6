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
from .dip import DIPRecon, Fit, HeldOut, NetworkWeights, WindowedVariance, fixed_noise, hold_out
from .iterative_network import IterativeNetwork, NetworkInput
from .neural_kernel import NeuralKEM, deep_kernel, dip_ot, with_kernel
from .plug_and_play import (
    DnCNNWithLocalLinearFitting,
    Growing,
    LearnedGradient,
    LocalLinearFitting,
    PnPEM,
    ProximalDenoiser,
    RegularisationByDenoising,
    activity_scale,
    coupling_unit,
    kim_llf,
    local_linear_fit,
    matched_sigma,
    pnp_em,
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
    "DIPRecon",
    "Denoiser",
    "DnCNN",
    "DnCNNWithLocalLinearFitting",
    "Fit",
    "Growing",
    "HeldOut",
    "IterativeNetwork",
    "LearnedGradient",
    "LearnedPrimalDual",
    "LocalLinearFitting",
    "NetworkDenoiser",
    "NetworkInput",
    "NetworkWeights",
    "NeuralKEM",
    "PnPEM",
    "ProximalDenoiser",
    "RegularisationByDenoising",
    "ResidualUnit",
    "ScaleEquivariant",
    "SmallCNN",
    "SoftThreshold",
    "SwinRegulariser",
    "UNet",
    "UNetForm",
    "UnrolledEM",
    "WindowedVariance",
    "activity_scale",
    "bcd_net",
    "count_scale",
    "coupling_unit",
    "deep_kernel",
    "dip_ot",
    "em_net",
    "em_update",
    "fbsem_net",
    "fixed_noise",
    "fixed_point",
    "hold_out",
    "initial_thresholds",
    "kim_llf",
    "learned_primal_dual",
    "local_linear_fit",
    "mapem_net",
    "matched_sigma",
    "mean_scale",
    "normalised_guide",
    "osem_varnet",
    "pnp_em",
    "seeded",
    "transem",
    "with_kernel",
]
