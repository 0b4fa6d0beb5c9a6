"""Units, records, tables and methods: what is refused, and what is kept."""

import json
import math

import numpy as np
import pytest

from emrecon import evaluation
from emrecon.evaluation import records
from emrecon.projectors.core import FormatError

PNG = b"\x89PNG\r\n\x1a\nand so on"


def test_an_interval_has_its_limits_in_order():
    assert evaluation.Interval(1.0, 0.5, 1.5, 3).is_bounded
    assert not evaluation.Interval(1.0, math.nan, math.nan, 1).is_bounded
    with pytest.raises(ValueError, match="wrong order"):
        evaluation.Interval(1.0, 2.0, 1.5, 3)
    with pytest.raises(ValueError, match="0 observations"):
        evaluation.Interval(1.0, 1.0, 1.5, -1)


def test_rows_fit_their_columns_and_pictures_are_png():
    evaluation.Table("t", ["a", "b"], [["x", 1.0]])
    with pytest.raises(ValueError, match="a row of 1 cells does not fit 2 columns"):
        evaluation.Table("t", ["a", "b"], [["x"]])
    assert evaluation.Picture("p", PNG).note == ""
    with pytest.raises(ValueError, match="not those of a PNG"):
        evaluation.Picture("p", b"GIF89a")


def test_a_figure_becomes_a_picture():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.5, 0.5))
    figure.subplots().plot([0, 1])
    picture = evaluation.Picture.of(figure, "a line", "note")
    assert picture.png.startswith(b"\x89PNG")
    assert picture.png == evaluation.Picture.of(figure, "a line").png


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a b", "a/../b", ".hidden"])
def test_a_unit_has_a_name_that_is_a_folder(name):
    with pytest.raises(ValueError, match="must be words"):
        evaluation.Unit(name, lambda folder: {})


def test_a_unit_does_not_need_itself():
    with pytest.raises(ValueError, match="needs itself"):
        evaluation.Unit("a/b", lambda folder: {}, needs=("a/b",))


@pytest.mark.parametrize("options", [{"size": "huge"}, {"seeds": 0}, {"threads": 0}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=r"choose from|1 or more"):
        evaluation.Options(**options)


def test_numbers_that_are_missing_are_said(tmp_path):
    results = evaluation.Results({"a": {"x": 1}}, tmp_path, {"b": "ValueError: no"})
    assert results["a"] == {"x": 1}
    assert list(results) == ["a"]
    assert results.get("b") is None
    assert results.folder("pet/a") == tmp_path / "pet" / "a"
    with pytest.raises(evaluation.MissingUnitError, match="unit 'b' failed: ValueError: no"):
        results["b"]
    with pytest.raises(KeyError, match="is not done"):
        results["c"]


def test_a_unit_finds_what_it_needs(tmp_path):
    (tmp_path / "pet" / "osem").mkdir(parents=True)
    own = tmp_path / "pet" / "net" / "seed-1"
    assert evaluation.folder_of(own, "pet/net/seed-1", "pet/osem") == tmp_path / "pet" / "osem"
    with pytest.raises(evaluation.MissingUnitError):
        evaluation.numbers_of(own, "pet/net/seed-1", "pet/osem")
    records.write_record(tmp_path / "pet" / "osem", records.Record("pet/osem", "d", {"nrmse": np.float32(0.5)}))
    assert evaluation.numbers_of(own, "pet/net/seed-1", "pet/osem") == {"nrmse": 0.5}


def test_a_record_survives_its_file(tmp_path):
    record = records.Record("a", "digest", {"x": [1, 2.5, None]}, seconds=1.5, peak_memory=10, versions={"numpy": "2"})
    records.write_record(tmp_path, record)
    assert records.read_record(tmp_path) == record
    assert record.is_done
    (tmp_path / records.FILE).write_text(json.dumps({"what": 1}))
    with pytest.raises(FormatError, match="not the record of a unit"):
        records.read_record(tmp_path)
    assert records.read_record(tmp_path / "nowhere") is None


def test_numbers_become_json():
    value = {"a": np.arange(3), "b": (np.float64(1), math.nan), "c": evaluation.Interval(1.0, 0.0, math.inf, 2)}
    assert records.plain(value) == {
        "a": [0, 1, 2],
        "b": [1.0, None],
        "c": {"value": 1.0, "low": 0.0, "high": None, "n": 2},
    }
    assert records.digest_of({"a": 1, "b": 2}) == records.digest_of({"b": 2, "a": 1})
    with pytest.raises(ValueError, match=r"JSON cannot hold a.b\[0\], a object"):
        records.plain({"a": {"b": [object()]}})
    with pytest.raises(ValueError, match="texts as keys, got 1"):
        records.plain({1: 2})


def counted(case, step=1):
    return ((n, step * n * case) for n in (1, 2, 3))


def test_a_method_has_settings_and_iterations():
    method = evaluation.Method("m", "M", "classical", counted, {"step": (1, 2)})
    assert method.settings() == [{"step": 1}, {"step": 2}]
    assert method.at(10, 2, step=2) == 40
    assert method.at(10) == 30
    with pytest.raises(ValueError, match="no iteration 4"):
        method.at(10, 4)
    with pytest.raises(ValueError, match="unknown kind 'other'"):
        evaluation.Method("m", "M", "other", counted)
    with pytest.raises(ValueError, match="'step' has no values"):
        evaluation.Method("m", "M", "classical", counted, {"step": ()})
