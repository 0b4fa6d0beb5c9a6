"""`emrecon report`: an image with all that belongs to it on one page of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emrecon import figures, formats
from emrecon.projectors.core.progress import stage

from .outputs import check_outputs, writing
from .printing import plain_console, quietly


def report(
    run: Annotated[
        Path,
        typer.Argument(
            help="An image that emrecon reconstruct wrote, the JSON file beside it, or a folder with one of them."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The report to write, .html; print it to get a PDF.")],
    ct: Annotated[
        Path | None, typer.Option(help="CT in HU to show the image over: a DICOM folder, NIfTI or HDF5.")
    ] = None,
    ct_series: Annotated[
        str | None, typer.Option(metavar="NUMBER|UID", help="CT series, where the folder of --ct holds several.")
    ] = None,
    masks: Annotated[
        list[Path] | None,
        typer.Option(help="Regions for the table: RTSTRUCT, SEG, or an image of labels; repeat for several files."),
    ] = None,
    mask_names: Annotated[
        str | None,
        typer.Option(metavar="1=NAME,2=NAME", help="Names of the numbers in --masks that are images of labels."),
    ] = None,
    title: Annotated[str, typer.Option(help='Heading (default: "Reconstruction report").')] = "",
    with_names: Annotated[
        bool, typer.Option("--with-names/--without-names", help="Show the patient's name, from --names-from.")
    ] = False,
    names_from: Annotated[
        Path | None, typer.Option(help="The scan or the DICOM file that names the patient (default: a DICOM RUN).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet/--no-quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Write a report of a reconstruction: images, regions, acquisition, physics, convergence, warnings, provenance.

    The page needs no other file and no network; no patient's name is in it unless --with-names.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"a report is .html, not {out.name!r}", param_hint="--out")
    if names_from is not None and not with_names:
        raise typer.BadParameter("it is used along with --with-names only", param_hint="--names-from")
    if ct_series is not None and ct is None:
        raise typer.BadParameter("it is used along with --ct only", param_hint="--ct-series")
    names = _names(mask_names, masks)
    check_outputs({"report": out}, [run, ct, names_from, *(masks or ())])
    with quietly(quiet):
        patient = _patient(run, names_from) if with_names else ""
        with stage(f"reading {run.name}"):
            found = figures.read_run(run, ct=ct, ct_series=ct_series, masks=masks or (), names=names)
        with writing(), stage("report"):
            figures.write_report(out, found, title=title, patient=patient)
    plain_console(quiet=quiet).print(f"wrote {out}")


def _patient(run: Path, source: Path | None) -> str:
    """The patient's name from a file that holds it."""
    try:
        return figures.patient_of(source or run)
    except formats.FormatError as error:
        if source is not None:
            raise
        advice = f"{run.name} does not hold the patient's name; name the scan or a DICOM file by --names-from FILE"
        raise typer.BadParameter(advice, param_hint="--with-names") from error


def _names(text: str | None, masks: list[Path] | None) -> dict[int, str] | None:
    """The names of labels: {1: "liver"} of "1=liver"."""
    if text is None:
        return None
    if not masks:
        raise typer.BadParameter("it is used along with --masks only", param_hint="--mask-names")
    names: dict[int, str] = {}
    for part in text.split(","):
        label, _, name = part.partition("=")
        if not (label.strip().isdigit() and name.strip()):
            raise typer.BadParameter(f"{part.strip()!r} is not NUMBER=NAME", param_hint="--mask-names")
        names[int(label)] = name.strip()
    return names
