"""The uncertainty of the image that a method by name has made, where it is defined."""

from __future__ import annotations

from emrecon.projectors.core.arrays import like

from ..engines import Iterate, RandomOrder
from ..engines.schedules import Order, sequential
from ..priors.prior import SmoothPrior
from ..problem.problem import ArgumentError
from ..uncertainty import IteratedEstimate, LinearisedEstimate, PenalisedEstimate
from .choice import Method
from .engine import MethodEngine
from .table import ORDERS

PENALISED = ("map-em", "bsrem", "svrg", "saga", "lbfgsb")
"""The methods that go to the minimiser of likelihood and prior."""


def check_uncertainty(method: Method) -> None:
    """Raise ArgumentError for a method whose image has no uncertainty to first order here."""
    known = f"it is defined for osem, and with a prior for {', '.join(PENALISED)}"
    if method.name not in ("osem", *PENALISED):
        raise ArgumentError("uncertainty", f"{method.name} has no map of uncertainty; {known}")
    if method.name != "osem" and method.prior is None:
        raise ArgumentError("uncertainty", f"{method.name} without a prior has no map of uncertainty; {known}")


def uncertainty_of(engine: MethodEngine, last: Iterate) -> LinearisedEstimate:
    """Return how the noise of the data becomes that of the image that an engine has come to.

    OSEM is propagated through its iterations, `IteratedEstimate`, which runs it again from the problem's start; methods
    with a prior are taken to have come to the minimiser, `PenalisedEstimate`.

    Raises ArgumentError for other methods.
    """
    check_uncertainty(engine.method)
    parts = list(engine.problem.parts)
    if engine.method.name == "osem":
        start = like(engine.problem.start, last.image)
        return IteratedEstimate(parts, start, n_iterations=last.iteration, order=_order(engine.method))  # type: ignore[arg-type]
    assert isinstance(engine.prior, SmoothPrior)
    return PenalisedEstimate(parts, engine.prior, last.image)


def _order(method: Method) -> Order:
    if method.order is None:
        return sequential
    if not isinstance(method.order, str):
        return method.order
    return ORDERS.get(method.order) or RandomOrder(int(method.order.partition(":")[2] or 0))
