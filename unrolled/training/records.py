"""The files of a training: checkpoints, the log and its picture; written complete, and read with suspicion."""

from __future__ import annotations

import csv
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emrecon.projectors.core.archives import check_archive
from emrecon.projectors.core.errors import FormatError, require_file
from emrecon.projectors.core.files import atomic_path, atomic_stream
from emrecon.projectors.core.texts import read_json

from .names import plain_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECKPOINT, BEST, LOG = "checkpoint.pt", "best.pt", "log.json"
_MOST_COLUMNS = 100
_NOT_DRAWN = ("step", "epoch", "seconds", "improved", "samples_per_second", "data_share")

Weights = dict[str, torch.Tensor]
Row = dict[str, float]


def best_weights(folder: str | os.PathLike[str]) -> Weights:
    """Return the weights of the best validation of a run, for `model.load_state_dict` or `load_plain(model, ...)`.

    Names are those of a model that is not compiled; `load_plain` loads them into compiled ones as well.

    Raises FileNotFoundError where there is none yet, FormatError (a ValueError) for a damaged file. Nothing is
    unpickled.
    """
    path = Path(folder) / BEST
    weights = plain_names(read_checkpoint(path))
    if not all(isinstance(w, torch.Tensor) for w in weights.values()):
        raise FormatError(f"{path} holds more than weights; is it another file of a training?")
    return weights


def write_checkpoint(path: Path, state: object) -> None:
    """Write tensors and plain values, complete or not at all."""
    with atomic_stream(path) as stream:
        torch.save(state, stream)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a file written by a training holds, on the CPU; nothing is unpickled.

    Raises FileNotFoundError where it is missing, FormatError (a ValueError) for a damaged file.
    """
    path = require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
            damaged = archive.testzip()  # torch itself looks at no checksum
            if damaged is not None:
                raise FormatError(f"{path} is damaged: the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FormatError:
        raise
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).partition("\n")[0][:300]
        raise FormatError(f"{path} is not a checkpoint of a training, or is damaged: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise FormatError(f"{path} is not a checkpoint of a training: it holds a {type(state).__name__}")
    for tensor in _tensors(state):
        own = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not own or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise FormatError(f"{path} announces a tensor of {tuple(tensor.shape)} that is not in the file; hostile?")
    return state


def _tensors(value: object) -> Iterator[torch.Tensor]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item


def check_progress(counted: Mapping[str, object]) -> None:
    """Raise ValueError unless the numbers that a checkpoint keeps of a run are of their kinds."""
    whole = all(type(counted[name]) is int and counted[name] >= 0 for name in ("step", "epoch", "batch", "waited"))  # type: ignore[operator]
    sums, best = counted["sums"], counted["best"]
    numbers = [*(sums if isinstance(sums, list) and len(sums) == 3 else [None]), counted["seconds"]]
    numbers += [] if best is None else [best]
    if not whole or not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError("its counters are not numbers")
    _check_rows(counted["rows"])


def write_log(folder: Path, rows: Sequence[Row]) -> None:
    """Write log.json and log.csv."""
    with atomic_path(folder / LOG) as path:
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    with atomic_path(folder / "log.csv") as path, path.open("w", newline="", encoding="utf-8") as stream:
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(stream, list(names), restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_log(folder: str | os.PathLike[str]) -> list[Row]:
    """Return the rows of a training's log.json: step, epoch, loss, learning_rate, ..., improved, and the metrics.

    Raises FileNotFoundError where there is no log, FormatError (a ValueError) for a damaged one.
    """
    path = Path(folder) / LOG
    rows = read_json(path, "the log of a training")
    try:
        return _check_rows(rows)
    except ValueError as error:
        raise FormatError(f"{path} is not the log of a training: {error}") from error


def best_row(folder: str | os.PathLike[str], names: Sequence[str] = ()) -> Row:
    """Return the row of the best weights of a training, which must have these metrics; raises as `read_log` does."""
    row = next((row for row in reversed(read_log(folder)) if row.get("improved")), None)
    if row is None or any(name not in row for name in names):
        raise FormatError(f"{Path(folder) / LOG} has no best row with {', '.join(names)}; edited by hand?")
    return row


def _check_rows(rows: object) -> list[Row]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected a list of rows")
    for row in rows:
        if not isinstance(row.get("step"), int) or len(row) > _MOST_COLUMNS:
            raise ValueError("expected rows with a step")
        wrong = next((name for name, value in row.items() if not isinstance(value, (int, float))), None)
        if wrong is not None:
            raise ValueError(f"{str(wrong)[:60]} is not a number")
    return rows


def plot_log(folder: str | os.PathLike[str]) -> Figure:
    """Draw log.json of a run to curves.png next to it, and return the matplotlib figure: loss, rate, metrics by step.

    Raises FileNotFoundError where there is no log, FormatError (a ValueError) for a damaged one.
    """
    from matplotlib.figure import Figure

    rows = read_log(folder)
    names = [name for name in (rows or [{}])[0] if name not in _NOT_DRAWN]
    if not names:
        raise FormatError(f"{Path(folder) / LOG} is not the log of a training: it has nothing to draw")
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(3 * len(names), 2.8))
    margins = {"left": 0.2 / len(names), "right": 1 - 0.05 / len(names), "bottom": 0.18, "top": 0.88, "wspace": 0.35}
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names), gridspec_kw=margins)), names):
        values = [float(row.get(name, math.nan)) for row in rows]
        axes.plot(steps, values, ".-", label=name)
        if name in ("loss", "learning_rate", "gradient_norm") and min(values) > 0:
            axes.set_yscale("log")
        # a dollar sign would begin a formula
        axes.set(xlabel="step", title=name.replace("_", " ").replace("$", r"\$"))
    with atomic_path(Path(folder) / "curves.png") as temporary:
        figure.savefig(temporary, dpi=100)
    return figure
