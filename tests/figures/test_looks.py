"""How values become colours: limits by value and percentile, logarithms, both sides of 0, and what is refused."""

import numpy as np
import pytest

from emrecon.figures import DIFFERENCE, Look, parse_window

RAMP = np.concatenate([np.zeros(500), np.arange(1.0, 1001.0)])


def test_the_usual_window_runs_from_0_to_the_top_percentile_of_what_is_positive():
    assert Look().limits(RAMP) == (0.0, pytest.approx(np.percentile(RAMP[RAMP > 0], 99.8)))
    assert Look().limits(-RAMP - 1) == (-1001.0, -1.0)
    assert Look().limits(np.zeros(4)) == (0.0, 1.0)
    assert Look().limits(np.full(4, np.nan)) == (0.0, 1.0)


def test_limits_by_value_and_by_percentile_of_what_is_not_0():
    assert Look(window=(2, 7)).limits(RAMP) == (2.0, 7.0)
    assert Look(window=("10%", "50%")).limits(RAMP) == pytest.approx(np.percentile(RAMP[RAMP > 0], (10, 50)))
    assert Look(window=(2000, None)).limits(RAMP) == (2000.0, 4000.0)  # above all values
    assert Look(window=(None, 40)).limits(RAMP) == (0.0, 40.0)


def test_logarithms_end_three_decades_below_and_zeros_are_drawn_at_the_end():
    from emrecon.figures.looks import drawn

    low, high = Look(log=True, window=(None, 1000)).limits(RAMP)
    assert (low, high) == pytest.approx((1.0, 1000.0))
    norm, ends = Look(log=True, window=(None, 1000)).norm(RAMP)
    assert ends == "neither"
    shown = drawn(np.array([0.0, np.nan, 10.0]), norm)
    assert shown[0] == pytest.approx(1.0)
    assert shown.mask.tolist() == [False, True, False]


def test_differences_have_as_much_to_both_sides():
    low, high = DIFFERENCE.limits(np.array([-3.0, 0.0, 1.0]))
    assert low == -high
    assert 2.9 < high <= 3


def test_the_bar_says_that_values_lie_beyond():
    assert Look(window=(0, 500)).norm(RAMP)[1] == "max"
    assert Look(window=(100, 2000)).norm(RAMP)[1] == "min"
    assert Look(window=(100, 500)).norm(RAMP)[1] == "both"
    assert Look(window=(0, 1000)).norm(RAMP)[1] == "neither"


def test_texts_are_seen_on_what_is_empty():
    assert Look().ink(RAMP) == "black"
    assert Look(colour="hot").ink(RAMP) == "white"
    assert DIFFERENCE.ink(RAMP) == "black"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Look(window=(5, 5)).limits(RAMP), "from 5 to 5"),
        (lambda: Look(window=("x", 5)), "'x' is not a limit"),
        (lambda: Look(window=("101%", 5)), "from 0% to 100%"),
        (lambda: Look(window=(float("nan"), 5)), "finite"),
        (lambda: Look(log=True).limits(-RAMP), "needs positive values"),
        (lambda: Look(log=True, window=(0, 5)).limits(RAMP), "begins above 0"),
        (lambda: Look(log=True, symmetric=True), "no negative side"),
        (lambda: Look(colour="viridsi").colormap, "did you mean 'viridis'"),
        (lambda: Look(colour="?").colormap, "unknown colour map '[?]'; choose from inverted-grey"),
        (lambda: parse_window("5"), "LOW,HIGH"),
        (lambda: parse_window("a,b"), "not a limit"),
    ],
)
def test_what_cannot_be_shown_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_windows_as_text():
    assert parse_window("0, 12.5") == (0.0, 12.5)
    assert parse_window("-160,99.5%") == (-160.0, "99.5%")
    assert parse_window(",8") == (None, 8.0)
