"""Units: order, resumption after a kill, failures, ranks, locks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from emrecon.evaluation import Options, Suite, Unit, numbers_of
from emrecon.evaluation.locks import locked
from emrecon.evaluation.records import FILE, read_record
from emrecon.evaluation.running import claim, ordered, results_of, run_units, share_of

OPTIONS = Options("quick")


def suite_of(units, **more):
    return Suite("toy", "a toy", 1.0, lambda options: units, lambda results, options: [], **more)


def done(units, folder, steps=None):
    suite = suite_of(units)
    states = [(step.unit, step.state) for step in run_units(ordered(steps or units), folder, suite, OPTIONS)]
    return states, results_of(units, folder, suite, OPTIONS)


def number(value):
    return lambda folder: {"value": value}


def plus_one(unit, needed):
    return lambda folder: {"value": numbers_of(folder, unit, needed)["value"] + 1}


CHAIN = [
    Unit("b/two", plus_one("b/two", "a/one"), needs=("a/one",)),
    Unit("a/one", number(1)),
    Unit("c", plus_one("c", "b/two"), needs=("b/two",)),
]


def test_units_run_in_the_order_of_their_needs_and_once(tmp_path):
    states, (results, records) = done(CHAIN, tmp_path)
    assert [name for name, state in states if state == "done"] == ["a/one", "b/two", "c"]
    assert results["c"] == {"value": 3}
    assert records["c"].machine
    assert records["c"].peak_memory > 2**20
    assert records["c"].versions["python"]
    states, (again, _) = done(CHAIN, tmp_path)
    assert {state for _, state in states} == {"kept"}
    assert dict(again) == dict(results)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([Unit("a", number(1)), Unit("a", number(2))], "two units have the name 'a'"),
        ([Unit("a", number(1), needs=("b",))], "needs 'b', which is no unit"),
        ([Unit("a", number(1), ("b",)), Unit("b", number(1), ("a",))], "in a circle: a -> b -> a"),
    ],
)
def test_units_that_cannot_be_ordered_are_refused(units, message):
    with pytest.raises(ValueError, match=message):
        ordered(units)


def test_a_failure_is_kept_and_others_go_on(tmp_path):
    def fails(folder):
        raise ValueError("no counts")

    units = [
        Unit("bad", fails),
        Unit("after", number(1), ("bad",)),
        Unit("last", number(2), ("after",)),
        Unit("good", number(3)),
    ]
    states, (results, _) = done(units, tmp_path)
    assert [pair for pair in states if pair[1] != "begins"] == [
        ("bad", "failed"),
        ("after", "blocked"),
        ("last", "blocked"),
        ("good", "done"),
    ]
    assert results.failed["bad"] == "ValueError: no counts"
    assert "it needs 'bad'" in results.failed["after"]
    assert "it needs 'after'" in results.failed["last"]
    assert "in fails" in (tmp_path / "units" / "bad" / "error.txt").read_text()
    units[0] = Unit("bad", number(0))  # mended: it is tried again, with what waits for it
    _, (results, _) = done(units, tmp_path)
    assert len(results) == 4
    assert not results.failed
    assert not (tmp_path / "units" / "bad" / "error.txt").exists()


def test_numbers_that_json_cannot_hold_are_a_failure(tmp_path):
    _, (results, _) = done([Unit("a", lambda folder: {"x": object()})], tmp_path)
    assert "JSON cannot hold x, a object" in results.failed["a"]


def test_other_arguments_are_other_units_and_leftovers_are_theirs_alone(tmp_path):
    def leaves(folder):
        seen = (folder / "checkpoint").exists()
        (folder / "checkpoint").write_text("half")
        if not seen:
            raise RuntimeError("cut off")
        return {"went on": seen}

    unit = Unit("net", leaves, arguments={"steps": 10})
    _, (results, _) = done([unit], tmp_path)
    assert results.failed["net"] == "RuntimeError: cut off"
    _, (results, _) = done([unit], tmp_path)
    assert results["net"] == {"went on": True}
    other = Unit("net", leaves, arguments={"steps": 20})
    assert "net" not in results_of([other], tmp_path, suite_of([other]), OPTIONS)[0]
    _, (results, _) = done([other], tmp_path)
    assert results.failed["net"] == "RuntimeError: cut off"  # it found the folder empty


def test_a_damaged_record_is_made_anew(tmp_path):
    done(CHAIN, tmp_path)
    (tmp_path / "units" / "c" / FILE).write_text('{"unit": "c", "dig')
    states, (results, _) = done(CHAIN, tmp_path)
    assert ("c", "done") in states
    assert results["c"] == {"value": 3}


def test_global_random_numbers_do_not_depend_on_the_units_before(tmp_path):
    units = [Unit(name, lambda folder: {"x": np.random.random()}) for name in ("a", "b")]  # noqa: NPY002
    _, (both, _) = done(units, tmp_path / "both")
    _, (alone, _) = done(units[1:], tmp_path / "alone")
    assert both["b"] == alone["b"]
    assert both["a"] != both["b"]


def test_ranks_share_the_units_and_draw_along_what_these_need():
    units = [Unit("data", number(1))] + [Unit(f"m{i}", number(i), ("data",)) for i in range(5)]
    shares = [[unit.name for unit in share_of(units, rank, 2)] for rank in (0, 1)]
    assert shares == [["data", "m0", "m2", "m4"], ["data", "m1", "m3"]]
    assert [unit.name for unit in share_of(units, 0, 1)] == [unit.name for unit in units]
    with pytest.raises(ValueError, match="rank 2 is not one of 2"):
        share_of(units, 2, 2)


def test_ranks_give_the_numbers_of_one(tmp_path):
    units = [*CHAIN, *(Unit(f"d{i}", plus_one(f"d{i}", "a/one"), ("a/one",)) for i in range(3))]
    _, (whole, _) = done(units, tmp_path / "one")
    for rank in (1, 0):
        _, (shared, _) = done(units, tmp_path / "two", share_of(units, rank, 2))
    assert dict(shared) == dict(whole)


def test_two_processes_never_do_the_same_unit(tmp_path):
    runs = []

    def slow(folder):
        runs.append(folder)
        time.sleep(0.2)
        return {"value": 1}

    units = [Unit("slow", slow), Unit("quick", number(1)), Unit("needs", number(2), ("slow",))]
    seen = []
    other = threading.Thread(target=lambda: seen.extend(done(units, tmp_path)[0]))
    other.start()
    while not runs:
        time.sleep(0.005)
    states, (results, _) = done(units, tmp_path)
    other.join()
    assert len(runs) == 1
    assert ("slow", "kept") in states
    assert len(results) == 3
    assert {("needs", "done"), ("needs", "kept")} & set(states)


def test_a_lock_is_one_process_s(tmp_path):
    with locked(tmp_path) as first, locked(tmp_path) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path) as third:
        assert third


KILLED = """
import sys, time
from pathlib import Path
from emrecon.evaluation import Options, Suite, Unit
from emrecon.evaluation.running import ordered, run_units
def slow(folder):
    (folder / "here").write_text("x")
    time.sleep(60)
    return {}
units = [Unit("a", lambda folder: {"value": 1}), Unit("b", slow)]
suite = Suite("toy", "", 1.0, lambda o: units, lambda r, o: [])
list(run_units(ordered(units), Path(sys.argv[1]), suite, Options("quick")))
"""


def test_a_kill_loses_the_unit_in_progress_alone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ)
    own = tmp_path / "units" / "b"
    while not (own / "here").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_record(tmp_path / "units" / "a")
    assert before is not None
    assert read_record(own) is None
    units = [Unit("a", number(2)), Unit("b", number(3))]
    _, (results, records) = done(units, tmp_path)
    assert results["a"] == {"value": 1}  # kept, not done again
    assert results["b"] == {"value": 3}
    assert records["a"] == before


def test_control_c_leaves_no_half_record(tmp_path):
    def stopped(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done([Unit("a", number(1)), Unit("b", stopped)], tmp_path)
    assert read_record(tmp_path / "units" / "a").is_done
    assert read_record(tmp_path / "units" / "b") is None
    with locked(tmp_path / "units" / "b") as free:
        assert free


def test_a_folder_belongs_to_one_benchmark(tmp_path):
    suite = suite_of([])
    claim(tmp_path / "new", suite, OPTIONS)
    claim(tmp_path / "new", suite, OPTIONS)
    with pytest.raises(ValueError, match=r"another benchmark \(suite toy, size quick; this is toy, size full"):
        claim(tmp_path / "new", suite, Options("full"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds files that are not of a benchmark"):
        claim(tmp_path / "used", suite, OPTIONS)


def test_threads_are_set_for_units_and_set_back(tmp_path, monkeypatch):
    monkeypatch.setenv("EMRECON_NUM_THREADS", "7")
    unit = Unit("a", lambda folder: {"threads": os.environ["EMRECON_NUM_THREADS"]})
    _, (results, records) = done([unit], tmp_path)
    assert results["a"] == {"threads": "1"}
    assert os.environ["EMRECON_NUM_THREADS"] == "7"
    assert json.loads((tmp_path / "units" / "a" / FILE).read_text())["threads"] == records["a"].threads == 1
