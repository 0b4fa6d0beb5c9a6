"""The topics on attenuation maps and on scatter: maps, regions, and reports of made-up numbers."""

import numpy as np
import pytest

from emrecon.evaluation.enhancement import attenuation, mapping, scatter, scatter_spect
from emrecon.evaluation.suite import Options, Results

OPTIONS = Options("quick")


def test_an_ellipse_is_found_around_what_is_seen():
    x, y, _ = mapping.GRID.coordinates()
    body = np.broadcast_to((x / 160) ** 2 + (y / 100) ** 2 < 1, mapping.GRID.shape)
    found = mapping.ellipse_map(body * np.float32(3), "pet")
    assert found.max() == pytest.approx(0.096)
    assert np.mean((found > 0) == body) > 0.95
    cut, inside = mapping.cut_map(0.1 * body)
    assert cut[inside == 0].max() == 0
    np.testing.assert_array_equal(cut[inside == 1], 0.1 * body[inside == 1])


def test_patients_have_lungs_and_bones_of_their_set_and_every_region():
    plain, dense, hard = (mapping.patient(30_003, kind, "fdg") for kind in ("test", "lungs", "bones"))
    mu = [body.attenuation(mapping.GRID, 511.0) for body in (plain, dense, hard)]
    regions = mapping.labels(plain)
    assert set(np.unique(regions)) >= {0, 1, 3, 4}
    lung = regions == 1
    assert mu[1][lung].mean() > 1.4 * mu[0][lung].mean()
    assert mu[2].max() > 1.1 * mu[0].max()
    found = {name: [] for name in mapping.REGIONS}
    image = np.where(lung, 2.0, 1.0)
    mapping.add_errors(found, {"labels": regions}, 1.1 * image, image)
    np.testing.assert_allclose([v for values in found.values() for v in values], 10, rtol=1e-5)


def rows(seed):
    values = np.random.default_rng(seed).normal(size=(4, 3))
    return {name: list(map(float, own)) for name, own in zip(mapping.REGIONS, values)}


def test_reports_have_a_table_for_every_set(tmp_path):
    numbers = {"attenuation/classical": {s: {key: rows(1) for key in attenuation.CLASSICAL} for s in attenuation.SETS}}
    for name in attenuation.NETWORKS:
        numbers[f"attenuation/{name}"] = {s: {"activity": rows(2), "map": [0.1, 0.2]} for s in attenuation.SETS}
    numbers["scatter/classical"] = {s: {key: rows(3) for key in scatter.METHODS} for s in scatter.SETS}
    for name in scatter.NETWORKS:
        numbers[f"scatter/{name}"] = {s: {"activity": rows(4), "total": [0.1, -0.1]} for s in scatter.SETS}
    spect = {s: {key: rows(5) for key in scatter_spect.METHODS} for s in scatter_spect.SETS}
    numbers["scatter_spect/classical"] = spect
    numbers["scatter_spect/network"] = {s: rows(6) for s in scatter_spect.SETS}
    plane, profile = np.zeros(mapping.GRID.shape), np.ones(5)
    for unit in numbers:
        (tmp_path / unit).mkdir(parents=True)
        np.savez(tmp_path / unit / "shown.npz", mu=plane, ellipse=plane, map=plane, network=profile, true=profile)
    results = Results(numbers, tmp_path)
    for topic in (attenuation, scatter):
        (section,) = topic.sections(results, OPTIONS)
        assert len([part for part in section.parts if getattr(part, "rows", None)]) == len(topic.SETS) + 1
    (section,) = scatter_spect.sections(results, OPTIONS)
    assert len(section.parts) == len(scatter_spect.SETS) + 1
