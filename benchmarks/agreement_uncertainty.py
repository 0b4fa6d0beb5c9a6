"""Compare predicted standard deviations with those of many reconstructions, and with PyTomography's for regions.

    python benchmarks/agreement_uncertainty.py [--realisations 400] [--out results/agreement_uncertainty.json]

SPECT and PET, 3-D, of a body with a hot and a cold part: the minimiser with the relative difference prior
(`standard_deviation_map`, at the image of data without noise and at that of one scan, whose own noise makes the map
scatter) and OSEM stopped early with a filter (`IteratedEstimate`, of one scan). The
sample deviation of R realisations has a relative error of 1 / sqrt(2 (R - 1)) of its own. Local point responses of the
same images are in the picture. PyTomography's `compute_uncertainty` gets the same counts, subsets and region; its back
projection is no exact transpose, so some per cent remain.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, peer_matrix, write_json
from rich.console import Console

from emrecon import recon
from emrecon.projectors import (
    AcquisitionModel,
    GaussianBlur,
    ImageGrid,
    LinearResponse,
    PETProjector,
    PETScanner,
    PETSinogram,
    Projector,
    SPECTGeometry,
    SPECTProjector,
)

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "uncertainty.png"
GRID = ImageGrid((16, 16, 4), 6.0)
SUBSETS, PASSES, STEPS = 4, 4, 40
WITHIN, SHARE = 0.1, 0.9


def main() -> None:
    """Compare, print, and write the numbers and the picture."""
    options = _options()
    console, shown = Console(), {}
    about = machine()
    results: dict[str, Any] = {"machine": about, "n_realisations": options.realisations, "systems": {}}
    results["sampling_error"] = 1 / math.sqrt(2 * (options.realisations - 1))
    for name, projector in (("SPECT", spect()), ("PET", pet())):
        numbers, shown[name] = compare(projector, options.realisations)
        results["systems"][name] = numbers
        console.print(name, numbers)
    results["pytomography"] = compare_with_peer()
    console.print("PyTomography", results["pytomography"])
    console.print(machine_line(about))
    write_json(options.out, results)
    picture(options.picture, shown)
    good = all(n[kind]["within"] >= SHARE for n in results["systems"].values() for kind in ("map_rdp", "osem_filtered"))
    sys.exit(0 if good else f"fewer than {SHARE:.0%} of the object's voxels are within {WITHIN:.0%}")


def spect() -> SPECTProjector:
    """A camera around the body, with attenuation and a response that widens."""
    mu = (0.15 * (body() > 0)).astype(np.float32)
    camera = SPECTGeometry.circular(24, 70, GRID.shape[1:], 6.0)
    return SPECTProjector(GRID, camera, mu, LinearResponse(0.03, 1.5))


def pet() -> Projector:
    """A small ring of four rows, with a resolution of 6 mm."""
    scanner = PETScanner.polygon(sides=8, crystals_per_side=7, radius=90, rings=4, ring_pitch=6)
    made: Projector = PETProjector(GRID, PETSinogram(scanner)) @ GaussianBlur(GRID, 6.0)  # type: ignore[assignment]
    return made


def body() -> np.ndarray:
    """The truth: 1, with a hot part of 4 and a cold one of 0.3."""
    x, y, _ = np.broadcast_arrays(*GRID.coordinates())
    inside = (x / 42) ** 2 + (y / 36) ** 2 < 1
    hot, cold = (x - 16) ** 2 + y**2 < 11**2, (x + 18) ** 2 + y**2 < 11**2
    return np.asarray(inside + 3.0 * hot - 0.7 * cold, np.float32)


def scan_of(projector: Projector, counts: float = 1e6) -> AcquisitionModel:
    """The model of a scan with so many counts of the body, and a fifth more of background."""
    share = counts / float(projector(body()).sum())
    return AcquisitionModel(projector, share, 0.2 * counts / math.prod(projector.out_shape))


def compare(projector: Projector, n: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return how the predictions of one scan agree with n realisations, and the images for the picture."""
    model, truth = scan_of(projector), body()
    inside, regions = truth > 0, [truth > 2, (truth > 0) & (truth < 0.5), truth == 1]
    prior = 4.0 * recon.RelativeDifference(2.0, epsilon=1e-3, neighbours=6)
    blur = GaussianBlur(GRID, 10.0)
    one = recon.PoissonLikelihood(np.random.default_rng(1).poisson(model(truth)).astype(np.float32), model)

    def penalised(f: Any) -> np.ndarray:
        start = np.broadcast_to(truth + 0.1, (*f.data.shape[:-3], *truth.shape)).copy()
        return np.asarray(recon.run(recon.lbfgsb(f, prior, start), STEPS))

    def osem(f: Any) -> np.ndarray:
        start = np.ones((*f.data.shape[:-3], *truth.shape), np.float32)
        return np.asarray(blur(recon.run(recon.osem(f, start, SUBSETS), PASSES)))

    image, mean = penalised(one), penalised(recon.PoissonLikelihood(model(truth), model))
    estimates = {
        "map_rdp": recon.PenalisedEstimate(one, prior, mean),
        "map_rdp_one_scan": recon.PenalisedEstimate(one, prior, image),
        "osem_filtered": recon.IteratedEstimate(one, np.ones_like(truth), SUBSETS, PASSES).filtered(blur),
    }
    numbers: dict[str, Any] = {"counts": float(one.data.sum()), "voxels": int(inside.sum())}
    images: dict[str, np.ndarray] = {}
    kept = {"kind": "expected", "image": truth, "at_once": 50, "seed": 5}
    of_map, of_osem = (np.stack(list(recon.realisations(way, one, n, **kept))) for way in (penalised, osem))
    for (name, estimate), many in zip(estimates.items(), (of_map, of_map, of_osem)):
        sample = many.std(0, ddof=1)
        found = estimate.standard_deviation(tolerance=0.025)
        ratio = found.image[inside] / sample[inside]
        means = np.stack([many[:, region].mean(1) for region in regions])
        numbers[name] = {
            "within": float(np.mean(abs(ratio - 1) < WITHIN)),
            "mean_ratio": float(ratio.mean()),
            "scatter_of_ratio": float(ratio.std()),
            "noise": float(np.median(sample[inside] / many.mean(0)[inside])),
            "method": str(found),
            "regions": (estimate.region_deviation(regions) / means.std(1, ddof=1)).tolist(),
        }
        if name != "map_rdp_one_scan":
            images |= {f"{name} predicted": np.asarray(found.image), f"{name} of realisations": sample}
    place = (8, 8, 2)
    images["response"] = np.asarray(recon.local_point_response(one, prior, image, place))
    widths = recon.response_widths(images["response"], GRID.voxel_size, place)
    numbers["response"] = {"widths_mm": list(widths), "peak": float(images["response"][place])}
    return numbers, images


def compare_with_peer() -> dict[str, float]:
    """Return the relative deviation of a region's sum after OSEM, ours and PyTomography's, of the same counts."""
    import torch
    from pytomography.algorithms import OSEM
    from pytomography.callbacks import DataStorageCallback
    from pytomography.likelihoods import PoissonLogLikelihood

    grid = ImageGrid((16, 16, 16), 6.0)
    x, y, z = np.broadcast_arrays(*grid.coordinates())
    truth = ((x / 42) ** 2 + (y / 36) ** 2 + (z / 42) ** 2 < 1).astype(np.float32)
    region = (x - 12) ** 2 + y**2 + z**2 < 14**2
    projector = SPECTProjector(
        grid, SPECTGeometry.circular(24, 70, (16, 16), 6.0), 0.12 * truth, LinearResponse(0.03, 1.5)
    )
    matrix = peer_matrix(projector)
    counts = np.random.default_rng(0).poisson(40 * projector(truth)).astype(np.float32)
    tensor = torch.as_tensor(counts)
    likelihood = PoissonLogLikelihood(matrix, tensor, additive_term=torch.full_like(tensor, 0.5))
    algorithm = OSEM(likelihood)
    storage = DataStorageCallback(likelihood, torch.clone(algorithm.object_prediction))
    algorithm(PASSES, SUBSETS, callback=storage)
    theirs = algorithm.compute_uncertainty(torch.as_tensor(region.astype(np.float32)), storage, return_pct=True)
    f = recon.PoissonLikelihood(counts, AcquisitionModel(projector, background=0.5))
    estimate = recon.IteratedEstimate(f, np.ones_like(truth), SUBSETS, PASSES, counts="measured")
    mean = float(estimate.image[region].mean())
    ours = 100 * float(estimate.region_deviation([region])[0]) / mean
    return {"ours_percent": ours, "theirs_percent": float(theirs[1]), "ratio": ours / float(theirs[1])}


def picture(path: Path, shown: dict[str, dict[str, np.ndarray]]) -> None:
    """Draw predicted and sample deviations of the middle slices, and the point response."""
    from matplotlib.figure import Figure

    columns = list(next(iter(shown.values())))
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    axes = figure.subplots(len(shown), len(columns))
    for row, (system, images) in zip(axes, shown.items()):
        for axis, name in zip(row, columns):
            pair = images.get(name.replace("of realisations", "predicted"), images[name])
            drawn = axis.imshow(images[name][..., 2].T, vmin=0, vmax=float(pair.max()), cmap="viridis")
            axis.set(xticks=[], yticks=[], title=f"{system}, {_TITLES.get(name, name)}")
            axis.title.set_fontsize(9)
            figure.colorbar(drawn, ax=axis, shrink=0.7)
    figure.savefig(path, dpi=110)


_TITLES = {
    "map_rdp predicted": "MAP-RDP: predicted",
    "map_rdp of realisations": "MAP-RDP: realisations",
    "osem_filtered predicted": "OSEM + filter: predicted",
    "osem_filtered of realisations": "OSEM + filter: realisations",
    "response": "MAP-RDP: point response",
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realisations", type=int, default=400, help="reconstructions of each method and system")
    parser.add_argument("--out", type=Path, default=RESULTS / "agreement_uncertainty.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    return parser.parse_args()


if __name__ == "__main__":
    main()
