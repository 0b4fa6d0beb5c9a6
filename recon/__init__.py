"""Reconstruction: likelihoods, the steps that improve an image, and the loops that repeat them.

The core, by what one does:

- from a scan to an image: `spect_problem` or `pet_problem`, then `reconstruct` by the name of a method;
- say how well an image explains data: `PoissonLikelihood`, `ListmodeLikelihood`, or any class that is a `Likelihood`;
- iterate: `osem`, `mlem`, with a prior `map_em` or `svrg`; each yields an `Iterate` per pass, and `run` takes so many;
- prefer some images: `RelativeDifference`, `TotalVariation` and the other priors; `likelihood + beta * prior`;
- measure: `nrmse` and the other measures, regions of interest, NEMA image quality.

The rest are further engines, priors, kernels, rules and measures; every room (`emrecon.recon.engines`, `.priors`, ...)
lists its own.
"""

if __name__ != "emrecon.recon":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.recon`")

from emrecon.projectors.core.bars import show_progress
from emrecon.projectors.core.renaming import renamed

from .engines import (
    BarzilaiBorwein,
    Constant,
    EMPreconditioner,
    Iterate,
    KernelCoefficients,
    Parameterisation,
    ParameterisedIterate,
    PriorAware,
    RandomOrder,
    Relaxation,
    StepDown,
    bsrem,
    cofactor,
    em_fuse,
    em_step,
    gradient_step,
    herman_meyer,
    kem,
    kem_step,
    lbfgsb,
    lbfgsb_scipy,
    map_em,
    map_em_step,
    mlem,
    osem,
    osl,
    osl_step,
    ostr,
    parameterised_em,
    pdhg,
    positive_root,
    saga,
    sequential,
    spdhg,
    surrogate,
    svrg,
)
from .filtered import FilteredBackprojection, Window, angular_weights, fbp, ramp_kernel
from .kernels import KernelOperator, SpatioTemporalKernel, hybrid_kernel, hypr_kernel, kernel_matrix, temporal_kernel
from .likelihoods import (
    CountsLikelihood,
    Likelihood,
    ListmodeLikelihood,
    PoissonLikelihood,
    TransmissionLikelihood,
    seen_voxels,
)
from .methods import METHODS, PRIORS, Method, MethodEngine
from .metrics import (
    Ensemble,
    ImageQuality,
    ImageQualityLayout,
    RegionOfInterest,
    Sphere,
    SphereQuality,
    background_variability,
    coefficient_of_variation,
    contrast_recovery,
    contrast_to_noise,
    ensemble_statistics,
    nema_image_quality,
    nrmse,
    psnr,
    recovery_coefficient,
    region_means,
    region_of,
    regions_of,
    ssim,
    ssim_map,
    suv_max,
    suv_mean,
    suv_peak,
)
from .priors import (
    BowsherWeights,
    DirectionalGradient,
    DirectionalTotalVariation,
    DualBallPrior,
    Huber,
    Hyperbolic,
    ImageGradient,
    LogCosh,
    MedianRoot,
    MedianRootSurrogate,
    NonLocal,
    Objective,
    PairPrior,
    ParallelLevelSets,
    ProximablePrior,
    Quadratic,
    RelativeDifference,
    Similarity,
    SmoothedDirectionalTotalVariation,
    SmoothedTotalVariation,
    SmoothPrior,
    TotalVariation,
    bowsher,
    spatial_weights,
)
from .problem import ArgumentError, EffectiveScatter, Problem, WindowScatter, pet_grid, pet_problem, spect_problem
from .quantity import Quantity, quantify, quantify_beds
from .reconstruction import reconstruct
from .running import Checkpoint, Log, ProgressBar, RelativeChange, run
from .stopping import KKT, KKTErrors, KKTRule, PetricErrors, PetricRule, kkt_residual

__all__ = [
    # the core
    "spect_problem",
    "pet_problem",
    "Problem",
    "reconstruct",
    "Quantity",
    "quantify",
    "quantify_beds",
    "WindowScatter",
    "EffectiveScatter",
    "PoissonLikelihood",
    "ListmodeLikelihood",
    "Likelihood",
    "osem",
    "mlem",
    "svrg",
    "map_em",
    "RelativeDifference",
    "TotalVariation",
    "Iterate",
    "run",
    "nrmse",
    # likelihoods and objectives
    "CountsLikelihood",
    "TransmissionLikelihood",
    "Objective",
    "seen_voxels",
    # engines, and the steps they repeat
    "em_step",
    "em_fuse",
    "map_em_step",
    "osl",
    "osl_step",
    "bsrem",
    "saga",
    "gradient_step",
    "lbfgsb",
    "lbfgsb_scipy",
    "pdhg",
    "spdhg",
    "kem",
    "kem_step",
    "parameterised_em",
    "Parameterisation",
    "ParameterisedIterate",
    "KernelCoefficients",
    "surrogate",
    "positive_root",
    "ostr",
    # rules of engines
    "sequential",
    "herman_meyer",
    "cofactor",
    "RandomOrder",
    "Constant",
    "Relaxation",
    "StepDown",
    "BarzilaiBorwein",
    "EMPreconditioner",
    "PriorAware",
    # priors
    "SmoothPrior",
    "ProximablePrior",
    "DualBallPrior",
    "PairPrior",
    "Quadratic",
    "LogCosh",
    "Huber",
    "Hyperbolic",
    "Similarity",
    "BowsherWeights",
    "bowsher",
    "spatial_weights",
    "SmoothedTotalVariation",
    "DirectionalTotalVariation",
    "SmoothedDirectionalTotalVariation",
    "ParallelLevelSets",
    "ImageGradient",
    "DirectionalGradient",
    "NonLocal",
    "MedianRoot",
    "MedianRootSurrogate",
    # kernels
    "KernelOperator",
    "SpatioTemporalKernel",
    "kernel_matrix",
    "hybrid_kernel",
    "hypr_kernel",
    "temporal_kernel",
    # filtered back projection
    "FilteredBackprojection",
    "Window",
    "fbp",
    "ramp_kernel",
    "angular_weights",
    # runs: callbacks and stopping rules
    "Checkpoint",
    "Log",
    "show_progress",
    "ProgressBar",
    "RelativeChange",
    "PetricRule",
    "PetricErrors",
    "KKTRule",
    "KKT",
    "KKTErrors",
    "kkt_residual",
    # regions and measures of images
    "RegionOfInterest",
    "Sphere",
    "region_of",
    "regions_of",
    "region_means",
    "psnr",
    "ssim",
    "ssim_map",
    "contrast_recovery",
    "recovery_coefficient",
    "contrast_to_noise",
    "coefficient_of_variation",
    "background_variability",
    "ensemble_statistics",
    "Ensemble",
    "suv_max",
    "suv_mean",
    "suv_peak",
    "nema_image_quality",
    "ImageQuality",
    "ImageQualityLayout",
    "SphereQuality",
    # methods by name
    "METHODS",
    "PRIORS",
    "ArgumentError",
    "Method",
    "MethodEngine",
    "pet_grid",
]

__getattr__ = renamed(
    __name__, {"Bowsher": "BowsherWeights", "KernelMatrix": "KernelOperator", "Region": "RegionOfInterest"}
)
