"""Networks of the image domain: image in, better image out, as post-filter, prior, or part of a reconstruction."""

from .channels import noise_level
from .enhancer import Enhancer, NetworkDenoiser
from .presets import (
    ENHANCERS,
    coupled_unet,
    dense_unet,
    diffusion_enhancer,
    dilated_unet,
    dncnn_enhancer,
    edsr_enhancer,
    low_dose_autoencoder,
    rcan_enhancer,
    residual_unet,
    spach_enhancer,
    super_resolution,
    swin_enhancer,
    three_unets,
    u2net,
    unet_enhancer,
    weighted_residual_cnn,
)
from .window import Windowed, body_memory, fitting_window

__all__ = [
    "ENHANCERS",
    "Enhancer",
    "NetworkDenoiser",
    "Windowed",
    "body_memory",
    "coupled_unet",
    "dense_unet",
    "diffusion_enhancer",
    "dilated_unet",
    "dncnn_enhancer",
    "edsr_enhancer",
    "fitting_window",
    "low_dose_autoencoder",
    "noise_level",
    "rcan_enhancer",
    "residual_unet",
    "spach_enhancer",
    "super_resolution",
    "swin_enhancer",
    "three_unets",
    "u2net",
    "unet_enhancer",
    "weighted_residual_cnn",
]
