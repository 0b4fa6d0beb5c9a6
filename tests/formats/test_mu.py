"""From a CT to the attenuation map of a scan: the right value, at the right place, and what was assumed is said."""

import re
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from ct_cases import CENTRE, FRAME, GRID, cylinder, write_ct
from pet_cases import ONE_RING

from emrecon import formats
from emrecon.formats import FormatError, read_image, read_mu
from emrecon.projectors import (
    AttenuationMap,
    BedScan,
    EnergyWindow,
    GatedScan,
    ImageGrid,
    PETSinogram,
    Scan,
    SPECTGeometry,
    Study,
    WindowedScan,
    attenuation_from_ct,
    find_body,
    hounsfield_to_mu,
    linear_attenuation,
)
from emrecon.recon import ArgumentError, spect_problem

CAMERA = SPECTGeometry.circular(4, 120, (24, 14), 9.0)
PLACE = (10.0, -200.0, 1040.0)
STUDY = Study(placement=PLACE, frame_of_reference=FRAME, patient_position="HFS")


def scan(study=STUDY, radionuclide="Tc-99m", window=(126.0, 154.0), camera=CAMERA):
    counts = np.ones(camera.shape, np.float32)
    return Scan(counts, camera, radionuclide=radionuclide, energy_window=window, study=study)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ct(tmp_path_factory.mktemp("ct") / "series", cylinder())


def centre_of(values, grid):
    """The centre of mass in mm."""
    x = np.meshgrid(*(c.ravel() for c in grid.coordinates()), indexing="ij")
    return np.array([(values * c).sum() / values.sum() for c in x])


# ---- values and place ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("radionuclide", "window", "energy"),
    [("Tc-99m", (126.0, 154.0), 140.5), ("Lu-177", (187.0, 229.0), 208.4)],
)
def test_water_and_place(folder, radionuclide, window, energy):
    found = read_mu(folder, scan(radionuclide=radionuclide, window=window))
    assert found.grid == CAMERA.default_grid()
    assert found.energy == pytest.approx(energy, abs=0.5)
    x, y, _ = found.grid.coordinates()
    at = np.array(CENTRE) - PLACE
    deep = (np.hypot(x - at[0], y - at[1]) < 40) & (x < at[0])  # beside the bone
    np.testing.assert_allclose(found.values[:, :, 5][deep[..., 0]], linear_attenuation("water", energy), rtol=0.01)
    water = cylinder() * (cylinder() < 0)
    plain = read_mu(write_ct(folder.parent / f"water{energy}", water), scan())
    np.testing.assert_allclose(centre_of(plain.values, plain.grid)[:2], at[:2], atol=0.2)
    assert not found.notes
    assert "120 kV" in found.source
    assert f"{found.energy:.4g} keV" in found.source


def test_pet_takes_511(folder):
    sinogram = PETSinogram(ONE_RING)
    pet = Scan(np.ones(sinogram.shape, np.float32), sinogram, study=STUDY)
    found = read_mu(folder, pet, CAMERA.default_grid())
    assert found.energy == pytest.approx(511, abs=0.01)
    inside = np.hypot(*found.grid.coordinates()[:2]) < 30
    assert np.median(found.values[inside[..., 0], 7]) == pytest.approx(linear_attenuation("water", 511), rel=0.01)


def test_converted_first_then_averaged():
    """Bone and air in one voxel: the mean of their mu, not the mu of their mean."""
    fine, coarse = ImageGrid((4, 4, 4), (1, 1, 1)), ImageGrid((2, 2, 2), (2, 2, 2))
    hu = np.full(fine.shape, -1000.0)
    hu[::2] = 1000
    mu = attenuation_from_ct(hu, fine, coarse, 140.5)
    np.testing.assert_allclose(mu, hounsfield_to_mu(np.array(1000.0), 140.5) / 2, rtol=1e-6)
    assert mu[0, 0, 0] < 0.9 * hounsfield_to_mu(np.array(0.0), 140.5)
    assert mu.dtype == np.float32


def test_noise_averages_down():
    fine, coarse = ImageGrid((32, 32, 8), (1, 1, 1)), ImageGrid((8, 8, 2), (4, 4, 4))
    hu = np.random.default_rng(0).normal(-500, 64, fine.shape)
    mu = attenuation_from_ct(hu, fine, coarse, 140.5)
    per_hu = hounsfield_to_mu(np.array(-499.0), 140.5) - hounsfield_to_mu(np.array(-500.0), 140.5)
    assert mu.std() == pytest.approx(per_hu * 64 / 8, rel=0.15)


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, -1), (-1, 1, 1), (-1, -1, -1)])
def test_orientations_of_slices(tmp_path, axes, signs):
    small = ImageGrid((26, 24, 12), (8.0, 8.0, 8.0), (-98.0, -310.0, 1000.0))
    straight = attenuation_from_ct(
        cylinder(small), replace(small, origin=tuple(np.subtract(small.origin, PLACE))), CAMERA.default_grid(), 140.511
    )
    turned = read_mu(write_ct(tmp_path / "a", cylinder(small), small, axes, signs), scan(), energy=140.511)
    np.testing.assert_allclose(turned.values, straight, rtol=1e-5, atol=1e-7)


def test_shift_moves_to_left_back_and_head(folder):
    grid = ImageGrid((50, 50, 20), (4.0, 4.0, 4.0))
    still, moved = (read_mu(folder, scan(), grid, shift=shift) for shift in ((0, 0, 0), (8, -12, 4)))
    np.testing.assert_allclose(moved.values[2:, :-3, 1:], still.values[:-2, 3:, :-1], atol=1e-6)
    assert any("8 mm to the left, -12 mm to the back and 4 mm to the head" in note for note in moved.notes)
    with pytest.raises(FormatError, match="three finite mm"):
        read_mu(folder, scan(), shift=(1, 2))


def test_one_file_stands_for_its_series(folder):
    whole, one = read_mu(folder, scan()), read_mu(folder / "IM0003", scan())
    np.testing.assert_array_equal(whole.values, one.values)
    image, grid = read_image(folder / "IM0003")
    np.testing.assert_array_equal(image, cylinder())
    assert grid == GRID


def test_beds_windows_and_gates(folder):
    low, high = (replace(CAMERA, axial_shift=shift) for shift in (-40.0, 41.0))
    both = BedScan((scan(camera=low), scan(camera=high)))
    assert read_mu(folder, both).grid == both.default_grid()
    ones = np.ones(CAMERA.shape, np.float32)
    lutetium = EnergyWindow(187, 229, "peak"), EnergyWindow(166, 187, "low"), EnergyWindow(101, 124, "113")
    for n in (2, 3):
        windowed = WindowedScan(lutetium[:n], (ones,) * n, CAMERA, radionuclide="Lu-177", study=STUDY)
        found = read_mu(folder, windowed)
        assert found.energy == pytest.approx(208.4, abs=0.1)
        assert not found.notes
    gates = GatedScan(np.stack([ones, ones]), CAMERA, [1.0, 1.0], radionuclide="Tc-99m", study=STUDY)
    assert read_mu(folder, gates).energy == pytest.approx(140.5, abs=0.1)


# ---- what is assumed is said -----------------------------------------------------------------------------------------


def only_note(found, words):
    (note,) = found.notes
    assert words in note


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"KVP": None}, "120 kV is assumed"),
        ({"KVP": "90"}, "no table for 90 kV, that of"),
        ({"FrameOfReferenceUID": "1.2.3"}, "different frames of reference"),
        ({"FrameOfReferenceUID": None}, "the CT names no frame of reference"),
        ({"PatientPosition": "FFS"}, "lay HFS for the scan and FFS for the CT"),
        ({"RescaleType": "Z_EFF"}, "said to be Z_EFF"),
        ({"ContrastBolusAgent": "Iodine"}, "contrast agent"),
        ({"PatientID": "008"}, "CT and scan are of different patients"),
        ({"PatientName": "Roe^Richard"}, "CT and scan are of different patients"),
    ],
)
def test_notes(tmp_path, changes, words):
    small = ImageGrid((26, 24, 20), (8.0, 8.0, 8.0), (-98.0, -310.0, 960.0))
    own = replace(STUDY, attributes={"PatientID": "007", "PatientName": "DOE^JANE"})  # of the folder, spelled otherwise
    found = read_mu(write_ct(tmp_path / "a", cylinder(small), small, **changes), scan(own))
    only_note(found, words)
    assert not {"Doe", "DOE", "Roe", "007", "008"} & set(re.split(r"\W+", found.notes[0]))


def test_junk_and_empty_files_beside_a_series_are_passed_over(tmp_path, caplog):
    small = ImageGrid((26, 24, 20), (8.0, 8.0, 8.0), (-98.0, -310.0, 960.0))
    folder = write_ct(tmp_path / "a", cylinder(small), small)
    whole = read_mu(folder, scan())
    slices = sorted(folder.iterdir())
    (folder / "empty.dcm").touch()
    (folder / "junk.dcm").write_bytes(b"junk" * 300)
    np.testing.assert_array_equal(read_mu(folder, scan()).values, whole.values)
    assert "2 of the files named .dcm or .ima hold no DICOM (1 are empty) and are passed over" in caplog.text
    slices[5].write_bytes(b"")  # now a slice is missing
    with pytest.raises(FormatError, match="missing"):
        read_mu(folder, scan())


def test_slices_without_ct_are_air(tmp_path):
    short = ImageGrid((80, 72, 9), GRID.voxel_size, (-98.0, -310.0, 1022.0))
    found = read_mu(write_ct(tmp_path / "a", cylinder(short), short), scan())
    only_note(found, "10 of 14 slices lie outside of it and are taken as air")
    assert found.values[:, :, [0, -1]].max() == 0


def test_a_body_that_the_ct_cuts_off(tmp_path):
    narrow = ImageGrid((40, 72, 40), GRID.voxel_size, (-48.0, -310.0, 960.0))
    only_note(read_mu(write_ct(tmp_path / "a", cylinder(narrow), narrow), scan()), "is the body cut off?")
    wide = ImageGrid((72, 72, 40), GRID.voxel_size, (-86.0, -309.0, 960.0))
    hu = cylinder(wide, radius=100.0)
    x, y, _ = wide.coordinates()
    hu[np.broadcast_to(np.hypot(x - 2.75, y + 220.25) > 88, hu.shape)] = -1024
    only_note(read_mu(write_ct(tmp_path / "b", hu, wide), scan()), "is the body cut off?")


@pytest.mark.parametrize(
    ("changes", "axis", "words"),
    [
        ({}, (0.75, -221.25), "the middle of the CT"),
        ({"DataCollectionCenterPatient": [1.0, -215.0, 7.0]}, (1.0, -215.0), "the axis of the CT's gantry, x 1.0"),
        ({"TableHeight": "221.25"}, (0.75, -221.25), "as its table height says"),
    ],
)
def test_without_a_placement_axes_lie_on_each_other(tmp_path, changes, axis, words):
    small = ImageGrid((80, 72, 6), (2.5, 2.5, 30.0), (-98.0, -310.0, 963.0))
    found = read_mu(write_ct(tmp_path / "a", cylinder(small) * (cylinder(small) < 0), small, **changes), scan(None))
    only_note(found, words)
    np.testing.assert_allclose(centre_of(found.values, found.grid)[:2], np.array(CENTRE)[:2] - axis, atol=0.2)
    assert centre_of(found.values, found.grid)[2] == pytest.approx(0, abs=0.2)


# ---- choice and refusals ---------------------------------------------------------------------------------------------


def test_several_series_are_listed(tmp_path):
    small = ImageGrid((26, 24, 12), (8.0, 8.0, 8.0), (-98.0, -310.0, 1000.0))
    folder = write_ct(tmp_path / "a", cylinder(small), small)
    write_ct(folder, cylinder(small), small, SeriesNumber=5, SeriesDescription="thin", KVP="140")
    with pytest.raises(FormatError, match=r"choose one by series= \(--mu-series\)") as caught:
        read_mu(folder, scan())
    assert "number 5, 12 images) thin" in str(caught.value)
    assert "140 kV" in read_mu(folder, scan(), series=5).source
    with pytest.raises(FormatError, match="choose one by series="):
        read_image(folder)
    assert read_image(folder, series="5")[1] == small
    with pytest.raises(TypeError, match="chosen by series= and frame="):
        read_image(folder, radius=150)
    localizer = write_ct(tmp_path / "b", cylinder(small), small)
    one = ImageGrid((26, 24, 1), (8.0, 8.0, 8.0))
    write_ct(localizer, cylinder(small)[..., :1], one, ImageType=["O", "P", "LOCALIZER"])
    assert read_image(localizer)[1] == small


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"KVP": "3500"}, {}, "no table for a CT of 3500 kV; give the voltage by kvp="),
        ({}, {"unit": "1/cm"}, "is a CT in Hounsfield units"),
        ({}, {"unit": "mu"}, "choose from 1/cm, 1/mm, hu"),
        ({}, {"energy": 20.0}, "HU can be converted at 70 to 511 keV"),
        ({"ImagePositionPatient": ["0", "0", "0"]}, {}, "nothing tells their time frames"),
        ({"RescaleIntercept": "0"}, {}, "no Hounsfield units, where air has -1000"),
        ({"PixelSpacing": None}, {}, "PixelSpacing"),
    ],
)
def test_refusals(tmp_path, changes, more, message):
    small = ImageGrid((26, 24, 3), (8.0, 8.0, 40.0), (-98.0, -310.0, 1000.0))
    with pytest.raises(FormatError, match=message) as caught:
        read_mu(write_ct(tmp_path / "a", cylinder(small), small, **changes), scan(), **more)
    assert "Doe" not in str(caught.value)


def test_energy_and_place_must_be_known(folder):
    with pytest.raises(FormatError, match=r"names no radionuclide; give energy= \(--energy\)"):
        read_mu(folder, scan(radionuclide=None, window=None))
    assert read_mu(folder, scan(radionuclide=None, window=None), energy=208).energy == 208
    with pytest.raises(FormatError, match="no photon line in the energy window"):
        read_mu(folder, scan(window=(200.0, 210.0)))
    with pytest.raises(FormatError, match="do not overlap"):
        read_mu(folder, scan(replace(STUDY, placement=(0.0, 5000.0, 0.0))))


# ---- maps and CT as NIfTI --------------------------------------------------------------------------------------------


def test_nifti_in_hu_and_in_per_mm(tmp_path, folder):
    formats.write_image(tmp_path / "ct.nii.gz", cylinder(), GRID)
    found, dicom = read_mu(tmp_path / "ct.nii.gz", scan(), unit="hu", kvp=120), read_mu(folder, scan())
    np.testing.assert_allclose(found.values, dicom.values, atol=1e-6)
    only_note(found, "in the coordinates of the patient")
    with pytest.raises(FormatError, match=r"look like Hounsfield units.*--mu-unit hu"):
        read_mu(tmp_path / "ct.nii.gz", scan())
    place = replace(dicom.grid, origin=tuple(np.add(dicom.grid.origin, PLACE)))
    formats.write_image(tmp_path / "mu.nii", dicom.values / 10, place)
    map_ = read_mu(tmp_path / "mu.nii", scan(), unit="1/mm")
    np.testing.assert_allclose(map_.values, dicom.values, rtol=1e-5)
    np.testing.assert_allclose(map_.grid.origin, dicom.grid.origin, atol=1e-3)
    with pytest.raises(FormatError, match="no Hounsfield units"):
        read_mu(tmp_path / "mu.nii", scan(), unit="hu")
    with pytest.raises(FormatError, match="kvp is for CT"):
        read_mu(tmp_path / "mu.nii", scan(), kvp=120)


def test_a_problem_takes_it(folder):
    found = read_mu(folder, scan())
    problem = spect_problem(scan(), mu=found, subsets=1)
    plain = spect_problem(scan(), mu=found.values, subsets=1)
    assert problem.signature == plain.signature
    assert "CT of 80x72x34 voxels" in problem.summary
    np.testing.assert_array_equal(problem.mu, found.values)
    with pytest.raises(ArgumentError, match="has its own grid"):
        spect_problem(scan(), mu=found, mu_grid=found.grid, subsets=1)
    with pytest.raises(ValueError, match="do not fit a grid"):
        AttenuationMap(found.values[1:], found.grid)


# ---- the bed ---------------------------------------------------------------------------------------------------------


def with_table(grid):
    """A trunk with lungs and an arm, on a shell with foam and a slab below; HU and where the body is."""
    x, y, z = grid.coordinates()
    hu = np.full(grid.shape, -1000.0)
    trunk = np.broadcast_to((x / 130) ** 2 + (y / 90) ** 2 < 1, hu.shape)
    lungs = np.broadcast_to(((np.abs(x) - 60) / 45) ** 2 + (y / 60) ** 2 < 1, hu.shape) & (np.abs(z) < 60)
    arm = ((x - 165) ** 2 + y**2 < 28**2) & (z < 20)
    for y0, y1, value in ((92, 96, 0.0), (96, 120, -930.0), (120, 124, 0.0), (130, 148, 150.0)):
        hu[np.broadcast_to((y >= y0) & (y < y1) & (np.abs(x) < 150), hu.shape)] = value
    hu[trunk | arm] = 20
    hu[lungs & trunk] = -800
    return hu, trunk | arm


def test_the_bed_goes_and_the_body_stays(tmp_path):
    grid = ImageGrid((96, 96, 24), (4.0, 4.0, 8.0))
    hu, body = with_table(grid)
    found = find_body(hu, grid)
    bed = (hu > -500) & ~body
    assert found.n_pieces == 2
    assert (found.inside & body).sum() > 0.999 * body.sum()
    assert (found.inside & bed).sum() < 0.1 * bed.sum()
    assert found.removed == pytest.approx(bed.sum() * grid.voxel_volume, rel=0.1)
    folder = write_ct(tmp_path / "a", hu, grid)
    here = scan(replace(STUDY, placement=(0.0, 0.0, 0.0)))
    without, with_bed = (read_mu(folder, here, grid, remove_bed=remove) for remove in (True, False))
    assert with_bed.values[48, 82].min() > 0.1
    assert without.values[48, 82].max() == 0
    np.testing.assert_array_equal(without.values[48, 48], with_bed.values[48, 48])
    assert any("2 pieces) were taken for the bed and removed" in note for note in without.notes)


@pytest.mark.parametrize("value", [0.0, -1000.0])
def test_small_and_missing_bodies(value):
    grid = ImageGrid((40, 40, 6), (0.5, 0.5, 0.5))
    found = find_body(np.where(np.hypot(*grid.coordinates()[:2]) < 6, value, -1000.0) + np.zeros(grid.shape), grid)
    assert (found is None) == (value < 0)
    if found is not None:
        assert found.removed == 0


def test_a_map_in_dicom_is_scaled_and_placed(tmp_path, folder):
    dicom = read_mu(folder, scan())
    formats.write_dicom_image(tmp_path / "mu.dcm", 10000 * dicom.values, dicom.grid, study=STUDY)
    with pytest.raises(ValueError, match="divide it by 10000"):
        spect_problem(scan(), mu=read_mu(tmp_path / "mu.dcm", scan()), subsets=1)
    dataset = pydicom.dcmread(tmp_path / "mu.dcm")
    dataset.private_block(0x0033, "SIEMENS MED NM", create=True).add_new(0x38, "DS", "10000")
    dataset.save_as(tmp_path / "mu.dcm")
    found = read_mu(tmp_path / "mu.dcm", scan())
    np.testing.assert_allclose(found.values, dicom.values, atol=1e-4)
    np.testing.assert_allclose(found.grid.origin, dicom.grid.origin, atol=1e-3)
    assert any("divided by 10000" in note for note in found.notes)


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP"])
def test_a_camera_and_a_ct_of_one_study(tmp_path, position, caplog):
    """Written as DICOM and read back, the CT lies where the camera's coordinates have it, however the patient lies."""
    study = replace(STUDY, patient_position=position)
    small = ImageGrid((26, 24, 18), (8.0, 8.0, 8.0), tuple(np.subtract((-98.0, -310.0, 970.0), PLACE)))
    hu = cylinder(small, centre=tuple(np.subtract(CENTRE, PLACE)))
    formats.write_dicom_ct(tmp_path / "ct", hu, small, study=study, kvp=130)
    formats.write_dicom_nm(tmp_path / "nm.dcm", replace(scan(study), duration=10.0))
    found = read_mu(tmp_path / "ct", formats.read_scan(tmp_path / "nm.dcm"))
    expected = attenuation_from_ct(hu, small, CAMERA.default_grid(), 140.511, kvp=130)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert not found.notes
    assert "130 kV" in found.source
