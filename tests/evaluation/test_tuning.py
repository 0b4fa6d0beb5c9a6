"""Settings are found inside of their range, with no more trials than allowed, and edges are said."""

import math

import pytest

from emrecon.evaluation.tuning import tune


def valley(lowest, calls=None):
    """Errors with a minimum where settings and iteration have the values in `lowest`, in logarithms."""

    def evaluate(settings, shown):
        if calls is not None:
            calls.append(dict(settings))
        away = sum(math.log(settings[name] / at) ** 2 for name, at in lowest.items() if name != "iteration")
        at = lowest.get("iteration")
        return {n: away + (math.log(n / at) ** 2 if at else 0) + 1 for n in shown or (7,)}

    return evaluate


@pytest.mark.parametrize("at", [0.0004, 0.03, 7.0])
def test_the_range_grows_until_the_optimum_is_inside(at):
    calls = []
    found = tune(valley({"beta": at}, calls), {"beta": (0.01, 0.03, 0.1)}, (30,), budget=12)
    assert found.edges == ()
    assert found.settings["beta"] == pytest.approx(at, rel=0.25)
    tried = [call["beta"] for call in calls]
    assert min(tried) < found.settings["beta"] < max(tried)
    assert len(calls) == len(found.trials) <= 12
    assert len(set(tried)) == len(tried)  # no trial is made twice


def test_an_optimum_at_the_edge_is_said_when_the_budget_is_used():
    found = tune(valley({"beta": 50.0}), {"beta": (0.01, 0.02, 0.04)}, (30,), budget=5)
    assert found.edges == ("beta",)
    assert len(found.trials) == 5
    assert "at the edge of the search: beta" in str(found)
    assert found.as_dict()["edges"] == ["beta"]


def test_what_is_left_of_the_budget_goes_between_neighbours():
    few = tune(valley({"beta": 0.05}), {"beta": (0.001, 0.03, 1.0)}, (30,), budget=3)
    many = tune(valley({"beta": 0.05}), {"beta": (0.001, 0.03, 1.0)}, (30,), budget=12)
    assert few.settings["beta"] == 0.03
    assert many.settings["beta"] == pytest.approx(0.05, rel=0.1)


def test_several_settings_and_a_grid_beyond_the_budget():
    lowest = {"beta": 0.3, "n": 40}
    grid = {"beta": (0.001, 0.003, 0.01, 0.03), "n": (10, 20, 40, 80)}
    found = tune(valley(lowest), grid, (30,), budget=14)
    assert found.edges == ()
    assert found.settings["beta"] == pytest.approx(0.3, rel=0.5)
    assert isinstance(found.settings["n"], int)
    assert found.settings["n"] == pytest.approx(40, rel=0.3)


def test_longer_runs_where_the_last_iteration_is_best():
    found = tune(valley({"iteration": 20}), {}, (2, 4, 8), budget=6)
    assert found.iteration == 16
    assert found.edges == ()
    short = tune(valley({"iteration": 3000}), {}, (2, 4, 8), budget=2)
    assert short.edges == ("iteration",)
    first = tune(valley({"iteration": 1}), {}, (8, 16, 32), budget=6)
    assert (first.iteration, first.edges) == (1, ())


def test_a_method_that_ends_is_not_asked_for_more():
    found = tune(lambda settings, shown: {n: 1 / n for n in shown if n <= 3}, {}, (1, 2, 3, 4), budget=9)
    assert (found.iteration, found.edges, len(found.trials)) == (3, (), 1)


def test_choices_and_zero_have_no_beyond():
    scores = {"a": 2.0, "b": 1.0}
    found = tune(
        lambda s, shown: {1: scores[s["kind"]] + s["fwhm"]}, {"kind": ("a", "b"), "fwhm": (0.0, 3.0)}, budget=9
    )
    assert found.settings == {"kind": "b", "fwhm": 0.0}
    assert found.edges == ()


def test_settings_that_fail_are_the_worst():
    def evaluate(settings, shown):
        if settings["beta"] > 1:
            raise FloatingPointError("it diverges")
        return {1: 1 / settings["beta"]} if settings["beta"] != 0.5 else {1: math.nan}

    found = tune(evaluate, {"beta": (0.25, 0.5, 1.0, 2.0)}, budget=4)
    assert found.settings == {"beta": 1.0}
    with pytest.raises(ValueError, match="all 1 trials failed: it diverges"):
        tune(evaluate, {"beta": (2.0,)}, budget=4)
    with pytest.raises(ValueError, match="1 trial or more"):
        tune(evaluate, {"beta": (1.0,)}, budget=0)
    with pytest.raises(ValueError, match="'beta' has no values"):
        tune(evaluate, {"beta": ()})
