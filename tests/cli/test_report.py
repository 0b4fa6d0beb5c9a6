"""`emrecon report`, as a user runs it."""

import numpy as np
import pytest
from cli_cases import emrecon

from emrecon import formats
from emrecon.projectors import ImageGrid, Scan, SPECTGeometry, Study

CAMERA = SPECTGeometry.circular(6, 60, (12, 6), 5.0)
STUDY = Study(patient_position="HFS", attributes={"PatientName": "Roe^Jane", "PatientID": "99-1234"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    counts = np.random.default_rng(0).poisson(5.0, CAMERA.shape).astype(np.float32)
    scan = Scan(counts, CAMERA, 0.1, duration=10.0, radionuclide="Tc-99m", energy_window=(126.0, 154.0), study=STUDY)
    formats.write_scan(folder / "scan.h5", scan)
    common = ("--subsets", 2, "--iterations", 3, "--out", folder / "image.nii.gz")
    emrecon("reconstruct", folder / "scan.h5", *common, check=0)
    return folder


def test_an_image_becomes_a_report(folder, tmp_path):
    out = tmp_path / "report.html"
    done = emrecon("report", folder / "image.nii.gz", "--out", out, "--title", "Study <1>", check=0)
    assert f"wrote {out}" in done.stdout
    text = out.read_text()
    assert "Study &lt;1&gt;" in text
    assert "Roe" not in text
    assert "99-1234" not in text
    assert "OSEM, 2 subsets, 3 iterations" in text


def test_regions_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("emrecon.figures.reports.report.picture", lambda figure, says, *more, **other: says)
    grid = CAMERA.default_grid()
    labels = np.zeros(grid.shape, np.float32)
    labels[3:6, 3:6, 1:4] = 7
    formats.write_image(tmp_path / "labels.nii.gz", labels, grid)
    out = tmp_path / "report.html"
    common = ("--masks", tmp_path / "labels.nii.gz", "--mask-names", "7=hot sphere")
    emrecon("report", folder / "image.nii.gz", *common, "--out", out, check=0)
    assert "hot sphere" in out.read_text()


def test_the_name_is_shown_on_demand(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("emrecon.figures.reports.report.picture", lambda figure, says, *more, **other: says)
    out = tmp_path / "report.html"
    done = emrecon("report", folder, "--out", out, "--with-names", check=2)
    assert "--names-from" in done.stderr
    emrecon("report", folder, "--out", out, "--with-names", "--names-from", folder / "scan.h5", check=0)
    assert "Roe Jane, 99-1234" in out.read_text()
    done = emrecon("report", folder, "--out", out, "--names-from", folder / "scan.h5", check=2)
    assert "--with-names" in done.stderr


def test_what_cannot_be_is_said_in_a_line(folder, tmp_path):
    image = folder / "image.nii.gz"
    for value, words in (("1", "is not NUMBER=NAME"), ("1=liver", "along with --masks only")):
        masks = () if "liver" in value else ("--masks", image)
        done = emrecon("report", image, *masks, "--mask-names", value, "--out", tmp_path / "a.html", check=2)
        assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "--out" in emrecon("report", image, "--out", tmp_path / "a.txt", check=2).stderr
    assert "does not exist" in emrecon("report", image, "--out", tmp_path / "no" / "a.html", check=4).stderr
    assert "no.nii" in emrecon("report", folder / "no.nii", "--out", tmp_path / "a.html", check=3).stderr
    plain = tmp_path / "plain.nii"
    formats.write_image(plain, np.ones((3, 3, 3)), ImageGrid((3, 3, 3), 2.0))
    done = emrecon("report", plain, "--out", tmp_path / "a.html", check=3)
    assert "holds no record of where it comes from" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.html"))
