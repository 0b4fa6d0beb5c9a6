"""Single scatter of PET in a problem: simulated, scaled to the tails, and iterated with the image."""

from dataclasses import replace

import numpy as np
import pytest

from emrecon import recon
from emrecon.projectors import (
    DynamicScan,
    Frames,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    Scan,
    ScatterSampling,
    TimeOfFlight,
    attenuation_factors,
    single_scatter,
)

RING = PETScanner.polygon(
    sides=24, crystals_per_side=3, radius=250, rings=3, ring_pitch=30, name="wide", n_radial=51, energy_resolution=0.15
)
SAMPLING = ScatterSampling(spacing=30, crystal_spacing=60, ring_spacing=40, voxel_size=16)
GRID = ImageGrid((20, 20, 5), (16.0, 16.0, 15.0))
X, Y, Z = GRID.coordinates()
WATER = (np.hypot(X, Y) < 90).astype(np.float32) * np.ones(GRID.shape, np.float32)
MU = np.float32(0.096) * WATER
SSS = recon.SingleScatter(sampling=SAMPLING, energy_window=(430, 610))


def measured(tof=None, multiple=1.2):
    """Expected counts with scatter, of which some is multiple, and randoms; and the scatter in them."""
    sinogram = PETSinogram(RING, tof=tof)
    plain = sinogram.without_tof()
    spread = (lambda v: v) if tof is None else (lambda v: v[:, :, None])
    survival = attenuation_factors(PETProjector(GRID, plain), MU)
    efficiency = 0.4 * plain.multiplicity()
    A = PETProjector(GRID, sinogram)
    scatter = (
        multiple
        * spread(efficiency)
        * single_scatter(WATER, MU, GRID, sinogram, energy_window=(430, 610), sampling=SAMPLING)
    )
    counts = spread(efficiency * survival) * A(WATER) + scatter + np.float32(0.2)
    scan = Scan(counts, sinogram, background=0.2, factors=0.4, duration=60.0, radionuclide="F-18")
    return scan, scatter


def problem(scan, **options):
    return recon.pet_problem(scan, grid=GRID, subsets=2, **({"mu": MU} | options))


@pytest.mark.parametrize("tof", [None, TimeOfFlight(3, 150.0, 200.0)], ids=["plain", "TOF"])
def test_the_scatter_of_a_cylinder_is_found(tof):
    scan, scatter = measured(tof)
    found = problem(scan, scatter=SSS)
    background = sum(part.model.background.sum(dtype=float) for part in found.parts) - 0.2 * scan.counts.size
    assert background == pytest.approx(scatter.sum(dtype=float), rel=0.05)
    share = 100 * scatter.sum() / (scan.counts - 0.2).sum()
    said = next(line for line in found.summary.splitlines() if "sss" in line)
    assert "430 to 610 keV, 3 updates, scaled to the tails by" in said
    assert float(said.rpartition("fraction ")[2].split()[0]) == pytest.approx(share, rel=0.05)
    inside = np.hypot(X, Y) < 60
    kept, without = (
        recon.reconstruct(one, iterations=4)[..., 2][inside[..., 0]].mean() for one in (found, problem(scan))
    )
    assert kept == pytest.approx(1, abs=0.04)
    assert without > 1.12


def test_without_a_fit_the_simulation_has_its_own_size():
    scan, scatter = measured(multiple=1.0)
    found = problem(scan, scatter=replace(SSS, fit="none"))
    background = sum(part.model.background.sum(dtype=float) for part in found.parts) - 0.2 * scan.counts.size
    assert background == pytest.approx(scatter.sum(dtype=float), rel=0.08)
    assert "not scaled" in found.summary


def test_what_cannot_be_simulated_is_refused():
    scan, _ = measured()
    frames = DynamicScan(scan.counts[None], scan.geometry, Frames([0.0], [60.0]), radionuclide="F-18")
    for data, options, message in (
        (scan, {"scatter": "tew"}, "tew is a method of SPECT; PET has sss"),
        (scan, {"scatter": "esse"}, "esse is a method of SPECT"),
        (scan, {"scatter": "ssx"}, "unknown scatter method 'ssx'; choose from sss, none"),
        (scan, {"scatter": "sss:bed"}, "unknown fit 'bed'"),
        (scan, {"scatter": "sss", "mu": None}, "sss needs an attenuation map"),
        (frames, {"scatter": "sss"}, "reconstruct frames or gates one by one"),
        (scan, {"scatter": replace(SSS, energy_window=(300, 400))}, "sss: "),
    ):
        with pytest.raises(recon.ArgumentError, match=message) as error:
            problem(data, **options)
        assert error.value.argument == "scatter"


def test_a_body_that_fills_the_field_of_view_has_no_tails():
    sinogram = PETSinogram(RING, n_radial=11)
    scan = Scan(np.ones(sinogram.shape, np.float32), sinogram, background=0.2, radionuclide="F-18")
    with pytest.raises(recon.ArgumentError, match=r"no bin of the mask.*sss:none\) takes the simulation"):
        problem(scan, scatter=replace(SSS, updates=1))
