"""`emrecon benchmark`: resumed, by ranks, with failures, and two reports compared; with a toy suite."""

import json
import re

import numpy as np
import pytest
from cli_cases import emrecon

from emrecon import evaluation
from emrecon.evaluation import Section, Suite, Table, Unit, t_interval
from emrecon.evaluation.own import own_methods

ERRORS = np.random.default_rng(0).normal(0.3, 0.05, 8)
RUNS = []


def method(likelihood, start=None, *, guide=None):
    return likelihood


def toy(shift=0.0, failing=(), extras=()):
    def unit(name, value):
        def run(folder):
            RUNS.append(name)
            if name in failing:
                raise ValueError("no counts")
            return {"subjects": {"nrmse": ERRORS + value + shift}, "data_digest": "abc"}

        return Unit(name, run)

    def units(options):
        own = [Unit(f"pet/{one.name}", lambda folder: {"x": 1}) for one in own_methods(options.methods)]
        return [unit(f"pet/{name}", i) for i, name in enumerate(("osem", "map", "kem"))] + own

    def sections(results, options):
        found = {name: one["subjects"]["nrmse"] for name, one in results.items() if "subjects" in one}
        rows = [[name, t_interval(errors)] for name, errors in found.items()]
        return [Section("Errors", [Table("NRMSE", ["method", "error"], rows)])]

    return Suite("toy", "A toy", 0.1, units, sections, extras, "quick")


@pytest.fixture(autouse=True)
def suites(monkeypatch):
    RUNS.clear()
    found = {"toy": toy(), "failing": toy(failing=("pet/map",)), "needy": toy(extras=("no_such_package",))}
    monkeypatch.setattr(evaluation, "SUITES", found)
    return found


def read(folder):
    return json.loads((folder / "report.json").read_text())


def numbers(folder):
    found = read(folder)
    return {key: value for key, value in found.items() if key not in ("date", "runs")}


def test_without_a_suite_it_lists_them():
    out = emrecon("benchmark", check=0).stdout
    assert re.search(r"toy\s+6.0 s\s+A toy", out)


def test_a_suite_runs_once_and_writes_its_report(tmp_path):
    done = emrecon("benchmark", "toy", "--out", tmp_path / "b", check=0)
    assert "[2/3] pet/map: done in" in done.stdout
    assert "wrote" in done.stdout
    assert (tmp_path / "b" / "report.html").exists()
    first = numbers(tmp_path / "b")
    assert first["units"]["pet/osem"]["subjects"]["nrmse"] == pytest.approx(ERRORS)
    assert first["options"] == {"size": "quick", "seeds": 3, "methods": [], "threads": first["options"]["threads"]}
    done = emrecon("benchmark", "toy", "--out", tmp_path / "b", check=0)
    assert "kept 3 units" in done.stdout
    assert RUNS == ["pet/osem", "pet/map", "pet/kem"]
    assert numbers(tmp_path / "b") == first
    assert emrecon("benchmark", "toy", "--out", tmp_path / "c", "-q", check=0).stdout == ""


def test_ranks_give_the_report_of_one(tmp_path):
    emrecon("benchmark", "toy", "--out", tmp_path / "one", check=0)
    first = emrecon("benchmark", "toy", "--out", tmp_path / "two", "--rank", 1, "--of", 2, check=0)
    assert "2 units are left to other ranks" in first.stdout
    assert not (tmp_path / "two" / "report.json").exists()
    emrecon("benchmark", "toy", "--out", tmp_path / "two", "--rank", 0, "--of", 2, check=0)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")


def test_job_arrays_say_the_rank(tmp_path, monkeypatch):
    for name, value in (("TASK_ID", "8"), ("TASK_MIN", "7"), ("TASK_COUNT", "2")):
        monkeypatch.setenv(f"SLURM_ARRAY_{name}", value)
    emrecon("benchmark", "toy", "--out", tmp_path / "b", check=0)
    assert RUNS == ["pet/map"]


def test_a_report_of_what_is_there(tmp_path):
    emrecon("benchmark", "toy", "--out", tmp_path / "b", "--rank", 1, "--of", 3, check=0)
    done = emrecon("benchmark", "toy", "--out", tmp_path / "b", "--report-only", check=0)
    assert RUNS == ["pet/map"]
    assert read(tmp_path / "b")["missing"] == ["pet/osem", "pet/kem"]
    assert "2 units have not been run" in done.stderr


def test_a_failure_is_reported_and_others_go_on(tmp_path):
    done = emrecon("benchmark", "failing", "--out", tmp_path / "b", check=1)
    assert "pet/map has no result: ValueError: no counts" in done.stderr
    assert "pet/map: failed" in done.stdout
    found = read(tmp_path / "b")
    assert found["failed"] == {"pet/map": "ValueError: no counts"}
    assert set(found["units"]) == {"pet/osem", "pet/kem"}


def test_a_method_of_one_s_own_joins(tmp_path, monkeypatch):
    (tmp_path / "my_methods_of_a_test.py").write_text(
        "def mine(likelihood, start=None, *, guide=None): return likelihood\n"
    )
    path = "my_methods_of_a_test:mine"
    emrecon("benchmark", "toy", "--out", tmp_path / "b", "--method", path, cwd=tmp_path, check=0)
    assert "pet/own-my-methods-of-a-test-mine" in read(tmp_path / "b")["units"]
    done = emrecon("benchmark", "toy", "--out", tmp_path / "c", "--method", "no_such:mine", check=2)
    assert "--method" in done.stderr
    assert "cannot import no_such" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing", "--out", "x"], 2, "unknown suite 'nothing'; choose from toy"),
        (["toy"], 2, "--out"),
        (["toy", "toy", "--out", "x"], 2, "one suite at a time"),
        (["toy", "--out", "x", "--size", "huge"], 2, "unknown size 'huge'; choose from quick, full"),
        (["toy", "--out", "x", "--rank", "1"], 2, "--rank and --of together"),
        (["toy", "--out", "x", "--rank", "2", "--of", "2"], 2, "ranks go from 0 to 1"),
        (["needy", "--out", "x"], 1, "needs no_such_package: pip install no_such_package"),
        (["compare", "a.json"], 2, "two reports, got 1"),
        (["compare", "a.json", "b.json", "--out", "x"], 2, "not used along with compare"),
        (["compare", "a.json", "b.json"], 3, "a.json"),
    ],
)
def test_wrong_usage_is_one_line(arguments, code, message, tmp_path):
    done = emrecon("benchmark", *arguments, cwd=tmp_path, check=code)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    assert "not of a benchmark" in emrecon("benchmark", "toy", "--out", tmp_path, check=3).stderr
    emrecon("benchmark", "toy", "--out", tmp_path / "b", check=0)
    assert (
        "size quick; this is toy, size full"
        in emrecon("benchmark", "toy", "--out", tmp_path / "b", "--size", "full", check=3).stderr
    )


def test_two_reports_are_compared(tmp_path, suites):
    emrecon("benchmark", "toy", "--out", tmp_path / "a", check=0)
    same = emrecon("benchmark", "compare", tmp_path / "a", tmp_path / "a" / "report.json", check=0)
    assert "6 numbers: 6 same" in same.stdout
    suites["toy"] = toy(shift=0.01)
    emrecon("benchmark", "toy", "--out", tmp_path / "b", check=0)
    done = emrecon("benchmark", "compare", tmp_path / "a", tmp_path / "b", check=0)
    assert "pet/osem: nrmse" in done.stdout
    assert "3 changed" in done.stdout
    assert "3 within intervals" in done.stdout
