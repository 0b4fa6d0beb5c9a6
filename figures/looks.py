"""How values become colours: the map, the window by value or percentile, linear or logarithmic, and the unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from emrecon.projectors.core.arrays import Array, to_numpy

if TYPE_CHECKING:
    from matplotlib.colors import Colormap, Normalize

COLOURS = {
    "inverted-grey": "gray_r",
    "grey": "gray",
    "hot": "hot",
    "inferno": "inferno",
    "viridis": "viridis",
    "blue-red": "RdBu_r",
    "spectrum": "nipy_spectral",
}
"""Colour maps by the names used here; every name of matplotlib will do, too."""

MISSING = "#e6c8e6"
"""The colour of voxels that are NaN or infinite."""

Limit = float | str | None

_TOP = 99.8  # % of the voxels that are not 0 lie below the default of the upper limit
_DECADES = 3  # of a logarithmic scale without a lower limit


@dataclass(frozen=True)
class Look:
    """How an image is shown.

    Args:
        unit : of the values, such as "Bq/mL", "SUV" or "counts"; it stands at the colour bar.
        colour : "inverted-grey", "grey", "hot", "inferno", "viridis", "blue-red", "spectrum" or a name of matplotlib's.
        window : (low, high), the values of the two ends of the map: numbers; "99.5%" for a percentile of the voxels
            that are not 0; or None. The default is 0 to the 99.8th percentile of the positive voxels, or all values
            where none is positive; with `symmetric`, the 99.8th percentile of the magnitudes to both sides of 0.
        log : a logarithmic scale; its lower limit must be positive, and is a thousandth of the upper one by default.
        symmetric : both sides of 0 alike, for differences.
        quantity : what the values are, such as "activity"; it stands before the unit.

    Values outside of the window have the colour of its end, and the colour bar ends in a tip there.

    Raises ValueError for limits that are not numbers or percentiles, or not in order.
    """

    unit: str = ""
    colour: str = "inverted-grey"
    window: tuple[Limit, Limit] = (None, None)
    log: bool = False
    symmetric: bool = False
    quantity: str = ""

    def __post_init__(self) -> None:
        if len(tuple(self.window)) != 2:
            raise ValueError(f"Look window must be (low, high), got {self.window!r}")
        object.__setattr__(self, "window", tuple(_checked(limit) for limit in self.window))
        if self.log and self.symmetric:
            raise ValueError("a logarithmic scale has no negative side; leave out log or symmetric")

    def limits(self, image: Array) -> tuple[float, float]:
        """Return the values (low, high) at the ends of the map for an image.

        Raises ValueError where they are not in order, and where a logarithmic scale has no positive values.
        """
        values = _finite(image)
        low, high = (_value(limit, values) for limit in self.window)
        if high is None:
            high = self._top(values)
            if low is not None and high <= low:  # a lower limit above the usual upper one
                high = max(float(values.max()) if values.size else 0.0, low + (abs(low) or 1.0))
        if self.log and not high > 0:
            raise ValueError("a logarithmic scale needs positive values, and this image has none")
        if low is None:
            low = self._bottom(values, high)
        if self.log and not low > 0:
            raise ValueError(f"a logarithmic scale begins above 0, got a window from {low:g}")
        if low == high and self.window == (None, None):
            high = low + 1.0  # an image of one value
        if not low < high:
            raise ValueError(f"the window runs from {low:g} to {high:g}; its lower end must be below its upper one")
        return low, high

    def _top(self, values: np.ndarray) -> float:
        chosen = np.abs(values[values != 0]) if self.symmetric else values[values > 0]
        largest = float(values.max()) if values.size and not self.symmetric else 1.0
        return _percentile(chosen, _TOP, largest)

    def _bottom(self, values: np.ndarray, high: float) -> float:
        if self.symmetric:
            return -high
        if self.log:
            return high / 10**_DECADES
        return 0.0 if (values > 0).any() or not values.size else float(values.min())

    def norm(self, image: Array) -> tuple[Normalize, str]:
        """Return matplotlib's norm for an image, and where values lie beyond it: "min", "max", "both" or "neither"."""
        from matplotlib.colors import LogNorm, Normalize

        (low, high), values = self.limits(image), _finite(image)
        # a logarithmic scale always has something below it, and it need not be said of zeros
        below = values.size > 0 and values.min() < low - 1e-6 * abs(low) and not (self.log and values.min() >= 0)
        above = values.size > 0 and values.max() > high + 1e-6 * abs(high)
        ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        return (LogNorm if self.log else Normalize)(low, high), ends[bool(below), bool(above)]

    @property
    def colormap(self) -> Colormap:
        """The colour map; raises ValueError, with the nearest names, for one that does not exist."""
        from matplotlib import colormaps

        name = COLOURS.get(self.colour, self.colour)
        if name not in colormaps:
            near = get_close_matches(self.colour, [*COLOURS, *colormaps], 1)
            meant = f"; did you mean {near[0]!r}?" if near else ";"
            known = f"choose from {', '.join(COLOURS)}, or a name of matplotlib's"
            raise ValueError(f"unknown colour map {self.colour!r}{meant} {known}")
        return colormaps[name].with_extremes(bad=MISSING)

    def ink(self, image: Array) -> str:
        """Return "black" or "white", whichever is seen on what has no value in an image."""
        low, high = self.limits(image)
        ground = (0.0 - low) / (high - low) if self.symmetric or low >= 0 else 0.0
        red, green, blue, _ = self.colormap(float(np.clip(ground, 0, 1)))
        return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"

    @property
    def label(self) -> str:
        """What stands at the colour bar."""
        return f"{self.quantity} ({self.unit})" if self.quantity and self.unit else self.quantity or self.unit

    def fixed(self, image: Array) -> Look:
        """Return this look with the limits that it has for an image, to show others in the same way."""
        return replace(self, window=self.limits(image), symmetric=False)


def parse_window(text: str) -> tuple[Limit, Limit]:
    """Return the window of a text such as "0,12.5", "5%,99.5%" or ",99%" (an end that is left out has its default).

    Raises ValueError for anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2:
        raise ValueError(f"{text!r} is not LOW,HIGH, such as 0,12.5 or 5%,99.5%")
    low, high = (None if not part else part if part.endswith("%") else _number(part, text) for part in parts)
    return _checked(low), _checked(high)


def drawn(values: np.ndarray, norm: Any) -> np.ndarray:
    """Return values as they are drawn: what is not finite masked, what is below a logarithmic scale at its end."""
    masked = np.ma.masked_invalid(np.asarray(values, float))
    return np.ma.maximum(masked, norm.vmin) if type(norm).__name__ == "LogNorm" else masked


def put_bar(axis: Any, look: Look, norm: Any, ends: str) -> None:
    """Draw a colour bar with the unit; powers of ten stand at the unit, not at the numbers."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import MaxNLocator, NullFormatter

    from .sheets import SMALL, TEXT, plain

    bar = axis.figure.colorbar(ScalarMappable(norm, look.colormap), cax=axis, extend=ends, extendfrac=0.04)
    bar.outline.set_linewidth(0.5)
    label = plain(look.label)
    if look.log:
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        bar.locator = MaxNLocator(6)
        bar.formatter, times = shortened(max(abs(norm.vmin), abs(norm.vmax)))
        bar.update_ticks()
        label = f"{label}  {times}".strip()
    bar.ax.tick_params(labelsize=SMALL, width=0.5, length=2.5)
    bar.set_label(label, fontsize=TEXT)


def shortened(largest: float) -> tuple[Any, str]:
    """Return what writes the numbers of a scale up to `largest` in short, and the power of ten that it takes out."""
    from matplotlib.ticker import FuncFormatter

    power = _power(largest)
    write = FuncFormatter(lambda value, _: f"{value / 10**power:g}".replace("-", "\u2212"))
    return write, rf"$\times\,10^{{{power}}}$" if power else ""


def _power(largest: float) -> int:
    """The power of ten, a multiple of three, that is taken out of the numbers of a scale."""
    if not 0 < largest < math.inf or 1e-2 <= largest < 1e4:
        return 0
    return 3 * math.floor(math.log10(largest) / 3)


def _checked(limit: Limit) -> Limit:
    if limit is None:
        return None
    if isinstance(limit, str):
        part = _number(limit.strip().removesuffix("%"), limit)
        if not limit.strip().endswith("%") or not 0 <= part <= 100:
            raise ValueError(f"a limit of a window is a number, or a percentile from 0% to 100%, got {limit!r}")
        return limit.strip()
    if not math.isfinite(float(limit)):
        raise ValueError(f"a limit of a window must be a finite number, got {limit!r}")
    return float(limit)


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{whole!r} is not a limit of a window: a number, or a percentile such as 99.5%") from None


def _value(limit: Limit, values: np.ndarray) -> float | None:
    if isinstance(limit, str):
        return _percentile(values[values != 0], float(limit[:-1]), 0.0)
    return limit


def _percentile(values: np.ndarray, percent: float, otherwise: float) -> float:
    return float(np.percentile(values, percent)) if values.size else otherwise


def _finite(image: Array) -> np.ndarray:
    values = np.asarray(to_numpy(image), float)
    return values[np.isfinite(values)]


CT = Look("HU", "grey", (-160.0, 240.0))
"""A CT in a window for soft tissue."""

DIFFERENCE = Look("", "blue-red", symmetric=True)
"""A difference: blue below 0, red above."""
