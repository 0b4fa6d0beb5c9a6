"""Frames and gates as one batch: each image is that of its frame alone, for every kind of method."""

from dataclasses import replace

import numpy as np
import pytest
from bed_cases import RESPONSE, body, camera

from emrecon import recon
from emrecon.projectors import (
    DynamicScan,
    EnergyWindow,
    Frames,
    GatedScan,
    PETScanner,
    PETSinogram,
    SPECTProjector,
    WindowedSeries,
)
from emrecon.recon.problem import batches

FRAMES = Frames.from_durations([60, 120, 600.0])
RING = PETScanner.polygon(sides=12, crystals_per_side=4, radius=80, rings=2, ring_pitch=6)


@pytest.fixture(scope="module")
def dynamic():
    """Three frames of a body whose activity changes, and its map."""
    activity, mu, grid = body(5)
    seen, about = camera(5), {"factors": 0.5, "background": 0.1, "radionuclide": "Tc-99m"}
    images = np.stack([activity, 2 * activity, 0.5 * activity])
    empty = DynamicScan(np.zeros((3, *seen.shape)), seen, FRAMES, **about)
    expected = empty.model(SPECTProjector(grid, seen, mu, RESPONSE))(images)
    counts = np.random.default_rng(0).poisson(expected).astype(np.float32)
    return DynamicScan(counts, seen, FRAMES, **about), mu


def problem_of(scan, mu):
    return recon.spect_problem(scan, mu=mu, response=RESPONSE, subsets=4)


@pytest.mark.parametrize(
    ("method", "prior"), [("osem", None), ("svrg", "rdp:0.1,2,0.1"), ("lbfgsb", "quadratic:0.01"), ("pdhg", "tv:0.1")]
)
def test_frames_together_are_frames_alone(dynamic, method, prior):
    scan, mu = dynamic
    problem = problem_of(scan, mu)
    together = recon.reconstruct(problem, method, 2, prior=prior)
    alone = np.stack([recon.reconstruct(problem_of(part, mu), method, 2, prior=prior) for part in scan])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert problem.start.shape == (3, 16, 16, 5)
    assert "3 frames of 60 to 600 s" in str(problem)


def test_images_of_frames_have_one_unit(dynamic):
    scan, mu = dynamic
    means = recon.reconstruct(problem_of(scan, mu), "osem", 4)[:, 6:10, 6:10].mean((1, 2, 3))
    np.testing.assert_allclose(means / means[0], [1, 2, 0.5], rtol=0.06)


def test_times_belong_to_the_signature(dynamic):
    scan, mu = dynamic
    later = DynamicScan(
        scan.counts,
        scan.geometry,
        Frames.from_durations([60, 120, 601.0]),
        **{name: getattr(scan, name) for name in ("factors", "background", "radionuclide")},
    )
    assert problem_of(later, mu).signature != problem_of(scan, mu).signature


def test_gates_of_pet_sinograms():
    sinogram = PETSinogram(RING, n_radial=31, span=3)
    counts = np.random.default_rng(1).poisson(4.0, (2, *sinogram.shape)).astype(np.float32)
    gated = GatedScan(counts, sinogram, np.array([10.0, 30]), background=0.2)
    problem = recon.pet_problem(gated, subsets=2)
    image = recon.reconstruct(problem, iterations=2)
    alone = [recon.reconstruct(recon.pet_problem(gate, subsets=2), iterations=2) for gate in gated]
    np.testing.assert_allclose(image, alone, rtol=1e-4)
    pairs = sinogram.multiplicity()
    assert pairs.max() > 1
    known = GatedScan(counts, sinogram, np.array([10.0, 30]), background=0.2, factors=pairs)
    np.testing.assert_allclose(recon.reconstruct(recon.pet_problem(known, subsets=2), iterations=2), image, rtol=1e-4)


def test_what_is_made_from_one_image_is_refused(dynamic):
    problem = problem_of(*dynamic)
    with pytest.raises(recon.ArgumentError, match="one by one"):
        recon.reconstruct(problem, "bsrem", 1, prior="quadratic:0.01", kappa=True)
    with pytest.raises(recon.ArgumentError, match="one by one"):
        recon.reconstruct(problem, "svrg", 1, prior="non-local:0.01,1,1")


def test_windows_of_frames(dynamic):
    scan, mu = dynamic
    windows = EnergyWindow(126.4, 154.6, "peak"), EnergyWindow(111, 126.4, "low"), EnergyWindow(154.6, 170, "up")
    less = replace(scan, counts=np.round(scan.counts / 10), background=0.0)
    series = WindowedSeries(windows, (replace(scan, background=0.0), less, less))
    problem = recon.spect_problem(series, mu=mu, response=RESPONSE, subsets=4)
    assert "tew" in str(problem)
    alone = recon.spect_problem(series.part(1), mu=mu, response=RESPONSE, subsets=4)
    images = [recon.reconstruct(problem, iterations=2)[1], recon.reconstruct(alone, iterations=2)]
    np.testing.assert_allclose(*images, rtol=1e-3, atol=1e-4)
    with pytest.raises(recon.ArgumentError, match="one by one"):
        recon.spect_problem(scan, mu=mu, scatter="esse")


def test_memory_of_a_batch(dynamic, monkeypatch):
    scan, _ = dynamic
    monkeypatch.setattr(batches, "available_memory", lambda: 3e5)
    assert batches.fitting(scan, scan.default_grid(), 4) == 1
    monkeypatch.setattr(batches, "available_memory", lambda: float("inf"))
    assert batches.fitting(scan, scan.default_grid(), 4) == 3
