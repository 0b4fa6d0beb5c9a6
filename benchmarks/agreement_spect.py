"""Reconstruct a Monte Carlo SPECT scan with emrecon and with PyTomography, and say how far apart the images are.

    python benchmarks/agreement_spect.py [DATA]

DATA is the folder that holds simset_spect/input.hs, the SimSET scan that STIR distributes: a water cylinder with cold
rods and hot rods. Both run OSEM with the same subsets, the same attenuation and the same response. Also reported:
how uniform the cylinder is without attenuation correction, with narrow-beam water, and with the attenuation that makes
it flat (the data hold scatter, so that is less than water's).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, peer_matrix, write_json
from rich.console import Console
from rich.table import Table

from emrecon import formats, recon
from emrecon.projectors import ImageGrid, LinearResponse, Scan, SPECTProjector
from emrecon.recon import nrmse

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    """Both reconstructions, and where they are compared; mm, 1/cm, and slices of which the last is excluded."""

    mu: float = 0.15
    cylinder_radius: float = 99.0
    slope: float = 0.0163
    intercept: float = 1.466
    n_subsets: int = 8
    n_iterations: int = 4
    compared_radius: float = 85.0
    compared_slices: tuple[int, int] = (8, 40)
    uniform_slices: tuple[int, int] = (8, 16)
    core_radius: float = 20.0
    rim_radii: tuple[float, float] = (80.0, 92.0)
    largest_nrmse: float = 0.04
    flat_within: float = 0.03


def main() -> None:
    """Compare, print, and write the numbers and the picture."""
    options = _options()
    settings, console = Settings(), Console()
    scan = formats.read_scan(options.data / "simset_spect" / "input.hs")
    ours, peer = reconstruct(scan, settings, settings.mu), reconstruct_with_peer(scan, settings)
    agreement = compare(ours, peer, scan, settings)
    about = machine()
    results = {
        "machine": about,
        "settings": asdict(settings),
        "agreement": agreement,
        "angle_candidates": angle_candidates(ours, scan, settings),
        "uniformity": uniformity(ours, peer, scan, settings),
    }
    report(console, results)
    console.print(machine_line(about))
    write_json(options.out, results)
    picture(options.picture, ours, peer, scan)
    sys.exit(0 if agreement["nrmse"] <= settings.largest_nrmse else "the images differ by more than they may")


def projector(scan: Scan, settings: Settings, mu: float) -> SPECTProjector:
    """Return the projector of the scan, with a cylinder of attenuation mu (none for 0)."""
    response = LinearResponse(settings.slope, settings.intercept)
    return SPECTProjector(scan.default_grid(), scan.geometry, cylinder(scan, settings, mu), response)


def cylinder(scan: Scan, settings: Settings, mu: float) -> np.ndarray | None:
    """Return the attenuation map of a cylinder of mu in 1/cm, None for 0."""
    grid = scan.default_grid()
    inside = np.broadcast_to(mu * (_radius(grid) < settings.cylinder_radius), grid.shape)
    return inside.astype(np.float32) if mu > 0 else None


def reconstruct(scan: Scan, settings: Settings, mu: float) -> np.ndarray:
    """Return our OSEM image."""
    response = LinearResponse(settings.slope, settings.intercept)
    known = cylinder(scan, settings, mu)
    problem = recon.spect_problem(scan, mu=known, response=response, subsets=settings.n_subsets)
    return np.asarray(recon.reconstruct(problem, "osem", settings.n_iterations))


def reconstruct_with_peer(scan: Scan, settings: Settings) -> np.ndarray:
    """Return PyTomography's OSEM image; it also starts from ones and takes subsets k, k + n, ... in order."""
    import torch
    from pytomography.algorithms import OSEM
    from pytomography.likelihoods import PoissonLogLikelihood

    matrix = peer_matrix(projector(scan, settings, settings.mu))
    likelihood = PoissonLogLikelihood(matrix, torch.from_numpy(np.asarray(scan.counts, np.float32)))
    return OSEM(likelihood)(settings.n_iterations, settings.n_subsets).numpy()


def compare(ours: np.ndarray, peer: np.ndarray, scan: Scan, settings: Settings) -> dict[str, float]:
    """Return |ours - peer| / |peer| inside the cylinder, as it is and after the best global scale of ours.

    Also how well either image explains the counts, under either matrix, as a deviance per bin.
    """
    import torch

    mask = region(scan.default_grid(), 0, settings.compared_radius, settings.compared_slices)
    scale = float((ours[mask] * peer[mask]).sum(dtype=float) / (ours[mask] ** 2).sum(dtype=float))
    A = projector(scan, settings, settings.mu)
    matrix = peer_matrix(A)
    theirs = {name: matrix.forward(torch.from_numpy(image)).numpy() for name, image in _pair(ours, peer)}
    values = {
        "nrmse": float(nrmse(ours, peer, mask)),
        "nrmse_scaled": float(nrmse(scale * ours, peer, mask)),
        "scale": scale,
        "forward_nrmse": float(nrmse(A(ours), theirs["emrecon"])),
    }
    for name, image in _pair(ours, peer):
        values[f"deviance_of_{name}_image_under_emrecon"] = deviance(scan.counts, A(image))
        values[f"deviance_of_{name}_image_under_pytomography"] = deviance(scan.counts, theirs[name])
    return values


def deviance(counts: np.ndarray, expected: np.ndarray) -> float:
    """Return the Poisson deviance per bin, 2 mean(y log(y / ybar) - y + ybar), in float64; lower fits better."""
    y, ybar = counts.astype(float), np.maximum(expected.astype(float), 1e-6)
    return float(2 * np.mean(y * np.log(np.where(y > 0, y, ybar) / ybar) - y + ybar))


def angle_candidates(image: np.ndarray, scan: Scan, settings: Settings) -> list[dict[str, Any]]:
    """Return how well every mapping of our angles to PyTomography's, with and without a flip of u, fits the counts.

    Our image is projected by its matrix in every tenth view; the one mapping that is right explains the data as ours
    does. The phantom has no symmetry that another mapping could use. (A cylinder looks the same in a mirror, so this
    shows that both agree, not which is right about left and right: the tests of the file formats do that.)
    """
    import torch

    part = scan.subset(0, 10)
    A = projector(part, settings, settings.mu)
    rows = []
    for sign, offset, flip in product((1, -1), (0.0, 90.0, 180.0, 270.0), (False, True)):
        expected = peer_matrix(A, offset=offset, sign=sign).forward(torch.from_numpy(image)).numpy()
        fit = deviance(part.counts, expected[:, ::-1] if flip else expected)
        rows.append({"sign": sign, "offset": offset, "flip_u": flip, "deviance": fit})
    rows.append({"sign": None, "offset": None, "flip_u": False, "deviance": deviance(part.counts, A(image))})
    return sorted(rows, key=lambda row: row["deviance"])


def uniformity(ours: np.ndarray, peer: np.ndarray, scan: Scan, settings: Settings) -> list[dict[str, Any]]:
    """Return core / rim ratios without attenuation correction, with water's mu, and with the mu that makes it flat."""

    def ratio_at(mu: float) -> float:
        return core_to_rim(reconstruct(scan, settings, mu), scan, settings)

    bare, water = ratio_at(0.0), core_to_rim(ours, scan, settings)
    mu, flat = flat_attenuation(ratio_at, (0.0, bare), (settings.mu, water), settings.flat_within / 6)
    return [
        {"method": "emrecon", "mu": 0.0, "ratio": bare},
        {"method": "emrecon", "mu": settings.mu, "ratio": water},
        {"method": "pytomography", "mu": settings.mu, "ratio": core_to_rim(peer, scan, settings)},
        {"method": "emrecon, flat", "mu": mu, "ratio": flat},
    ]


def core_to_rim(image: np.ndarray, scan: Scan, settings: Settings) -> float:
    """Return the mean in the middle of the cylinder over the mean near its wall, where it is uniform."""
    grid = scan.default_grid()
    core = region(grid, 0, settings.core_radius, settings.uniform_slices)
    rim = region(grid, *settings.rim_radii, settings.uniform_slices)
    return float(image[core].mean(dtype=float) / image[rim].mean(dtype=float))


def flat_attenuation(
    ratio_at: Callable[[float], float], low: tuple[float, float], high: tuple[float, float], tolerance: float
) -> tuple[float, float]:
    """Return (mu, ratio) with |ratio - 1| <= tolerance, by false position on log(ratio), which is nearly linear in mu.

    low, high : (mu, ratio) with ratios below and above 1.
    Raises ValueError where they are not, RuntimeError where ten trials do not get there.
    """
    if not low[1] < 1 < high[1]:
        raise ValueError(f"flat_attenuation needs ratios below and above 1, got {low[1]:.3f} and {high[1]:.3f}")
    for _ in range(10):
        (mu_low, a), (mu_high, b) = low, high
        mu = mu_low - np.log(a) * (mu_high - mu_low) / (np.log(b) - np.log(a))
        trial = (float(mu), ratio_at(mu))
        if abs(trial[1] - 1) <= tolerance:
            return trial
        low, high = (trial, high) if trial[1] < 1 else (low, trial)
    raise RuntimeError(f"no flat image between mu {low[0]:.4f} and {high[0]:.4f} /cm")


def region(grid: ImageGrid, inner: float, outer: float, slices: tuple[int, int]) -> np.ndarray:
    """Return the voxels with inner <= r < outer (mm from the axis) in slices first to last, the last excluded."""
    r = _radius(grid)
    mask = np.broadcast_to((r >= inner) & (r < outer), grid.shape).copy()
    mask[:, :, : slices[0]] = mask[:, :, slices[1] :] = False
    return mask


def report(console: Console, results: dict[str, Any]) -> None:
    """Print what `main` writes, as tables."""
    table = Table("quantity", "value", title="emrecon against PyTomography")
    for name, value in results["agreement"].items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    console.print(table)
    table = Table("sign", "offset", "flip u", "deviance per bin", title="angle mappings of PyTomography, best first")
    for row in results["angle_candidates"][:5]:
        ours = row["sign"] is None
        cells = ("emrecon", "", "") if ours else (f"{row['sign']:+d}", f"{row['offset']:g}", str(row["flip_u"]))
        table.add_row(*cells, f"{row['deviance']:.4f}")
    console.print(table)
    table = Table("method", "mu (1/cm)", "core / rim", title="uniformity")
    for row in results["uniformity"]:
        table.add_row(row["method"], f"{row['mu']:.4f}", f"{row['ratio']:.3f}")
    console.print(table)


def picture(path: Path, ours: np.ndarray, peer: np.ndarray, scan: Scan, slices: tuple[int, ...] = (28, 50)) -> None:
    """Write both images and their difference in some slices, cropped to the cylinder, on one scale per slice."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, rows = pyplot.subplots(len(slices), 3, figsize=(10.2, 3.3 * len(slices)), layout="constrained")
    for k, axes in zip(slices, rows):
        _picture_row(figure, axes, k, ours[:, :, k], peer[:, :, k], scan.default_grid())
    figure.suptitle("SimSET scan, OSEM with 8 subsets x 4 iterations, attenuation and response modelled")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _picture_row(figure: Any, axes: Any, k: int, ours: np.ndarray, peer: np.ndarray, grid: ImageGrid) -> None:
    edges = [(o - d / 2, o + (n - 0.5) * d) for o, d, n in zip(grid.origin or (), grid.voxel_size, grid.shape)]
    top = float(np.percentile(peer[_radius(grid)[..., 0] < 95], 99.5))
    extent = (*edges[0], *edges[1][::-1])
    panels = (("emrecon", ours, 0, top), ("PyTomography", peer, 0, top), ("difference", ours - peer, -top / 5, top / 5))
    for axis, (title, image, low, high) in zip(axes, panels):
        colours = "RdBu_r" if low < 0 else "gray_r"
        shown = axis.imshow(image.T, extent=extent, vmin=low, vmax=high, cmap=colours, interpolation="nearest")
        axis.set(title=f"{title}, slice {k}", xlim=(-115, 115), ylim=(115, -115), xlabel="x (mm)", ylabel="y (mm)")
        figure.colorbar(shown, ax=axis, shrink=0.85)


def _radius(grid: ImageGrid) -> np.ndarray:
    x, y, _ = grid.coordinates()
    return np.hypot(x, y)


def _pair(ours: np.ndarray, peer: np.ndarray) -> tuple[tuple[str, np.ndarray], ...]:
    return ("emrecon", ours), ("pytomography", peer)


def _options() -> argparse.Namespace:
    default = Path(os.environ.get("EMRECON_DATA") or ROOT.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description="Agreement of emrecon and PyTomography on a Monte Carlo SPECT scan.")
    parser.add_argument("data", nargs="?", type=Path, default=default, help="folder that holds simset_spect")
    parser.add_argument("--out", type=Path, default=RESULTS / "agreement_spect.json", help="numbers, as JSON")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "agreement_spect.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
