"""Run the units of a suite: each once, in the order of what they need, on as many processes as share the folder."""

from __future__ import annotations

import json
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.texts import read_json

from .locks import locked
from .machine import PeakMemory, machine, threads, versions
from .records import FILE, Record, digest_of, plain, read_record, write_record
from .suite import Options, Results, Suite, Unit

State = Literal["kept", "begins", "done", "failed", "blocked", "waits"]
UNITS, CLAIM, _BEGUN, _TRACEBACK = "units", "suite.json", "begun.json", "error.txt"


@dataclass(frozen=True)
class Step:
    """What has just happened to a unit.

    Args:
        state : "kept" of an earlier run, "begins", "done", "failed", "blocked" by a failure of what it needs, or
            "waits" for another process.
        number, total : of the units of this process.
        record : what is kept of it, once it is over.
    """

    unit: str
    state: State
    number: int
    total: int
    record: Record | None = None


def ordered(units: Sequence[Unit]) -> list[Unit]:
    """Return the units such that each comes after those that it needs, otherwise as they are.

    Raises ValueError for two units of one name, needs that are no unit, and needs in a circle.
    """
    by_name = {unit.name: unit for unit in units}
    if len(by_name) < len(units):
        names = [unit.name for unit in units]
        raise ValueError(f"two units have the name '{next(name for name in names if names.count(name) > 1)}'")
    found: dict[str, Unit] = {}

    def visit(unit: Unit, above: tuple[str, ...]) -> None:
        if unit.name in found:
            return
        if unit.name in above:
            raise ValueError(f"units need each other in a circle: {' -> '.join((*above, unit.name))}")
        for need in unit.needs:
            if need not in by_name:
                raise ValueError(f"unit '{unit.name}' needs '{need}', which is no unit of this suite")
            visit(by_name[need], (*above, unit.name))
        found[unit.name] = unit

    for unit in units:
        visit(unit, ())
    return list(found.values())


def share_of(units: Sequence[Unit], rank: int, n_ranks: int) -> list[Unit]:
    """Return the units of a rank with all that they need, in order: every n-th of them, beginning with its own number.

    Ranks may share what several of them need; whoever comes first does it, and the others take what it has kept.
    """
    if not 0 <= rank < n_ranks:
        raise ValueError(f"rank {rank} is not one of {n_ranks}; ranks go from 0 to n - 1")
    inner = {need for unit in units for need in unit.needs}
    last = [unit for unit in units if unit.name not in inner]  # nobody needs them: they draw the others along
    by_name, wanted = {unit.name: unit for unit in units}, set()

    def want(unit: Unit) -> None:
        wanted.add(unit.name)
        for need in unit.needs:
            want(by_name[need])

    for unit in last[rank::n_ranks]:
        want(unit)
    return [unit for unit in ordered(units) if unit.name in wanted]


def claim(folder: Path, suite: Suite, options: Options) -> None:
    """Make a folder this benchmark's, or find that it is.

    Raises ValueError, with what differs, where it holds another benchmark or one of another size, or other files;
    OSError where it cannot be written.
    """
    here = {"suite": suite.name, "size": options.size}
    path = folder / CLAIM
    if path.exists():
        there = read_json(path, "what a benchmark's folder holds")
        if there != here:
            said = ", ".join(f"{k} {v}" for k, v in there.items()) if isinstance(there, dict) else "something else"
            raise ValueError(
                f"{folder} belongs to another benchmark ({said}; this is {suite.name}, size {options.size}); "
                "use another folder"
            )
        return None
    strange = folder.is_dir() and any(not one.name.startswith(".") for one in folder.iterdir())
    if path.exists():  # another rank has just made it
        return claim(folder, suite, options)
    if strange:
        raise ValueError(f"{folder} holds files that are not of a benchmark; use an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(here) + "\n", encoding="utf-8")
    return None


def run_units(units: Sequence[Unit], folder: Path, suite: Suite, options: Options) -> Iterator[Step]:
    """Do what is not done, and say so; a unit that fails keeps its error, and others that do not need it go on.

    A unit whose file is there is not done again, unless it was made from other arguments. A unit that failed is tried
    again. Units that another process is at work on are left for later, and waited for at last. What a unit that was cut
    off has left in its folder stays there for it, as a training goes on from its checkpoint.

    Args:
        units : of this process, in order (`share_of`).
        folder : of the benchmark; each unit has its own in `folder / "units"`.
    """
    root, left, over = folder / UNITS, list(units), 0
    failed: dict[str, str] = {}
    waiting: list[Unit] = []
    while left or waiting:
        unit, wait = (left.pop(0), False) if left else (waiting.pop(0), True)
        number = over + 1
        blocked = [need for need in unit.needs if need in failed]
        if blocked:
            failed[unit.name] = f"it needs '{blocked[0]}', which has no result"
            over += 1
            yield Step(unit.name, "blocked", number, len(units), Record(unit.name, "", None, failed[unit.name]))
            continue
        if not wait and any(need in {w.name for w in waiting} for need in unit.needs):
            waiting.append(unit)
            continue
        if wait:
            yield Step(unit.name, "waits", number, len(units))
        for step in _one(unit, root, suite, options, number, len(units), wait):
            if step.state == "waits":
                waiting.append(unit)
                break
            if step.state != "begins":
                over += 1
            if step.record is not None and not step.record.is_done:
                failed[unit.name] = step.record.error
            yield step


def _one(unit: Unit, root: Path, suite: Suite, options: Options, number: int, total: int, wait: bool) -> Iterator[Step]:
    """What happens to a unit: it waits, or is kept, or begins and ends."""
    digest = digest_of_unit(unit, suite, options)
    own = root / unit.name
    kept = _kept(own, digest)
    if kept is not None:
        yield Step(unit.name, "kept", number, total, kept)
        return
    with locked(own, wait) as mine:
        if not mine:
            yield Step(unit.name, "waits", number, total)
            return
        kept = _kept(own, digest)  # another process may have done it meanwhile
        if kept is not None:
            yield Step(unit.name, "kept", number, total, kept)
            return
        yield Step(unit.name, "begins", number, total)
        record = _run(unit, own, digest, suite, options)
        yield Step(unit.name, "done" if record.is_done else "failed", number, total, record)


def digest_of_unit(unit: Unit, suite: Suite, options: Options) -> str:
    """Return the digest of what decides a unit's numbers: suite, size, name and arguments."""
    return digest_of([suite.name, options.size, unit.name, unit.arguments])


def _kept(own: Path, digest: str) -> Record | None:
    """The record of a finished unit with the same arguments."""
    try:
        record = read_record(own)
    except FormatError:
        return None  # what cannot be read is done anew
    return record if record is not None and record.is_done and record.digest == digest else None


def _run(unit: Unit, own: Path, digest: str, suite: Suite, options: Options) -> Record:
    _begin(own, digest)
    seeded_by(unit.name, "torch" in suite.extras)
    memory, began = PeakMemory(), time.perf_counter()
    about = {"arguments": plain(unit.arguments), "versions": versions(), "machine": machine()}
    try:
        with threads(options.threads):
            numbers = plain(unit.run(own))
        record = Record(
            unit.name,
            digest,
            numbers,
            "",
            time.perf_counter() - began,
            memory.bytes(),
            threads=options.threads,
            **about,
        )
    except Exception as error:
        (own / _TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
        said = f"{type(error).__name__}: {error}"
        record = Record(unit.name, digest, None, said, time.perf_counter() - began, memory.bytes(), **about)
    write_record(own, record)
    return record


def _begin(own: Path, digest: str) -> None:
    """Make a unit's folder ready: empty, but for what the same unit has left there."""
    path = own / _BEGUN
    with suppress(FormatError, FileNotFoundError):
        if read_json(path, "the beginning of a unit") == digest:
            for name in (FILE, _TRACEBACK):
                (own / name).unlink(missing_ok=True)
            return
    for one in own.iterdir():
        if one.is_dir() and any(one.rglob(_BEGUN)):
            continue  # the folder of another unit, whose name begins with this one's
        if one.name != "lock":
            shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(digest), encoding="utf-8")


def seeded_by(name: str, needs_torch: bool) -> None:
    """Set NumPy's and torch's global random numbers by a name, so that a unit's do not depend on those before it.

    They are for packages that draw from there; units have seeds of their own.
    """
    import numpy as np

    seed = int(digest_of(name)[:8], 16)
    np.random.seed(seed)  # noqa: NPY002
    if needs_torch:
        import torch

        torch.manual_seed(seed)
    elif "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def results_of(
    units: Sequence[Unit], folder: Path, suite: Suite, options: Options
) -> tuple[Results, dict[str, Record]]:
    """Return what is there of the units: their numbers, why others have none, and the records of all that were run."""
    root = folder / UNITS
    numbers: dict[str, Mapping[str, Any]] = {}
    failed: dict[str, str] = {}
    records: dict[str, Record] = {}
    for unit in units:
        try:
            record = read_record(root / unit.name)
        except FormatError as error:
            failed[unit.name] = str(error)
            continue
        if record is None or record.digest != digest_of_unit(unit, suite, options):
            continue
        records[unit.name] = record
        if record.numbers is not None:
            numbers[unit.name] = record.numbers
        else:
            failed[unit.name] = record.error
    for unit in ordered(units):
        blocked = [need for need in unit.needs if need in failed]
        if blocked and unit.name not in numbers:
            failed.setdefault(unit.name, f"it needs '{blocked[0]}', which has no result")
    return Results(numbers, root, failed), records


def described(options: Options) -> dict[str, Any]:
    """Return the options as JSON holds them, without the folder, which is this machine's own."""
    return {name: plain(value) for name, value in asdict(options).items() if name != "work"}
