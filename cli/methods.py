"""Which method, prior and order of subsets: the command's options as text, what goes together, and the engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import typer

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import to_numpy
from emrecon.recon import (
    DirectionalTotalVariation,
    Huber,
    Hyperbolic,
    Iterate,
    KernelOperator,
    LogCosh,
    MedianRoot,
    NonLocal,
    Quadratic,
    RandomOrder,
    RelativeDifference,
    SmoothedTotalVariation,
    TotalVariation,
    bowsher,
    bsrem,
    cofactor,
    herman_meyer,
    kem,
    kernel_matrix,
    lbfgsb,
    map_em,
    osem,
    osl,
    pdhg,
    saga,
    sequential,
    spatial_weights,
    spdhg,
    svrg,
)

from . import learned

_TITLES = {"map-em": "MAP-EM", "lbfgsb": "L-BFGS-B"}  # where capitals alone do not do
_ENGINES: dict[str, Any] = {
    "osem": osem,
    "map-em": map_em,
    "bsrem": bsrem,
    "svrg": svrg,
    "saga": saga,
    "osl": osl,
    "lbfgsb": lbfgsb,
    "spdhg": spdhg,
    "pdhg": pdhg,
    "kem": kem,
}
_ORDERS = {"sequential": sequential, "staggered": herman_meyer, "cofactor": cofactor}
_WHOLE = ("lbfgsb", "pdhg")  # these see all data at every step
_SMOOTH = ("map-em", "osl", "bsrem", "svrg", "saga", "lbfgsb")
_PRIMAL_DUAL = ("spdhg", "pdhg")


class Form(NamedTuple):
    """What follows a prior's name, and which methods take it.

    pairs : it is one on pairs of neighbours.  guide : it cannot do without a guide image.
    """

    parameters: str
    methods: tuple[str, ...] = _SMOOTH
    pairs: bool = False
    guide: bool = False


FORMS = {
    "rdp": Form("BETA,GAMMA[,EPSILON]", pairs=True),
    "quadratic": Form("BETA", pairs=True),
    "log-cosh": Form("BETA,DELTA", pairs=True),
    "huber": Form("BETA,DELTA", pairs=True),
    "hyperbolic": Form("BETA,DELTA", pairs=True),
    "bowsher": Form("BETA[,CHOSEN]", pairs=True, guide=True),
    "smooth-tv": Form("BETA,EPSILON"),
    "non-local": Form("BETA,DELTA[,WIDTH]"),
    "tv": Form("BETA", _PRIMAL_DUAL),
    "dtv": Form("BETA[,ETA]", _PRIMAL_DUAL, guide=True),
    "median": Form("BETA", ("osl",)),
}


@dataclass(frozen=True)
class PriorChoice:
    """A prior by name, with its numbers in the order of its `Form`."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class KernelChoice:
    """The neighbours of kernel EM: how many, in a box of how many voxels, and how alike (standard deviations)."""

    n_neighbours: int = 48
    window: int = 7
    sigma: float = 1.0


@dataclass(frozen=True)
class Method:
    """How to reconstruct, as it was asked for; its repr belongs to the signature of a checkpoint."""

    name: str = "osem"
    prior: PriorChoice | None = None
    order: str | None = None
    neighbours: int = 26
    kappa: bool = False
    kernel: KernelChoice | None = None

    @property
    def prior_needs_first(self) -> bool:
        """Whether the prior is made from the image of a first pass."""
        own = {"rdp": 2, "non-local": 3}  # so many numbers, and the image tells something: epsilon, the weights
        return self.kappa or (self.prior is not None and own.get(self.prior.name) == len(self.prior.values))

    def title(self, n_subsets: int) -> str:
        """Return the name as people write it, and the subsets where there are any."""
        title = _TITLES.get(self.name, self.name.upper())
        return title if self.name in _WHOLE else f"{title} with {n_subsets} subset{'s' * (n_subsets > 1)}"


def choose(
    method: str = "osem",
    prior: str | None = None,
    *,
    order: str | None = None,
    n_guides: int = 0,
    neighbours: int | None = None,
    kappa: bool = False,
    kernel: str | None = None,
) -> Method:
    """Return the method that the options ask for; `n_guides` is how many guide images there are.

    Raises typer.BadParameter, which names the option and what would do, for text that is not understood and for
    options that do not go together.
    """
    if method not in _ENGINES and method not in learned.METHODS:
        raise _bad("--method", f"{method!r} is none; there are {', '.join((*_ENGINES, *learned.METHODS))}")
    chosen = None if prior is None else parse_prior(prior)
    _check_prior(method, chosen)
    _check_guide(method, chosen, n_guides)
    _check_neighbours(chosen, neighbours, kappa)
    if order is not None:
        _check_order(method, order)
    if kernel is not None and method != "kem":
        raise _bad("--kernel", "is for --method kem only")
    own = parse_kernel(kernel) if method == "kem" else None
    return Method(method, chosen, order, neighbours or 26, kappa, own)


def known_priors() -> str:
    """Return the forms of all priors, as people write them."""
    return ", ".join(f"{name}:{form.parameters}" for name, form in FORMS.items())


def parse_prior(text: str) -> PriorChoice:
    """Return the prior in text such as "rdp:0.1,2"."""
    name, _, rest = text.partition(":")
    form = FORMS.get(name)
    if form is None:
        raise _bad("--prior", f"{text!r} is none; there are {known_priors()}")
    names = form.parameters.replace("[", "").replace("]", "").split(",")
    n_needed = form.parameters.partition("[")[0].count(",") + 1
    values = _numbers(rest)
    if not n_needed <= len(values) <= len(names):
        raise _bad("--prior", f"{text!r} is not {name}:{form.parameters}")
    for own, value in zip(names, values):
        if value < 0 or not math.isfinite(value) or (value == 0 and own not in ("BETA", "GAMMA")):
            raise _bad("--prior", f"{own} of {name}:{form.parameters} must be positive, got {value:g}")
    return PriorChoice(name, values)


def parse_kernel(text: str | None) -> KernelChoice:
    """Return the kernel in text such as "48,7,1"; what is left out is as usual."""
    if text is None:
        return KernelChoice()
    values = _numbers(text)
    whole = all(value >= 1 and value.is_integer() for value in values[:2])
    if not (1 <= len(values) <= 3 and whole and min(values) > 0 and math.isfinite(max(values))):
        raise _bad("--kernel", f"{text!r} is not K[,WINDOW[,SIGMA]]: neighbours, voxels, standard deviations")
    choice = KernelChoice(*(int(value) for value in values[:2]), *values[2:])
    if choice.window % 2 == 0:
        raise _bad("--kernel", f"WINDOW must be odd, got {choice.window}; {choice.window + 1} would do")
    return choice


def _check_prior(method: str, prior: PriorChoice | None) -> None:
    if prior is None:
        if method in ("map-em", "osl"):
            raise _bad("--prior", f"{method} needs one, such as rdp:BETA,GAMMA; without one use osem")
        return
    form = FORMS[prior.name]
    if method in ("osem", "kem", *learned.METHODS):
        raise _bad("--prior", f"{method} takes none; {prior.name} goes with --method {_either(form.methods)}")
    if method not in form.methods:
        own = ", ".join(name for name, form in FORMS.items() if method in form.methods)
        raise _bad(
            "--prior",
            f"{prior.name} goes with --method {_either(form.methods)}, not with {method}, which takes {own}",
        )
    if method == "map-em" and prior.name == "rdp" and prior.values[1] < 1:
        raise _bad("--prior", "map-em needs a GAMMA of at least 1; others can do with less, such as svrg")


def _check_guide(method: str, prior: PriorChoice | None, given: int) -> None:
    name = method if method == "kem" else prior.name if prior else method
    needed = method == "kem" or (prior is not None and FORMS[prior.name].guide)
    if needed and not given:
        raise _bad("--guide", f"{name} needs an image to follow, such as MR or CT")
    if given and prior is not None and prior.name == "non-local" and len(prior.values) == 2:
        raise _bad("--prior", f"non-local with a guide is non-local:{FORMS['non-local'].parameters}, with a WIDTH")
    if given and not needed and name != "non-local" and name not in learned.METHODS:
        own = "--prior bowsher, dtv and non-local and --method kem, dip-recon, dip-ot and guided networks do"
        raise _bad("--guide", f"{name} makes no use of it; {own}")
    if given > 1 and name not in learned.METHODS:
        raise _bad("--guide", f"{name} follows one image, got {given}; several are for networks and deep image priors")


def _check_neighbours(prior: PriorChoice | None, neighbours: int | None, kappa: bool) -> None:
    if prior is None or not FORMS[prior.name].pairs:
        own = ", ".join(name for name, form in FORMS.items() if form.pairs)
        for option, given in (("--neighbours", neighbours is not None), ("--kappa", kappa)):
            if given:
                raise _bad(option, f"is for priors on pairs of neighbours only: --prior {own}")
    if neighbours not in (None, 6, 18, 26):
        raise _bad("--neighbours", f"must be 6, 18 or 26, got {neighbours}")
    if prior is not None and prior.name == "bowsher":
        chosen, most = _n_chosen(prior), neighbours or 26
        if not chosen.is_integer() or chosen > most:
            raise _bad("--prior", f"CHOSEN of bowsher must be a whole number up to {most}, got {chosen:g}")


def _check_order(method: str, text: str) -> None:
    name, _, seed = text.partition(":")
    if not (text in _ORDERS or text == "random" or (name == "random" and seed.isdecimal())):
        raise _bad("--order", f"{text!r} is none; there are {', '.join(_ORDERS)} and random[:SEED]")
    if method in learned.METHODS:
        raise _bad("--order", f"{method} takes its subsets one after another")
    if method in _WHOLE:
        raise _bad("--order", f"{method} has no subsets")
    if method == "spdhg" and name != "random":
        raise _bad("--order", "spdhg draws its subsets at random; random:SEED would do")


class Engine(NamedTuple):
    """An engine and where it starts; `prior` and `kernel` where it has them."""

    method: Method
    parts: list[Any]
    at: Iterate
    prior: Any
    kernel: KernelOperator | None

    def iterates(self) -> Iterator[Iterate]:
        """Return the engine's iterates from `at` on."""
        name, at = self.method.name, self.at
        more = () if name == "osem" else (self.kernel,) if name == "kem" else (self.prior,)
        start = at if at.state else at.image  # what remembers only the image takes any engine's
        found: Iterator[Iterate] = _ENGINES[name](
            self.parts, *more, start=start, iteration=at.iteration, **_order(self.method)
        )
        return found

    def objective(self, x: Any) -> Any:
        """Return what is minimised, likelihood + prior; the likelihood alone for a prior without a value (median)."""
        likelihood = sum(part.value(x) for part in self.parts)
        valued = self.method.prior is not None and self.method.prior.name != "median"
        return likelihood + self.prior.value(x) if valued else likelihood

    def __str__(self) -> str:
        title = self.method.title(len(self.parts))
        if self.kernel is not None:
            return f"{title}, {self.kernel.n_neighbours.max()} neighbours"
        return title if self.prior is None else f"{title}, {self.prior!r}"


def prepare(
    method: Method, parts: list[Any], grid: ImageGrid, guide: np.ndarray | None, start: Any, at: Iterate | None = None
) -> Engine:
    """Return the engine, to go on from an iterate or to start from one pass of OSEM (OSEM itself from `start`).

    Epsilon, kappa and weights that come from the first pass are found again when a run goes on: they are the same.
    """
    first = None
    if method.name != "osem" and (at is None or method.prior_needs_first):
        first = next(osem(parts, start)).image
    at = at or Iterate(0, start if first is None else first)
    prior = None if method.prior is None else make_prior(method, parts, grid, guide, first)
    kernel = None if method.kernel is None else _kernel(method.kernel, guide, grid)
    return Engine(method, parts, at, prior, kernel)


def make_prior(method: Method, parts: list[Any], grid: ImageGrid, guide: Any, first: Any) -> Any:
    """Return the prior times its beta.

    guide : (x, y, z) on the grid.  first : the image of the first pass, where `method.prior_needs_first`.
    """
    if method.prior is None:
        raise ValueError("the method has no prior")
    (beta, *values), size = method.prior.values, grid.voxel_size
    pairs: dict[str, Any] = {"neighbours": method.neighbours, "voxel_size": size}
    if method.kappa:
        pairs["kappa"] = np.sqrt(sum(to_numpy(spatial_weights(part, first)) ** 2 for part in parts))
    match method.prior.name:
        case "rdp":
            epsilon = values[1] if len(values) > 1 else 1e-3 * float(first.max())
            return beta * RelativeDifference(values[0], epsilon=epsilon, **pairs)
        case "quadratic":
            return beta * Quadratic(**pairs)
        case "log-cosh":
            return beta * LogCosh(*values, **pairs)
        case "huber":
            return beta * Huber(*values, **pairs)
        case "hyperbolic":
            return beta * Hyperbolic(*values, **pairs)
        case "bowsher":
            return beta * bowsher(guide, int(_n_chosen(method.prior)), **pairs)
        case "smooth-tv":
            return beta * SmoothedTotalVariation(values[0], size)
        case "non-local" if len(values) == 1:
            return beta * NonLocal(delta=values[0])
        case "non-local":
            shown = to_numpy(first) if guide is None else guide
            return beta * NonLocal(delta=values[0], guide=shown, width=values[1])
        case "tv":
            return beta * TotalVariation(voxel_size=size)
        case "dtv":
            return beta * DirectionalTotalVariation(guide, values[0] if values else None, size)
        case _:
            return beta * MedianRoot()


def _kernel(choice: KernelChoice, guide: Any, grid: ImageGrid) -> KernelOperator:
    return kernel_matrix(guide, grid, n_neighbours=choice.n_neighbours, window=choice.window, sigma=choice.sigma)


def _order(method: Method) -> dict[str, Any]:
    """The order as the engine's keyword; nothing where it is the engine's own."""
    if method.order is None:
        return {}
    seed = int(method.order.partition(":")[2] or 0)
    if method.name == "spdhg":
        return {"seed": seed}
    return {"order": _ORDERS.get(method.order) or RandomOrder(seed)}


def _n_chosen(prior: PriorChoice) -> float:
    return prior.values[1] if len(prior.values) > 1 else 7.0


def _either(names: tuple[str, ...]) -> str:
    """One of several names: "a, b or c"."""
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers between commas; none where one of them is no number."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()


def _bad(option: str, message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint=option)
