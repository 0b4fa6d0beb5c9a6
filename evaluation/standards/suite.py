"""The suite `standards`: what each protocol is run with, quickly for a look and in full."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..sections import Section
from ..suite import Options, Results, Suite, Unit
from . import lutetium, pet_counting, pet_imaging, spect_camera, spect_tomography
from .petric import petric_sections, petric_units
from .sections import sections_of


def units_of(options: Options) -> Sequence[Unit]:
    """Return the units: NEMA NU 2, NEMA NU 1, Lu-177, and PETRIC."""
    full = options.size == "full"
    protocol = lutetium.Protocol() if full else lutetium.Protocol(fine=False, iterations=3, subsets=6)
    hours = lutetium.HOURS if full else (24.0,)
    found = [
        _unit("nema-pet/sensitivity", pet_counting.sensitivity, n=1_500_000 if full else 100_000),
        _unit("nema-pet/counting", pet_counting.counting, n=16_000_000 if full else 1_500_000),
        _unit("nema-pet/resolution", pet_imaging.spatial_resolution, n=500_000 if full else 60_000),
        _unit("nema-pet/coregistration", pet_imaging.coregistration, n=400_000 if full else 40_000),
        _unit(
            "nema-pet/image-quality",
            pet_imaging.image_quality,
            prompts=60e6 if full else 20e6,
            iterations=(1, 2, 3, 4, 6, 8) if full else (1, 2),
            coarse=not full,
        ),
        _unit("nema-spect/flood", spect_camera.flood),
        _unit("nema-spect/sensitivity", spect_camera.sensitivity, fine=full),
        _unit("nema-spect/rotation", spect_camera.rotation),
        _unit("nema-spect/count-losses", spect_camera.count_losses),
        _unit("nema-spect/resolution", spect_tomography.resolution, fine=full),
        _unit(
            "nema-spect/cold-spheres",
            spect_tomography.cold_spheres,
            counts=30e6 if full else 5e6,
            iterations=6 if full else 3,
            fine=full,
        ),
        _unit("lu-177/spheres", lutetium.recovery, protocol=protocol),
        *(_unit(f"lu-177/patient-{h:g}h", lutetium.patient, hours=h, protocol=protocol) for h in hours),
    ]
    return [*found, *petric_units(options)]


def _sections(results: Results, options: Options) -> Sequence[Section]:
    return [*sections_of(results, options), *petric_sections(results, options)]


def _unit(name: str, measure: Callable[..., Mapping[str, Any]], **given: Any) -> Unit:
    def run(folder: Path) -> Mapping[str, Any]:
        return measure(folder, **given)

    return Unit(name, run, arguments={key: repr(value) for key, value in given.items()})


SUITE = Suite("standards", "NEMA NU 2 and NU 1, quantitative Lu-177, PETRIC: simulated scans", 60, units_of, _sections)
