"""Scanners and sinograms: where crystals are, and which pairs share a bin."""

import numpy as np
import pytest
from pet_cases import OF_CRYSTALS, SCANNER, SINOGRAMS, TOF, events_of_every_bin

from emrecon.projectors import (
    ArcCorrection,
    EquallySpacedLines,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    TimeOfFlight,
    pet_scanners,
)
from emrecon.recon import fbp


@pytest.mark.parametrize(
    ("name", "rings", "crystals", "length", "radius"),
    [
        ("mmr", 64, 504, 256.0, 335.0),
        ("mct", 55, 672, 219, 428),
        ("vision600", 80, 798, 260, 417),
        ("dmi", 36, 544, 195, 381),
        ("d690", 24, 576, 151, 414.5),
        ("signa", 45, 448, 245, 320.3),
    ],
)
def test_named_scanners(name, rings, crystals, length, radius):
    scanner = PETScanner.named(name)
    assert (scanner.n_rings, scanner.n_crystals) == (rings, crystals)
    assert np.ptp(scanner.rings) == pytest.approx(length, abs=4.1)
    assert scanner.radius == pytest.approx(radius, rel=3e-3)
    assert scanner.rings.sum() == pytest.approx(0, abs=1e-9)
    assert np.linalg.norm(scanner.positions, axis=1).min() > radius - 5
    assert name in pet_scanners()
    assert PETScanner.named(name.upper()) == scanner


def test_virtual_crystals_of_the_mmr_are_the_gaps_between_its_blocks():
    scanner = PETScanner.named("mMR")
    assert scanner.virtual.sum() == 64 * 56
    xy = scanner.crystals[0, :, :2]
    real = xy[~scanner.virtual[0]].reshape(56, 8, 2)
    np.testing.assert_allclose(np.linalg.norm(np.diff(real, axis=1), axis=-1), 4.0625, rtol=1e-12)
    gaps = np.linalg.norm(real - np.roll(real, -1, axis=0)[:, ::-1], axis=-1)[:, -1]
    assert gaps.min() > 8  # between the last crystal of a block and the first of the next


def test_crystals_start_in_front_and_turn_to_the_left():
    ring = PETScanner.polygon(sides=4, crystals_per_side=1, radius=100, rings=2, ring_pitch=4, depth=5)
    expected = [(0, -105), (105, 0), (0, 105), (-105, 0)]
    np.testing.assert_allclose(ring.crystals[0, :, :2], expected, atol=1e-9)
    np.testing.assert_allclose(ring.rings, [2, -2])
    turned = PETScanner.polygon(sides=4, crystals_per_side=1, radius=105, rings=1, ring_pitch=4, phase=90)
    np.testing.assert_allclose(turned.crystals[0, 0, :2], (105, 0), atol=1e-9)


def test_ring_blocks_have_gaps_or_virtual_rings():
    gaps = PETScanner.polygon(sides=8, crystals_per_side=2, radius=50, rings=4, ring_pitch=2, ring_block=2, block_gap=3)
    np.testing.assert_allclose(np.diff(gaps.rings), [-2, -5, -2])
    mct = PETScanner.named("mct")
    assert np.flatnonzero(mct.virtual.all(1)).tolist() == [13, 27, 41]


def test_michelogram_of_the_mmr():
    scanner = PETScanner.named("mmr")
    fine = PETSinogram(scanner, max_ring_difference=60, span=1)
    assert fine.shape == (252, 344, 4084)
    coarse = PETSinogram(scanner, max_ring_difference=60, span=11)
    table = [int((coarse.segments == s).sum()) for s in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5)]
    assert table == [127, 115, 115, 93, 93, 71, 71, 49, 49, 27, 27]  # as the scanner's own headers say
    assert sum(len(pairs) for pairs in coarse.ring_pairs) == 4084
    assert (coarse.michelogram >= 0).sum() == 4084
    first, second = np.divmod(np.arange(64 * 64), 64)
    assert (coarse.michelogram.ravel()[np.abs(first - second) > 60] == -1).all()


def test_outermost_segments_may_hold_fewer_ring_differences():
    scanner = PETScanner.named("mmr")
    whole = PETSinogram(scanner, max_ring_difference=63, span=11)
    assert np.abs(whole.segments).max() == 6
    assert (whole.michelogram >= 0).all()
    assert sum(len(pairs) for pairs in whole.ring_pairs) == 64 * 64
    outer = {int(r - s) for pairs, k in zip(whole.ring_pairs, whole.segments) if k == -6 for r, s in pairs}
    assert outer == {61, 62, 63}
    part = PETSinogram(scanner, max_ring_difference=3, span=11)
    assert set(part.segments) == {0}
    assert {int(abs(r - s)) for pairs in part.ring_pairs for r, s in pairs} == {0, 1, 2, 3}
    assert PETSinogram(SCANNER, max_ring_difference=2, span=3).n_planes == 5 + 2


@pytest.mark.parametrize("case", OF_CRYSTALS)
def test_every_bin_has_the_mean_line_of_its_pairs(case):
    _, sinogram = SINOGRAMS[case]
    first, second = sinogram.line_ends()
    scanner, n = sinogram.scanner, sinogram.scanner.n_crystals
    v, k, p = sinogram.n_views - 1, sinogram.n_radial // 3, sinogram.n_planes - 1
    rings, crystals = sinogram.ring_pairs[p], sinogram.crystal_pairs[v, :, k]
    for side, ends in enumerate((first, second)):
        points = scanner.crystals[rings[:, None, side], crystals[None, :, side]]
        np.testing.assert_allclose(ends[v, k, p], points.reshape(-1, 3).mean(0), atol=1e-12)
    pairs = [(r * n + c, s * n + d) for r, s in rings for c, d in crystals]
    events = np.array([(*pair, 3) if sinogram.tof else pair for pair in pairs])
    bins = sinogram.bins_of(events)
    assert {tuple(b) for b in bins.tolist()} == {(v, k, 3, p) if sinogram.tof else (v, k, p)}


@pytest.mark.parametrize("case", ["span 1", "TOF"])
def test_events_find_their_bins_from_either_end(case):
    _, sinogram = SINOGRAMS[case]
    events = events_of_every_bin(sinogram)
    expected = np.indices(sinogram.shape).reshape(len(sinogram.shape), -1).T
    np.testing.assert_array_equal(sinogram.bins_of(events), expected)
    turned = events[:, [1, 0]]
    if sinogram.tof:
        turned = np.column_stack([turned, sinogram.tof.n_bins - 1 - events[:, 2]])
    np.testing.assert_array_equal(sinogram.bins_of(turned), expected)
    np.testing.assert_array_equal(sinogram.histogram(events), np.ones(sinogram.shape))


def test_events_of_other_views_rings_and_times_are_left_out():
    sinogram = PETSinogram(SCANNER, max_ring_difference=1, n_radial=9, tof=TOF).subset(1, 3)
    events = np.array(
        [[0, 12 + 48, 3], [1, 13, -1], [1, 13, 7], [2, 5, 3], [1, 13, 3], [-5, 13, 3], [13, 1000, 3], [14, 38, 3]]
    )
    kept = sinogram.bins_of(events)[:, 0] >= 0
    assert kept.tolist() == [False, False, False, False, True, False, False, False]
    assert sinogram.histogram(events).sum() == 1


def test_views_turn_and_bins_run_along_the_stated_axes():
    scanner = PETScanner.named("mmr")
    sinogram = PETSinogram(scanner, span=11)
    angle = np.deg2rad(sinogram.angles)
    x1, y1, x2, y2 = np.moveaxis(sinogram.transaxial_ends, -1, 0)
    middle = np.stack([x1 + x2, y1 + y2], -1) / 2
    along = np.stack([np.cos(angle), np.sin(angle)], -1)[:, None]
    s = (middle * along).sum(-1)
    assert np.abs(s - sinogram.radial_positions).max() < 3
    assert (np.diff(sinogram.radial_positions, axis=1) > 0).all()
    assert sinogram.radial_positions[:, 172] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(
        sinogram.radial_positions[:, 170:175].mean(0) / scanner.radial_spacing, range(-2, 3), rtol=0.02, atol=1e-9
    )


def test_multiplicity_counts_pairs_of_real_crystals():
    for case in OF_CRYSTALS:
        _, sinogram = SINOGRAMS[case]
        scanner, pairs = sinogram.scanner, 0
        expected = np.zeros((sinogram.n_views, sinogram.n_radial, sinogram.n_planes))
        for p, rings in enumerate(sinogram.ring_pairs):
            for first, second in rings:
                real = ~scanner.virtual[first][sinogram.crystal_pairs[..., 0]]
                expected[:, :, p] += (real & ~scanner.virtual[second][sinogram.crystal_pairs[..., 1]]).sum(1)
                pairs += 1
        np.testing.assert_array_equal(sinogram.multiplicity(), expected)
    broken = SCANNER.virtual.copy()
    broken[1, 5] = True  # a dead crystal: gaps are no longer a matter of rings and columns
    dead = PETScanner(SCANNER.crystals, broken)
    lost = PETSinogram(SCANNER).multiplicity().sum() - PETSinogram(dead).multiplicity().sum()
    real = ~SCANNER.virtual
    assert 0 < lost <= real.sum()


def test_subsets_and_variants():
    sinogram = PETSinogram(SCANNER, tof=TOF)
    part = sinogram.subset(1, 5).subset(1, 2)
    assert part.views.tolist() == [6]
    np.testing.assert_array_equal(part.transaxial_ends, sinogram.transaxial_ends[[6]])
    assert sinogram.without_tof().shape == (12, 23, 9)
    assert sinogram.rebinned().shape == (12, 23, 5)
    assert np.ptp(sinogram.rebinned().plane_ends, axis=1).max() < 1e-12
    assert sinogram == PETSinogram(SCANNER, tof=TOF)
    assert sinogram != PETSinogram(SCANNER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span": 2}, "odd"),
        ({"max_ring_difference": 3}, "0 to 2"),
        ({"n_radial": 24}, "1 to 23"),
        ({"mashing": 5}, "divide the 12 views"),
        ({"tof": True}, "no time of flight"),
        ({"views": [12]}, "0 to 11"),
    ],
)
def test_impossible_sinograms_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PETSinogram(SCANNER, **options)


def test_impossible_scanners_are_refused():
    with pytest.raises(ValueError, match="unknown PET scanner 'ecat'; choose from mmr"):
        PETScanner.named("ecat")
    with pytest.raises(ValueError, match=r"\(rings, crystals, 3\)"):
        PETScanner(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="NaN"):
        PETScanner(np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="virtual"):
        PETScanner(np.zeros((5, 3)), np.zeros(4))
    with pytest.raises(ValueError, match="ListmodeProjector"):
        PETSinogram(PETScanner(np.random.default_rng(0).normal(size=(10, 4, 3))))
    with pytest.raises(ValueError, match="fewer gaps"):
        PETScanner.polygon(sides=8, crystals_per_side=2, virtual_crystals=2, radius=1, rings=1, ring_pitch=1)


def test_tof_weights_are_integrated_gaussians_that_add_up():
    tof = TimeOfFlight.from_ps(29, 169, 375.4)
    assert tof.fwhm == pytest.approx(56.27, abs=0.01)
    s = np.linspace(-280, 280, 101)
    weights = tof.weights(s)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(weights @ tof.centres, s, atol=0.02)
    fine = np.linspace(-400, 400, 160001)
    gauss = np.exp(-((fine - s[30]) ** 2) / (2 * tof.sigma**2)) * (np.abs(fine - s[30]) < 3 * tof.sigma)
    expected = np.histogram(fine, tof.edges, weights=gauss / gauss.sum())[0]
    np.testing.assert_allclose(weights[30], expected, atol=2e-4)
    u = np.linspace(-1, 1, 1001)
    polynomial = 0.5 + u * np.polynomial.polynomial.polyval(u**2, tof.polynomial)
    np.testing.assert_allclose(polynomial, tof.cumulated(u * tof.half_width), atol=2e-7)
    assert tof.polynomial.sum() == pytest.approx(0.5, abs=1e-15)


def test_tof_bins_are_joined():
    assert TimeOfFlight(33, 2.0, 5.0).mashed(3) == TimeOfFlight(11, 6.0, 5.0)
    with pytest.raises(ValueError, match="cannot be joined"):
        TimeOfFlight(29, 2.0, 5.0).mashed(2)
    for arguments in ((0, 1, 1), (3, -1, 1), (3, 1, np.nan)):
        with pytest.raises(ValueError):
            TimeOfFlight(*arguments)


def test_events_of_any_integer_type_and_no_others():
    sinogram = PETSinogram(SCANNER, tof=TOF)
    events = events_of_every_bin(sinogram)
    for kind in (np.uint8, np.int16, np.uint64):
        np.testing.assert_array_equal(sinogram.bins_of(events.astype(kind)), sinogram.bins_of(events))
    with pytest.raises(ValueError, match="integers"):
        sinogram.bins_of(events.astype(float))
    with pytest.raises(ValueError, match="must not repeat"):
        PETSinogram(SCANNER, views=[0, 0, 3])
    with pytest.raises(ValueError, match="bin_size must be positive"):
        PETScanner(SCANNER.crystals, bin_size=-1)
    with pytest.raises(ValueError, match="positive integer"):
        TimeOfFlight(float("inf"), 1.0, 1.0)
    assert PETSinogram(SCANNER, span=3.0).span == 3


ROTATIONS = {
    "feet first": np.diag([-1, 1, -1]),
    "prone": np.diag([-1, -1, 1]),
    "feet first and prone": np.diag([1, -1, -1]),
}


@pytest.mark.parametrize("way", ROTATIONS)
@pytest.mark.parametrize("span", [1, 3, (3, 2)])
def test_a_rotated_scanner_sees_the_rotated_image(way, span):
    """Signs that rotate the scanner rotate the image: the counts of every bin stay, with time of flight, too."""
    scanner = PETScanner.polygon(
        sides=6, crystals_per_side=4, radius=90, rings=5, ring_pitch=6, phase=7, time_of_flight=TimeOfFlight(5, 40, 60)
    )
    grid = ImageGrid((9, 8, 7), (7.0, 8.0, 4.0))
    image = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    signs = np.diag(ROTATIONS[way])
    rotated = image[tuple(slice(None, None, sign) for sign in signs)]
    for tof in (None, True):
        expected = PETProjector(grid, PETSinogram(scanner, span=span, tof=tof))(image)
        sinogram = PETSinogram(scanner.rotated(ROTATIONS[way]), span=span, tof=tof)
        np.testing.assert_allclose(PETProjector(grid, sinogram)(rotated), expected, rtol=2e-4, atol=1e-3)
    assert scanner.rotated(ROTATIONS[way]).is_same_as(scanner)
    assert not PETScanner(scanner.crystals * 1.01).is_same_as(scanner)


@pytest.mark.parametrize("lines", [None, EquallySpacedLines(24, 4.0)], ids=["crystals", "arc corrected"])
@pytest.mark.parametrize("way", ROTATIONS)
def test_filtered_back_projection_of_a_rotated_scanner(way, lines):
    scanner = PETScanner.polygon(sides=48, crystals_per_side=1, radius=90, rings=3, ring_pitch=6, phase=5)
    grid = ImageGrid((25, 25, 3), (4.0, 4.0, 6.0))
    x, y, z = grid.coordinates()
    image = (np.hypot(x - 20, y + 12) < 14) * (1.0 + 0.2 * z)
    found = []
    for rotation in (np.eye(3), ROTATIONS[way]):
        sinogram = PETSinogram(scanner.rotated(rotation), max_ring_difference=0, lines=lines)
        flips = tuple(slice(None, None, int(sign)) for sign in np.diag(rotation))
        corrected = ArcCorrection(sinogram, 4.0)
        beams = corrected(PETProjector(grid, sinogram)(image[flips].astype(np.float32)))
        found.append(fbp(beams, corrected.geometry, grid)[flips])
    np.testing.assert_allclose(found[1], found[0], atol=2e-3 * found[0].max())


@pytest.mark.parametrize(
    "rotation", [np.eye(2), np.diag([-1, 1, 1]), np.diag([2, 1, 1]), [[1, 0, 0], [0, 0, -1], [0, 1, 0]]]
)
def test_only_rotations_that_keep_the_axis(rotation):
    with pytest.raises(ValueError, match="rotation"):
        SCANNER.rotated(rotation)


@pytest.mark.parametrize("span", [(2, 2), (), (3, 0), (3, 1.5), 2])
def test_spans_that_do_not_exist(span):
    with pytest.raises(ValueError, match="span must be an odd positive integer"):
        PETSinogram(SCANNER, span=span)


def test_spans_of_segments():
    n = 6
    scanner = PETScanner.polygon(sides=8, crystals_per_side=1, radius=90, rings=n, ring_pitch=6)
    whole = PETSinogram(scanner, span=(3, 2, 1))
    assert whole.differences(-2) == (-4, -4)
    assert sum(len(pairs) for pairs in whole.ring_pairs) == n * n
    assert PETSinogram(scanner, span=(3, 3)).span == 3
    assert whole.rebinned().n_planes == 2 * n - 1
