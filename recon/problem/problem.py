"""What stands between a scan and an engine: a frozen problem, and the checks that all its makers share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from emrecon.projectors import ImageGrid, Scan, ScanSeries
from emrecon.projectors.core.arrays import Array, add_up, array_namespace, device, like, require_array, to_numpy
from emrecon.projectors.core.html import html_table
from emrecon.projectors.core.operator import broadcasts_to

from ..likelihoods.protocol import Likelihood, seen_voxels


class ArgumentError(ValueError):
    """An argument that cannot be used: `argument` is its name, `message` (the text of the error) says why."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(argument, message)
        self.argument, self.message = argument, message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, eq=False)
class Problem:
    """A scan that is ready for an engine: find the image x >= 0 on `grid` that minimises f(x) = sum of f_k(x).

    Args:
        parts : the negative log-likelihoods f_k, one for each subset of the views; every engine takes them as a list.
        grid : where the image is.
        start : the image that engines start from, 1 where something is seen; (x, y, z), or (B, x, y, z) for a batch.
        modality : "SPECT" or "PET".
        summary : some lines of text that say what is modelled.
        signature : text that is the same for two problems only where all counts, corrections and geometry are; it
            belongs into a `Checkpoint`.
        notes : what a user should know about these data and this model, a sentence each.
        mu : the attenuation map on the grid, 1/cm, None without one.

    Made by `spect_problem` and `pet_problem`; `reconstruct` solves it.
    """

    parts: tuple[Likelihood, ...]
    grid: ImageGrid
    start: Array
    modality: str
    summary: str
    signature: str
    notes: tuple[str, ...] = ()
    mu: Array | None = None

    @property
    def n_subsets(self) -> int:
        """How many subsets the views are divided into."""
        return len(self.parts)

    def value(self, x: Array) -> Array:
        """Return f(x), the negative log-likelihood of all data: one number for each item of a batch."""
        return add_up(part.value(x) for part in self.parts)

    def unexplained(self, x: Array) -> str:
        """Return a note on the counts that an image of an engine cannot explain; empty where all are explained."""
        found = [part.unexplained(x) for part in self.parts if hasattr(part, "unexplained")]
        n, counts = sum(bins for bins, _ in found), sum(counts for _, counts in found)
        if not n:
            return ""
        return (
            f"{n} bins hold {counts:g} counts that the image does not explain: no background is expected there; they "
            "count for nothing"
        )

    def _repr_html_(self) -> str:
        rows = {
            "data": self.modality,
            "image": self.grid,
            "subsets": self.n_subsets,
            "model": self.summary,
            "notes": "\n".join(self.notes),
        }
        return html_table("Problem", rows)

    def __str__(self) -> str:
        return "\n".join((self.summary, *(f"note: {note}" for note in self.notes)))


def digest(*contents: Array | float | None) -> str:
    """Return a short checksum of the contents of arrays and numbers."""
    found = hashlib.sha256()
    for values in contents:
        found.update(b"none" if values is None else np.ascontiguousarray(to_numpy(values)).tobytes())
    return found.hexdigest()[:16]


def emission(scan: Scan | ScanSeries, energy: float | None) -> str:
    """Return nuclide, energy (keV, or None) and window of a scan in words."""
    window = "no energy window is known"
    if scan.energy_window is not None:
        low, high = scan.energy_window
        window = f"window {low:g} to {high:g} keV"
    if scan.radionuclide is None:
        return f"radionuclide not known, {window}"
    return f"{scan.radionuclide}, {'no photon line' if energy is None else f'{energy:.4g} keV'}, {window}"


def check_subsets(subsets: int, n_views: int) -> None:
    """Raise ArgumentError unless the views can be divided into so many subsets."""
    if not isinstance(subsets, (int, np.integer)) or subsets < 1:
        raise ArgumentError("subsets", f"subsets must be a whole number of at least 1, got {subsets!r}")
    if subsets > n_views:
        raise ArgumentError(
            "subsets", f"subsets is {subsets}, but the scan has only {n_views} views; use at most {n_views}"
        )


def on_grid(name: str, values: Array, grid: ImageGrid, *, batch: bool = False) -> Array:
    """Return an image after checking that it fits the grid, with a leading batch axis where `batch` allows one."""
    require_array(values, name)
    shape = tuple(values.shape)
    if shape[-3:] != grid.shape or len(shape) > 3 + batch:
        raise ArgumentError(
            name,
            f"{name} of shape {shape} does not fit the grid of {grid.shape}; resample it "
            "(emrecon.projectors.resample), or give its own grid as grid=",
        )
    return values


def expected_counts(name: str, values: Array | float, shape: tuple[int, ...]) -> Array | float:
    """Return expected counts after checking them: a number or an array that broadcasts to `shape`, finite and >= 0."""
    if isinstance(values, (list, tuple)) or values is None:
        raise TypeError(f"{name} must be a number or an array of counts, got a {type(values).__name__}")
    host = np.asarray(to_numpy(values) if hasattr(values, "shape") else values)
    if host.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be a number or an array of counts, got {type(values).__name__}")
    if not broadcasts_to(host.shape, shape):
        raise ArgumentError(name, f"{name} of shape {host.shape} does not broadcast to counts of {shape}")
    if not np.isfinite(host).all() or np.any(host < 0):
        raise ArgumentError(name, f"{name} must be finite and not negative: it is the expected counts of every bin")
    return values if hasattr(values, "shape") and host.ndim else float(host)


def added(first: Array | float, second: Array | float | None) -> Array | float:
    """Return the sum of two numbers or arrays, in the library of the first of them that is an array."""
    if second is None:
        return first
    if not isinstance(first, (int, float)) and hasattr(second, "shape"):
        second = like(second, first)
    return first + second


def seen_start(parts: tuple[Likelihood, ...]) -> np.ndarray:
    """Return 1 where any of the parts sees something, 0 elsewhere; float32 on the host."""
    return to_numpy(seen_voxels(parts)).astype(np.float32)


def start_like(image: Array, counts: Array, n_axes: int) -> Array:
    """Return a first image in the library and on the device of the counts, with their batch axes.

    Args:
        image : (x, y, z) float32, or one for each item of the batch.
        counts : (..., ``*data``).
        n_axes : of the data.
    """
    batch = tuple(counts.shape[: counts.ndim - n_axes])
    if image.ndim > 3:
        image = np.broadcast_to(image, (*batch, *image.shape[-3:])).copy()
        batch = ()
    whole = np.broadcast_to(image, (*batch, *image.shape)).copy() if batch else image
    if isinstance(counts, np.ndarray):
        return whole
    return array_namespace(counts).asarray(whole, device=device(counts))
