"""List the public names of an installed CuPy, with their parameters, as names.json: run it where CuPy is installed.

No device is needed. Parameters are written as `name`, `name=` (it may be left out), `*name`, `**name`, with `/` and `*`
as in Python.
"""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

MODULES = (
    "cupy",
    "cupy.linalg",
    "cupy.fft",
    "cupy.random",
    "cupy.cuda",
    "cupy.cuda.runtime",
    "cupy.cuda.nvtx",
    "cupy.cuda.profiler",
    "cupyx",
    "cupyx.scipy.fft",
    "cupyx.scipy.ndimage",
    "cupyx.scipy.special",
)
CLASSES = ("ndarray", "RawModule", "RawKernel", "cuda.Stream", "cuda.ExternalStream", "cuda.Event", "cuda.Device",
           "cuda.MemoryPool", "cuda.Function")  # fmt: skip
MARKS = {
    inspect.Parameter.POSITIONAL_ONLY: "",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.KEYWORD_ONLY: "",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def parameters(function: Any) -> str | None:
    """The parameters in short, from the signature or the first line of the docstring; None where neither tells."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return _from_text(function.__doc__ or "")
    words, before = [], None
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and before not in (one.KEYWORD_ONLY, one.VAR_POSITIONAL):
            words.append("*")
        words.append(MARKS[one.kind] + one.name + ("" if one.default is one.empty else "="))
        before = one.kind
    return " ".join(words)


def _from_text(text: str) -> str | None:
    """The parameters of a first line such as `ndarray.sum(self, axis=None, Py_ssize_t n=0, *, out=None) -> ndarray`."""
    found = re.match(r"[\w.]+\((.*)\)(\s*->.*)?$", text.split("\n")[0])
    if found is None:
        return None
    words = []
    for one in re.split(r",\s*(?![^(\[]*[)\]])", found.group(1)):
        name, given, _ = one.partition("=")
        name = name.strip().split(":")[0].split(" ")[-1]
        if name and name != "self":
            words.append(name + given)
    return " ".join(words)


def describe(name: str) -> dict[str, Any]:
    """Functions, ufuncs and other names of a module."""
    import numpy

    module = import_module(name)
    functions, ufuncs, shared, others = {}, [], [], []
    for key in dir(module):
        value = getattr(module, key)
        if key in ("bytes", "str", "annotations") or key.startswith(("cuda", "CUDA_")):
            continue
        if key.startswith("_") or inspect.ismodule(value):
            continue
        if type(value).__name__ == "ufunc":
            ufuncs.append(key)
        elif getattr(numpy, key, None) is value:
            shared.append(key)
        elif callable(value) and not inspect.isclass(value) and parameters(value) is not None:
            functions[key] = parameters(value)
        else:
            others.append(key)
    return {"functions": functions, "ufuncs": ufuncs, "of_numpy": shared, "others": others}


def describe_class(name: str) -> dict[str, str | None]:
    """Attributes of a class: parameters of its methods, and null for what is no method, or tells none."""
    import cupy

    owner: Any = cupy
    for part in name.split("."):
        owner = getattr(owner, part)
    found = {key: getattr(owner, key) for key in dir(owner) if not key.startswith("_")}
    listed = {key: parameters(value) if callable(value) else None for key, value in found.items()}
    return {"()": _from_text(owner.__doc__ or "") or parameters(owner), **listed}


def main() -> None:
    """Write names.json beside this file."""
    import cupy

    listed = {
        "version": cupy.__version__,
        "modules": {name: describe(name) for name in MODULES},
        "classes": {name: describe_class(name) for name in CLASSES},
    }
    lines = json.dumps(listed, indent=1, sort_keys=True)
    lines = re.sub(r"\[\s+([^\]]*?)\s+\]", lambda m: "[" + re.sub(r",\s+", ", ", m.group(1)) + "]", lines)
    Path(__file__).with_name("names.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
