"""Files that are complete or not there at all: written beside their target, then moved into place."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
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
_TEMPORARY = re.compile(r"\.(?P<here>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{12}-")
# A failing body is explained only for these: any other OSError of the body may be about another file.
_ABOUT_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def atomic_path(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it takes the place of `path`.

    The temporary name ends like the target's (writers look at `.nii.gz`). After the body the file is flushed to the
    disk and moved in one step, so readers see the old file or the new one, never a part. On any exception, Ctrl-C
    included, the temporary file is removed and an older `path` stays as it was; those of processes that were killed are
    removed by the next one that writes to the folder. Links are followed, permissions kept.

    Raises FileExistsError where `path` exists and `overwrite` is False; OSError that names `path` and the reason where
    the folder is missing or not writable, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    check_target(target, overwrite)
    remove_leftovers(target.parent)
    temporary = target.with_name(f".{_here()}-{os.getpid()}-{secrets.token_hex(6)}-{target.name[-48:]}")
    try:
        _create(temporary, target)
        yield temporary
        _flush(temporary)
        check_target(target, overwrite)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _ABOUT_THE_DISK:
            raise _explained(error, target) from error
        raise
    _flush_folder(target.parent)


@cache
def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that no longer run; once for a folder and a process.

    Of other machines and containers, whose processes cannot be seen from here, those that nobody wrote to for a week.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.match(entry.name)
            if found is None:
                continue
            with suppress(OSError):
                week_old = time.time() - entry.stat().st_mtime > 7 * 24 * 3600
                if week_old or (found["here"] == _here() and not _is_running(int(found["process"]))):
                    os.unlink(entry.path)


@cache
def _here() -> str:
    """What tells numbers of processes apart: the machine, since when it runs, and the container."""
    about = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            about.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text())
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # there, asking for a process by a signal would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # someone else's
        return True
    return True


def check_target(path: str | os.PathLike[str], overwrite: bool = True) -> None:
    """Raise OSError, as `atomic_path` does, where `path` is a folder, a device, read-only, or a file to be kept."""
    target = Path(os.path.realpath(path))
    try:
        found = target.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _explained(error, target) from error
    if stat.S_ISDIR(found.st_mode):
        raise _explained(IsADirectoryError(errno.EISDIR, "is a folder"), target)
    if not stat.S_ISREG(found.st_mode):
        # a file moved into its place would end the device for everyone
        raise OSError(errno.EINVAL, "cannot write the file, it is a device or a pipe; add a file name", str(target))
    if not found.st_mode & 0o222:
        # Moving a file into place asks the folder for permission, not the file: respect what the file says.
        raise _explained(PermissionError(errno.EACCES, "is read-only"), target)
    if not overwrite:
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
