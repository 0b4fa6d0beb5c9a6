"""Scatter of SPECT in a problem: estimated from energy windows, or computed from the image and iterated with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from emrecon.projectors import (
    ChosenWindows,
    EffectiveSource,
    Scan,
    ScanSeries,
    SPECTProjector,
    SPECTScatterProjector,
    WindowedScan,
    WindowedSeries,
    peak_window,
    scatter_windows,
)
from emrecon.projectors.core.arrays import Array, array_namespace, to_numpy
from emrecon.projectors.core.progress import stage, tracked
from emrecon.projectors.scan.window_choice import Peak

from ..engines.em import osem
from ..likelihoods.poisson import PoissonLikelihood
from ..ranks import RankGroup, shard
from .problem import ArgumentError, added, seen_start, start_like

_NAI = (0.099, 140.5)  # energy resolution of NaI, FWHM as a fraction, and the energy in keV that it is for
_STEP = 0.75  # a new estimate errs by about -1/3 of the error of the one before: such steps take most of it away
_SETTLED = 0.05  # relative change of the last update
_MOST = 0.8  # of the counts of the peak
_UPDATES = 12  # of the image between two estimates, at least


@dataclass(frozen=True)
class WindowScatter:
    """Scatter from energy windows beside the photopeak.

    Args:
        method : "tew", the triple energy window, S = (C_lower / w_lower + C_upper / w_upper) w_peak / 2; with one of
            them the height of the other is 0.  "dew", the dual energy window, S = k C_lower.
        lower, upper : names of scatter windows (default: the nearest below and above the photopeak).
        k : of "dew". Jaszczak's 0.5 multiplies counts, whatever the widths of the windows.
        per_kev : k is a ratio of counts per keV instead, S = k C_lower / w_lower w_peak, as in `dual_energy_window`.
        smoothing : FWHM in mm of the Gaussian that smooths the estimate in each view, 0 for none.

    Raises ValueError for an unknown method, and numbers out of range.

    Source: Ogawa et al. 1991; Jaszczak et al. 1984.
    """

    method: str = "tew"
    lower: str | None = None
    upper: str | None = None
    k: float = 0.5
    per_kev: bool = False
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in ("tew", "dew"):
            raise ValueError(f"unknown scatter method {self.method!r} of energy windows; choose from tew, dew")
        if not (math.isfinite(self.k) and self.k > 0):
            raise ValueError(f"WindowScatter k must be positive, got {self.k}")
        if not (math.isfinite(self.smoothing) and self.smoothing >= 0):
            raise ValueError(f"WindowScatter smoothing must be mm and not negative, got {self.smoothing}")
        if self.method == "dew" and self.upper is not None:
            raise ValueError("the dual energy window takes no upper window")


@dataclass(frozen=True)
class EffectiveScatter:
    """Scatter that `SPECTScatterProjector` computes from the image, a background that is updated along with it.

    Args:
        energy_resolution : FWHM at the emission energy, as a fraction (default: NaI's 0.099 at 140.5 keV, which goes as
            1 / sqrt(E)).
        updates : how often the image and the scatter of it are computed in turn.
        spacing : mm of the cells that scatter is computed on.

    Needs an attenuation map and the energy window. Each estimate errs to the other side as the one before, so the
    background moves three quarters of the way.

    Raises ValueError for numbers out of range.

    Source: Frey & Tsui 1996.
    """

    energy_resolution: float | None = None
    updates: int = 4
    spacing: float = 6.0

    def __post_init__(self) -> None:
        resolution = self.energy_resolution
        if resolution is not None and not 0 < resolution < 1:
            raise ValueError(f"EffectiveScatter energy_resolution must be a fraction, got {resolution}")
        if self.updates < 1 or self.updates % 1:
            raise ValueError(f"EffectiveScatter updates must be a whole number of at least 1, got {self.updates}")
        if not (math.isfinite(self.spacing) and self.spacing > 0):
            raise ValueError(f"EffectiveScatter spacing must be positive mm, got {self.spacing}")


Scatter = Array | float | str | WindowScatter | EffectiveScatter | None


@dataclass(frozen=True, eq=False)
class Separated:
    """The scan of the photopeak, with what is known of its scatter.

    Args:
        scan : of one energy window; an estimate of windows is in its background.
        own : an array or a number that is still to be added, or a model of scatter that needs the image, or None.
        said : a line for the summary, empty where there is nothing to say.
        notes : a sentence each.
    """

    scan: Scan | ScanSeries
    own: Array | float | EffectiveScatter | None
    said: str = ""
    notes: tuple[str, ...] = ()


def separated(
    scan: Scan | ScanSeries | WindowedScan | WindowedSeries, scatter: Scatter, peak: Peak | None = None
) -> Separated:
    """Return the scan of the photopeak and its scatter, by window estimates as background, else as it is.

    Of a `WindowedSeries` it is the series of the photopeak, each frame or gate with the scatter of its own counts.

    Raises ArgumentError where windows are missing or ambiguous, and for methods that the scan cannot have.
    """
    wanted = _named(scatter)
    if isinstance(scan, (ScanSeries, WindowedSeries)) and isinstance(wanted, EffectiveScatter):
        raise ArgumentError("scatter", "esse computes the scatter of one image: reconstruct frames or gates one by one")
    if isinstance(scan, (WindowedScan, WindowedSeries)):
        return _of_windows(scan, wanted, peak)
    if peak is not None:
        raise ArgumentError("peak", "peak chooses one of several energy windows, and this scan has one")
    if isinstance(wanted, WindowScatter):
        raise ArgumentError(
            "scatter",
            f"{wanted.method} needs counts of other energy windows, and this scan has one window; "
            "use esse (with an attenuation map), or an estimate of your own",
        )
    return Separated(scan, None if isinstance(wanted, str) else wanted)


def _named(scatter: Scatter) -> Array | float | WindowScatter | EffectiveScatter | str | None:
    """The method that a text names: "none" stays a text, as None leaves the choice."""
    if not isinstance(scatter, str):
        return scatter
    name, _, windows = scatter.partition(":")
    name = name.strip().lower()
    if name in ("tew", "dew"):
        lower, _, upper = windows.partition(",")
        try:
            return WindowScatter(name, lower.strip() or None, upper.strip() or None)
        except ValueError as error:
            raise ArgumentError("scatter", str(error)) from None
    if name not in ("esse", "none") or windows:
        raise ArgumentError("scatter", f"unknown scatter method {scatter!r}; choose from tew, dew, esse, none")
    return EffectiveScatter() if name == "esse" else "none"


def _of_windows(
    scan: WindowedScan | WindowedSeries,
    wanted: Array | float | WindowScatter | EffectiveScatter | str | None,
    peak: Peak | None,
) -> Separated:
    try:
        main = peak_window(scan, peak)
    except ValueError as error:
        raise ArgumentError("peak", str(error)) from None
    single, about = scan.scan(main.name), f"windows      peak {main}"
    if wanted is not None and not isinstance(wanted, WindowScatter):
        kept = None if isinstance(wanted, str) else wanted
        return Separated(single, kept, f"{about}, scatter windows are not used")
    lower, upper = (None, None) if wanted is None else (wanted.lower, wanted.upper)
    try:
        chosen = scatter_windows(scan, main, lower, upper)
    except KeyError as error:
        raise ArgumentError("scatter", str(error.args[0])) from None
    except ValueError as error:
        if wanted is None:
            return Separated(single, None, about, (f"no scatter is modelled: {error}",))
        raise ArgumentError("scatter", str(error)) from None
    if wanted is None and (chosen.lower is None or chosen.upper is None):
        why = (
            f"no scatter is modelled: of the windows beside {main} there is "
            f"{'one alone' if chosen.lower or chosen.upper else 'none'}; scatter= (--scatter) chooses a method"
        )
        return Separated(single, None, f"windows      {chosen}, not used", (*chosen.notes, why))
    assumed = ("scatter is estimated by the triple energy window, as no method was chosen",) if wanted is None else ()
    found = _estimated(scan, chosen, wanted or WindowScatter())
    return replace(found, notes=(*assumed, *found.notes))


def _estimated(scan: WindowedScan | WindowedSeries, chosen: ChosenWindows, wanted: WindowScatter) -> Separated:
    """The scan of the peak with the estimate of its windows as background."""
    main, lower, upper = chosen.peak, chosen.lower, chosen.upper
    notes = list(chosen.notes)
    if lower is None and (upper is None or wanted.method == "dew"):
        side = "below" if wanted.method == "dew" else "below or above"
        why = "; ".join((f"{wanted.method} needs a scatter window {side} {main}", *notes))
        raise ArgumentError("scatter", f"{why}; the windows are {', '.join(map(str, scan.windows))}")
    overlapping = next((note for note in notes if "overlap the photopeak" in note), None)
    if wanted.method == "tew" and overlapping is not None:
        raise ArgumentError(
            "scatter",
            f"tew has one window only, as {overlapping}; dew takes one (lower), none takes none, and a "
            "WindowScatter names those to take",
        )
    k = None
    if wanted.method == "dew" and lower is not None:
        k = wanted.k if wanted.per_kev else wanted.k * lower.width / main.width  # dual_energy_window's is per keV
        upper = None
        how = f"{wanted.k:g} x {'counts per keV' if wanted.per_kev else 'counts'} of {lower}"
    else:
        how = " and ".join(str(window) for window in (lower, upper) if window)
        if lower is None or upper is None:
            side = "above" if upper is None else "below"
            notes.append(
                f"no window lies {side} the photopeak, so the scatter there is taken as 0"
                + ("; this is right above the highest emission of a nuclide only" if side == "above" else "")
            )
    names = (None if window is None else window.name for window in (lower, upper))
    corrected = scan.scatter_corrected(main.name, *names, k=k, fwhm=wanted.smoothing)
    share = _share(corrected)
    if share > _MOST:
        notes.append(
            f"the scatter estimate is {100 * share:.0f} % of the counts in the photopeak; are the windows right?"
        )
    smooth = f", smoothed by {wanted.smoothing:g} mm" if wanted.smoothing else ""
    said = f"windows      peak {main}\n  scatter      {wanted.method}, {how}{smooth}: {100 * share:.1f} % of the counts"
    return Separated(corrected, None, said, tuple(notes))


def _share(scan: Scan | ScanSeries) -> float:
    counts = float(to_numpy(scan.counts).sum(dtype=float))
    background = np.broadcast_to(to_numpy(scan.background), scan.counts.shape)
    return float(background.sum(dtype=float)) / counts if counts else 0.0


def with_effective_scatter(
    scan: Scan, system: SPECTProjector, wanted: EffectiveScatter, energy: float | None, subsets: int, ranks: RankGroup
) -> tuple[Scan, str, tuple[str, ...]]:
    """Return the scan with the scatter of its image in the background, a line that says so, and notes.

    Image and scatter are computed in turn, the image by all ranks together.

    Raises ArgumentError where map, window or energy are missing, or do not allow it.
    """
    source = _source(scan, system, wanted, energy)
    try:
        scattered = SPECTScatterProjector(system, source, spacing=wanted.spacing)
    except ValueError as error:
        raise ArgumentError("scatter", f"esse: {error}") from None
    image: Array | None = None
    own, estimate, change = scan.background, 0.0 * scan.counts, math.inf
    passes = max(2, math.ceil(_UPDATES / subsets))
    for _ in tracked(range(wanted.updates), "scatter and image in turn"):
        likelihood = PoissonLikelihood(scan, scan.model(system))
        parts = shard([likelihood.subset(k, subsets) for k in range(subsets)], ranks)
        if image is None:
            image = start_like(seen_start(tuple(parts)), scan.counts, len(scan.geometry.shape))
        image = next(at.image for at in osem(parts, image) if at.iteration == passes)
        with stage("scatter of the image"):
            found = scan.factors * scattered.estimate(image)
        moved = _STEP * (found - estimate)
        estimate = estimate + moved
        change = _relative(moved, estimate)
        scan = replace(scan, background=added(own, estimate))
    low, high = source.energy_window
    share = float(to_numpy(estimate).sum(dtype=float)) / max(float(to_numpy(scan.counts).sum(dtype=float)), 1e-30)
    said = (
        f"scatter      esse, {source.energy:.4g} keV, window {low:g} to {high:g} keV, resolution "
        f"{100 * source.energy_resolution:.3g} %, {wanted.updates} updates: {100 * share:.1f} % of the counts"
    )
    notes: tuple[str, ...] = ()
    if change > _SETTLED:
        notes = (f"the scatter estimate still changed by {100 * change:.0f} % in its last update; use more updates",)
    return scan, said, notes


def _source(scan: Scan, system: SPECTProjector, wanted: EffectiveScatter, energy: float | None) -> EffectiveSource:
    if scan.energy_window is None:
        raise ArgumentError("scatter", "esse needs the energy window of the scan, which is not known")
    if energy is None:
        raise ArgumentError("scatter", "esse needs the energy of the photons: a radionuclide with a line in the window")
    if system.attenuation is None:
        raise ArgumentError("scatter", "esse needs an attenuation map: mu=, on the command line --mu")
    resolution = wanted.energy_resolution or _NAI[0] * math.sqrt(_NAI[1] / energy)
    try:
        return EffectiveSource(scan.energy_window, energy, resolution)
    except ValueError as error:
        raise ArgumentError("scatter", f"esse: {error}") from None


def _relative(difference: Array, whole: Array) -> float:
    xp = array_namespace(difference)
    total = float(xp.sum(xp.abs(whole)))
    return float(xp.sum(xp.abs(difference))) / total if total else 0.0
