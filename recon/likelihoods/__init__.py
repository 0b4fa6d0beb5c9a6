"""How well images explain data: the protocol that engines ask for, and the likelihoods of the library."""

from .listmode import ListmodeLikelihood
from .poisson import PoissonLikelihood
from .transmission import TransmissionLikelihood

__all__ = [
    "ListmodeLikelihood",
    "PoissonLikelihood",
    "TransmissionLikelihood",
]
