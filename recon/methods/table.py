"""The tables of methods, priors and orders by name: which engine runs, how it starts, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..engines import (
    Iterate,
    bsrem,
    cofactor,
    herman_meyer,
    kem,
    lbfgsb,
    map_em,
    mlaa,
    mlacf,
    osem,
    osl,
    pdhg,
    saga,
    sequential,
    spdhg,
    svrg,
)
from ..engines.schedules import Order

SMOOTH = ("map-em", "osl", "bsrem", "svrg", "saga", "lbfgsb")
"""The methods whose priors have gradients."""
JOINT = ("mlaa", "mlacf")
"""The methods that find the attenuation along with the activity; their priors have gradients and curvatures."""
PRIMAL_DUAL = ("spdhg", "pdhg")
"""The methods whose priors have a proximal map."""


class Entry(NamedTuple):
    """A method of the table.

    Args:
        engine : yields iterates of a list of likelihoods.
        title : as people write it.
        subsets : it goes through subsets; otherwise it sees all data at every step.
        first_pass : it starts from one pass of OSEM; otherwise from the problem's start.
        needs_prior : it cannot do without one.
        joint : it finds the attenuation along with the activity, see `JointEngine`.
    """

    engine: Callable[..., Iterator[Iterate]]
    title: str
    subsets: bool = True
    first_pass: bool = True
    needs_prior: bool = False
    joint: bool = False


METHODS = {
    "osem": Entry(osem, "OSEM", first_pass=False),
    "map-em": Entry(map_em, "MAP-EM", needs_prior=True),
    "bsrem": Entry(bsrem, "BSREM"),
    "svrg": Entry(svrg, "SVRG"),
    "saga": Entry(saga, "SAGA"),
    "osl": Entry(osl, "OSL", needs_prior=True),
    "lbfgsb": Entry(lbfgsb, "L-BFGS-B", subsets=False),
    "spdhg": Entry(spdhg, "SPDHG"),
    "pdhg": Entry(pdhg, "PDHG", subsets=False),
    "kem": Entry(kem, "KEM"),
    "mlaa": Entry(mlaa, "MLAA", first_pass=False, joint=True),
    "mlacf": Entry(mlacf, "MLACF", first_pass=False, joint=True),
}
"""The methods that `reconstruct` knows by name."""


class Form(NamedTuple):
    """What follows a prior's name, and which methods take it.

    Args:
        pairs : it is one on pairs of neighbours.
        guide : it cannot do without a guide image.
    """

    parameters: str
    methods: tuple[str, ...] = SMOOTH
    pairs: bool = False
    guide: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its numbers."""
        return tuple(self.parameters.replace("[", "").replace("]", "").split(","))

    @property
    def n_needed(self) -> int:
        """How many of them must be given."""
        return self.parameters.partition("[")[0].count(",") + 1


PRIORS = {
    "rdp": Form("BETA,GAMMA[,EPSILON]", pairs=True),
    "quadratic": Form("BETA", pairs=True),
    "log-cosh": Form("BETA,DELTA", pairs=True),
    "huber": Form("BETA,DELTA", pairs=True),
    "hyperbolic": Form("BETA,DELTA", pairs=True),
    "bowsher": Form("BETA[,CHOSEN]", pairs=True, guide=True),
    "smooth-tv": Form("BETA,EPSILON"),
    "non-local": Form("BETA,DELTA[,WIDTH]"),
    "tv": Form("BETA", PRIMAL_DUAL),
    "dtv": Form("BETA[,ETA]", PRIMAL_DUAL, guide=True),
    "median": Form("BETA", ("osl",)),
}
"""The priors that `reconstruct` knows by name."""

ORDERS: dict[str, Order] = {"sequential": sequential, "staggered": herman_meyer, "cofactor": cofactor}
"""The orders of subsets by name, besides "random" and "random:SEED"."""


def known_priors() -> str:
    """Return the forms of all priors, as people write them."""
    return ", ".join(f"{name}:{form.parameters}" for name, form in PRIORS.items())
