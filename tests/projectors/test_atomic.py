"""A file is complete or not there: success, failures of every kind, and what the messages say."""

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest
from limits import limited

from emrecon.formats import atomic_path
from emrecon.projectors.core import files
from emrecon.projectors.core.files import atomic_stream, is_about_writing

OLD, NEW = "old", "new"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["image.nii.gz", "scan.h5", "no_suffix", "ü" * 100 + ".nii.gz"])
def test_the_temporary_file_is_a_neighbour_with_the_same_ending(tmp_path, name):
    target = tmp_path / name
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(name[-7:])
        assert not target.exists()
        temporary.write_text(NEW)
    assert target.read_text() == NEW
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError(errno.ENOSPC, "full")])
def test_the_old_file_survives_a_failure(tmp_path, error):
    target = tmp_path / "scan.h5"
    target.write_text(OLD)

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text(NEW)
            raise error

    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        fail()
    assert target.read_text() == OLD
    assert names(tmp_path) == ["scan.h5"]


def test_a_full_disk_names_the_target_at_writing_and_at_flushing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"no space left.*scan\.h5") as caught, atomic_path(tmp_path / "scan.h5"):
        pass
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_other_errors_of_the_body_keep_their_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_path(tmp_path / "a"):
        (tmp_path / "elsewhere").read_text()


def test_missing_folder_file_as_folder_and_folder_as_file(tmp_path):
    (tmp_path / "file").write_text(OLD)
    for path, kind, reason in [
        (tmp_path / "none" / "a.h5", FileNotFoundError, "folder does not exist"),
        (tmp_path / "file" / "a.h5", NotADirectoryError, "is a file, not a folder"),
        (tmp_path, IsADirectoryError, "is a folder"),
    ]:
        with pytest.raises(kind, match=reason) as caught, atomic_path(path):
            pass
        assert str(path) in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the administrator may write everywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=r"no permission.*a\.h5"), atomic_path(tmp_path / "a.h5"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_refusal_to_overwrite_before_and_after_the_body(tmp_path):
    target = tmp_path / "a.h5"
    with pytest.raises(FileExistsError, match="overwrite=True"), atomic_path(target, overwrite=False):
        target.write_text(OLD)
    with pytest.raises(FileExistsError, match=r"a\.h5"), atomic_path(target, overwrite=False):
        pytest.fail("the body must not run")
    assert target.read_text() == OLD
    assert names(tmp_path) == ["a.h5"]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_and_links_stay(tmp_path):
    new, old, link = tmp_path / "new", tmp_path / "old", tmp_path / "link"
    mask = os.umask(0o027)
    try:
        with atomic_path(new) as temporary:
            temporary.write_text(NEW)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    old.write_text(OLD)
    old.chmod(0o604)
    link.symlink_to(old)
    with atomic_path(link) as temporary:
        temporary.write_text(NEW)
    assert link.is_symlink()
    assert old.read_text() == NEW
    assert stat.S_IMODE(old.stat().st_mode) == 0o604


def test_a_read_only_file_is_not_replaced(tmp_path):
    target = tmp_path / "scan.h5"
    target.write_text(OLD)
    target.chmod(0o444)
    with pytest.raises(OSError, match="permission"), atomic_path(target) as temporary:
        temporary.write_text(NEW)
    assert target.read_text() == OLD
    assert names(tmp_path) == ["scan.h5"]


KILLED = """
import os, signal, sys
from emrecon.projectors.core.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_killed_processes_leave_is_removed_by_the_next_one(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.nii"], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "half"
    other = left.with_name(left.name.replace(left.name[1:9], "0" * 8))
    old = left.with_name(f"{other.name}-old")
    running = left.with_name(f".{left.name[1:9]}-{os.getpid()}-{'0' * 12}-b.nii")
    mine = tmp_path / ".0123456789ab-notes.txt"
    for path in (other, old, running, mine):
        path.write_text("")
    series = left.with_name(f"{left.name}-series")
    series.mkdir()
    (series / "0001.dcm").write_text("half")
    os.utime(old, (0, 0))
    files.remove_leftovers.cache_clear()
    with atomic_path(tmp_path / "b.nii") as temporary:
        temporary.write_text(NEW)
    assert names(tmp_path) == sorted([other.name, running.name, mine.name, "b.nii"])


@pytest.mark.skipif(os.name != "posix", reason="devices")
@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_devices_are_not_replaced(tmp_path, kind):
    path = tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(OSError, match="device or a pipe"), atomic_path(path):
        pass
    assert names(tmp_path) == ["target"]


def test_a_stream_is_complete_or_not_there(tmp_path):
    target = tmp_path / "a.bin"
    with atomic_stream(target) as stream:
        assert (stream.write(b"abcdef"), stream.tell(), stream.seek(-2, os.SEEK_END)) == (6, 6, 4)
        assert (stream.read(1), stream.seek(1), stream.write(memoryview(b"B"))) == (b"e", 1, 1)
        assert stream.truncate(5) == 5
    assert target.read_bytes() == b"aBcde"

    def fail():
        with atomic_stream(target) as stream:
            stream.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert target.read_bytes() == b"aBcde"


def test_a_stream_keeps_its_first_error_until_the_writer_is_done(tmp_path):
    written = []

    def write(complaint):
        with atomic_stream(tmp_path / "a.bin") as stream:
            written.extend(stream.write(bytes(700)) for _ in range(3))
            if complaint:
                raise complaint

    for complaint in (None, ValueError("a consequence")):
        with limited("FSIZE", 1000), pytest.raises(OSError, match=r"larger than.*a\.bin") as caught:
            write(complaint)
        assert caught.value.errno == errno.EFBIG
        assert names(tmp_path) == []
    assert written == [700] * 6


def test_of_a_pair_of_files_the_one_that_failed_is_named(tmp_path):
    def write():
        with atomic_path(tmp_path / "a.hs") as header, atomic_path(tmp_path / "a.s") as data:
            header.write_text("header")
            data.write_bytes(bytes(2000))

    with limited("FSIZE", 1000), pytest.raises(OSError, match=r"a\.s'"):
        write()
    assert names(tmp_path) == []


def test_errors_of_writing_are_told_from_others(tmp_path):
    with pytest.raises(OSError) as missing, atomic_path(tmp_path / "none" / "a"):
        pass
    with pytest.raises(OSError) as unreadable:
        (tmp_path / "b").read_text()
    assert is_about_writing(missing.value)
    assert is_about_writing(OSError(errno.ENOSPC, "full"))
    assert not is_about_writing(unreadable.value)
