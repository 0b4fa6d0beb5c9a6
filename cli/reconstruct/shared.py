"""A reconstruction by the ranks that torchrun starts: what they cannot share, who speaks, and how one that is lost ends
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer

from emrecon.projectors import BedScan
from emrecon.recon import METHODS, Checkpoint, Iterate, LostRankError, RankGroup, join_ranks
from emrecon.recon.ranks import ALONE, ranks_of_job
from emrecon.recon.running import Objective

from .. import learned, options
from ..errors import InterruptionError, exit_code, explained
from ..printing import messages
from .data import Source
from .engine import Choice
from .settings import Settings

_TIMEOUT = 300.0  # s
_UNROLLED = ("mapem-net", "fbsem-net", "bcd-net", "em-net", "osem-varnet", "transem", "post-unet")
"""The networks that see data through the likelihood alone, so that these may be anywhere."""


@contextmanager
def joined(settings: Settings, advice: Callable[[], str]) -> Iterator[RankGroup]:
    """Join torchrun's ranks, alone where there are none; of errors that end the run one rank speaks.

    advice : how to go on where a rank is lost.
    """
    wanted = settings.run.rank_timeout
    if ranks_of_job()[1] == 1:
        if wanted is not None:
            _refuse("rank_timeout", "it is used where torchrun starts several ranks only")
        yield ALONE
        return
    learned.require("torch")
    with join_ranks(settings.run.device, timeout=wanted or _TIMEOUT) as ranks:
        try:
            yield ranks
        except BaseException as error:
            _end(ranks, error, advice)


def check(settings: Settings, choice: Choice, source: Source, ranks: RankGroup) -> None:
    """Raise typer.BadParameter, which names the option, for what several ranks cannot do together."""
    if ranks.size == 1:
        return
    name, files = choice.name, settings.output
    one = "start it without torchrun, in one process"
    if name in METHODS and METHODS[name].joint:
        _refuse("method", f"{name} does not run on several ranks; {one}")
    if choice.is_learned and name not in _UNROLLED:
        what = "fits its network to the scan" if name in learned.DEEP_PRIORS else "needs all data in one place"
        _refuse("method", f"{name} {what}, and does not run on several ranks; {one}")
    if files.uncertainty is not None:
        _refuse("uncertainty", f"the map of uncertainty is not made on several ranks; {one}")
    if files.checkpoint is not None and name in ("spdhg", "pdhg"):
        _refuse("checkpoint", f"{name} remembers data that are spread over the ranks, and cannot be saved; {one}")
    if isinstance(source, BedScan) and settings.data.beds == "joint":
        _refuse("beds", f"beds in one likelihood do not run on several ranks; {one}, or stitch the beds")


def of_rank(settings: Settings, ranks: RankGroup) -> Settings:
    """Return the settings of a rank: only the first one prints."""
    if ranks.rank == 0:
        return settings
    return settings.model_copy(update={"run": settings.run.model_copy(update={"quiet": True})})


def require_same_checkpoint(keeper: Checkpoint | None, ranks: RankGroup) -> None:
    """Raise ValueError where ranks do not see the first one's checkpoint."""
    if keeper is None:
        return
    path = Path(keeper.path)
    found = f"{path.stat().st_size} bytes" if path.exists() else "no file"
    ranks.require_same(found, f"{path} must be in a folder that all ranks see")


class Followed:
    """Computes the objective with the first rank, which logs it."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, iterate: Iterate) -> None:
        """Look at an iterate as the log of the first rank does."""
        self.objective(iterate.image)


def _end(ranks: RankGroup, error: BaseException, advice: Callable[[], str]) -> NoReturn:
    """Raise the error on the one rank that speaks, and leave in silence on the others."""
    watch = ranks.watch
    assert watch is not None
    if isinstance(error, InterruptionError):  # by hand, by the system, or by torchrun because a rank is lost
        reason = watch.reason or watch.said()
        if reason is None:
            gone = watch.lost()
            reason = str(ranks.loss()) if gone else None
        if reason is not None:
            error = LostRankError(reason)
    if isinstance(error, LostRankError):
        error = LostRankError(f"{error}; the other ranks have ended; {advice()}")
    code = getattr(error, "exit_code", None) or exit_code(error)
    if not isinstance(error, typer.Exit) and watch.claim():
        if ranks.rank == 0 or isinstance(error, (LostRankError, InterruptionError)):
            raise error
        messages().print(f"emrecon: rank {ranks.rank} of {ranks.size}: {explained(error)}")
    raise typer.Exit(int(code)) from error


def _refuse(name: str, why: str) -> NoReturn:
    raise typer.BadParameter(why, param_hint=options.option_of(name))
