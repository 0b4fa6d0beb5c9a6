"""The topic on dose: samples, errors by region, and the report of made-up numbers."""

import numpy as np

from emrecon.evaluation.enhancement import dose, dose_samples, mapping
from emrecon.evaluation.suite import Options, Results
from emrecon.projectors import ImageGrid
from emrecon.recon.dosimetry import uniform_dose

OPTIONS = Options("quick")
GRID = ImageGrid((6, 6, 4), 9.6)


def test_samples_are_kept_and_of_their_set(tmp_path):
    (made,) = dose_samples.dose_samples(tmp_path, "water", 1, GRID, "Lu-177", 200)
    (again,) = dose_samples.dose_samples(tmp_path, "water", 1, GRID, "Lu-177", 200)
    assert all(np.array_equal(made[key], again[key]) for key in made)
    assert (made["density"] == 1).all()
    assert np.isclose(uniform_dose("Lu-177", float(made["activity"].mean())), 1, rtol=1e-5)
    assert made["dose"].shape == GRID.shape


def test_density_of_tissues():
    body = mapping.patient(30_001, "test", "lu-177")
    found = dose_samples.mass_density(body, ImageGrid((60, 40, 1), 8.0))
    assert 1.2 < found.max() < 1.95
    assert np.isclose(np.median(found[found > 0.8]), 1.05, atol=0.12)
    assert np.isclose(found[found > 0.2].min(), 0.24, atol=0.03)  # lung


def test_errors_by_region():
    labels = np.zeros((6, 6, 4), np.int8)
    labels[:3] = 1
    true = np.where(labels, 2.0, 1.0)
    rows = dose._empty()
    dose._add(rows, {"labels": labels, "dose": true, "density": np.ones(true.shape)}, 1.1 * true)
    assert all(np.isclose(rows[m]["lung"], 10).all() and len(rows[m]["lung"]) == 1 for m in dose.MEASURES)
    assert rows["mean"]["liver"] == []


def test_the_report_has_a_table_for_every_measure_and_set(tmp_path):
    rows = {m: {r: [1.0, 2.0] for r in mapping.REGIONS} for m in dose.MEASURES}
    classical = {s: {**dict.fromkeys(dose.METHODS, rows), "noise": [1.0]} for s in dose.SETS}
    numbers = {"dose/classical": classical}
    for name in dose.NETWORKS:
        own = {"parameters": 3, "seconds": 1.0, "refusal": "no"}
        numbers[f"dose/{name}"] = dict.fromkeys(dose.SETS, rows) | own
        (tmp_path / "dose" / name).mkdir(parents=True)
        np.savez(tmp_path / "dose" / name / "shown.npz", made=np.ones((12, 12)))
    (section,) = dose.sections(Results(numbers, tmp_path), OPTIONS)
    tables = [part for part in section.parts if hasattr(part, "rows")]
    assert len(tables) == len(dose.SETS) * len(dose.MEASURES) + 2
