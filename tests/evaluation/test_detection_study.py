"""The study of detection: its work, its arithmetic, and whether contradictions are found where they are."""

import numpy as np
import pytest

pytest.importorskip("torch")

from emrecon import recon
from emrecon.evaluation import Interval, Options, Results
from emrecon.evaluation.detection import bone_lesion, networks, study, suite
from emrecon.evaluation.running import ordered
from emrecon.evaluation.suites import SUITES


def test_the_suite_is_found_and_its_units_need_each_other():
    assert SUITES["detect"] is suite.SUITE
    options = Options("full", seeds=2)
    units = {unit.name: unit for unit in ordered(suite.units(options))}
    assert "heart/enhanced-gan/seed-2" in units
    assert set(units["liver/unrolled/seed-1"].needs) == {"scans/liver", "trained/fdg/unrolled/seed-1", "liver/osem"}
    assert sum(name.startswith("segments/") for name in units) == 17
    assert study.size_of(options).n_test >= 200
    assert len(study.size_of(options).levels) == 4
    chosen = {unit.name for unit in suite.units(Options("full", methods=("map-rdp",)))}
    assert {"bone/osem", "bone/map-rdp"} < chosen
    assert not any("enhanced" in name for name in chosen)
    with pytest.raises(ValueError, match="choose from osem"):
        suite.units(Options(methods=("best",)))


def test_images_are_judged_by_observer_and_fidelity():
    random = np.random.default_rng(0)
    task = bone_lesion()
    one = task.scans([1], True)
    scans = one[np.zeros(60, int)]
    images = scans.truth + scans.truth.std() * random.normal(size=scans.truth.shape).astype("f4")
    x, y, _ = scans.sites[0]
    images[30:, x - 1 : x + 2, y - 1 : y + 2] += 0.8 * scans.truth.std()
    numbers, kept = study.judged(scans, images)
    assert numbers["n"] == 30
    assert numbers["area"][0] > 0.7
    assert numbers["area_internal_noise"][0] < numbers["area"][0]
    assert kept["nrmse"].shape == (60,)
    assert kept["nrmse"][0] == pytest.approx(float(recon.nrmse(images[0], scans.truth[0])))
    assert kept["shown"].shape == (2, 64, 64)


@pytest.mark.usefixtures("no_curves")
@pytest.mark.slow
def test_networks_train_on_few_scans_and_make_images_of_counts(tmp_path):
    task = bone_lesion(counts=5e4)
    scans = task.scans([1], False).followed_by(task.scans([2], True))
    small = networks.Training(steps=2, unrolled_steps=1, batch=2, unrolled_batch=2, width=2, modules=1)
    counts = scans.counts(0.5, 4)
    osem = networks.osem_images(scans, counts, 0.5)
    for name in ("enhanced-gan", "enhanced-n2n", "unrolled"):
        found = networks.train(name, scans, scans, (0.5,), 0, small, tmp_path / name)
        assert np.isfinite(found["validation_nrmse"])
        network = networks.load(name, tmp_path / name, small)
        images = networks.images_of(name, network, scans, counts, 0.5, osem)
        assert images.shape == scans.truth.shape
        assert images.min() >= 0


def test_the_mean_of_trainings_holds_their_spread():
    one = suite._over_trainings([[0.8, 0.7, 0.9]], 50)
    assert one == Interval(0.8, 0.7, 0.9, 50)
    many = suite._over_trainings([[0.8, 0.7, 0.9], [0.6, 0.5, 0.7]], 50)
    assert many.value == pytest.approx(0.7)
    assert many.high - many.value == pytest.approx(1.96 * np.sqrt((0.1 / 1.96) ** 2 + 0.02 / 2))


def test_a_contradiction_of_fidelity_and_detection_is_found_and_an_agreement_is_none(tmp_path):
    random = np.random.default_rng(1)
    x, y = random.normal(size=200), random.normal(size=200) + 2
    for name, blur, error in (("osem", 0.0, 0.5), ("osem-gaussian", 3.0, 0.3), ("map-rdp", 0.0, 0.2)):
        folder = tmp_path / "bone" / name
        folder.mkdir(parents=True)
        noise = blur * random.normal(size=(2, 200))
        kept = {"absent": x + noise[0], "present": y + noise[1], "nrmse": error + 0.01 * random.normal(size=400)}
        study._keep(folder, dict.fromkeys((0.25, 0.0625), kept))
    names = ["osem", "osem-gaussian", "map-rdp"]
    results = Results({f"bone/{name}": {} for name in names}, tmp_path)
    found = suite.disagreements(results, Options("quick"), names)
    assert {(d.nearer, d.finder, d.level) for d in found} == {
        ("osem-gaussian", "osem", 0.25),
        ("osem-gaussian", "osem", 0.0625),
    }
    assert found[0].areas[0] < found[0].areas[1]
    assert found[0].nrmse[0] < found[0].nrmse[1]
