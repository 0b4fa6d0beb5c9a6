"""A run of `emrecon reconstruct`: from data to problem, engine and output."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from emrecon.projectors import Study
from emrecon.projectors.core.progress import stage
from emrecon.recon import Checkpoint, History, Problem, RankGroup

from .. import learned, options
from ..errors import interruptible
from ..outputs import check_outputs, writing
from ..printing import plain_console, quietly, warnings_kept
from . import collimators, data, engine, joint, output, parts, quantities, record, reports, shared, uncertainty, uses
from .config import write_config
from .scatter import scatter_file
from .settings import OutputTable, Settings


def run(settings: Settings, config: Path | None = None, repeat: Path | None = None) -> None:
    """Read the data, make the problem, run the engine and write the image; together with the ranks of torchrun.

    config : the file that the settings came from, which no output may replace.  repeat : a file to write them to.
    """
    with shared.joined(settings, lambda: _how_to_go_on(settings.output)) as ranks:
        _run(shared.of_rank(settings, ranks), config, repeat, ranks)


def _run(settings: Settings, config: Path | None, repeat: Path | None, ranks: RankGroup) -> None:
    begun, files = time.perf_counter(), settings.output
    console = plain_console(quiet=settings.run.quiet)
    choice = engine.choose_method(settings)
    settings = joint.with_map(settings, choice)
    files = settings.output
    joint.check(settings, choice)
    with interruptible(lambda: _how_to_go_on(files)), quietly(settings.run.quiet), warnings_kept() as warned:
        with stage(f"reading {settings.data.path.name}"):
            settings, source = collimators.open_source(settings)
        uses.check_data(settings, uses.kind_of(source), uses.container_of(source))
        quantities.check_quantity(settings.quantity)
        uncertainty.check(settings, choice, source)
        parts.check_options(settings, source)
        shared.check(settings, choice, source, ranks)
        written = {options.option_of(name): path for name, path in files if name != "masks"}
        outputs = written | {"--write-config": repeat}
        check_outputs(outputs, (config, *_inputs(settings, choice, source)))
        choice.check_device(settings.run.device)
        with stage("problem"), options.named_by_option():
            work = parts.divide(source, settings, choice, ranks)
        check_outputs(parts.outputs_of(settings, work), (config, *_inputs(settings, choice, source)))
        output.check_image_place(settings, source, work.times)
        console.print(work.summary)
        for line in (*work.counting, *quantities.in_words(work.quantity)):
            console.print(line)
        study = getattr(source, "study", None)
        journal = record.Journal(console, History(every=files.log is not None), begun, warned)
        for said in work.notes:
            journal.note(said)
        made = [_piece(piece, choice, settings, journal, study, ranks) for piece in work.pieces]
        image = work.combined([one for one, *_ in made])
        if ranks.rank:  # the first one writes
            return
        image = output.filtered(image, work.grid, settings.method.filter, journal)
        said = "\n".join((work.summary, *work.counting))
        provenance = record.record_of(choice.done(settings), source, said, journal, work.quantity)
        output.write_results(settings, image, work.grid, console, provenance, work.quantity, work.times, source)
        if settings.output.uncertainty is not None:
            deviation = work.combined([one for _, one, _ in made if one is not None])
            uncertainty.write(settings, deviation, work.grid, console, provenance, work.quantity, work.times, source)
        if settings.output.mu_out is not None:
            found = work.combined([one for *_, one in made if one is not None])
            joint.write(settings, found, work.grid, console, provenance, work.times)
        output.write_overlay(settings, image, work.mu, work.grid, console)
        reports.write_report(settings, console, study)
        if repeat is not None:
            with writing():
                write_config(repeat, choice.done(settings))


def _piece(
    piece: parts.Piece,
    choice: engine.Choice,
    settings: Settings,
    journal: record.Journal,
    study: Study | None,
    ranks: RankGroup,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Run the engine on a piece of the data, and keep what it says.

    Returns the image, its uncertainty if wanted, and the attenuation map of methods that find one.
    """
    own = journal.of_piece()
    if piece.label:
        journal.console.print(piece.label)
    with stage(piece.label or "image"):
        problem = piece.make()
        for said in problem.notes:
            own.note(said)
        found = _image(problem, choice, parts.settings_of(settings, piece), own, study, ranks)
    journal.keep(own)
    return found


def _image(
    problem: Problem,
    choice: engine.Choice,
    settings: Settings,
    journal: record.Journal,
    study: Study | None,
    ranks: RankGroup,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Run the engine; the time that is printed counts from when the command started."""
    learned.check(choice.name, choice.trained, problem.grid)
    for warning in learned.notes(choice.trained, problem.grid, problem.modality):
        journal.note(warning)
    guide = options.guide(settings.method.guide, problem.grid, data.beside(settings.data), study)
    where = settings.output.checkpoint
    both = joint.options_of(settings, choice, problem, study, journal)
    keeper = None if where is None else Checkpoint(where, signature=choice.signature(problem, guide, both))
    shared.require_same_checkpoint(keeper, ranks)
    with stage("beginning"), options.named_by_option():
        made = choice.prepare(problem, guide, settings.run.device, keeper, both)
    for line in choice.beginning(made):
        journal.console.print(line)
    journal.begin(made)
    for warning in learned.scan_notes(made, problem.grid):
        journal.note(warning)
    watchers = output.callbacks_of(settings, made, choice.iterations, keeper, journal.history, ranks)
    last = engine.iterate(made, choice.iterations, watchers)
    journal.console.print(f"{made}, {output.n_passes(last.iteration)}, {journal.seconds:.1f} s in all")
    unexplained = problem.unexplained(last.image)
    if unexplained:
        journal.note(f"{unexplained}; --background gives one")
    for warning in learned.fit_notes(made, last.image):
        journal.note(warning)
    return last.image, uncertainty.deviation(made, last, settings, journal), joint.attenuation(made, last)


def _how_to_go_on(files: OutputTable) -> str:
    kept = [] if files.checkpoint is None else [files.checkpoint, *parts.of_pieces(files.checkpoint)]
    found = [path for path in kept if path.exists()]
    if found:
        return f"the same command goes on from the checkpoint {', '.join(map(str, found))}"
    return "no image was written; with --checkpoint FILE, the same command goes on after the last whole iteration"


def _inputs(settings: Settings, choice: engine.Choice, source: data.Source) -> tuple[Path | None, ...]:
    """The files that no output may replace."""
    weights = choice.trained.path if choice.trained else None
    physics = settings.physics
    terms = physics.norm, physics.multiplicative, physics.additive, physics.randoms, scatter_file(physics)
    source_of_calibration = quantities.phantom(settings.quantity)
    calibrated = None if source_of_calibration is None else source_of_calibration.path
    own = settings.data.path, physics.mu, *terms, weights, calibrated
    return (
        *own,
        settings.method.known_region,
        settings.method.body,
        *settings.method.guide,
        *settings.output.masks,
        *data.files_of(source),
    )
