"""What iterative methods share: where they begin and continue, the image after some iterations, checks of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

from emrecon.projectors.core.arrays import Array
from emrecon.recon import Iterate, ParameterisedIterate
from emrecon.recon.engines.loop import begin, detached, is_image_alone
from emrecon.recon.likelihoods import Likelihood
from emrecon.recon.running import Standing

from .couplings import activity_scale

Given = TypeVar("Given")
Start = Array | Iterate | None
"""An image to start from, an iterate to continue from, or None for the method's own start."""


def begin_at_activity(
    likelihood: Likelihood | Sequence[Likelihood], start: Start, n_subsets: int, iteration: int = 0
) -> tuple[Iterate, list[Likelihood]]:
    """Return where to start and the parts, as `recon.engines.em.begin` does, without autograd.

    Where no start is given it is `activity_scale` wherever something is seen.
    """
    at, parts = begin(likelihood, start, n_subsets, iteration)
    if start is None:
        with torch.no_grad():
            at = at._replace(image=at.image * activity_scale(parts, at.image))
    return detached(at), parts


def resumed(start: Given) -> Given | Array:
    """Return an iterate of the same method as it is; of another method's, which remembers nothing, the image alone."""
    return start.image if isinstance(start, Iterate) and is_image_alone(start.state) else start


def image_after(iterates: Iterator[Standing], start: Start | ParameterisedIterate, n_iterations: int) -> Array:
    """Return the image after n_iterations in all, of which an iterate to continue from has done some already."""
    at = resumed(start)
    done = 0
    if isinstance(at, (Iterate, ParameterisedIterate)):
        if at.iteration >= n_iterations:
            return at.image
        done = at.iteration
    *_, last = islice(iterates, n_iterations - done)
    return last.image


def require_at_least_one(method: object, *names: str) -> None:
    """Raise ValueError for a field of a method that is below 1."""
    for name in names:
        if getattr(method, name) < 1:
            raise ValueError(f"{type(method).__name__} {name} must be at least 1, got {getattr(method, name)}")


def require_weights(owner: object, *names: str) -> None:
    """Raise ValueError for a field that is negative, infinite or NaN."""
    for name in names:
        if not 0 <= getattr(owner, name) < math.inf:
            raise ValueError(
                f"{type(owner).__name__} {name} must be finite and not negative, got {getattr(owner, name)}"
            )
