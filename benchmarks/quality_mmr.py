"""Reconstruct a measured mMR list-mode scan from its events and from their sinogram, and compare the two.

    python benchmarks/quality_mmr.py FOLDER

FOLDER holds PET_ACQ_small.l.hdr.STIR, small_listmode_file.l, norm.n.hdr and norm.n (0.6 s of an F-18 FDG scan that STIR
distributes, and the component normalisation of a scanner of this model, of another day). Both reconstructions are OSEM
with the same 21 subsets of views, randoms from the delays, and normalisation; attenuation and scatter are unknown and
left out. Also noted: how the gaps between blocks show in data and normalisation, and which sign of the oblique planes
explains the events better. Writes benchmarks/results/quality_mmr.json and docs/images/mmr.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, write_json
from rich.console import Console
from scipy.ndimage import gaussian_filter

from emrecon import formats, projectors, recon

GRID = projectors.ImageGrid((140, 140, 127), (4.17252, 4.17252, 2.03125))
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "mmr.png"


def main() -> None:
    """Run everything, print it and write it."""
    options = _options()
    console, begun = Console(), time.perf_counter()
    scan = formats.read_petlink(options.folder / "PET_ACQ_small.l.hdr.STIR")
    normalisation = formats.read_siemens_norm(options.folder / "norm.n.hdr")
    events = scan.read()
    results: dict[str, Any] = {"machine": machine(), "prompts": len(events.prompts), "delays": len(events.delays)}
    results["seconds of data"] = scan.duration()
    results["gaps"] = gaps(scan.sinogram, events, normalisation)
    singles = projectors.crystal_rates(scan.sinogram, events.delays, normalisation.crystal, blocks(scan))
    console.print(results["gaps"])
    binned = likelihoods(scan, events.prompts, normalisation, singles, options.subsets)
    randoms = projectors.events_product(events.prompts, singles)
    problem = recon.pet_problem(scan, norm=normalisation, randoms=randoms, grid=GRID, subsets=options.subsets)
    console.print(f"prepared in {time.perf_counter() - begun:.0f} s")
    images = {}
    for name, parts in (("sinogram", binned), ("list-mode", problem.parts)):
        at = time.perf_counter()
        images[name] = recon.run(recon.osem(parts, problem.start), options.iterations)
        results[f"{name}, seconds for an iteration"] = (time.perf_counter() - at) / options.iterations
        console.print(f"{name}: {results[f'{name}, seconds for an iteration']:.1f} s for an iteration")
    results["NRMSE between the two"] = float(recon.nrmse(images["list-mode"], images["sinogram"]))
    results["randoms expected"] = float(sum(part.model.background.sum() for part in binned))
    results["tilt"] = tilt(scan, events.prompts, singles, normalisation, problem)
    console.print({name: value for name, value in results.items() if name not in ("machine", "gaps")})
    picture(images["list-mode"])
    write_json(options.out, results)


def blocks(scan: formats.PETLink) -> np.ndarray:
    """Return the number of the block of every crystal: 8 rings, 9 numbers around."""
    scanner = scan.sinogram.scanner
    ring, crystal = np.indices((scanner.n_rings, scanner.n_crystals))
    return ring // 8 * 1000 + crystal // 9


def likelihoods(
    scan: formats.PETLink, prompts: np.ndarray, normalisation: projectors.Normalisation, singles: np.ndarray, n: int
) -> list[recon.Likelihood]:
    """Return the sinograms of subsets of views, made one by one: the whole would be too large to hold twice."""
    view, binned = scan.sinogram.bins_of(prompts)[:, 0], list[recon.Likelihood]()
    for k in range(n):
        sinogram, mine = scan.sinogram.subset(k, n), prompts[view % n == k]
        part = projectors.Scan(sinogram.histogram(mine), sinogram, projectors.pair_products(sinogram, singles))
        binned += recon.pet_problem(part, norm=normalisation, grid=GRID, subsets=1).parts
    return binned


def gaps(sinogram: projectors.PETSinogram, events: Any, normalisation: projectors.Normalisation) -> dict[str, Any]:
    """Return how the gaps between blocks, which the geometry knows, show in the data and in the normalisation."""
    bins = sinogram.bins_of(events.prompts)
    counts = np.zeros((sinogram.n_views, sinogram.n_radial))
    np.add.at(counts, (bins[:, 0], bins[:, 1]), 1)
    real = ~sinogram.scanner.virtual[0][sinogram.crystal_pairs[:, 0]].any(-1)
    central = np.abs(sinogram.radial) < 60
    # bins of gaps stay empty; of the others, those with few counts are hidden by noise
    correlation = np.corrcoef(np.minimum(counts, 3)[:, central].ravel(), real[:, central].ravel())[0, 1]
    # the pattern of 9 views x radial bins: measured counts, normalisation, and geometry
    block = normalisation.interference.shape[1]
    folded = counts[:, central].reshape(-1, block, central.sum()).sum(0)
    smooth = gaussian_filter(folded.mean(0), 6)
    pattern, mask = folded / smooth, real[:block, central]
    known = normalisation.interference[central].T
    # the lines' spacing: a bin between widely spaced lines sees more
    spacing = np.gradient(sinogram.radial_positions[:block], axis=1)[:, central]
    return {
        "prompts in gap bins": int(counts[~real].sum()),
        "gap bins": float(1 - real.mean()),
        "correlation of counts with the geometry's gaps": float(correlation),
        "correlation of folded counts with gaps x interference": float(
            np.corrcoef(pattern.ravel(), (mask * known).ravel())[0, 1]
        ),
        "the same, real bins only, against the interference": float(np.corrcoef(pattern[mask], known[mask])[0, 1]),
        "the interference against the geometry's line spacing": float(np.corrcoef(known[mask], spacing[mask])[0, 1]),
    }


def tilt(
    scan: formats.PETLink,
    prompts: np.ndarray,
    singles: np.ndarray,
    normalisation: projectors.Normalisation,
    problem: recon.Problem,
) -> dict[str, float]:
    """Return the log-likelihood after some EM steps, as read and with the rings of all events exchanged.

    All events are one likelihood here: their order must not decide, as it would in subsets of views.
    """
    per_ring = scan.sinogram.scanner.n_crystals
    ring, crystal = prompts // per_ring, prompts % per_ring
    sensitivity = sum(part.sensitivity for part in problem.parts)
    found = {}
    for name, events in (("as read", prompts), ("rings exchanged", ring[:, ::-1] * per_ring + crystal)):
        events = np.ascontiguousarray(events, np.int32)
        lines = projectors.ListmodeProjector(GRID, scan.sinogram.scanner, events)
        own = normalisation.of_events(scan.sinogram, events)
        model = projectors.AcquisitionModel(lines, own, projectors.events_product(events, singles))
        f = recon.ListmodeLikelihood(model, sensitivity)
        found[name] = -float(f.value(recon.run(recon.mlem(f, problem.start), 8)))
    return found


def picture(image: np.ndarray) -> None:
    """Save three maximum projections of the smoothed image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    smooth = gaussian_filter(image, [8.0 / 2.355 / d for d in GRID.voxel_size])  # 8 mm FWHM
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    dx, dy, dz = GRID.voxel_size
    panels = (
        ("from the feet", 2, dy / dx, "upper"),
        ("from the front", 1, dz / dx, "lower"),
        ("from the side", 0, dz / dy, "lower"),
    )
    for axis, (title, along, aspect, origin) in zip(figure.subplots(1, 3), panels):
        axis.imshow(smooth.max(along).T, cmap="gray_r", aspect=aspect, origin=origin)
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(PICTURE, dpi=100)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subsets", type=int, default=21)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "quality_mmr.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
