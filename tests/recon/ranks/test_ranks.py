"""Several ranks find what one process finds; errors, and ranks that are lost, end all of them with a message."""

import signal
from pathlib import Path

import numpy as np
import pytest
from rank_cases import Events, ends, results, start, unrolled

from emrecon import recon
from emrecon.recon.problem import ArgumentError
from emrecon.recon.ranks import ALONE, ranks_of_job

pytestmark = pytest.mark.slow

CASES = Path(__file__).resolve().parents[2] / "rank_cases.py"
LOST = """
import os, signal
import numpy as np
from emrecon import recon
with recon.join_ranks(timeout=5) as ranks:
    ranks.sum(np.ones(3))
    print("here", flush=True)
    if ranks.rank == 1:
        {end}
    ranks.sum(np.ones(3))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds."""
    return results(folder=tmp_path_factory.mktemp("scratch")) | unrolled()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What 2 and 4 gloo processes find: {size: their results}."""
    folder = tmp_path_factory.mktemp("ranks")
    for n in (2, 4):
        for code, _, errors in ends(start(n, [CASES], folder)):
            assert code == 0, errors[-2000:]
    return {n: [dict(np.load(folder / f"{n}-{rank}.npz")) for rank in range(n)] for n in (2, 4)}


@pytest.mark.parametrize("n", [2, 4])
def test_ranks_find_what_one_process_finds(alone, ranks, n):
    for name in ranks[n][0].keys() & alone.keys():
        np.testing.assert_allclose(ranks[n][0][name], alone[name], atol=1e-5 * np.abs(alone[name]).max(), err_msg=name)
    assert {"osem", "svrg", "pet", "events on disk"} <= ranks[n][0].keys()
    assert ("unrolled" in ranks[n][0]) == (n == 2)


@pytest.mark.parametrize("n", [2, 4])
def test_ranks_have_the_same_bits_and_send_as_much(ranks, n):
    first, *others = ranks[n]
    for other in others:
        for name in first:
            np.testing.assert_array_equal(first[name], other[name], err_msg=name)
    assert first["traffic"][1] > 0


def test_an_error_of_one_rank_is_raised_on_all(ranks):
    for found in ranks[2]:
        said = list(found["said"])
        assert "expected counts are negative, NaN" in said[0]
        assert said[1].startswith("rank 1 of 2: these differ")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 of 2 is lost"),
        ("raise OSError('the disk is gone')", "rank 1 of 2 failed: the disk is gone"),
    ],
)
def test_a_lost_rank_ends_the_others_with_a_message(end, said):
    first, second = ends(start(2, ["-c", LOST.format(end=end)]))
    assert first[0] == 1
    assert f"LostRankError: {said}" in first[2]
    assert second[0] in (-signal.SIGKILL, 1)


def test_alone_nothing_is_dealt_out():
    with recon.join_ranks() as here:
        assert (here.rank, here.size) == (0, 1)
        x = np.ones(3)
        assert here.sum(x) is x
        assert recon.shard(x, here) is x
        here.require_same("x", "never said")
        with pytest.raises(ValueError, match="mine"):
            here.agree(ValueError("mine"))
    with pytest.raises(ValueError, match="'cpu' or 'cuda'"), recon.join_ranks("tpu"):
        pass
    with pytest.raises(ValueError, match="at least 1 s"), recon.join_ranks(timeout=0):
        pass


def test_variables_of_torchrun():
    assert ranks_of_job({}) == ranks_of_job({"WORLD_SIZE": "1"}) == (0, 1)
    known = {"WORLD_SIZE": "4", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert ranks_of_job(known) == (2, 4)
    with pytest.raises(RuntimeError, match="not RANK, MASTER_ADDR, MASTER_PORT; start the ranks with torchrun"):
        ranks_of_job({"WORLD_SIZE": "4"})


def test_events_on_disk_need_a_folder_and_numbers(tmp_path):
    with pytest.raises(ArgumentError, match="is not a folder"):
        recon.pet_problem(Events(), scratch=tmp_path / "none", ranks=ALONE)
    with pytest.raises(ArgumentError, match="randoms of list-mode must be a number with a scratch folder"):
        recon.pet_problem(Events(), scratch=tmp_path, randoms=np.ones(400))
    assert not list(tmp_path.iterdir())
    recon.pet_problem(Events(), scratch=tmp_path, subsets=2)
    assert not list(tmp_path.iterdir())  # the files have no names
