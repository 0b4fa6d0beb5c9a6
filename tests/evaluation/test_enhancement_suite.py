"""The suite of enhancement: topics in one list, units that know each other, scores by closed form."""

import numpy as np

from emrecon.evaluation import SUITES, Options
from emrecon.evaluation.enhancement.images import pairs_of
from emrecon.evaluation.enhancement.lesions import scores
from emrecon.evaluation.enhancement.suite import TOPICS
from emrecon.evaluation.suite import Results


def test_units_are_named_by_their_topic_and_know_each_other(tmp_path):
    suite, options = SUITES["enhance"], Options(size="quick")
    units = suite.units(options)
    names = [unit.name for unit in units]
    assert len(set(names)) == len(names)
    assert {name.partition("/")[0] for name in names} <= set(TOPICS)
    assert all(need in names[: names.index(unit.name)] for unit in units for need in unit.needs)
    sections = suite.sections(Results({}, tmp_path), options)  # nothing is done: every topic says so
    assert len(sections) == len(TOPICS)


def test_maxima_of_lesions_and_noise():
    clean = np.ones((1, 20, 20, 3), np.float32)
    mask = np.zeros_like(clean)
    mask[0, 8:11, 8:11] = 1
    clean[0, 8:11, 8:11] = 5
    low = clean.copy()
    low[0, 9, 9] = 6
    low[0, 0, :2] += 0.5
    found = scores(low[None], {"lesions": mask, "clean": clean})
    np.testing.assert_allclose(found["error"], [[0.2]], rtol=1e-6)
    assert 15 < found["diameter"][0] < 20
    assert 0 < found["noise"][0][0] < 0.1


def test_every_level_comes_once_in_an_epoch():
    rng = np.random.default_rng(0)
    low, full = rng.random((2, 3, 4, 4, 1)).astype(np.float32) + 1, rng.random((3, 4, 4, 1)).astype(np.float32)
    batches = pairs_of({"low": low, "full": full}, size=2)
    seen = [float(t.std() / x.std()) for arguments, target in batches(1) for x, t in zip(arguments["x"], target)]
    expected = [float(full[k].std() / low[level, k].std()) for level in range(2) for k in range(3)]
    np.testing.assert_allclose(sorted(seen), sorted(expected), rtol=1e-4)
