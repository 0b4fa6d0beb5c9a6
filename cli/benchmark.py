"""`emrecon benchmark`: suites that compare methods, resumable, by ranks, with a report; and two reports compared."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from emrecon.projectors.core.progress import Stage, in_words, listening
from emrecon.sims.datasets import rank_and_size

from .errors import ExitCode, interruptible
from .outputs import writing
from .printing import note, plain_console, printable, quietly

if TYPE_CHECKING:
    from emrecon.evaluation import Options, Suite
    from emrecon.evaluation.comparing import Difference, Differences
    from emrecon.evaluation.running import Step

_SIZES = ("quick", "full")
_EXTRAS = {"torch": "torch", "safetensors": "torch", "monai": "monai", "deepinv": "deepinv", "pytomography": "peers"}
_MOST_ROWS = 40


def benchmark(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE | compare A.json B.json]",
            help="A suite, or the word compare with two reports. Without it: the suites.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of results and of report.html and report.json; the same command continues."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="quick, to see that all works, or full (default: the suite's own).")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method of the suite (then only those named), or one of your own, which joins: "
            "package.module:name of a call (likelihood, start=None, *, guide=None) -> image, or weights.safetensors. "
            "Repeat for several."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each network.")] = 3,
    threads: Annotated[
        int,
        typer.Option(min=1, max=1024, help="Threads; of slices, a process for each core (--rank) makes more."),
    ] = 1,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Which part of the work, 0 to N - 1 (default: as torchrun or Slurm say).")
    ] = None,
    of: Annotated[int | None, typer.Option("--of", min=1, help="N, the number of parts.")] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; write the report of what is there.")
    ] = False,
    work: Annotated[
        Path | None, typer.Option(help="Folder for what suites share, such as simulated scans (default: in --out).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet/--no-quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Compare methods of reconstruction: `emrecon benchmark quick --out DIR` writes DIR/report.html and report.json.

    Work that is done is kept: after a kill or Control-C the same command goes on. Several processes may share DIR, each
    with its --rank, by torchrun, srun or a job array; the last one writes the report. `emrecon benchmark compare A B`
    says what changed between two reports. The exit code is 1 where a part of the work failed.
    """
    from emrecon.evaluation import Options

    console = plain_console(quiet=quiet)
    names = what or []
    if names[:1] == ["compare"]:
        _refuse_options(out=out, size=size, method=method, rank=rank, of=of, work=work, report_only=report_only or None)
        _compare(names[1:], console)
        return
    if len(names) > 1:
        raise typer.BadParameter(f"one suite at a time, got {', '.join(names)}", param_hint="SUITE")
    if not names:
        _list(console)
        return
    suite = _suite(names[0])
    if out is None:
        raise typer.BadParameter("name the folder to write results and report to", param_hint="--out")
    if size is not None and size not in _SIZES:
        raise typer.BadParameter(f"unknown size '{size}'; choose from {', '.join(_SIZES)}", param_hint="--size")
    here, n_ranks = _rank(rank, of)
    _require(suite)
    options = Options(size or suite.size, seeds, tuple(method or ()), threads, work or out / "samples")
    with quietly(quiet):
        code = _run(suite, options, out, here, n_ranks, report_only, console, quiet)
    if code:
        raise typer.Exit(code)


def _run(
    suite: Suite,
    options: Options,
    out: Path,
    rank: int,
    n_ranks: int,
    report_only: bool,
    console: Console,
    quiet: bool,
) -> int:
    """Do this rank's share, write the report once all is done, and return the exit code."""
    from emrecon.evaluation.page import write_report
    from emrecon.evaluation.report import make_report
    from emrecon.evaluation.running import claim, ordered, run_units, share_of

    units = ordered(_units(suite, options))
    with writing():
        claim(out, suite, options)
    own = [] if report_only else share_of(units, rank, n_ranks)
    advice = f"what is done is kept in {out}, and the same command goes on from there"
    failures = 0
    with interruptible(lambda: advice), _progress(len(own), suite.name, console, quiet) as tell, writing_of(out):
        for step in run_units(own, out, suite, options):
            tell(step)
            failures += step.state in ("failed", "blocked")
    report = make_report(units, out, suite, options)
    if report.missing and not report_only:
        console.print(f"{len(report.missing)} units are left to other ranks; the last one writes the report")
        return int(ExitCode.ERROR) if failures else 0
    with writing():
        html, json = write_report(report, out)
    for name, why in report.failed.items():
        note(f"{name} has no result: {printable(why)}")
    if report.missing:
        note(f"{len(report.missing)} units have not been run: {', '.join(report.missing[:6])}")
    console.print(f"wrote {html} and {json}")
    return int(ExitCode.ERROR) if report.failed else 0


@contextmanager
def writing_of(out: Path) -> Iterator[None]:
    """Turn an OSError about a file in the folder of results into an OutputError; one about an input stays."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(str(error.filename)).absolute().is_relative_to(out.absolute()):
            with writing():
                raise
        raise


def _suite(name: str) -> Suite:
    from emrecon.evaluation import SUITES

    if name not in SUITES:
        raise typer.BadParameter(f"unknown suite '{name}'; choose from {', '.join(SUITES)}", param_hint="SUITE")
    return SUITES[name]


def _units(suite: Suite, options: Options) -> Sequence[Any]:
    """The suite's units; a method that it does not know, or cannot use, is a wrong option."""
    try:
        return suite.units(options)
    except ValueError as error:
        if not options.methods:
            raise
        raise typer.BadParameter(str(error), param_hint="--method") from error


def _rank(rank: int | None, of: int | None) -> tuple[int, int]:
    if rank is None and of is None:
        return rank_and_size()
    if rank is None or of is None:
        raise typer.BadParameter("give --rank and --of together", param_hint="--rank" if rank is None else "--of")
    if rank >= of:
        raise typer.BadParameter(f"ranks go from 0 to {of - 1}, got {rank}", param_hint="--rank")
    return rank, of


def _require(suite: Suite) -> None:
    """Raise ImportError that names the extra, now and not after an hour."""
    for module in suite.extras:
        try:
            importlib.import_module(module)
        except ImportError as error:
            package = module.partition(".")[0]
            extra = _EXTRAS.get(package)
            advice = f'pip install "emrecon[{extra}]"' if extra else f"pip install {package}"
            raise ImportError(f"the suite {suite.name} needs {package}: {advice} ({error})") from error


def _list(console: Console) -> None:
    from emrecon.evaluation import SUITES

    table = Table("suite", "about", "what", box=None)
    for name, suite in SUITES.items():
        table.add_row(name, in_words(60 * suite.minutes), suite.title)
    console.print(table)


def _refuse_options(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter("it is not used along with compare", param_hint=option)


@contextmanager
def _progress(n: int, what: str, console: Console, quiet: bool) -> Iterator[Callable[[Step], None]]:
    """Show which unit is at work, and a line for each that is over."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = console.is_terminal and not quiet
    with Progress(*columns, console=console, disable=not shown) as bars:
        task = bars.add_task(what, total=n)
        kept: list[str] = []
        at_work: list[str] = [what]

        def tell(step: Step) -> None:
            if step.state in ("begins", "waits"):
                at_work[0] = f"{step.unit}{' (another process has it)' * (step.state == 'waits')}"
                bars.update(task, description=at_work[0])
                return
            bars.advance(task)
            if step.state == "kept":
                kept.append(step.unit)
                return
            if kept:
                console.print(f"kept {len(kept)} units that were done before")
                kept.clear()
            console.print(Text(_line(step)))

        def hear(stage: Stage) -> None:
            bars.update(task, description=at_work[0] if stage.over else f"{at_work[0]}: {stage}")

        with listening(hear):  # a unit's own loops show in the bar, and not as lines
            yield tell
        if kept:
            console.print(f"kept {len(kept)} units that were done before")


def _line(step: Step) -> str:
    record = step.record
    took = in_words(record.seconds) if record is not None and step.state != "blocked" else ""
    why = f": {printable(record.error)}" if record is not None and record.error else ""
    return f"[{step.number}/{step.total}] {step.unit}: {step.state}{f' in {took}' if took else ''}{why}"


# ---- two reports -----------------------------------------------------------------------------------------------------


def _compare(paths: Sequence[str], console: Console) -> None:
    from emrecon.evaluation.comparing import compare_reports, read_report

    if len(paths) != 2:
        raise typer.BadParameter(f"compare takes two reports, got {len(paths)}", param_hint="A.json B.json")
    found = compare_reports(*(read_report(Path(path)) for path in paths))
    for text in found.notes:
        note(printable(text))
    _table(found.subjects, "Means over subjects, p after Holm", console)
    _table(found.cells, "Cells of tables", console)
    console.print(_summary(found))


def _summary(found: Differences) -> str:
    both = [*found.subjects, *found.cells]
    if not both:
        return "the reports have no number in common"
    counts = {
        verdict: sum(one.verdict == verdict for one in both) for verdict in dict.fromkeys(o.verdict for o in both)
    }
    return f"{len(both)} numbers: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}"


def _table(rows: Sequence[Difference], title: str, console: Console) -> None:
    shown = [one for one in rows if one.verdict != "same"]
    if not shown:
        return
    order = {"changed": 0, "differs": 1, "within chance": 2, "within intervals": 2, "same": 3}
    shown.sort(key=lambda one: order[one.verdict])
    table = Table(
        "what", "first", "second", "second - first", "p", "verdict", box=None, title=title, title_justify="left"
    )
    for one in shown[:_MOST_ROWS]:
        change = one.difference
        limits = f" [{change.low:+.3g}, {change.high:+.3g}]" if change.is_bounded else ""
        p = "" if one.p is None else f"{one.p:.2g}"
        pair = "" if one.p is None or one.is_paired else " (not paired)"
        cells = (
            one.what,
            f"{one.first:.4g}",
            f"{one.second:.4g}",
            f"{change.value:+.3g}{limits}",
            p,
            one.verdict + pair,
        )
        table.add_row(*map(printable, cells))
    console.print(table)
    if len(shown) > _MOST_ROWS:
        console.print(f"... and {len(shown) - _MOST_ROWS} more")
