"""`emrecon info`: what runs here, or what a file holds."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from emrecon import formats
from emrecon.projectors.core.compiling import cache_folder
from emrecon.projectors.core.threads import thread_count
from emrecon.sims.datasets import MANIFEST, Dataset

from . import learned, options
from .printing import plain_console, printable, quietly

_PACKAGES = ("emrecon", "numpy", "scipy", "numba", "h5py", "nibabel", "torch", "cupy-cuda12x", "cupy-cuda13x")


def info(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A scan, an image, events, efficiencies, DICOM (a file or a folder), a data set, weights; without it, "
            "this machine."
        ),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Replace a value of the header; repeat.")
    ] = None,
    with_names: Annotated[
        bool, typer.Option("--with-names/--without-names", help="DICOM: say the patient's name and number, too.")
    ] = False,
) -> None:
    """Say what a file holds; without a file, which versions, threads, devices and kernels are in use."""
    if file is None and with_names:
        raise typer.BadParameter("name the file whose patient it names", param_hint="--with-names")
    if file is None and header:
        raise typer.BadParameter("name the file whose header it replaces a value of", param_hint="--header")
    with quietly(False):
        facts = _machine() if file is None else _facts(file, options.header_values(header or ()), with_names)
    width, console = max(map(len, facts)), plain_console()
    for name, value in facts.items():
        console.print(f"{name:{width}}  {printable(_plain(value))}")


def _facts(file: Path, header: dict[str, Any], names: bool) -> dict[str, Any]:
    if (file / MANIFEST).is_file():
        return _of_samples(file)
    if file.suffix == ".safetensors":
        return _of_weights(file)
    return formats.describe(file, names=names, **header)


def _of_samples(folder: Path) -> dict[str, Any]:
    """What a data set holds."""
    found = Dataset(folder)
    fields = {f"field {name}": f"{_shape(field.shape)} {field.dtype}" for name, field in found.fields.items()}
    recipe: dict[str, Any] = {
        name: found.recipe[name] for name in ("name", "seed", "description") if name in found.recipe
    }
    return {"format": "emrecon data set", "holds": "samples", "samples": len(found), **recipe, **fields}


def _of_weights(file: Path) -> dict[str, Any]:
    """What the card of trained weights says."""
    learned.require("safetensors.torch")
    from emrecon.unrolled.training.weights import read_card

    card = read_card(file)
    facts = {
        "format": "weights of a network",
        "architecture": card.architecture,
        "arguments": ", ".join(f"{name}={value!r}" for name, value in card.arguments.items()),
        "parameters": card.parameters,
        "scale": card.scale,
        **card.metrics,
        "notes": card.notes,
        "version": card.version,
    }
    return {name: value for name, value in facts.items() if value != ""}


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _machine() -> dict[str, Any]:
    gpu = _gpu()
    return {
        "python": f"{sys.version.split()[0]} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in _PACKAGES if _version(name)},
        "CPU threads": thread_count(),
        "CPU kernels": f"numba, compiled at first use and {_kept()}",
        "GPU": gpu or "none (install emrecon[cuda12] or emrecon[cuda13] to use one)",
        "GPU kernels": "CUDA through CuPy, compiled at first use" if gpu else "not in use",
        "trained networks": ", ".join(learned.PRETRAINED),
    }


def _kept() -> str:
    folder = cache_folder()
    return f"kept in {folder}" if folder else "not kept: no folder can be written; set NUMBA_CACHE_DIR"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _gpu() -> str:
    try:
        import cupy

        names = [
            cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(cupy.cuda.runtime.getDeviceCount())
        ]
    except Exception:  # CuPy is missing, or there is no driver: both mean that no GPU can be used
        return ""
    return ", ".join(names)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(_plain(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
