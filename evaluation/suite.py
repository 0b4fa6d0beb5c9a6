"""What a benchmark is made of: units of work that are done once and kept, and the sections that show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .records import read_record
from .sections import Section

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+,=-]*(/[A-Za-z0-9][A-Za-z0-9._+,=-]*)*")
SIZES = ("quick", "full")


@dataclass(frozen=True)
class Unit:
    """A piece of work that is done once, whose numbers and files are kept.

    Args:
        name : such as "pet-brain/osem" or "pet-brain/fbsem-net/seed-1"; also that of its folder.
        run : folder -> numbers that JSON can hold; arrays, weights and pictures go as files into the folder. The same
            from run to run: random numbers come from seeds. Some names mean something to reports: "data_digest" is that
            of the data (`digest_of_arrays`); "subjects" holds lists with one number for each subject, by the name of
            the measure, which comparisons of two reports pair; "seconds" and "memory" vary and are not compared.
        needs : units whose files or numbers it reads (`numbers_of` and `folder_of` find them from its own folder).
        arguments : what else decides the numbers, JSON-able: a kept unit of other arguments is not taken for this one.

    Raises ValueError for a name that is no path of plain words, and a unit that needs itself.
    """

    name: str
    run: Callable[[Path], Mapping[str, Any]]
    needs: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"the unit's name '{self.name}' must be words of letters, digits and . _ + - joined by slashes"
            )
        if self.name in self.needs:
            raise ValueError(f"unit '{self.name}' needs itself")


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Args:
        size : "quick", small enough to see that all works, or "full".
        seeds : trainings of each network.
        methods : only these, and methods of the user's own; empty: all of the suite.
        threads : of one process.
        work : a folder for what is kept between runs and suites, such as simulated samples; None: the suite's own.

    Raises ValueError for another size, and numbers below 1.
    """

    size: str = "full"
    seeds: int = 3
    methods: tuple[str, ...] = ()
    threads: int = 1
    work: Path | None = None

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"unknown size '{self.size}'; choose from {', '.join(SIZES)}")
        if self.seeds < 1 or self.threads < 1:
            raise ValueError(f"seeds and threads must be 1 or more, got {self.seeds} and {self.threads}")


class MissingUnitError(KeyError):
    """A unit's numbers were asked for that it has not: it failed, or is not done."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name)
        self.name, self.why = name, why

    def __str__(self) -> str:
        return f"unit '{self.name}' {self.why}"


@dataclass(frozen=True, eq=False)
class Results(Mapping[str, Mapping[str, Any]]):
    """The numbers of the units that are done, by name.

    Args:
        numbers : what each unit returned.
        root : the folder of the units' folders.
        failed : why the others have none.

    Raises MissingUnitError, a KeyError, for a unit that has no numbers; a report then says so in place of the section.
    """

    numbers: Mapping[str, Mapping[str, Any]]
    root: Path
    failed: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        if name not in self.numbers:
            raise MissingUnitError(name, f"failed: {self.failed[name]}" if name in self.failed else "is not done")
        return self.numbers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def folder(self, name: str) -> Path:
        """Return the folder with a unit's files."""
        return self.root / name


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Args:
        title : what it is about, in a line.
        minutes : about how long it takes in full size on two cores, without trained networks to begin from.
        units : options -> its work.
        sections : (results, options) -> what its report shows.
        extras : modules that it needs beyond the plain installation, such as "torch".
        size : of `Options`, unless the user says another.
    """

    name: str
    title: str
    minutes: float
    units: Callable[[Options], Sequence[Unit]]
    sections: Callable[[Results, Options], Sequence[Section]]
    extras: tuple[str, ...] = ()
    size: str = "full"


def folder_of(own: Path, unit: str, needed: str) -> Path:
    """Return the folder of a unit that another one needs.

    Args:
        own : the folder that the unit's `run` got.
        unit : its name.
        needed : the name of the unit that it needs.
    """
    root = own
    for _ in unit.split("/"):
        root = root.parent
    return root / needed


def numbers_of(own: Path, unit: str, needed: str) -> Mapping[str, Any]:
    """Return the numbers of a unit that another one needs; see `folder_of`.

    Raises MissingUnitError where it is not done.
    """
    record = read_record(folder_of(own, unit, needed))
    if record is None or record.numbers is None:
        raise MissingUnitError(needed, "is not done")
    return record.numbers
