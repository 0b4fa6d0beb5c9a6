"""Architectures alone: blocks, U-Nets, a transformer, and how they follow the scale of counts."""

from .blocks import (
    ConvolutionalAutoencoder,
    Denoiser,
    DnCNN,
    ResidualUnit,
    SmallCNN,
    SoftThreshold,
    initial_thresholds,
    seeded,
)
from .classifier import ImageClassifier
from .guides import mean_scale, normalised_guide
from .lu_net import ConvLSTM, LUNet
from .reconstructor import Reconstructor
from .scaling import ScaleEquivariant, count_scale
from .transformer import SwinRegulariser
from .unet import DEEP_IMAGE_PRIOR, ITERATIVE_CNN, UNet, UNetForm

__all__ = [
    "ImageClassifier",
    "DEEP_IMAGE_PRIOR",
    "ITERATIVE_CNN",
    "ConvolutionalAutoencoder",
    "Denoiser",
    "DnCNN",
    "ConvLSTM",
    "LUNet",
    "Reconstructor",
    "ResidualUnit",
    "ScaleEquivariant",
    "SmallCNN",
    "SoftThreshold",
    "SwinRegulariser",
    "UNet",
    "UNetForm",
    "count_scale",
    "initial_thresholds",
    "mean_scale",
    "normalised_guide",
    "seeded",
]
