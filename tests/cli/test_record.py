"""The record that `emrecon reconstruct` keeps with an image."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cli_cases import emrecon

from emrecon import formats, recon
from emrecon.cli.reconstruct.record import command_line
from emrecon.cli.reconstruct.settings import DataTable, MethodTable, OutputTable, PhysicsTable, Settings
from emrecon.projectors import BedScan, EnergyWindow, Scan, SPECTGeometry, Study, WindowedScan

CAMERA = SPECTGeometry.circular(6, [60, 62, 64, 60, 62, 64], (12, 4), 5.0, direction="cw", start=90)
STUDY = Study(
    weight=70.0,
    injected=500.0,
    collimator="LEHR",
    manufacturer="SIEMENS",
    patient_position="HFS",
    placement=(10.0, -150.0, 900.0),
    attributes={"PatientName": "Roe^Richard", "PatientID": "99-1234"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    counts = np.random.default_rng(0).poisson(5.0, CAMERA.shape).astype(np.float32)
    scan = Scan(counts, CAMERA, 0.1, duration=10.0, radionuclide="Tc-99m", energy_window=(126.0, 154.0), study=STUDY)
    formats.write_scan(folder / "Richard_Roe.h5", scan)
    return folder


def test_a_run_keeps_where_its_image_comes_from(folder, tmp_path):
    out = tmp_path / "image.nii.gz"
    scan = folder / "Richard_Roe.h5"
    emrecon("reconstruct", scan, "--subsets", 2, "--iterations", 5, "--psf", 0, "--out", out, check=2)
    assert not (tmp_path / "image.json").exists()
    done = emrecon("reconstruct", scan, "--subsets", 2, "--iterations", 5, "--out", out, check=0)
    text = (tmp_path / "image.json").read_text()
    for said in (text, done.stdout, emrecon("info", out, check=0).stdout):
        assert not [word for word in ("Roe", "Richard", "99-1234") if word in said.replace(str(scan), "")]
    found = formats.read_provenance(out)
    options = "--collimator sy-lehr --subsets 2 --iterations 5 --out out.nii.gz"
    assert found.command == f"emrecon reconstruct projections.h5 {options}"
    assert found.inputs[0].name == "projections.h5"
    assert found.inputs[0].sha256 == formats.used_file("", scan).sha256
    assert found.parameters == {"subsets": "2", "iterations": "5"}
    assert "6 views, clockwise (seen from the feet) from 90 degrees over 360 degrees" in found.acquisition[0]
    assert found.subject["weight (kg)"] == 70.0
    assert found.orbit.angles[1] == 30.0
    assert [row.iteration for row in found.convergence] == [1, 2, 3, 4, 5]
    assert all(row.objective is not None for row in found.convergence)
    assert found.convergence[0].objective > found.convergence[-1].objective
    assert 0 < found.convergence[-1].change < found.convergence[1].change


def test_nifti_lies_in_the_patient_and_hdf5_in_the_scan(folder, tmp_path):
    scan = folder / "Richard_Roe.h5"
    for name in ("image.nii.gz", "image.h5"):
        emrecon("reconstruct", scan, "--subsets", 2, "--iterations", 1, "--out", tmp_path / name, check=0)
        assert formats.read_provenance(tmp_path / name).placement == (10.0, -150.0, 900.0)
    (one, placed), (two, own) = (formats.read_image(tmp_path / name) for name in ("image.nii.gz", "image.h5"))
    assert np.array_equal(one, two)
    assert own == CAMERA.default_grid()
    assert np.allclose(np.subtract(placed.origin, own.origin), (10.0, -150.0, 900.0))


def test_the_record_replaces_nothing_else(folder, tmp_path):
    (tmp_path / "image.json").write_text(json.dumps([1]))
    scan = folder / "Richard_Roe.h5"
    done = emrecon("reconstruct", scan, "--out", tmp_path / "image.nii.gz", check=4)
    assert "is no record of an image" in done.stderr
    done = emrecon("reconstruct", scan, "--out", tmp_path / "a.nii", "--log", tmp_path / "a.json", check=4)
    assert "would replace an input or another output" in done.stderr
    assert (tmp_path / "image.json").read_text() == "[1]"
    assert not (tmp_path / "image.nii.gz").exists()


def test_the_command_is_the_whole_one_without_folders(tmp_path):
    settings = Settings(
        data=DataTable(projections=tmp_path / "a b.h5", header=("radius=150",)),
        physics=PhysicsTable(mu=tmp_path / "mu.nii", background=0.0),
        method=MethodTable(method="bsrem", prior="rdp:1,2", kappa=True, guide=(tmp_path / "x", tmp_path / "y")),
        output=OutputTable(out=tmp_path / "i.nii"),
    )
    assert command_line(settings) == (
        "emrecon reconstruct projections.h5 --header radius=150 --mu mu.nii --background 0.0 --method bsrem "
        "--prior rdp:1,2 --guide guide --guide guide --kappa --out out.nii"
    )
    physics = PhysicsTable(scatter="/d/roe_scatter.h5")
    assert "--scatter scatter.h5" in command_line(settings.model_copy(update={"physics": physics}))
    assert "--scatter tew" in command_line(settings.model_copy(update={"physics": PhysicsTable(scatter="tew")}))
    quantity = settings.quantity.model_copy(update={"calibration_phantom": "/d/roe.dcm:925"})
    assert "--calibration-phantom calibration-phantom.dcm:925" in command_line(
        settings.model_copy(update={"quantity": quantity})
    )


def test_history_looks_at_few_of_many_iterations():
    image, looked = np.ones((2, 2, 2)), []

    def objective(x):
        looked.append(float(x[0, 0, 0]))
        return looked[-1]

    history = recon.History(objective)
    iterates = (recon.Iterate(i, image * i, {}) for i in range(1, 21))
    recon.run(iterates, 20, history)
    assert looked == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert history.rows[1]["change"] == 1.0
    assert [row["iteration"] for row in history.rows if row["objective"] is not None] == looked


def windowed(limits, nuclide="Lu-177"):
    windows = [EnergyWindow(low, high, f"w{i}") for i, (low, high) in enumerate(limits)]
    counts = tuple(np.ones(CAMERA.shape, np.float32) for _ in windows)
    return WindowedScan(tuple(windows), counts, CAMERA, duration=20.0, radionuclide=nuclide, study=STUDY)


def test_windows_are_given_their_roles():
    said = formats.acquisition_in_words(
        windowed([(187.2, 228.8), (166.4, 187.2), (228.8, 249.6), (101.7, 124.3), (400, 420)])
    )
    assert [line.partition("): ")[2] for line in said if line.startswith("energy window")] == [
        "peak of Lu-177 208.37 keV",
        "lower scatter of 208.37 keV",
        "upper scatter of 208.37 keV",
        "peak of Lu-177 112.95 keV",
        "no line of the radionuclide and beside no peak",
    ]
    assert "camera SIEMENS" in said
    assert "patient HFS, 70 kg" in said
    unknown = formats.acquisition_in_words(windowed([(1, 2)], None))
    assert any("use not known: the radionuclide is not known" in line for line in unknown)


def test_beds_are_told_apart():
    scan = windowed([(187.2, 228.8)])
    beds = [replace(scan, geometry=replace(CAMERA, axial_shift=shift)) for shift in (0.0, 100.0)]
    said = formats.acquisition_in_words(BedScan(tuple(beds)))
    assert said[0] == "SPECT at 2 bed positions"
    assert said[2].endswith("detector +100 mm along the axis")


def test_the_record_turns_activity_into_suv(folder, tmp_path):
    times = ("--injected-at", "2026-01-02T09:00", "--started-at", "2026-01-02T15:00")
    common = ("--subsets", 2, "--iterations", 1, "--calibration", 90, "--decay-to", "injection", *times)
    emrecon("reconstruct", folder / "Richard_Roe.h5", *common, "--out", tmp_path / "i.h5", check=0)
    emrecon("reconstruct", folder / "Richard_Roe.h5", *common, "--unit", "SUV", "--out", tmp_path / "s.h5", check=0)
    activity, uptake = (formats.read_image(tmp_path / name)[0] for name in ("i.h5", "s.h5"))
    record = formats.read_provenance(tmp_path / "i.h5")
    assert record.unit == "Bq/mL"
    assert np.allclose(activity * record.subject["SUV per Bq/mL"], uptake, rtol=1e-5)
    assert any("sensitivity 90 counts/s/MBq" in line for line in record.calibration)


def test_what_a_reader_assumes_is_kept_even_when_nothing_is_printed(tmp_path):
    import nm_cases

    formats.write_dicom_nm(tmp_path / "tomo.dcm", nm_cases.scan(), vendor="siemens")
    out = tmp_path / "i.h5"
    common = ("--subsets", 1, "--iterations", 1, "--background", 1, "--out", out)
    done = emrecon("reconstruct", tmp_path / "tomo.dcm", *common, "--quiet", check=0)
    assert done.stderr == ""
    assert any("ImagePositionPatient" in note for note in formats.read_provenance(out).notes)
