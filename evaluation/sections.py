"""What a report of a benchmark shows: numbers with intervals, tables, pictures, texts, in sections."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval, and how many observations it rests on.

    Args:
        low, high : the limits; NaN where n is too small for an interval.
        n : subjects, lesions, realisations: what was counted.

    Raises ValueError for limits in the wrong order.
    """

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"an interval from {self.low} to {self.high}: its limits are in the wrong order")
        if self.n < 0:
            raise ValueError(f"an interval rests on 0 observations or more, got {self.n}")

    @property
    def is_bounded(self) -> bool:
        """Whether both limits are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


Cell = str | float | int | Interval | None
"""What a table may hold; None is what was not measured."""


@dataclass(frozen=True)
class Table:
    """Rows of numbers under their columns.

    Args:
        rows : the first cell says what a row is about.
        varies : from run to run, as seconds and memory do; comparisons of two reports leave such tables out.

    Raises ValueError for a row that has not as many cells as there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    varies: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table '{self.title}': a row of {len(row)} cells does not fit {len(self.columns)} columns: {row}"
                )


@dataclass(frozen=True)
class Picture:
    """A picture, as the bytes of a PNG file.

    Raises ValueError for bytes of another kind.
    """

    title: str
    png: bytes
    note: str = ""

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG\r\n"):
            raise ValueError(f"picture '{self.title}': the bytes are not those of a PNG file")

    @classmethod
    def of(cls, figure: Figure, title: str, note: str = "") -> Picture:
        """Return a figure of matplotlib as a picture."""
        from emrecon.figures import save

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figure.png"
            save(figure, path, dpi=_DPI)
            return cls(title, path.read_bytes(), note)


@dataclass(frozen=True)
class Text:
    """Paragraphs under a title."""

    title: str
    paragraphs: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of a report: what belongs together, under one heading."""

    title: str
    parts: Sequence[Table | Picture | Text]
