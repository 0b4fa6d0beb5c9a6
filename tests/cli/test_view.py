"""`emrecon view` and `emrecon compare`: what is drawn, printed and refused."""

import json
import re

import nm_cases
import numpy as np
import pytest
from cli_cases import emrecon

from emrecon import figures, formats
from emrecon.projectors import ImageGrid

GRID = ImageGrid((12, 10, 6), (4.0, 4.0, 8.0), (-22.0, -18.0, 100.0))
COARSE = ImageGrid((8, 8, 5), (8.0, 8.0, 10.0), (-28.0, -28.0, 100.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    x, y, z = GRID.coordinates()
    image = (1000.0 + 10 * x + 5 * y + 2 * z).astype(np.float32)
    formats.write_image(folder / "image.nii.gz", image, GRID, unit="Bq/mL")
    formats.write_image(folder / "more.h5", 1.1 * image, GRID)
    x, y, z = COARSE.coordinates()
    formats.write_image(folder / "coarse.nii.gz", 1000.0 + 10 * x + 5 * y + 2 * z, COARSE)
    formats.write_image(folder / "dynamic.nii.gz", np.stack([image, 3 * image]), GRID)
    ct = np.where(np.abs(COARSE.coordinates()[0]) + 0 * y + 0 * z < 20, 40.0, -1000.0)
    formats.write_image(folder / "ct.nii.gz", ct, COARSE)
    labels = np.zeros(GRID.shape, np.float32)
    labels[2:5, 2:5, 1:4], labels[7:10, 2:5, 1:4] = 1, 2
    formats.write_image(folder / "labels.nii.gz", labels, GRID)
    far = ImageGrid(COARSE.shape, COARSE.voxel_size, (500.0, 0.0, 0.0))
    formats.write_image(folder / "far.nii.gz", ct, far)
    return folder


def shown(done):
    return " ".join((done.stdout + done.stderr).replace("│", " ").split())


def view(folder, *options, check=0, image="image.nii.gz"):
    return shown(emrecon("view", folder / image, "--dpi", 20, *options, check=check, cwd=folder))


def compare(folder, other, *options, check=0, image="image.nii.gz"):
    return emrecon("compare", image, other, "--dpi", 20, *options, check=check, cwd=folder)


@pytest.mark.parametrize(
    ("options", "start"),
    [
        (("--out", "a.png", "--unit", "kBq/mL", "--at", "0,0,120", "--crosshair"), b"\x89PNG"),
        (("--out", "a.pdf", "--mip"), b"%PDF"),
        (("--out", "a.svg", "--montage", "--plane", "coronal", "--slices", "0mm,8mm"), b"<?xml"),
        (("--out", "a.gif", "--mip", "--rotate", 2), b"GIF89a"),
    ],
)
def test_pictures_of_every_kind(folder, options, start):
    assert view(folder, *options) == f"wrote {options[1]}"
    assert (folder / options[1]).read_bytes().startswith(start)


def test_no_name_is_written_on_a_picture(folder, monkeypatch):
    from matplotlib.text import Text

    written = []

    def keep(figure, path, dpi):
        written.extend(text.get_text() for text in figure.findobj(Text))

    monkeypatch.setattr(figures, "save", keep)
    (folder / "DOE^JOHN.nii.gz").write_bytes((folder / "image.nii.gz").read_bytes())
    compare(folder, "more.h5", "--out", "c.svg", image="DOE^JOHN.nii.gz")
    view(folder, "--out", "b.svg", image="DOE^JOHN.nii.gz")
    assert "Bq/mL" in " ".join(written)
    assert "DOE" not in " ".join(written)


def test_overlays_say_what_they_took_for_granted(folder):
    said = view(folder, "--out", "o.png", "--overlay", folder / "ct.nii.gz", "--masks", folder / "labels.nii.gz")
    assert "taken for a CT in Hounsfield units by its values; --overlay-window" in said
    assert "the overlay covers" not in said
    far = view(folder, "--out", "o.png", "--overlay", folder / "far.nii.gz", check=2)
    assert "does not overlap the image: x 496 to 560" in far


def test_frames_are_chosen_or_averaged_with_a_note(folder):
    from emrecon.cli.images import load

    assert "2 frames, and their mean is shown" in view(folder, "--out", "d.png", image="dynamic.nii.gz")
    one = load(folder / "dynamic.nii.gz", frame=2).image
    np.testing.assert_allclose(one, 3 * load(folder / "dynamic.nii.gz", frame=1).image)
    assert "there are frames 1 to 2, got 3" in view(
        folder, "--out", "d.png", "--frame", 3, image="dynamic.nii.gz", check=2
    )
    assert "holds one volume" in view(folder, "--out", "d.png", "--frame", 2, check=2)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--out", "a.jpg"), 2, "a picture is .png, .svg or .pdf, not 'a.jpg'"),
        (("--out", "a.gif"), 2, "an animation (.gif) is of --mip --rotate N"),
        (("--out", "a.png", "--at", "0,0,999"), 2, "z = 999 mm is outside of the image, which lies from 96 to 144 mm"),
        (("--out", "a.png", "--at", "here"), 2, "'here' is not X,Y,Z in mm"),
        (("--out", "a.png", "--window", "5"), 2, "'5' is not LOW,HIGH"),
        (("--out", "a.png", "--window", "9,2"), 2, "from 9 to 2"),
        (("--out", "a.png", "--colour", "greay"), 2, "did you mean 'grey'"),
        (("--out", "a.png", "--unit", "SUV"), 2, "is in Bq/mL, which cannot be converted to SUV"),
        (("--out", "a.png", "--slices", "3"), 2, "used along with --montage only"),
        (("--out", "a.png", "--montage", "--slices", "99,1"), 2, "no slice 99"),
        (("--out", "a.png", "--montage", "--slices", "x"), 2, "'x' is not a number of slices"),
        (("--out", "a.png", "--montage", "--plane", "oblique"), 2, "unknown plane 'oblique'"),
        (("--out", "a.png", "--montage", "--mip"), 2, "not both"),
        (("--out", "a.png", "--mip", "--at", "max"), 2, "it is for the three views"),
        (("--out", "a.png", "--mip", "--overlay", "ct.nii.gz"), 2, "it is for slices"),
        (("--out", "a.png", "--opacity", "0.5"), 2, "used along with --overlay only"),
        (("--out", "image.nii.gz"), 2, "a picture is"),
        (("--out", "nowhere/a.png"), 4, "the folder does not exist"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(folder, options, code, message):
    assert message in view(folder, *options, check=code)


def test_comparisons_print_their_numbers_and_write_them(folder):
    done = compare(folder, "more.h5", "--out", "e.png", "--json", "e.json")
    assert "B against A, all voxels: 720 voxels" in done.stdout
    assert "bias +10.00 %" in shown(done)
    assert re.search(r"means A \S+ Bq/mL, B \S+ \(no unit\)", shown(done))
    assert "note: B does not say its unit: unless it is Bq/mL, too, bias, ratios and differences" in shown(done)
    numbers = json.loads((folder / "e.json").read_text())
    assert numbers["nrmse"] == pytest.approx(0.1, rel=1e-5)
    assert (numbers["unit"], numbers["region"]) == ("Bq/mL", "all voxels")


def test_scaling_and_regions_by_name(folder):
    options = ("--region", "labels.nii.gz", "--out", "g.svg", "--scale", "--region-name")
    one = compare(folder, "more.h5", *options, "label 2")
    assert "region label 2: 27 voxels" in one.stdout
    assert "B was multiplied by 0.909" in one.stdout
    assert "NRMSE 0.0000" in shown(one)
    assert "choose from label 1, label 2" in shown(compare(folder, "more.h5", *options, "liver", check=2))


def test_another_grid_is_resampled_with_a_note(folder):
    options = ("--threshold", 0.5, "--out", "f.png", "--labels", "first,second", "--profile", "z")
    done = compare(folder, "coarse.nii.gz", *options)
    assert "second (8x8x5 voxels of 8 x 8 x 10 mm) was resampled onto the grid of first" in done.stdout
    assert float(done.stdout.split("NRMSE")[1].split()[0]) < 0.01  # a ramp stays one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threshold", 2), "from 0 to below 1"),
        (("--region-name", "liver"), "used along with --region only"),
        (("--profile", "w"), "'w' is not x, y, z"),
        (("--profile", "0,0,0:0,0,9"), "lies outside of the image"),
        (("--labels", "one"), "not two names"),
    ],
)
def test_comparisons_that_cannot_be_made(folder, options, message):
    assert message in shown(compare(folder, "more.h5", "--out", "h.png", *options, check=2))


def test_dicom_says_its_unit_and_becomes_suv(folder):
    from emrecon.cli.images import load
    from emrecon.formats import PETFacts

    image = np.full(GRID.shape, 5000.0, np.float32)
    formats.write_dicom_pet(folder / "PT", image, GRID, PETFacts(units="BQML", decay_correction="NONE"))
    shown = load(folder / "PT", unit="kBq/mL")
    assert (shown.unit, formats.image_unit(folder / "PT")) == ("kBq/mL", "Bq/mL")
    np.testing.assert_allclose(shown.image, 5.0, rtol=1e-4)
    assert "the patient's weight in kg" in view(folder, "--out", "p.png", "--unit", "SUV", image="PT", check=2)


def test_planar_images_are_drawn_side_by_side(tmp_path):
    nm = tmp_path / "body.dcm"
    formats.write_dicom_nm(nm, nm_cases.windowed(n=1), kind="WHOLE BODY")
    said = view(tmp_path, "--out", tmp_path / "body.png", image=nm)
    assert "wrote" in said
    assert (tmp_path / "body.png").exists()
    assert "--mip: it is for volumes" in view(tmp_path, "--mip", "--out", "a.png", image=nm, check=2)
    counts = np.arange(24.0).reshape(3, 2, 4)
    page = figures.planar(counts, (2.0, 3.0), ["front", "back", "side"])
    panels = [axis for axis in page.axes if axis.images and axis.get_title()]
    assert [axis.get_title() for axis in panels] == ["front", "back", "side"]
    drawn = panels[1].images[0]
    top = drawn.get_array()[::-1] if drawn.origin == "lower" else drawn.get_array()
    np.testing.assert_array_equal(top, counts[1])  # rows from the top
    left, right, bottom, above = drawn.get_extent()
    assert (right - left, above - bottom) == (12.0, 4.0)
    with pytest.raises(ValueError, match="2 labels for 3 images"):
        figures.planar(counts, None, ["a", "b"])
