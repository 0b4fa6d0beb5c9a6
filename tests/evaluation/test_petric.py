"""PETRIC's replicas: thresholds that must hold, what is counted, the bootstrap, and the reference solution."""

import itertools
import json

import numpy as np
import pytest

from emrecon import recon
from emrecon.evaluation import Options, Results, Table
from emrecon.evaluation.standards import petric
from emrecon.evaluation.standards.petric_race import ENGINES, ByMajorisation, Engine, race, solve
from emrecon.evaluation.standards.petric_scans import (
    bootstrap_events,
    load_replica,
    replica,
    replica_names,
    save_replica,
)
from emrecon.projectors.core.errors import FormatError


@pytest.fixture(scope="module")
def scan():
    return replica("nema-mmr", "quick")


@pytest.fixture(scope="module")
def solution(scan):
    return solve(scan, 30, 60)


def test_the_scan_is_one_of_petrics_kind(scan):
    whole, background, named = scan.regions
    assert len(named) == 6
    assert not (background & ~whole).any()
    kappa = recon.spatial_weights(scan.likelihood, scan.start)
    np.testing.assert_allclose(scan.prior.prior.kappa, kappa, rtol=1e-5)
    assert scan.prior.prior.epsilon == pytest.approx(1e-3 * scan.start.max())
    assert 0.3 < scan.facts["background's share of the counts"] < 0.7
    assert scan.likelihood.data.sum() == pytest.approx(scan.facts["counts"])
    for name in ("nema", "NEMA-MMR"):
        with pytest.raises(ValueError, match="unknown PETRIC replica"):
            replica(name)
    with pytest.raises(ValueError, match="size"):
        replica("nema-mmr", "tiny")
    assert len(replica_names()) == 6


def test_the_reference_satisfies_the_conditions_of_an_optimum(scan, solution):
    assert max(solution.residual) < 1e-5
    assert solution.change < 0.5
    values = [scan.objective.value(x) for x in (solution.image, recon.run(recon.lbfgsb(*_problem(scan)), 40))]
    assert values[0] < values[1]


def _problem(scan):
    return scan.likelihood, scan.prior, scan.start


def images(scan, solution, offsets):
    """An engine that yields the solution plus these parts of the background's mean, and projects once each time."""
    level = solution.image[scan.regions.background].mean()

    def begin(r, parts):
        for n, offset in enumerate(offsets):
            r.likelihood.gradient(r.start)
            yield recon.Iterate(n + 1, (solution.image + offset * level).astype(np.float32))

    return Engine("a list", begin)


def test_thresholds_must_hold_for_ten_iterates(scan, solution):
    """Nine within, one without, ten within: the first of the ten counts, passes and all."""
    offsets = [0.02, *[0.004] * 9, 0.006, *[0.0049] * 10, 1.0]
    found = race(scan, images(scan, solution, offsets), solution.image)
    assert found["passes"] == pytest.approx(1 + 12)
    assert found["passes run"] == pytest.approx(1 + 21)
    assert len(found["curve"]) == 21
    np.testing.assert_allclose(found["curve"][0][3:], [0.02, 0.02, 0.02], rtol=1e-3)
    never = race(scan, images(scan, solution, itertools.repeat(0.0051)), solution.image, n_passes=14)
    assert never["passes"] is None
    assert never["seconds"] is None
    assert never["passes run"] == pytest.approx(14)


def test_passes_are_projections_forth_and_back(scan):
    parts, tally = scan.parts(), scan.tally
    for part in (scan.likelihood, *parts):
        part.gradient(scan.start)  # the sensitivity, which is kept, is made
    before = tally.passes
    for part in parts:
        part.gradient(scan.start)
    assert tally.passes - before == pytest.approx(1)
    scan.likelihood.value(scan.start)
    assert tally.passes - before == pytest.approx(1.5)


def test_events_are_drawn_with_replacement():
    y = np.arange(600, dtype=float).reshape(20, 30)
    drawn = np.stack([bootstrap_events(y, 0.1, seed) for seed in range(60)])
    np.testing.assert_array_equal(drawn.sum((1, 2)), round(0.1 * y.sum()))
    assert not drawn[:, y == 0].any()
    np.testing.assert_allclose(drawn.mean(0)[y > 200], 0.1 * y[y > 200], rtol=0.2)
    np.testing.assert_allclose(drawn.var(0)[y > 200].sum(), 0.1 * y[y > 200].sum(), rtol=0.05)
    np.testing.assert_array_equal(drawn[3], bootstrap_events(y, 0.1, 3))
    for counts, fraction in ((y, 0.0), (y, 1.5), (y + 0.5, 0.5), (0 * y, 0.5)):
        with pytest.raises(ValueError, match="draw"):
            bootstrap_events(counts, fraction, 0)


def test_the_proximal_map_is_the_minimum(scan):
    """Its objective's slope is 0 where the image is positive, and not downhill where it is 0."""
    random = np.random.default_rng(0)
    x = random.normal(1, 1, (6, 5, 4)) * scan.start.mean()
    prior = 0.02 * recon.RelativeDifference(epsilon=1e-2 * float(x.max()))
    t = ByMajorisation(prior, 150).prox(x, 3.0)
    slope = prior.gradient(t) + (t - x) / 3.0
    assert np.abs(slope[t > 0]).max() < 1e-3
    assert slope[t == 0].min() > -1e-3
    assert (t == 0).any()
    assert (t > 0).any()


def test_scans_are_kept_in_files(scan, tmp_path):
    save_replica(scan, tmp_path, "quick")
    again = load_replica(tmp_path)
    np.testing.assert_array_equal(again.start, scan.start)
    value = scan.objective.value(scan.start)
    assert again.objective.value(scan.start) == pytest.approx(value, rel=1e-12)
    assert list(again.regions.named) == list(scan.regions.named)
    (tmp_path / "replica.json").write_text('{"name": "nema-mmr"}')
    with pytest.raises(FormatError, match=r"replica\.json"):
        load_replica(tmp_path)


def test_units_and_sections_of_the_quick_suite(scan, solution, tmp_path, monkeypatch):
    monkeypatch.setattr(petric, "replica", lambda name, size: scan)
    monkeypatch.setattr(petric, "solve", lambda scan: solution)
    options = Options("quick")
    units = petric.petric_units(options)
    done = {}
    for unit in units:
        assert all(needed in done for needed in unit.needs)
        folder = tmp_path / unit.name
        folder.mkdir(parents=True)
        done[unit.name] = json.loads(json.dumps(unit.run(folder), allow_nan=False))
    (section,) = petric.petric_sections(Results(done, tmp_path), options)
    tables = [part for part in section.parts if isinstance(part, Table)]
    passes = {row[0]: row[1] for row in tables[0].rows}
    assert passes["SVRG"] < 35
    assert len(passes) == len(units) - 1
    assert petric.petric_sections(Results({}, tmp_path), options) == []
    assert len(petric.petric_units(Options("full"))) == 6 * (1 + len(ENGINES))
