"""Kernel matrices: images as combinations of what alike voxels share."""

from .matrix import KernelOperator, SpatioTemporalKernel, hybrid_kernel, hypr_kernel, kernel_matrix, temporal_kernel

__all__ = [
    "KernelOperator",
    "SpatioTemporalKernel",
    "hybrid_kernel",
    "hypr_kernel",
    "kernel_matrix",
    "temporal_kernel",
]
