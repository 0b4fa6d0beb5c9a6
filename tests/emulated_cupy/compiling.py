"""CUDA sources as shared libraries of the host, made once for all processes of a run and kept by their digest."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

SHIM = Path(__file__).with_name("shim.hpp")
_KERNEL = re.compile(
    r'(extern\s+"C"\s+)?__global__\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?void\s+'
    r"(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\("
)
_TOGETHER = re.compile(r"__sync|__shfl|__shared__|_sync\s*\(|__reduce_")
_INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"].*$', re.M)
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\d+\)\s*)?([\w ]+?)\s*(\w+)\s*\[\s*\]\s*;")
_HEADERS = {"cuda_fp16.h"}


class CompileError(RuntimeError):
    """What the compiler said."""


def compiler() -> str | None:
    """The C++ compiler, or None where there is none."""
    return shutil.which("g++") or shutil.which("clang++")


@cache
def kernels_of(code: str) -> list[str]:
    """The names of the kernels that a host program could find: those with C linkage."""
    return [name for linkage, name in _KERNEL.findall(code) if linkage]


def works_together(code: str) -> bool:
    """Whether threads of a block wait for each other, or share memory."""
    return bool(_TOGETHER.search(code))


def prepared(code: str) -> str:
    """The source without what only CUDA's compiler knows; headers that NVRTC would not find are refused."""
    for header in _INCLUDE.findall(code):
        if header not in _HEADERS:
            raise CompileError(f'NVRTC finds no header "{header}"')
    code = _INCLUDE.sub("", code)
    return _DYNAMIC.sub(r"\1* \2 = reinterpret_cast<\1*>(dynamic_shared_memory);", code)


@cache
def definitions(options: tuple[str, ...]) -> tuple[str, ...]:
    """The options for the host's compiler; those that NVRTC does not know are refused."""
    kept = []
    for option in options:
        if option.startswith("-D"):
            kept.append(option)
        elif not re.fullmatch(
            r"--?std=c\+\+(14|17|20)|--use_fast_math|--fmad=(true|false)|-lineinfo|--generate-line-info"
            r"|--maxrregcount=\d+|--extra-device-vectorization|--ptxas-options=.*",
            option,
        ):
            raise CompileError(f"NVRTC does not know the option {option}")
    return tuple(kept)


def library_of(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The source as a library with a function run_NAME and one types_NAME for each kernel."""
    return _library(code, definitions(options))


@cache
def _library(code: str, defined: tuple[str, ...]) -> ctypes.CDLL:
    half = "#define EMULATE_HALF\n" if "cuda_fp16.h" in code else ""
    fibres = "#define EMULATE_FIBRES\n" if works_together(code) else ""
    wrappers = "".join(
        f'extern "C" void run_{k}(const int* g, const int* b, int s, uint64_t o, void** a) '
        f"{{ run({k}, g, b, s, o, a); }}\n"
        f'extern "C" const char* types_{k}() {{ return types_of({k}); }}\n'
        for k in kernels_of(code)
    )
    whole = f'{half}{fibres}#include "{SHIM.name}"\n#line 1 "kernels.cu"\n{prepared(code)}\n{wrappers}'
    flags = ["-O1", "-shared", "-fPIC", *defined]
    return ctypes.CDLL(str(built(whole, flags, "so")))


def built(whole: str, flags: list[str], suffix: str) -> Path:
    """Compile, or take what any process has compiled before; raises CompileError."""
    command = [str(compiler()), "-std=c++17", "-w", f"-I{SHIM.parent}", *flags]
    key = hashlib.sha256("\0".join([whole, SHIM.read_text(), *command[1:]]).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("EMRECON_HOST_KERNELS") or Path(gettempdir(), "emrecon_host_kernels"))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{key}.{suffix}"
    if target.exists():
        return target
    with (folder / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process compiles, the others wait for it
        if not target.exists():
            with TemporaryDirectory(dir=folder) as inside:
                source, made = Path(inside, "kernels.cpp"), Path(inside, f"kernels.{suffix}")
                source.write_text(whole)
                done = subprocess.run(
                    [*command, str(source), "-o", str(made)], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise CompileError(done.stderr)
                made.replace(target)
    return target
