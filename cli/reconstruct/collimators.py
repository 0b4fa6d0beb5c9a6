"""The collimator that a file names, where no option gives one."""

from __future__ import annotations

import logging

import typer

from emrecon import formats
from emrecon.projectors import (
    BedScan,
    PETSinogram,
    WindowedScan,
    WindowedSeries,
    collimator_named,
    isotope,
    peak_window,
)

from . import data
from .settings import Settings

_LOG = logging.getLogger("emrecon")


def open_source(settings: Settings) -> tuple[Settings, data.Source]:
    """Return the source of the data, and the settings with the collimator that its file names."""
    source = data.open_source(settings.data)
    return with_collimator(settings, source), source


def with_collimator(settings: Settings, source: object) -> Settings:
    """Return the settings with the collimator of the file, and say which it is.

    Where the file names none, or the photons that its response depends on are not known, the settings stay as they are,
    and a note says why and what to give.

    Raises typer.BadParameter, with what to give, for a name that is not known.
    """
    physics, study = settings.physics, getattr(source, "study", None)
    of_pet = isinstance(source, formats.PETLink) or isinstance(getattr(source, "geometry", None), PETSinogram)
    if of_pet or study is None or physics.collimator or physics.response:
        return settings
    if not study.collimator:
        _LOG.warning("the file names no collimator, so no resolution is modelled; give --collimator or --response")
        return settings
    camera = " ".join(part for part in (study.manufacturer, study.model) if part)
    shown = f"the collimator of the file, {study.collimator}{f' of {camera}' if camera else ''},"
    advice = "so no resolution is modelled; give --collimator NAME or --response, or --collimator none"
    try:
        found = collimator_named(study.collimator, study.manufacturer, study.model)
    except ValueError as error:
        raise typer.BadParameter(
            f"{shown} is not known ({str(error).partition(';')[0]}); give --collimator NAME, one of "
            "emrecon.projectors.collimators() such as siemens-lehr, --response SLOPE,INTERCEPT, or --collimator none, "
            "which models no resolution",
            param_hint="--collimator",
        ) from None
    try:
        energy = physics.energy or _energy(source, physics.peak)
        response = found.response(energy, physics.intrinsic)
    except (ValueError, KeyError) as error:
        _LOG.warning("%s is not modelled (%s), %s", shown, error, advice)
        return settings
    _LOG.info(
        "%s is modelled as %s: holes %g mm, septa %g mm, length %g mm; %.3g mm FWHM at 100 mm and %.4g keV "
        "(--collimator replaces it, --collimator none leaves it out)",
        *(shown, found.name, found.hole_diameter, found.septal_thickness, found.hole_length),
        *(2.3548 * float(response.sigma(100.0)), energy),
    )
    return settings.model_copy(update={"physics": physics.model_copy(update={"collimator": found.name})})


def _energy(source: object, peak: str | None) -> float:
    """The energy in keV of the photons of a scan or of the photopeak of several windows."""
    one = source[0] if isinstance(source, BedScan) else source
    if isinstance(one, WindowedScan):
        limits: tuple[float, float] | None = peak_window(one, peak).limits
    elif isinstance(one, WindowedSeries):
        limits = peak_window(one.part(0), peak).limits
    else:
        limits = getattr(one, "energy_window", None)
    nuclide = getattr(one, "radionuclide", None)
    if nuclide is None:
        raise ValueError("the radionuclide is not known")
    return isotope(nuclide).energy_in(limits)
