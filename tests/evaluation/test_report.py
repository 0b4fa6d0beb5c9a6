"""Reports: whole, alone, the same from run to run; and what changed between two of them."""

import json
import math
import re

import numpy as np
import pytest

from emrecon.evaluation import Interval, Options, Picture, Section, Suite, Table, Text, Unit
from emrecon.evaluation.comparing import compare_reports, read_report
from emrecon.evaluation.page import write_report
from emrecon.evaluation.report import as_json, make_report
from emrecon.evaluation.running import ordered, run_units
from emrecon.projectors.core import FormatError

OPTIONS = Options("quick", seeds=2)
PNG = b"\x89PNG\r\n\x1a\nand so on"
RNG = np.random.default_rng(0)
ERRORS = RNG.normal(0.3, 0.05, 12)


def toy(errors=ERRORS, digest="abc", fails=False):
    def run(folder):
        if fails:
            raise ValueError("no <counts> & no mercy")
        return {"subjects": {"nrmse": errors, "seconds": [1.0]}, "data_digest": digest}

    def sections(results, options):
        mean = float(np.mean(results["pet/osem"]["subjects"]["nrmse"]))
        rows = [
            ["OSEM <best>", Interval(mean, mean - 0.02, mean + 0.02, 12), 1234, None],
            ["MAP", Interval(0.2, math.nan, math.nan, 1), math.nan, 0.5],
        ]
        yield Section("Errors", [Table("NRMSE", ["method", "error", "counts", "gain"], rows, "a note")])
        yield Section("Looks", [Picture("slices", PNG, "one window"), Text("why", ["a < b"])])
        yield Section("Time", [Table("seconds", ["method", "s"], [["OSEM", RNG.random()]], varies=True)])

    units = [Unit("pet/osem", run), Unit("pet/after", lambda folder: {"x": 1}, ("pet/osem",))]
    return Suite("toy", "A toy & more", 1.0, lambda options: units, sections)


def reported(suite, folder):
    units = ordered(suite.units(OPTIONS))
    list(run_units(units, folder, suite, OPTIONS))
    return make_report(units, folder, suite, OPTIONS)


def test_a_page_stands_alone_and_holds_everything(tmp_path):
    html, file = write_report(reported(toy(), tmp_path), tmp_path)
    page = html.read_text("utf-8")
    assert "A toy &amp; more" in page
    assert "OSEM &lt;best&gt;" in page
    assert "a &lt; b" in page
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert "n = 12" in page
    read = json.loads(file.read_text())
    assert read["units"]["pet/osem"]["subjects"]["nrmse"] == pytest.approx(ERRORS)
    table = read["sections"][0]["parts"][0]
    assert table["rows"][0][1]["n"] == 12
    assert table["rows"][1][1:] == [{"value": 0.2, "low": None, "high": None, "n": 1}, None, 0.5]
    assert read["sections"][1]["parts"][0]["sha256"]
    assert read["data"] == {"pet/osem": "abc"}
    assert read["options"]["seeds"] == 2
    assert read["failed"] == {}
    assert read["runs"]["pet/osem"]["seconds"] >= 0
    assert read["versions"]["numpy"] == [np.__version__]
    assert read["machines"]


def without_times(report):
    kept = {key: value for key, value in as_json(report).items() if key not in ("date", "runs")}
    sections = [[part for part in one["parts"] if not part.get("varies")] for one in kept.pop("sections")]
    return kept | {"parts": sections}


def test_two_runs_have_the_same_report_but_for_times(tmp_path):
    first, second = (without_times(reported(toy(), tmp_path / name)) for name in "ab")
    assert first == second


def test_a_failure_is_in_the_report(tmp_path):
    report = reported(toy(fails=True), tmp_path)
    html, file = write_report(report, tmp_path)
    read = json.loads(file.read_text())
    assert read["failed"]["pet/osem"] == "ValueError: no <counts> & no mercy"
    assert "it needs 'pet/osem'" in read["failed"]["pet/after"]
    assert "no &lt;counts&gt; &amp; no mercy" in html.read_text()
    assert read["sections"][0]["title"] == "Incomplete"
    assert "unit 'pet/osem' failed" in read["sections"][0]["parts"][0]["paragraphs"][0]


def test_sections_that_fail_do_not_lose_the_numbers(tmp_path):
    suite = Suite("toy", "t", 1.0, toy().units, lambda results, options: 1 / 0)
    report = reported(suite, tmp_path)
    assert "ZeroDivisionError" in report.failed["sections of the report"]
    assert "pet/osem" in as_json(report)["units"]


def test_units_that_nobody_ran_are_missing(tmp_path):
    suite = toy()
    report = make_report(suite.units(OPTIONS), tmp_path, suite, OPTIONS)
    assert report.missing == ["pet/osem", "pet/after"]
    write_report(report, tmp_path)


def compared(tmp_path, first, second):
    pair = []
    for name, suite in (("a", first), ("b", second)):
        folder = tmp_path / name
        write_report(reported(suite, folder), folder)
        pair.append(read_report(folder))
    return compare_reports(*pair)


def test_the_same_numbers_are_the_same(tmp_path):
    found = compared(tmp_path, toy(), toy())
    assert {one.verdict for one in (*found.subjects, *found.cells)} == {"same"}
    assert not found.changed
    assert not found.notes


def test_subjects_pair_and_small_changes_are_seen(tmp_path):
    found = compared(tmp_path, toy(), toy(ERRORS + 0.002 + RNG.normal(0, 0.0005, 12)))
    (one,) = found.subjects
    assert one.what == "pet/osem: nrmse"
    assert (one.verdict, one.is_paired) == ("changed", True)
    assert one.difference.value == pytest.approx(0.002, abs=0.0006)
    cell = next(cell for cell in found.cells if "error" in cell.what and "OSEM" in cell.what)
    assert cell.verdict == "within intervals"
    assert not any("seconds" in one.what for one in (*found.subjects, *found.cells))


def test_other_data_do_not_pair(tmp_path):
    found = compared(tmp_path, toy(), toy(ERRORS + 0.002, digest="other"))
    (one,) = found.subjects
    assert (one.verdict, one.is_paired) == ("within chance", False)
    assert "the data differ (pet/osem)" in found.notes[0]


def test_differences_beyond_intervals_and_missing_units_are_said(tmp_path):
    found = compared(tmp_path, toy(), toy(ERRORS + 0.2))
    cell = next(cell for cell in found.cells if "error" in cell.what and "OSEM" in cell.what)
    assert cell.verdict == "changed"
    found = compared(tmp_path / "c", toy(), toy(fails=True))
    assert any("only the first report has results of pet/after, pet/osem" in note for note in found.notes)


def test_subjects_without_numbers_are_said(tmp_path):
    found = compared(tmp_path, toy(), toy(np.where(np.arange(12) == 3, math.nan, ERRORS)))
    assert not found.subjects
    assert any("subjects without a number in nrmse" in note for note in found.notes)


def test_what_is_no_report_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(FormatError, match="not the report of a benchmark"):
        read_report(tmp_path / "x.json")
    (tmp_path / "y.json").write_text('{"schema": "emrecon benchmark 1"}')
    with pytest.raises(FormatError, match="no 'units'"):
        read_report(tmp_path / "y.json")
    with pytest.raises(FileNotFoundError):
        read_report(tmp_path / "z.json")
    with pytest.raises(ValueError, match="two suites, 'a' and 'b'"):
        compare_reports({"suite": "a"}, {"suite": "b"})
