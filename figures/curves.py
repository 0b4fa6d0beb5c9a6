"""Curves: how a reconstruction converges, and which energies a camera counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors import EnergyWindow, isotope

from .looks import shortened
from .planes import OUTLINES
from .sheets import SMALL, TEXT, Cell, plain, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = ("-", "--", "-.", ":")


def convergence(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    against: str = "iteration",
    quantity: str = "objective",
    log: bool = False,
    title: str = "",
) -> Figure:
    """Return a figure of curves, such as the objective of several methods over their iterations or seconds.

    Args:
        curves : name -> (x, y), two lists of one length; what is not finite is a gap.
        against, quantity : what stands at the axes.
        log : a logarithmic scale of y, which needs positive values.

    Raises ValueError for no curves, lists of different lengths, and values that a logarithmic scale cannot show.
    """
    if not curves:
        raise ValueError("convergence needs at least one curve")
    page = sheet([[[Cell(4.6, 2.9, 0.75, 0.15, 0.12, 0.5)]]], title=title)
    (axis,) = page.panels()
    for number, (name, (x, y)) in enumerate(curves.items()):
        xs, ys = np.ravel(np.asarray(x, float)), np.ravel(np.asarray(y, float))
        if xs.size != ys.size or not xs.size:
            raise ValueError(f"curve {name!r} needs as many values of x as of y, got {xs.size} and {ys.size}")
        if log and not (ys[np.isfinite(ys)] > 0).all():
            raise ValueError(f"curve {name!r} has values that are not positive; a logarithmic scale cannot show them")
        style: dict[str, Any] = {
            "color": OUTLINES[number % len(OUTLINES)],
            "linestyle": _STYLES[number // len(OUTLINES) % 4],
        }
        axis.plot(
            xs, ys, marker="o" if xs.size <= 40 else None, markersize=3, linewidth=1.3, label=plain(name), **style
        )
    if log:
        axis.set_yscale("log")
    every = np.concatenate([np.ravel(np.asarray(x, float)) for x, _ in curves.values()])
    set_axes(axis, against, quantity, whole=bool(np.all(every == np.round(every))))
    if len(curves) > 1 or next(iter(curves)):
        axis.legend(fontsize=SMALL, frameon=False)
    return page.figure


def energy_windows(
    windows: Sequence[EnergyWindow],
    *,
    radionuclide: str | None = None,
    counts: Sequence[float] | None = None,
    title: str = "",
) -> Figure:
    """Return a figure of energy windows over the lines of a radionuclide.

    Args:
        windows : each is a bar as wide as it is; bars that overlap stand above one another.
        radionuclide : a name that `isotope` knows; its photon lines are drawn with their photons per decay.
        counts : of each window, written at its bar.

    Raises ValueError for no windows and for numbers of counts that differ from theirs.
    """
    if not windows:
        raise ValueError("energy_windows needs at least one window")
    if counts is not None and len(counts) != len(windows):
        raise ValueError(f"energy_windows got {len(windows)} windows and {len(counts)} numbers of counts")
    levels = _levels(windows)
    rows = max(levels) + 1
    page = sheet([[[Cell(5.6, 1.5, 0.85, 0.15, 0.1 + 0.36 * rows, 0.5)]]], title=title)
    (axis,) = page.panels()
    low, high = min(w.lower for w in windows), max(w.upper for w in windows)
    lines = [] if radionuclide is None else list(isotope(radionuclide).photons.items())
    seen = [line for line in lines if low - 0.5 * (high - low) <= line[0] <= high + 0.5 * (high - low)]
    seen = [(energy, part) for energy, part in seen if part >= 0.002]
    ends = [low, high, *(energy for energy, _ in seen)]
    margin = 0.12 * (max(ends) - min(ends))
    top = 1.25 * max((part for _, part in seen), default=0.8)
    for energy, part in seen:
        axis.plot([energy, energy], [0, part], color="0.2", linewidth=1.2)
    for energy, part in _apart(sorted(seen, key=lambda line: -line[1]), 0.06 * (max(ends) - min(ends))):
        axis.text(energy, part + 0.02 * top, f"{energy:.4g}", ha="center", va="bottom", fontsize=SMALL - 0.5)
    axis.set_xlim(max(0.0, min(ends) - margin), max(ends) + margin)
    axis.set_ylim(0, top)
    for number, (window, level) in enumerate(zip(windows, levels)):
        colour = OUTLINES[number % len(OUTLINES)]
        axis.axvspan(window.lower, window.upper, color=colour, alpha=0.22, linewidth=0)
        _bar(axis, window, level, colour, None if counts is None else counts[number])
    nuclide = f" of {isotope(radionuclide).name}" if radionuclide else ""
    set_axes(axis, "energy (keV)", f"photons{nuclide}\nper decay" if seen else "")
    if not seen:
        axis.set_yticks([])
    return page.figure


def set_axes(axis: Axes, x: str, y: str, *, whole: bool = False) -> None:
    """Give a panel of curves its labels, short numbers, thin lines and a faint grid; call it when all is drawn.

    whole : only whole numbers along x.
    """
    from matplotlib.ticker import MaxNLocator

    for side, label, limits in ((axis.xaxis, x, axis.get_xlim()), (axis.yaxis, y, axis.get_ylim())):
        times = ""
        if side.get_scale() == "linear":
            write, times = shortened(max(map(abs, limits)))
            side.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=whole and side is axis.xaxis))
            side.set_major_formatter(write)
        side.set_label_text(f"{plain(label)}  {times}".strip(), fontsize=TEXT)
    axis.tick_params(labelsize=SMALL, width=0.5, length=3)
    axis.grid(True, linewidth=0.4, color="0.88")
    axis.set_axisbelow(True)
    for edge, spine in axis.spines.items():
        spine.set_linewidth(0.6)
        spine.set_visible(edge in ("left", "bottom"))


def _bar(axis: Axes, window: EnergyWindow, level: int, colour: str, counts: float | None) -> None:
    """A bar above the panel with the name, limits and counts of a window."""
    inches = axis.get_window_extent().height / axis.figure.dpi
    y = 1 + (0.09 + 0.36 * level) / inches
    across = axis.get_xaxis_transform()
    axis.plot([window.lower, window.upper], [y, y], transform=across, clip_on=False, color=colour, linewidth=4,
              solid_capstyle="butt")  # fmt: skip
    said = f"{window.name}  " if window.name else ""
    said += f"{window.lower:.4g}\u2013{window.upper:.4g} keV" + ("" if counts is None else f"\n{counts:.4g} counts")
    place: dict[str, Any] = {
        "transform": across,
        "ha": "center",
        "va": "bottom",
        "fontsize": SMALL - 0.5,
        "linespacing": 1.0,
    }
    axis.text((window.lower + window.upper) / 2, y + 0.04 / inches, plain(said), clip_on=False, **place)


def _levels(windows: Sequence[EnergyWindow]) -> list[int]:
    """The lowest level for each bar on which its text meets no other one's."""
    whole = max(w.upper for w in windows) - min(w.lower for w in windows)
    taken: list[list[tuple[float, float]]] = []
    levels = [0] * len(windows)
    for k in sorted(range(len(windows)), key=lambda k: windows[k].lower):
        half = max(windows[k].width / 2, 0.17 * whole)
        middle = (windows[k].lower + windows[k].upper) / 2
        own = middle - half, middle + half
        free = (i for i, spans in enumerate(taken) if all(own[0] >= b or own[1] <= a for a, b in spans))
        level = next(free, len(taken))
        if level == len(taken):
            taken.append([])
        taken[level].append(own)
        levels[k] = level
    return levels


def _apart(lines: Sequence[tuple[float, float]], least: float) -> list[tuple[float, float]]:
    """The lines that can be labelled without touching, the strongest first."""
    found: list[tuple[float, float]] = []
    for line in lines:
        if all(abs(line[0] - other[0]) >= least for other in found):
            found.append(line)
    return found
