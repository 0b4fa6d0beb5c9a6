"""Simulated PET: expectations by hand, scatter, randoms, TOF, normalisation, frames, gates and list-mode events."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from emrecon.projectors import (
    DeadTime,
    Frames,
    GaussianBlur,
    ImageGrid,
    Normalisation,
    PETProjector,
    PETScanner,
    PETSinogram,
    Scan,
    ScatterSampling,
    SPECTGeometry,
    TimeOfFlight,
    attenuation_factors,
    isotope,
    pair_products,
    single_scatter,
)
from emrecon.sims import (
    ConvolutionScatter,
    Cylinder,
    Ellipsoid,
    Mismatch,
    PETSimulator,
    Phantom,
    Randoms,
    Region,
    SingleScatter,
    count_levels,
    item_seed,
    list_events,
    random_normalisation,
)

ABOUT = {"sides": 12, "crystals_per_side": 4, "radius": 150.0, "ring_pitch": 12.0, "energy_resolution": 0.12}
RING = PETScanner.polygon(rings=1, **ABOUT)
RINGS = PETScanner.polygon(rings=4, **ABOUT)
GAPS = PETScanner.polygon(rings=4, ring_block=2, virtual_rings=1, virtual_crystals=1, **ABOUT)
TIMES = TimeOfFlight(7, 40.0, 60.0)
FLAT, VOLUME = ImageGrid((20, 20, 1), 8.0), ImageGrid((18, 18, 5), (10.0, 10.0, 8.0))
SINOGRAMS = {
    "2-D": (FLAT, PETSinogram(RING, n_radial=33)),
    "2-D TOF": (FLAT, PETSinogram(RING, n_radial=33, tof=TIMES)),
    "3-D": (VOLUME, PETSinogram(RINGS, n_radial=33)),
    "3-D TOF": (VOLUME, PETSinogram(RINGS, n_radial=33, tof=TIMES)),
    "gaps, span, mashing": (VOLUME, PETSinogram(GAPS, n_radial=33, span=3, mashing=2)),
}
NONE = Mismatch.none()
BODY = Phantom(
    (
        Region("body", Cylinder((0, 0, 0), (65.0, 50.0), 60.0), 5.0, "water"),
        Region("hot", Cylinder((20, 10, 0), 15.0, 60.0), 25.0),
    )
)
AIR = Phantom((Region("source", Cylinder((0, 0, 0), 18.0, 60.0), 10.0),))
PHANTOMS = [Phantom((Region("body", Cylinder((3.0 * i, 0, 0), 40.0 + i, 60.0), 1.0 + i, "water"),)) for i in range(4)]


def pet(case="2-D", **more):
    return PETSimulator(*SINOGRAMS[case], **{"mismatch": NONE, **more})


def bare(case="2-D", **more):
    """Without scatter and randoms."""
    return pet(case, scatter=None, randoms=None, **more)


def close(found, expected, tolerance=3e-6):
    return np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def same(first, second):
    return all(np.array_equal(getattr(first, n), getattr(second, n)) for n in ("total", "factors", "truth", "mu"))


def is_noise(counts, expected):
    """Whether squared differences add up to the expected counts, as those of Poisson counts m do: 2 m^2 + m each."""
    m = np.asarray(expected, float)
    return abs(((counts - m) ** 2).sum() - m.sum()) < 5 * math.sqrt((2 * m**2 + m).sum())


def total(values):
    return np.asarray(values).sum(dtype=float)


# ---- what is expected -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SINOGRAMS)
def test_without_mismatch_the_given_model_is_the_expectation(case):
    scanner = SINOGRAMS[case][1].scanner
    simulator = pet(case, normalisation=random_normalisation(scanner, 1), dead_time=DeadTime(1e-4), duration=600.0)
    simulated = simulator(BODY, seed=0)
    expected = simulated.expectation
    assert expected.total.shape == SINOGRAMS[case][1].shape == simulated.scan.counts.shape
    assert close(simulated.model()(simulated.truth), expected.total)
    assert is_noise(simulated.scan.counts, expected.total)
    assert simulated.scan.duration == 600
    assert simulated.scan.radionuclide == "F-18"


@pytest.mark.parametrize("case", ["2-D", "2-D TOF", "3-D"])
def test_trues_by_hand(case):
    """c multiplicity exp(-B mu) A(K x) T decay, piece by piece."""
    grid, sinogram = SINOGRAMS[case]
    expected = bare(case, radionuclide="C-11", duration=300.0).expect(BODY)
    k = math.log(2) / isotope("C-11").half_life
    seconds = -math.expm1(-k * 300) / k
    lines = PETProjector(grid, sinogram)(GaussianBlur(grid, 4.8)(BODY.activity(grid)))
    mu = BODY.attenuation(grid, 511.0)
    survival = np.exp(-PETProjector(grid, sinogram.without_tof())(mu) / 10)
    survival = survival[:, :, None] if sinogram.tof else survival
    unit = expected.trues.sum(dtype=float) / (survival * lines).sum(dtype=float) / seconds
    assert close(expected.trues, np.float32(unit * seconds) * survival * lines)
    assert unit == pytest.approx(bare(case).calibration, rel=1e-5)
    assert np.array_equal(expected.mu, mu)


@pytest.mark.parametrize("case", SINOGRAMS)
def test_sensitivity_is_that_of_a_ball_in_the_middle(case):
    """A ball of 20 mm in air gives sensitivity x activity x time x decay."""
    grid, _ = SINOGRAMS[case]
    ball = Phantom((Region("ball", Ellipsoid((0, 0, 0), 20.0), 30.0),))
    expected = bare(case, sensitivity=9.0, duration=1000.0, resolution=0.0).expect(ball)
    activity = total(expected.truth) * grid.voxel_volume
    assert total(expected.trues) == pytest.approx(9 * activity * 1000 * isotope("F-18").mean_decay(1000), rel=1e-4)


def test_finer_simulations_and_tof_keep_the_total():
    wide = Phantom((Region("source", Cylinder((0, 0, 0), 60.0, 60.0), 10.0),))
    coarse, fine = (bare(mismatch=Mismatch(n, 1, (0, 0, 0), 1)).expect(wide) for n in (1, 3))
    assert total(coarse.trues) == pytest.approx(total(fine.trues), rel=0.01)
    timed = bare("2-D TOF").expect(BODY).trues.sum(2)
    assert close(timed, bare().expect(BODY).trues, 1e-3)


def test_finer_simulations_converge():
    views = [bare(mismatch=Mismatch(n, 1, (0, 0, 0), 1)).expect(BODY).trues for n in (1, 2, 6)]
    errors = [np.abs(v - views[-1]).mean() / views[-1].mean() for v in views[:-1]]
    assert errors[0] > 1.5 * errors[1]
    assert errors[1] < 0.02


def test_dead_time_of_the_scanner():
    counter = DeadTime(2e-5, paralysable=False)
    ideal, real = (pet(dead_time=d).expect(BODY) for d in (None, counter))
    live = 1 / (1 + total(ideal.total) / 180 * 2e-5)
    assert live < 0.97
    for name in ("trues", "scatter", "randoms", "factors"):
        assert close(getattr(real, name), np.float32(live) * getattr(ideal, name))
    empty = pet(dead_time=counter).expect(Phantom((Region("water", Cylinder((0, 0, 0), 50.0, 60.0), 0.0, "water"),)))
    assert not empty.total.any()
    assert empty.factors.max() > 0


# ---- scatter and randoms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["2-D", "2-D TOF", "3-D", "gaps, span, mashing"])
@pytest.mark.parametrize("singles", ["uniform", "object"])
def test_fractions_come_out_as_asked(case, singles):
    """PETSTEP's scatter and randoms fractions, of every item of a batch."""
    simulator = pet(case, scatter=ConvolutionScatter(0.289), randoms=Randoms(0.15, singles), dead_time=DeadTime(1e-5))
    batch = simulator.expect(PHANTOMS[:3])
    S, R = batch.fractions
    assert pytest.approx([0.289] * 3, rel=1e-5) == S
    assert pytest.approx([0.15] * 3, rel=1e-5) == R
    S, R = batch.with_counts([1e4, 1e5, 1e6]).with_fractions([0.1, 0.3, 0.5], 0.3).fractions
    assert pytest.approx([0.1, 0.3, 0.5], rel=1e-5) == S
    assert pytest.approx([0.3] * 3, rel=1e-5) == R
    counts = batch.with_counts(3e5)
    assert counts.total.sum(tuple(range(1, counts.total.ndim))) == pytest.approx([3e5] * 3, rel=1e-5)


def test_scatter_by_convolution():
    """The projection of a very blurred image, without attenuation."""
    grid, sinogram = SINOGRAMS["3-D"]
    normalisation = random_normalisation(RINGS, 3)
    expected = pet("3-D", normalisation=normalisation, scatter=ConvolutionScatter(0.3, fwhm=150.0)).expect(BODY)
    pattern = normalisation.factors(sinogram) * PETProjector(grid, sinogram)(GaussianBlur(grid, 150.0)(expected.truth))
    assert close(expected.scatter / total(expected.scatter), pattern / total(pattern))


@pytest.mark.parametrize("case", ["3-D", "3-D TOF"])
def test_single_scatter(case):
    """In the unit of the trues, by itself, or scaled to a fraction."""
    grid, sinogram = SINOGRAMS[case]
    sampling = ScatterSampling(spacing=30.0)
    own = pet(case, scatter=SingleScatter(sampling=sampling), resolution=0.0).expect(BODY)
    simulated = single_scatter(own.truth, own.mu, grid, sinogram, sampling=sampling)
    survival = attenuation_factors(PETProjector(grid, sinogram.without_tof()), own.mu)
    lines = (survival[:, :, None] if sinogram.tof else survival) * PETProjector(grid, sinogram)(own.truth)
    assert total(own.scatter) / total(own.trues) == pytest.approx(total(simulated) / total(lines), rel=1e-5)
    assert close(own.scatter / total(own.trues), simulated / total(lines), 1e-5)
    scaled = pet(case, scatter=SingleScatter(0.4, sampling=sampling), resolution=0.0).expect(BODY)
    assert scaled.fractions[0] == pytest.approx(0.4, rel=1e-5)
    assert close(scaled.scatter / total(scaled.scatter), own.scatter / total(own.scatter))
    assert pet(case, scatter=SingleScatter()).energy_window == (430.0, 610.0)


def test_uniform_randoms():
    _grid, sinogram = SINOGRAMS["gaps, span, mashing"]
    expected = pet("gaps, span, mashing").expect(BODY)
    assert close(expected.randoms / total(expected.randoms), sinogram.multiplicity() / total(sinogram.multiplicity()))
    timed = pet("2-D TOF").expect(BODY).randoms
    assert np.ptp(timed) < 1e-6 * timed.max()
    assert timed.shape[2] == TIMES.n_bins


def test_rates_of_crystals_where_planes_join_ring_pairs():
    """A bin of several pairs of rings counts once in all: a uniform prompt of every pair gives every ring its share."""
    sinogram = PETSinogram(RINGS, span=3)
    simulator = PETSimulator(ImageGrid((24, 24, 5), (9.0, 9.0, 6.0)), sinogram)
    pairs = sinogram.multiplicity().astype(float) * np.ones(sinogram.shape)
    found = simulator._singles(pairs)
    n_partners = np.zeros(RINGS.n_rings)
    for joined in sinogram.ring_pairs:
        np.add.at(n_partners, joined.ravel(), 1)
    np.testing.assert_allclose(found.mean(1) / found.mean(), n_partners / n_partners.mean(), rtol=1e-6)


@pytest.mark.parametrize("case", ["2-D TOF", "3-D"])
def test_randoms_of_an_object(case):
    """Products of the rates of crystals, which are counted here pair by pair."""
    _, sinogram = SINOGRAMS[case]
    expected = pet(case, randoms=Randoms(0.2, "object")).expect(Phantom((*BODY.regions, *PHANTOMS[3].regions)))
    prompts = expected.trues + expected.scatter
    prompts = prompts.sum(2) if sinogram.tof else prompts
    rates = np.zeros(sinogram.scanner.virtual.shape)
    for (v, k, p), n in np.ndenumerate(prompts):
        for (first, second), side in zip([sinogram.crystal_pairs[v, 0, k]] * 2, (0, 1)):
            rates[sinogram.ring_pairs[p][0][side], (first, second)[side]] += n
    pattern = pair_products(sinogram, rates / rates.mean())
    found = expected.randoms.sum(2) if sinogram.tof else expected.randoms
    assert close(found / total(found), pattern / total(pattern), 1e-5)
    assert found.max() > 1.2 * found.min()


def test_gaps_see_no_randoms_of_an_object():
    """Crystals alike around a centred source have singles alike, whatever gaps share their bins."""
    _, sinogram = SINOGRAMS["gaps, span, mashing"]
    expected = pet("gaps, span, mashing", randoms=Randoms(0.2, "object")).expect(AIR)
    assert not expected.randoms[sinogram.multiplicity() == 0].any()
    per_pair = expected.randoms[sinogram.multiplicity() > 0] / sinogram.multiplicity()[sinogram.multiplicity() > 0]
    assert per_pair.std() < 0.35 * per_pair.mean()


# ---- normalisation --------------------------------------------------------------------------------------------------


def test_random_efficiencies():
    scanner = PETScanner.named("mmr")
    crystal = random_normalisation(scanner, 4, 0.2).crystal
    assert crystal.min() > 0
    assert crystal.mean() == pytest.approx(1, abs=5 * 0.2 / math.sqrt(crystal.size))
    assert crystal.std() == pytest.approx(0.2, rel=0.02)
    assert np.array_equal(crystal, random_normalisation(scanner, 4, 0.2).crystal)
    assert np.corrcoef(crystal.ravel(), random_normalisation(scanner, 5, 0.2).crystal.ravel())[0, 1] < 0.03
    assert (random_normalisation(RING, 0, 0.0).crystal == 1).all()
    axial = Normalisation(RINGS, 2 * np.ones(RINGS.virtual.shape), axial=np.full((4, 4), 0.5))
    like = random_normalisation(RINGS, 1, 0.05, like=axial)
    assert np.array_equal(like.axial, axial.axial)
    assert like.crystal == pytest.approx(2 * random_normalisation(RINGS, 1, 0.05).crystal)


def test_the_normalisation_that_is_given():
    sinogram = SINOGRAMS["2-D"][1]
    true = random_normalisation(RING, 1)
    wrong = random_normalisation(RING, 2, 0.05, like=true)
    exact, erring = (
        pet(normalisation=true).expect(BODY),
        pet(normalisation=true, given_normalisation=wrong).expect(BODY),
    )
    assert np.array_equal(exact.total, erring.total)
    assert close(erring.factors, exact.factors * wrong.factors(sinogram) / true.factors(sinogram))
    assert close(exact.trues, pet().expect(BODY).trues * true.factors(sinogram))


# ---- mismatch -------------------------------------------------------------------------------------------------------


def test_the_map_that_is_given():
    mismatch = Mismatch(1, attenuation=0.9, shift=(6.0, 0.0, 0.0), response=1.0)
    given, true = pet(mismatch=mismatch).expect(BODY), pet().expect(BODY)
    assert close(given.trues, true.trues)
    assert total(given.mu) == pytest.approx(0.9 * total(true.mu), rel=1e-3)
    x = FLAT.coordinates()[0]
    assert (x * given.mu).sum() / given.mu.sum() == pytest.approx(6.0, abs=0.02)
    lines = PETProjector(*SINOGRAMS["2-D"])
    change = np.exp((lines(true.mu) - lines(given.mu)) / 10)
    assert close(given.factors, true.factors * change)


def test_the_resolution_is_wider_than_believed():
    point = Phantom((Region("point", Cylinder((0, 0, 0), 3.0, 60.0), 100.0),))
    radial = SINOGRAMS["2-D"][1].radial * RING.radial_spacing
    variances = []
    for ratio in (1.0, 1.5):
        simulator = bare(resolution=20.0, mismatch=Mismatch(4, 1, (0, 0, 0), ratio))
        profile = simulator.expect(point).trues.sum((0, 2), dtype=float)
        variances.append((profile * radial**2).sum() / profile.sum())
    assert variances[1] - variances[0] == pytest.approx((1.5**2 - 1) * (20 / 2.3548) ** 2, rel=0.05)


def test_the_background_that_is_given():
    expected = pet(mismatch=Mismatch(1, 1, (0, 0, 0), 1, background=1.2)).expect(BODY)
    assert close(expected.background, np.float32(1.2) * (expected.scatter + expected.randoms))


# ---- batches, seeds, levels, frames and gates -----------------------------------------------------------------------


@pytest.mark.parametrize("case", ["2-D", "2-D TOF", "3-D"])
def test_a_batch_is_its_items(case):
    simulator = pet(case, randoms=Randoms(0.1, "object"), dead_time=DeadTime(1e-5), mismatch=Mismatch())
    batch = simulator.expect(PHANTOMS)
    assert all(same(batch[i], simulator.expect(p)) for i, p in enumerate(PHANTOMS))
    assert same(batch[1:3], simulator.expect(PHANTOMS[1:3]))
    counts = batch.measure(5)
    assert all(np.array_equal(counts[i], batch[i].measure(item_seed(5, i))) for i in range(4))


def test_pickled_simulators_simulate_the_same():
    simulator = pet(normalisation=random_normalisation(RING, 0))
    expected = simulator.expect(BODY)
    again = pickle.loads(pickle.dumps(simulator))
    assert same(again.expect(BODY), expected)
    assert not pickle.loads(pickle.dumps(simulator))._kept
    assert replace(simulator, normalisation=None).expect(BODY).total.sum() != expected.total.sum()


def test_levels_of_a_sinogram():
    simulated = pet("2-D TOF")(BODY, seed=1)
    half, tenth = count_levels(simulated.scan, (0.5, 0.1), 2)
    assert (tenth.counts <= half.counts).all()
    assert (half.counts <= simulated.scan.counts).all()
    assert total(tenth.counts) == pytest.approx(0.1 * total(simulated.scan.counts), rel=0.05)
    assert half.duration == 90
    assert close(half.background, 0.5 * simulated.scan.background)


def test_frames_decay_and_fit_their_model():
    simulator = pet(radionuclide="C-11", mismatch=NONE)
    frames = Frames.from_durations([60.0, 300.0, 1200.0])
    scan, truth = simulator.frames([BODY] * 3, frames, seed=2, counts=2e6)
    expected = scan.model(simulator.projector(truth[0]))(truth)
    k = math.log(2) / isotope("C-11").half_life
    weights = (np.exp(-k * frames.starts) - np.exp(-k * frames.ends)) / k
    assert expected.sum((1, 2, 3)) == pytest.approx(2e6 * weights / weights.sum(), rel=1e-4)
    assert is_noise(scan.counts, expected)


def test_gates_without_motion_add_up_to_the_static_scan():
    simulator = pet("2-D TOF", radionuclide="N-13", duration=600.0)
    scan, truth = simulator.gates([BODY] * 2, [360.0, 240.0], seed=2)
    model = scan.model(simulator.projector(truth[0]))(truth)
    assert close(model.sum(0), simulator.expect(BODY).total)
    assert total(model[0]) == pytest.approx(1.5 * total(model[1]), rel=1e-5)


# ---- list mode ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SINOGRAMS)
def test_events_are_the_counts(case):
    sinogram = SINOGRAMS[case][1]
    scan = pet(case)(BODY, seed=3, counts=4e4).scan
    events, times = list_events(scan, seed=1)
    assert events.shape == (int(scan.counts.sum()), 3 if sinogram.tof else 2)
    assert len(times) == len(events)
    assert np.array_equal(sinogram.histogram(events), scan.counts)
    assert not sinogram.scanner.virtual.ravel()[events[:, :2]].any()
    again = list_events(scan, seed=1)
    assert np.array_equal(again[0], events)
    assert np.array_equal(again[1], times)


def test_pairs_of_a_bin_are_drawn_alike():
    sinogram = PETSinogram(RINGS, n_radial=33, span=3, mashing=2)
    counts = np.zeros(sinogram.shape, np.float32)
    where = np.unravel_index(sinogram.multiplicity().argmax(), sinogram.shape)
    counts[where] = 40_000
    events, _ = list_events(Scan(counts, sinogram, duration=1.0), 0)
    drawn = np.unique(events, axis=0, return_counts=True)[1]
    n = int(sinogram.multiplicity()[where])
    assert len(drawn) == n > 2
    assert drawn == pytest.approx(np.full(n, 40_000 / n), abs=5 * math.sqrt(40_000 / n))


@pytest.mark.parametrize("nuclide", ["O-15", None])
def test_times_of_events(nuclide):
    """exp(-lambda t) between 0 and the duration, in order, and not in the order of bins."""
    sinogram = SINOGRAMS["2-D"][1]
    scan = Scan(np.full(sinogram.shape, 60, np.float32), sinogram, duration=300.0, radionuclide=nuclide)
    events, times = list_events(scan, 4)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] <= 300
    k = math.log(2) / isotope("O-15").half_life if nuclide else 1e-9
    expected = np.expm1(-k * times) / np.expm1(-k * 300)
    n = len(times)
    assert np.abs(expected - (np.arange(n) + 0.5) / n).max() < 1.95 / math.sqrt(n)  # Kolmogorov, p = 0.001
    halves = np.array_split(sinogram.bins_of(events)[:, 0], 2)
    assert halves[0].mean() == pytest.approx(halves[1].mean(), abs=0.3)


# ---- what is refused ------------------------------------------------------------------------------------------------

CASE = SINOGRAMS["2-D"][1]
COUNTS = np.zeros(CASE.shape, np.float32)
WIDE = Phantom((Region("body", Cylinder((0, 0, 0), 180.0, 60.0), 5.0, "water"),))


def in_gap():
    sinogram = PETSinogram(GAPS, n_radial=33)
    return Scan((sinogram.multiplicity() == 0).astype(np.float32), sinogram, duration=1.0)


def camera_scan():
    camera = SPECTGeometry.circular(n_views=2, radius=100, n_bins=(4, 1), pixel_size=5.0)
    return Scan(np.zeros(camera.shape, np.float32), camera, duration=1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvolutionScatter(1.0), "fraction must be from 0 to less than 1"),
        (lambda: ConvolutionScatter(0.2, fwhm=0), "fwhm must be positive"),
        (lambda: SingleScatter(-0.1), "fraction must be from 0 to less than 1"),
        (lambda: Randoms(math.nan), "fraction must be from 0 to less than 1"),
        (lambda: Randoms(0.1, "some"), 'singles must be "uniform" or "object"'),
        (lambda: pet(sensitivity=-1), "sensitivity must be positive"),
        (lambda: pet(duration=math.inf), "duration must be positive"),
        (lambda: pet(resolution=-1), "resolution must be mm"),
        (lambda: pet(scatter=SingleScatter()), "use ConvolutionScatter in two dimensions"),
        (lambda: pet(radionuclide="Xx-1"), "Xx-1"),
        (lambda: pet(normalisation=random_normalisation(RINGS, 0)), "normalisation belongs to another scanner"),
        (lambda: pet(given_normalisation=random_normalisation(RINGS, 0)), "given_normalisation belongs to another"),
        (
            lambda: PETSimulator(replace(FLAT, origin=(900.0, 0, 0)), CASE).calibration,
            "does not see the middle of the grid",
        ),
        (lambda: bare().expect(BODY).with_fractions(scatter=0.1), "has no scatter to scale"),
        (lambda: pet().expect(BODY).with_fractions(scatter=-0.1), "fraction of scatter must be from 0"),
        (lambda: PETSimulator(ImageGrid((60, 60, 1), 8.0), CASE).expect(WIDE), "but the crystals are at 150 mm"),
        (lambda: random_normalisation(RING, 0, -0.1), "relative standard deviation"),
        (lambda: random_normalisation(RING, -1), "non-negative integer"),
        (lambda: list_events(camera_scan(), 0), "needs a PET scan, got one of SPECTGeometry"),
        (lambda: list_events(Scan(COUNTS, CASE), 0), "has no duration"),
        (lambda: list_events(Scan(COUNTS + 0.5, CASE, duration=1.0), 0), "integer counts"),
        (lambda: list_events(Scan(COUNTS[None], CASE, duration=1.0), 0), "one scan at a time"),
        (lambda: list_events(in_gap(), 0), "virtual crystals only"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_empty_scan_has_no_events():
    events, times = list_events(Scan(COUNTS, CASE, duration=1.0), 0)
    assert events.shape == (0, 2)
    assert times.shape == (0,)
