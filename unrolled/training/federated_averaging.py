"""Federated averaging: sites train on their own scans, and what they share is weights (FedAvg, FedProx)."""

from __future__ import annotations

import copy
import fnmatch
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.progress import tracked

from .distributed import rank_and_size
from .loop import Batches, Objective, Settings, Validate, train
from .names import load_plain, plain_names, unwrapped
from .records import BEST, CHECKPOINT, Row, Weights, plot_log, read_checkpoint, write_checkpoint, write_log

_SERVER = "server.pt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Site:
    """A hospital of a federation: its scans stay there.

    Args:
        name : of plain letters; also that of its folder.
        batches : epoch -> batches of its own scans.
        n : how many scans it has: its weight in the average.
        loss : of its own, in place of that of the federation.

    Raises ValueError for another name and for less than one scan.
    """

    name: str
    batches: Batches[Any]
    n: int
    loss: Objective[Any] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a site's name is made of letters, digits and . _ + -, got {self.name!r}")
        if self.n < 1:
            raise ValueError(f"site {self.name!r} needs a scan at least, got n = {self.n}")


@dataclass(frozen=True)
class Federation:
    """How sites train together.

    Args:
        rounds : of local training and averaging.
        local_steps : of the optimiser, at every site, in a round.
        proximal : mu of FedProx: the local loss has (mu / 2) ``|w - w_global|^2`` beside it, w the weights that are
            learned; 0 is FedAvg.
        local : patterns of names of weights and buffers that stay at each site and are not shared, such as
            "*running_*" for the statistics of batch normalisation, or "*.norm*" (FedBN, Li et al. 2021). What the
            federation hands out, validates and keeps holds the averages of these as well.
        optimiser : whether each site keeps the memory of its optimiser (moments, momentum) from round to round or
            begins anew, "keep" or "reset".
        clip : largest norm of all gradients together; None for no limit.
        precision : as in `Settings`.
        watch, maximise : the metric that says which round is best; "loss" for that of the sites.
        seed : of the random numbers of every site and step.
        folder : where the weights of the rounds, the log and the sites' checkpoints go; a folder with them is resumed.
            None writes nothing that stays.
        signature : any text that must be the same when resuming.

    Raises ValueError for numbers out of range.
    """

    rounds: int
    local_steps: int
    proximal: float = 0.0
    local: tuple[str, ...] = ()
    optimiser: Literal["keep", "reset"] = "keep"
    clip: float | None = None
    precision: torch.dtype | None = None
    watch: str = "nrmse"
    maximise: bool = False
    seed: int = 0
    folder: str | os.PathLike[str] | None = None
    signature: str = ""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.local_steps < 1:
            raise ValueError(
                f"a Federation has a round and a local step at least, got {self.rounds} and {self.local_steps}"
            )
        if not 0 <= self.proximal < math.inf:
            raise ValueError(f"Federation: proximal must be 0 or more, got {self.proximal}")
        if self.optimiser not in ("keep", "reset"):
            raise ValueError(f'Federation: optimiser must be "keep" or "reset", got {self.optimiser!r}')

    def describe(self) -> str:
        """Return what must be the same when a run goes on."""
        return (
            f"{self.local_steps} steps, proximal {self.proximal:g}, local {list(self.local)}, {self.optimiser}, "
            f"seed {self.seed}; {self.signature}"
        )


class RoundRecord(NamedTuple):
    """Where a federation stands: losses of the sites, metrics and weights of the average, and what each site keeps."""

    round: int
    step: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    improved: bool
    seconds: float
    weights: Weights
    own: Mapping[str, Weights]


def federated(
    model: nn.Module,
    sites: Sequence[Site],
    loss: Objective[Any],
    optimiser_of: Callable[[nn.Module], torch.optim.Optimizer],
    federation: Federation,
    *,
    schedule_of: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    validate: Validate | None = None,
    networks_of: Callable[[nn.Module], Sequence[nn.Module]] | None = None,
) -> Iterator[RoundRecord]:
    """Train a model in place by federated averaging, and yield a record after every round::

        every site k:   w_k <- local_steps of `train` from w, on its own scans
        the server:     w   <- sum_k n_k w_k / sum_k n_k

    All that leaves a site are weights and buffers. Sites learn one after the other in this process, each by the one
    loop: with its own epochs, random numbers, optimiser and schedule over rounds x local_steps steps. With one site and
    `optimiser="keep"` the result is that of plain training, bit for bit.

    Weights and buffers are averaged alike, in float64, but for batch normalisation: the running mean is the average,
    and the running variance that of all sites together, the average of variances plus the variance of means. Integers
    (the number of batches seen) become the largest. `federation.local` says what is not shared.

    A run that was killed, at any moment, ends with the same weights when the same script runs again: the server's file
    holds the average, every site's checkpoint where it was.

    Args:
        sites : with different scanners, counts, tracers, ...: any batches that the loss takes.
        loss : (model, batch, generator) -> one number; a site may have its own.
        optimiser_of : model -> its optimiser, the same kind at all sites.
        schedule_of : optimiser -> its schedule, over rounds x local_steps.
        validate : model -> metrics of the average, after every round.
        networks_of : model -> modules that `precision` is for (default: model.networks).

    Raises ValueError for no sites or sites of one name, several processes, and a folder of another federation; and as
    `train` does.

    Source: McMahan, Moore, Ramage, Hampson & Aguera y Arcas 2017; Li et al. 2020 (FedProx).
    """
    names = [site.name for site in sites]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"federated needs sites with names of their own, got {names}")
    if rank_and_size()[1] > 1:
        raise ValueError("federated runs in one process; its sites learn one after the other")
    server = _Server(unwrapped(model), tuple(sites), federation)
    with _folder(federation.folder) as folder:
        server.resume(folder)
        worker = copy.deepcopy(unwrapped(model))
        for number in tracked(range(server.round, federation.rounds), "rounds"):
            started, losses = time.perf_counter(), {}
            for k, site in enumerate(sites):
                losses[site.name] = _local(
                    server, k, worker, folder / site.name, loss, optimiser_of, schedule_of, networks_of
                )
            server.average([_weights_of(folder / site.name) for site in sites])
            load_plain(model, server.weights)
            metrics: Mapping[str, float] = {}
            if validate is not None:
                model.eval()
                with torch.no_grad():
                    metrics = {name: float(m) for name, m in validate(model).items()}
            record = server.record(number + 1, losses, metrics, time.perf_counter() - started)
            server.save(folder)
            for site in sites:
                server.hand_out(folder / site.name, site.name)
            yield record
        load_plain(model, server.weights)
        if federation.folder is not None and server.rows:
            plot_log(folder)


@dataclass
class _Server:
    """What the server of a federation knows: the average, the round, and how good it was."""

    model: nn.Module
    sites: tuple[Site, ...]
    federation: Federation
    round: int = 0
    rows: list[Row] = field(default_factory=list)
    best: float | None = None
    best_weights: Weights | None = None
    weights: Weights = field(default_factory=dict)
    own: dict[str, Weights] = field(default_factory=dict)  # what stays at each site

    def __post_init__(self) -> None:
        self.weights = _copied(self.model)
        unknown = [p for p in self.federation.local if not fnmatch.filter(list(self.weights), p)]
        if unknown:
            some = ", ".join(list(self.weights)[:4])
            raise ValueError(f"Federation: nothing in the network is called {unknown[0]!r}; it has {some}, ...")

    @property
    def total(self) -> int:
        """All scans."""
        return sum(site.n for site in self.sites)

    def average(self, found: Sequence[Weights]) -> None:
        """Make the average of the sites' weights, and keep what stays at each."""
        shares = [site.n / self.total for site in self.sites]
        held = [name for p in self.federation.local for name in fnmatch.filter(list(self.weights), p)]
        self.own = {s.name: {name: weights[name] for name in held} for s, weights in zip(self.sites, found)}
        self.weights = averaged(found, shares)

    def record(
        self, number: int, losses: Mapping[str, float], metrics: Mapping[str, float], seconds: float
    ) -> RoundRecord:
        mean = sum(site.n * losses[site.name] for site in self.sites) / self.total
        seen = {"loss": mean, **metrics}
        watch = self.federation.watch if metrics else "loss"
        if watch not in seen:
            raise ValueError(f"Federation.watch is {watch!r}, but validation gives {', '.join(sorted(metrics))}")
        sign = -1 if self.federation.maximise and watch != "loss" else 1
        last = self.best
        improved = last is None or math.isnan(last) or sign * seen[watch] < sign * last
        if improved:
            self.best, self.best_weights = seen[watch], dict(self.weights)
        self.round, step = number, number * self.federation.local_steps
        by_site = {f"loss of {name}": value for name, value in losses.items()}
        self.rows.append({"step": step, "epoch": number, **seen, **by_site, "seconds": seconds, "improved": improved})
        return RoundRecord(number, step, losses, metrics, improved, seconds, dict(self.weights), self.own)

    def start_of(self, name: str) -> Weights:
        """Return what a site begins its round with: the average, and what stays there."""
        return {**self.weights, **self.own.get(name, {})}

    def hand_out(self, folder: Path, name: str) -> None:
        """Put the average in the place of the weights of a site's checkpoint; again and again is as good as once."""
        state = read_checkpoint(folder / CHECKPOINT)
        if state["step"] != self.round * self.federation.local_steps:
            return
        state["model"] = self.start_of(name)
        if self.federation.optimiser == "reset":
            state["optimiser"] = {**state["optimiser"], "state": {}}
        write_checkpoint(folder / CHECKPOINT, state)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        kept = {name: getattr(self, name) for name in ("round", "rows", "best", "best_weights", "weights", "own")}
        write_checkpoint(folder / _SERVER, kept | {"signature": self._signature()})
        self._write_results(folder)

    def _write_results(self, folder: Path) -> None:
        if self.best_weights is not None:
            write_checkpoint(folder / BEST, self.best_weights)
        if self.rows:
            write_log(folder, self.rows)

    def resume(self, folder: Path) -> None:
        path = folder / _SERVER
        if not path.exists():
            return
        state = read_checkpoint(path)
        here, there = self._signature(), state.get("signature")
        if there != here:
            raise ValueError(f"{path} belongs to another federation ({there} there, {here} here); use another folder")
        try:
            for name in ("round", "rows", "best", "best_weights", "weights", "own"):
                setattr(self, name, state[name])
            load_plain(self.model, self.weights)
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{path} is not the file of a federation, or is damaged: {error}") from error
        self._write_results(folder)
        for site in self.sites:
            if (folder / site.name / CHECKPOINT).exists():
                self.hand_out(folder / site.name, site.name)

    def _signature(self) -> str:
        sites = ", ".join(f"{site.name} {site.n}" for site in self.sites)
        return f"sites {sites}; {self.federation.describe()}"


def _local(
    server: _Server,
    k: int,
    worker: nn.Module,
    folder: Path,
    loss: Objective[Any],
    optimiser_of: Callable[[nn.Module], torch.optim.Optimizer],
    schedule_of: Callable[[torch.optim.Optimizer], LRScheduler] | None,
    networks_of: Callable[[nn.Module], Sequence[nn.Module]] | None,
) -> float:
    """Train one site for a round, or go on with it, and return its mean loss."""
    federation, site = server.federation, server.sites[k]
    n = federation.local_steps
    load_plain(worker, server.start_of(site.name))  # a checkpoint, where there is one, has its own
    optimiser = optimiser_of(worker)
    settings = Settings(
        (server.round + 1) * n,
        n,
        federation.clip,
        precision=federation.precision,
        seed=federation.seed + k,
        folder=folder,
        signature=f"site {site.name}; {federation.describe()}",
        pictures=False,
    )
    steps = train(
        worker,
        site.batches,
        _pulled(site.loss or loss, server.weights, federation.proximal),
        optimiser,
        settings,
        schedule=None if schedule_of is None else schedule_of(optimiser),
        networks=None if networks_of is None else networks_of(worker),
    )
    for _ in steps:
        pass
    rows: list[Row] = read_checkpoint(folder / CHECKPOINT)["rows"]
    return rows[-1]["loss"]


def _pulled(loss: Objective[Any], weights: Weights, proximal: float) -> Objective[Any]:
    """The loss of FedProx; for 0 the loss itself."""
    if proximal == 0:
        return loss

    def near(model: nn.Module, batch: Any, generator: torch.Generator) -> torch.Tensor:
        learned = {name: w for name, w in unwrapped(model).named_parameters() if w.requires_grad}
        plain = plain_names(learned)
        away = torch.stack([((w - weights[name].to(w)) ** 2).sum() for name, w in plain.items()]).sum()
        return loss(model, batch, generator) + proximal / 2 * away

    return near


def averaged(found: Sequence[Mapping[str, torch.Tensor]], shares: Sequence[float]) -> Weights:
    """Return sum_k share_k w_k of weights and buffers by name; see `federated` for batch normalisation and integers.

    Args:
        shares : that add up to 1.

    Raises ValueError for weights of different names and shapes.
    """
    first = found[0]
    if any({n: w.shape for n, w in other.items()} != {n: w.shape for n, w in first.items()} for other in found[1:]):
        raise ValueError("the weights to average have different names or shapes; are they of one network?")

    def mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([share * v.to(torch.float64) for share, v in zip(shares, values)]).sum(0)

    result: Weights = {}
    for name, w in first.items():
        each = [weights[name] for weights in found]
        if not w.is_floating_point():
            result[name] = torch.stack(each).amax(0)
            continue
        value = mean(each)
        means = name.removesuffix("running_var") + "running_mean"
        if name.endswith("running_var") and means in first:
            centre = mean([weights[means] for weights in found])
            value = value + mean([(weights[means].to(torch.float64) - centre) ** 2 for weights in found])
        result[name] = value.to(w.dtype)
    return result


def _weights_of(folder: Path) -> Weights:
    found: Weights = read_checkpoint(folder / CHECKPOINT)["model"]
    return found


def _copied(model: nn.Module) -> Weights:
    return plain_names({name: w.detach().cpu().clone() for name, w in model.state_dict().items()})


@contextmanager
def _folder(named: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder of a federation; one that does not stay where none is named."""
    if named is not None:
        yield Path(named)
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)
