"""What the report of the suite `learned` says: accepted or not, differences of pairs, lesions with their numbers."""

import numpy as np
import pytest

from emrecon.evaluation.learned.sections import acceptance, costs, errors, lesion_interval, lesions, tuning
from emrecon.evaluation.learned.units import SIZES, Work
from emrecon.evaluation.sections import Interval

N = 20


def numbers(nrmse, title, seed=0, **more):
    noise = np.random.default_rng(seed).normal(0, 0.01, N)
    found = [
        {"subject": i, "kind": "hot", "in guide": i % 2 == 0, "diameter": 10.0, "made": 0.5, "true": 1.0, "around": 1.0}
        for i in range(10)
    ]
    return {
        "title": title,
        "kind": "control",
        "sees guide": False,
        "nrmse": (nrmse + noise).tolist(),
        "ssim": [0.9] * N,
        "regions": {"grey": [0.1] * N, "lesion": [None] * N},
        "lesions": found,
        "decoys": [{**one, "kind": "none", "in guide": True, "made": 0.1, "true": 0.0} for one in found],
        "seconds": 0.1,
        **more,
    }


def rows(control):
    tuned = {"settings": {"beta": 0.01}, "iteration": 30, "trials": [1, 2, 3], "edges": ["beta"]}
    rate = {"rate": 0.002, "tuned": {"trials": [1, 2], "edges": []}}
    net = {"kind": "unrolled", "parameters": 1000, "rate": rate, "sees guide": True}
    control_net, own_net = ({**net, "another's guide": [value] * N} for value in (0.8, 0.5))
    return {
        "map-rdp": [numbers(0.30, "MAP-RDP", 1, tuned=tuned)],
        "guide-only": [numbers(control, "guide only", 2 + k, **control_net) for k in range(3)],
        "guide-only-long": [numbers(control - 0.001, "guide only, 4 x steps", 2, **control_net)],
        "fbsem-net": [numbers(0.2, "FBSEM-Net", 5 + k, **own_net) for k in range(3)],
    }


WORK = Work(None, SIZES["quick"], 3, ())


@pytest.mark.parametrize(
    ("control", "says"), [(0.40, "ACCEPTED: "), (0.301, "NOT ACCEPTED: "), (0.17, "NOT ACCEPTED: ")]
)
def test_a_task_counts_only_where_the_guide_alone_is_clearly_worse_than_map(control, says):
    said = acceptance(rows(control), 320)
    assert said.startswith(says)
    assert "MAP-RDP, without the guide, 0.3" in said
    assert "(guide only, 4 x steps), and MAP-RDP" in said  # the stronger of the two
    assert acceptance(rows(control), 16).startswith("NOT DECIDED: the guide alone")
    assert "16 steps hardly train the control" in acceptance(rows(control), 16)
    missing = acceptance({"map-rdp": rows(control)["map-rdp"]}, 320)
    assert missing == "NOT DECIDED: 'guide-only' has no result yet."


def test_the_first_table_compares_pairs_of_subjects_from_the_best_to_the_worst():
    table = errors(rows(0.4), WORK)
    assert [row[0] for row in table.rows] == ["FBSEM-Net *", "MAP-RDP", "guide only, 4 x steps *", "guide only *"]
    best, reference, _, control = (dict(zip(table.columns, row)) for row in table.rows)
    assert isinstance(best["NRMSE"], Interval)
    assert best["NRMSE"].n == N
    assert best["- MAP-RDP"].value == pytest.approx(-0.1, abs=0.01)
    assert best["- MAP-RDP"].high < 0
    assert best["p"] == "< 0.001"
    assert best["- guide only"].value == pytest.approx(-0.2, abs=0.01)
    assert reference["- MAP-RDP"] is None
    assert control["- guide only"] is None
    assert best["NRMSE, another's guide"].value == pytest.approx(0.5)
    cost = costs(rows(0.4))
    best, reference, *_ = (dict(zip(cost.columns, row)) for row in cost.rows)
    assert (best["trainings"], reference["trainings"]) == (3, None)
    assert best["SD of NRMSE between trainings"] is not None
    assert (best["learned numbers"], reference["learned numbers"]) == (1000, 0)


def test_lesions_have_their_number_and_their_error():
    found = lesion_interval(rows(0.4)["fbsem-net"], "hot", True)
    assert (found.value, found.n) == (pytest.approx(0.5), 5)
    assert lesion_interval(rows(0.4)["fbsem-net"], "cold", True) is None
    table = lesions(rows(0.4))
    row = dict(zip(table.columns, table.rows[0]))
    assert row["hot, in guide"].n == row["hot, not in guide"].n == 5
    assert row["cold, in guide"] is None
    assert row["decoys"].value == pytest.approx(0.1)
    assert row["regions"].value == pytest.approx(0.1)


def test_choices_at_the_edge_are_said():
    table = tuning(rows(0.4))
    lines = {row[0]: row[1:] for row in table.rows}
    assert lines["MAP-RDP"] == [3, "beta 0.01, iteration 30", "beta"]
    assert lines["FBSEM-Net"] == [2, "learning rate 0.002", "none"]
