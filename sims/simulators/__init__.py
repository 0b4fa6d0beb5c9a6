"""Simulated scans: expected counts with scatter, randoms and decay, and samples of them."""

from .backgrounds import Background, BackgroundEstimate
from .clinic import CaseFiles, ClinicalCase, default_study, synthetic_case
from .mismatch import Mismatch
from .pet import ConvolutionScatter, PETSimulator, Randoms, SingleScatter, list_events, random_normalisation
from .simulator import Body, Expectation, Simulation, Simulator, count_levels, item_seed, respiratory_gates
from .spect import ConvolvedScatter, SPECTSimulator

__all__ = [
    "Background",
    "BackgroundEstimate",
    "ConvolvedScatter",
    "CaseFiles",
    "ClinicalCase",
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
    "synthetic_case",
    "count_levels",
    "default_study",
    "item_seed",
    "list_events",
    "random_normalisation",
    "respiratory_gates",
]
