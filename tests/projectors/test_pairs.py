"""Normalisation and randoms: products over crystal pairs against plain loops, and estimates against what was drawn."""

import numpy as np
import pytest
from pet_cases import OF_CRYSTALS, SCANNER, SINOGRAMS, events_of_every_bin

from emrecon.projectors import Normalisation, PETScanner, PETSinogram, crystal_rates, events_product, pair_products

RNG = np.random.default_rng(0)
CRYSTALS = RNG.uniform(0.5, 1.5, SCANNER.virtual.shape)


def full():
    """A normalisation of `SCANNER` with every component."""
    rings = SCANNER.n_rings
    return Normalisation(
        SCANNER,
        crystal=CRYSTALS,
        geometric=RNG.uniform(0.5, 1.5, (2 * rings - 1, 23)),
        interference=RNG.uniform(0.5, 1.5, (23, 4)),
        axial=RNG.uniform(0.5, 1.5, (rings, rings)),
        dead_time=np.tile([-1e-3, 1e-7], (rings, 1)),
    )


@pytest.mark.parametrize("case", [case for case in OF_CRYSTALS if "flat" not in case])
def test_products_are_sums_over_the_pairs_of_a_bin(case):
    sinogram = SINOGRAMS[case][1]
    weight = RNG.uniform(size=(3, 3))
    values = np.where(SCANNER.virtual, 0, CRYSTALS)
    found = pair_products(sinogram, CRYSTALS, weight)
    expected = np.zeros((sinogram.n_views, sinogram.n_radial, sinogram.n_planes))
    for v, m, k in np.ndindex(sinogram.crystal_pairs.shape[:3]):
        i, j = sinogram.crystal_pairs[v, m, k]
        for p, pairs in enumerate(sinogram.ring_pairs):
            expected[v, k, p] += sum(weight[r, s] * values[r, i] * values[s, j] for r, s in pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(pair_products(sinogram, np.ones_like(CRYSTALS)), sinogram.multiplicity())


def test_factors_of_bins_and_of_events_agree():
    normalisation, sinogram = full(), PETSinogram(SCANNER)
    events = events_of_every_bin(sinogram)
    singles = np.full(SCANNER.virtual.shape, 100.0)
    for rates in (None, singles):
        bins, listed = normalisation.factors(sinogram, rates), normalisation.of_events(sinogram, events, rates)
        np.testing.assert_allclose(listed, bins.ravel(), rtol=1e-5)
        turned = normalisation.of_events(sinogram, events[:, ::-1], rates)
        np.testing.assert_allclose(turned, listed)
    assert (bins == 0).sum() == (sinogram.multiplicity() == 0).sum()
    live = normalisation.factors(sinogram, singles).sum() / normalisation.factors(sinogram).sum()
    assert live == pytest.approx((1 - 0.1 + 1e-3) ** 2, rel=1e-5)
    part = sinogram.subset(1, 3)
    np.testing.assert_allclose(normalisation.factors(part), normalisation.factors(sinogram)[1::3])
    trimmed = PETSinogram(SCANNER, n_radial=11)
    np.testing.assert_allclose(normalisation.factors(trimmed), normalisation.factors(sinogram)[:, 6:17])
    span = PETSinogram(SCANNER, span=3)
    plane = int(np.argmax([len(pairs) for pairs in span.ring_pairs]))
    fine = normalisation.factors(sinogram)
    first, second = span.ring_pairs[plane].T
    expected = fine[..., sinogram.michelogram[first, second]].sum(-1)
    np.testing.assert_allclose(normalisation.factors(span)[..., plane], expected, rtol=1e-5)
    assert len(first) > 1


def test_impossible_components_are_refused():
    for name, shape in (("crystal", (3, 5)), ("geometric", (4, 23)), ("axial", (2, 2)), ("dead_time", (3, 1))):
        with pytest.raises(ValueError, match=name):
            Normalisation(SCANNER, **{name: np.ones(shape)})
    with pytest.raises(ValueError, match="not negative"):
        Normalisation(SCANNER, crystal=-CRYSTALS)
    with pytest.raises(ValueError, match="cannot be divided into blocks"):
        Normalisation(SCANNER, interference=np.ones((23, 5)))
    with pytest.raises(ValueError, match="mashing"):
        full().factors(PETSinogram(SCANNER, mashing=2))
    with pytest.raises(ValueError, match="no dead_time"):
        Normalisation(SCANNER).factors(PETSinogram(SCANNER), singles=CRYSTALS)
    with pytest.raises(ValueError, match="radial bins"):
        Normalisation(SCANNER, geometric=np.ones((5, 9))).factors(PETSinogram(SCANNER))
    with pytest.raises(ValueError, match="not negative"):
        pair_products(PETSinogram(SCANNER), -CRYSTALS)


def delays_of(sinogram, rates, seed=0):
    """Delayed events drawn from the products of rates."""
    expected = pair_products(sinogram, rates)
    counts = np.random.default_rng(seed).poisson(expected).ravel()
    return np.repeat(events_of_every_bin(sinogram), counts, axis=0)


def test_rates_are_recovered_from_delays():
    scanner = PETScanner.polygon(sides=6, crystals_per_side=6, virtual_crystals=1, radius=60, rings=4, ring_pitch=5)
    sinogram = PETSinogram(scanner, n_radial=21, max_ring_difference=2)
    rates = np.where(scanner.virtual, 0, np.random.default_rng(1).uniform(2, 6, scanner.virtual.shape))
    delays = delays_of(sinogram, rates)
    found = crystal_rates(sinogram, delays)
    real = ~scanner.virtual
    assert np.std(found[real] / rates[real] - 1) < 0.06
    assert pair_products(sinogram, found).sum() == pytest.approx(len(delays), rel=1e-5)
    assert not found[scanner.virtual].any()
    # the noise of single bins is gone
    smooth, truth = pair_products(sinogram, found), pair_products(sinogram, rates)
    raw = sinogram.histogram(delays)
    assert np.linalg.norm(smooth - truth) < 0.3 * np.linalg.norm(raw - truth)
    np.testing.assert_allclose(events_product(delays, found), smooth.ravel()[_flat(sinogram, delays)], rtol=1e-5)


def test_groups_and_known_efficiencies_need_fewer_counts():
    sinogram = PETSinogram(SCANNER)
    blocks = np.arange(24)[None] // 4 + 6 * np.arange(3)[:, None]
    rates = CRYSTALS * np.random.default_rng(2).uniform(0.5, 1, 18)[blocks] * ~SCANNER.virtual
    delays = delays_of(sinogram, rates)
    free = crystal_rates(sinogram, delays)
    bound = crystal_rates(sinogram, delays, CRYSTALS, blocks)
    real = ~SCANNER.virtual
    assert np.std(bound[real] / rates[real]) < 0.75 * np.std(free[real] / rates[real])


def test_no_delays_is_an_error():
    with pytest.raises(ValueError, match="no delayed"):
        crystal_rates(PETSinogram(SCANNER), np.zeros((0, 2), int))
    with pytest.raises(ValueError, match=r"groups must hold one number per crystal .*, got 3"):
        crystal_rates(PETSinogram(SCANNER), events_of_every_bin(PETSinogram(SCANNER)), groups=np.zeros(3))


def _flat(sinogram, events):
    return np.ravel_multi_index(tuple(sinogram.bins_of(events).T), sinogram.shape)


def test_delays_of_gaps_and_narrow_tables():
    sinogram = PETSinogram(SCANNER)
    with pytest.raises(ValueError, match="no delayed"):
        crystal_rates(sinogram, np.array([[0, 32], [4, 13]]))
    narrow = Normalisation(SCANNER, geometric=np.ones((5, 9)))
    with pytest.raises(ValueError, match="radial bins"):
        narrow.of_events(sinogram, np.array([[1, 14]]))
