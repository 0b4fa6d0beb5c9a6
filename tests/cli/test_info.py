"""`emrecon info`: every kind of file that the library reads or writes, and headers with replaced values."""

import numpy as np
import pytest
from cli_cases import emrecon, listmode
from recipe_cases import SMALL_SPECT

from emrecon import formats
from emrecon.cli.options import header_values
from emrecon.formats import describing
from emrecon.projectors import ImageGrid, Normalisation, PETScanner, Scan, SPECTGeometry
from emrecon.recon import Checkpoint, Iterate
from emrecon.sims import recipes
from emrecon.sims.datasets import write_dataset

GRID = ImageGrid((6, 5, 4), (4.0, 4.0, 5.0))
IMAGE = np.arange(120, dtype=np.float32).reshape(GRID.shape)


def facts_of(*arguments):
    """What the command prints, by name."""
    lines = emrecon("info", *arguments, check=0).stdout.splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition("  ") for line in lines)}


def test_a_dicom_series_its_folder_and_one_of_its_files(tmp_path):
    facts = formats.PETFacts(units="BQML", radionuclide="F-18", weight=70.0, series_description="[bold]FDG[/]")
    formats.write_dicom_pet(tmp_path / "pet", IMAGE, GRID, facts)
    found = facts_of(tmp_path / "pet")
    assert found["format"] == "DICOM PT"
    assert found["values"] == "6 x 5 x 4 float32"
    assert float(found["sum"]) == pytest.approx(IMAGE.sum(), rel=1e-3)
    assert (found["units"], found["radionuclide"], found["description"]) == ("BQML", "F-18", "[bold]FDG[/]")
    assert found["SUV, body weight"].startswith("unknown: ")
    assert facts_of(tmp_path / "pet" / "0001.dcm")["values"] == "6 x 5 x 1 float32"


def test_a_folder_of_several_series_lists_them(tmp_path):
    for name in ("one", "two"):
        formats.write_dicom_pet(tmp_path / name, IMAGE, GRID, formats.PETFacts(units="BQML", series_description=name))
    found = facts_of(tmp_path)
    assert found["holds"] == "2 series"
    assert found["series 1"].startswith("PT: 4 slices of 6 x 5")
    assert {found[f"series {i}"].split("; ")[1] for i in (1, 2)} == {"one", "two"}


@pytest.mark.parametrize("modality", ["NM", "CT"])
def test_other_modalities_are_named(tmp_path, modality):
    pydicom = pytest.importorskip("pydicom")
    formats.write_dicom_pet(tmp_path / "pet", IMAGE, GRID)
    for path in (tmp_path / "pet").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.Modality = modality
        dataset.save_as(path)
    found = facts_of(tmp_path / "pet")
    if modality == "CT":
        assert (found["format"], found["units"]) == ("DICOM CT", "HU")
    else:
        assert found["holds"] == "NM of unknown type: 4 files, 1 frame of 6 x 5, 4 slices"


def test_folders_without_images_and_files_that_are_none(tmp_path):
    assert "holds no DICOM images" in emrecon("info", tmp_path, check=3).stderr
    (tmp_path / "b.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 1000)
    assert "does not say what it is" in emrecon("info", tmp_path / "b.dcm", check=3).stderr
    (tmp_path / "a.dcm").write_text("nothing")
    assert "not a DICOM file" in emrecon("info", tmp_path / "a.dcm", check=3).stderr


def test_a_normalisation_without_its_scanner(tmp_path, monkeypatch):
    scanner = PETScanner.named("mmr")
    norm = Normalisation(scanner, crystal=np.full((scanner.n_rings, scanner.n_crystals), 0.5))
    tried = []

    def read(path, name):
        tried.append(name)
        if name == "mmr":
            raise formats.FormatError("of another scanner")
        return norm

    monkeypatch.setattr(describing, "read_siemens_norm", read)
    (tmp_path / "n.n.hdr").write_text("!INTERFILE :=\n!PET data type := normalization\n!name of data file := n.n\n")
    found = facts_of(tmp_path / "n.n.hdr")
    assert found["format"] == "Siemens normalisation"
    assert found["crystal"] == f"{scanner.n_rings} x {scanner.n_crystals}, 0.5 to 0.5"
    assert tried[0] == "mmr"
    assert facts_of(tmp_path / "n.n.hdr", "--header", "scanner=vision600")["scanner"] == str(scanner)
    assert tried[-1] == "vision600"
    assert "colour" in emrecon("info", tmp_path / "n.n.hdr", "--header", "colour=red", check=3).stderr


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[3, 9], [0, 4]], np.int32), {"holds": "events", "crystals": "0 to 9"}),
        (np.array([[3, 9, 1], [0, 4, -2]]), {"holds": "events with TOF bins", "TOF bins": "-2 to 1"}),
        (np.ones((2, 3)), {"holds": "an array", "values": "2 x 3 float64"}),
        (np.zeros((0, 2), int), {"holds": "an array", "values": "0 x 2 int64"}),
    ],
)
def test_arrays_of_events(tmp_path, values, expected):
    np.save(tmp_path / "events.npy", values)
    assert facts_of(tmp_path / "events.npy").items() >= {"format": "NumPy array", **expected}.items()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04 broken", b"text"])
def test_damaged_arrays_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    done = emrecon("info", tmp_path / name, check=3)
    assert name in done.stderr


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert "a.npy" in emrecon("info", tmp_path / "a.npy", check=3).stderr


def test_checkpoints_data_sets_and_weights(tmp_path):
    Checkpoint(tmp_path / "c.npz", signature="mine")(Iterate(3, IMAGE))
    assert facts_of(tmp_path / "c.npz").items() >= {"iteration": "3", "signature": "mine"}.items()
    write_dataset(recipes.RecipeSource(recipes.recipe.parse_recipe(SMALL_SPECT), 2), tmp_path / "set")
    found = facts_of(tmp_path / "set")
    assert (found["format"], found["samples"]) == ("emrecon data set", "2")
    assert "field counts" in found
    pytest.importorskip("safetensors.torch")
    from emrecon.unrolled.training.shipped import pretrained_path

    found = facts_of(pretrained_path("mapem-net-brain-pet"))
    assert found["architecture"] == "mapem-net"
    assert int(found["parameters"]) > 0


CAMERA = SPECTGeometry.circular(6, 80, (8, 4), 4.0)


def test_headers_are_read_with_replaced_values(tmp_path):
    formats.write_interfile(tmp_path / "s.hs", Scan(np.ones(CAMERA.shape, np.float32), CAMERA))
    assert facts_of(tmp_path / "s.hs")["radius (mm)"] == "80"
    assert facts_of(tmp_path / "s.hs", "--header", "radius=120")["radius (mm)"] == "120"
    radii = "radius=[100, 101,102,103,104, 105]"
    assert facts_of(tmp_path / "s.hs", "--header", radii)["radius (mm)"] == "100 to 105"
    done = emrecon("info", tmp_path / "s.hs", "--header", "radius=[100,101]", check=3)
    assert "radius (mm) has 2 entries, but there are 6 views" in done.stderr
    out = ("--background", 1, "--subsets", 2, "--iterations", 1, "--out", tmp_path / "i.nii")
    emrecon("reconstruct", tmp_path / "s.hs", "--header", radii, *out, check=0)


def test_what_has_no_header_takes_no_values(tmp_path):
    formats.write_image(tmp_path / "i.nii", IMAGE, GRID)
    formats.write_image(tmp_path / "i.hv", IMAGE, GRID)
    np.save(tmp_path / "e.npy", np.zeros((2, 2), int))
    for name in ("i.nii", "i.hv", "e.npy"):
        assert "radius" in emrecon("info", tmp_path / name, "--header", "radius=1", check=3).stderr
    assert "name the file" in emrecon("info", "--header", "radius=1", check=2).stderr


def test_events_take_values_too(tmp_path):
    header = listmode(tmp_path, n=20)
    assert facts_of(header)["largest ring difference"] == "60"
    done = emrecon("info", header, "--header", "scanner=nothing", check=3)
    assert "nothing" in done.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("radius=150", 150),
        ("radius=150,151", (150, 151)),
        ("radius=[150,151.5]", (150, 151.5)),
        ("radius=[150, 151,]", (150, 151)),
        ("radius={150,151}", (150, 151)),
        ("radius=(150)", (150,)),
        ("name=a[1]", "a[1]"),
        ("start-angle = 9", 9),
    ],
)
def test_values_of_headers(text, value):
    ((_, found),) = header_values([text]).items()
    assert found == value


def test_a_value_is_given_once():
    import typer

    with pytest.raises(typer.BadParameter, match="radius is given twice"):
        header_values(["radius=1", "radius=2"])
