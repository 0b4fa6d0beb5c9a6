"""`emrecon view`: a picture of an image, three views by default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from emrecon import figures, formats
from emrecon.figures import Layer, Look
from emrecon.projectors import ImageGrid, Study
from emrecon.projectors.core.progress import stage

from . import options
from .images import Shown, different_patients, is_planar, load, named, point
from .outputs import check_outputs, writing
from .printing import note, plain_console, quietly

SLICES, OVER, LOOK, FILE = "Slices", "Overlays", "Look", "File"


def view(
    image: Annotated[
        Path, typer.Argument(help="NIfTI, HDF5 or Interfile image, or DICOM (a folder or one file of the series).")
    ],
    out: Annotated[
        Path,
        typer.Option(
            rich_help_panel=FILE, help="Picture to write: .png, .svg or .pdf; .gif for --rotate. Nothing else is drawn."
        ),
    ],
    at: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=SLICES,
            metavar="X,Y,Z",
            help="Point of the three views in mm (LPS), max or middle (default).",
        ),
    ] = None,
    crosshair: Annotated[
        bool, typer.Option("--crosshair", rich_help_panel=SLICES, help="Lines where the other two slices are.")
    ] = False,
    montage: Annotated[
        bool, typer.Option("--montage", rich_help_panel=SLICES, help="Many slices instead of three views.")
    ] = False,
    plane: Annotated[
        str | None, typer.Option(rich_help_panel=SLICES, help="--montage: axial (default), coronal or sagittal.")
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=SLICES,
            help="--montage: how many (default: 20), indices such as 10,14,18, or positions such as -20mm,0mm,20mm.",
        ),
    ] = None,
    mip: Annotated[
        bool, typer.Option("--mip", rich_help_panel=SLICES, help="Maximum intensity projections, from front and left.")
    ] = False,
    rotate: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=720,
            rich_help_panel=SLICES,
            help="--mip: from so many directions around the patient; an animation (.gif) or numbered pictures.",
        ),
    ] = None,
    frame: Annotated[
        int | None,
        typer.Option(rich_help_panel=SLICES, help="Frame or gate 1, 2, ... of several (default: their mean)."),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OVER, help="CT (DICOM, NIfTI) or another image that the image is laid over, on any grid."
        ),
    ] = None,
    overlay_window: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=OVER, metavar="LOW,HIGH", help="Window of --overlay (default: soft tissue for a CT)."
        ),
    ] = None,
    opacity: Annotated[
        float | None,
        typer.Option(rich_help_panel=OVER, help="Of the image's strongest colours over --overlay (default: 0.75)."),
    ] = None,
    masks: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=OVER, help="Outlines of regions: RTSTRUCT, SEG, or an image of labels; repeat for more."
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LOOK,
            metavar="LOW,HIGH",
            help="Values at the ends of the colours; 99.5% is a percentile of what is not 0, an empty end the default.",
        ),
    ] = None,
    colour: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LOOK,
            help=f"{', '.join(figures.COLOURS)}, or a map of matplotlib (default: inverted-grey; hot over --overlay).",
        ),
    ] = None,
    log: Annotated[bool, typer.Option("--log", rich_help_panel=LOOK, help="Logarithmic scale.")] = False,
    unit: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LOOK,
            help="At the colour bar: Bq/mL, kBq/mL, SUV, counts ...; converted where the file says its own.",
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(rich_help_panel=LOOK, help="A line above (default: none; no names are written).")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=FILE, metavar="NAME=VALUE", help="Replace a value of the header; repeat."),
    ] = None,
    dpi: Annotated[
        float, typer.Option(min=20, max=1200, rich_help_panel=FILE, help="Pixels of an inch of PNG and GIF.")
    ] = 150,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=FILE, help="Print nothing but errors.")
    ] = False,
) -> None:
    """Draw an image: three views with unit, scale bar, sides of the patient and positions in mm.

    With --montage many slices, with --mip projections; over a CT with --overlay, with outlines of regions with --masks.
    Of planar NM images (static, whole body, dynamic, gated) all heads, energy windows, frames or gates.
    """
    console = plain_console(quiet=quiet)
    _check_kind(montage, mip, {"--at": at, "--crosshair": crosshair or None})
    _check_use("--montage", montage, {"--plane": plane, "--slices": slices})
    _check_use("--mip", mip, {"--rotate": rotate})
    _check_use("--overlay", overlay is not None, {"--overlay-window": overlay_window, "--opacity": opacity})
    if mip and overlay is not None:
        raise typer.BadParameter("it is for slices, and --mip shows projections", param_hint="--overlay")
    if rotate is not None and masks:
        raise typer.BadParameter("outlines are not drawn on projections that turn", param_hint="--masks")
    files = _files(out, rotate)
    if is_planar(image):
        refused: dict[str, object] = {
            "--montage": montage,
            "--mip": mip,
            "--overlay": overlay,
            "--masks": masks,
            "--at": at,
            "--unit": unit,
        }
        _refuse_planar(refused | {"--crosshair": crosshair})
        check_outputs({str(out): out}, (image,))
        with quietly(quiet):
            _draw_planar(image, out, dpi, header or (), frame, (colour, window, log, title or ""), console)
        console.print(f"wrote {out}")
        return
    check_outputs({file.name: file for file in files}, (image, overlay, *(masks or ())))
    with quietly(quiet):
        with stage(f"reading {image.name}"):
            shown = load(image, frame=frame, unit=unit, header=header or ())
        below, said = _below(overlay, overlay_window, shown)
        said += different_patients(("the overlay", overlay), ("the image", image))
        usual = "hot" if below is not None else None
        look, more = shown.look(colour or usual, window, log)
        for text in (*shown.notes, *said, *more):
            note(text, console)
        outlines = _outlines(masks or (), shown.grid, formats.study_of_file(image))
        parts: dict[str, Any] = {"title": title or ""}
        over = {"under": below, "opacity": opacity or 0.75} if below is not None else {}
        with stage("drawing"):
            if rotate is not None:
                drawn = figures.rotating_projection(shown.image, shown.grid, look, n=rotate, **parts)
            elif mip:
                drawn = [figures.maximum_projection(shown.image, shown.grid, look, masks=outlines, **parts)]
            elif montage:
                drawn = [_montage(shown, look, plane, slices, masks=outlines, **over, **parts)]
            else:
                drawn = [_three_views(shown, look, at, crosshair=crosshair, masks=outlines, **over, **parts)]
        with writing():
            if rotate is None:
                figures.save(drawn[0], out, dpi)
            else:
                files = figures.save_frames(drawn, out, dpi)
    console.print(f"wrote {files[0]}" + (f" to {files[-1].name}" if len(files) > 1 else ""))


def _refuse_planar(given: dict[str, object]) -> None:
    wrong = next((name for name, value in given.items() if value), None)
    if wrong is not None:
        raise typer.BadParameter("it is for volumes, and these are planar images", param_hint=wrong)


def _draw_planar(
    path: Path,
    out: Path,
    dpi: float,
    header: Sequence[str],
    part: int | None,
    looks: tuple[str | None, str | None, bool, str],
    console: Console,
) -> None:
    """Draw the planar images of a file, or those of one frame or gate."""
    colour, window, log, title = looks
    with stage(f"reading {path.name}"):
        images = formats.read_planar(path, **options.header_values(header))
    wanted = np.arange(len(images)) if part is None else np.flatnonzero(images.parts == part - 1)
    if not wanted.size:
        n = int(images.parts.max()) + 1
        raise typer.BadParameter(f"there is no {part}; the file has {n}", param_hint="--frame")
    counts = np.asarray(images.counts[wanted], np.float32)
    if images.pixel_size is None:
        note("the size of the pixels is not known, so they are drawn as squares without a scale bar", console)
    look, more = Shown(counts, ImageGrid(counts.shape, (1.0, 1.0, 1.0)), "counts").look(colour, window, log)
    for text in more:
        note(text, console)
    with stage("drawing"):
        figure = figures.planar(
            counts, images.pixel_size, [_planar_label(images, int(i)) for i in wanted], look, title=title
        )
    with writing():
        figures.save(figure, out, dpi)


def _planar_label(images: formats.PlanarImages, i: int) -> str:
    window = images.windows[i]
    several = len({one.limits if one else None for one in images.windows}) > 1
    said = [images.views[i].lower()]
    if several and window is not None:
        said.append(f"{window.lower:g}-{window.upper:g} keV")
    if int(images.parts.max()) > 0:
        said.append(f"{'gate' if images.kind == 'GATED' else 'frame'} {int(images.parts[i]) + 1}")
    return ", ".join(said)


def _three_views(shown: Shown, look: Look, at: str | None, **parts: Any) -> Any:
    place = point(at)
    with named("--at"):
        figures.indices_at(shown.image, shown.grid, place)
    return figures.orthoviews(shown.image, shown.grid, look, at=place, **parts)


def _montage(shown: Shown, look: Look, plane: str | None, slices: str | None, **parts: Any) -> Any:
    with named("--slices"):
        chosen = _slices(slices)
    with named("--plane" if plane not in (None, "axial", "coronal", "sagittal") else "--slices"):
        return figures.montage(shown.image, shown.grid, look, plane=plane or "axial", **chosen, **parts)  # type: ignore[arg-type]


def _slices(text: str | None) -> dict[str, Any]:
    """The slices of a montage: a number of them, indices, or positions that end in mm."""
    if text is None:
        return {}
    parts = [part.strip() for part in text.split(",") if part.strip()]
    in_mm = [part.lower().endswith("mm") for part in parts]
    try:
        if parts and all(in_mm):
            return {"positions": [float(part[:-2]) for part in parts]}
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if not numbers:
        raise ValueError(f"{text!r} is not a number of slices, indices such as 10,14,18 or positions such as -20mm,0mm")
    return {"slices": numbers[0] if len(numbers) == 1 and "," not in text else numbers}


def _below(overlay: Path | None, window: str | None, shown: Shown) -> tuple[Layer | None, list[str]]:
    """The image below, with what to say about it."""
    if overlay is None:
        return None, []
    with stage(f"reading {overlay.name}"):
        other = load(overlay)
    look, said = other.look("grey", window, False, "--overlay-window")
    said = [f"overlay: {text}" for text in (*other.notes, *said)]
    covered = _covered(shown.grid, other.grid)
    if covered <= 0:
        raise typer.BadParameter(
            f"{overlay.name} does not overlap the image: {_extent(other.grid)}, the image {_extent(shown.grid)} "
            "(mm, LPS); are both of the same patient and in the same coordinates?",
            param_hint="--overlay",
        )
    if covered < 0.999:
        said.append(f"the overlay covers {100 * covered:.0f} % of the image; elsewhere nothing is below it")
    return Layer(other.image, other.grid, look), said


def _covered(grid: ImageGrid, other: ImageGrid) -> float:
    """The part of a grid's volume that lies in another one."""
    part = 1.0
    for (low, high), (first, last) in zip(_ends(grid), _ends(other)):
        part *= max(0.0, min(high, last) - max(low, first)) / (high - low)
    return part


def _ends(grid: ImageGrid) -> list[tuple[float, float]]:
    return [(o - d / 2, o + (n - 0.5) * d) for o, d, n in zip(grid.origin, grid.voxel_size, grid.shape)]


def _extent(grid: ImageGrid) -> str:
    return ", ".join(f"{name} {low:.0f} to {high:.0f}" for name, (low, high) in zip("xyz", _ends(grid)))


def _outlines(paths: list[Path] | tuple[Path, ...], grid: ImageGrid, study: Study | None) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for path in paths:
        with stage(f"reading {path.name}"):
            read = formats.read_masks(path, grid, study)
        for name, mask in read.items():
            own = name if name not in found else f"{name} ({len(found) + 1})"
            found[own] = mask
    return found


def _files(out: Path, rotate: int | None) -> list[Path]:
    """The files that will be written; raises typer.BadParameter for a suffix of another kind."""
    with named("--out"):
        if out.suffix.lower() == ".gif":
            if rotate is None:
                raise ValueError("an animation (.gif) is of --mip --rotate N; one picture is .png, .svg or .pdf")
            return [out]
        figures.picture_kind(out)
        return [out] if rotate is None else figures.frame_files(out, rotate)


def _check_kind(montage: bool, mip: bool, of_views: dict[str, object]) -> None:
    if montage and mip:
        raise typer.BadParameter("give --montage or --mip, not both", param_hint="--mip")
    for option, value in of_views.items():
        if value is not None and (montage or mip):
            raise typer.BadParameter("it is for the three views", param_hint=option)


def _check_use(needed: str, given: bool, values: dict[str, object]) -> None:
    for option, value in values.items():
        if value is not None and not given:
            raise typer.BadParameter(f"it is used along with {needed} only", param_hint=option)
