"""Recorded launches run once more by a program under sanitizers.

`address,undefined` finds reads and writes outside of arrays, each of which is a block of memory of its own, and
undefined arithmetic. For `thread` every CUDA thread is one of the system: it finds accesses of two threads to one
place, one of them a write and no barrier or atomic operation between them, in whatever order they happened to run.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .compiling import SHIM, CompileError, built, definitions, kernels_of, prepared, works_together
from .kernels import Launch

_MAIN = """
typedef void (*Runner)(const int*, const int*, int, uint64_t, void**);
struct Known { const char* name; Runner run; };
static uint64_t number(FILE* f) {
    uint64_t n = 0;
    if (fread(&n, 8, 1, f) != 1) fail("the file ends too early");
    return n;
}
int main(int argc, char** argv) {
    FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    for (uint64_t left = number(in); left > 0; --left) {
        const uint64_t which = number(in);
        int grid[3], block[3];
        for (int& n : grid) n = int(number(in));
        for (int& n : block) n = int(number(in));
        const int shared = int(number(in));
        const uint64_t n = number(in);
        void** args = static_cast<void**>(malloc(n * sizeof(void*)));
        void** arrays = static_cast<void**>(malloc(n * sizeof(void*)));
        uint64_t* sizes = static_cast<uint64_t*>(malloc(n * sizeof(uint64_t)));
        for (uint64_t i = 0; i < n; ++i) {
            const uint64_t is_array = number(in);
            sizes[i] = number(in);
            void* held = malloc(sizes[i]);
            if (sizes[i] && fread(held, sizes[i], 1, in) != 1) fail("the file ends too early");
            arrays[i] = is_array ? held : nullptr;
            args[i] = is_array ? static_cast<void*>(&arrays[i]) : held;
        }
        KNOWN[which].run(grid, block, shared, 1, args);
        for (uint64_t i = 0; i < n; ++i) {
            if (arrays[i] && fwrite(arrays[i], 1, sizes[i], out) != sizes[i]) fail("cannot write");
            free(arrays[i] ? arrays[i] : args[i]);
        }
        free(args), free(arrays), free(sizes);
    }
    fclose(in), fclose(out);
    return 0;
}
"""


class SanitizerReportError(AssertionError):
    """What a sanitizer found."""


def program(launches: Sequence[Launch], sanitizer: str) -> tuple[Path, dict[tuple[Any, ...], int]]:
    """Compile all sources of the launches into one program, and number their kernels."""
    sources = list(dict.fromkeys((one.code, one.options) for one in launches))
    together = any(works_together(code) for code, _ in sources)
    threads = ["#define EMULATE_THREADS"] if together or sanitizer == "thread" else []  # else one after another
    parts = [*threads, f"#define SHARES_MEMORY {int(together)}", f'#include "{SHIM.name}"']
    numbers: dict[tuple[Any, ...], int] = {}
    known = []
    for i, (code, options) in enumerate(sources):
        body = prepared(code).replace('extern "C"', "")
        given = [option[2:].partition("=") for option in definitions(options)]
        parts += [f"#undef {name}\n#define {name} {value}" for name, _, value in given]
        parts.append(f'namespace source{i} {{\n#line 1 "kernels{i}.cu"\n{body}\n}}')
        for name in kernels_of(code):
            numbers[code, options, name] = len(known)
            runner = f"run{len(known)}"
            parts.append(
                f"static void {runner}(const int* g, const int* b, int s, uint64_t o, void** a) "
                f"{{ run(source{i}::{name}, g, b, s, o, a); }}"
            )
            known.append(f'{{"{name}", {runner}}}')
    main, _, rest = _MAIN.partition("static uint64_t number")
    parts += [main, f"static const Known KNOWN[] = {{{', '.join(known)}}};", "static uint64_t number" + rest]
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-O1", "-g1", "-pthread"]
    return built("\n".join(parts), flags, "exe"), numbers


def runs_here(sanitizer: str) -> bool:
    """Whether this compiler and system can do it: a library may be missing, or memory laid out in a way it rejects."""
    try:
        made = built("int main() { return 0; }", [f"-fsanitize={sanitizer}"], "exe")
    except CompileError:
        return False
    return subprocess.run([str(made)], capture_output=True, check=False).returncode == 0


def replayed(launches: Sequence[Launch], sanitizer: str) -> list[list[np.ndarray]]:
    """Run launches under a sanitizer and return the arrays of each afterwards; raise what it found."""
    made, numbers = program(launches, sanitizer)
    with TemporaryDirectory() as folder:
        asked, answered = Path(folder, "in"), Path(folder, "out")
        asked.write_bytes(b"".join(_packed(launches, numbers)))
        settings = {
            "ASAN_OPTIONS": "detect_leaks=0",
            "TSAN_OPTIONS": "halt_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=0",
        }
        done = subprocess.run(
            [str(made), str(asked), str(answered)],
            capture_output=True, text=True, check=False, env={**os.environ, **settings},
        )  # fmt: skip
        if done.returncode:
            raise SanitizerReportError(done.stderr[-6000:])
        return _unpacked(launches, answered.read_bytes())


def _packed(launches: Sequence[Launch], numbers: dict[tuple[Any, ...], int]) -> list[bytes]:
    found = [struct.pack("Q", len(launches))]
    for one in launches:
        which = numbers[one.code, one.options, one.kernel]
        found.append(struct.pack("9Q", which, *one.grid, *one.block, one.shared_mem, len(one.before)))
        for value, is_array in zip(one.before, one.is_array):
            found += [struct.pack("2Q", is_array, value.nbytes), value.tobytes()]
    return found


def _unpacked(launches: Sequence[Launch], data: bytes) -> list[list[np.ndarray]]:
    found, first = [], 0
    for one in launches:
        arrays = []
        for value, is_array in zip(one.before, one.is_array):
            if is_array:
                part = data[first : first + value.nbytes]
                arrays.append(np.frombuffer(part, value.dtype).reshape(value.shape))
                first += value.nbytes
        found.append(arrays)
    return found
