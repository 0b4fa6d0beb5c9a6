"""Independent parts of one scan: binomial thinning of counts in bins and of single events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from emrecon import recon
from emrecon.projectors import AcquisitionModel, ListmodeProjector
from emrecon.projectors.core.arrays import Array, is_torch, to_numpy

from ..networks.scaling import counts_of, of_bins

Thinnable = TypeVar("Thinnable", recon.PoissonLikelihood, recon.ListmodeLikelihood)


def thin(counts: torch.Tensor, p: float, generator: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return counts split at random into two independent parts, y1 ~ Binomial(y, p) and y2 = y - y1.

    Args:
        counts : integers >= 0 of any dtype and shape.  Both parts have its dtype and device.
        generator : the draw is done on its device; one on the CPU gives the same parts everywhere (default: torch's
            global one on the CPU).

    Raises ValueError for counts that are not non-negative integers (usual cause: corrected or expected counts), and
    for p outside 0 to 1.
    """
    check_share(p)
    generator = torch.default_generator if generator is None else generator
    values = counts.detach().to(device=generator.device, dtype=torch.float64)
    if not bool((torch.isfinite(values) & (values >= 0) & (values == values.floor())).all()):
        raise ValueError("thin needs counts, integers >= 0; are these expected or corrected counts?")
    part = torch.binomial(values, torch.full_like(values, p), generator=generator)
    first = part.to(device=counts.device, dtype=counts.dtype)
    return first, counts.detach() - first


def thinned(likelihood: Thinnable, p: float, generator: torch.Generator | None = None) -> tuple[Thinnable, Thinnable]:
    """Return the likelihoods of two random parts of the counts, with models p and 1 - p times that of the whole::

        y1 ~ Binomial(y, p),  ybar1 = p ybar;    y2 = y - y1,  ybar2 = (1 - p) ybar

    ybar holds the background, so it is shared out as well, and an image means the same activity for both parts and the
    whole. The sensitivity image is made once, for the whole.

    Args:
        likelihood : a `PoissonLikelihood` of bins; or a `ListmodeLikelihood`, each of whose events goes to the first
            part with probability p, and which has p and 1 - p of the sensitivity.

    Raises TypeError for likelihoods without counts, and as `thin` does.
    """
    first, second = divided(likelihood, (p, 1 - p), generator)
    return first, second


def divided(
    likelihood: Thinnable, shares: Sequence[float], generator: torch.Generator | None = None
) -> list[Thinnable]:
    """Return the likelihoods of several random parts of the counts, independent Poisson counts of means share * ybar.

    Args:
        likelihood : as in `thinned`.
        shares : of the parts, above 0, which add up to 1; each event goes to one of them (multinomial thinning).

    Raises ValueError for other shares, TypeError for likelihoods without counts, and as `thin` does.
    """
    if len(shares) < 2 or abs(math.fsum(shares) - 1) > 1e-9:
        raise ValueError(f"shares are those of two parts or more and add up to 1, got {list(shares)}")
    for share in shares:
        check_share(share)
    if isinstance(likelihood, recon.ListmodeLikelihood):
        return _divided_events(likelihood, shares, generator)
    of_bins(likelihood, "thinned", "give a PoissonLikelihood or a ListmodeLikelihood")
    counts = _split(torch.as_tensor(counts_of(likelihood)), shares, generator)
    return [_part(likelihood, y, share) for y, share in zip(counts, shares)]


def leave_one_out(
    likelihood: Thinnable, folds: int, generator: torch.Generator | None = None
) -> list[tuple[Thinnable, Thinnable]]:
    """Return for each of `folds` equal parts the likelihoods (all counts but those of the part, those of the part).

    Both of a pair are independent, with shares 1 - 1/folds and 1/folds; two folds are both halves, in both orders.

    Raises ValueError for less than 2 folds, and as `divided` does.
    """
    if folds < 2:
        raise ValueError(f"leave_one_out needs 2 folds or more, got {folds}")
    if isinstance(likelihood, recon.ListmodeLikelihood):
        own = _drawn_weights(likelihood, [1 / folds] * folds, generator)
        whole = torch.stack(own).sum(0)
        return [(_events(likelihood, whole - w, 1 - 1 / folds), _events(likelihood, w, 1 / folds)) for w in own]
    of_bins(likelihood, "leave_one_out", "give a PoissonLikelihood or a ListmodeLikelihood")
    counts = torch.as_tensor(counts_of(likelihood)).detach()
    parts = _split(counts, [1 / folds] * folds, generator)
    return [(_part(likelihood, counts - y, 1 - 1 / folds), _part(likelihood, y, 1 / folds)) for y in parts]


def check_share(p: float) -> None:
    """Raise ValueError unless 0 < p < 1."""
    if not 0 < p < 1:
        raise ValueError(f"the share of the counts must be above 0 and below 1, got {p}")


def _split(counts: torch.Tensor, shares: Sequence[float], generator: torch.Generator | None) -> list[torch.Tensor]:
    """Multinomial parts of counts, by one binomial draw after the other."""
    parts, rest, left = [], counts, 1.0
    for share in shares[:-1]:
        part, rest = thin(rest, share / left, generator)
        parts.append(part)
        left -= share
    return [*parts, rest.detach()]


def _part(likelihood: recon.PoissonLikelihood, counts: torch.Tensor, share: float) -> recon.PoissonLikelihood:
    model = likelihood.model
    part = recon.PoissonLikelihood(counts, _shared(model, share))
    if not any(getattr(values, "requires_grad", False) for values in (model.factors, model.scale)):
        like = counts if counts.dtype == torch.float64 else counts.to(torch.float32)
        part._plans["sensitivity"].get(like, lambda: share * likelihood.sensitivity_like(like))
    return part


def _shared(model: AcquisitionModel, share: float) -> AcquisitionModel:
    return AcquisitionModel(model.projector, model.factors, share * model.background, share * model.scale)


# ---- events ----------------------------------------------------------------------------------------------------------


def _divided_events(
    likelihood: recon.ListmodeLikelihood, shares: Sequence[float], generator: torch.Generator | None
) -> list[recon.ListmodeLikelihood]:
    weights = _drawn_weights(likelihood, shares, generator)
    return [_events(likelihood, w, share) for w, share in zip(weights, shares)]


def _drawn_weights(
    likelihood: recon.ListmodeLikelihood, shares: Sequence[float], generator: torch.Generator | None
) -> list[torch.Tensor]:
    """How often each event counts in each part: once in one of them, or as the draw of its own weight has it."""
    n = likelihood.model.projector.out_shape[0]
    given = torch.ones(n) if likelihood.weights is None else torch.as_tensor(to_numpy(likelihood.weights))
    return _split(given, shares, generator)


def _events(likelihood: recon.ListmodeLikelihood, weights: torch.Tensor, share: float) -> recon.ListmodeLikelihood:
    """The likelihood of some of the events, which alone are projected where nothing else is known of them."""
    model, projector = likelihood.model, likelihood.model.projector
    sensitivity = share * likelihood.sensitivity
    if likelihood.weights is not None or type(projector) is not ListmodeProjector:
        own = torch.as_tensor(weights)
        like = likelihood.sensitivity
        given: Array = own.to(like) if is_torch(like) else own.numpy()
        return recon.ListmodeLikelihood(_shared(model, share), sensitivity, given)
    kept = torch.nonzero(weights > 0)[:, 0]
    n = projector.out_shape[0]
    chosen = ListmodeProjector(projector.grid, projector.scanner, projector.events[kept.numpy()], projector.tof)
    own_model = replace(
        model,
        projector=chosen,
        factors=_of_events(model.factors, kept, n),
        background=_of_events(share * model.background, kept, n),
        scale=share * model.scale,
    )
    return recon.ListmodeLikelihood(own_model, sensitivity)


def _of_events(values: Any, kept: torch.Tensor, n: int) -> Any:
    """The values of some events; numbers and values of all events together stay as they are."""
    if not hasattr(values, "shape") or not values.shape or values.shape[-1] != n:
        return values
    return values[..., kept.to(values.device)] if is_torch(values) else values[..., kept.numpy()]
