"""Kernel EM against OSEM at low counts: a brain whose MR shows the tissues, but not a hot lesion.

    python benchmarks/quality_kernel.py

A slice of a brain (folded cortex, white matter, deep nuclei, ventricles, skull, scalp) is painted on a fine grid,
blurred to the resolution of a PET scanner, projected along parallel lines, attenuated, and covered with a smooth
background; counts are Poisson. The MR has the tissues' own contrasts, a weak bias field and noise, and does not see
the lesion. All reconstructions know attenuation, background and resolution as they are, so that what is compared is
what the guide tells.

Methods, all with ordered subsets: OSEM, OSEM with a Gaussian filter, KEM with the MR, and KEM whose kernel is
multiplied after some iterations by the image's own differences (hybrid). Contrast of the lesion is (lesion - white
matter around) / (the same in truth); noise is the standard deviation over realisations of the voxels of white matter,
relative to their mean.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from emrecon.projectors import (
    AcquisitionModel,
    GaussianBlur,
    ImageGrid,
    ParallelBeamGeometry,
    ParallelBeamProjector,
    attenuation_factors,
)
from emrecon.recon import PoissonLikelihood, osem
from emrecon.recon.engines.kernel_em import kem
from emrecon.recon.kernels.matrix import KernelOperator, hybrid_kernel, kernel_matrix
from emrecon.sims import generator

ROOT = Path(__file__).resolve().parents[1]
GRID = ImageGrid((128, 128, 1), (2.0, 2.0, 2.0))
FINE = 4  # points along each edge of a voxel where the brain is painted
TISSUES = ("air", "scalp", "skull", "CSF", "grey", "white", "lesion")
ACTIVITY = {"air": 0.0, "scalp": 0.8, "skull": 0.3, "CSF": 0.2, "grey": 4.0, "white": 1.0, "lesion": 4.0}
MR = {"air": 0.0, "scalp": 1.1, "skull": 0.15, "CSF": 0.3, "grey": 0.7, "white": 1.0, "lesion": 1.0}  # as T1
LESION, LESION_RADIUS = (-29.0, 41.0), 7.0  # mm
SHOWN = (1, 2, 3, 4, 6, 9, 14, 20)  # passes of the curves


@dataclass(frozen=True)
class Setup:
    """The scan, the kernels and the reported iterations; lengths in mm."""

    prompts: float = 200e3
    background_fraction: float = 0.3
    blur_fwhm: float = 4.5
    n_realisations: int = 8
    filter_fwhm: float = 6.0
    n_neighbours: int = 48
    window: int = 9
    sigma: float = 0.3
    hybrid_sigma: float = 0.3
    hybrid_at: tuple[int, ...] = (2, 4, 6)
    n_subsets: int = 6
    reported: int = 14
    mr_noise: float = 0.02
    seed: int = 7


class Scene(NamedTuple):
    """What is there: activity and MR, the voxels of lesion and surrounding white matter, and of the brain."""

    activity: np.ndarray
    mr: np.ndarray
    lesion: np.ndarray
    around: np.ndarray
    brain: np.ndarray


Images = Iterator[tuple[int, np.ndarray]]


def main() -> None:
    """Reconstruct, print, and write the numbers and the picture."""
    options, setup, console = _options(), Setup(), Console()
    scene = make_scene(setup)
    f, model = simulate(scene, setup)
    start = time.perf_counter()
    kernel = kernel_matrix(scene.mr, GRID, n_neighbours=setup.n_neighbours, window=setup.window, sigma=setup.sigma)
    built = time.perf_counter() - start
    rows, shown = [], {}
    for name, images in methods(f, kernel, setup).items():
        for iteration, image in images():
            rows.append({"method": name, "iteration": iteration, **quality(image, scene)})
            if iteration == setup.reported:
                shown[name] = image
            if iteration == SHOWN[-1]:
                break
    about = machine()
    results = {
        "machine": about,
        "setup": asdict(setup),
        "views_bins": list(model.projector.out_shape),
        "kernel": {"seconds": built, "megabytes": kernel.nbytes / 1e6, "neighbours": float(kernel.n_neighbours.mean())},
        "results": rows,
    }
    report(console, rows, setup)
    console.print(str(kernel))
    console.print(machine_line(about))
    write_json(options.out, results)
    picture(options.picture, scene, shown, rows, setup)


# ---- the scene and its scan ------------------------------------------------------------------------------------------


def make_scene(setup: Setup) -> Scene:
    """Return the brain on the grid, each voxel the mean of its points."""
    edge = (np.arange(128 * FINE) + 0.5) / FINE * 2.0 - 128.0
    tissue = tissues(edge[:, None], edge[None, :])
    parts = {name: _mean(tissue == i) for i, name in enumerate(TISSUES)}
    activity = sum(ACTIVITY[name] * parts[name] for name in TISSUES)
    x, y = GRID.coordinates()[:2]
    field = 1 + 0.1 * np.sin(x / 70) * np.cos(y / 60)
    noise = generator(setup.seed, "MR").normal(0, setup.mr_noise, GRID.shape)
    mr = field * sum(MR[name] * parts[name] for name in TISSUES) + noise
    distance = np.hypot(x - LESION[0], y - LESION[1]) * np.ones(GRID.shape)
    around = (parts["white"] > 0.99) & (distance > LESION_RADIUS + 5) & (distance < LESION_RADIUS + 20)
    brain = parts["grey"] + parts["white"] + parts["lesion"] + parts["CSF"] > 0.5
    return Scene(activity, mr, distance < LESION_RADIUS - 2, around, brain)


def tissues(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the number of the tissue at every point; the patient's front is at low y."""
    angle = np.arctan2(y / 84, x / 66)
    radius = np.hypot(x / 66, y / 84)  # 1 at the surface of the brain
    folds = 0.030 * np.sin(17 * angle + 2.0 * np.sin(3 * angle)) + 0.020 * np.sin(29 * angle + 1.0)
    valley = np.clip(np.sin(17 * angle + 2.0 * np.sin(3 * angle) + 2.6) - 0.80, 0, None)
    fissure = (np.abs(x) < 1.2) & ((y < -34) | (y > 44))
    inner = 0.84 + 1.6 * folds - 0.9 * valley
    out = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.int8)
    layers = [
        ("scalp", np.hypot(x / 76, y / 95) < 1),
        ("skull", np.hypot(x / 72, y / 91) < 1),
        ("CSF", np.hypot(x / 68, y / 86.5) < 1),
        ("grey", (radius < 1 - 0.55 * valley) & ~fissure),
        ("white", (radius < inner) & (np.abs(x) > 5.0 - 5.0 * (np.abs(y) < 34))),
    ]
    for side in (-1, 1):
        u, v = side * x, y
        layers += [
            ("CSF", _ellipse(u - 10, v + 16, 5, 15, 15)),
            ("CSF", _ellipse(u - 15, v - 24, 5, 14, -25)),
            ("grey", _ellipse(u - 19, v + 14, 5, 11, 12)),  # caudate
            ("grey", _ellipse(u - 30, v - 0, 6, 16, -12)),  # putamen
            ("grey", _ellipse(u - 11, v - 6, 8, 10, -20)),  # thalamus
        ]
    layers.append(("CSF", _ellipse(x, y - 2, 1.6, 11, 0)))
    lesion = np.hypot(x - LESION[0], y - LESION[1]) < LESION_RADIUS
    for name, where in layers:
        out[np.broadcast_to(where, out.shape)] = TISSUES.index(name)
    out[lesion] = TISSUES.index("lesion")
    return out


def simulate(scene: Scene, setup: Setup) -> tuple[PoissonLikelihood, AcquisitionModel]:
    """Return the likelihood of all realisations, and the model."""
    lines = ParallelBeamProjector(GRID, ParallelBeamGeometry.equally_spaced(120, n_bins=129, bin_size=2.0))
    attenuation = attenuation_factors(lines, 0.096 * (scene.activity > 0))
    seen = lines @ GaussianBlur(GRID, setup.blur_fwhm)
    trues = attenuation * seen(scene.activity)
    scale = (1 - setup.background_fraction) * setup.prompts / trues.sum()
    background = np.full(lines.out_shape, setup.background_fraction * setup.prompts / trues.size)
    model = AcquisitionModel(seen, scale * attenuation, background)
    expected = model(scene.activity)
    counts = generator(setup.seed, "counts").poisson(expected, (setup.n_realisations, *expected.shape))
    return PoissonLikelihood(counts.astype(np.float32), model), model


# ---- reconstructions and what they are worth -------------------------------------------------------------------------


def methods(f: PoissonLikelihood, kernel: KernelOperator, setup: Setup) -> dict[str, Callable[[], Images]]:
    """Return what makes (iteration, images of all realisations) of each method at the passes of the curves."""
    smooth, kept = GaussianBlur(GRID, setup.filter_fwhm), list[tuple[int, np.ndarray]]()

    def plain() -> Images:
        for it in osem(f, n_subsets=setup.n_subsets):
            if it.iteration in SHOWN:
                kept.append((it.iteration, it.image))
                yield kept[-1]

    def filtered() -> Images:
        yield from ((iteration, smooth(image)) for iteration, image in kept)

    def guided() -> Images:
        yield from (
            (it.iteration, it.image) for it in kem(f, kernel, n_subsets=setup.n_subsets) if it.iteration in SHOWN
        )

    def hybrid() -> Images:
        each = [_hybrid(PoissonLikelihood(counts, f.model), kernel, setup) for counts in f.data]
        for iterates in zip(*each):
            yield iterates[0][0], np.stack([image for _, image in iterates])

    return {"OSEM": plain, "OSEM, filtered": filtered, "KEM": guided, "KEM, hybrid": hybrid}


def _hybrid(f: PoissonLikelihood, kernel: KernelOperator, setup: Setup) -> Images:
    done, image, alpha, current = 0, None, None, kernel
    for until in (*setup.hybrid_at, SHOWN[-1]):
        for it in islice(kem(f, current, alpha, setup.n_subsets, iteration=done), until - done):
            done, image, alpha = it.iteration, it.image, it.state["coefficients"]
            if done in SHOWN:
                yield done, image
        current = hybrid_kernel(kernel, image, setup.hybrid_sigma)


def quality(images: np.ndarray, scene: Scene) -> dict[str, float]:
    """Return error, contrast of the lesion and noise of white matter, over all realisations."""
    error = images[:, scene.brain] - scene.activity[scene.brain]
    nrmse = np.sqrt((error**2).mean(1) / (scene.activity[scene.brain] ** 2).mean())
    contrast = images[:, scene.lesion].mean(1) - images[:, scene.around].mean(1)
    true = scene.activity[scene.lesion].mean() - scene.activity[scene.around].mean()
    white = images[:, scene.around]
    return {
        "nrmse": float(nrmse.mean()),
        "lesion_contrast": float((contrast / true).mean()),
        "lesion_contrast_deviation": float((contrast / true).std(ddof=1)),
        "noise": float((white.std(0, ddof=1) / white.mean()).mean()),
    }


# ---- output ----------------------------------------------------------------------------------------------------------


def report(console: Console, rows: list[dict[str, Any]], setup: Setup) -> None:
    """Print the table of the reported iteration, and of the lowest error."""
    table = Table("method", "iteration", "NRMSE", "lesion contrast", "noise of white matter")
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        best = min(mine, key=lambda row: row["nrmse"])
        for row in [row for row in mine if row["iteration"] == setup.reported or row is best]:
            table.add_row(name, f"{row['iteration']}{' (best)' if row is best else ''}", f"{row['nrmse']:.3f}",
                          f"{row['lesion_contrast']:.2f} +- {row['lesion_contrast_deviation']:.2f}",
                          f"{row['noise']:.2f}")  # fmt: skip
    console.print(table)


def picture(path: Path, scene: Scene, shown: dict[str, np.ndarray], rows: list[dict[str, Any]], setup: Setup) -> None:
    """Draw truth, MR, the first realisation of every method, and contrast against noise; the front is on top."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    panels: dict[str, tuple[np.ndarray, float]] = {"activity": (scene.activity, 5.0), "MR": (scene.mr, 1.3)}
    panels |= {f"{name}, {setup.reported} passes": (images[0], 5.0) for name, images in shown.items()}
    for axis, (name, (image, top)) in zip(axes, panels.items()):
        axis.imshow(image[20:108, 10:118, 0].T, cmap="gray" if name == "MR" else "inferno", vmin=0, vmax=top)
        axis.set(title=name, xticks=[], yticks=[])
    for axis, key, label in zip(axes[6:], ("lesion_contrast", "nrmse"), ("contrast of the lesion", "NRMSE, brain")):
        for name in shown:
            mine = [row for row in rows if row["method"] == name]
            axis.plot([row["noise"] for row in mine], [row[key] for row in mine], "o-", ms=3, label=name)
        axis.set(xlabel="noise of white matter", ylabel=label, xlim=(0, 0.6))
        axis.grid(alpha=0.3)
    axes[6].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _mean(fine: np.ndarray) -> np.ndarray:
    return fine.reshape(128, FINE, 128, FINE).mean((1, 3))[..., None]


def _ellipse(x: np.ndarray, y: np.ndarray, a: float, b: float, degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return ((c * x + s * y) / a) ** 2 + ((c * y - s * x) / b) ** 2 < 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "quality_kernel.json", help="numbers, JSON")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/images/kernel.png", help="PNG")
    return parser.parse_args()


if __name__ == "__main__":
    main()
