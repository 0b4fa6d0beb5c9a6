"""Where an image comes from: kept with it in every format, read back as it was, and never with a name."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from emrecon import formats
from emrecon.formats import FormatError, ImageTimes, InputFile, Orbit, Pass, Provenance
from emrecon.projectors import ImageGrid, SPECTGeometry, Study

GRID = ImageGrid((4, 3, 2), 5.0)
IMAGE = np.arange(24, dtype=np.float32).reshape(GRID.shape)
CAMERA = SPECTGeometry.circular(4, [200, 210, 220, 230], (8, 4), 5.0, direction="cw")
RECORD = Provenance(
    command="emrecon reconstruct scan.h5 --method osem",
    method="osem",
    parameters={"subsets": "4", "iterations": "2"},
    unit="Bq/mL",
    inputs=(InputFile("projections", "scan.h5", "ab" * 32, 1234), InputFile("--mu", "CT", "cd" * 32, 99, 3)),
    acquisition=("SPECT: 4 views", "radionuclide Tc-99m"),
    physics=("attenuation up to 0.15 /cm", 'a "quoted" line, äöü'),
    notes=("look here",),
    convergence=(Pass(1, 0.5, 10.0), Pass(2, 1.0, None, 0.25)),
    orbit=Orbit.of(CAMERA),
    subject={"weight (kg)": 70.0, "sex": "F"},
    seconds=1.5,
)


def same(found, expected=RECORD):
    return replace(found, image="", image_sha256="") == expected


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.h5", "a.hv", "a.h33"])
def test_a_record_comes_back_from_every_format(tmp_path, name):
    path = tmp_path / name
    formats.write_image(path, IMAGE, GRID, provenance=RECORD)
    assert same(formats.read_provenance(path))
    assert np.array_equal(formats.read_image(path)[0], IMAGE)
    beside = tmp_path / ("a.json" if ".nii" in name else f"{name}.json")
    assert sorted(tmp_path.glob("*.json")) == ([] if name == "a.h5" else [beside])
    facts = formats.describe(path)
    assert facts["method"] == "osem, 4 subsets, 2 iterations"
    assert facts["command"] == RECORD.command
    if name != "a.h5":
        assert same(formats.read_provenance(beside))
        assert same(formats.read_provenance(tmp_path))
        assert formats.describe(beside)["unit"] == "Bq/mL"


def test_nifti_is_read_by_others_and_holds_the_record_itself(tmp_path):
    formats.write_image(tmp_path / "a.nii.gz", IMAGE, GRID, provenance=RECORD)
    (tmp_path / "a.json").unlink()
    (extension,) = nibabel.load(tmp_path / "a.nii.gz").header.extensions
    content = extension.get_content()
    text = content if isinstance(content, str) else bytes(content).decode()
    assert extension.get_code() == 6
    assert json.loads(text)["unit"] == "Bq/mL"
    assert same(formats.read_provenance(tmp_path / "a.nii.gz"))


def test_the_native_file_has_attributes(tmp_path):
    import h5py

    formats.write_image(tmp_path / "a.h5", IMAGE, GRID, provenance=RECORD)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["provenance"].attrs["command"] == RECORD.command.encode()
        assert file["image"].attrs["units"] == b"Bq/mL"
        assert b"ab" * 32 in file["provenance"].attrs["inputs"][0]


def test_another_json_file_is_not_replaced(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(FileExistsError, match="no record of an image"):
        formats.write_image(tmp_path / "a.nii", IMAGE, GRID, provenance=RECORD)
    assert not (tmp_path / "a.nii").exists()
    (tmp_path / "a.json").unlink()
    for _ in range(2):  # its own older one is
        formats.write_image(tmp_path / "a.nii", IMAGE, GRID, provenance=RECORD)
    formats.write_image(tmp_path / "a.nii.gz", IMAGE, GRID, provenance=RECORD)
    assert same(formats.read_provenance(tmp_path / "a.nii"))  # it holds its record itself
    formats.write_image(tmp_path / "b.hv", IMAGE, GRID, provenance=RECORD)
    (tmp_path / "b.hv.json").rename(tmp_path / "c.hv.json")
    with pytest.raises(FileExistsError, match=r"the record of b\.hv"):
        formats.write_image(tmp_path / "c.hv", IMAGE, GRID, provenance=RECORD)


def test_a_record_of_an_older_image_is_not_taken(tmp_path):
    formats.write_image(tmp_path / "a.hv", IMAGE, GRID, provenance=RECORD)
    formats.write_image(tmp_path / "a.hv", IMAGE + 1, GRID)
    with pytest.raises(FormatError, match="has changed since"):
        formats.read_provenance(tmp_path / "a.hv")
    assert "has changed since" in formats.describe(tmp_path / "a.hv")["made by"]


def test_images_without_a_record_and_folders_of_several(tmp_path):
    formats.write_image(tmp_path / "a.nii", IMAGE, GRID)
    with pytest.raises(FormatError, match="holds no record"):
        formats.read_provenance(tmp_path / "a.nii")
    with pytest.raises(FormatError, match="no record of an image; name"):
        formats.read_provenance(tmp_path)
    for name in ("b.nii", "c.nii"):
        formats.write_image(tmp_path / name, IMAGE, GRID, provenance=RECORD)
    with pytest.raises(FormatError, match=r"2 records; name one: b\.json, c\.json"):
        formats.read_provenance(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "other"},
        {"inputs": [{"role": 1, "name": "", "sha256": "", "size": 1}]},
        {"inputs": 5},
        {"convergence": [{"iteration": "x", "seconds": 1}]},
        {"orbit": {"angles": [1], "radius": [], "head": [], "bins": [1, 1], "pixel_size": [1, 1]}},
        {"orbit": {"angles": [1], "radius": [-1], "head": [0], "bins": [1, 1], "pixel_size": [1, 1]}},
        {"placement": [1, 2]},
        {"command": ["a"]},
        {"subject": {"weight (kg)": None}},
        {"parameters": [1]},
        {"physics": "text"},
        {"unknown": 1},
        {"seconds": "long"},
    ],
)
def test_damaged_records_are_refused_in_a_line(tmp_path, change):
    content = json.loads(RECORD.json()) | change
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"a\.json") as caught:
        formats.read_provenance(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_names_of_patients_are_left_out(tmp_path):
    study = Study(attributes={"PatientName": "Doe^Jane Li", "PatientID": "4711-X", "StudyDescription": "Lung"})
    hidden = formats.patient_words(study)
    assert set(hidden) == {"Doe", "Jane", "Li", "4711-X"}
    assert formats.without_words("DOE_jane_4711-x_Li_liver.dcm", hidden) == "..._..._..._..._liver.dcm"
    (tmp_path / "janedoe.dcm").write_bytes(b"abc")
    used = formats.used_file("projections", tmp_path / "janedoe.dcm")
    assert used.name == "projections.dcm"
    assert used.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    folder = formats.used_file("--mu", tmp_path)
    assert (folder.name, folder.n_files, folder.size) == ("mu", 1, 3)


def test_files_are_called_by_their_role():
    assert formats.plain_name("--guide", "/data/Doe Jane/Doe.MR.nii.gz") == "guide.nii.gz"
    assert formats.plain_name("projections, data", "doe.a00") == "projections-data.a00"
    assert formats.plain_name("--weights", "runs/fbsem.safetensors") == "fbsem.safetensors"
    files = [("projections", "/data/Doe Jane/doe.dcm"), ("--mu", "/data/Doe Jane")]
    said = formats.without_files("/data/Doe Jane/doe.dcm: no radius; doe.dcm and Doe Jane, not doe.dcm2", files)
    assert said == "projections.dcm: no radius; projections.dcm and mu, not doe.dcm2"


def test_the_text_for_dicom_fits(tmp_path):
    assert RECORD.text().startswith("emrecon ")
    assert "SHA-256 abababab" in RECORD.text()
    assert len(replace(RECORD, physics=("x" * 3000,)).text()) == 1024


def test_times_of_frames_share_the_file_beside_the_image(tmp_path):
    times = ImageTimes((60.0, 60.0), (0.0, 60.0))
    frames = np.stack([IMAGE, IMAGE + 1])
    formats.write_image(tmp_path / "a.nii.gz", frames, GRID, times=times, provenance=RECORD)
    assert formats.read_times(tmp_path / "a.nii.gz") == times
    assert same(formats.read_provenance(tmp_path / "a.json"))
    formats.write_image(tmp_path / "a.nii.gz", frames, GRID, times=times, unit="kBq/mL", provenance=RECORD)
    assert formats.read_provenance(tmp_path / "a.nii.gz").unit == "kBq/mL"
