"""Which option is for which kind of data and which method: what is not used is refused, never ignored."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from emrecon.projectors import (
    BedScan,
    DynamicScan,
    GatedScan,
    PETSinogram,
    Scan,
    ScanSeries,
    WindowedScan,
    WindowedSeries,
)
from emrecon.recon import METHODS

from .. import learned, options
from .config import is_set
from .settings import Panel, Settings

SPECT, SINOGRAM, LISTMODE = "SPECT data", "PET sinograms", "PET list-mode"
PLAIN, TRAINED, DEEP = "methods without a network", "trained networks", "deep image priors"
JOINT = "joint reconstruction of activity and attenuation"
BEDS, FRAMES, GATES = "scans of several beds", "dynamic scans", "gated scans"
_ALL_DATA, _ALL_METHODS = (SPECT, SINOGRAM, LISTMODE), (PLAIN, TRAINED, DEEP, JOINT)
_PET = (SINOGRAM, LISTMODE)


@dataclass(frozen=True)
class Use:
    """Where an option is used.

    Args:
        data : kinds of data.  methods : families of methods.  needs : another option that must be given along with it,
            or "one or another".  of : the container that the data must be, `BEDS`, `FRAMES` or `GATES`, None for all.
    """

    data: tuple[str, ...] = _ALL_DATA
    methods: tuple[str, ...] = _ALL_METHODS
    needs: str | None = None
    of: str | None = None


USES = {
    "header": Use(),
    "max_ring_difference": Use((LISTMODE,)),
    "beds": Use((SPECT,), of=BEDS),
    "frames": Use((SPECT, SINOGRAM), of=FRAMES),
    "gates": Use((SPECT, SINOGRAM), of=GATES),
    "mu": Use(),
    "mu_series": Use(needs="mu"),
    "mu_unit": Use(needs="mu"),
    "mu_kvp": Use(needs="mu"),
    "mu_shift": Use(needs="mu"),
    "mu_remove_bed": Use(needs="mu"),
    "mu_cylinder": Use(),
    "collimator": Use((SPECT,)),
    "response": Use((SPECT,)),
    "energy": Use((SPECT,), needs="collimator or mu"),
    "intrinsic": Use((SPECT,), needs="collimator"),
    "background": Use(),
    "norm": Use(_PET),
    "multiplicative": Use((SPECT, SINOGRAM)),
    "additive": Use((SPECT, SINOGRAM), needs="multiplicative"),
    "randoms": Use((SINOGRAM,)),
    "scatter": Use((SPECT, SINOGRAM)),
    "peak": Use((SPECT,)),
    "scatter_smoothing": Use((SPECT,)),
    "dew_k": Use((SPECT,), needs="scatter"),
    "energy_resolution": Use((SPECT, SINOGRAM), needs="scatter"),
    "psf": Use(_PET),
    "voxel": Use(),
    "unit": Use((SPECT, SINOGRAM)),
    "calibration": Use((SPECT, SINOGRAM)),
    "calibration_phantom": Use((SPECT, SINOGRAM)),
    "dead_time": Use((SPECT,)),
    "view_decay": Use((SPECT,)),
    "timed_factors": Use((SPECT,)),
    "decay_to": Use((SPECT, SINOGRAM), needs="calibration or calibration_phantom or unit"),
    "started_at": Use((SPECT, SINOGRAM), needs="calibration or calibration_phantom or unit"),
    "injected_at": Use((SPECT, SINOGRAM), needs="decay_to or unit"),
    "injected": Use((SPECT, SINOGRAM), needs="unit"),
    "weight": Use((SPECT, SINOGRAM), needs="unit"),
    "prior": Use(methods=(PLAIN, JOINT)),
    "guide": Use(),
    "neighbours": Use(methods=(PLAIN, JOINT), needs="prior"),
    "kappa": Use(methods=(PLAIN,), needs="prior"),
    "kernel": Use(methods=(PLAIN,)),
    "order": Use(methods=(PLAIN, JOINT)),
    "subsets": Use(methods=(PLAIN, DEEP, JOINT)),
    "iterations": Use(methods=(PLAIN, DEEP, JOINT)),
    "tolerance": Use(methods=(PLAIN, DEEP, JOINT)),
    "weights": Use(methods=(TRAINED,)),
    "network": Use(methods=(DEEP,)),
    "known": Use((SINOGRAM,), (JOINT,)),
    "known_region": Use((SINOGRAM,), (JOINT,), needs="known"),
    "body": Use((SINOGRAM,), (JOINT,)),
    "mu_prior": Use((SINOGRAM,), (JOINT,)),
    "without_tof": Use((SINOGRAM,), (JOINT,)),
    "filter": Use(),
    "picture": Use(),
    "mu_picture": Use(needs="mu"),
    "uncertainty": Use(methods=(PLAIN,)),
    "mu_out": Use((SINOGRAM,), (JOINT,)),
    "report": Use(),
    "masks": Use(needs="report"),
    "log": Use(methods=(PLAIN, DEEP, JOINT)),
    "checkpoint": Use(methods=(PLAIN, DEEP, JOINT)),
    "device": Use(),
    "quiet": Use(),
    "scratch": Use((LISTMODE,)),
    "rank_timeout": Use(),
}
"""Every option besides the data, the method and the image to write."""


def kind_of(source: object) -> str:
    """Return the kind of data that a source holds."""
    if isinstance(source, BedScan):
        return SPECT
    if not isinstance(source, (Scan, WindowedScan, ScanSeries, WindowedSeries)):
        return LISTMODE
    return SINOGRAM if isinstance(source.geometry, PETSinogram) else SPECT


def container_of(source: object) -> str | None:
    """Return whether a source holds several beds, frames or gates; None for one scan."""
    first = source.series[0] if isinstance(source, WindowedSeries) else source
    kinds = {BedScan: BEDS, DynamicScan: FRAMES, GatedScan: GATES}
    return next((name for kind, name in kinds.items() if isinstance(first, kind)), None)


def family_of(method: str) -> str:
    """Return the family of a method by its name."""
    if method in METHODS:
        return JOINT if METHODS[method].joint else PLAIN
    return DEEP if method in learned.DEEP_PRIORS else TRAINED


def check_method(settings: Settings, method: str) -> None:
    """Raise typer.BadParameter, which names the option, for one that the method does not use."""
    family = family_of(method)
    for name in _given(settings):
        if family not in USES[name].methods:
            where = " and ".join(USES[name].methods)
            _refuse(name, f"{method} does not use it; it is for {where}")


def check_data(settings: Settings, kind: str, container: str | None = None) -> None:
    """Raise typer.BadParameter, which names the option, for one that the data or the other options leave unused."""
    given = _given(settings)
    for name in given:
        use = USES[name]
        if kind not in use.data:
            _refuse(name, f"it is for {' and '.join(use.data)}, and this is {kind}")
        if use.of is not None and container != use.of:
            _refuse(name, f"it is for {use.of}, and this is {f'one of the {container}' if container else 'one scan'}")
        needs = [] if use.needs is None else use.needs.split(" or ")
        if needs and not set(needs) & set(given):
            _refuse(name, f"it is used along with {' or '.join(map(options.option_of, needs))} only")


def _given(settings: Settings) -> dict[str, object]:
    """The options that were given, by name."""
    found: dict[str, object] = {}
    panels: tuple[Panel, ...] = (
        settings.data,
        settings.physics,
        settings.quantity,
        settings.method,
        settings.output,
        settings.run,
    )
    for panel in panels:
        for name, value in panel:
            if name in USES and is_set(value, type(panel), name):
                found[name] = value
    return found


def _refuse(name: str, why: str) -> None:
    raise typer.BadParameter(why, param_hint=options.option_of(name))
