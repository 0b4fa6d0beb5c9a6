"""Training in stages: one part of a network after the other, each by the one loop, resumable at any moment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from emrecon.recon.likelihoods import Likelihood

from ..direct import Direct
from ..networks.scaling import count_scale
from ..networks.spectnet import Autoencoder, SPECTNet
from .distributed import broadcast_weights, rank_and_size
from .loop import Batches, Mapped, Objective, Record, Settings, Validate, train
from .losses import Criterion, Supervised, mse
from .names import load_plain
from .records import Weights, best_weights, read_checkpoint

Keep = Literal["last", "best"]


@dataclass(frozen=True)
class Stage:
    """One part of a staged training: a module, what it is given and shall make, and how it learns.

    Args:
        name : of the stage, and of its folder.
        module : what learns; its parameters are those of the whole network that this stage trains.
        batches : epoch -> batches, such as (arguments, target) of `Supervised`; they may use what earlier stages made.
        loss : (module, batch, generator) -> one number.
        optimiser_of, schedule_of : module -> optimiser, optimiser -> schedule, made when the stage begins.
        settings : of the loop; folder and signature are set by `train_stages`.
        validate : module -> metrics; without one watch "loss".
        keep : which weights the stage ends with, the last or those of the best record.
    """

    name: str
    module: nn.Module
    batches: Batches[Any]
    loss: Objective[Any]
    optimiser_of: Callable[[nn.Module], torch.optim.Optimizer]
    settings: Settings
    schedule_of: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    validate: Validate | None = None
    keep: Keep = "last"


class StageRecord(NamedTuple):
    """A record of the loop, and the stage that it is of."""

    stage: str
    record: Record


def train_stages(network: nn.Module, stages: Sequence[Stage]) -> Iterator[StageRecord]:
    """Train the parts of a network, stage after stage, in place, and yield the records of all.

    Each stage has the folder ``stage-0n-name`` in its settings' folder. A run that was killed, at any moment, ends with
    the same weights when the same script runs again: finished stages are read, and the next goes on from its
    checkpoint. A checkpoint that followed other weights is refused.

    Args:
        network : the whole, of which the stages train parts; what a stage begins with is all of its weights. On several
            ranks they are the first one's.

    Raises ValueError for stages of one name, and as `train` does.
    """
    broadcast_weights(network.state_dict().values())
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"train_stages needs stages with names of their own, got {names}")
    for n, stage in enumerate(stages):
        settings = _settings_of(stage, network, n)
        optimiser = stage.optimiser_of(stage.module)
        run = train(
            stage.module,
            stage.batches,
            stage.loss,
            optimiser,
            settings,
            schedule=None if stage.schedule_of is None else stage.schedule_of(optimiser),
            validate=stage.validate,
        )
        for record in finished(run, stage.module, settings.folder, stage.keep):
            yield StageRecord(stage.name, record)


def finished(run: Iterator[Record], module: nn.Module, folder: object, keep: Keep) -> Iterator[Record]:
    """Yield the records of a run to its end, then give the module the weights to keep."""
    weights: Weights = {}
    for record in run:
        weights = record.weights if keep == "last" or record.improved else weights
        yield record
    if folder is not None and rank_and_size()[0] == 0:  # all or the best of its records may be of an earlier call
        state = read_checkpoint(Path(str(folder)) / "checkpoint.pt")
        weights = best_weights(Path(str(folder))) if keep == "best" else state["average"] or state["model"]
    if weights:
        load_plain(module, weights)
    broadcast_weights(module.state_dict().values())  # the first rank's file may not yet be there for the others


def digest_of(modules: Iterable[nn.Module]) -> str:
    """Return twelve characters that are the same only for the same weights."""
    found = hashlib.sha256()
    for module in modules:
        for w in module.state_dict().values():
            found.update(w.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def _settings_of(stage: Stage, network: nn.Module, n: int) -> Settings:
    """The settings of a stage: a folder and random numbers of its own, and a checkpoint that belongs to the weights
    before it."""
    settings = stage.settings
    folder = None if settings.folder is None else Path(settings.folder) / f"stage-{n + 1:02d}-{stage.name}"
    text = f"stage {stage.name} after {digest_of([network])}; {settings.signature}"
    seed = int(np.random.SeedSequence((settings.seed, n)).generate_state(1)[0])
    return replace(settings, folder=folder, seed=seed, signature=text)


# ---- SPECTnet --------------------------------------------------------------------------------------------------------


class CodesOf(nn.Module):
    """The data encoder of SPECTnet as a network of its own: likelihood -> code, (N, code)."""

    def __init__(self, network: Direct) -> None:
        super().__init__()
        self.encoder = _body_of(network).data_encoder
        object.__setattr__(self, "_network", network)  # not a part of it: the decoder does not learn here

    @property
    def networks(self) -> list[nn.Module]:
        """The encoder."""
        return [self.encoder]

    def forward(self, likelihood: Likelihood) -> torch.Tensor:
        """Return the code of each item."""
        network: Direct = self._network
        data, beside, _ = network.inputs(likelihood)
        return _body_of(network).encode(data, beside)


def spectnet_stages(
    network: Direct,
    batches: Batches[Any],
    steps: tuple[int, int, int],
    settings: Settings,
    *,
    rate: float = 1e-4,
    decay: float = 0.0,
    loss: Criterion = mse,
    validate: Validate | None = None,
    schedule_of: Callable[[torch.optim.Optimizer, int], LRScheduler] | None = None,
) -> list[Stage]:
    """Return the three stages in which SPECTnet was trained::

        autoencoder   image / c -> code -> image / c
        codes         data and map -> the code that the autoencoder has for the image
        joint         data and map -> code -> image, both parts together

    Args:
        network : `unrolled.spectnet()`.
        batches : epoch -> (arguments, target), as `Supervised` takes them; the same for all stages.
        steps : of the three stages; published: 50, 20 and 19 epochs of 100 steps, 160 samples each.
        settings : of all; steps are replaced. Only "joint" is validated with `validate`; the others watch their loss.
        rate, decay : of Adam; published 1e-4, and an L2 factor of 0.08 on the weights.
        loss : of the images.
        schedule_of : (optimiser, steps) -> schedule of a stage.

    Source: Shao, Rowe & Du 2021, Ann Transl Med 9:820.
    """
    body = _body_of(network)

    def scaled_image(batch: Any) -> Any:
        arguments, target, *_ = batch
        image = target / count_scale(arguments["likelihood"])
        return {"x": image}, image

    def code(batch: Any) -> Any:
        autoencoder.eval()
        arguments, target, *_ = batch
        image = target / count_scale(arguments["likelihood"])
        with torch.no_grad():
            folded = image.movedim(-1, 0).reshape(-1, 1, *image.shape[-3:-1])
            return {"likelihood": arguments["likelihood"]}, body.encode_image(folded)

    def adam(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(module.parameters(), rate, weight_decay=decay)

    autoencoder = Autoencoder(body)
    first, second, third = steps
    alone = replace(settings, watch="loss", maximise=False, patience=None)
    joint = settings if validate is not None else alone

    def over(steps: int) -> Callable[[torch.optim.Optimizer], LRScheduler] | None:
        return None if schedule_of is None else lambda optimiser: schedule_of(optimiser, steps)

    return [
        Stage(
            "autoencoder",
            autoencoder,
            Mapped(batches, scaled_image),
            Supervised(loss),
            adam,
            _of(alone, first),
            over(first),
        ),
        Stage(
            "codes", CodesOf(network), Mapped(batches, code), Supervised(mse), adam, _of(alone, second), over(second)
        ),
        Stage("joint", network, batches, Supervised(loss), adam, _of(joint, third), over(third), validate, "best"),
    ]


def _of(settings: Settings, steps: int) -> Settings:
    return replace(settings, steps=steps, validate_every=min(settings.validate_every, steps))


def _body_of(network: Direct) -> SPECTNet:
    """The body of a SPECTnet; raises TypeError for another network."""
    if not isinstance(network.body, SPECTNet):
        raise TypeError(f"spectnet_stages trains unrolled.spectnet(), got {type(network.body).__name__}")
    return network.body
