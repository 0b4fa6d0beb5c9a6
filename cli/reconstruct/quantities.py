"""From the options to Bq/mL and SUV: calibration, times and patient, and what counting does to the views."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
import typer

from emrecon import formats
from emrecon.formats.dicom.nm import nm_kind
from emrecon.formats.dicom.summary import is_dicom
from emrecon.projectors import (
    BedScan,
    DeadTime,
    DynamicScan,
    ImageGrid,
    PETSinogram,
    Scan,
    SPECTGeometry,
    Study,
    WindowedScan,
    WindowedSeries,
    counted_windows,
    view_rates,
    with_dead_time,
    with_view_decay,
)
from emrecon.recon import (
    MeasuredCalibration,
    Quantity,
    SourceActivity,
    quantify,
    sensitivity_of_image,
    sensitivity_of_scan,
)
from emrecon.recon.methods import matching
from emrecon.recon.quantity import MOMENTS, AnyAcquisition, reference_part

from .. import options
from .scatter import window_scatter
from .settings import QuantityTable, Settings

Source = AnyAcquisition | formats.PETLink
COUNTS = "counts"
_UNITS = (COUNTS, "bq/ml", "suv")
_PHANTOM = re.compile(r"(?P<file>.+?):(?P<activity>[0-9.]+(?:[eE][+-]?[0-9]+)?)(?P<more>(?:,.*)?)")
_COUNTERS = ("paralysable", "nonparalysable")


def unit_of(table: QuantityTable) -> str:
    """Return the unit that the options ask for, Bq/mL where they hold a calibration, else counts."""
    with options.named_by_option():
        calibrated = table.calibration is not None or table.calibration_phantom is not None
        return matching(table.unit, _UNITS, "unit") if table.unit else "bq/ml" if calibrated else COUNTS


def check_quantity(table: QuantityTable) -> None:
    """Raise typer.BadParameter, which names the option, for options of a unit that is not asked for."""
    unit = unit_of(table)
    if table.calibration is not None and table.calibration_phantom is not None:
        _refuse("calibration_phantom", "give --calibration or --calibration-phantom, not both")
    if unit == COUNTS:
        for name in ("calibration", "calibration_phantom", "decay_to", "started_at", "timed_factors"):
            if getattr(table, name) is not None:
                _refuse(name, "--unit counts does not use it")
    for name in ("weight", "injected"):
        if getattr(table, name) is not None and unit != "suv":
            _refuse(name, "it is used for --unit suv only")
    if table.injected_at is not None and unit != "suv" and decay_to(table) != "injection":
        _refuse("injected_at", "it is used for --unit suv and --decay-to injection only")
    for name in ("injected_at", "started_at"):
        _moment(name, getattr(table, name))
    decay_to(table)
    dead_time(table)
    phantom(table)


def decay_to(table: QuantityTable) -> str | datetime:
    """Return the moment that activities are decay corrected to."""
    text = table.decay_to or "start"
    if text.strip().lower() in MOMENTS:
        return text.strip().lower()
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        _refuse("decay_to", f"{text!r} is neither {', '.join(MOMENTS)} nor a date and time such as 2026-01-31T10:15:00")


def dead_time(table: QuantityTable) -> DeadTime | None:
    """Return the counter of --dead-time."""
    if table.dead_time is None:
        return None
    seconds, _, kind = table.dead_time.partition(":")
    kind = kind.strip().lower().replace("-", "") or "paralysable"
    try:
        if kind not in _COUNTERS:
            raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(_COUNTERS)}")
        return DeadTime(float(seconds), kind == "paralysable")
    except ValueError as error:
        _refuse("dead_time", f"{table.dead_time!r} is not SECONDS[:paralysable|nonparalysable]: {error}")


@dataclass(frozen=True)
class Phantom:
    """What --calibration-phantom says."""

    path: Path
    source: SourceActivity
    seconds: float | None = None
    started: datetime | None = None


def phantom(table: QuantityTable) -> Phantom | None:
    """Return what --calibration-phantom says, FILE:MBQ[,at=TIME][,seconds=S][,started=TIME]."""
    if table.calibration_phantom is None:
        return None
    text = table.calibration_phantom
    found = _PHANTOM.fullmatch(text)
    if not found:
        _refuse("calibration_phantom", f"{text!r} is not FILE:MBQ[,at=TIME][,seconds=S][,started=TIME]")
    more: dict[str, str] = {}
    for part in found["more"].split(",")[1:]:
        name, _, value = part.partition("=")
        if name.strip() not in ("at", "seconds", "started") or name.strip() in more:
            _refuse("calibration_phantom", f"{part!r} is not at=TIME, seconds=S or started=TIME")
        more[name.strip()] = value.strip()
    try:
        source = SourceActivity(float(found["activity"]), _time(more.get("at")))
        seconds = float(more["seconds"]) if "seconds" in more else None
        return Phantom(Path(found["file"]), source, seconds, _time(more.get("started")))
    except ValueError as error:
        _refuse("calibration_phantom", f"{text!r}: {error}")


def in_words(quantity: Quantity) -> list[str]:
    """Return what to print about the unit of the image: nothing for counts."""
    return [] if quantity.unit == COUNTS else str(quantity).replace("\n", "\n  ").split("\n")


def counted(source: Source, settings: Settings) -> tuple[Source, list[str]]:
    """Return the scan with dead time and decay of the views in its factors, and what to say about them."""
    if isinstance(source, BedScan):
        return _counted_beds(source, settings)
    if isinstance(source, formats.PETLink) or isinstance(source.geometry, PETSinogram):
        return source, []
    table: QuantityTable = settings.quantity
    said: list[str] = []
    counter = dead_time(table)
    found = source
    if counter is not None:
        with options.naming("--dead-time"):
            rates, found = view_rates(source), with_dead_time(source, counter)
            live = np.asarray(counter.live_fraction(rates))
        kind = "paralysable" if counter.paralysable else "nonparalysable"
        said.append(
            f"dead time {counter.tau:g} s, {kind}: {rates.min():.6g} to {rates.max():.6g} counts/s of a head in "
            f"{_windows(source)}, {100 * live.min():.4g} to {100 * live.max():.4g} % of events counted"
        )
    wanted = table.view_decay if table.view_decay is not None else unit_of(table) != COUNTS
    if wanted and not isinstance(reference_part(source), DynamicScan):
        with options.naming("--view-decay"):
            found, share = with_view_decay(found), _view_share(source)
        said.append(f"decay during the scan: views from {share.max():.5g} to {share.min():.5g} of the mean activity")
    return found, said


def _counted_beds(scan: BedScan, settings: Settings) -> tuple[BedScan, list[str]]:
    pairs = [counted(bed, settings) for bed in scan]
    said = [f"bed {i} of {len(scan)}: {line}" for i, (_, lines) in enumerate(pairs, 1) for line in lines]
    return replace(scan, beds=tuple(bed for bed, _ in pairs)), said  # type: ignore[misc]  # of the same kinds


def _view_share(source: AnyAcquisition) -> np.ndarray:
    """The activity of each view over the mean."""
    part = reference_part(source)
    return np.asarray(with_view_decay(replace(part, factors=1.0)).factors, float)


def quantity_of(source: Source, settings: Settings, grid: ImageGrid) -> Quantity:
    """Return what the image of a source, as it was read, becomes."""
    table = settings.quantity
    unit = unit_of(table)
    if unit == COUNTS or isinstance(source, formats.PETLink):
        return Quantity()
    with options.named_by_option():
        measured = _measured(source, settings)
        value = table.calibration if measured is None else measured.value
        found = quantify(
            source,
            grid,
            unit,
            calibration=value,
            decay_to=decay_to(table),
            study=study_of(source, table),
            timed_factors=table.timed_factors,
        )
    own = reference_part(source).study
    if value is None and own is not None and own.calibration is not None:
        return replace(found, notes=("the sensitivity is the file's own", *found.notes))
    return found if measured is None else replace(found, notes=(*_lines(measured), *found.notes))


def study_of(source: Source, table: QuantityTable) -> Study | None:
    """Return patient and tracer of a source with what the options say instead, None where nothing is known."""
    given = {
        "weight": table.weight,
        "injected": table.injected,
        "injection": _moment("injected_at", table.injected_at),
        "start": _moment("started_at", table.started_at),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    own = None if isinstance(source, formats.PETLink) else reference_part(source).study
    return own if not changes else replace(own or Study(), **changes)  # type: ignore[arg-type]


def _measured(source: AnyAcquisition, settings: Settings) -> MeasuredCalibration | None:
    """The calibration of --calibration-phantom: of a planar or SPECT scan in air, or an image in counts."""
    said = phantom(settings.quantity)
    if said is None:
        return None
    scan = _scan_of(said)
    if scan is None:
        return _of_image(said, source)
    study = scan.study or Study()
    if said.started is not None:
        scan = replace(scan, study=replace(study, start=said.started))
    if said.seconds is not None:
        scan = replace(scan, duration=said.seconds)
    if scan.radionuclide is None:
        scan = replace(scan, radionuclide=source.radionuclide)
    elif source.radionuclide not in (None, scan.radionuclide):
        _refuse(
            "calibration_phantom", f"{said.path} is of {scan.radionuclide}, and the data are of {source.radionuclide}"
        )
    one = isinstance(scan, Scan)
    return sensitivity_of_scan(
        scan,
        said.source,
        peak=None if one else settings.physics.peak,
        scatter=None if one else window_scatter(settings.physics),
        dead_time=dead_time(settings.quantity),
    )


def _scan_of(said: Phantom) -> Scan | WindowedScan | None:
    """The phantom's file as a scan, None where it is an image."""
    if formats.holds_image(said.path):
        return None
    if (said.path.is_dir() or is_dicom(said.path)) and nm_kind(said.path) == "planar":
        return _views_of(said.path, formats.read_planar(said.path))
    found = formats.read_acquisition(said.path)
    if not isinstance(found, (Scan, WindowedScan)):
        _refuse("calibration_phantom", f"{said.path} holds a {type(found).__name__}; give one scan of the source")
    return found


def _views_of(path: Path, planar: formats.PlanarImages) -> Scan | WindowedScan:
    """Planar images as views of a camera: one for each head, of every energy window."""
    durations = planar.durations[~np.isnan(planar.durations)]
    if np.unique(planar.parts).size > 1 or (durations.size and np.ptp(durations) > 1e-3 * durations.max()):
        _refuse("calibration_phantom", f"{path} holds several frames or gates; give one image of each head and window")
    windows = [*dict.fromkeys(planar.windows)]
    images = [[i for i, window in enumerate(planar.windows) if window == one] for one in windows]
    if len({len(some) for some in images}) > 1:
        _refuse("calibration_phantom", f"{path} has different numbers of images in its windows")
    n, shape = len(images[0]), (planar.counts.shape[2], planar.counts.shape[1])
    # where the heads were does not matter: counts are added
    along_rows, along_columns = planar.pixel_size or (1.0, 1.0)
    angles, heads = 360 / n * np.arange(n), np.arange(n)
    camera = SPECTGeometry(angles, np.ones(1), shape, (along_columns, along_rows), head=heads)
    counts = tuple(np.swapaxes(planar.counts[some], 1, 2).astype(np.float32) for some in images)
    seconds = float(durations[0]) if durations.size else None
    known = tuple(window for window in windows if window is not None)
    if len(windows) > 1 and len(known) == len(windows):
        return WindowedScan(
            known, counts, camera, duration=seconds, radionuclide=planar.radionuclide, study=planar.study
        )
    limits = known[0].limits if known else None
    return Scan(
        counts[0],
        camera,
        duration=seconds,
        radionuclide=planar.radionuclide,
        energy_window=limits,
        study=planar.study,
    )


def _of_image(said: Phantom, source: AnyAcquisition) -> MeasuredCalibration:
    unit = formats.image_unit(said.path)
    if unit not in (None, COUNTS):
        _refuse("calibration_phantom", f"{said.path} is in {unit}; give an image in counts")
    if said.seconds is None:
        _refuse(
            "calibration_phantom", f"{said.path} is an image; say the seconds of a view (PET: of the scan), seconds=S"
        )
    image, grid = formats.read_image(said.path)
    geometry = reference_part(source).geometry
    pet = isinstance(geometry, PETSinogram)
    n = 1 if isinstance(geometry, PETSinogram) else int(np.unique(geometry.head, return_counts=True)[1].max())
    return sensitivity_of_image(
        image,
        grid,
        said.source,
        source.radionuclide,
        said.seconds,
        total_seconds=n * said.seconds,
        start=said.started,
        pet=pet,
    )


def _lines(measured: MeasuredCalibration) -> Sequence[str]:
    first, *more = measured.notes
    return (f"calibration {measured.value:.6g} of the phantom: {first}", *more)


def _windows(source: AnyAcquisition) -> str:
    if not isinstance(source, (WindowedScan, WindowedSeries)):
        return "the recorded window"
    kept = counted_windows(source.windows)
    return f"{len(kept)} windows ({', '.join(window.name for window in kept)})"


def _moment(name: str, text: str | None) -> datetime | None:
    try:
        return _time(text)
    except ValueError:
        _refuse(name, f"{text!r} is no date and time such as 2026-01-31T10:15:00")


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    if len(text.strip()) <= 10 and ":" not in text and "T" not in text:
        raise ValueError(f"{text!r} has no time of day")
    return datetime.fromisoformat(text.strip())


def _refuse(name: str, why: str) -> NoReturn:
    raise typer.BadParameter(why, param_hint=options.option_of(name))
