"""`emrecon reconstruct` under torchrun: as in one process, what is refused, and how it goes on without a lost rank."""

import signal
import time

import numpy as np
import pytest
from cli_cases import emrecon
from rank_cases import ends, spect_scan, start

from emrecon import formats
from emrecon.cli.reconstruct.uses import USES

pytestmark = pytest.mark.slow

RUN = ("-m", "emrecon", "reconstruct")
OPTIONS = ("--method", "bsrem", "--prior", "rdp:0.02,2", "--subsets", "4")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    formats.write_scan(path, spect_scan(16)[0])
    return path


def test_a_lost_rank_ends_the_run_and_the_same_command_goes_on_in_any_number_of_processes(scan, tmp_path):
    out, kept = tmp_path / "x.h5", tmp_path / "x.npz"
    command = (*RUN, scan, *OPTIONS, "--out", out, "--checkpoint", kept)
    ranks = start(2, [*command, "--iterations", 10**6])
    until = time.monotonic() + 60
    while not kept.exists() and time.monotonic() < until:
        time.sleep(0.1)
    ranks[1].kill()
    first, second = ends(ranks)
    assert first[0] == 1
    assert second[0] == -signal.SIGKILL
    said = "rank 1 of 2 is lost; the other ranks have ended; the same command goes on from the checkpoint"
    assert said in first[2]
    assert not out.exists()
    done = int(np.load(kept)["iteration"])
    first, second = ends(start(2, [*command, "--iterations", done + 1, "--log", tmp_path / "log.csv"]))
    assert first[0] == second[0] == 0, first[2]
    assert f"going on after iteration {done}" in first[1]
    assert second[1:] == ("", "")
    alone = tmp_path / "alone.h5"
    more = ("--checkpoint", kept, "--iterations", done + 2, "--out", alone, "--quiet")  # of ranks, by one process
    emrecon("reconstruct", scan, *OPTIONS, *more, check=0)
    images = [formats.read_image(path)[0] for path in (out, alone)]
    assert np.abs(images[0] - images[1]).max() < 0.2 * images[1].max()
    emrecon("reconstruct", scan, *OPTIONS, "--iterations", done + 1, "--out", alone, "--quiet", check=0)
    np.testing.assert_allclose(images[0], formats.read_image(alone)[0], atol=1e-4 * images[0].max())


def test_what_ranks_cannot_share_is_refused_by_one_of_them(scan, tmp_path):
    first, second = ends(start(2, [*RUN, scan, "--uncertainty", tmp_path / "u.h5", "--out", tmp_path / "x.h5"]))
    assert first[0] == second[0] == 2
    assert "--uncertainty: the map of uncertainty is not made on several ranks" in first[2]
    assert second[1:] == ("", "")


def test_options_of_ranks_and_of_events(scan, tmp_path):
    done = emrecon("reconstruct", scan, "--rank-timeout", 5, "--out", tmp_path / "x.h5", check=2)
    assert "--rank-timeout: it is used where torchrun starts several ranks only" in done.stderr
    done = emrecon("reconstruct", scan, "--scratch", tmp_path, "--out", tmp_path / "x.h5", check=2)
    assert "--scratch: it is for PET list-mode" in done.stderr
    assert {"scratch", "rank_timeout"} <= set(USES)
