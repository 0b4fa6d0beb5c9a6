"""Photon histories against line integrals and the simulation of single scatter; TOF, seeds, smoothing, refusals."""

import numpy as np
import pytest

from emrecon.projectors import (
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    ScatterSampling,
    TimeOfFlight,
    photon_histories,
    single_scatter,
)

SCANNER = PETScanner.polygon(sides=32, crystals_per_side=2, radius=250, rings=5, ring_pitch=28, energy_resolution=0.12)
SINOGRAM = PETSinogram(SCANNER, n_radial=33)
GRID = ImageGrid((12, 12, 8), 20.0)
X, Y, Z = GRID.coordinates()
BODY = np.broadcast_to((X**2 + Y**2 < 95**2) & (abs(Z) < 65), GRID.shape)
ACTIVITY = BODY + 3.0 * ((X > 20) & (X < 60) & (abs(Y) < 30) & (abs(Z) < 30))
MU = BODY * 0.096


@pytest.fixture(scope="module")
def histories():
    """Of many photons, followed by the one worker that looks at them."""
    return photon_histories(ACTIVITY, MU, GRID, SINOGRAM, 400_000, 1)


def test_trues_are_the_line_integrals_and_single_scatter_is_that_of_the_simulation(histories):
    A = PETProjector(GRID, SINOGRAM)
    trues = np.exp(-A(MU) / 10) * A(ACTIVITY)
    sampling = ScatterSampling(spacing=20, crystal_spacing=30, ring_spacing=30, voxel_size=20)
    single = single_scatter(ACTIVITY, MU, GRID, SINOGRAM, sampling=sampling)
    n_true, n_single, n_multiple = histories.n_detected
    assert min(n_true, n_single) > 4000
    assert histories.trues.sum() == pytest.approx(trues.sum(), rel=0.04)
    assert histories.single.sum() == pytest.approx(single.sum(), rel=0.08)
    # by distance from the axis, and by plane
    for part, reference in ((histories.trues, trues), (histories.single, single)):
        middle = slice(11, 22)
        np.testing.assert_allclose(part[:, middle].sum((0, 2)), reference[:, middle].sum((0, 2)), rtol=0.2)
    assert 0.05 < histories.multiple.sum() / histories.single.sum() < 0.5
    assert n_multiple > 500


def test_without_attenuation_there_is_no_scatter_and_tof_bins_add_up():
    sinogram = PETSinogram(SCANNER, n_radial=33, tof=TimeOfFlight(9, 60.0, 60.0))
    found = photon_histories(ACTIVITY, 0 * MU, GRID, sinogram, 30_000, 2)
    plain = photon_histories(ACTIVITY, 0 * MU, GRID, SINOGRAM, 30_000, 2)
    assert found.scatter.max() == 0
    np.testing.assert_allclose(found.trues.sum(2), plain.trues, rtol=1e-5)
    A = PETProjector(GRID, sinogram)(np.asarray(ACTIVITY))
    share = [part.sum((0, 1, 3)) / part.sum() for part in (found.trues, A)]
    np.testing.assert_allclose(*share, atol=0.02)
    one_side = np.where(X > 0, ACTIVITY, 0.0)  # views whose second end is to one side tell TOF bins apart
    near, line = (
        photon_histories(one_side, 0 * MU, GRID, sinogram, 30_000, 3).trues,
        PETProjector(GRID, sinogram)(one_side),
    )
    mean = [(part.sum((1, 3)) * np.arange(9)).sum(1) / part.sum((1, 2, 3)) for part in (near, line)]
    np.testing.assert_allclose(*mean, atol=0.35)


def test_a_seed_has_one_result_and_smoothing_keeps_the_sum(histories):
    again = photon_histories(ACTIVITY, MU, GRID, SINOGRAM, 2000, 5)
    np.testing.assert_array_equal(again.scatter, photon_histories(ACTIVITY, MU, GRID, SINOGRAM, 2000, 5).scatter)
    assert (again.scatter != photon_histories(ACTIVITY, MU, GRID, SINOGRAM, 2000, 6).scatter).any()
    smooth = histories.smoothed()
    assert smooth.scatter.sum() == pytest.approx(histories.scatter.sum(), rel=0.03)
    assert smooth.single.std() < 0.5 * histories.single.std()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_decays": 0}, "n_decays must be at least 1"),
        ({"activity": 0 * ACTIVITY}, "activity is 0 everywhere"),
        ({"mu": -MU}, "finite and not negative"),
        ({"mu": MU * 1000}, "Hounsfield"),
        ({"activity": ACTIVITY[1:]}, "has shape"),
        ({"energy_window": (520, 600)}, "must contain the 511 keV"),
        (
            {
                "sinogram": PETSinogram(
                    PETScanner.polygon(
                        sides=8, crystals_per_side=4, radius=200, rings=1, ring_pitch=5, energy_resolution=0.1
                    )
                )
            },
            "two rings or more",
        ),
        (
            {
                "sinogram": PETSinogram(
                    PETScanner.polygon(sides=8, crystals_per_side=4, radius=200, rings=2, ring_pitch=5)
                )
            },
            "no energy resolution",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(change, message):
    given = {"activity": ACTIVITY, "mu": MU, "grid": GRID, "sinogram": SINOGRAM, "n_decays": 10} | change
    with pytest.raises(ValueError, match=message):
        photon_histories(**given)
