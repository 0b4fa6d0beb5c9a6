"""Reconstruct a measured transmission scan of a thorax phantom by filtered back projection and by penalised likelihood.

    python benchmarks/quality_transmission.py [DATA]

DATA is the folder that holds ecat_exact_transmission/phan_blank.mat and phan_trans.mat, which Fessler's Image
Reconstruction Toolbox distributes: a CTI ECAT EXACT 921, 160 bins by 192 angles, a phantom of water with lungs of foam
and a spine of Teflon. Nothing is known about randoms, scatter and dead time, so two things are estimated from the scan
itself: the factor of the blank scan, where lines see air, and a constant background, where the penalised likelihood
is best. Values of regions are given without and with these corrections, and for factors one percent lower and higher,
since the background that is found depends on the factor.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.io import loadmat
from scipy.ndimage import binary_erosion, binary_fill_holes, gaussian_filter1d

from emrecon.projectors import ImageGrid
from emrecon.projectors.parallel.geometry import ParallelBeamGeometry
from emrecon.projectors.parallel.projector import ParallelBeamProjector
from emrecon.recon import Huber, Quadratic, SmoothPrior, TransmissionLikelihood, ostr, run
from emrecon.recon.filtered import fbp

ROOT = Path(__file__).resolve().parents[1]
GRID = ImageGrid((128, 128, 1), 4.21875)
LINES = ParallelBeamGeometry.equally_spaced(192, 160, 3.375, start=-15, shift=-3.375 / 2)
A = ParallelBeamProjector(GRID, LINES)
WATER = 0.096  # 1/cm at 511 keV


@dataclass(frozen=True)
class Settings:
    """Both reconstructions, the regions, and what is tried as a background (counts per bin)."""

    beta: float = 1000.0
    edge_beta: float = 3000.0
    edge_delta: float = 0.005
    n_subsets: int = 16
    n_iterations: int = 10
    n_exact: int = 20
    radial_smoothing: float = 2.0  # bins
    window: str = "hann"
    soft: tuple[float, float] = (0.075, 0.115)
    lung: float = 0.06
    body: float = 0.05
    margin: int = 3  # voxels that regions stay away from edges
    air_depth: float = 0.02
    backgrounds: tuple[float, ...] = tuple(round(0.15 * i, 2) for i in range(8))


def main() -> None:
    """Reconstruct, print, and write the numbers and the picture."""
    options, settings, console = _options(), Settings(), Console()
    counts, blank = read(options.data, "trans"), read(options.data, "blank")
    quadratic = settings.beta * Quadratic(neighbours=8)
    first, seconds = timed(lambda: penalised(counts, blank, 0.0, quadratic, settings))
    regions = find_regions(first, settings)
    scale = air_factor(counts, blank, first, settings)
    estimates: list[dict[str, Any]] = []
    for factor in (scale, scale - 0.01, scale + 0.01):
        r, profile = best_background(counts, factor * blank, first, quadratic, settings)
        soft = values(penalised(counts, factor * blank, r, quadratic, settings), regions)["soft"]
        estimates.append({"blank_factor": factor, "background": r, "soft": soft, "penalised_objective": profile})
    background = estimates[0]["background"]
    edges = settings.edge_beta * Huber(settings.edge_delta, neighbours=8)
    images: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    for corrected in (False, True):
        b, r = (scale * blank, background) if corrected else (blank, 0.0)
        made = {
            "FBP": filtered(counts, b, r, settings),
            "penalised, quadratic": penalised(counts, b, r, quadratic, settings),
            "penalised, edges kept": penalised(counts, b, r, edges, settings),
        }
        rows += [{"image": name, "corrected": corrected, **values(mu, regions)} for name, mu in made.items()]
        images = made  # the corrected ones are shown
    about = machine()
    results = {
        "machine": about,
        "settings": asdict(settings),
        "water_at_511_keV": WATER,
        "blank_factor_in_air": scale,
        "background_per_bin": background,
        "mean_counts_per_bin": float(counts.mean()),
        "estimates": estimates,
        "seconds_of_penalised": seconds,
        "voxels": {name: int(mask.sum()) for name, mask in regions.items()},
        "regions": rows,
    }
    report(console, results)
    console.print(machine_line(about))
    write_json(options.out, results)
    picture(options.picture, counts, blank * scale, images)


def read(folder: Path, name: str) -> np.ndarray:
    """Return a sinogram (views, bins, 1)."""
    values = loadmat(folder / "ecat_exact_transmission" / f"phan_{name}.mat")["test"]
    return np.ascontiguousarray(values.T[..., None], np.float32)


def filtered(counts: np.ndarray, blank: np.ndarray, background: float, settings: Settings) -> np.ndarray:
    """Return FBP in 1/cm; counts are smoothed along the bins before the logarithm, which low counts would bias."""
    width = settings.radial_smoothing
    open_beam, net = gaussian_filter1d(blank, width, axis=1), gaussian_filter1d(counts - background, width, axis=1)
    return 10 * fbp(np.log(open_beam / np.maximum(net, 0.5)), A, window=settings.window)


def penalised(
    counts: np.ndarray,
    blank: np.ndarray,
    background: float,
    penalty: SmoothPrior,
    settings: Settings,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Return the minimum in 1/cm: fast passes over subsets first, then steps that cannot get worse."""
    f = TransmissionLikelihood(counts, blank, A, background)
    fast = ostr(f, start, settings.n_subsets, penalty=penalty, curvature="precomputed")
    return run(ostr(f, run(fast, settings.n_iterations), penalty=penalty), settings.n_exact)


def air_factor(counts: np.ndarray, blank: np.ndarray, mu: np.ndarray, settings: Settings) -> float:
    """Return counts / blank where lines see nothing but air."""
    air = A(mu) / 10 < settings.air_depth
    return float(counts[air].sum(dtype=float) / blank[air].sum(dtype=float))


def best_background(
    counts: np.ndarray, blank: np.ndarray, mu: np.ndarray, penalty: SmoothPrior, settings: Settings
) -> tuple[float, list[dict[str, float]]]:
    """Return the background counts per bin for which the objective is lowest, and the objective of all tried.

    It is where a parabola through the lowest value and its neighbours has its minimum.
    """
    profile = []
    for background in settings.backgrounds:
        mu = penalised(counts, blank, background, penalty, settings, mu)
        f = TransmissionLikelihood(counts, blank, A, background)
        profile.append({"background": background, "objective": float(f.value(mu) + penalty.value(mu))})
    objective = np.array([row["objective"] for row in profile])
    k = int(np.clip(objective.argmin(), 1, objective.size - 2))
    a, b, _ = np.polyfit(settings.backgrounds[k - 1 : k + 2], objective[k - 1 : k + 2] - objective[k], 2)
    return float(-b / (2 * a)), profile


def find_regions(mu: np.ndarray, settings: Settings) -> dict[str, np.ndarray]:
    """Return the voxels of soft tissue, lungs and spine that lie well inside them in the image mu."""
    body = binary_fill_holes(mu[..., 0] > settings.body)
    inside = mu[..., 0] * body
    soft = (inside > settings.soft[0]) & (inside < settings.soft[1])
    lung = body & (inside < settings.lung)
    masks = {name: binary_erosion(mask, iterations=settings.margin) for name, mask in (("soft", soft), ("lung", lung))}
    masks["spine"] = inside > 0.95 * inside.max()
    return {name: mask[..., None] for name, mask in masks.items()}


def values(mu: np.ndarray, regions: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the mean of every region, and the standard deviation and the error of soft tissue."""
    means = {name: float(mu[mask].mean(dtype=float)) for name, mask in regions.items()}
    deviation = float(mu[regions["soft"]].std(dtype=float))
    return {**means, "soft_deviation": deviation, "soft_error_percent": 100 * (means["soft"] / WATER - 1)}


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Return the result of the second run, and its seconds; the first one compiles."""
    work()
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def report(console: Console, results: dict[str, Any]) -> None:
    """Print the estimates and the table of regions."""
    console.print(f"blank scan times {results['blank_factor_in_air']:.4f}; background "
                  f"{results['background_per_bin']:.3f} of {results['mean_counts_per_bin']:.1f} counts per bin; "
                  f"penalised likelihood in {results['seconds_of_penalised']:.2f} s")  # fmt: skip
    table = Table("image", "corrected", "soft tissue /cm", "of water", "deviation", "lung /cm", "spine /cm")
    for row in results["regions"]:
        table.add_row(row["image"], "yes" if row["corrected"] else "no", f"{row['soft']:.4f}",
                      f"{row['soft_error_percent']:+.1f} %", f"{row['soft_deviation']:.4f}", f"{row['lung']:.4f}",
                      f"{row['spine']:.4f}")  # fmt: skip
    console.print(table)
    for row in results["estimates"]:
        console.print(f"blank factor {row['blank_factor']:.4f}: background {row['background']:.2f}, "
                      f"soft tissue {row['soft']:.4f} /cm ({100 * (row['soft'] / WATER - 1):+.1f} %)")  # fmt: skip


def picture(path: Path, counts: np.ndarray, blank: np.ndarray, images: dict[str, np.ndarray]) -> None:
    """Draw the sinogram and the corrected images, the patient's front on top."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(images))
    shown = axes[0].imshow((counts / blank)[..., 0], cmap="gray", vmin=0, vmax=1.2, aspect="auto")
    axes[0].set(title="counts / blank", xlabel="bin", ylabel="view")
    figure.colorbar(shown, ax=axes[0])
    for axis, (name, mu) in zip(axes[1:], images.items()):
        shown = axis.imshow(mu[14:114, 20:110, 0].T, cmap="gray", vmin=0, vmax=0.18)
        axis.set(title=name, xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[-1], label="mu (1/cm)")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _options() -> argparse.Namespace:
    data = os.environ.get("EMRECON_DATA") or ROOT / "../shared/data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path(data), help="folder of data (or $EMRECON_DATA)")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality_transmission.json", help="numbers, JSON")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/images/ecat_transmission.png", help="PNG")
    return parser.parse_args()


if __name__ == "__main__":
    main()
