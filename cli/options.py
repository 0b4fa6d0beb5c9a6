"""Options written as text: pairs, collimators, attenuation, header values; and errors that name the option."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from pydantic import ValidationError

from emrecon import formats
from emrecon.projectors import AttenuationMap, ImageGrid, LinearResponse, Study, collimator, collimators
from emrecon.projectors.core.resampling import resample
from emrecon.projectors.spect.collimation import Response
from emrecon.recon import ArgumentError
from emrecon.recon.methods import matching
from emrecon.sims import Cylinder, Phantom, Region

_LOG = logging.getLogger("emrecon")

Beside = Callable[[Path], formats.ImageAxes | None]
"""From the file of an image to the axes that it has beside the projections, None where it says its own."""


def option_of(name: str) -> str:
    """Return the option of an argument: "--max-ring-difference" of "max_ring_difference"."""
    return "--voxel" if name == "grid" else "--" + name.replace("_", "-")


@contextmanager
def named_by_option() -> Iterator[None]:
    """Turn an ArgumentError or a wrong value of a table in the body into a typer.BadParameter that names the option."""
    try:
        yield
    except ArgumentError as error:
        raise typer.BadParameter(error.message, param_hint=option_of(error.argument)) from error
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Input should be ")
        raise typer.BadParameter(
            f"must be {said}, got {first['input']!r}", param_hint=option_of(str(first["loc"][0]))
        ) from error


def numbers(text: str, separator: str, option: str, meaning: str) -> tuple[float, float]:
    """Return two numbers from text such as "99:0.15"."""
    try:
        first, second = (float(part) for part in text.split(separator))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not {meaning}", param_hint=option) from None
    return first, second


def response(name: str | None, law: str | None, energy: float, intrinsic: float | None) -> Response | None:
    """Return the response from --collimator or --response, None with neither."""
    if name and law:
        raise typer.BadParameter("give --collimator or --response, not both", param_hint="--response")
    if law:
        slope, intercept = numbers(law, ",", "--response", "SLOPE,INTERCEPT (mm per mm, mm)")
        with naming("--response"):
            return LinearResponse(slope, intercept)
    if not name or name.lower() == "none":
        if intrinsic is not None:
            raise typer.BadParameter("it is used along with a collimator only", param_hint="--intrinsic")
        return None
    shown = "the names of emrecon.projectors.collimators(), such as siemens-lehr, ge-megp or SIMIND's sy-lehr"
    found = collimator(matching(name, collimators(), "collimator", shown=shown))
    with naming("--energy"):  # the table of options has looked at the others
        return found.response(energy, intrinsic)


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Turn a ValueError of the body into a typer.BadParameter that names the option."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@dataclass(frozen=True)
class MuChoice:
    """How --mu is read: the options that belong to it, each None where it is not given."""

    series: str | None = None
    unit: str | None = None
    kvp: float | None = None
    shift: str | None = None
    remove_bed: bool = False
    energy: float | None = None


def attenuation(
    path: Path | None,
    cylinder: str | None,
    grid: ImageGrid,
    beside: Beside,
    scan: formats.Measured,
    choice: MuChoice = MuChoice(),
) -> AttenuationMap | np.ndarray | None:
    """Return the attenuation map in 1/cm from --mu, a CT or a map, or from --mu-cylinder on the image's grid.

    Args:
        beside : gives the axes of Interfile images.
        scan : the data, whose energy and place a CT needs.
    """
    if path and cylinder:
        raise typer.BadParameter("give --mu or --mu-cylinder, not both", param_hint="--mu")
    if path:
        return formats.read_mu(
            path,
            scan,
            grid,
            energy=choice.energy,
            unit=choice.unit,
            series=choice.series,
            kvp=choice.kvp,
            shift=shift_of(choice.shift),
            remove_bed=choice.remove_bed,
            beside=None if path.is_dir() else beside(path),
        )
    if not cylinder:
        return None
    radius, mu = numbers(cylinder, ":", "--mu-cylinder", "RADIUS:MU (mm, 1/cm)")
    if not (0 < radius < math.inf and 0 <= mu < math.inf):
        raise typer.BadParameter("the radius must be positive and MU not negative", param_hint="--mu-cylinder")
    wide = min(n * size for n, size in zip(grid.shape[:2], grid.voxel_size))
    if radius < wide / 20:
        raise typer.BadParameter(
            f"a radius of {radius:g} mm is small in an image that is {wide:.0f} mm wide; is it in cm?",
            param_hint="--mu-cylinder",
        )
    body = Phantom((Region("cylinder", Cylinder((0, 0, 0), radius, math.inf), mu=mu),))
    return body.attenuation(grid, 140.5)


def shift_of(text: str | None) -> tuple[float, ...]:
    """Return the three mm of --mu-shift, zeros without."""
    try:
        found = tuple(float(part) for part in (text or "0,0,0").split(","))
    except ValueError:
        found = ()
    if len(found) != 3 or not all(map(math.isfinite, found)):
        raise typer.BadParameter(f"{text!r} is not X,Y,Z (mm to the left, back and head)", param_hint="--mu-shift")
    return found


def guide(paths: Sequence[Path], grid: ImageGrid, beside: Beside, study: Study | None = None) -> np.ndarray | None:
    """Return the guide on the image grid from --guide, float32; None without.

    Args:
        beside : gives the axes of Interfile images.
        study : of the scan whose coordinates the grid is in; DICOM and NIfTI are in those of the patient.

    One image is (x, y, z), several are (guides, x, y, z) in the order of the paths.
    """
    shown = [_finite_on(path, grid, beside, study) for path in paths]
    return np.stack(shown) if len(shown) > 1 else next(iter(shown), None)


def _finite_on(path: Path, grid: ImageGrid, beside: Beside, study: Study | None) -> np.ndarray:
    image, own_grid = formats.read_image(path, beside=None if path.is_dir() else beside(path))
    who = formats.patient_note(f"the guide {path.name}", "the scan", formats.study_of_file(path), study)
    if who is not None:
        _LOG.warning("%s", who)
    on_grid = resample(np.asarray(image, np.float32), formats.grid_in_scan(path, own_grid, study), grid)
    if not np.isfinite(on_grid).all():
        raise ValueError(f"{path}: a guide must be finite, and this image holds NaN or infinite values")
    return np.asarray(on_grid)


Scalar = int | float | str


def header_values(pairs: Sequence[str]) -> dict[str, Scalar | tuple[Scalar, ...]]:
    """Return {"radius": 150.0} from ["radius=150"]; lists are written with commas, in brackets or without."""
    values: dict[str, Scalar | tuple[Scalar, ...]] = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not (found and name.strip() and text.strip(" []{}()")):
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--header")
        key = name.strip().replace("-", "_")
        if key in values:
            raise typer.BadParameter(f"{key} is given twice", param_hint="--header")
        values[key] = _value(text.strip())
    return values


def _value(text: str) -> Scalar | tuple[Scalar, ...]:
    bare = next((text[1:-1] for pair in ("[]", "()", "{}") if text[:1] == pair[0] and text[-1:] == pair[1]), None)
    parts = [_scalar(part.strip()) for part in (text if bare is None else bare.rstrip(", ")).split(",")]
    return parts[0] if len(parts) == 1 and bare is None else tuple(parts)


def _scalar(text: str) -> Scalar:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
