"""Networks of the image domain: image in, better image out, as post-filter, prior, or part of a reconstruction."""

from .channels import noise_level
from .enhancer import Enhancer, NetworkDenoiser
from .presets import ENHANCERS, dncnn_enhancer, u2net, unet_enhancer, weighted_residual_cnn
from .window import Windowed, body_memory, fitting_window

__all__ = [
    "ENHANCERS",
    "Enhancer",
    "NetworkDenoiser",
    "Windowed",
    "body_memory",
    "dncnn_enhancer",
    "unet_enhancer",
    "fitting_window",
    "noise_level",
    "u2net",
    "weighted_residual_cnn",
]
