"""The record that `emrecon reconstruct` keeps with an image: its command, inputs, physics, method and convergence."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from emrecon import formats
from emrecon.projectors.core.progress import stage
from emrecon.recon import History, Quantity

from .. import options
from ..outputs import named_files
from ..printing import note
from .config import PANELS
from .engine import Engine
from .quantities import phantom, study_of
from .scatter import scatter_file
from .settings import Settings

_NOT_OF_THE_IMAGE = ("quiet",)
_WITH_FILES = ("scatter", "calibration_phantom")


@dataclass(frozen=True, eq=False)
class Journal:
    """What a run says while it works: its notes are printed and kept, its convergence is kept.

    begun : when the command started, of `time.perf_counter`.  notes : with what the library has logged already.
    """

    console: Console
    history: History
    begun: float
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Since the command started."""
        return time.perf_counter() - self.begun

    def of_piece(self) -> Journal:
        """Return the journal of one of several runs: the same notes, and a history of its own."""
        return replace(self, history=History(every=self.history.every))

    def keep(self, own: Journal) -> None:
        """Add the convergence of a run: objectives of several add up by iteration, and changes are the largest."""
        for row in own.history.rows:
            mine = next((one for one in self.history.rows if one["iteration"] == row["iteration"]), None)
            if mine is None:
                self.history.rows.append(dict(row))
                continue
            pairs = [(mine[name], row[name]) for name in ("objective", "change")]
            mine["seconds"] += row["seconds"]
            mine["objective"] = None if None in pairs[0] else sum(pairs[0])
            mine["change"] = None if None in pairs[1] else max(pairs[1])

    def note(self, text: str) -> None:
        """Print and keep something that the user should look at, once."""
        if text in self.notes:
            return
        self.notes.append(text)
        note(text, self.console)

    def begin(self, engine: Engine) -> None:
        """Watch the objective of an engine from here on."""
        self.history.objective = engine.objective
        if engine.at.iteration:
            went = f"went on after iteration {engine.at.iteration} from a checkpoint; convergence is kept from there on"
            self.notes.append(went)


def record_of(
    settings: Settings, source: Any, physics: str, journal: Journal, quantity: Quantity | None = None
) -> formats.Provenance:
    """Return the record of a run: everything that the report shows, without the patient's name."""
    with stage("digests of the inputs"):
        return formats.record_run(
            source,
            physics,
            settings.method.method,
            inputs=_inputs(settings, source),
            quantity=quantity,
            convergence=journal.history.rows,
            notes=journal.notes,
            command=command_line(settings),
            seconds=journal.seconds,
            study=study_of(source, settings.quantity),
            **_parameters(settings),
        )


def command_line(settings: Settings) -> str:
    """Return the command in full, with what --config set; files are called by their options, as people may be."""
    words = ["emrecon", "reconstruct", formats.plain_name("projections", settings.data.path)]
    for table in PANELS:
        panel = getattr(settings, table)
        for name, value in panel:
            if name != "projections" and name not in _NOT_OF_THE_IMAGE and value != _default(panel, name):
                words += _option(name, value)
    return shlex.join(words)


def _default(panel: Any, name: str) -> object:
    return type(panel).model_fields[name].default


def _option(name: str, value: object) -> list[str]:
    option = options.option_of(name)
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    values = value if isinstance(value, tuple) else (value,)
    return [word for part in values for word in (option, _in_words(name, option, part))]


def _in_words(name: str, option: str, value: object) -> str:
    """A value of an option; a file is called by the option."""
    text = str(value)
    if name in _WITH_FILES:  # FILE, or FILE:MBQ, or the name of a method
        file, colon, more = (
            text.rpartition(":") if name == "calibration_phantom" and text.count(":") else (text, "", "")
        )
        return f"{formats.plain_name(option, file)}{colon}{more}" if Path(file).suffix else text
    return formats.plain_name(option, value) if isinstance(value, Path) else text


def _parameters(settings: Settings) -> dict[str, str]:
    """The options of the method that were used, but for its name."""
    said = {}
    for name, value in settings.method:
        if name != "method" and value not in (None, False, ()):
            parts = value if isinstance(value, tuple) else (value,)
            shown = (formats.plain_name(name, part) if isinstance(part, Path) else str(part) for part in parts)
            said[name] = "yes" if value is True else ", ".join(shown)
    return said


def _inputs(settings: Settings, source: Any) -> Iterator[tuple[str, Path]]:
    """The files and folders that the image depends on, each once, with the option that named it."""
    seen: set[Path] = set()
    own = [("projections", settings.data.path)]
    own += [("events", source.path)] if isinstance(getattr(source, "path", None), Path) else []
    for panel in (settings.physics, settings.method):
        for name, value in panel:
            parts = value if isinstance(value, tuple) else (value,)
            own += [(options.option_of(name), part) for part in parts if isinstance(part, Path)]
    scatter, source_of_calibration = scatter_file(settings.physics), phantom(settings.quantity)
    own += [] if scatter is None else [("--scatter", scatter)]
    own += [] if source_of_calibration is None else [("--calibration-phantom", source_of_calibration.path)]
    for role, path in own:
        files = [(role, path)] if path.is_dir() else [(role, path), *((f"{role}, data", f) for f in named_files(path))]
        for part, file in files:
            place = file.resolve()
            if place not in seen and place.exists():
                seen.add(place)
                yield part, file
