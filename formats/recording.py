"""The record of a reconstruction, made of what it started from: for the command line and for Python alike."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from emrecon.projectors import BedScan, SPECTGeometry, Study, isotope
from emrecon.projectors.physics.quantities import CONCENTRATION, suv

from .acquisition import acquisition_in_words
from .records import SUV_FACTOR, Orbit, Pass, Provenance, patient_words, used_file, without_files, without_words

FilePath = str | os.PathLike[str]


class Modelled(Protocol):
    """A problem, as `spect_problem` and `pet_problem` return it: its summary and its notes."""

    @property
    def summary(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


class Unit(Protocol):
    """What values are, as `quantify` returns it."""

    @property
    def unit(self) -> str: ...
    @property
    def decay_to(self) -> str: ...
    @property
    def reference(self) -> datetime | None: ...


def record_run(
    source: Any,
    problem: Modelled | str,
    method: str = "osem",
    *,
    inputs: Mapping[str, FilePath] | Iterable[tuple[str, FilePath]] = (),
    quantity: Unit | None = None,
    convergence: Iterable[Mapping[str, Any]] = (),
    notes: Iterable[str] = (),
    command: str = "",
    seconds: float | None = None,
    study: Study | None = None,
    **parameters: object,
) -> Provenance:
    """Return the record of a reconstruction, for `write_image(..., provenance=)` and the report::

        history = recon.History(problem.value)
        image = recon.reconstruct(problem, "osem", iterations=4, callbacks=[history])
        record = record_run(scan, problem, inputs={"projections": file}, convergence=history.rows, iterations=4)

    Args:
        source : the scan that was reconstructed.
        problem : of the scan, or its summary as a text.
        inputs : what files and folders were -> their paths; their digests are taken.
        quantity : what the image was multiplied by (`recon.quantify`), None for counts.
        convergence : the rows of a `History`.
        notes : what the user should look at, besides those of the problem.
        command : what was run (default: the call in Python).
        study : of the scan (default: `source.study`).
        parameters : of the method, such as iterations=4.

    Names of the patient, as the study has them, are left out of all texts, and files are called by their role.

    Raises OSError for inputs that are not there.
    """
    own = getattr(source, "study", None)
    pairs = list(inputs.items() if isinstance(inputs, Mapping) else inputs)
    hidden = patient_words(own)

    def clean(lines: Iterable[str]) -> tuple[str, ...]:
        return tuple(without_words(without_files(line, pairs), hidden) for line in lines if line.strip())

    said = {name: str(value) for name, value in parameters.items()}
    call = ", ".join([repr(method), *(f"{name}={value!r}" for name, value in parameters.items())])
    summary, own_notes = (problem, ()) if isinstance(problem, str) else (problem.summary, problem.notes)
    return Provenance(
        command="".join(clean([command or f"emrecon.recon.reconstruct(problem, {call})"])),
        method=method,
        parameters=said,
        unit="" if quantity is None else quantity.unit,
        inputs=tuple(used_file(role, path) for role, path in pairs),
        acquisition=clean(acquisition_in_words(source)),
        physics=clean(summary.splitlines()),
        notes=clean((*own_notes, *notes)),
        convergence=tuple(Pass(**row) for row in convergence),
        orbit=_orbit(source),
        calibration=() if quantity is None or quantity.unit == "counts" else clean(str(quantity).splitlines()),
        placement=None if own is None else own.placement,
        subject=_subject(study or own or Study(), getattr(source, "radionuclide", None), quantity),
        seconds=None if seconds is None else round(seconds, 3),
    )


def _orbit(source: Any) -> Orbit | None:
    camera = source.geometries[0] if isinstance(source, BedScan) else getattr(source, "geometry", None)
    return Orbit.of(camera) if isinstance(camera, SPECTGeometry) else None


def _subject(study: Study, nuclide: str | None, quantity: Unit | None) -> dict[str, float | str]:
    said: dict[str, Any] = {
        "weight (kg)": study.weight,
        "height (m)": study.height,
        "sex": study.sex,
        "injected (MBq)": study.injected,
        "injection": None if study.injection is None else study.injection.isoformat(),
        "start": None if study.start is None else study.start.isoformat(),
        "radionuclide": nuclide,
        SUV_FACTOR: _suv_factor(study, nuclide, quantity),
    }
    return {name: value for name, value in said.items() if value is not None}


def _suv_factor(study: Study, nuclide: str | None, quantity: Unit | None) -> float | None:
    """What turns an image in Bq/mL into SUV by body weight; None where something for it is not known."""
    if quantity is None or quantity.unit != CONCENTRATION or nuclide is None:
        return None
    injected, injection, weight = study.injected, study.injection, study.weight
    moment = injection if quantity.decay_to == "injection" else quantity.reference
    if injected is None or injection is None or weight is None or moment is None:
        return None
    if (moment.tzinfo is None) != (injection.tzinfo is None) or moment < injection:
        return None
    left = isotope(nuclide).decay((moment - injection).total_seconds())
    factor: Any = suv(np.ones(1), injected * left, weight)
    return float(factor[0])
