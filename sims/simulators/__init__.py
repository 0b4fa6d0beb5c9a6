"""Simulated scans: expected counts with scatter, randoms and decay, and samples of them."""

from .mismatch import Mismatch
from .pet import ConvolutionScatter, PETSimulator, Randoms, SingleScatter, list_events, random_normalisation
from .simulator import Body, Expectation, Simulation, Simulator, count_levels, item_seed, respiratory_gates
from .spect import SPECTSimulator

__all__ = [
    "Body",
    "ConvolutionScatter",
    "Expectation",
    "Mismatch",
    "PETSimulator",
    "Randoms",
    "SPECTSimulator",
    "Simulation",
    "Simulator",
    "SingleScatter",
    "count_levels",
    "item_seed",
    "list_events",
    "random_normalisation",
    "respiratory_gates",
]
