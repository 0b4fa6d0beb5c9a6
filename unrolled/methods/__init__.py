"""Reconstructions with networks inside: unrolled EM, plug-and-play, deep image priors, presets."""

from .conditional_dip import ConditionalDIP
from .couplings import Growing, activity_scale, coupling_unit, matched_sigma
from .denoising_priors import LearnedGradient, RegularisationByDenoising
from .dip import DIPRecon, Fit, NetworkWeights, dip_chain, fixed_noise
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
from .enhanced import EnginePasses, Enhanced, OSEMPasses
from .iterative_network import IterativeNetwork, NetworkInput
from .local_linear import DnCNNWithLocalLinearFitting, LocalLinearFitting, kim_llf, local_linear_fit
from .neural_kernel import NeuralKEM, deep_kernel, dip_ot, with_kernel
from .plug_and_play import PlugAndPlayEM, ProximalDenoiser, pnp_em
from .presets import (
    PRESETS,
    bcd_net,
    em_net,
    fbsem_net,
    learned_primal_dual,
    mapem_net,
    osem_varnet,
    post_unet,
    preset_options,
    transem,
)
from .primal_dual_network import PrimalDualNetwork
from .stopping import HeldOut, WindowedVariance, hold_out
from .unrolled_em import Denoiser, UnrolledEM, em_update, fixed_point

__all__ = [
    "DIPRecon",
    "ConditionalDIP",
    "Denoiser",
    "DnCNNWithLocalLinearFitting",
    "Enhanced",
    "EnginePasses",
    "Fit",
    "Growing",
    "HeldOut",
    "IterativeNetwork",
    "LearnedGradient",
    "LocalLinearFitting",
    "NetworkInput",
    "NetworkWeights",
    "NeuralKEM",
    "OSEMPasses",
    "PRESETS",
    "PlugAndPlayEM",
    "PrimalDualNetwork",
    "ProximalDenoiser",
    "RegularisationByDenoising",
    "UnrolledEM",
    "WindowedVariance",
    "activity_scale",
    "automap",
    "back_projection_net",
    "bcd_net",
    "coupling_unit",
    "deep_kernel",
    "deeppet",
    "dip_chain",
    "dip_ot",
    "dual_tracer_net",
    "em_net",
    "em_update",
    "fbsem_net",
    "fixed_noise",
    "fixed_point",
    "fusion_net",
    "hold_out",
    "kim_llf",
    "learned_primal_dual",
    "local_linear_fit",
    "mapem_net",
    "matched_sigma",
    "osem_varnet",
    "pnp_em",
    "post_unet",
    "preset_options",
    "radon_inversion",
    "sinogram_net",
    "spectnet",
    "transem",
    "with_kernel",
]
