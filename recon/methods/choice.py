"""A method as it was asked for: names and numbers from text, and what goes together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..engines.schedules import Order
from ..kernels.matrix import KernelOperator
from ..priors.prior import ProximablePrior, SmoothPrior
from ..problem.problem import ArgumentError
from .names import either, matching
from .table import JOINT, METHODS, ORDERS, PRIMAL_DUAL, PRIORS, SMOOTH, known_priors

Prior = SmoothPrior | ProximablePrior
"""A prior as an object, with its weight: `beta * RelativeDifference(...)`."""


@dataclass(frozen=True)
class PriorChoice:
    """A prior by name, with its numbers in the order of its `Form`."""

    name: str
    values: tuple[float, ...]

    @property
    def n_chosen(self) -> float:
        """Of bowsher: how many neighbours are chosen."""
        return self.values[1] if len(self.values) > 1 else 7.0


@dataclass(frozen=True)
class KernelChoice:
    """The neighbours of kernel EM: how many, in a box of how many voxels, and how alike (standard deviations)."""

    n_neighbours: int = 48
    window: int = 7
    sigma: float = 1.0


@dataclass(frozen=True)
class Method:
    """How to reconstruct, as it was asked for; its repr belongs to the signature of a checkpoint.

    prior, order and kernel may also be objects that were made before: they are taken as they are.
    """

    name: str = "osem"
    prior: PriorChoice | Prior | None = None
    order: str | Order | None = None
    neighbours: int = 26
    kappa: bool = False
    kernel: KernelChoice | KernelOperator | None = None

    @property
    def prior_needs_first(self) -> bool:
        """Whether the prior is made from the image of a first pass."""
        own = {"rdp": 2, "non-local": 3}  # so many numbers, and the image tells something: epsilon, the weights
        return self.kappa or (
            isinstance(self.prior, PriorChoice) and own.get(self.prior.name) == len(self.prior.values)
        )

    @property
    def takes_one_image(self) -> bool:
        """Whether frames or gates must be reconstructed one by one: each has a prior, or an attenuation, of its own."""
        own = self.prior_needs_first and getattr(self.prior, "name", "") == "non-local"
        return self.kappa or own or self.name in JOINT

    def title(self, n_subsets: int) -> str:
        """Return the name as people write it, and the subsets where there are any."""
        entry = METHODS[self.name]
        return entry.title if not entry.subsets else f"{entry.title} with {n_subsets} subset{'s' * (n_subsets > 1)}"


def choose(
    method: str = "osem",
    prior: str | Prior | None = None,
    *,
    order: str | Order | None = None,
    n_guides: int = 0,
    neighbours: int | None = None,
    kappa: bool = False,
    kernel: str | KernelOperator | None = None,
) -> Method:
    """Return the method that is asked for, by names and numbers as text ("rdp:0.1,2") or by objects.

    Args:
        n_guides : how many guide images there are.

    Raises ArgumentError, whose `argument` names what is wrong, for text that is not understood and for arguments that
    do not go together.
    """
    method = matching(method, METHODS, "method")
    chosen = parse_prior(prior) if isinstance(prior, str) else prior
    _check_prior(method, chosen)
    _check_neighbours(chosen, neighbours, kappa)
    if kernel is not None and method != "kem":
        raise ArgumentError("kernel", f"kernel is for the method kem only, not for {method}")
    own = kernel if kernel is None or not isinstance(kernel, str) else parse_kernel(kernel)
    own = KernelChoice() if own is None and method == "kem" else own
    _check_guide(method, chosen, own, n_guides)
    visited = parse_order(order) if isinstance(order, str) else order
    if visited is not None:
        _check_order(method, visited)
    return Method(method, chosen, visited, neighbours or 26, kappa, own)


def parse_prior(text: str) -> PriorChoice:
    """Return the prior in text such as "rdp:0.1,2"."""
    written, _, rest = text.partition(":")
    name = matching(written, PRIORS, "prior", shown=known_priors())
    form, values = PRIORS[name], _numbers(rest)
    if not form.n_needed <= len(values) <= len(form.names):
        raise ArgumentError("prior", f"prior {text!r} is not of the form {name}:{form.parameters}")
    for own, value in zip(form.names, values):
        zero_is_fine = own in ("BETA", "GAMMA")
        if value < 0 or not math.isfinite(value) or (value == 0 and not zero_is_fine):
            least = "0 or more" if zero_is_fine else "positive"
            raise ArgumentError("prior", f"{own} of the prior {name}:{form.parameters} must be {least}, got {value:g}")
    return PriorChoice(name, values)


def parse_kernel(text: str) -> KernelChoice:
    """Return the kernel in text such as "48,7,1"; what is left out is as usual."""
    values = _numbers(text)
    whole = all(value >= 1 and value.is_integer() for value in values[:2])
    if not (1 <= len(values) <= 3 and whole and min(values) > 0 and math.isfinite(max(values))):
        form = "K[,WINDOW[,SIGMA]]: neighbours, voxels, standard deviations"
        raise ArgumentError("kernel", f"kernel {text!r} is not of the form {form}")
    choice = KernelChoice(*(int(value) for value in values[:2]), *values[2:])
    if choice.window % 2 == 0:
        message = f"WINDOW of the kernel must be odd, got {choice.window}; use {choice.window + 1}"
        raise ArgumentError("kernel", message)
    return choice


def parse_order(text: str) -> str:
    """Return the order in text such as "staggered" or "random:7", in its plain spelling."""
    name, colon, seed = text.partition(":")
    found = matching(name, (*ORDERS, "random"), "order")
    if colon and not (found == "random" and seed.isdecimal()):
        raise ArgumentError(
            "order", f"order {text!r} is not of the form {', '.join(ORDERS)} or random[:SEED], SEED a whole number"
        )
    return found + colon + seed


def _check_prior(method: str, prior: PriorChoice | Prior | None) -> None:
    if prior is None:
        if METHODS[method].needs_prior:
            raise ArgumentError("prior", f"{method} needs a prior, such as rdp:BETA,GAMMA; use osem without one")
        return
    if not isinstance(prior, PriorChoice):
        _check_object(method, prior)
        return
    form = PRIORS[prior.name]
    if method in JOINT:
        method = "map-em"  # whose step they take
    if method not in (*SMOOTH, *PRIMAL_DUAL):
        with_it = either(form.methods)
        raise ArgumentError("prior", f"{method} takes no prior; use {prior.name} with the method {with_it}")
    if method not in form.methods:
        own = ", ".join(name for name, form in PRIORS.items() if method in form.methods)
        raise ArgumentError(
            "prior", f"{prior.name} is a prior for {either(form.methods)}, not for {method}, which takes {own}"
        )
    if method == "map-em" and prior.name == "rdp" and prior.values[1] < 1:
        raise ArgumentError("prior", "map-em needs a GAMMA of at least 1 in rdp; use svrg for smaller ones")


def _check_object(method: str, prior: Prior) -> None:
    """Refuse a prior that lacks what the method asks of it; engines check the rest."""
    asked = dict.fromkeys((*SMOOTH, *JOINT), "gradient") | dict.fromkeys(PRIMAL_DUAL, "prox")
    if method not in asked:
        raise ArgumentError("prior", f"{method} takes no prior; use a method such as bsrem, svrg, lbfgsb or spdhg")
    if not hasattr(prior, asked[method]):
        others = either(name for name, part in asked.items() if hasattr(prior, part)) if _is_prior(prior) else ""
        does = (
            f"; use it with {others}" if others else "; write beta * RelativeDifference(...) or text such as rdp:0.1,2"
        )
        raise ArgumentError("prior", f"{method} needs a prior with a method {asked[method]}, got {prior!r}{does}")


def _is_prior(prior: object) -> bool:
    return hasattr(prior, "gradient") or hasattr(prior, "prox")


def _check_guide(
    method: str, prior: PriorChoice | Prior | None, kernel: KernelChoice | KernelOperator | None, given: int
) -> None:
    named = prior if isinstance(prior, PriorChoice) else None
    name = named.name if named else method
    needed = isinstance(kernel, KernelChoice) or (named is not None and PRIORS[named.name].guide)
    if needed and not given:
        raise ArgumentError("guide", f"{name} needs a guide image to follow, such as MR or CT")
    if given and named is not None and named.name == "non-local" and len(named.values) == 2:
        form = f"non-local:{PRIORS['non-local'].parameters}"
        raise ArgumentError("prior", f"non-local with a guide needs a WIDTH: {form}")
    if given and not needed and name != "non-local":
        own = "the priors bowsher, dtv and non-local and the method kem do, and networks that were trained with one"
        raise ArgumentError("guide", f"{name} does not use a guide; {own}")
    if given > 1:
        others = "several are for networks and deep image priors"
        raise ArgumentError("guide", f"{name} follows one guide image, got {given}; {others}")


def _check_neighbours(prior: PriorChoice | Prior | None, neighbours: int | None, kappa: bool) -> None:
    named = prior if isinstance(prior, PriorChoice) else None
    if named is None or not PRIORS[named.name].pairs:
        own = ", ".join(name for name, form in PRIORS.items() if form.pairs)
        for argument, given in (("neighbours", neighbours is not None), ("kappa", kappa)):
            if given:
                raise ArgumentError(argument, f"{argument} is for priors on pairs of neighbours: {own}")
    if neighbours not in (None, 6, 18, 26):
        raise ArgumentError("neighbours", f"neighbours must be 6, 18 or 26, got {neighbours}")
    if named is not None and named.name == "bowsher":
        most = neighbours or 26
        if not named.n_chosen.is_integer() or named.n_chosen > most:
            message = f"CHOSEN of the prior bowsher must be a whole number up to {most}, got {named.n_chosen:g}"
            raise ArgumentError("prior", message)


def _check_order(method: str, order: str | Order) -> None:
    if not METHODS[method].subsets:
        raise ArgumentError("order", f"{method} has no subsets, and so no order of them")
    if method == "spdhg" and not (isinstance(order, str) and order.startswith("random")):
        raise ArgumentError("order", "spdhg draws its subsets at random; use random:SEED")


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers between commas; nothing where one of them cannot be read as a number."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
