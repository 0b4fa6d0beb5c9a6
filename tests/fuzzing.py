"""Damaged files for every reader: what each of them makes of thousands of changes to a file that was good.

`python tests/fuzzing.py --cases 5000 hdf5-scan` tries one reader for longer; without names all of them are tried, and
`--keep FOLDER` keeps what was found. A reader may return, or raise FormatError or FileNotFoundError with the name of a
file. Everything else is a finding: other errors, other messages, a time limit, a crash.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

BUSY, WAITING = 5.0, 60.0  # seconds of the processor, and in all, for one case: others may be at work here
MEMORY = 3 * 2**30  # above what the process has at its start
_SECTOR = 512
_NUMBERS = (b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"2147483648", b"{", b"1.5", b"", b"{3,2}")


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """One way or another in which a file goes bad: bits, bytes, sectors, ends, blocks, numbers and lines of text."""
    changed = bytearray(data)
    place = int(random.integers(len(data)))
    kind = random.choice(["bit", "byte", "word", "sector", "end", "cut", "copy", "number", "line"])
    if kind == "bit":
        for at in random.integers(len(data), size=random.integers(1, 4)):
            changed[at] ^= 1 << random.integers(8)
    elif kind == "byte":
        changed[place] = random.choice([0, 1, 127, 128, 255, random.integers(256)])
    elif kind == "word":
        n = int(random.choice([2, 4, 8]))
        value = int(random.choice([0, 1, 2 ** (8 * n - 1) - 1, 2 ** (8 * n - 1), 2 ** (8 * n) - 1, len(data)]))
        changed[place : place + n] = (value % 2 ** (8 * n)).to_bytes(n, "little")
    elif kind == "sector":
        place -= place % _SECTOR
        n = len(changed[place : place + _SECTOR])
        changed[place : place + n] = (bytes(n), b"\xff" * n, random.bytes(n))[random.integers(3)]
    elif kind == "end":
        del changed[place:]
    elif kind == "cut":
        del changed[place : place + int(random.integers(1, 64))]
    elif kind == "copy":
        n = int(random.integers(1, 256))
        other = int(random.integers(len(data)))
        changed[place : place + n] = data[other : other + n]
    else:
        lines = data.split(b"\n")
        at = int(random.integers(len(lines)))
        if kind == "line":
            new = (b"", lines[at] * 2, b":= x", b"\0", b"[" * 5000, lines[at - 1])[random.integers(6)]
            lines[at : at + 1] = new, lines[at]
        else:
            words = lines[at].split(b" ")
            words[-1] = _NUMBERS[random.integers(len(_NUMBERS))]
            lines[at] = b" ".join(words)
        changed = bytearray(b"\n".join(lines))
    return bytes(changed)


def run(names: list[str], cases: int, first: int, keep: Path | None) -> None:
    """Try the cases in this process; print where it is and what it finds, a line of JSON each."""
    from fuzz_seeds import SEEDS

    warnings.simplefilter("ignore")
    usage = Path("/proc/self/statm")
    if usage.exists():
        base = int(usage.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (base + MEMORY, resource.RLIM_INFINITY))
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)  # which ends the process also inside of a library
    for name in names:
        with tempfile.TemporaryDirectory(prefix="emrecon_fuzz_") as folder:
            _try_reader(name, SEEDS[name], Path(folder), cases, first, keep)
        first = 0
        _say(done=name)


def _try_reader(name, seed, folder: Path, cases: int, first: int, keep: Path | None) -> None:
    read = seed(folder)
    read()  # the file is good
    good = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    paths, before = list(good), {path: _stamp(path) for path in good}
    for case in range(first, cases):
        random = np.random.default_rng([case, *name.encode()])
        path = paths[case % len(paths)]
        path.write_bytes(mutated(good[path], random))
        _say(at=name, case=case, file=path.name)
        _set_timers(BUSY, WAITING)
        problem = _problem(read, paths, folder)
        _set_timers(0, 0)
        if problem:
            _say(found=problem)
            if keep:
                shutil.copytree(folder, keep / f"{name}-{case}", dirs_exist_ok=True)
        for other in paths:  # runs that go on write their files again
            if _stamp(other) != before[other]:
                other.write_bytes(good[other])
                before[other] = _stamp(other)


def _set_timers(busy: float, waiting: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, busy)
    signal.setitimer(signal.ITIMER_REAL, waiting)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file does."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_mtime_ns, about.st_size


def _problem(read, paths: list[Path], folder: Path) -> str | None:
    from emrecon.projectors.core.errors import FormatError

    try:
        read()
    except (FormatError, FileNotFoundError) as error:
        if len(str(error)) > 5000:
            return f"a message of {len(str(error))} characters"
        if not any(path.name in str(error) for path in paths) and folder.name not in str(error):
            return f"no name of a file: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def findings(names: list[str], cases: int, keep: Path | None = None) -> list[str]:
    """Try readers in a process of its own, which is started again after a crash or a case that takes too long."""
    found, first, names = [], 0, list(names)
    while names:
        command = [sys.executable, __file__, "--inside", "--cases", str(cases), "--first", str(first), *names]
        command += ["--keep", str(keep)] if keep else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            said, trouble = process.communicate()
        at = {"at": names[0], "case": first - 1, "file": ""}
        for line in map(json.loads, said.splitlines()):
            at = line if "at" in line else at
            if "found" in line:
                found.append(f"{at['at']} case {at['case']} ({at['file']}): {line['found']}")
            if "done" in line:
                names.remove(line["done"])
                first = 0
        if process.returncode > 0:
            raise RuntimeError(f"the trial stopped at {at}: {trouble}")
        if process.returncode < 0:
            reason = signal.Signals(-process.returncode).name
            found.append(f"{at['at']} case {at['case']} ({at['file']}): ended by {reason}")
            first = at["case"] + 1
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        run(given.names, given.cases, given.first, given.keep)
        return
    from fuzz_seeds import SEEDS

    found = findings(given.names or list(SEEDS), given.cases, given.keep)
    print(*found, f"{len(found)} findings", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
