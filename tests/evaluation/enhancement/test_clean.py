"""The topics without clean images and over several sites, on small made-up images."""

import json

import numpy as np
import pytest

from emrecon.evaluation.enhancement import clean, federated
from emrecon.evaluation.suite import Options, Results

OPTIONS = Options("quick")


@pytest.fixture
def root(tmp_path):
    """Made-up images of both topics, as their first units keep them."""
    random = np.random.default_rng(0)
    names = ["truth", "guide", "full", "clean"]
    names += [f"{kind}-{folds}-{k}" for kind in ("seen", "other") for folds in (2, 4) for k in range(folds)]
    for part in ("train", "validation", "test"):
        arrays = {name: 1 + random.random((4, 8, 8, 1), np.float32) for name in names}
        arrays |= {name: np.ones((4, 1, 1, 1), np.float32) for name in ("scale",)}
        arrays |= {f"scale-{folds}-{k}": arrays["scale"] for folds in (2, 4) for k in range(folds)}
        places = [f"federated/scans-{place.name}" for place in federated.PLACES]
        for folder in ("clean/pet/images", "clean/spect/images", *places):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            np.savez(tmp_path / folder / f"{part}.npz", **arrays)
    return tmp_path


def run(topic, root, numbers):
    for unit in topic.units(OPTIONS):
        if unit.name not in numbers:
            folder = root / unit.name
            folder.mkdir(parents=True, exist_ok=True)
            numbers[unit.name] = json.loads(json.dumps(dict(unit.run(folder))))
    return topic.sections(Results(numbers, root), OPTIONS)


def test_everything_without_clean_images_is_reported(root, monkeypatch):
    scores = clean._scores(np.ones((4, 8, 8, 1), np.float32), clean._arrays(root / "a" / "b", "a/b", "pet", "test"))
    monkeypatch.setattr(clean, "numbers_of", lambda *_: {"noise radius": 1.0})
    numbers = {f"clean/{task}/images": {"noise radius": 1.0, "subjects": scores} for task in clean.TASKS}
    first, second, third = run(clean, root, numbers)
    text, pet, spect = first.parts
    assert "from supervised" in text.paragraphs[0]
    assert len(pet.rows) == 1 + 1 + 2 * 2 + 2
    assert len(spect.rows) == 1 + 1 + 2 * 2
    assert numbers["clean/pet/n2v-ball"]["radius"] == 1.0
    assert [row[0] for row in second.parts[1].rows] == [
        "Conditional deep image prior with MR",
        "Conditional deep image prior of noise",
    ]
    assert third.parts[0].png


def test_nothing_but_the_supervised_entry_learns_from_clean_images(root):
    data = dict(clean._arrays(root / "a" / "b", "a/b", "pet", "train"))
    for name in ("clean", "truth"):
        data[name] = np.full_like(data[name], np.nan)
    for entry in clean.ENTRIES:
        batches, objective = clean._learned(entry, data, clean.SIZES["quick"], 1.0)
        loss = float(objective(clean.network(2), next(iter(batches(0))), None).detach())
        assert np.isfinite(loss) == (entry.kind != "supervised")


def test_sites_and_pool_are_compared(root):
    arrays = federated._arrays(root / "a" / "b", "a/b", "A", "test")
    scores = federated._scores(np.ones((4, 8, 8, 1), np.float32), arrays)
    numbers = {f"federated/scans-{place.name}": {"subjects": scores} for place in federated.PLACES}
    (section,) = run(federated, root, numbers)
    _, table, paired, picture = section.parts
    assert [row[0] for row in table.rows] == ["OSEM, as it is", "Federated", "Pooled", "Only A", "Only B", "Only C"]
    assert len(paired.rows) == 6
    assert picture.png
    assert numbers["federated/federated"]["rounds"] == 2
