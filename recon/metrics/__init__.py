"""How good an image is: regions, measures, NEMA image quality."""

from .agreement import Agreement, agreement_of
from .image_quality import ImageQuality, ImageQualityLayout, SphereQuality, nema_image_quality
from .measures import (
    Ensemble,
    background_variability,
    coefficient_of_variation,
    contrast_recovery,
    contrast_to_noise,
    ensemble_statistics,
    nrmse,
    psnr,
    recovery_coefficient,
    ssim,
    ssim_map,
    suv_max,
    suv_mean,
    suv_peak,
)
from .recovery import nema_recovery, sphere_recovery
from .regions import RegionOfInterest, Sphere, region_means, region_of, regions_of

__all__ = [
    "Agreement",
    "Ensemble",
    "ImageQuality",
    "ImageQualityLayout",
    "RegionOfInterest",
    "Sphere",
    "SphereQuality",
    "agreement_of",
    "background_variability",
    "coefficient_of_variation",
    "contrast_recovery",
    "contrast_to_noise",
    "ensemble_statistics",
    "nema_image_quality",
    "nema_recovery",
    "nrmse",
    "psnr",
    "recovery_coefficient",
    "region_means",
    "region_of",
    "regions_of",
    "sphere_recovery",
    "ssim",
    "ssim_map",
    "suv_max",
    "suv_mean",
    "suv_peak",
]
