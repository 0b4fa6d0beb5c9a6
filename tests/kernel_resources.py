"""The CUDA sources compiled by NVRTC, which needs no device: registers, stack, spills and shared memory of each kernel.

`pip install nvidia-cuda-nvrtc-cu12` brings the library (90 MB).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "projectors/spect/spect.cu",
    "projectors/pet/pet.cu",
    "projectors/parallel/parallel.cu",
    "recon/priors/pairs.cu",
)
ARCHITECTURES = (80, 90, 100, 120)
REALS = ("float", "double")
OPTIONS = ("--std=c++14", "--use_fast_math")  # as in projectors/core/cuda.py
_USED = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers([^\n]*)",
    re.S,
)


class Used(NamedTuple):
    """What a kernel takes: registers of a thread, bytes of stack and of spills, bytes of shared memory of a block."""

    registers: int
    stack: int
    spills: int
    shared: int


def digest() -> str:
    """A short digest of all sources."""
    return hashlib.sha256(b"\0".join((ROOT / source).read_bytes() for source in SOURCES)).hexdigest()[:12]


@cache
def library() -> ctypes.CDLL | None:
    """NVRTC of an installed wheel or of the system, or None."""
    places = [
        found
        for folder in sys.path
        for inside in ("nvidia/cuda_nvrtc/lib", "nvidia/cu13/lib")
        for found in sorted(Path(folder or ".", inside).glob("libnvrtc.so.*"))
    ]
    for name in (*map(str, places), "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def version() -> str:
    """NVRTC's version, such as 12.9."""
    lib, major, minor = library(), ctypes.c_int(), ctypes.c_int()
    assert lib is not None
    lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def architectures() -> list[int]:
    """Those of ARCHITECTURES that this NVRTC compiles for."""
    lib, n = library(), ctypes.c_int()
    assert lib is not None
    lib.nvrtcGetNumSupportedArchs(ctypes.byref(n))
    known = (ctypes.c_int * n.value)()
    lib.nvrtcGetSupportedArchs(known)
    return [arch for arch in ARCHITECTURES if arch in set(known)]


def used(source: str, architecture: int, real: str) -> dict[str, Used]:
    """What the kernels of a source take, by name; kept by its digest. Raises RuntimeError with the log."""
    code = (ROOT / source).read_text(encoding="utf-8")
    key = hashlib.sha256("\0".join([code, version(), str(architecture), real]).encode()).hexdigest()[:24]
    folder = os.environ.get("EMRECON_HOST_KERNELS")
    kept = Path(folder, f"{key}.json") if folder else None
    if kept is not None and kept.exists():
        return {name: Used(*values) for name, values in json.loads(kept.read_text()).items()}
    log = _log(code, [f"--gpu-architecture=sm_{architecture}", f"-DREAL={real}", *OPTIONS, "--ptxas-options=-v"])
    found = {}
    for name, stack, stores, loads, registers, rest in _USED.findall(log):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[name] = Used(int(registers), int(stack), int(stores) + int(loads), int(shared.group(1)) if shared else 0)
    if kept is not None:
        kept.write_text(json.dumps(found))
    return found


def _log(code: str, options: list[str]) -> str:
    lib: Any = library()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    lib.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None)
    texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = lib.nvrtcCompileProgram(program, len(options), texts)
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(f"NVRTC {options}: {log.value.decode()}")
    return log.value.decode()


def warps(registers: int, block: int = 128) -> int:
    """Warps of 64 that fit a multiprocessor of 65536 registers in blocks of so many threads."""
    of_warp = -(-registers * 32 // 256) * 256
    in_block = block // 32
    return min(64, 65536 // of_warp // in_block * in_block)


# ---- the table of docs/gpu.md --------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"
_HEAD = re.compile(r"sources `(\w+)`, NVRTC ([\d.]+)")


def table() -> str:
    """The table of resources, in Markdown, measured now."""
    by = {(s, a, r): used(s, a, r) for s in SOURCES for a in ARCHITECTURES for r in REALS}
    lines = [
        f"Compiled from sources `{digest()}`, NVRTC {version()}. Registers of a thread for "
        f"{', '.join(f'sm_{a}' for a in ARCHITECTURES)}; warps are those of 64 that sm_90 has room for in float.",
        "",
        "| kernel | float | double | stack | spills | shared | warps |",
        "| --- | --- | --- | --: | --: | --: | --: |",
    ]
    for source in SOURCES:
        for name in sorted(by[source, 90, "float"]):
            all_of = {(a, r): by[source, a, r][name] for a in ARCHITECTURES for r in REALS}
            numbers = [" ".join(str(all_of[a, r].registers) for a in ARCHITECTURES) for r in REALS]
            worst = [max(getattr(one, field) for one in all_of.values()) for field in ("stack", "spills", "shared")]
            lines.append(
                f"| `{name}` | {' | '.join(numbers)} | {' | '.join(map(str, worst))} "
                f"| {warps(all_of[90, 'float'].registers)} |"
            )
    return "\n".join(lines)


def budgets() -> tuple[str, str, dict[str, dict[tuple[int, str], int]]]:
    """What the page says: digest of the sources, version of NVRTC, registers by kernel, architecture and real."""
    text = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    head = _HEAD.search(text)
    assert head is not None
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            name, *numbers = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name.strip("`")] = {
                (a, r): int(n) for r, cell in zip(REALS, numbers) for a, n in zip(ARCHITECTURES, cell.split())
            }
    return head.group(1), head.group(2), rows


def main() -> None:
    """Measure, and write the table into the page."""
    if library() is None:
        sys.exit("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
