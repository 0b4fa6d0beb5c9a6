"""The scatter that `--scatter` asks for: a method by name, or a file with a value for every bin."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import typer

from emrecon.recon import EffectiveScatter, SingleScatter, WindowScatter

from .. import options
from .settings import PhysicsTable

_WINDOWS, _EFFECTIVE, _SINGLE, _NONE = ("tew", "dew"), "esse", "sss", "none"
_METHOD = re.compile(r"(tew|dew|esse|sss|none)(?::(.*))?", re.IGNORECASE)


def method_of(physics: PhysicsTable) -> str | None:
    """Return the method that --scatter names, in lower case, None without one or for a file."""
    found = _METHOD.fullmatch(physics.scatter or "")
    return found[1].lower() if found else None


def scatter_file(physics: PhysicsTable) -> Path | None:
    """Return the file of --scatter, None without one or for a method."""
    if physics.scatter is None or method_of(physics):
        return None
    path = Path(physics.scatter)
    if not path.suffix and not path.exists():
        why = f"unknown method {physics.scatter!r}, and no such file; choose from tew, dew, esse, sss, none, or a file"
        raise typer.BadParameter(why, param_hint="--scatter")
    return path


def spect_scatter(physics: PhysicsTable) -> WindowScatter | EffectiveScatter | str | None:
    """Return the method for `spect_problem`, None to leave it the choice; raises typer.BadParameter by the option."""
    method = method_of(physics)
    _check(physics, method)
    if method == _SINGLE:
        raise typer.BadParameter("sss is for PET sinograms; SPECT has tew, dew, esse, none", param_hint="--scatter")
    if method in (_EFFECTIVE, _NONE) and ":" in str(physics.scatter):
        raise typer.BadParameter(f"{method} takes nothing after the colon", param_hint="--scatter")
    if method == _EFFECTIVE:
        with options.naming("--energy-resolution"):
            return EffectiveScatter(physics.energy_resolution)
    return _NONE if method == _NONE else window_scatter(physics)


def pet_scatter(physics: PhysicsTable) -> SingleScatter | None:
    """Return the simulation for `pet_problem`, None without one; raises typer.BadParameter by the option."""
    method = method_of(physics)
    _check(physics, method)
    if method in (*_WINDOWS, _EFFECTIVE):
        why = f"{method} is a method of SPECT; PET sinograms have sss, or a file with the scatter of every bin"
        raise typer.BadParameter(why, param_hint="--scatter")
    if method != _SINGLE:
        return None
    with options.naming("--scatter"):
        fit = str(physics.scatter).partition(":")[2].strip().lower() or "auto"
        return SingleScatter(energy_resolution=physics.energy_resolution, fit=fit)


def window_scatter(physics: PhysicsTable) -> WindowScatter | None:
    """Return the estimate by energy windows that the options describe, None where they say nothing of it."""
    method = method_of(physics)
    if method not in _WINDOWS:
        return None if physics.scatter_smoothing is None else WindowScatter(smoothing=physics.scatter_smoothing)
    _, _, names = str(physics.scatter).partition(":")
    lower, _, upper = (part.strip() or None for part in names.partition(","))
    with options.naming("--scatter"):
        found = WindowScatter(method, lower, upper, smoothing=physics.scatter_smoothing or 0.0)
    k, per_kev = _k(physics)
    return found if k is None else replace(found, k=k, per_kev=per_kev)


def _check(physics: PhysicsTable, method: str | None) -> None:
    """Refuse options that the method does not use."""
    file = scatter_file(physics)
    if physics.dew_k is not None and method != "dew":
        raise typer.BadParameter("it is used along with --scatter dew only", param_hint="--dew-k")
    if physics.scatter_smoothing is not None and (file or method not in (None, *_WINDOWS)):
        raise typer.BadParameter("it smooths the estimate of tew and dew only", param_hint="--scatter-smoothing")
    if physics.energy_resolution is not None and method not in (_EFFECTIVE, _SINGLE):
        raise typer.BadParameter("it is used along with --scatter esse and sss only", param_hint="--energy-resolution")


def _k(physics: PhysicsTable) -> tuple[float | None, bool]:
    """k of --dew-k, and whether it is one of counts per keV."""
    if physics.dew_k is None:
        return None, False
    number, _, per = physics.dew_k.partition(":")
    try:
        value, per = float(number), per.strip().lower() or "counts"
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf") or per not in ("counts", "kev"):
        raise typer.BadParameter(f"{physics.dew_k!r} is not K[:counts|kev], K positive", param_hint="--dew-k")
    return value, per == "kev"
