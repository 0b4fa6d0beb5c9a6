"""Beds, frames and gates: the problems that a source is divided into, and the one image that theirs become."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import typer

from emrecon import formats
from emrecon.projectors import (
    BedScan,
    DynamicScan,
    GatedScan,
    ImageGrid,
    ScanSeries,
    WindowedSeries,
    bed_slices,
    grid_slices,
)
from emrecon.projectors.core.arrays import to_numpy
from emrecon.recon import Problem, Quantity, RankGroup, joint_problem, stitch
from emrecon.recon.problem import bed_reach, checked_grid, fitting, joined_mu, labelled, notes_on_overlap
from emrecon.recon.problem.scatter import separated
from emrecon.recon.ranks import ALONE

from .. import options
from . import data, quantities
from .engine import Choice
from .scatter import method_of, scatter_file, spect_scatter
from .settings import Settings

Combined = Callable[[Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True, eq=False)
class Piece:
    """What an engine solves at once, such as one bed.

    make : returns its problem.  label : which one it is, "bed 1 of 2"; empty where it is the whole.
    """

    make: Callable[[], Problem]
    label: str = ""


@dataclass(frozen=True, eq=False)
class Division:
    """The pieces of a source, and how their images become one.

    Args:
        pieces : in order.
        grid : of the image.
        summary : what is modelled.
        combined : from the images of the pieces to the image, (x, y, z) or (F, x, y, z).
        times : of its frames or gates.
        mu : the attenuation map on the grid, or None.
        notes : what a user should know besides the notes of the problems.
        quantity : what the image becomes.  counting : what was said of dead time and decay of the views.
    """

    pieces: tuple[Piece, ...]
    grid: ImageGrid
    summary: str
    combined: Combined
    times: formats.ImageTimes | None = None
    mu: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    quantity: Quantity = field(default_factory=Quantity)
    counting: tuple[str, ...] = ()


def divide(source: data.Source, settings: Settings, choice: Choice, ranks: RankGroup = ALONE) -> Division:
    """Return the pieces of a source, and what its image becomes; ranks share the data of each piece."""
    if not isinstance(source, (BedScan, WindowedSeries)):
        source = data.with_factors(source, settings.physics)
    grid = _grid_of(source, settings, choice)
    quantity = quantities.quantity_of(source, settings, grid)  # type: ignore[arg-type]  # series are of a kind there
    source, counting = quantities.counted(source, settings)  # type: ignore[arg-type]
    if isinstance(source, BedScan):
        found = _beds(source, grid, settings, choice, ranks)
    elif isinstance(source, WindowedSeries):
        found = _windows(source, grid, settings, choice, ranks)
    elif isinstance(source, ScanSeries):
        found = _series(source, grid, settings, choice, ranks)
    else:
        found = _whole(_problem(source, settings, choice.subsets, grid, ranks))
    return replace(found, quantity=quantity, counting=(*counting, *found.counting))


def _grid_of(source: data.Source, settings: Settings, choice: Choice) -> ImageGrid:
    if isinstance(source, BedScan):
        return checked_grid(None, source.default_grid(settings.physics.voxel), choice.subsets)
    one = source.series[0] if isinstance(source, WindowedSeries) else source
    return data.grid_of(one, settings.data, settings.physics, choice.subsets)


def outputs_of(settings: Settings, division: Division) -> dict[str, Path]:
    """Return the files besides those of the options that pieces write: logs and checkpoints, one for each."""
    found = {}
    for name in ("log", "checkpoint"):
        path = getattr(settings.output, name)
        for piece in division.pieces if len(division.pieces) > 1 and path is not None else ():
            found[f"--{name} of {piece.label}"] = _beside(path, piece)
    return found


def settings_of(settings: Settings, piece: Piece) -> Settings:
    """Return the settings of a piece, whose log and checkpoint have its label in their names: run-bed-1.npz."""
    if not piece.label:
        return settings
    own = {name: _beside(path, piece) for name in ("log", "checkpoint") if (path := getattr(settings.output, name))}
    return settings.model_copy(update={"output": settings.output.model_copy(update=own)})


def check_options(settings: Settings, source: data.Source) -> None:
    """Raise typer.BadParameter, which names the option, for what beds, frames and gates cannot have."""
    physics, series = settings.physics, isinstance(source, (ScanSeries, WindowedSeries))
    files = {"scatter": scatter_file(physics), "randoms": physics.randoms, "additive": physics.additive}
    if isinstance(source, BedScan):
        given = [name for name, path in (files | {"multiplicative": physics.multiplicative}).items() if path]
        if given:
            _refuse(given[0], "a file is of one bed, and this scan has several; reconstruct them one by one")
        if settings.quantity.timed_factors is not None:
            _refuse("timed_factors", "a scan of several beds says itself whether its factors hold time and decay")
        if source.timed_factors and quantities.unit_of(settings.quantity) != "counts":
            _refuse(
                "unit", "factors of these beds hold time and decay, so that images have the unit they were made for"
            )
    if isinstance(source, WindowedSeries) and physics.multiplicative is not None:
        _refuse("multiplicative", "a file is of one energy window, and these frames or gates have several")
    several = series and _wanted(source, settings) != "summed" and len(source) > 1  # type: ignore[arg-type]
    if several and formats.image_kind(settings.output.out) == "interfile":
        _refuse(
            "out",
            f"{len(source)} frames or gates do not go into one Interfile image; use .nii.gz or .h5, or sum them "  # type: ignore[arg-type]
            "(--frames summed, --gates summed)",
        )


def _wanted(source: ScanSeries | WindowedSeries, settings: Settings) -> str | None:
    """Whether the options ask for each frame or gate, or for their sum."""
    first = source.series[0] if isinstance(source, WindowedSeries) else source
    return settings.data.frames if isinstance(first, DynamicScan) else settings.data.gates


def _refuse(name: str, why: str) -> NoReturn:
    raise typer.BadParameter(why, param_hint=options.option_of(name))


def of_pieces(path: Path) -> list[Path]:
    """Return the files of pieces that are there beside the file that an option names."""
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}-*{path.suffix}"))


def _beside(path: Path, piece: Piece) -> Path:
    """The file of a piece: bed 1 of 2 has run-bed-1.npz of run.npz."""
    name = "-".join(piece.label.partition(" of ")[0].split())
    return path.with_name(f"{path.stem}-{name}{path.suffix}")


def _beds(scan: BedScan, whole: ImageGrid, settings: Settings, choice: Choice, ranks: RankGroup) -> Division:
    """A problem for each bed on its part of one grid, or one problem of all."""
    joint = settings.data.beds == "joint"
    timed, notes = scan.timed()
    response = data.response_of(data.photopeak(timed[0], settings.physics.peak), settings.physics)
    margins = [bed_reach(response, whole, camera) if joint else 0.0 for camera in scan.geometries]
    grids = [grid_slices(whole, bed_slices(whole, camera, m)) for camera, m in zip(scan.geometries, margins)]

    def made(subsets: int) -> list[Problem]:
        return [_problem(bed, settings, subsets, grid, ranks) for bed, grid in zip(timed, grids)]

    problems = made(choice.subsets)
    fewest = min(problem.n_subsets for problem in problems)
    if joint and any(problem.n_subsets > fewest for problem in problems):
        problems = made(fewest)
    weights = ", ".join(f"{weight:.4g}" for weight in scan.measured()[0])
    said = (f"time and decay of the beds, relative to bed {scan.reference + 1}: {weights}",)
    problems = list(labelled(problems, (*notes, *notes_on_overlap(scan, response))))
    if joint:
        return replace(_whole(joint_problem(problems, whole)), counting=said)
    names = [f"bed {i} of {len(problems)}" for i in range(1, len(problems) + 1)]
    pieces = tuple(map(_piece, problems, names))
    summary = "\n".join(f"{name}: {problem.summary}" for name, problem in zip(names, problems))
    division = Division(pieces, whole, summary, lambda images: to_numpy(stitch(images, problems)[0]))
    return replace(division, mu=joined_mu(problems, whole), counting=said)


def _windows(scan: WindowedSeries, grid: ImageGrid, settings: Settings, choice: Choice, ranks: RankGroup) -> Division:
    """The frames or gates of the photopeak, with the scatter of their other windows as background."""
    esse = method_of(settings.physics) == "esse"  # which comes with the image
    with options.named_by_option():
        wanted = spect_scatter(settings.physics)
        found = separated(scan, "none" if esse else wanted, settings.physics.peak)
    kept = settings.physics.scatter if esse else None
    none = {"scatter": kept, "peak": None, "dew_k": None, "scatter_smoothing": None}
    rest = settings.model_copy(update={"physics": settings.physics.model_copy(update=none)})
    made = _series(found.scan, grid, rest, choice, ranks)  # type: ignore[arg-type]  # a series has one as its photopeak
    summary = f"{made.summary}\n  {found.said}" if found.said else made.summary
    return replace(made, summary=summary, notes=(*found.notes, *made.notes))


def _series(scan: ScanSeries, grid: ImageGrid, settings: Settings, choice: Choice, ranks: RankGroup) -> Division:
    """All frames or gates in one batch, in several where memory asks for that, or one by one where the method does."""
    if _wanted(scan, settings) == "summed":
        return _whole(_problem(scan.summed(), settings, choice.subsets, grid, ranks))
    what, n, notes = ("frame" if isinstance(scan, DynamicScan) else "gate"), len(scan), list[str]()
    at_once = n
    if choice.one_by_one or data.one_by_one(settings.physics):
        at_once = 1
        notes.append(f"the {what}s are reconstructed one by one")
    else:
        at_once = fitting(scan, grid, choice.subsets)
        if at_once < n:
            notes.append(f"{n} {what}s do not fit into the memory together: {at_once} are reconstructed at once")

    def piece(i: int) -> Piece:
        last = min(n, i + at_once)
        label = f"{what} {i + 1} of {n}" if at_once == 1 else f"{what}s {i + 1} to {last} of {n}"
        part = scan[i] if at_once == 1 else scan[i:last]
        return Piece(
            lambda: _problem(part, settings, choice.subsets, grid, ranks),
            "" if at_once >= n else label,
        )

    pieces = [piece(i) for i in range(0, n, at_once)]
    first = pieces[0].make()
    pieces[0] = replace(pieces[0], make=lambda: first)
    times = formats.ImageTimes.of(scan) if isinstance(scan, (DynamicScan, GatedScan)) else None
    return Division(tuple(pieces), grid, first.summary, _stacked, times, _map(first), tuple(notes))


def _problem(
    source: data.AnyScan | formats.PETLink, settings: Settings, subsets: int, grid: ImageGrid, ranks: RankGroup
) -> Problem:
    return data.make_problem(
        source, settings.data, settings.physics, subsets, grid, ranks=ranks, scratch=settings.run.scratch
    )


def _whole(problem: Problem) -> Division:
    """A single piece."""
    return Division((_piece(problem),), problem.grid, problem.summary, _first, mu=_map(problem))


def _piece(problem: Problem, label: str = "") -> Piece:
    return Piece(lambda: problem, label)


def _first(images: Sequence[np.ndarray]) -> np.ndarray:
    return images[0]


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Frames or gates (F, x, y, z) from images of one or of several of them."""
    return np.concatenate([image if image.ndim == 4 else image[None] for image in images])


def _map(problem: Problem) -> np.ndarray | None:
    return None if problem.mu is None else np.asarray(to_numpy(problem.mu))
