"""Methods by name: which engine runs, with which prior, kernel and order of subsets, and how it starts."""

from .choice import KernelChoice, Method, Prior, PriorChoice, choose, parse_kernel, parse_order, parse_prior
from .engine import MethodEngine, named_prior, prepare
from .joint import JointEngine
from .names import either, matching
from .table import JOINT, METHODS, ORDERS, PRIORS, Entry, Form, known_priors
from .uncertainty import check_uncertainty, uncertainty_of

__all__ = [
    "JOINT",
    "METHODS",
    "ORDERS",
    "PRIORS",
    "Entry",
    "Form",
    "JointEngine",
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
    "named_prior",
    "parse_kernel",
    "parse_order",
    "parse_prior",
    "prepare",
    "uncertainty_of",
]
