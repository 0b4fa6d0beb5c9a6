"""How well images explain data: the protocol that engines ask for, and the likelihoods of the library."""

from .gaussian import GaussianLikelihood
from .joint import JointLikelihood
from .listmode import ListmodeLikelihood
from .poisson import PoissonLikelihood
from .protocol import (
    CountsLikelihood,
    Likelihood,
    image_shape,
    knows_counts,
    only_seen,
    require_counts,
    require_likelihood,
    seen_like,
    seen_voxels,
    sensitivity_like,
    start_image,
    value_and_gradient,
)
from .transmission import TransmissionLikelihood

__all__ = [
    "CountsLikelihood",
    "GaussianLikelihood",
    "JointLikelihood",
    "Likelihood",
    "ListmodeLikelihood",
    "PoissonLikelihood",
    "TransmissionLikelihood",
    "image_shape",
    "knows_counts",
    "only_seen",
    "require_counts",
    "require_likelihood",
    "seen_like",
    "seen_voxels",
    "sensitivity_like",
    "start_image",
    "value_and_gradient",
]
