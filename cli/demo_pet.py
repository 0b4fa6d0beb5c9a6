"""`emrecon demo --pet`: simulate list-mode of the NEMA body phantom, reconstruct it with and without time of flight."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.ndimage import gaussian_filter

from emrecon import figures, formats
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    ListmodeProjector,
    PETProjector,
    PETScanner,
    PETSinogram,
    attenuation_factors,
)
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.files import atomic_stream
from emrecon.projectors.core.progress import stage
from emrecon.recon import ImageQualityLayout, ListmodeLikelihood, ProgressBar, nema_image_quality, osem, run
from emrecon.sims import generator, nema_iec_body, nema_layout

from .outputs import writing
from .printing import plain_console

_GRID = ImageGrid((80, 64, 13), (4.0, 4.0, 5.0))
_FINE = ImageGrid((160, 128, 13), (2.0, 2.0, 5.0))
_RANDOMS = 0.2  # of the prompts
_SUBSETS = 4


def demo_pet(out: Path, counts: float, iterations: int, seed: int) -> None:
    """Run the demonstration: a short scanner of few rings, so that it takes half a minute."""
    console, begun = plain_console(), time.perf_counter()
    console.width = max(console.width, 110)
    with writing():
        out.mkdir(parents=True, exist_ok=True)
    phantom = nema_iec_body(hot_ratio=4)
    sinogram = _scanner_bins()
    with stage("simulation"):
        events, factors, randoms = simulate(sinogram, phantom, min(counts, 40e6) / 16, seed)
    console.print(f"simulated {len(events):.3g} events of {sinogram}, in {time.perf_counter() - begun:.1f} s")
    mu = phantom.attenuation(_GRID, 511)
    layout = replace(ImageQualityLayout(**nema_layout(4)), slices=np.array((-10.0, 0.0, 10.0)))
    images = {"truth": phantom.activity(_GRID)}
    table = Table(title=f"OSEM of the same events, {_SUBSETS} subsets, {iterations} iterations")
    for column in ("", *(f"{d:g} mm" for d in layout.diameters), "variability", "time (s)"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, timed in (("without time of flight", False), ("with time of flight", True)):
        at = time.perf_counter()
        images[name] = _reconstruct(sinogram, events, mu, factors, randoms, timed, iterations)
        quality = nema_image_quality(images[name], _GRID, layout)
        contrasts = [f"{sphere.contrast:.0f} %" for sphere in quality.spheres]
        variability = np.mean([sphere.variability for sphere in quality.spheres])
        table.add_row(name, *contrasts, f"{variability:.1f} %", f"{time.perf_counter() - at:.1f}")
    console.print(table)
    with writing():
        spheres = {"spheres": (_GRID.shape[2] // 2, 4.0)}
        figures.save(figures.side_by_side(_scaled(images), spheres, voxel_size=_GRID.voxel_size), out / "demo_pet.png")
        with atomic_stream(out / "events.npy") as stream:
            np.save(stream, events)
        for name, image in images.items():
            formats.write_image(out / f"pet-{name.replace(' ', '-')}.nii.gz", image, _GRID)
    console.print(f"wrote {out}/demo_pet.png, events.npy and the images; {time.perf_counter() - begun:.1f} s in all")


def simulate(sinogram: PETSinogram, phantom: Any, n_events: float, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return events (n, 3), the factors of bins, and the randoms expected in each bin: Poisson counts, listed."""
    activity = gaussian_filter(phantom.activity(_FINE), [4.5 / 2.355 / 2, 4.5 / 2.355 / 2, 4.5 / 2.355 / 5])
    plain = sinogram.without_tof()
    factors = attenuation_factors(PETProjector(_FINE, plain), phantom.attenuation(_FINE, 511)) * plain.multiplicity()
    expected = PETProjector(_FINE, sinogram)(activity) * factors[:, :, None]
    scale = (1 - _RANDOMS) * n_events / expected.sum()
    real = plain.multiplicity()[:, :, None] > 0
    randoms = _RANDOMS * n_events / (real.sum() * expected.shape[2])
    counts = generator(seed, "pet demo").poisson(scale * expected + randoms * real)
    view, radial, tof, plane = np.nonzero(counts)
    crystals = sinogram.crystal_pairs[view, 0, radial]
    rings = np.array([pairs[0] for pairs in sinogram.ring_pairs])[plane]
    events = np.column_stack([rings * sinogram.scanner.n_crystals + crystals, tof]).astype(np.int32)
    listed = np.repeat(events, counts[view, radial, tof, plane], axis=0)
    order = generator(seed, "pet demo order").permutation(len(listed))
    return listed[order], (scale * factors).astype(np.float32), float(randoms)


def _scanner_bins() -> PETSinogram:
    """Thirteen rings of the Vision 600's crystals, every fifth of them: enough to show what TOF does."""
    full = PETScanner.named("vision600")
    short = PETScanner.polygon(
        sides=38,
        crystals_per_side=7,
        radius=410,
        depth=7,
        crystal_pitch=9.0,
        rings=13,
        ring_pitch=5.0,
        name="short scanner",
        time_of_flight=full.time_of_flight,
    )
    return PETSinogram(short, max_ring_difference=2, tof=full.time_of_flight, n_radial=121)


def _reconstruct(
    sinogram: PETSinogram,
    events: np.ndarray,
    mu: np.ndarray,
    factors: np.ndarray,
    randoms: float,
    timed: bool,
    iterations: int,
) -> np.ndarray:
    """OSEM of interleaved events; attenuation and sensitivity from every bin, TOF or not."""
    bins = sinogram if timed else sinogram.without_tof()
    lines = ListmodeProjector(_GRID, sinogram.scanner, events, tof=bins.tof)
    view, radial, plane = sinogram.without_tof().bins_of(events[:, :2]).T
    own = factors[view, radial, plane]
    background = np.full(len(events), randoms * (1 if timed else sinogram.tof.n_bins), np.float32)  # type: ignore[union-attr]
    sensitivity = PETProjector(_GRID, sinogram.without_tof()).T(factors)
    likelihood = ListmodeLikelihood(AcquisitionModel(lines, own, background), sensitivity)
    return to_numpy(run(osem(likelihood, n_subsets=_SUBSETS), iterations, ProgressBar(iterations)))


def _scaled(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images in one unit: the truth's."""
    truth = images["truth"]
    return {name: image * (truth.sum() / image.sum()) for name, image in images.items()}
