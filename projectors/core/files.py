"""Files that are complete or not there at all: written beside their target, then moved into place."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

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
_ONLY_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_CANNOT_WRITE = "cannot write the file, "


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
    temporary = temporary_beside(target)
    try:
        _create(temporary, target)
        yield temporary
        _flush(temporary)
        check_target(target, overwrite)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # what names another file already is about that one: of a pair of files, say, the other one
        if isinstance(error, OSError) and error.errno in _ABOUT_THE_DISK and _concerns(error, temporary):
            raise cannot_write(error, target) from error
        raise
    _flush_folder(target.parent)


def temporary_beside(target: Path) -> Path:
    """Return a name in the same folder that nobody has, for a file or folder that is to be moved into place.

    What processes that were killed have left in the folder under such names is removed.
    """
    remove_leftovers(target.parent)
    return target.with_name(f".{_here()}-{os.getpid()}-{secrets.token_hex(6)}-{target.name[-48:]}")


@cache
def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of processes that no longer run; once for a folder and a process.

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
                    _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
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


@contextmanager
def atomic_stream(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[io.RawIOBase]:
    """Yield a stream that becomes `path` as in `atomic_path`, for libraries that a failed write leaves in disorder.

    HDF5 ends the process where it cannot close a file, and archives hide the error behind one of their own. So the
    stream keeps the first error of writing, takes whatever follows without a word, and the error is raised when the
    library is done.

    Raises as `atomic_path` does.
    """
    with atomic_path(path, overwrite) as temporary, temporary.open("r+b", buffering=0) as file:
        stream = _EnduringStream(file)
        try:
            yield stream
        except Exception as error:
            if stream.failure is not None:
                raise stream.failure from error
            raise
        if stream.failure is not None:
            raise stream.failure


class _EnduringStream(io.RawIOBase):
    """A file that reports no failure of writing to whoever writes, and keeps the first one."""

    def __init__(self, file: io.FileIO) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        everything = memoryview(data).cast("B")
        self._attempt(lambda: self._write_at(self._place, everything))
        self._place += len(everything)
        return len(everything)

    def _write_at(self, place: int, left: memoryview) -> None:
        self._file.seek(place)
        while left:  # a nearly full disk takes a part
            left = left[self._file.write(left) :]

    def readinto(self, into: WriteableBuffer, /) -> int:
        self._file.seek(self._place)
        n = self._file.readinto(into)
        self._place += n
        return n

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: os.fstat(self._file.fileno()).st_size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def truncate(self, size: int | None = None, /) -> int:
        size = self._place if size is None else size
        self._attempt(lambda: self._file.truncate(size))
        return size

    def _attempt(self, action: Callable[[], object]) -> None:
        """Do it unless something has failed before, and keep its failure."""
        if self.failure is None:
            try:
                action()
            except OSError as error:
                self.failure = error


def is_about_writing(error: OSError) -> bool:
    """Whether an error says that something could not be written, so that input is not to blame."""
    return error.errno in _ONLY_OF_WRITING or str(error.strerror).startswith(_CANNOT_WRITE)


def _concerns(error: OSError, temporary: Path) -> bool:
    return error.filename is None or os.fspath(error.filename) == str(temporary)


def check_target(path: str | os.PathLike[str], overwrite: bool = True) -> None:
    """Raise OSError, as `atomic_path` does, where `path` is a folder, a device, read-only, or a file to be kept."""
    target = Path(os.path.realpath(path))
    try:
        found = target.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(error, target) from error
    if stat.S_ISDIR(found.st_mode):
        raise cannot_write(IsADirectoryError(errno.EISDIR, "is a folder"), target)
    if not stat.S_ISREG(found.st_mode):
        # a file moved into its place would end the device for everyone
        raise OSError(errno.EINVAL, "cannot write the file, it is a device or a pipe; add a file name", str(target))
    if not found.st_mode & 0o222:
        # Moving a file into place asks the folder for permission, not the file: respect what the file says.
        raise cannot_write(PermissionError(errno.EACCES, "is read-only"), target)
    if not overwrite:
        raise FileExistsError(
            errno.EEXIST, "cannot write, the file exists; pass overwrite=True to replace it", str(target)
        )


def _create(temporary: Path, target: Path) -> None:
    try:
        # created here, not by tempfile, so that the umask decides the permissions, as for any new file
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise cannot_write(error, target) from error
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


def cannot_write(error: OSError, target: Path) -> OSError:
    """Return the error that says why `target` could not be written; its type follows from the error's number."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return OSError(error.errno, f"{_CANNOT_WRITE}{reason}", str(target))
