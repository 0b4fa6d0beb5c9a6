"""The report: what a physicist and a physician want to know of an image, on one page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import numpy as np

from emrecon.formats.acquisition import named_line
from emrecon.formats.records import SUV_FACTOR
from emrecon.formats.words import grid_in_words, seconds_in_words
from emrecon.projectors import ImageGrid
from emrecon.projectors.core.files import atomic_path

from ..curves import convergence
from ..looks import CT, Look
from ..orbits import orbit as draw_orbit
from ..planes import Layer
from ..projections import maximum_projection
from ..views import orthoviews
from .page import Markup, document, element, facts, listing, picture, section, table
from .reading import FilePath, Run, read_run
from .regions import RegionRow, region_rows, scale_of, total_of

_LONGER = {"filter": "filter, FWHM in mm"}
_MANY_FRAMES = 12  # of a table of regions by frame


def write_report(
    path: FilePath,
    run: FilePath | Run,
    *,
    ct: FilePath | None = None,
    masks: Sequence[FilePath] = (),
    names: Mapping[int, str] | None = None,
    title: str = "",
    patient: str = "",
) -> None:
    """Write the report of an image as one HTML file, complete or not at all; its print style makes a good PDF.

    Args:
        run : the image, the JSON file beside it, a folder with one such file, or what `read_run` returned.
        ct, masks, names : as for `read_run`.
        title : the heading (default: "Reconstruction report").
        patient : a name to show; without it the report holds none (see `patient_of`).

    Raises as `read_run` does, and OSError naming the file that cannot be written.
    """
    found = run if isinstance(run, Run) else read_run(run, ct=ct, masks=masks, names=names)
    text = report_html(found, title=title, patient=patient)
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")


def report_html(run: Run, *, title: str = "", patient: str = "") -> str:
    """Return the report as a page of HTML, with pictures inside; see `write_report`."""
    heading = title or "Reconstruction report"
    return document(
        heading,
        _header(run, heading, patient),
        _key(run),
        _warnings(run),
        section("Images", *_images(run)),
        *_regions(run),
        section("Acquisition", _acquisition(run)),
        section("Reconstruction", *_reconstruction(run)),
        section("Provenance", *_provenance(run)),
        _footer(run),
    )


def _header(run: Run, title: str, patient: str) -> Markup:
    about = f"Reconstructed {_day(run.record.date)} with emrecon {run.record.version}"
    who = [element("p", patient, class_="patient")] if patient else []
    return element("header", element("h1", title), element("p", about), *who)


def _key(run: Run) -> Markup:
    """The most important facts."""
    values, record = run.shown, run.record
    scale, unit = scale_of(run.unit, [float(values.max())])
    total, total_unit = _total(run)
    nuclide = str(record.subject.get("radionuclide", "")) or "not known"
    sizes = " × ".join(f"{mm:.3g}" for mm in dict.fromkeys(run.grid.voxel_size))
    cells = {
        "radionuclide": nuclide,
        "largest value": f"{number(float(values.max()) / scale)} {unit}",
        "total in the image": f"{number(total)} {total_unit}",
        "method": record.how.replace(record.method, record.method.upper(), 1),
        "voxels": f"{' × '.join(map(str, run.grid.shape))} of {sizes} mm",
    }
    return element(
        "div", *(element("div", element("span", k), element("strong", v)) for k, v in cells.items()), class_="key"
    )


def _total(run: Run) -> tuple[float, str]:
    volume = 1.0 if run.unit == "counts" else run.grid.voxel_volume
    whole = float(run.shown.sum(dtype=float)) * volume
    scale, unit = total_of(run.unit, [whole])
    return whole / scale, unit


def _warnings(run: Run) -> Markup:
    lines = [*run.record.notes, *run.remarks]
    if run.unit == "counts":
        lines.append("the image is not calibrated: its values are not an activity concentration")
    if not lines:
        return element("div", "No warnings.", class_="warnings none")
    return element("div", element("h3", "To look at"), listing(lines, ""), class_="warnings")


# ---- images ----------------------------------------------------------------------------------------------------------


def _images(run: Run) -> Iterator[Markup]:
    values = run.shown
    scale, unit = scale_of(run.unit, [float(values.max())])
    shown, look = values / scale, Look(unit, quantity="activity" if "Bq" in unit else "")
    what = "" if run.image.ndim == 3 else f", the mean of {_parts(run)}"
    point = _hottest(shown, run.grid)
    masks = dict(run.masks) if len(run.masks) <= 12 else {}
    views = orthoviews(shown, run.grid, look, at=point, masks=masks or None)
    said = f"Axial, coronal and sagittal slices through the highest activity (of a cube of 1 mL){what}"
    yield picture(views, f"{said}; the patient's left is on the right.", class_="ortho")
    if run.ct is not None:
        hot = Look(unit, "hot", quantity=look.quantity)
        under = Layer(*run.ct, CT)
        fused = orthoviews(shown, run.grid, hot, at=point, under=under)
        yield picture(fused, "The same slices over the CT.", class_="ortho")
    mip = maximum_projection(shown, run.grid, look, masks=masks or None)
    yield picture(mip, f"Maximum intensity projections from the front and from the left{what}.", class_="ortho")
    if run.image.ndim == 4:
        yield _parts_picture(run, scale, unit)


def _hottest(values: np.ndarray, grid: ImageGrid) -> tuple[float, float, float]:
    """Where the mean in a cube of about 1 mL is highest, mm."""
    from scipy.ndimage import uniform_filter

    size = [max(1, round(10 / mm)) for mm in grid.voxel_size]
    index = np.unravel_index(int(np.argmax(uniform_filter(values.astype(np.float32), size))), values.shape)
    x, y, z = (start + mm * float(i) for start, mm, i in zip(grid.origin, grid.voxel_size, index))
    return x, y, z


def _parts(run: Run) -> str:
    return str(run.times) if run.times is not None else f"{len(run.image)} frames"


def _parts_picture(run: Run, scale: float, unit: str) -> Markup:
    """The activity of the whole image by frame or gate."""
    means = [float(part.mean(dtype=float)) / scale for part in run.image]
    x, against = _clock(run)
    curve = convergence({"whole image": (x, means)}, against=against, quantity=f"mean ({unit})")
    return picture(curve, "The mean of the whole image by frame or gate.", "svg")


def _clock(run: Run) -> tuple[list[float], str]:
    if run.times is not None and run.times.starts is not None:
        middles = [(start + length / 2) / 60 for start, length in zip(run.times.starts, run.times.durations)]
        return middles, "minutes"
    return [float(i) for i in range(1, len(run.image) + 1)], "gate" if run.times is not None else "frame"


# ---- regions ---------------------------------------------------------------------------------------------------------


def _regions(run: Run) -> Iterator[Markup]:
    if not run.masks:
        return
    rows = region_rows(run.shown, run.grid, run.masks, run.unit)
    parts = [_region_table(rows, run.unit), _region_caption(run.unit)]
    factor = run.record.subject.get(SUV_FACTOR)
    if run.unit == "Bq/mL" and isinstance(factor, float | int):
        parts += [element("h3", "SUV by body weight"), _suv_table(rows, float(factor))]
    if run.image.ndim == 4:
        parts += list(_by_frame(run))
    yield section("Regions", *parts)


def _region_table(rows: list[RegionRow], unit: str) -> Markup:
    scale, shown = scale_of(unit, [row.highest for row in rows])
    divisor, total = total_of(unit, [row.total for row in rows])
    heads = ["region", "volume (mL)", f"mean ({shown})", "SD", "maximum", "peak", f"total ({total})"]
    cells = (
        [
            row.name,
            number(row.volume),
            number(row.mean / scale),
            "–" if row.sd is None else number(row.sd / scale),
            number(row.highest / scale),
            number(row.peak / scale),
            number(row.total / divisor),
        ]
        for row in rows
    )
    return table(heads, cells)


def _region_caption(unit: str) -> Markup:
    total = "the sum of its voxels" if unit == "counts" else "mean times volume"
    said = "SD: of the voxels. Peak: the highest mean in a sphere of 1 mL whose centre lies in the region."
    return element("p", f"{said} Total: {total}.", class_="small")


def _suv_table(rows: list[RegionRow], factor: float) -> Markup:
    cells = ([row.name, *(number(value * factor) for value in (row.mean, row.highest, row.peak))] for row in rows)
    return table(["region", "SUV mean", "SUV max", "SUV peak"], cells)


def _by_frame(run: Run) -> Iterator[Markup]:
    """The mean of every region by frame or gate: curves, and a table where they are not too many."""
    by_part = [region_rows(part, run.grid, run.masks, run.unit) for part in run.image]
    scale, unit = scale_of(run.unit, [row.mean for rows in by_part for row in rows])
    x, against = _clock(run)
    names = list(run.masks)
    curves = {name: (x, [rows[k].mean / scale for rows in by_part]) for k, name in enumerate(names)}
    yield element("h3", "By frame or gate")
    yield picture(convergence(curves, against=against, quantity=f"mean ({unit})"), "Mean of each region.", "svg")
    if len(run.image) <= _MANY_FRAMES:
        heads = [f"mean ({unit})", *(f"{value:.4g}" for value in x)]
        yield table(heads, ([name, *map(number, curves[name][1])] for name in names))


# ---- acquisition and reconstruction ----------------------------------------------------------------------------------


def _acquisition(run: Run) -> Markup:
    record = run.record
    said = facts(map(named_line, record.acquisition)) if record.acquisition else element("p", "Not recorded.")
    if record.orbit is None:
        return said
    drawn = picture(draw_orbit(record.orbit.camera), "The orbit of the camera, seen from the feet.", "svg", "orbit")
    return element("div", element("div", said), drawn, class_="half")


def _reconstruction(run: Run) -> Iterator[Markup]:
    record = run.record
    pairs: list[tuple[str, object]] = [
        ("method", record.method.upper()),
        *((_LONGER.get(name, name.replace("_", " ")), value) for name, value in record.parameters.items()),
        ("image", grid_in_words(run.grid)),
        ("unit", run.unit),
    ]
    if record.seconds is not None:
        pairs.append(("took", seconds_in_words(record.seconds)))
    yield facts(pairs)
    if record.calibration:
        yield element("h3", "Calibration")
        yield listing(record.calibration)
    if record.physics:
        yield element("h3", "What is modelled")
        yield facts(_physics(record.physics))
    yield from _convergence(run)


def _physics(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The lines of a problem's summary as names and what they are: "  attenuation  up to 0.15 /cm"."""
    for line in lines:
        name, _, rest = line.strip().partition("  ")
        if rest.strip() and line.startswith(" "):
            yield name, rest.strip()
        else:
            yield "operator", line.strip()


def _convergence(run: Run) -> Iterator[Markup]:
    rows = run.record.convergence
    if not rows:
        return
    yield element("h3", "Convergence")
    objective = [row for row in rows if row.objective is not None]
    change = [row for row in rows if row.change is not None and row.change > 0]
    curves = []
    if len(objective) > 1:
        xs, ys = [row.iteration for row in objective], [float(row.objective or 0) for row in objective]
        low = min(ys)
        drop = convergence({"objective": (xs, [y - low for y in ys])}, quantity="objective above its lowest")
        curves.append(picture(drop, f"The objective, above its lowest value of {low:.8g}.", "svg"))
    if len(change) > 1:
        xs, ys = [row.iteration for row in change], [100 * float(row.change or 0) for row in change]
        moved = convergence({"change": (xs, ys)}, quantity="change of the image (%)", log=True)
        curves.append(picture(moved, "How much the image changed in an iteration, in percent of its norm.", "svg"))
    if curves:
        yield element("div", *curves, class_="half equal")
    else:
        yield element("p", f"{len(rows)} iteration{'s' * (len(rows) > 1)}: too few for a curve.")
    last = rows[-1]
    said = [f"iteration {last.iteration}", f"{seconds_in_words(last.seconds)} of iterations"]
    said += [f"objective {last.objective:.10g}"] if last.objective is not None else []
    said += [f"last change {100 * last.change:.3g} %"] if last.change is not None else []
    yield element("p", f"At the end: {', '.join(said)}.", class_="small")


# ---- provenance ------------------------------------------------------------------------------------------------------


def _provenance(run: Run) -> Iterator[Markup]:
    record = run.record
    yield element("pre", record.command)
    if record.inputs:
        rows = (
            [item.role, item.name, f"{item.size:,}".replace(",", " "), element("span", item.sha256, class_="digest")]
            for item in record.inputs
        )
        yield table(["input", "file", "bytes", "SHA-256"], rows, numbers_from=4)
    pairs: list[tuple[str, object]] = []
    if record.image_sha256:
        pairs.append(("its SHA-256", element("span", record.image_sha256, class_="digest")))
    pairs += [("version", f"emrecon {record.version}"), ("date", record.date)]
    yield facts(pairs)


def _footer(run: Run) -> Markup:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return element("footer", f"Written by emrecon {run.record.version} on {_day(now)}. Not a medical device.")


def _day(date: str) -> str:
    try:
        return f"{datetime.fromisoformat(date):%d %B %Y, %H:%M}".lstrip("0")
    except ValueError:
        return date


def number(value: float) -> str:
    """Return a number with four digits that count, thousands apart: "12 340", "1.234", "0.0012"."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 1e7 or abs(value) < 1e-4:
        return f"{value:.3e}"
    rounded = float(f"{value:.4g}")
    digits = max(0, 3 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{digits}f}".replace(",", "\u202f")
