"""Networks that enhance images: lesions kept and lost, noise and detection, and training without good images."""

from .suite import SUITE

__all__ = ["SUITE"]
