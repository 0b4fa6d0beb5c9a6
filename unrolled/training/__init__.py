"""How networks are trained: the loop, losses, weights, several processes, module by module."""

from .adversarial import (
    Adversarial,
    CycleConsistent,
    CycleGAN,
    WithDiscriminator,
    monai_discriminator,
    patch_discriminator,
)
from .completing import Completing, EvenlySpacedViews, FailedCrystals, MergedBins, MissingBins, MissingViews, hidden
from .distributed import ShardedProjector, process_group, shared_count_scale, sum_over_ranks, view_sharded
from .domain import image_statistics, scan_notes, scan_statistics, statistics_range
from .dpir import DPIRLoss, features_of
from .enhancing import DeepSupervision, Diffusing, ImagePairs
from .federated_averaging import Federation, RoundRecord, Site, averaged, federated
from .fit import data_fit, fit_note
from .image_losses import FeatureEncoder, ObserverLoss, PerceptualLoss, charbonnier, sobel_loss, train_encoder
from .kernel_steps import SolvedScan, train_kernel_steps
from .layerwise import LayerRecord, first_thresholds, train_layers
from .loop import Record, Settings, Validation, by_epoch, train
from .losses import Supervised, WeightedSum, l1, lesion_weight, mse, poisson_loss, relative_mse, ssim_loss
from .names import load_plain
from .noise2noise import PartsAveraged, ThinnedImages, ThinnedNoise2Noise
from .noise2void import Noise2Void, blind_spots, noise_radius
from .preparation import MeasuredScanner, Preparation
from .records import best_weights, plot_log
from .schedules import warmup_cosine, warmup_steps
from .shipped import pretrained, pretrained_names, pretrained_path
from .stages import Stage, StageRecord, spectnet_stages, train_stages
from .thinning import divided, leave_one_out, thinned
from .transfer import Started, fine_tuned, freeze, mixed_batches, start_from
from .weights import Card, count_parameters, load_network, load_weights, read_card, save_weights
from .with_deepinv import equivariant, measurement_splitting, recorrupted

__all__ = [
    "Adversarial",
    "CycleConsistent",
    "CycleGAN",
    "monai_discriminator",
    "DeepSupervision",
    "DPIRLoss",
    "Diffusing",
    "ImagePairs",
    "FeatureEncoder",
    "ObserverLoss",
    "PerceptualLoss",
    "charbonnier",
    "sobel_loss",
    "train_encoder",
    "WithDiscriminator",
    "averaged",
    "patch_discriminator",
    "Card",
    "MergedBins",
    "Completing",
    "EvenlySpacedViews",
    "Federation",
    "FailedCrystals",
    "LayerRecord",
    "MeasuredScanner",
    "MissingBins",
    "MissingViews",
    "Noise2Void",
    "PartsAveraged",
    "Preparation",
    "Record",
    "RoundRecord",
    "Settings",
    "ShardedProjector",
    "Site",
    "SolvedScan",
    "Stage",
    "StageRecord",
    "Started",
    "Supervised",
    "ThinnedImages",
    "ThinnedNoise2Noise",
    "Validation",
    "WeightedSum",
    "best_weights",
    "blind_spots",
    "by_epoch",
    "count_parameters",
    "data_fit",
    "divided",
    "equivariant",
    "features_of",
    "federated",
    "fine_tuned",
    "first_thresholds",
    "fit_note",
    "freeze",
    "hidden",
    "l1",
    "leave_one_out",
    "lesion_weight",
    "load_network",
    "load_plain",
    "load_weights",
    "measurement_splitting",
    "mixed_batches",
    "mse",
    "noise_radius",
    "plot_log",
    "poisson_loss",
    "pretrained",
    "pretrained_names",
    "pretrained_path",
    "process_group",
    "read_card",
    "recorrupted",
    "relative_mse",
    "save_weights",
    "scan_notes",
    "scan_statistics",
    "image_statistics",
    "shared_count_scale",
    "spectnet_stages",
    "ssim_loss",
    "start_from",
    "statistics_range",
    "sum_over_ranks",
    "thinned",
    "train",
    "train_kernel_steps",
    "train_layers",
    "train_stages",
    "view_sharded",
    "warmup_cosine",
    "warmup_steps",
]
