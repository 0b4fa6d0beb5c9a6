"""Transfer: a training that begins from trained weights, says what differs, and may leave parts as they are."""

from __future__ import annotations

import copy
import fnmatch
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from emrecon.projectors.core.errors import FormatError

from .loop import Batches, Objective, Settings, train
from .shipped import pretrained_names, pretrained_path
from .weights import Card, load_weights, read_card

_UNLIKE = ("n", "seed", "name", "description", "outputs", "split", "batch", "folder", "recipe")
"""What two trainings may differ in without being of other scans."""
_MISSING = object()


class Started(NamedTuple):
    """What a network began from: the file, its card, and in what its training differs from the one to come."""

    path: Path
    card: Card
    notes: tuple[str, ...]


def weights_path(weights: str | os.PathLike[str]) -> Path:
    """Return a file of weights, or that of a name out of `pretrained_names()`; a file of that name comes first.

    Raises ValueError for a name that is not known, FileNotFoundError for a file that is not there.
    """
    path = Path(weights)
    if path.suffix == ".safetensors" or path.is_file():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file of weights")
        return path
    if str(weights) not in pretrained_names():
        raise ValueError(
            f"unknown weights {str(weights)!r}; name a file, .safetensors, or choose from "
            f"{', '.join(pretrained_names())}"
        )
    return pretrained_path(str(weights))


def start_from(
    model: nn.Module,
    weights: str | os.PathLike[str],
    *,
    architecture: str,
    arguments: Mapping[str, object],
    build: Callable[..., nn.Module] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Started:
    """Give a network the weights of a file or of a name, to train it further on other scans.

    The card must be of the same architecture, with as many dimensions and guides, and all tensors must fit; on any
    error the network is as it was.

    Args:
        model : with the arguments; its weights are replaced, buffers included.
        architecture, arguments : what built it, as a card has them.
        build : what built it, so that arguments that one side leaves out are taken for their defaults.
        data : of the training to come, as the card's data["training"] has it, to be compared.

    Returns the file, the card, and notes: arguments that differ and change no tensor, and what differs between the
    scans that it was trained on and those to come (tracer, scanner, counts, voxels, guides), as far as both are known.

    Raises FormatError (a ValueError) that says what does not fit, and as `load_weights` does.
    """
    path = weights_path(weights)
    card = read_card(path)
    if card.architecture != architecture:
        raise FormatError(f"{path.name} holds weights of {card.architecture!r}, the training is of {architecture!r}")
    unlike = dict(_unlike(card.arguments, arguments, build))
    for key, what in (("dimensions", "dimensions"), ("guide_channels", "guides")):
        if key in unlike:
            there, here = (_said(value) for value in unlike.pop(key))
            raise FormatError(f"{path.name} is a network with {there} {what}, and the training is of one with {here}")
    try:
        load_weights(path, model)
    except FormatError as error:
        if not unlike:
            raise
        raise FormatError(f"{error}; its card differs in {'; '.join(_listed(unlike))}") from error
    notes = [*_listed(unlike), *_other_scans(card, data)]
    return Started(path, card, tuple(notes))


def freeze(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Leave parts of a network as they are in training, and return the names of the weights that do not learn.

    Args:
        names : of weights or of modules, such as "denoisers.0" or ``"*.layers.0"``, with ``*`` for any text; a module's
            name stands for all inside. Batch normalisation whose weights do not learn keeps its statistics, too.

    Raises ValueError for a name that nothing has, and where nothing would be left to learn.
    """
    parameters = dict(model.named_parameters())
    found: set[str] = set()
    for wanted in names:
        here = [n for n in parameters if fnmatch.fnmatchcase(n, wanted) or fnmatch.fnmatchcase(n, f"{wanted}.*")]
        if not here:
            parts = [
                n for n, _ in model.named_modules() if n and any(True for _ in model.get_submodule(n).parameters())
            ]
            raise ValueError(
                f"nothing in {type(model).__name__} is called {wanted!r}; its parts are "
                f"{', '.join(parts[:8])}{', ...' if len(parts) > 8 else ''}"
            )
        found.update(here)
    if found and not any(w.requires_grad for name, w in parameters.items() if name not in found):
        raise ValueError(f"freezing {', '.join(names)} leaves nothing in {type(model).__name__} to learn")
    for name in found:
        parameters[name].requires_grad_(False)
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and hasattr(module, "running_mean") and not any(w.requires_grad for w in own):
            module.eval()
            module.train = _stays.__get__(module)
    return sorted(found)


def _stays(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stands for `train` in modules whose statistics do not learn."""
    return module


def fine_tuned(
    model: nn.Module,
    case: object,
    objective: Objective[Any],
    *,
    steps: int = 100,
    rate: float = 1e-4,
    frozen: Sequence[str] = (),
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Return a copy of a network that has learned further from one scan alone, in eval mode; the network stays.

    The second half of group pre-training and individual fine-tuning: the first is `train` on the scans of a group by
    the same objective.

    Args:
        case : the batch of every step: what the objective takes, such as {"likelihood": f, "guide": mr} for
            `ThinnedNoise2Noise`, or {"x": image, "guide": mr} for `Noise2Void`.
        objective : one that needs no clean image.
        steps, rate : of Adam, with gradients clipped to norm 1.
        frozen : names of parts that do not learn, see `freeze`.
        folder : of a checkpoint, to go on after a kill; None for none.

    Raises as `train` and `freeze` do.

    Source: Song et al. 2021 (Noise2Void of PET); Cui et al. 2019 for deep image priors, see `ConditionalDIP`.
    """
    own = copy.deepcopy(model)
    freeze(own, frozen)
    optimiser = torch.optim.Adam([w for w in own.parameters() if w.requires_grad], rate)
    settings = Settings(steps, steps, clip=1.0, watch="loss", seed=seed, folder=folder, pictures=False)
    for _ in train(own, lambda epoch: [case], objective, optimiser, settings):
        pass
    return own.eval()


def mixed_batches(parts: Sequence[Batches[Any]], *, condition: bool = False) -> Batches[Any]:
    """Return epoch -> the batches of several sets of scans in turn: tracers, scanners or count levels at once.

    Each epoch goes through all of them; where one has fewer, the others go on. A batch holds scans of one set, so that
    sets may have geometries of their own.

    Args:
        parts : epoch -> batches (arguments, target), or arguments alone where no target is needed.
        condition : add a guide for each set, which is 1 everywhere for its own scans and 0 for those of the others,
            behind the guides that there are; the network is built with so many more `guide_channels`, and is told in
            use by the same images.

    Raises ValueError for no sets, and, with `condition`, for batches without a target or named arguments.
    """
    if not parts:
        raise ValueError("mixed_batches needs a set of batches at least")

    def of_epoch(epoch: int) -> Iterator[Any]:
        left = dict(enumerate(iter(batches(epoch)) for batches in parts))
        while left:
            for k in list(left):
                try:
                    batch = next(left[k])
                except StopIteration:
                    del left[k]
                    continue
                yield _told(batch, k, len(parts)) if condition else batch

    return of_epoch


def _told(batch: Any, k: int, n: int) -> Any:
    """A batch whose guides say which set it is of."""
    if not isinstance(batch, (tuple, list)) or not isinstance(batch[0], Mapping):
        raise ValueError("mixed_batches with condition takes batches (named arguments, target)")
    arguments, target, *rest = batch
    marks = torch.zeros((*target.shape[:-3], n, *target.shape[-3:]), dtype=target.dtype, device=target.device)
    marks[..., k, :, :, :] = 1
    guide = arguments.get("guide")
    if guide is not None:
        own = torch.as_tensor(guide).to(target)
        own = own.unsqueeze(-4) if own.ndim == target.ndim else own
        marks = torch.cat([own.expand(*target.shape[:-3], *own.shape[-4:]), marks], -4)
    return ({**arguments, "guide": marks}, target, *rest)


def differences(there: object, here: object, at: str = "") -> Iterator[str]:
    """Yield every number or text in which two descriptions differ, "place: one there, other here"."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*here, *(key for key in there if key not in here)]:
            if key not in _UNLIKE:
                yield from differences(there.get(key), here.get(key), f"{at}.{key}" if at else str(key))
    elif _plain(there) != _plain(here):
        yield f"{at}: {_said(there)} there, {_said(here)} here"


def _plain(value: object) -> object:
    """Lists for tuples, and nothing for what is empty, as JSON makes them."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value] or None
    return value


def _unlike(
    there: Mapping[str, object], here: Mapping[str, object], build: Callable[..., nn.Module] | None
) -> Iterator[tuple[str, tuple[object, object]]]:
    defaults = {} if build is None else {n: p.default for n, p in inspect.signature(build).parameters.items()}
    for key in [*here, *(key for key in there if key not in here)]:
        fallback = defaults.get(key, 0 if key == "guide_channels" else _MISSING)
        values = there.get(key, fallback), here.get(key, fallback)
        if key != "scan" and _plain(values[0]) != _plain(values[1]):
            yield key, values


def _listed(unlike: Mapping[str, tuple[object, object]]) -> list[str]:
    return [f"{key}: {_said(a)} there, {_said(b)} here" for key, (a, b) in unlike.items()]


def _other_scans(card: Card, data: Mapping[str, Any] | None) -> Iterator[str]:
    known = card.data.get("training") if isinstance(card.data, Mapping) else None
    if data is None:
        return
    if not isinstance(known, Mapping):
        yield "its card does not say what scans it was trained on"
        return
    for table in ("data", "simulation"):
        yield from differences(known.get(table), data.get(table), table)


def _said(value: object) -> str:
    text = "the default" if value is _MISSING else "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
