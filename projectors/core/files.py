"""Files that are complete or not there at all: written beside their target, then moved into place."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_REASONS = {
    errno.ENOENT: "the folder does not exist; create it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder; add a file name",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the file system or the process allows",
    errno.EIO: "the disk reported an error",
    errno.ENAMETOOLONG: "the file name is too long",
}
# A failing body is explained only for these: any other OSError of the body may be about another file.
_ABOUT_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def atomic_path(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it takes the place of `path`.

    The temporary name ends like the target's (writers look at `.nii.gz`). After the body the file is flushed to the
    disk and moved in one step, so readers see the old file or the new one, never a part. On any exception, Ctrl-C
    included, the temporary file is removed and an older `path` stays as it was. Links are followed, permissions kept.

    Raises FileExistsError where `path` exists and `overwrite` is False; OSError that names `path` and the reason where
    the folder is missing or not writable, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    _check_target(target, overwrite)
    temporary = target.with_name(f".{secrets.token_hex(6)}-{target.name[-48:]}")
    try:
        _create(temporary, target)
        yield temporary
        _flush(temporary)
        _check_target(target, overwrite)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _ABOUT_THE_DISK:
            raise _explained(error, target) from error
        raise
    _flush_folder(target.parent)


def _check_target(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise _explained(IsADirectoryError(errno.EISDIR, "is a folder"), target)
    if target.exists() and not target.stat().st_mode & 0o222:
        # Moving a file into place asks the folder for permission, not the file: respect what the file says.
        raise _explained(PermissionError(errno.EACCES, "is read-only"), target)
    if not overwrite and target.exists():
        raise FileExistsError(
            errno.EEXIST, "cannot write, the file exists; pass overwrite=True to replace it", str(target)
        )


def _create(temporary: Path, target: Path) -> None:
    try:
        # created here, not by tempfile, so that the umask decides the permissions, as for any new file
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _explained(error, target) from error
    with suppress(OSError):
        temporary.chmod(target.stat().st_mode & 0o777)


def _flush(temporary: Path) -> None:
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    # without it the new name may be lost in a power cut; some file systems cannot, and the file is complete anyway
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explained(error: OSError, target: Path) -> OSError:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return OSError(error.errno, f"cannot write the file, {reason}", str(target))
