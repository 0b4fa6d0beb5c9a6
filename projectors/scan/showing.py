"""The tables that notebooks show of scans: counts, geometry and conditions, and nothing that names anyone."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.html import brief_array, html_table


def shown_scan(title: str, scan: Any, **rows: object) -> str:
    """Return the HTML of a scan of any kind.

    Free texts (`description`) and `study` are left out but for what belongs to the measurement.

    Args:
        rows : what only this kind of scan has.
    """
    counts = getattr(scan, "counts", None)
    several = isinstance(counts, tuple)
    geometry = getattr(scan, "geometry", None)
    window = getattr(scan, "energy_window", None)
    facts: dict[str, object] = {
        **rows,
        "counts": None if counts is None or several else _counts(counts),
        "geometry": geometry,
        "radionuclide": getattr(scan, "radionuclide", None),
        "energy window": None if window is None else f"{window[0]:g} to {window[1]:g} keV",
        "duration": _seconds(getattr(scan, "duration", None), geometry),
        "background": _unless(getattr(scan, "background", None), 0.0),
        "factors": _unless(getattr(scan, "factors", None), 1.0),
        **_measurement(getattr(scan, "study", None)),
    }
    drawing = geometry.orbit_svg() if geometry is not None and hasattr(geometry, "orbit_svg") else ""
    return html_table(title, facts, drawing)


def total_counts(counts: Any) -> str:
    """Return how many counts there are, of arrays on the host."""
    return f"{counts.sum(dtype=float):.5g} in all" if isinstance(counts, np.ndarray) else ""


def _counts(counts: Any) -> str:
    sizes = " x ".join(map(str, counts.shape))
    total = total_counts(counts)
    return f"{sizes}, {total}, at most {float(counts.max()):.5g}" if total and counts.size else sizes


def _seconds(duration: float | None, geometry: object) -> str | None:
    if duration is None:
        return None
    return f"{duration:.6g} s per view" if hasattr(geometry, "orbit_svg") else f"{duration:.6g} s"


def _unless(values: Any, usual: float) -> str | None:
    if values is None or (not getattr(values, "shape", ()) and float(values) == usual):
        return None
    return brief_array(values)


def _measurement(study: Any) -> dict[str, object]:
    """What a study says of the measurement, and not of the patient."""
    if study is None:
        return {}
    place = None if study.placement is None else ", ".join(f"{value:.5g}" for value in study.placement)
    return {
        "injected activity": None if study.injected is None else f"{study.injected:.5g} MBq",
        "camera": " ".join(filter(None, (study.manufacturer, study.model))) or None,
        "collimator": study.collimator,
        "calibration": None if study.calibration is None else f"{study.calibration:.5g} counts/s/MBq",
        "place in the patient": None if place is None else f"({place}) mm",
    }
