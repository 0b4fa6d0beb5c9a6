"""Methods by name: which engine runs, with which prior, kernel and order of subsets, and how it starts."""

from .choice import KernelChoice, Method, Prior, PriorChoice, choose, parse_kernel, parse_order, parse_prior
from .engine import MethodEngine, prepare
from .names import either, matching
from .table import METHODS, ORDERS, PRIORS, Entry, Form, known_priors
from .uncertainty import check_uncertainty, uncertainty_of

__all__ = [
    "METHODS",
    "ORDERS",
    "PRIORS",
    "Entry",
    "Form",
    "KernelChoice",
    "Method",
    "MethodEngine",
    "Prior",
    "PriorChoice",
    "check_uncertainty",
    "choose",
    "either",
    "known_priors",
    "matching",
    "parse_kernel",
    "parse_order",
    "parse_prior",
    "prepare",
    "uncertainty_of",
]
