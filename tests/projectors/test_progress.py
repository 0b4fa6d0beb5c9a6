"""Progress: pieces of work in one another, the time that is left, sparse lines on the log, bars on a terminal."""

import contextlib
import io
import logging

import numpy as np
import pytest
from rich.console import Console

from emrecon import recon
from emrecon.projectors import Scan, SPECTGeometry
from emrecon.projectors.core import bars, progress
from emrecon.projectors.core.progress import Stage, finish, in_words, is_heard, listening, stage, step, tracked


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(progress.time, "perf_counter", found.perf_counter)
    return found


def started(clock, what, total=None, **more):
    return Stage(what, total, began=clock.now, **more)


def test_the_time_that_is_left_is_at_the_mean_speed(clock):
    own = started(clock, "subsets", 8)
    assert (own.fraction, own.remaining) == (0.0, None)
    clock.now += 6
    own.done = 2
    assert own.remaining == pytest.approx(18)
    assert str(own) == "subsets, 2 of 8: 6.0 s, about 18 s left"
    own.inner = started(clock, "views", 4, done=2)
    assert own.fraction == pytest.approx(2.5 / 8)
    assert str(own).startswith("subsets, 2 of 8; views, 2 of 4: 6.0 s")
    own.over = True
    assert "left" not in str(own)


def test_what_an_earlier_run_has_done_takes_no_time(clock):
    own = started(clock, "training", 100, done=50, before=50)
    assert own.remaining is None
    clock.now += 10
    own.done = 60
    assert own.remaining == pytest.approx(40)


def test_work_of_unknown_length_has_no_time_left(clock):
    own = started(clock, "reading")
    clock.now += 100
    assert str(own) == "reading: 1 min 40 s"
    own.inner = started(clock, "events", 10)
    clock.now += 10
    own.inner.done = 5
    assert str(own) == "reading; events, 5 of 10: 1 min 50 s, about 10 s left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (9.97, "10 s"), (59.4, "59 s"), (59.7, "1 min 0 s"), (7500, "2 h 5 min")],
)
def test_lengths_of_time_in_words(seconds, words):
    assert in_words(seconds) == words


def test_listeners_hear_of_pieces_in_one_another():
    heard = []
    with listening(lambda whole: heard.append([(s.what, s.done, s.over) for s in whole.chain()])):
        assert is_heard()
        for _ in tracked(range(2), "outer"):
            with stage("inner"):
                pass
    assert not is_heard()
    assert heard[0] == [("outer", 0, False)]
    assert [("outer", 1, False), ("inner", 0, False)] in heard
    assert heard[-1] == [("outer", 2, True)]


@pytest.mark.parametrize("way", ["break", "return", "error", "whole"])
def test_loops_that_are_left_early_leave_nothing_behind(way):
    def loop():
        for i in tracked(range(5), "loop"):
            if i == 1 and way == "break":
                break
            if i == 1 and way == "return":
                return
            if i == 1 and way == "error":
                raise ValueError

    heard = []
    with listening(heard.append), contextlib.suppress(ValueError):
        loop()
    assert heard[-1].over
    assert progress._CURRENT.get() is None


def test_the_log_hears_seldom_and_nothing_of_short_work(clock, caplog):
    with caplog.at_level(logging.INFO, logger="emrecon"):
        for _ in tracked(range(1000), "short"):
            clock.now += 1e-3
        assert not caplog.records
        for _ in tracked(range(3600), "long"):
            clock.now += 1
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "long, 2 of 3600: 2.0 s, about 59 min 58 s left"
    assert said[1] == "long, 7 of 3600: 7.0 s, about 59 min 53 s left"
    assert said[-1] == "long, 3600 of 3600: 1 h 0 min"
    assert 50 < len(said) < 90


def test_work_made_by_hand_is_told_of_and_ends():
    heard = []
    with listening(lambda whole: heard.append((whole.done, whole.note, whole.over))):
        own = Stage("training", 2)
        own.note = "loss 3"
        step(own)
        finish(own)
    assert heard == [(1, "loss 3", False), (1, "loss 3", True)]


def test_engines_tell_of_iterations_and_subsets():
    scan = Scan(np.ones((8, 8, 4), np.float32), SPECTGeometry.circular(8, 60, (8, 4), 8.0), 0.1)
    problem = recon.spect_problem(scan, subsets=4)
    for method, more in (("osem", {}), ("bsrem", {"prior": "quadratic:0.1"}), ("svrg", {"prior": "quadratic:0.1"})):
        heard = []

        def hear(whole, heard=heard):
            heard.append(tuple((s.what, s.total) for s in whole.chain()))

        with listening(hear):
            recon.reconstruct(problem, method, iterations=2, **more)
        assert any(chain[0] == ("iterations", 2) for chain in heard)
        assert any(chain[-1] == ("iteration 2", 4) for chain in heard), heard
    with listening(hear):
        recon.reconstruct(problem, "spdhg", iterations=1, prior="tv:0.1")
    assert any(chain[-1][0] == "subsets" for chain in heard)


def test_progress_changes_no_image():
    scan = Scan(np.full((4, 8, 4), 2.0, np.float32), SPECTGeometry.circular(4, 60, (8, 4), 8.0), 0.1)
    problem = recon.spect_problem(scan, subsets=2)
    plain = recon.reconstruct(problem, iterations=2)
    with listening(lambda whole: None):
        np.testing.assert_array_equal(plain, recon.reconstruct(problem, iterations=2))


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def test_bars_show_each_piece_and_go_away(monkeypatch):
    monkeypatch.setattr(bars, "_PATIENCE", 0.0)
    console = terminal()
    with recon.show_progress(console):
        for _ in tracked(range(2), "iterations"):
            for _ in tracked(range(3), "subsets"):
                progress.note("objective 7")
                listener = progress._LISTENER.get()
                listener._begin() if listener._progress is None else None
                shown = {task.description for task in listener._progress.tasks}
        assert listener._progress is None
    assert shown == {"iterations 1 of 2", "subsets 2 of 3, objective 7"}
    assert not is_heard()
    assert "iterations" in console.file.getvalue()


def test_bars_of_work_that_is_interrupted_go_away():
    listeners = []

    def work():
        for _ in tracked(range(2), "iterations"):
            listeners.append(progress._LISTENER.get())
            listeners[0]._begin()
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), recon.show_progress(terminal()):
        work()
    assert listeners[0]._progress is None


def test_without_a_terminal_there_are_no_bars():
    with recon.show_progress(Console(file=io.StringIO())):
        assert not is_heard()


def test_a_progress_bar_adds_its_objective_to_bars_that_are_there():
    bar, heard = recon.ProgressBar(2, lambda x: 5.0, console=terminal()), []
    with listening(lambda whole: heard.append(whole.note)):
        recon.run(iter([recon.Iterate(k, np.zeros((1, 1, 1))) for k in (1, 2)]), 2, bar)
    assert "objective 5" in heard
