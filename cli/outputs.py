"""Where results go: checked before the work begins, and told apart from troubles with the input."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from emrecon import figures, formats
from emrecon.projectors.core.files import check_target


class OutputError(OSError):
    """A result could not be written."""


_SINGLE = (
    ".h5",
    ".hdf5",
    ".npz",
    ".csv",
    ".dcm",
    ".json",
    ".png",
    ".svg",
    ".pdf",
    ".gif",
    ".nii",
    ".gz",
    ".toml",
    ".html",
    ".htm",
)
"""Of files that stand alone."""

Identity = Path | tuple[int, int]


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None] = ()) -> None:
    """Refuse outputs that cannot be written, or would replace an input or one another.

    Args:
        outputs : option -> file or None; "--out" is an image, beside which its record is written, too.
        inputs : files; those that a header names, and the card beside weights, are inputs too.

    Raises typer.BadParameter for a suffix of no known kind, OutputError for everything else.
    """
    taken = {same: path for path in inputs if path is not None for part in _parts(path) for same in _identities(part)}
    for option, path in outputs.items():
        if path is None:
            continue
        _check_suffix(option, path)
        _check_place(path)
        written = _written(path)
        if option in ("--out", "--uncertainty", "--mu-out") and formats.has_record_beside(path):
            written = {*written, _record_place(path)}
        own = {same for part in written for same in _identities(part)}
        for same in own & taken.keys():
            reason = f"would replace an input or another output ({taken[same]}); choose another name"
            raise OutputError(errno.EEXIST, reason, str(path))
        taken |= dict.fromkeys(own, path)
        if option in ("--picture", "--mu-picture"):
            _check_picture(option, path)


def _check_suffix(option: str, path: Path) -> None:
    try:
        if option == "--out":
            formats.image_kind(path)
        if option == "--uncertainty" and formats.image_kind(path) == "dicom":
            raise ValueError("a map of uncertainty is .nii, .nii.gz, .h5 or .hv, not DICOM")
        if option == "--report" and path.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"a report is .html, not {path.name!r}")
        if option == "--log" and path.suffix not in (".csv", ".json"):
            raise ValueError(f"a log is .csv or .json, not {path.name!r}")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _check_picture(option: str, path: Path) -> None:
    try:
        figures.picture_kind(path)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _record_place(image: Path) -> Path:
    """The file of an image's record; raises OutputError where it cannot be written, or belongs to something else."""
    place = formats.sidecar_of(image)
    _check_place(place)
    with writing():
        formats.check_record(image)
    return place


def _check_place(path: Path) -> None:
    """Raise OutputError where a file cannot be written: now, and not after hours of work."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OutputError(errno.ENOENT, "cannot write the file, the folder does not exist; create it first", str(path))
    if not os.access(folder, os.W_OK):
        raise OutputError(errno.EACCES, "cannot write the file, no permission to write there", str(path))
    with writing():
        if not (path.suffix == ".dcm" and path.is_dir()):  # a series of PET, which is looked at when its kind is known
            check_target(path)


def _written(path: Path) -> set[Path]:
    """What writing a file may replace: itself and, for a header with a data file beside it, all of the same name."""
    if path.suffix in _SINGLE:
        return {path}
    return {path, *(path.with_suffix(suffix) for suffix in (".s", ".v", ".a00", ".i33", ".hs", ".hv", ".h33", ".h00"))}


def _parts(path: Path) -> set[Path]:
    """An input and what belongs to it: files of the same name, the files that a header names, those of these."""
    found, waiting = set(_written(path)), [path]
    while waiting:
        named = set(named_files(waiting.pop())) - found
        found |= named
        waiting += named
    return found | {path.with_suffix(".json")} if path.suffix == ".safetensors" else found


def named_files(path: Path) -> Iterator[Path]:
    """Yield the files beside a header of lines `key := value` that its values name."""
    try:
        if not path.is_file():
            return
        with path.open("rb") as stream:
            text = stream.read(2**20)
    except OSError:
        return
    if b"\0" in text:
        return
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        value = line.partition(":=")[2].strip().strip("\"'")
        with suppress(OSError):  # of a value that is too long for a name
            if value and (path.parent / value).is_file():
                yield path.parent / value


def _identities(path: Path) -> Iterator[Identity]:
    """Where a file is, and which one: hard links are one file under two names."""
    with suppress(OSError, RuntimeError):  # RuntimeError: links in a circle
        yield path.resolve()
        found = path.stat()
        yield found.st_dev, found.st_ino


@contextmanager
def writing() -> Iterator[None]:
    """Turn any OSError of the body into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(error.errno, error.strerror or str(error), error.filename) from error
