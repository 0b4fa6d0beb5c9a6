"""The training loop: one function to read, with checkpoints that resume exactly, validation, averaging and logs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from emrecon import recon
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.progress import Stage, finish, step

from ..networks.reconstructor import networks_of
from .distributed import average_gradients, broadcast_weights, mean_over_ranks, of_first_rank, rank_and_size
from .losses import Case, applied
from .names import load_plain, plain_names, unwrapped
from .pace import Pace, ahead
from .records import (
    BEST,
    CHECKPOINT,
    Row,
    Weights,
    check_progress,
    plot_log,
    read_checkpoint,
    write_checkpoint,
    write_log,
)

Raw = TypeVar("Raw")
Batch = TypeVar("Batch")

Batches = Callable[[int], Iterable[Batch]]
Objective = Callable[[nn.Module, Batch, torch.Generator], torch.Tensor]
Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Settings:
    """What a training run does, apart from model, data, loss, optimiser and schedule.

    Args:
        steps : of the optimiser, in all.
        validate_every : steps between records.
        clip : largest norm of all gradients together; None for no limit.
        ema : decay d of the averaged weights e <- d_t e + (1 - d_t) w with d_t = min(d, (1 + t) / (10 + t)) after step
            t; validated and kept in the place of the weights. None for no average.
        precision : torch.bfloat16 or torch.float16 inside the networks; None for that of the weights.
        watch : the metric that says which weights are best; "loss" for that of the training.
        maximise : larger is better.
        patience : stop after so many validations in a row without a better one.
        seed : of the random numbers of every step.
        folder : where checkpoint.pt, best.pt, log.csv, log.json and curves.png go; None writes nothing. A folder with a
            checkpoint is resumed.
        save_seconds : how often the checkpoint is written between records.
        signature : any text that must be the same when resuming, such as the fingerprint of the data.
        pictures : whether curves.png is drawn at the end.

    Raises ValueError for numbers out of range.
    """

    steps: int
    validate_every: int = 500
    clip: float | None = None
    ema: float | None = None
    precision: torch.dtype | None = None
    watch: str = "nrmse"
    maximise: bool = False
    patience: int | None = None
    seed: int = 0
    folder: str | os.PathLike[str] | None = None
    save_seconds: float = 60.0
    signature: str = ""
    pictures: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.validate_every < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError("Settings: steps, validate_every and patience must be at least 1")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Settings: clip must be positive, got {self.clip}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"Settings: ema must be at least 0 and below 1, got {self.ema}")
        if self.precision not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"Settings: precision is torch.bfloat16, torch.float16 or None, got {self.precision}")
        if self.seed < 0:
            raise ValueError(f"Settings: a seed is a non-negative integer, got {self.seed}")


class Record(NamedTuple):
    """Where a training stands: means since the last record, the metrics, and the weights that have them.

    `samples_per_second` are those of all processes since the last record, and `data_share` is the part of that time in
    which the training waited for its data; validation counts for neither.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    metrics: Mapping[str, float]
    improved: bool
    weights: Weights
    samples_per_second: float = math.nan
    data_share: float = math.nan


def train(
    model: nn.Module,
    batches: Batches[Batch],
    loss: Objective[Batch],
    optimiser: torch.optim.Optimizer,
    settings: Settings,
    *,
    schedule: LRScheduler | None = None,
    validate: Validate | None = None,
    networks: Sequence[nn.Module] | None = None,
) -> Iterator[Record]:
    """Train a model in place and yield a `Record` every `validate_every` steps and at the last one.

    Args:
        batches : epoch -> the batches of that epoch, a pure function of the epoch (`by_epoch` makes one of a loader).
        loss : (model, batch, generator) -> one number, such as `Supervised(mse)`; the mean over the items of the batch.
        schedule : stepped after every step, such as `warmup_cosine`.
        validate : model -> metrics, such as `Validation(pairs)`; run without gradients and in eval mode.
        networks : the modules that `precision` is for (default: model.networks, see `Reconstructor`). Everything else,
            projections and EM steps included, stays in the precision of the images.

    A run that was killed, at any moment, ends with the same weights bit for bit when the same script runs again (on one
    kind of machine, with the same number of threads and deterministic kernels): data follow the epoch, random numbers
    (seed, step, rank), and the rest is in the checkpoint. torch's global random state is left as it was outside of the
    steps. Leaving the loop, or Ctrl-C, leaves the last checkpoint valid.
    Under torch.distributed every rank calls this with its own batches: gradients are averaged, buffers (the running
    means of batch normalisation) are those of the first rank, all ranks validate; recorded are the mean loss of all
    ranks and the first one's metrics, and it writes the files, in a folder that all ranks see.

    Raises FloatingPointError for a loss or gradient that is not finite, and ValueError for an epoch without batches, a
    metric to watch that is not there, a checkpoint that is damaged or of another run, an optimiser that holds none of
    the model's parameters, a schedule of another optimiser, and `networks` that are not in the model.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    _check_parts(model, parameters, optimiser, schedule, networks)
    buffers = [w for w in model.state_dict(keep_vars=True).values() if not isinstance(w, nn.Parameter)]
    device = parameters[0].device
    rank, n_ranks = rank_and_size()
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == torch.float16)
    inner = _networks(model, networks) if settings.precision else []
    run = _Run(unwrapped(model), optimiser, schedule, scaler, settings, n_ranks)
    run.resume()
    work = Stage("training", settings.steps, done=run.step, before=run.step)
    broadcast_weights(model.state_dict().values())
    try:
        while not run.finished:
            for batch in run.pace.timed(_unused(batches, run.epoch, run.batch)):
                started = time.perf_counter()
                model.train()
                optimiser.zero_grad(set_to_none=True)
                randomness = random_step(settings.seed, run.step, rank, device)
                with randomness as generator, mixed_precision(inner, settings.precision):
                    value = loss(model, batch, generator)
                    scaler.scale(value).backward()
                average_gradients(parameters)
                broadcast_weights(buffers)
                scaler.unscale_(optimiser)
                norm = nn.utils.clip_grad_norm_(parameters, settings.clip or math.inf)
                run.require_finite(value, norm)
                scaler.step(optimiser)
                before = scaler.get_scale()
                scaler.update()
                if schedule is not None and scaler.get_scale() >= before:  # or float16 has skipped this step
                    schedule.step()
                run.after_step(batch, value, norm, time.perf_counter() - started)
                if rank == 0:
                    work.note = f"loss {run.sums[0] / run.sums[2]:.4g}, {run.pace}"
                    step(work)

                if run.step % settings.validate_every == 0 or run.step == settings.steps:
                    metrics = {}
                    with weights_in(run.model, run.average), torch.no_grad():
                        if validate is not None:
                            model.eval()
                            metrics = of_first_rank({name: float(m) for name, m in validate(model).items()})
                        record = run.record(metrics)
                    if rank == 0:
                        run.save()
                    yield record
                    if run.finished:
                        break
                elif rank == 0 and run.is_due:
                    run.save()
            else:
                run.next_epoch()
    except BaseException:
        with suppress(OSError, ValueError):  # the picture must not hide why the training ends
            run.draw_on(rank)
        raise
    finally:
        finish(work)
    run.draw_on(rank)


@dataclass
class _Run:
    """All that changes during a training, and how it goes to the checkpoint and back."""

    model: nn.Module  # as it is inside torch.compile and the like
    optimiser: torch.optim.Optimizer
    schedule: LRScheduler | None
    scaler: torch.amp.GradScaler
    settings: Settings
    n_ranks: int
    step: int = 0
    epoch: int = 0
    batch: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # losses, norms, how many since the last record
    seconds: float = 0.0
    best: float | None = None
    waited: int = 0
    rows: list[Row] = field(default_factory=list)
    average: Weights | None = None
    best_weights: Weights | None = None
    written: list[Row] = field(default_factory=list)  # rows that the log has
    saved: float = field(default_factory=time.perf_counter)
    pace: Pace = field(default_factory=Pace)

    _COUNTED = ("step", "epoch", "batch", "sums", "seconds", "best", "waited", "rows")

    def __post_init__(self) -> None:
        self.pace.n_ranks = self.n_ranks
        if self.settings.ema is not None:
            self.average = {name: w.detach().clone() for name, w in self.model.state_dict().items()}

    @property
    def finished(self) -> bool:
        patience = self.settings.patience
        return self.step >= self.settings.steps or (patience is not None and self.waited >= patience)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def is_due(self) -> bool:
        return time.perf_counter() - self.saved >= self.settings.save_seconds

    @property
    def folder(self) -> Path | None:
        return None if self.settings.folder is None else Path(self.settings.folder)

    def require_finite(self, value: torch.Tensor, norm: torch.Tensor) -> None:
        loss, size = float(value.detach()), float(norm)
        # infinite scaled gradients are how float16's scaler finds its scale
        if not math.isfinite(loss) or not (self.scaler.is_enabled() or math.isfinite(size)):
            raise FloatingPointError(
                f"step {self.step + 1}: loss {loss:g}, gradient norm {size:g}: the training diverged; a "
                "smaller learning rate, a warm-up or clip= may help, and the weights are those before this step"
            )

    def after_step(self, batch: object, value: torch.Tensor, norm: torch.Tensor, seconds: float) -> None:
        self.pace.after_step(batch, seconds)
        self.step += 1
        self.batch += 1
        self.seconds += seconds
        self.sums = [a + b for a, b in zip(self.sums, (float(value.detach()), float(norm), 1.0))]
        if self.average is not None:
            assert self.settings.ema is not None
            update_average(self.average, self.model, self.settings.ema, self.step)

    def next_epoch(self) -> None:
        if self.batch == 0:
            raise ValueError(f"batches({self.epoch}) is empty: is it a generator that has been used up?")
        self.epoch, self.batch = self.epoch + 1, 0

    def record(self, metrics: Mapping[str, float]) -> Record:
        settings = self.settings
        losses, norms, n = self.sums
        loss = mean_over_ranks(losses / n, self.device)
        seen = {"loss": loss, **metrics}
        watch = settings.watch if metrics else "loss"
        if watch not in seen:
            raise ValueError(f"Settings.watch is {watch!r}, but validation gives {', '.join(sorted(metrics))}")
        sign = -1 if settings.maximise and watch != "loss" else 1
        last = self.best
        improved = last is None or math.isnan(last) or sign * seen[watch] < sign * last
        self.best, self.waited = (seen[watch], 0) if improved else (self.best, self.waited + 1)
        self.sums = [0.0, 0.0, 0.0]
        weights = plain_names({name: w.detach().clone() for name, w in self.model.state_dict().items()})
        rate = float(self.optimiser.param_groups[0]["lr"])
        speed = self.pace.samples_per_second, self.pace.data_share
        record = Record(self.step, self.epoch, loss, rate, norms / n, self.seconds, metrics, improved, weights, *speed)
        self.pace.reset()
        row = {name: getattr(record, name) for name in (*Record._fields[:6], *Record._fields[-2:])}
        self.rows.append(row | dict(metrics) | {"improved": improved})
        if improved:
            self.best_weights = weights
        return record

    def save(self) -> None:
        self.saved = time.perf_counter()
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = {"model": self.model, "optimiser": self.optimiser, "schedule": self.schedule, "scaler": self.scaler}
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items() if part is not None}
        state["model"] = plain_names(state["model"])
        average = None if self.average is None else plain_names(self.average)
        counted = {name: getattr(self, name) for name in self._COUNTED}
        kept = {"average": average, "best_weights": self.best_weights, "signature": self._signature()}
        write_checkpoint(self.folder / CHECKPOINT, state | counted | kept)
        self._write_results()

    def _write_results(self) -> None:
        """Make of what the checkpoint holds the files that others read, so that they say the same."""
        if self.folder is not None and self.rows and self.rows != self.written:
            if self.best_weights is not None and (not self.written or self.rows[-1]["improved"]):
                write_checkpoint(self.folder / BEST, self.best_weights)
            write_log(self.folder, self.rows)
            self.written = list(self.rows)

    def resume(self) -> None:
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return
        path = self.folder / CHECKPOINT
        state = read_checkpoint(path)
        expected = self._signature()
        if state.get("signature") != expected:
            raise ValueError(
                f"{path} belongs to another run ({_difference(state.get('signature'), expected)}); use another folder"
            )
        try:
            self._restore(state)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise FormatError(f"{path} is not a checkpoint of a training, or is damaged: {error}") from error
        if rank_and_size()[0] == 0:
            self._write_results()  # a run that was killed between its files leaves them different

    def _restore(self, state: Mapping[str, Any]) -> None:
        counted = {name: state[name] for name in self._COUNTED}
        check_progress(counted)
        load_plain(self.model, state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            kept = plain_names(state["average"])
            names = dict(zip(self.average, plain_names(self.average)))
            self.average = {name: kept[names[name]].to(old.device) for name, old in self.average.items()}
        self.best_weights = state.get("best_weights")  # which checkpoints of 0.2.0 do not have
        for name, value in counted.items():
            setattr(self, name, value)

    def draw_on(self, rank: int) -> None:
        if rank == 0 and self.folder is not None and self.rows and self.settings.pictures:
            plot_log(self.folder)

    def _signature(self) -> dict[str, str]:
        settings = self.settings
        weights = plain_names(self.model.state_dict())
        shapes = {name: (str(w.dtype), tuple(w.shape)) for name, w in weights.items()}
        same = ("validate_every", "clip", "ema", "precision", "watch", "maximise", "seed", "signature")
        return {name: repr(getattr(settings, name)) for name in same} | {
            "model": repr(shapes),
            "optimiser": type(self.optimiser).__name__,
            "schedule": type(self.schedule).__name__,
            "ranks": str(self.n_ranks),
        }


# ---- data and validation ---------------------------------------------------------------------------------------------


@overload
def by_epoch(loader: Iterable[Batch], *, n_ahead: int = 0) -> Batches[Batch]: ...
@overload
def by_epoch(loader: Iterable[Raw], prepare: Callable[[Raw], Batch], *, n_ahead: int = 0) -> Batches[Batch]: ...
def by_epoch(
    loader: Iterable[object], prepare: Callable[..., object] = lambda batch: batch, *, n_ahead: int = 0
) -> Batches[object]:
    """Return epoch -> batches of a loader with `loader.batch_sampler.set_epoch` (or of its sampler).

    Args:
        prepare : makes of each batch what the loss takes, such as a likelihood and a target.
        n_ahead : so many batches are loaded and prepared by a thread while the network learns from those before.

    Raises TypeError for a loader whose order is not a function of the epoch: its runs could not be resumed exactly.
    """
    samplers: list[object] = [getattr(loader, name, None) for name in ("batch_sampler", "sampler")]
    sampler = next((sampler for sampler in samplers if hasattr(sampler, "set_epoch")), None)
    if sampler is None:
        raise TypeError(f"by_epoch needs a sampler with set_epoch(epoch), which {type(loader).__name__} does not have")
    return _Epochs(loader, prepare, sampler, n_ahead)


@dataclass(frozen=True)
class _Epochs:
    """The batches of a loader by epoch, all of them or those after some that have been used."""

    loader: Iterable[object]
    prepare: Callable[..., object]
    sampler: Any
    n_ahead: int = 0

    def __call__(self, epoch: int) -> Iterator[object]:
        return self.after(epoch, 0)

    def after(self, epoch: int, used: int) -> Iterator[object]:
        """Return the batches of an epoch without the first ones, which are not even read where the sampler can skip."""
        self.sampler.set_epoch(epoch)
        if hasattr(self.sampler, "skip"):
            self.sampler.skip, used = used, 0
        return ahead(map(self.prepare, islice(self.loader, used, None)), self.n_ahead)


@dataclass(frozen=True)
class Mapped(Generic[Raw, Batch]):
    """epoch -> what a function makes of each batch of an epoch; batches that have been used are not made again.

    Args:
        batches : epoch -> batches.
        made : of each, one batch after the other.
    """

    batches: Batches[Raw]
    made: Callable[[Raw], Batch]

    def __call__(self, epoch: int) -> Iterator[Batch]:
        return self.after(epoch, 0)

    def after(self, epoch: int, used: int) -> Iterator[Batch]:
        """Return the batches of an epoch without the first ones."""
        return map(self.made, _unused(self.batches, epoch, used))


def _unused(batches: Batches[Batch], epoch: int, used: int) -> Iterable[Batch]:
    """The batches of an epoch after the first ones."""
    if isinstance(batches, (_Epochs, Mapped)):
        return batches.after(epoch, used)  # type: ignore[return-value]
    return islice(batches(epoch), used, None)


@dataclass(frozen=True)
class Validation:
    """Means over items of NRMSE, PSNR (dB) and SSIM of the images that a model returns for held-out data.

    Args:
        pairs : (arguments, target) batches as `Supervised` takes them, a sequence or a function that returns them.
        dimensions : how many trailing axes make one image.

    Peak and range are those of each target; see `recon.nrmse`, `recon.psnr`, `recon.ssim`.
    """

    pairs: Sequence[Case] | Callable[[], Iterable[Case]]
    dimensions: int = 3

    def __call__(self, model: nn.Module) -> dict[str, float]:
        values: dict[str, list[torch.Tensor]] = {"nrmse": [], "psnr": [], "ssim": []}
        for arguments, target, *_ in self.pairs() if callable(self.pairs) else self.pairs:
            image = applied(model, arguments)
            for name, metric in (("nrmse", recon.nrmse), ("psnr", recon.psnr), ("ssim", recon.ssim)):
                values[name].append(metric(image, target, dimensions=self.dimensions).reshape(-1))
        if not values["nrmse"]:
            raise ValueError(
                "Validation has no pairs; is it a generator that has been used up? Give a list or a function"
            )
        return {name: float(torch.cat(parts).mean()) for name, parts in values.items()}


# ---- parts of the loop, each usable by itself ------------------------------------------------------------------------


@contextmanager
def random_step(seed: int, step: int, rank: int, device: torch.device) -> Iterator[torch.Generator]:
    """Inside, torch's global random numbers and the given generator depend on (seed, step, rank); afterwards torch's
    are as they were.

    So dropout and losses that draw need no saved state to be resumed.
    """
    here, own = (int(word) for word in np.random.SeedSequence((seed, step, rank)).generate_state(2, np.uint64))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(here)
        for gpu in devices:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(here)
        yield torch.Generator().manual_seed(own)


@contextmanager
def mixed_precision(networks: Iterable[nn.Module], precision: torch.dtype | None) -> Iterator[None]:
    """Inside, these modules compute under autocast and return float32; nothing around them does.

    Sums over a whole scan or image lose counts in 8 or 11 bits, so projections are never part of it.
    """
    with ExitStack() as stack:
        for network in {id(network): network for network in networks}.values() if precision else ():
            own, replaced = network.forward, "forward" in vars(network)
            network.forward = _under_autocast(own, precision)
            if replaced:  # by whoever compiled or wrapped it
                stack.callback(setattr, network, "forward", own)
            else:
                stack.callback(delattr, network, "forward")
        yield


def _under_autocast(forward: Callable[..., torch.Tensor], precision: torch.dtype | None) -> Callable[..., torch.Tensor]:
    def run(x: torch.Tensor, *arguments: object, **named: object) -> torch.Tensor:
        with torch.autocast(x.device.type, dtype=precision):
            made = forward(x, *arguments, **named)
        return made.to(x.dtype) if isinstance(made, torch.Tensor) else tuple(part.to(x.dtype) for part in made)

    return run


def _check_parts(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    schedule: LRScheduler | None,
    networks: Sequence[nn.Module] | None,
) -> None:
    """Refuse what would train nothing, or have no effect, for all steps."""
    who = type(unwrapped(model)).__name__
    if not parameters:
        raise ValueError(f"train: {who} has no parameters that require gradients")
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    if not any(id(p) in held for p in parameters):
        raise ValueError(
            f"train: the optimiser holds none of the parameters of {who} that require gradients, so that nothing would "
            "be learned; make it of this model: Adam(model.parameters(), rate), after moving or loading the model"
        )
    if schedule is not None and schedule.optimizer is not optimiser:
        raise ValueError("train: the schedule belongs to another optimiser, whose learning rate it would change")
    strangers = [n for n in networks or () if not any(n is part or n is unwrapped(part) for part in model.modules())]
    if strangers:
        raise ValueError(f"train: networks holds {type(strangers[0]).__name__}, which is not a part of {who}")


def _networks(model: nn.Module, networks: Sequence[nn.Module] | None) -> list[nn.Module]:
    found = networks_of(unwrapped(model)) if networks is None else list(networks)
    if networks is None and not found:
        raise ValueError(
            f"precision is for the networks inside {type(model).__name__}, which has no .networks; pass networks=[...]"
            ", or networks=[model] where the model is a network as a whole"
        )
    return found


@torch.no_grad()
def update_average(average: Weights, model: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards those after step t: e <- d e + (1 - d) w with d = min(decay, (1 + t) / (10 + t)).

    Integer buffers are copied.
    """
    d = min(decay, (1 + step) / (10 + step))
    for name, w in model.state_dict().items():
        if w.is_floating_point():
            average[name].lerp_(w, 1 - d)
        else:
            average[name].copy_(w)


@contextmanager
def weights_in(model: nn.Module, weights: Weights | None) -> Iterator[None]:
    """Within: the model has these weights; afterwards its own again. None changes nothing."""
    if weights is None:
        yield
        return
    own = {name: w.detach().clone() for name, w in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)


def _difference(found: object, expected: Mapping[str, str]) -> str:
    if not isinstance(found, dict):
        return "it has no signature"
    names = [name for name in expected if found.get(name) != expected[name]]
    return "; ".join(f"{name}: {_short(found.get(name))} there, {_short(expected[name])} here" for name in names)


def _short(text: object) -> str:
    return str(text) if len(str(text)) <= 80 else f"{str(text)[:77]}..."
