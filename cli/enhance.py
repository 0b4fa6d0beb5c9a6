"""`emrecon enhance`: a trained network makes a better image of an image, with CT or MR beside it."""

from __future__ import annotations

import importlib
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console

from emrecon import formats
from emrecon.formats.dicom.nm import nm_kind
from emrecon.formats.dicom.summary import is_dicom
from emrecon.projectors import ImageGrid
from emrecon.projectors.core.progress import stage
from emrecon.projectors.core.resampling import resample
from emrecon.recon.methods import matching

from . import learned, options
from .dose import last_part, record_words
from .images import different_patients, in_patient, known
from .outputs import check_outputs, writing
from .printing import note, plain_console, quietly

if TYPE_CHECKING:
    from emrecon.unrolled import Enhancer, Windowed
    from emrecon.unrolled.training.weights import Card

FILE, WORK = "File", "Work"
_CLOSE, _FAR = 0.05, 0.5  # voxel sizes that differ by more are noted, and refused
_CT_AIR = -500.0


@dataclass
class _Said:
    """Notes: printed at once, and kept for the record."""

    console: Console
    anyway: bool
    notes: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> None:
        self.notes.append(text)
        note(text, self.console)

    def misfit(self, text: str, option: str) -> None:
        """Refuse what does not fit, or note it where the user wants to go on."""
        if not self.anyway:
            raise typer.BadParameter(f"{text}; --anyway goes on", param_hint=option)
        self(text)


@dataclass(frozen=True, eq=False)
class _Image:
    """Frames (F, x, y, z) on a grid, as in the file and in the patient's coordinates, and their unit."""

    frames: np.ndarray
    grid: ImageGrid
    in_patient: ImageGrid
    unit: str
    single: bool


def enhance(
    image: Annotated[Path, typer.Argument(help="NIfTI, HDF5, Interfile or DICOM; of several frames each by itself.")],
    weights: Annotated[
        str, typer.Option(help="Trained weights (.safetensors with its .json card), or a name of those of emrecon.")
    ],
    out: Annotated[
        Path, typer.Option(rich_help_panel=FILE, help="The better image: .nii.gz, .nii, .h5 or .hv, in the same unit.")
    ],
    guide: Annotated[
        list[Path] | None,
        typer.Option(help="CT, MR or map that the network was trained with; it is resampled to the image. Repeat."),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the noise in the image's unit, for networks told it (else measured)."),
    ] = None,
    frame: Annotated[int | None, typer.Option(min=1, help="One of several frames: 1, 2, ...")] = None,
    memory: Annotated[
        float, typer.Option(rich_help_panel=WORK, help="GB that may be taken; images that need more go in windows.")
    ] = 4.0,
    window: Annotated[
        int | None,
        typer.Option(rich_help_panel=WORK, min=8, help="Edge of windows in voxels, instead of --memory."),
    ] = None,
    device: Annotated[str, typer.Option(rich_help_panel=WORK, help="cpu or cuda.")] = "cpu",
    anyway: Annotated[
        bool, typer.Option("--anyway", rich_help_panel=WORK, help="Go on where the image does not fit the training.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=FILE, help="Print nothing but errors.")
    ] = False,
) -> None:
    """Enhance an image: `emrecon enhance bone.nii.gz --weights DIR/weights.safetensors --guide CT --out better.nii.gz`.

    Modality, voxels, noise and guide are compared with what the network was trained on.
    """
    console = plain_console(quiet=quiet)
    said = _Said(console, anyway)
    _check_numbers(sigma, memory, device)
    if formats.image_kind(out) == "dicom":
        raise typer.BadParameter("an enhanced image is .nii.gz, .nii, .h5 or .hv, not DICOM", param_hint="--out")
    with quietly(quiet):
        network, card, path = _network(weights)
        check_outputs({"--out": out}, (image, *(guide or ()), path))
        with stage("reading the image"):
            shown = _read(image, frame, said)
            guides = _guides(guide or (), network, card, shown, image, said)
        _check_fit(network, card, shown, image, path.name, said)
        made = _made(network, card, shown, guides, sigma, memory, window, device, said)
        record = _record(image, guide or (), path, out, card, shown, said, made.parameters)
        with writing():
            formats.write_image(
                out, made.frames[0] if shown.single else made.frames, shown.grid, unit=shown.unit, provenance=record
            )
    console.print(f"wrote {out}")


def _check_numbers(sigma: float | None, memory: float, device: str) -> None:
    for option, value in (("--sigma", sigma), ("--memory", memory)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise typer.BadParameter(f"must be positive, got {value}", param_hint=option)
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r} is not cpu or cuda", param_hint="--device")


def _network(weights: str) -> tuple[Enhancer, Card, Path]:
    """The network with its weights; refuses those of another kind."""
    learned.require("torch")
    learned.require("safetensors.torch")
    files = importlib.import_module("emrecon.unrolled.training.weights")
    known_ones = importlib.import_module("emrecon.unrolled.enhancement").ENHANCERS
    path = _weights_file(weights, known_ones)
    card = files.read_card(path)
    if card.architecture not in known_ones:
        does = (
            f"; it reconstructs scans: emrecon reconstruct --method {card.architecture}"
            if card.architecture in learned.NETWORKS
            else f"; known are {', '.join(known_ones)}"
        )
        raise typer.BadParameter(
            f"{path.name} holds a {card.architecture!r}, which does not enhance images{does}", param_hint="--weights"
        )
    network, card = files.load_network(path, known_ones)
    return network, card, path


def _weights_file(weights: str, known_ones: Any) -> Path:
    path = Path(weights)
    if path.is_file() or path.suffix:
        return path
    shipped = importlib.import_module("emrecon.unrolled.training.shipped")
    files = importlib.import_module("emrecon.unrolled.training.weights")
    names = [
        name
        for name in shipped.pretrained_names()
        if files.read_card(shipped.pretrained_path(name)).architecture in known_ones
    ]
    if not names:
        raise typer.BadParameter(
            f"{weights!r} is no file, and no trained enhancers come with emrecon; train one: emrecon train",
            param_hint="--weights",
        )
    with options.named_by_option():
        found: Path = shipped.pretrained_path(matching(weights, names, "weights"))
    return found


# ---- what is read ----------------------------------------------------------------------------------------------------


def _read(path: Path, frame: int | None, said: _Said) -> _Image:
    values, grid = formats.read_image(path)
    frames = np.asarray(values if values.ndim == 4 else values[None], np.float32)
    if frame is not None:
        if frame > len(frames):
            raise typer.BadParameter(f"there are frames 1 to {len(frames)}, got {frame}", param_hint="--frame")
        frames = frames[frame - 1 : frame]
    if not np.isfinite(frames).all():
        raise formats.FormatError(f"{path}: the image holds NaN or infinite values")
    unit = known(formats.image_unit(path))
    if unit == "HU" or (not unit and frames.min() < _CT_AIR):
        raise typer.BadParameter(f"{path.name} is a CT in HU; name it by --guide", param_hint="IMAGE")
    if not frames.any():
        raise formats.FormatError(f"{path}: the image is zero everywhere")
    if (frames < 0).any():
        said(f"{(frames < 0).mean():.1%} of the voxels of {path.name} are negative and go in as they are")
    if len(frames) > 1:
        said(f"{path.name} holds {len(frames)} frames, and each is enhanced by itself")
    return _Image(frames, grid, in_patient(path, grid), unit, values.ndim == 3 or frame is not None)


def _guides(
    paths: Sequence[Path], network: Enhancer, card: Card, shown: _Image, image: Path, said: _Said
) -> np.ndarray | None:
    """The guides on the grid of the image, (n, x, y, z)."""
    n, kinds = network.guide_channels, _kinds(card, network.guide_channels)
    if len(paths) != n:
        wants = (
            f"with {n} guide{'s' * (n > 1)} ({', then '.join(_WORDS[kind] for kind in kinds)})"
            if n
            else "without a guide"
        )
        got = f"{len(paths)} are given" if paths else "none is given"
        raise typer.BadParameter(f"the network was trained {wants}, and {got}", param_hint="--guide")
    found = [_guide(path, kind, shown, image, said) for path, kind in zip(paths, kinds)]
    return np.stack(found) if found else None


_WORDS = {"mu": "the attenuation map or CT", "ct": "CT in HU", "guide": "such as MR or CT"}


def _kinds(card: Card, n: int) -> list[str]:
    names = card.data.get("guide") if isinstance(card.data, dict) else None
    listed = [names] if isinstance(names, str) else list(names or [])
    return [str(name) if name in _WORDS else "guide" for name in listed] if len(listed) == n else ["guide"] * n


def _guide(path: Path, kind: str, shown: _Image, image: Path, said: _Said) -> np.ndarray:
    values, own = formats.read_image(path)
    if values.ndim != 3:
        raise formats.FormatError(f"{path} holds several volumes, shape {values.shape}; save one as its own file")
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: a guide must be finite, and this image holds NaN or infinite values")
    for text in different_patients((path.name, path), (image.name, image)):
        said(text)
    unit, lowest = known(formats.image_unit(path)), float(values.min())
    hounsfield = unit == "HU" or (not unit and lowest < _CT_AIR)
    if kind == "ct" and not hounsfield:
        raise typer.BadParameter(
            f"the network was trained with CT in HU, and {path.name} is none", param_hint="--guide"
        )
    values = np.asarray(values, np.float32)
    if hounsfield and not unit:
        said(f"{path.name} is taken for a CT in Hounsfield units by its values")
    air = 0.0
    if hounsfield and kind == "mu":
        said(f"{path.name} in HU is turned into attenuation relative to water, 1 + HU / 1000")
        values = np.maximum(1 + values / 1000, 0)
    elif hounsfield:
        air = -1000.0
    own = in_patient(path, own)
    if own.shape != shown.in_patient.shape or not np.allclose(own.affine, shown.in_patient.affine, atol=1e-3):
        there, here = (" x ".join(f"{edge:.3g}" for edge in grid.voxel_size) for grid in (own, shown.in_patient))
        said(f"the guide {path.name} is resampled from voxels of {there} mm to those of the image, {here} mm")
    try:
        on_grid = np.asarray(resample(values - air, own, shown.in_patient)) + air
        reached = np.asarray(resample(np.ones_like(values), own, shown.in_patient)) > 0.5
    except ValueError as error:
        raise typer.BadParameter(f"{path.name} does not cover {image.name}: {error}", param_hint="--guide") from error
    activity = np.abs(shown.frames).sum(0)
    outside = float(activity[~reached].sum() / activity.sum())
    if outside > 0.01:
        said(f"{outside:.0%} of the image's values lie where {path.name} does not reach; it is taken for air there")
    return np.asarray(on_grid, np.float32)


# ---- does it fit -----------------------------------------------------------------------------------------------------


def _check_fit(network: Enhancer, card: Card, shown: _Image, path: Path, name: str, said: _Said) -> None:
    """Compare the image with what the card says of the training."""
    if network.dimensions == 3 and shown.grid.shape[2] == 1:
        raise typer.BadParameter(
            f"{name} holds a network of volumes (3-D), and this image has one slice", param_hint="IMAGE"
        )
    simulation = _simulation(card)
    if simulation is None:
        said(f"the card of {name} does not say what the network was trained on, so nothing can be compared")
        return
    taught = [kind for kind in ("PET", "SPECT") if simulation.get(kind.lower())]
    own = _modality(path)
    if own is None and taught:
        said(f"{path.name} does not say whether it is PET or SPECT; {name} was trained on {taught[0]}")
    elif taught and own not in taught:
        said.misfit(f"{name} was trained on {taught[0]}, and {path.name} is {own}", "IMAGE")
    grid = simulation.get("grid")
    size = grid.get("voxel_size") if isinstance(grid, dict) else None
    if isinstance(size, list):
        axes = slice(0, network.dimensions if network.n_slices == 1 else 3)
        off = float(np.abs(np.log(np.asarray(shown.grid.voxel_size[axes]) / np.asarray(size[axes], float))).max())
        there, here = (" x ".join(f"{edge:.3g}" for edge in sizes) for sizes in (size, shown.grid.voxel_size))
        text = f"{name} was trained on voxels of {there} mm, and these have {here} mm"
        if off > math.log(1 + _FAR):
            said.misfit(text, "IMAGE")
        elif off > math.log(1 + _CLOSE):
            said(text)


def _simulation(card: Card) -> dict[str, Any] | None:
    """The simulation of a card's training data, the first of several."""
    found = card.data
    for key in ("training", "simulation"):
        found = found.get(key) if isinstance(found, dict) else None
        found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, dict) else None


def _modality(path: Path) -> str | None:
    """PET or SPECT, as far as the file says it."""
    if path.is_dir() or is_dicom(path):
        return "PET" if nm_kind(path) is None else "SPECT"
    if path.suffix.lower() in (".h33", ".i33"):
        return "SPECT"
    try:
        record = formats.read_provenance(path)
    except (formats.FormatError, OSError):
        return None
    text = " ".join((record.method, *record.acquisition, *record.physics, *record.parameters.values()))
    return next((kind for kind in ("SPECT", "PET") if kind in text), None)


# ---- work ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Made:
    frames: np.ndarray
    parameters: dict[str, str]


def _made(
    network: Enhancer,
    card: Card,
    shown: _Image,
    guides: np.ndarray | None,
    sigma: float | None,
    memory: float,
    window: int | None,
    device: str,
    said: _Said,
) -> _Made:
    """The enhanced frames, and the settings that the record keeps."""
    import torch

    from emrecon.unrolled.training import domain

    if sigma is not None and not network.noise:
        raise typer.BadParameter("the network is not told the level of the noise; leave it out", param_hint="--sigma")
    place = learned.torch_device(device)
    windowed = _windowed(network, shown.grid, memory, window, said)
    beside = None if guides is None else torch.from_numpy(guides if len(guides) > 1 else guides[0])
    x = torch.from_numpy(np.ascontiguousarray(shown.frames))
    expanded = None if beside is None else beside.expand(len(x), *beside.shape)
    statistics = domain.image_statistics(x, expanded, voxel_size=shown.grid.voxel_size)
    for text in domain.scan_notes(card, statistics):
        said(text)
    windowed.to(place)
    with stage("network"), torch.no_grad():
        moved = None if beside is None else beside.to(place)
        frames = [windowed(one.to(place), sigma, guide=moved).cpu().numpy() for one in x]
    made = np.stack(frames).astype(np.float32)
    if (made < 0).any():
        said(f"the network made {(made < 0).mean():.1%} of the voxels negative; they are set to 0")
    parameters = {
        "network": card.architecture,
        "weights": f"SHA-256 {card.sha256}",
        "window": " x ".join(map(str, windowed.window)),
        "overlap": str(windowed.overlap),
    }
    if network.noise:
        parameters["sigma"] = "measured" if sigma is None else f"{sigma:g}"
    return _Made(np.maximum(made, 0), parameters)


def _windowed(network: Enhancer, grid: ImageGrid, memory: float, window: int | None, said: _Said) -> Windowed:
    """The network in windows that fit, or in one that holds the whole image."""
    enhancement = importlib.import_module("emrecon.unrolled.enhancement")
    found: Windowed | None
    if window is not None:
        found = enhancement.Windowed(network, window)
    else:
        found = enhancement.fitting_window(network, grid.shape, round(memory * 2**30))
    if found is None:
        least = enhancement.Windowed(network, 16).memory(grid.shape) / 2**30
        raise typer.BadParameter(
            f"{memory:g} GB are not enough; {least:.2g} GB are for windows of 16", param_hint="--memory"
        )
    whole = all(edge >= n for edge, n in zip(found.window, grid.shape))
    if not whole:
        said(
            f"the image goes through the network in {found.n_windows(grid.shape)} windows of "
            f"{' x '.join(map(str, found.window))}, {found.overlap} of which overlap; about "
            f"{found.memory(grid.shape) / 2**30:.2g} GB"
        )
    return found


def _record(
    image: Path,
    guides: Sequence[Path],
    weights: Path,
    out: Path,
    card: Card,
    shown: _Image,
    said: _Said,
    parameters: dict[str, str],
) -> formats.Provenance:
    """Where the enhanced image comes from, with what the record of the image says of its scan."""
    inputs = [("image", image), *(("--guide", path) for path in guides), ("--weights", weights)]
    clean = record_words([path for role, path in inputs if role != "--weights"], [*inputs, ("--out", out)])
    try:
        before = formats.read_provenance(image)
    except (formats.FormatError, OSError):
        before = None
    with stage("digests of the inputs"):
        used = tuple(formats.used_file(role, path) for role, path in inputs)
    kept: dict[str, Any] = {}
    if before is not None:
        kept = {
            name: getattr(before, name) for name in ("acquisition", "convergence", "orbit", "calibration", "subject")
        }
        kept["placement"] = before.placement
        kept["physics"] = (*before.physics, f"then enhanced; the image was made by {before.method}")
    return formats.Provenance(
        command=shlex.join(["emrecon", *(clean(last_part(word)) for word in sys.argv[1:])]),
        method=f"{card.architecture} on an image",
        parameters=parameters,
        unit=shown.unit,
        inputs=used,
        notes=(*(() if before is None else before.notes), *map(clean, said.notes)),
        **kept,
    )
