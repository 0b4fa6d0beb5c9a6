"""Sheets: panels of given sizes on a page, their texts, and files of PNG, SVG, PDF and animated GIF."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emrecon.projectors.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
"""What `save` writes."""

TEXT, SMALL = 8.0, 7.0
"""Sizes of letters in points."""

_EDGE = 0.08  # inches around everything
_LINE = 1.35 / 72  # inches of a line for every point of its letters
_WIDTH = 0.56 / 72  # inches of a letter, on average, for every point


@dataclass(frozen=True)
class Cell:
    """A panel and the room around it for texts, in inches."""

    width: float
    height: float
    left: float = 0.04
    right: float = 0.04
    above: float = 0.04
    below: float = 0.04


Block = Sequence[Sequence[Cell | None]]
"""Rows of cells; a column is as wide as its widest cell, and a row as high as its highest."""


@dataclass(frozen=True)
class Sheet:
    """A figure with its panels: `blocks[b][row][column]`, and those at the side of all blocks."""

    figure: Figure
    blocks: list[list[list[Axes | None]]]
    side: list[Axes]

    def panels(self, block: int = 0) -> list[Axes]:
        """Return the panels of a block that are not empty, row by row."""
        return [axis for row in self.blocks[block] for axis in row if axis is not None]


def sheet(blocks: Sequence[Block], side: Sequence[Cell] = (), title: str = "", footer: str = "") -> Sheet:
    """Return a figure with axes for the cells of blocks that stand below one another, each in the middle of the page.

    Sizes are exact, so what is drawn in mm keeps its proportions; texts are cut into lines that fit.

    Args:
        side : cells at the right of all blocks, beside one another, in the middle of the height.
    """
    sizes, (beside, heights) = [_sizes(block) for block in blocks], _sizes([side])
    main = max(sum(columns) for columns, _ in sizes)
    wide = max(main + sum(beside), 2.2)
    above, below = wrapped(title, wide, TEXT + 1), wrapped(footer, wide, SMALL)
    tall = max(sum(sum(rows) for _, rows in sizes), *heights)
    height = tall + _room(above, TEXT + 1) + _room(below, SMALL)
    page = _Page(new_figure(wide + 2 * _EDGE, height + 2 * _EDGE), wide + 2 * _EDGE, height + 2 * _EDGE)
    top, left = _EDGE, _EDGE + (wide - main - sum(beside)) / 2
    if above:
        page.text(page.width / 2, top, above, TEXT + 1, "center")
        top += _room(above, TEXT + 1)
    axes, y = [], top + (tall - sum(sum(rows) for _, rows in sizes)) / 2
    for block, (columns, rows) in zip(blocks, sizes):
        axes.append(page.block(block, columns, rows, left + (main - sum(columns)) / 2, y))
        y += sum(rows)
    at_side = page.block([side], beside, [tall], left + main, top)[0]
    if below:
        page.text(_EDGE, top + tall + 0.06, below, SMALL, "left")
    return Sheet(page.figure, axes, [axis for axis in at_side if axis is not None])


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of so many inches."""
    # No pyplot: it keeps figures in a global and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | os.PathLike[str], dpi: float = 150) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix of its name; complete or not at all.

    The same figure makes the same file: no date is written.

    Raises ValueError for another suffix, OSError naming the file where it cannot be written.
    """
    kind = picture_kind(path)
    about: dict[str, dict[str, str | None]] = {"png": {"Software": "emrecon"}, "svg": {"Date": None}}
    content = io.BytesIO()
    with _settings():
        figure.savefig(content, dpi=dpi, format=kind, metadata=about.get(kind, {"CreationDate": None}))
    _write(path, content.getvalue())


def save_frames(
    figures: Sequence[Figure], path: str | os.PathLike[str], dpi: float = 110, seconds: float = 0.1
) -> list[Path]:
    """Write figures of one size as an animation that repeats (.gif), or as numbered files (-000.png, ...).

    Args:
        seconds : that each figure of an animation is shown.

    Returns the files that were written.

    Raises ValueError for another suffix and for no figures, OSError naming the file that cannot be written.
    """
    if not figures:
        raise ValueError("save_frames needs at least one figure")
    path = Path(path)
    if path.suffix.lower() != ".gif":
        files = frame_files(path, len(figures))
        for figure, file in zip(figures, files):
            save(figure, file, dpi)
        return files
    from PIL import Image

    images = [Image.fromarray(pixels(figure, dpi)) for figure in figures]
    # one palette for all, or colours flicker from frame to frame
    palette = _palette(images)
    frames = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    content = io.BytesIO()
    time = max(20, round(1000 * seconds))
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=time, loop=0, optimize=False)
    _write(path, content.getvalue())
    return [path]


def frame_files(path: Path, n: int) -> list[Path]:
    """Return the names of n numbered pictures: name-000.png, name-001.png, ..."""
    picture_kind(path)
    return [path.with_name(f"{path.stem}-{i:03d}{path.suffix}") for i in range(n)]


def pixels(figure: Figure, dpi: float = 110) -> np.ndarray:
    """Return a figure as (rows, columns, 3) bytes."""
    figure.set_dpi(dpi)
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def picture_kind(path: str | os.PathLike[str]) -> str:
    """Return "png", "svg" or "pdf" by the suffix of a name; raises ValueError for another one."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"a picture is {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, not {Path(path).name!r}")
    return suffix[1:]


def plain(text: str) -> str:
    """Return a text as matplotlib shows it letter by letter: a dollar sign would begin a formula."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text).replace("$", r"\$")


def wrapped(text: str, inches: float, points: float) -> list[str]:
    """Return the lines of a text that are no wider than so many inches, roughly."""
    most = max(12, int(inches / (points * _WIDTH)))
    return [part for line in text.splitlines() for part in textwrap.wrap(line, most) or [""]]


def outlined(colour: str, width: float = 1.6) -> dict[str, Any]:
    """Return what makes a black or white text or line readable on any image: a rim of the other colour."""
    from matplotlib.patheffects import withStroke

    rim = "white" if colour == "black" else "black"
    return {"color": colour, "path_effects": [withStroke(linewidth=width, foreground=rim)]}


class _Page:
    """A figure whose places are inches from the top left."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def text(self, x: float, y: float, lines: list[str], points: float, align: str) -> None:
        place: dict[str, Any] = {"ha": align, "va": "top", "fontsize": points, "linespacing": 1.25}
        self.figure.text(x / self.width, 1 - y / self.height, plain("\n".join(lines)), **place)

    def block(
        self, block: Block, columns: list[float], rows: list[float], left: float, top: float
    ) -> list[list[Axes | None]]:
        axes: list[list[Axes | None]] = []
        for cells, high in zip(block, rows):
            x, line = left, []
            for cell, wide in zip(cells, columns):
                line.append(None if cell is None else self._axes(cell, x, top, wide, high))
                x += wide
            axes.append(line)
            top += high
        return axes

    def _axes(self, cell: Cell, x: float, y: float, wide: float, high: float) -> Axes:
        left = x + cell.left + (wide - cell.left - cell.right - cell.width) / 2
        top = y + cell.above + (high - cell.above - cell.below - cell.height) / 2
        box = (left / self.width, 1 - (top + cell.height) / self.height, cell.width / self.width)
        return self.figure.add_axes((*box, cell.height / self.height))


def _sizes(block: Block) -> tuple[list[float], list[float]]:
    """The widths of columns and the heights of rows."""
    n = max([len(row) for row in block] + [0])
    columns = [max([c.left + c.width + c.right for c in _column(block, i)] + [0.0]) for i in range(n)]
    rows = [max([c.above + c.height + c.below for c in row if c is not None] + [0.0]) for row in block]
    return columns, rows


def _column(block: Block, i: int) -> Iterator[Cell]:
    for row in block:
        if i < len(row):
            cell = row[i]
            if cell is not None:
                yield cell


def _room(lines: list[str], points: float) -> float:
    return len(lines) * points * _LINE + 0.06 if lines else 0.0


@contextmanager
def _settings() -> Iterator[None]:
    from matplotlib import rc_context

    # letters stay letters in PDF, and names inside an SVG do not change from run to run
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "emrecon"}):
        yield


def _palette(images: list[Any]) -> Any:
    """An image with a palette for all: the commonest colours of some of them, and pure white and black."""
    from PIL import Image

    chosen = images[:: max(1, len(images) // 8)]
    joined = Image.fromarray(np.concatenate([np.asarray(image)[::2, ::2] for image in chosen], 1))
    palette = joined.quantize(254, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.putpalette([*(palette.getpalette() or [])[: 3 * 254], 255, 255, 255, 0, 0, 0])
    return palette


def _write(path: str | os.PathLike[str], content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
