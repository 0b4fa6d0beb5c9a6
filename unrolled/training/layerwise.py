"""Greedy training of unrolled networks: one module after the other, without the projector in the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from emrecon import recon
from emrecon.recon.likelihoods import Likelihood

from ..methods.unrolled_em import UnrolledEM
from ..networks.blocks import SoftThreshold, initial_thresholds
from .distributed import rank_and_size
from .loop import Objective, Record, Settings, Validation, train
from .losses import Case, applied
from .names import load_plain
from .records import read_checkpoint
from .stages import Keep, digest_of, finished

Cases = Sequence[Case] | Callable[[], Iterable[Case]]
Minibatch = (
    tuple[dict[str, torch.Tensor | None], torch.Tensor]
    | tuple[dict[str, torch.Tensor | None], torch.Tensor, torch.Tensor]
)


class LayerRecord(NamedTuple):
    """What one module became.

    Args:
        layer : n, from 0.
        loss : the mean over the last steps of its training, since the record before.
        training_nrmse, nrmse : mean over items of the NRMSE of x^(n+1), the images after this module, of the training
            and of the validation cases (None without those).
        images : x^(n+1) of every batch of training cases, on the CPU; they belong to the training until the next
            record.
        seconds : of this call for this module: training and MAP-EM steps.
    """

    layer: int
    loss: float
    training_nrmse: float
    nrmse: float | None
    images: tuple[torch.Tensor, ...]
    seconds: float


def train_layers(
    model: UnrolledEM,
    cases: Cases,
    loss: Objective[Minibatch],
    optimiser_of: Callable[[nn.Module], torch.optim.Optimizer],
    settings: Settings,
    *,
    batch_size: int = 1,
    schedule_of: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    validation: Cases | None = None,
    warm: bool = False,
    prepare: Callable[[nn.Module, Sequence[torch.Tensor]], None] | None = None,
    keep: Keep = "last",
) -> Iterator[LayerRecord]:
    """Train the denoisers of an unrolled network one after the other, in place, and yield a `LayerRecord` after each::

        D_n = argmin over D of the mean over cases of loss( D(x^(n) / c), target / c ),     c the unit of each case
        x^(n+1) = module n of x^(n):  em_fuse(EM(x^(n)), c D_n(x^(n) / c), s, beta)

    D_n learns from images alone, by `train`; every case is projected once in each module, when D_n is ready.

    Args:
        model : form="fuse", a denoiser of its own in every module, one call of it in a module, no dual variable. beta
            stays as it is, also where it could be learned. In eval mode whenever a record is yielded.
        cases : batches (arguments, target) or (arguments, target, weight) as `Supervised` takes them, a sequence or a
            function that returns them; the arguments are those of the model, such as {"likelihood": f, "guide": mr}.
            Gone through once before the first module and once after each, and must be the same every time. They start
            as the model says, or from a "start" of their own: an EM image (`initial` of the model), since a uniform one
            gives the first denoiser nothing to learn from.
        loss : (denoiser, batch, generator) -> one number, such as `Supervised(l1)`, of images divided by c.
        optimiser_of, schedule_of : denoiser -> optimiser, optimiser -> schedule, made anew for every module.
        settings : of the training of each module (`steps` in every one). Module n has the folder layer-00n in the
            folder, and random numbers of its own.
        batch_size : images in a step, from any of the cases. Their order is a function of (seed, module, epoch).
        validation : held-out cases. Within a module the denoiser alone is validated with their x^(n), so that `watch`,
            `patience` and the curves refer to this module.
        warm : every denoiser after the first starts from the weights of the one before, instead of its own.
        prepare : called as prepare(denoiser, images) before a module is trained, with the items of x^(n) / c, such as
            `first_thresholds`; after the warm start.
        keep : which weights a module ends with: the last ones or those of the best record (`settings.watch`);
            averaged ones with `settings.ema`.

    Memory: image, target, guide and weight of every training and validation case, on the CPU in their own precision, as
    long as the training lasts. float32: 64 kB for 128 x 128 pixels, 8 MB for 128^3 voxels each. Likelihoods are not
    kept. Minibatches go to the device of the denoiser, images to that of the likelihood. Images on different grids need
    batch_size=1.

    A run that was killed, at any moment, ends with the same weights when the same script runs again, on the conditions
    of `train`: finished modules are read, their images are made again (one pass each), and the next module continues
    from its checkpoint. A checkpoint of a module that followed other weights is refused.

    Raises ValueError for other networks (dual, other forms, per_subset, shared weights, nothing to train), cases that
    are empty, become fewer or do not fit together, torch.distributed with several ranks, and as `train` does.

    Source: Lim, Chun, Dewaraja & Fessler 2020, IEEE Trans Med Imaging 39:3512, and their public code: loss L1, batches
    of one, 500 epochs, Adam with rates 1e-2, 1e-3 and 1e-1 for encoder, decoder and thresholds.
    """
    _check(model, batch_size, keep)
    known = _before_first(model, cases, "cases")
    held_out = [] if validation is None else _before_first(model, validation, "validation")
    for n, denoiser in enumerate(model.denoisers):
        started = time.perf_counter()
        if warm and n > 0:
            load_plain(denoiser, model.denoisers[n - 1].state_dict())
        items = [item for batch in known for item in batch.items()]
        if prepare is not None:
            prepare(denoiser, [item.image / item.unit for item in items])
        optimiser, layer = optimiser_of(denoiser), _Layer(denoiser)
        run = train(
            layer,
            _Shuffled(items, batch_size, (settings.seed, n), _device(denoiser)),
            loss,
            optimiser,
            _settings_of(settings, model, n, f"{len(items)} images in batches of {batch_size}, warm={warm}"),
            schedule=None if schedule_of is None else schedule_of(optimiser),
            validate=_validation(held_out, batch_size, _device(denoiser)),
        )
        last = _trained(run, layer, _folder(settings, n), keep)
        model.eval()
        _apply(model, n, known, cases, "cases")
        if validation is not None:
            _apply(model, n, held_out, validation, "validation")
        images = tuple(batch.image for batch in known)
        nrmse = _nrmse(held_out) if held_out else None
        yield LayerRecord(n, last, _nrmse(known), nrmse, images, time.perf_counter() - started)


def first_thresholds(denoiser: nn.Module, images: Sequence[torch.Tensor], top: float = 0.1) -> None:
    """Set all soft thresholds of a denoiser to the intensity that a part `top` of the voxels of the mean image reach.

    BCD-Net's choice, for `prepare` of `train_layers`; see `initial_thresholds`.

    Args:
        images : (x, y, z) each, on one grid, in the unit of the denoiser.

    Raises ValueError for a denoiser without `SoftThreshold`, and as `initial_thresholds` does.
    """
    thresholds = [part for part in denoiser.modules() if isinstance(part, SoftThreshold)]
    if not thresholds:
        raise ValueError(f"first_thresholds: {type(denoiser).__name__} has no SoftThreshold whose alpha could be set")
    alpha = initial_thresholds(sum(images[1:], images[0]) / len(images), top)
    with torch.no_grad():
        for part in thresholds:
            part.alpha.fill_(alpha)


# ---- one module ------------------------------------------------------------------------------------------------------


class _Layer(nn.Module):
    """A denoiser as `train` needs it: called with the arguments in a minibatch, and listed for mixed precision."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoisers = nn.ModuleList([denoiser])  # named so in checkpoints

    @property
    def networks(self) -> list[nn.Module]:
        return list(self.denoisers)

    def forward(self, x: torch.Tensor, guide: torch.Tensor | None = None) -> torch.Tensor:
        image: torch.Tensor = self.denoisers[0](x, guide=guide)
        return image


def _settings_of(settings: Settings, model: UnrolledEM, n: int, data: str) -> Settings:
    """The settings of a module; its checkpoint belongs to the weights of those before it."""
    text = f"module {n} after {digest_of([model.denoisers[:n]])}: {data}; {settings.signature}"
    seed = int(np.random.SeedSequence((settings.seed, n)).generate_state(1)[0])
    return replace(settings, folder=_folder(settings, n), seed=seed, signature=text)


def _folder(settings: Settings, n: int) -> Path | None:
    return None if settings.folder is None else Path(settings.folder) / f"layer-{n:03d}"


def _trained(run: Iterator[Record], layer: nn.Module, folder: Path | None, keep: Keep) -> float:
    """Train a module, give it the weights to keep, and return the last loss."""
    last = 0.0
    for record in finished(run, layer, folder, keep):
        last = record.loss
    return last if folder is None else float(read_checkpoint(folder / "checkpoint.pt")["rows"][-1]["loss"])


@torch.no_grad()
def _apply(model: UnrolledEM, n: int, batches: list[_Batch], cases: Cases, name: str) -> None:
    """Replace x^(n) by x^(n+1), batch by batch."""
    passed = iter(_passed(cases))
    for batch in batches:
        arguments, *_ = next(passed, (None,))
        if arguments is None:
            raise ValueError(f"train_layers: {name} gave {len(batches)} batches at first and fewer after module {n}")
        likelihood, _, guide = applied(_arguments, arguments)
        x, unit = batch.image.to(batch.device), batch.unit.to(batch.device)
        no_dual = torch.zeros_like(x)
        x, _ = model.run_module(n, x, no_dual, model.parts_of(likelihood), unit, guide)
        batch.image = x.cpu()


def _nrmse(batches: Iterable[_Batch]) -> float:
    values = [recon.nrmse(batch.image, batch.target, dimensions=3).reshape(-1) for batch in batches]
    return float(torch.cat(values).mean())


def _validation(batches: Sequence[_Batch], size: int, device: torch.device) -> Validation | None:
    items = [item for batch in batches for item in batch.items()]
    chunks = [items[first : first + size] for first in range(0, len(items), size)]
    return Validation(lambda: (_minibatch(chunk, device) for chunk in chunks)) if items else None


# ---- the images ------------------------------------------------------------------------------------------------------


class _Item(NamedTuple):
    """What a denoiser learns from: arrays without batch axes; rest is the target and perhaps a weight."""

    image: torch.Tensor
    unit: torch.Tensor
    guide: torch.Tensor | None
    rest: tuple[torch.Tensor, ...]


@dataclass
class _Batch:
    """What stays in memory of a batch of cases: on the CPU, with its batch axes."""

    image: torch.Tensor
    unit: torch.Tensor
    guide: torch.Tensor | None
    rest: tuple[torch.Tensor, ...]
    device: torch.device

    @property
    def target(self) -> torch.Tensor:
        return self.rest[0]

    def items(self) -> Iterator[_Item]:
        n = self.image.ndim - 3
        image, unit, *rest = (part.reshape(-1, *part.shape[n:]) for part in (self.image, self.unit, *self.rest))
        guide = None if self.guide is None else self.guide.reshape(-1, *self.guide.shape[n:])
        for i in range(len(image)):
            yield _Item(image[i], unit[i], None if guide is None else guide[i], tuple(part[i] for part in rest))


@dataclass(frozen=True)
class _Shuffled:
    """epoch -> minibatches of all items, in an order of (seed, module, epoch)."""

    items: Sequence[_Item]
    size: int
    seed: tuple[int, int]
    device: torch.device

    def __call__(self, epoch: int) -> Iterator[Minibatch]:
        order = np.random.default_rng((*self.seed, epoch)).permutation(len(self.items))
        for first in range(0, len(order), self.size):
            yield _minibatch([self.items[i] for i in order[first : first + self.size]], self.device)


def _minibatch(items: Sequence[_Item], device: torch.device) -> Minibatch:
    """(arguments of a denoiser, target[, weight]), image and target divided by the unit."""
    shapes = {item.image.shape for item in items}
    if len(shapes) > 1:
        raise ValueError(f"train_layers: images of {shapes} do not fit into one minibatch; use batch_size=1")
    unit = torch.stack([item.unit for item in items]).to(device)
    x = torch.stack([item.image for item in items]).to(device) / unit
    guides = [item.guide for item in items if item.guide is not None]
    target, *weight = (torch.stack(part).to(device) for part in zip(*(item.rest for item in items)))
    arguments = {"x": x, "guide": torch.stack(guides).to(device) if guides else None}
    return (arguments, target / unit, *weight)


@torch.no_grad()
def _before_first(model: UnrolledEM, cases: Cases, name: str) -> list[_Batch]:
    batches = [_batch(model, case) for case in _passed(cases)]
    if not batches:
        raise ValueError(f"train_layers: {name} is empty; is it a generator that has been used up?")
    if len({(batch.guide is None, len(batch.rest)) for batch in batches}) > 1:
        raise ValueError(f"train_layers: either all or none of the {name} must have a guide, and likewise a weight")
    return batches


def _batch(model: UnrolledEM, case: Case) -> _Batch:
    if not isinstance(case, (tuple, list)) or len(case) not in (2, 3):
        raise ValueError("train_layers takes cases (arguments, target) or (arguments, target, weight)")
    likelihood, start, guide = applied(_arguments, case[0])
    _, unit, image = model.begin(likelihood, start)
    target, *weight = case[1:]
    if target.shape != image.shape:
        raise ValueError(
            f"train_layers: a target of {tuple(target.shape)} does not fit the images {tuple(image.shape)} of its "
            "likelihood"
        )
    return _Batch(
        image.cpu(),
        unit.cpu().expand(*image.shape[:-3], 1, 1, 1),
        None if guide is None else _expanded(guide, image, model.denoisers[0]).cpu(),
        (target.cpu(), *(w.expand(image.shape).cpu() for w in weight)),
        image.device,
    )


def _expanded(guide: torch.Tensor, image: torch.Tensor, denoiser: nn.Module) -> torch.Tensor:
    """A guide with all batch axes of its image, (..., x, y, z) or (..., channels, x, y, z) as it was."""
    channels = max((getattr(part, "guide_channels", 1) for part in denoiser.modules()), default=1)
    own = guide.shape[-4:] if channels > 1 or guide.ndim > image.ndim else guide.shape[-3:]
    return guide.expand(*image.shape[:-3], *own)


def _arguments(
    likelihood: Likelihood | Sequence[Likelihood],
    start: torch.Tensor | None = None,
    *,
    guide: torch.Tensor | None = None,
) -> tuple[Likelihood | Sequence[Likelihood], torch.Tensor | None, torch.Tensor | None]:
    return likelihood, start, guide


def _passed(cases: Cases) -> Iterable[Case]:
    return cases() if callable(cases) else cases


# ---- what cannot be trained so ---------------------------------------------------------------------------------------


def _check(model: UnrolledEM, batch_size: int, keep: str) -> None:
    if model.form != "fuse" or model.dual or model.per_subset:
        has = "a dual variable" if model.dual else "per_subset" if model.per_subset else f"form={model.form!r}"
        raise ValueError(
            f"train_layers: this network has {has}; module by module only form='fuse' without dual and per_subset "
            "can be trained, others end to end with `train`"
        )
    weights = [id(p) for denoiser in model.denoisers for p in denoiser.parameters()]
    if len(model.denoisers) != model.n_modules or len(set(weights)) != len(weights):
        raise ValueError("train_layers: modules share weights; give the network a denoiser of its own for every module")
    for n, denoiser in enumerate(model.denoisers):
        if not any(p.requires_grad for p in denoiser.parameters()):
            raise ValueError(f"train_layers: the denoiser of module {n} has no weights to train")
    if batch_size < 1:
        raise ValueError(f"train_layers: batch_size must be at least 1, got {batch_size}")
    if keep not in ("last", "best"):
        raise ValueError(f'train_layers: keep is "last" or "best", got {keep!r}')
    if rank_and_size()[1] > 1:
        raise ValueError("train_layers works in one process; torch.distributed has several ranks")


def _device(denoiser: nn.Module) -> torch.device:
    return next(denoiser.parameters()).device
