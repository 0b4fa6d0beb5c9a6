"""Reports: one page that needs nothing else, with the numbers of the image, and without anybody's name."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from emrecon import figures, formats
from emrecon.figures.reports.report import number
from emrecon.formats import FormatError, ImageTimes, InputFile, Orbit, Pass, Provenance
from emrecon.projectors import ImageGrid, SPECTGeometry

GRID = ImageGrid((12, 10, 8), 5.0)
CAMERA = SPECTGeometry.circular(8, 200, (12, 8), 5.0, direction="cw")
RECORD = Provenance(
    command="emrecon reconstruct scan.h5 --method osem",
    method="osem",
    parameters={"subsets": "4", "iterations": "3"},
    unit="Bq/mL",
    inputs=(InputFile("projections", "scan.h5", "ab" * 32, 123456),),
    acquisition=("SPECT: 8 views", "radionuclide Lu-177, half-life 6.6 days", "12.5 s per view", "4 001 counts"),
    physics=("<SPECTProjector>", "  attenuation  up to 0.15 /cm"),
    notes=('<script>alert("x")</script> & so on',),
    convergence=(Pass(1, 0.5, 10.0), Pass(2, 1.0, 5.0, 0.25), Pass(3, 1.5, 4.0, 0.1)),
    orbit=Orbit.of(CAMERA),
    calibration=("Bq/mL = image x 3",),
    subject={"radionuclide": "Lu-177", "SUV per Bq/mL": 1e-3},
    seconds=75.0,
)


def image():
    values = np.full(GRID.shape, 1000.0, np.float32)
    values[4:8, 4:8, 2:6] = 5000.0
    return values


def labels():
    found = np.zeros(GRID.shape, np.float32)
    found[4:8, 4:8, 2:6] = 1
    found[0:2] = 2
    return found


class Page(HTMLParser):
    """The tags that were opened and closed, the texts, and the rows of tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.rows, self.tags, self.sources = [], [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not data.strip() or self.open[-1] == "style":
            return
        self.texts.append(data.strip())
        if "tr" in self.open:
            self.rows[-1].append(data.strip())


def page_of(run, **more):
    return Page(figures.report_html(run, **more))


@pytest.fixture
def run():
    return figures.Run("image.nii.gz", image(), GRID, RECORD, masks={"lesion": labels() == 1, "<b>rim": labels() == 2})


def test_a_report_needs_nothing_else(run):
    page = page_of(run)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.sources
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", source) for source in page.sources)
    text = figures.report_html(run)
    assert "http" not in text
    assert "url(" not in text
    assert "@media print" in text
    assert "<script" not in text
    assert "<b>rim" not in text
    said = " ".join(page.texts)
    for words in (RECORD.notes[0], RECORD.command, "ab" * 32, "up to 0.15 /cm", "Bq/mL = image x 3", "12.5 s per view"):
        assert words in said
    assert "75 s" in said
    assert "123 456" in said


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes most of the time; what is written beside the pictures does not need them."""
    monkeypatch.setattr("emrecon.figures.reports.report.picture", lambda figure, says, *more, **other: says)


def test_regions_are_measured(run):
    # 64 voxels of 0.125 mL with 5 kBq/mL; the sphere of 1 mL nearly fits into it
    found = figures.region_rows(image(), GRID, run.masks)
    assert found[0].volume == 8.0
    assert found[0].mean == 5000.0
    assert found[0].sd == 0.0
    assert found[0].total == 40000.0
    assert 4500 < found[0].peak <= 5000.0
    assert found[1].mean == 1000.0
    counts = figures.region_rows(image(), GRID, run.masks, "counts")
    assert counts[0].total == 64 * 5000.0


def test_numbers_come_in_units_that_read_well(run, without_pictures):
    tables = [row for row in page_of(run).rows if row[:1] in (["lesion"], ["region"])]
    assert tables[0][1:4] == ["volume (mL)", "mean (kBq/mL)", "SD"]
    assert tables[0][-1] == "total (kBq)"
    assert tables[1][1:3] == ["8.000", "5.000"]
    assert tables[1][-1] == "40.00"
    assert tables[3][:2] == ["lesion", "5.000"]  # SUV


def test_an_image_in_counts_is_said_not_to_be_calibrated(run, without_pictures):
    page = page_of(replace(run, record=replace(RECORD, unit="", calibration=())))
    assert "the image is not calibrated: its values are not an activity concentration" in page.texts
    assert "total (counts)" in page.texts
    assert "SUV by body weight" not in page.texts


def test_names_stand_there_only_when_they_are_given(run, without_pictures):
    assert "Roe, Jane" not in " ".join(page_of(run).texts)
    page = page_of(run, patient="Roe, Jane", title="A <i>title</i>")
    assert "Roe, Jane" in page.texts
    assert "A <i>title</i>" in page.texts


def test_frames_have_curves_and_a_table(run, without_pictures):
    times = ImageTimes((60.0, 120.0), (0.0, 60.0))
    frames = np.stack([image(), 2 * image()])
    found = replace(run, image=frames, times=times)
    assert np.allclose(found.shown, image() * 5 / 3)
    rows = page_of(found).rows
    assert ["mean (kBq/mL)", "0.5", "2"] in rows
    assert ["lesion", "5.000", "10.00"] in rows


def test_a_run_without_regions_orbit_or_convergence(run, without_pictures):
    bare = replace(RECORD, orbit=None, convergence=(), acquisition=(), inputs=(), physics=(), notes=(), subject={})
    page = page_of(replace(run, masks={}, record=bare))
    assert "No warnings." in page.texts
    assert "Regions" not in page.texts
    short = replace(RECORD, convergence=(Pass(1, 0.5, 10.0),))
    assert "1 iteration: too few for a curve." in page_of(replace(run, record=short)).texts


def test_files_are_read_and_put_in_place(tmp_path):
    record = replace(RECORD, placement=(100.0, 0.0, -50.0))
    moved = ImageGrid(GRID.shape, GRID.voxel_size, tuple(np.add(GRID.origin, (100.0, 0.0, -50.0)).tolist()))
    formats.write_image(tmp_path / "image.h5", image(), GRID, provenance=record)
    (tmp_path / "a").mkdir()
    formats.write_image(tmp_path / "a" / "image.nii.gz", image(), moved, provenance=record)
    formats.write_image(tmp_path / "labels.nii.gz", labels(), moved)
    formats.write_image(tmp_path / "ct.nii.gz", np.zeros(GRID.shape, np.float32), moved)
    for path in ("image.h5", "a/image.nii.gz", "a/image.json", "a"):
        found = figures.read_run(tmp_path / path, ct=tmp_path / "ct.nii.gz", masks=[tmp_path / "labels.nii.gz"])
        assert np.allclose(found.grid.origin, moved.origin)
        assert [int(mask.sum()) for mask in found.masks.values()] == [64, 160]
        assert found.name == ("image.h5" if path == "image.h5" else "image.nii.gz")
    (tmp_path / "a" / "image.nii.gz").unlink()
    with pytest.raises(FormatError, match="which is not beside it"):
        figures.read_run(tmp_path / "a")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345.6, "12\u202f350"),
        (1.23456, "1.235"),
        (0.00123456, "0.001235"),
        (9.9999, "10.00"),
        (1e9, "1.000e+09"),
        (-5, "-5.000"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_a_region_outside_of_the_image_is_left_out_and_said(tmp_path, caplog):
    formats.write_image(tmp_path / "a.nii", image(), GRID, provenance=RECORD)
    wide = ImageGrid((24, 10, 8), 5.0, GRID.origin)
    values = np.zeros(wide.shape, np.float32)
    values[8:16, 4:8, 2:6], values[20:23] = 1, 2
    formats.write_image(tmp_path / "labels.nii", values, wide)
    run = figures.read_run(tmp_path / "a.nii", masks=[tmp_path / "labels.nii"])
    assert list(run.masks) == ["label 1"]
    assert run.masks["label 1"].sum() == 4 * 4 * 4
    assert "label 1 goes on beyond the grid, where it is cut off" in caplog.text
    assert run.remarks == ("the region label 2 lies outside of the image and is left out",)
