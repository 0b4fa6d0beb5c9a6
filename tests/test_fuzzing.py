"""Damaged files: no reader crashes, hangs, or says anything but what is documented, with the name of the file.

More than here: `python tests/fuzzing.py --cases 5000`.
"""

import os

import numpy as np
import pytest
from fuzz_seeds import SEEDS
from fuzzing import findings, mutated

pytestmark = pytest.mark.slow

CASES = 50
LEARNED = ("training", "weights", "checkpoint")
GROUPS = {"scans": [name for name in SEEDS if name not in LEARNED], "runs": list(LEARNED)}


@pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
@pytest.mark.parametrize("names", GROUPS.values(), ids=GROUPS)
def test_damaged_files_are_refused_or_read(names):
    pytest.importorskip("petsird")
    pytest.importorskip("highdicom")
    found = findings(names, CASES)
    assert not found, "\n".join(found)


def test_damage_is_the_same_every_time():
    data = bytes(range(256)) * 8
    one, two = ([mutated(data, np.random.default_rng(k)) for k in range(300)] for _ in range(2))
    assert one == two
    assert len({*one}) > 250
    assert sum(changed == data for changed in one) < 30
