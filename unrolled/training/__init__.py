"""How networks are trained: the loop, losses, weights, several processes, module by module."""

from .adversarial import Adversarial, WithDiscriminator, patch_discriminator
from .completing import Completing, EvenlySpacedViews
from .distributed import ShardedProjector, process_group, shared_count_scale, sum_over_ranks, view_sharded
from .domain import scan_notes, scan_statistics, statistics_range
from .fit import data_fit, fit_note
from .kernel_steps import SolvedScan, train_kernel_steps
from .layerwise import LayerRecord, first_thresholds, train_layers
from .loop import Record, Settings, Validation, by_epoch, train
from .losses import (
    Noise2Void,
    Supervised,
    ThinnedNoise2Noise,
    WeightedSum,
    equivariant,
    l1,
    lesion_weight,
    measurement_splitting,
    mse,
    poisson_loss,
    relative_mse,
    ssim_loss,
    thinned,
)
from .names import load_plain
from .preparation import MeasuredScanner, Preparation
from .records import best_weights, plot_log
from .schedules import warmup_cosine, warmup_steps
from .shipped import pretrained, pretrained_names, pretrained_path
from .stages import Stage, StageRecord, spectnet_stages, train_stages
from .weights import Card, count_parameters, load_network, load_weights, read_card, save_weights

__all__ = [
    "Adversarial",
    "WithDiscriminator",
    "patch_discriminator",
    "Card",
    "Completing",
    "EvenlySpacedViews",
    "LayerRecord",
    "MeasuredScanner",
    "Noise2Void",
    "Preparation",
    "Record",
    "Settings",
    "ShardedProjector",
    "SolvedScan",
    "Stage",
    "StageRecord",
    "Supervised",
    "ThinnedNoise2Noise",
    "Validation",
    "WeightedSum",
    "best_weights",
    "by_epoch",
    "count_parameters",
    "data_fit",
    "equivariant",
    "first_thresholds",
    "fit_note",
    "l1",
    "lesion_weight",
    "load_network",
    "load_plain",
    "load_weights",
    "measurement_splitting",
    "mse",
    "plot_log",
    "poisson_loss",
    "pretrained",
    "pretrained_names",
    "pretrained_path",
    "process_group",
    "read_card",
    "relative_mse",
    "save_weights",
    "scan_notes",
    "scan_statistics",
    "shared_count_scale",
    "spectnet_stages",
    "ssim_loss",
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
