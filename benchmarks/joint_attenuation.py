"""Activity and attenuation from one emission scan: MLAA and MLACF with time of flight, and without.

    python benchmarks/joint_attenuation.py [--passes 45] [--counts 4e7]

A torso with FDG in a scanner of six rings with 400 ps, fully three-dimensional, with randoms and a constant background.
Reconstructed are the true map, no map, MLAA with its scale fixed by the liver, by the total, and by mu of the liver,
MLACF, and MLAA without time of flight. Printed and written is how far the mean activity of regions is from that of the
OSEM image with the true map: all images have the resolution of the scanner and of as many updates.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.ndimage import binary_erosion

from emrecon import sims
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    TimeOfFlight,
    attenuation_factors,
)
from emrecon.recon import (
    Iterate,
    JointOptions,
    KnownScale,
    PoissonLikelihood,
    attenuation_of_factors,
    mlaa,
    mlacf,
    osem,
)

PICTURE = RESULTS.parents[1] / "docs" / "images" / "joint_attenuation.png"
GRID = ImageGrid((54, 40, 11), (8.0, 8.0, 10.0))
SCANNER = PETScanner.polygon(sides=24, crystals_per_side=8, radius=400, rings=6, ring_pitch=20)
SINOGRAM = PETSinogram(SCANNER, max_ring_difference=2, n_radial=71, tof=TimeOfFlight.from_ps(11, 320, 400))
REGIONS = ("liver", "lung", "myocardium", "spine", "spleen", "body")
HEIGHT = 70.0  # mm of the middle slice: liver, lungs and heart
SUBSETS = 24
BACKGROUND = 0.35  # over the trues


def main() -> None:
    """Reconstruct, print, and write the numbers and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--passes", type=int, default=45)
    parser.add_argument("--counts", type=float, default=4e7)
    options, console = parser.parse_args(), Console()
    scan = _Scan(options.counts)
    found: dict[str, dict[str, Any]] = {}
    for name, iterates in scan.methods().items():
        begun, last = time.perf_counter(), None
        curve = []
        n = 4 if name in ("true map", "no map") else options.passes
        for last in islice(iterates, n):
            curve.append(scan.activity_of(last.image))
        assert last is not None
        found[name] = {
            "passes": n,
            "seconds": time.perf_counter() - begun,
            "image": last.image,
            "mu": scan.mu_of(name, last),
            "curve": curve,
        }
        console.print(f"{name}: {found[name]['seconds']:.0f} s")
    reference = scan.activity_of(found["true map"]["image"])
    rows = {
        name: {region: 100 * (one["curve"][-1][region] / reference[region] - 1) for region in REGIONS}
        for name, one in found.items()
    }
    maps = {name: scan.attenuation_of(one["mu"]) for name, one in found.items() if one["mu"] is not None}
    console.print(_table("Activity, % off that with the true map", rows))
    console.print(_table("mu, 1/cm", {"true": scan.attenuation_of(scan.mu), **maps}))
    about = {
        "machine": machine(),
        "counts": options.counts,
        "background_over_trues": BACKGROUND,
        "subsets": SUBSETS,
        "passes": {name: one["passes"] for name, one in found.items()},
        "seconds": {name: one["seconds"] for name, one in found.items()},
        "activity_percent_off": rows,
        "largest_percent_off": {name: max(abs(v) for v in row.values()) for name, row in rows.items()},
        "mu_per_cm": {"true": scan.attenuation_of(scan.mu), **maps},
        "curve_percent_off": {
            name: [{r: 100 * (c[r] / reference[r] - 1) for r in REGIONS} for c in one["curve"]]
            for name, one in found.items()
        },
    }
    write_json(RESULTS / "joint_attenuation.json", about)
    _picture(found, scan, rows).savefig(PICTURE, dpi=110)
    console.print(f"wrote {RESULTS / 'joint_attenuation.json'} and {PICTURE}\n{machine_line(about['machine'])}")


class _Scan:
    """The torso and its scan."""

    def __init__(self, counts: float) -> None:
        phantom = sims.torso("fdg").moved((0.0, 0.0, -HEIGHT))
        self.activity, self.mu = phantom.activity(GRID), phantom.attenuation(GRID, 511.0)
        self.body = self.mu > 0.01
        A = PETProjector(GRID, SINOGRAM)
        survival = attenuation_factors(PETProjector(GRID, SINOGRAM.without_tof()), self.mu)[:, :, None]
        trues = survival * A(self.activity)
        c = np.float32(counts / ((1 + BACKGROUND) * trues.sum(dtype=float)))
        r = np.full(trues.shape, c * BACKGROUND * trues.mean(), np.float32)
        y = np.random.default_rng(0).poisson(c * trues + r).astype(np.float32)
        self.plain = PoissonLikelihood(y, AcquisitionModel(A, c, r))
        self.corrected = PoissonLikelihood(y, AcquisitionModel(A, c * survival, r))
        summed = PETProjector(GRID, SINOGRAM.without_tof())
        self.without_tof = PoissonLikelihood(y.sum(2), AcquisitionModel(summed, c, r.sum(2)))
        self.regions = {name: _inner(_region(phantom, name)) for name in REGIONS}

    def methods(self) -> dict[str, Iterator[Iterate]]:
        """Return the iterates by name."""
        liver = self.regions["liver"]
        by_liver = KnownScale("activity", float(self.activity[liver].mean()), liver)
        total = KnownScale("total", float(self.activity.sum()))
        mu = KnownScale("mu", float(self.mu[liver].mean()), liver)

        def options(known: KnownScale, **more: Any) -> JointOptions:
            return JointOptions(known=known, body=self.body, **more)

        return {
            "true map": osem(self.corrected, None, SUBSETS),
            "no map": osem(self.plain, None, SUBSETS),
            "MLAA, liver known": mlaa(self.plain, n_subsets=SUBSETS, options=options(by_liver)),
            "MLAA, total known": mlaa(self.plain, n_subsets=SUBSETS, options=options(total)),
            "MLAA, mu of liver known": mlaa(self.plain, n_subsets=SUBSETS, options=options(mu)),
            "MLACF, total known": mlacf(self.plain, n_subsets=SUBSETS, options=options(total)),
            "MLAA without TOF, liver known": mlaa(
                self.without_tof, n_subsets=SUBSETS, options=options(by_liver, without_tof=True)
            ),
        }

    def mu_of(self, name: str, last: Iterate) -> np.ndarray | None:
        """Return the map of an iterate, None where it has none."""
        if "mu" in last.state:
            return np.asarray(last.state["mu"])
        if "factors" not in last.state:
            return None
        parts = [self.plain.subset(k, SUBSETS) for k in range(SUBSETS)]
        return np.asarray(attenuation_of_factors(parts, last.image, 6, options=JointOptions(body=self.body)))

    def activity_of(self, image: np.ndarray) -> dict[str, float]:
        """Return the mean of each region."""
        return {name: float(image[region].mean()) for name, region in self.regions.items()}

    attenuation_of = activity_of


def _region(phantom: sims.Phantom, name: str) -> np.ndarray:
    x, y, z = np.broadcast_arrays(*GRID.coordinates())
    top = np.full(GRID.shape, -1)
    for k, region in enumerate(phantom.regions):
        top[region.shape.contains(x, y, z)] = k
    own = [
        k
        for k, region in enumerate(phantom.regions)
        if region.name.removeprefix("left ").removeprefix("right ") == name
    ]
    return np.isin(top, own)


def _inner(region: np.ndarray) -> np.ndarray:
    smaller = binary_erosion(region)
    return smaller if smaller.sum() > 20 else region


def _table(title: str, rows: dict[str, dict[str, float]]) -> Table:
    table = Table("", *REGIONS, title=title)
    digits = 4 if "mu" in title else 1
    for name, row in rows.items():
        table.add_row(name, *(f"{row[region]:.{digits}f}" for region in REGIONS))
    return table


def _picture(found: dict[str, dict[str, Any]], scan: _Scan, rows: dict[str, dict[str, float]]) -> Figure:
    shown = ("true map", "no map", "MLAA, liver known", "MLACF, total known", "MLAA without TOF, liver known")
    figure = Figure(figsize=(2.6 * len(shown), 5.0), layout="constrained")
    axes = figure.subplots(2, len(shown))
    k = GRID.shape[2] // 2
    for column, name in zip(axes.T, shown):
        image = found[name]["image"][..., k]
        mu = scan.mu if name == "true map" else found[name]["mu"]
        top = 4.5 if name != "no map" else float(image.max())
        column[0].imshow(image.T, cmap="gray_r", vmin=0, vmax=top)
        worst = max(abs(v) for v in rows[name].values())
        column[0].set_title(name if name == "true map" else f"{name}\nup to {worst:.0f} % off", fontsize=8)
        if mu is not None:
            column[1].imshow(mu[..., k].T, cmap="gray", vmin=0, vmax=0.15)
        for axis in column:
            axis.set_axis_off()
    axes[0, 0].text(-0.05, 0.5, "activity", transform=axes[0, 0].transAxes, rotation=90, va="center", ha="right")
    axes[1, 0].text(-0.05, 0.5, "mu", transform=axes[1, 0].transAxes, rotation=90, va="center", ha="right")
    return figure


if __name__ == "__main__":
    main()
