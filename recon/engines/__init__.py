"""The steps that improve an image, and the loops that repeat them."""

from .em import em_step, mlem, osem
from .gradient import bsrem, gradient_step, saga, svrg
from .joint import FactorState, JointOptions, JointState, attenuation_of_factors, joint_value, mlaa, mlacf
from .kernel_em import kem, kem_step
from .kernel_steps import KernelSteps, Metric, trained_steps
from .known_scale import KnownScale
from .loop import Iterate, State, begin, detached, repeat, taken_apart
from .parameterised import KernelCoefficients, Parameterisation, ParameterisedIterate, parameterised_em, surrogate
from .penalised_em import em_fuse, map_em, map_em_step, osl, osl_step, positive_root
from .primal_dual import pdhg, spdhg
from .quasi_newton import lbfgsb, lbfgsb_scipy
from .schedules import (
    BarzilaiBorwein,
    Constant,
    EMPreconditioner,
    PriorAware,
    RandomOrder,
    Relaxation,
    StepDown,
    cofactor,
    herman_meyer,
    sequential,
)
from .transmission import ostr

__all__ = [
    "BarzilaiBorwein",
    "Constant",
    "EMPreconditioner",
    "FactorState",
    "Iterate",
    "JointOptions",
    "JointState",
    "KernelCoefficients",
    "KernelSteps",
    "KnownScale",
    "Metric",
    "Parameterisation",
    "ParameterisedIterate",
    "PriorAware",
    "RandomOrder",
    "Relaxation",
    "State",
    "StepDown",
    "attenuation_of_factors",
    "begin",
    "bsrem",
    "cofactor",
    "detached",
    "em_fuse",
    "em_step",
    "gradient_step",
    "herman_meyer",
    "joint_value",
    "kem",
    "kem_step",
    "lbfgsb",
    "lbfgsb_scipy",
    "map_em",
    "map_em_step",
    "mlaa",
    "mlacf",
    "mlem",
    "osem",
    "osl",
    "osl_step",
    "ostr",
    "parameterised_em",
    "pdhg",
    "positive_root",
    "repeat",
    "saga",
    "sequential",
    "spdhg",
    "surrogate",
    "svrg",
    "taken_apart",
    "trained_steps",
]
