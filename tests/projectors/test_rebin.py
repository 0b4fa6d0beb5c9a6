"""Fewer bins: histograms of events, batteries, objects the same at all heights, and FBP of an ellipsoid's integrals."""

import numpy as np
import pytest
from battery import check_operator, relative_error
from pet_cases import GRID, ONE_RING, SCANNER, SINOGRAMS, TOF

from emrecon.projectors import ImageGrid, PETProjector, PETScanner, PETSinogram, TimeOfFlight
from emrecon.projectors.pet.rebinning import ArcCorrection, SingleSliceRebinning, SinogramCompression
from emrecon.recon import fbp
from emrecon.sims import Cylinder, Ellipsoid, Phantom, Region

FIVE_RINGS = PETScanner.polygon(
    sides=6, crystals_per_side=2, virtual_crystals=1, radius=60, rings=5, ring_pitch=5, time_of_flight=TOF
)
WIDE = TimeOfFlight(15, 9.0, 45.0)
COMPRESSIONS = {
    "span": (PETSinogram(FIVE_RINGS), PETSinogram(FIVE_RINGS, span=3)),
    "span of a span": (PETSinogram(FIVE_RINGS, span=3), PETSinogram(FIVE_RINGS, span=9)),
    "ring difference": (PETSinogram(FIVE_RINGS), PETSinogram(FIVE_RINGS, max_ring_difference=1)),
    "views": (PETSinogram(FIVE_RINGS, mashing=2), PETSinogram(FIVE_RINGS, mashing=6)),
    "radial": (PETSinogram(FIVE_RINGS), PETSinogram(FIVE_RINGS, n_radial=6)),
    "some views": (PETSinogram(FIVE_RINGS), PETSinogram(FIVE_RINGS, mashing=2, views=[2, 0])),
    "no TOF": (PETSinogram(FIVE_RINGS, tof=TOF), PETSinogram(FIVE_RINGS, span=3, mashing=3)),
    "wider TOF": (PETSinogram(FIVE_RINGS, tof=WIDE), PETSinogram(FIVE_RINGS, span=5, n_radial=9, tof=WIDE.mashed(3))),
    "middle TOF": (PETSinogram(FIVE_RINGS, tof=WIDE), PETSinogram(FIVE_RINGS, tof=TimeOfFlight(3, 27.0, 45.0))),
    "nothing": (PETSinogram(FIVE_RINGS), PETSinogram(FIVE_RINGS)),
}


def random_events(sinogram, n=20000, seed=0):
    rng = np.random.default_rng(seed)
    crystals = sinogram.scanner.n_crystals
    ends = rng.integers(0, len(sinogram.scanner.positions), (2, n))
    ends = ends[:, ends[0] % crystals != ends[1] % crystals]  # no line joins a crystal with the one behind it
    n = ends.shape[1]
    return np.stack([*ends, *([rng.integers(0, sinogram.tof.n_bins, n)] if sinogram.tof else [])], 1)


# ---- compression -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", COMPRESSIONS)
def test_compression_battery(case):
    fine, coarse = COMPRESSIONS[case]
    check_operator(SinogramCompression(fine, coarse), positive=True, gradients=case in ("span", "no TOF"))


@pytest.mark.parametrize("case", COMPRESSIONS)
def test_compressed_histograms_are_histograms_of_coarse_bins(case):
    fine, coarse = COMPRESSIONS[case]
    A, events = SinogramCompression(fine, coarse), random_events(fine)
    whole = fine.histogram(events)
    if coarse.tof is None and fine.tof is not None:
        expected = coarse.histogram(events[:, :2])
    elif coarse.tof != fine.tof:
        factor = round(coarse.tof.bin_width / fine.tof.bin_width)
        outside = (fine.tof.n_bins - factor * coarse.tof.n_bins) // 2
        expected = coarse.histogram(np.column_stack([events[:, :2], (events[:, 2] - outside) // factor]))
    else:
        expected = coarse.histogram(events)
    assert expected.sum() > 1000
    np.testing.assert_array_equal(A(whole), expected)
    assert not np.shares_memory(A(whole), whole)


@pytest.mark.parametrize("case", ["span", "views", "some views"])
def test_multiplicity_is_compressed_as_counts_are(case):
    fine, coarse = COMPRESSIONS[case]
    np.testing.assert_array_equal(SinogramCompression(fine, coarse)(fine.multiplicity()), coarse.multiplicity())


@pytest.mark.parametrize(
    ("fine", "coarse", "why"),
    [
        ({}, {"scanner": ONE_RING}, "the same scanner"),
        ({"span": 3}, {"span": 5}, "would be split"),
        ({"span": 3}, {"max_ring_difference": 2}, "would be split"),
        ({"max_ring_difference": 1}, {}, "ring pairs that the fine one does not have"),
        ({"mashing": 2}, {"mashing": 3}, "mashing 2 does not divide mashing 3"),
        ({"views": [0, 1, 2]}, {"mashing": 2, "views": [1]}, "does not have"),
        ({"views": [0, 1]}, {}, "does not have"),
        ({"n_radial": 6}, {"n_radial": 7}, "reach beyond the 6 of"),
        ({}, {"tof": True}, "the fine one has none"),
        ({"tof": WIDE}, {"tof": TimeOfFlight(7, 18.0, 45.0)}, "would be split"),
        ({"tof": WIDE}, {"tof": TimeOfFlight(7, 27.0, 45.0)}, "reach farther"),
    ],
)
def test_impossible_compressions(fine, coarse, why):
    sinograms = [PETSinogram(**{"scanner": FIVE_RINGS, **options}) for options in (fine, coarse)]
    with pytest.raises(ValueError, match=why):
        SinogramCompression(*sinograms)


# ---- single-slice rebinning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SINOGRAMS)
@pytest.mark.parametrize("total", [False, True])
def test_single_slice_battery(case, total):
    _, sinogram = SINOGRAMS[case]
    check_operator(SingleSliceRebinning(sinogram, total=total), positive=True, gradients=case == "TOF")


@pytest.mark.parametrize("options", [{}, {"span": 3}, {"max_ring_difference": 1}])
def test_an_object_the_same_at_all_heights_is_the_same_in_every_plane(options):
    sinogram = PETSinogram(SCANNER, **options)
    first, second = sinogram.line_ends()
    rod = Phantom((Region("rod", Cylinder((5.0, -3.0, 0), 25.0, np.inf), 2.0),))
    planes = SingleSliceRebinning(sinogram)(rod.line_integral(first, second - first))
    rebinned = sinogram.rebinned()
    first, second = rebinned.line_ends()
    expected = rod.line_integral(first, second - first)
    assert planes.shape == rebinned.shape
    np.testing.assert_allclose(planes, expected, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(planes, planes[..., :1] * np.ones(planes.shape[-1]), rtol=1e-10, atol=1e-9)


def test_rebinned_counts_are_the_histogram():
    sinogram = PETSinogram(SCANNER, tof=TOF)
    events = random_events(sinogram)
    counts = SingleSliceRebinning(sinogram, total=True)(sinogram.histogram(events))
    np.testing.assert_array_equal(counts, sinogram.rebinned().histogram(events[:, :2]))


def test_rebinned_tof_is_rebinned_without_tof():
    sinogram, x = (
        PETSinogram(SCANNER, tof=TimeOfFlight(15, 20.0, 45.0)),
        np.random.default_rng(0).uniform(size=GRID.shape),
    )
    with_tof = SingleSliceRebinning(sinogram)(PETProjector(GRID, sinogram)(x))
    without = SingleSliceRebinning(sinogram.without_tof())(PETProjector(GRID, sinogram.without_tof())(x))
    np.testing.assert_allclose(with_tof, without, rtol=1e-6, atol=1e-9)


# ---- arc correction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sinogram",
    [
        PETSinogram(SCANNER, max_ring_difference=0),
        PETSinogram(SCANNER, mashing=3, n_radial=14),
        PETSinogram(ONE_RING, views=[5, 0, 3]),
    ],
)
@pytest.mark.parametrize("options", [{}, {"bin_size": 2.3, "n_bins": 60}])
def test_arc_battery(sinogram, options):
    check_operator(ArcCorrection(sinogram, **options), positive=True)


def test_arc_correction_interpolates_between_real_lines():
    sinogram = PETSinogram(SCANNER, max_ring_difference=0)
    A, positions = ArcCorrection(sinogram, bin_size=1.7), sinogram.radial_positions
    real = sinogram.multiplicity()[..., 0] > 0
    line = (3 + 0.2 * positions)[..., None] * np.ones(sinogram.n_planes)
    line[~real] = 1e6
    wanted = (np.arange(A.n_bins) - (A.n_bins - 1) / 2) * 1.7
    for view, result in enumerate(A(line)):
        reach = positions[view][real[view]]
        inside = (wanted > reach.min()) & (wanted < reach.max())
        np.testing.assert_allclose(result[inside, 0], 3 + 0.2 * wanted[inside], rtol=1e-9)
        assert not result[(wanted < reach.min()) | (wanted > reach.max())].any()


def test_refused_arc_corrections():
    with pytest.raises(ValueError, match="without TOF"):
        ArcCorrection(PETSinogram(SCANNER, tof=TOF))
    with pytest.raises(ValueError, match="bin_size must be positive"):
        ArcCorrection(PETSinogram(SCANNER), bin_size=0)
    with pytest.raises(ValueError, match="n_bins must be a positive integer"):
        ArcCorrection(PETSinogram(SCANNER), n_bins=2.5)
    with pytest.raises(ValueError, match="too few radial bins"):
        ArcCorrection(PETSinogram(ONE_RING, n_radial=1))
    with pytest.raises(ValueError, match="SingleSliceRebinning first"):
        _ = ArcCorrection(PETSinogram(SCANNER)).geometry
    gaps = PETScanner.polygon(sides=6, crystals_per_side=4, radius=60, rings=4, ring_pitch=5, ring_block=2, block_gap=9)
    with pytest.raises(ValueError, match="gaps between blocks of rings"):
        _ = ArcCorrection(PETSinogram(gaps, max_ring_difference=0)).geometry


def test_geometry_of_the_planes():
    scanner = PETScanner.polygon(sides=6, crystals_per_side=4, radius=60, rings=4, ring_pitch=5)
    for sinogram, n_planes, size in (
        (PETSinogram(scanner, max_ring_difference=0), 4, 5.0),
        (PETSinogram(scanner).rebinned(), 7, 2.5),
    ):
        geometry = ArcCorrection(sinogram).geometry
        assert geometry.shape == ArcCorrection(sinogram).out_shape
        assert (geometry.n_planes, geometry.plane_size, geometry.axial_shift) == (n_planes, size, 0.0)
    assert ArcCorrection(PETSinogram(ONE_RING)).geometry.plane_size is None


@pytest.mark.parametrize("way", [1, -1])
def test_planes_rise_whichever_way_rings_are_numbered(way):
    scanner = PETScanner(
        PETScanner.polygon(sides=6, crystals_per_side=4, radius=60, rings=4, ring_pitch=5).crystals[::way]
    )
    rebin = SingleSliceRebinning(PETSinogram(scanner, max_ring_difference=1))
    arc = ArcCorrection(rebin.rebinned)
    first, second = rebin.sinogram.line_ends()
    upper = Phantom((Region("upper", Ellipsoid((0.0, 0.0, 10.0), 9.0), 1.0),))
    low, high = np.split((arc @ rebin)(upper.line_integral(first, second - first)).sum((0, 1)), [3])
    assert low.max() < 1e-9 < high[-1] == high.max()


@pytest.mark.parametrize("virtual", [0, 1])
@pytest.mark.parametrize("mashing", [1, 2])
def test_fbp_recovers_an_ellipsoid(mashing, virtual):
    scanner = PETScanner.polygon(
        sides=24, crystals_per_side=14 + virtual, virtual_crystals=virtual, radius=330, rings=7, ring_pitch=4
    )
    sinogram = PETSinogram(scanner, n_radial=121, mashing=mashing)
    centre, radii = np.array([31.0, -22.0, 0.0]), (48.0, 36.0, 150.0)
    phantom = Phantom((Region("ellipsoid", Ellipsoid(tuple(centre), radii), 2.5),))
    first, second = sinogram.line_ends()
    integrals = phantom.line_integral(first, second - first)
    if virtual:
        integrals[sinogram.multiplicity() == 0] = 0
    rebin = SingleSliceRebinning(sinogram)
    arc = ArcCorrection(rebin.rebinned)
    grid = ImageGrid((72, 72, 13), (3.0, 3.0, 2.0))
    image = fbp((arc @ rebin)(integrals), arc.geometry, grid, "hann")
    x, y, z = grid.coordinates()
    distance = np.sqrt(sum(((c - m) / r) ** 2 for c, m, r in zip((x, y, z), centre, radii)))
    inside = image[distance < 0.8]
    assert inside.mean() == pytest.approx(2.5, rel=0.01)
    assert relative_error(inside, np.full_like(inside, 2.5)) < 0.02
    assert np.abs(image[distance > 1.25]).max() < 0.1
    hot = image * (distance < 1.3)
    position = [(hot * c).sum() / hot.sum() for c in (x, y, z)]
    np.testing.assert_allclose(position, centre, atol=0.15)
