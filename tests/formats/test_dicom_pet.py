"""DICOM PET: slices find their place, tracers decay to the right moment, series come back, bad files say why."""

import contextlib
import dataclasses
import itertools
import math
import os
import types
import warnings
from datetime import datetime, timedelta

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLossless, generate_uid
from real_data import real_data

from emrecon.formats import FormatError
from emrecon.formats.dicom.ct import read_dicom_ct
from emrecon.formats.dicom.pet import (
    PETFacts,
    PETImage,
    decay_reference_time,
    read_dicom_pet,
    suv_factor,
    write_dicom_pet,
)
from emrecon.projectors import ImageGrid, isotope

RNG = np.random.default_rng(11)
GRID = ImageGrid((5, 4, 6), (2.5, 1.5, 3.27), (-7.0, 0.1, -12.25))
STORED = RNG.integers(0, 60000, GRID.shape)
SLOPES = RNG.uniform(0.5, 2, GRID.shape[2]).round(4)
IMAGE = (STORED * SLOPES).astype(np.float32)
SERIES, FRAME, STUDY = generate_uid(), generate_uid(), generate_uid()
HALF_LIFE = 6586.2


def tracer(**changes):
    code, item = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-111A1", "SRT", "^18^Fluorine"
    item.RadionuclideCodeSequence = [code]
    item.RadiopharmaceuticalStartTime = "093000"
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = "350000000", str(HALF_LIFE)
    return put(item, changes)


def put(dataset, changes):
    for name, value in changes.items():
        if value is None:
            dataset.pop(name, None)
        else:
            setattr(dataset, name, value)
    return dataset


def header(**changes):
    """A slice of 4 rows and 5 columns without pixels; None removes an attribute."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.128", generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "PT", SERIES, STUDY
    dataset.FrameOfReferenceUID, dataset.PatientName, dataset.PatientID = FRAME, "Doe^Jane", "007"
    dataset.SeriesNumber, dataset.SeriesDescription, dataset.Manufacturer = 4, "AC", "SIEMENS"
    dataset.SeriesDate = dataset.AcquisitionDate = "20240301"
    dataset.SeriesTime = dataset.AcquisitionTime = "103000.500"
    dataset.SeriesType, dataset.Units, dataset.DecayCorrection = ["STATIC", "IMAGE"], "BQML", "START"
    dataset.CorrectedImage, dataset.ActualFrameDuration = ["ATTN", "SCAT", "DECY"], 300000
    dataset.FrameReferenceTime = str(round(1000 * mean_activity(300.0), 3))
    dataset.PatientWeight, dataset.PatientSize, dataset.PatientSex, dataset.PatientPosition = "70", "1.7", "F", "HFS"
    dataset.RadiopharmaceuticalInformationSequence = [tracer()]
    dataset.PixelSpacing, dataset.SliceThickness = ["1.5", "2.5"], "3.27"
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 5, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.RescaleIntercept, dataset.NumberOfSlices = "0", GRID.shape[2]
    return put(dataset, changes)


def mean_activity(duration):
    """Seconds into a frame when the activity is its mean; the definition, by numerical integration."""
    t = np.linspace(0, duration, 100_001)
    return -HALF_LIFE * math.log2(np.trapezoid(2 ** (-t / HALF_LIFE), t) / duration)


def series(k_range=range(GRID.shape[2]), **changes):
    """Axial slices of IMAGE, from the feet up."""
    for k in k_range:
        position = [GRID.origin[0], GRID.origin[1], round(GRID.origin[2] + k * GRID.voxel_size[2], 6)]
        dataset = header(ImagePositionPatient=position, RescaleSlope=str(SLOPES[k]))
        dataset.PixelData = STORED[:, :, k].T.astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        yield put(dataset, changes)


def save(folder, datasets):
    """Write datasets under names, and with instance numbers, that say nothing about their order."""
    datasets = list(datasets)
    folder.mkdir(exist_ok=True)
    start = len(list(folder.iterdir()))
    for n, i in enumerate(RNG.permutation(len(datasets))):
        datasets[i].InstanceNumber = n + 1
        datasets[i].save_as(folder / f"IM{start + n:04d}", enforce_file_format=True)
    return folder


def assert_image(result, image=IMAGE, grid=GRID):
    np.testing.assert_allclose(result[0], image, rtol=1e-7)
    assert result[0].dtype == np.float32
    assert result[0].flags.c_contiguous
    assert result[1] == grid


# ---- images ----------------------------------------------------------------------------------------------------------


def test_slices_are_scaled_one_by_one_and_put_in_order(tmp_path):
    folder = save(tmp_path / "a", series())
    (folder / "notes.txt").write_text("not an image")
    (folder / "deeper").mkdir()
    (folder / "IM0003").rename(folder / "deeper" / "x")
    result = read_dicom_pet(folder)
    assert isinstance(result, PETImage)
    assert_image(result)
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".txt"]
    assert_image(read_dicom_pet(files))
    assert_image(read_dicom_pet(str(folder)))


def test_intercepts_signed_and_short_values(tmp_path):
    datasets = list(series())
    for k, dataset in enumerate(datasets):
        dataset.PixelRepresentation, dataset.RescaleIntercept = 1, str(-k)
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PixelData = (STORED[:, :, k].T % 4096 - 2048).astype("<i2").tobytes()
    image, _, _ = read_dicom_pet(save(tmp_path / "a", datasets))
    np.testing.assert_allclose(image, (STORED % 4096 - 2048) * SLOPES - np.arange(6), rtol=1e-6)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_every_orientation_comes_back_as_lps(tmp_path, axes, signs):
    """Columns run along patient axis axes[0], rows along axes[1], and files are made along axes[2]; signs turn them."""
    image = STORED.transpose(axes)
    corner = np.array(GRID.origin)
    for stored_axis, (axis, sign) in enumerate(zip(axes, signs)):
        if sign < 0:
            image = np.flip(image, stored_axis)
            corner[axis] += (GRID.shape[axis] - 1) * GRID.voxel_size[axis]
    unit, datasets = np.eye(3), []
    for k in range(image.shape[2]):
        position = corner + k * signs[2] * GRID.voxel_size[axes[2]] * unit[axes[2]]
        dataset = header(RescaleSlope="2", Rows=image.shape[1], Columns=image.shape[0], NumberOfSlices=image.shape[2])
        dataset.ImagePositionPatient = [f"{x:.6f}" for x in position]
        dataset.ImageOrientationPatient = [*(signs[0] * unit[axes[0]]), *(signs[1] * unit[axes[1]])]
        dataset.PixelSpacing = [str(GRID.voxel_size[axes[1]]), str(GRID.voxel_size[axes[0]])]
        dataset.SliceThickness = str(GRID.voxel_size[axes[2]])
        dataset.PixelData = image[:, :, k].T.astype("<u2").tobytes()
        datasets.append(dataset)
    result = read_dicom_pet(save(tmp_path / "a", datasets))
    np.testing.assert_array_equal(result.image, 2 * STORED)
    np.testing.assert_allclose(result.grid.affine, GRID.affine, atol=1e-6)


def test_one_file(tmp_path):
    folder = save(tmp_path / "a", series([3]))
    with pytest.raises(FormatError, match="holds 1 of 6 slices"):
        read_dicom_pet(folder)
    image, grid, facts = read_dicom_pet(folder / "IM0000")
    np.testing.assert_allclose(image, IMAGE[:, :, 3:4], rtol=1e-7)
    assert grid.voxel_size == GRID.voxel_size
    assert (facts.n_frames, facts.frame) == (1, 1)
    bad = save(tmp_path / "b", series([3], SliceThickness=None))
    with pytest.raises(FormatError, match="SliceThickness"):
        read_dicom_pet(bad / "IM0000")
    negative = save(tmp_path / "c", series([3], SpacingBetweenSlices="-4"))
    assert read_dicom_pet(negative / "IM0000").grid.voxel_size[2] == 4


def test_files_without_preamble_and_with_invalid_uids(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for k, dataset in enumerate(series(SeriesInstanceUID=None, StudyInstanceUID=None)):
        with pydicom.config.disable_value_validation():
            dataset.SeriesInstanceUID = dataset.StudyInstanceUID = "1.02.x3"
            dataset.PatientBirthDate = "yesterday"
            dataset.PatientAge = "seventy"
            del dataset.file_meta
            pydicom.dcmwrite(folder / str(k), dataset, implicit_vr=bool(k % 2), little_endian=True)
    for mode in (pydicom.config.WARN, pydicom.config.RAISE):
        pydicom.config.settings.reading_validation_mode = mode
        try:
            result = read_dicom_pet(folder)
            assert pydicom.config.settings.reading_validation_mode == mode
        finally:
            pydicom.config.settings.reading_validation_mode = pydicom.config.WARN
        assert_image(result)
    assert any(action == "error" for action, *_ in warnings.filters)
    assert result.facts.study["PatientAge"] == "seventy"
    assert result.facts.study["StudyInstanceUID"] == "1.02.x3"


def test_run_length_encoding_is_read(tmp_path):
    datasets = list(series())
    for dataset in datasets:
        dataset.compress(pydicom.uid.RLELossless)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    assert_image(read_dicom_pet(save(tmp_path / "a", datasets)))


@pytest.mark.parametrize(("syntax", "package"), [(JPEGLossless, "libjpeg"), (JPEG2000Lossless, "openjpeg")])
def test_compression_names_the_package(tmp_path, monkeypatch, syntax, package):
    dataset = next(series())
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8abc\xff\xd9"])
    folder = save(tmp_path / "a", [dataset])
    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda uid: types.SimpleNamespace(is_available=False))
    with pytest.raises(FormatError, match=f"pip install pylibjpeg pylibjpeg-{package}"):
        read_dicom_pet(folder / "IM0000")


def test_ct(tmp_path):
    changes = {"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SeriesInstanceUID": generate_uid()}
    folder = save(tmp_path / "a", series())
    save(folder, series(**changes, RescaleIntercept="-1024", Units=None, NumberOfSlices=None))
    image, grid = read_dicom_ct(folder)
    np.testing.assert_allclose(image, IMAGE - 1024, rtol=1e-5)
    assert grid == GRID
    assert_image(read_dicom_pet(folder))  # CT beside it is passed over


# ---- stacks that are not one -----------------------------------------------------------------------------------------


def moved(datasets, k, axis, distance):
    datasets = list(datasets)
    position = [float(x) for x in datasets[k].ImagePositionPatient]
    position[axis] += distance
    datasets[k].ImagePositionPatient = [round(x, 6) for x in position]
    return datasets


def doubled(same_uid):
    datasets = [*series(), *series([2])]
    if same_uid:
        datasets[-1].SOPInstanceUID = datasets[2].SOPInstanceUID
    return datasets


turned = [math.cos(0.1), math.sin(0.1), 0, -math.sin(0.1), math.cos(0.1), 0]
barely = [1, 5e-4, 0, -5e-4, 1, 0]
BAD_SERIES = {
    "one missing": (lambda: series([0, 1, 3, 4, 5]), "missing slices: 1 between"),
    "two missing": (lambda: series([0, 1, 2, 5]), "missing slices: 2 between"),
    "the last missing": (lambda: series(range(5)), "holds 5 of 6 slices"),
    "uneven": (lambda: moved(series(), 2, 2, 0.5), "unevenly spaced"),
    "shifted": (lambda: moved(series(), 2, 0, 0.5), "shifted against each other"),
    "a copy": (lambda: doubled(True), "the same image"),
    "a slice twice": (lambda: doubled(False), "lie where another one is"),
    "oblique": (lambda: series(ImageOrientationPatient=turned), "oblique"),
    "not unit vectors": (lambda: series(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "perpendicular unit vectors"),
    "not parallel": (
        lambda: [*series(range(5)), *series([5], ImageOrientationPatient=[0, 1, 0, 1, 0, 0])],
        "not parallel",
    ),
    "two sizes": (lambda: [*series(range(5)), *series([5], PixelSpacing=["1.5", "2.6"])], "two scans in one series"),
    "two units": (lambda: [*series(range(5)), *series([5], Units="CNTS")], "different Units: BQML"),
    "no position": (lambda: series(ImagePositionPatient=None), r"ImagePositionPatient \(0020,0032\) is missing"),
    "no slope": (lambda: series(RescaleSlope=None), r"RescaleSlope \(0028,1053\) is missing"),
    "no spacing": (lambda: series(PixelSpacing=None), "PixelSpacing"),
    "spacing of zero": (lambda: series(PixelSpacing=["0", "1"]), "PixelSpacing is"),
    "spacing of one number": (lambda: series(PixelSpacing="1"), "expected 2 numbers"),
    "no usable slope": (lambda: series(RescaleSlope="0"), "give no usable values"),
    "values beyond float32": (lambda: series(RescaleSlope="1e38"), "give no usable values"),
    "multi-frame": (lambda: series(NumberOfFrames=6), "multi-frame image of 6 frames"),
    "enhanced": (lambda: series(SOPClassUID="1.2.840.10008.5.1.4.1.1.130"), "multi-frame"),
    "reprojection": (lambda: series(SeriesType=["STATIC", "REPROJECTION"]), "reprojection"),
    "colours": (lambda: series(SamplesPerPixel=3, PlanarConfiguration=0), "colours"),
    "no rows": (lambda: series(Rows=0), "0 rows"),
    "hostile size": (lambda: series(Rows=65535, Columns=65535), "announce 65535 x 65535 x 6"),
    "fewer pixels than announced": (lambda: series(Rows=5000), "pixels cannot be read"),
    "no pixels": (lambda: series(PixelData=None), "holds no pixels"),
    "MR": (lambda: series(Modality="MR"), "holds 6 MR, not PT"),
}


@pytest.mark.parametrize(("make", "message"), list(BAD_SERIES.values()), ids=list(BAD_SERIES))
def test_series_that_are_refused(tmp_path, make, message):
    folder = save(tmp_path / "a", make())
    with pytest.raises(FormatError, match=message) as caught:
        read_dicom_pet(folder)
    assert str(folder) in str(caught.value)


def test_barely_turned_slices_are_taken_as_straight(tmp_path):
    assert_image(read_dicom_pet(save(tmp_path / "a", series(ImageOrientationPatient=barely))))


def test_incomplete_series_are_read_from_a_list(tmp_path):
    folder = save(tmp_path / "a", series(range(5)))
    assert read_dicom_pet(sorted(folder.iterdir())).image.shape == (5, 4, 5)
    with pytest.raises(ValueError, match="list of DICOM files is empty"):
        read_dicom_pet([])


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.995])
def test_truncated(tmp_path, part):
    folder = save(tmp_path / "a", series())
    path = folder / "IM0002"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(FormatError):
        read_dicom_pet(path)


def test_files_that_are_not_dicom(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_dicom_pet(tmp_path / "none")
    with pytest.raises(FormatError, match="no DICOM images, not PT"):
        read_dicom_pet(tmp_path)
    (tmp_path / "text.dcm").write_text("text" * 200)
    with pytest.raises(FormatError, match="not a DICOM file"):
        read_dicom_pet(tmp_path / "text.dcm")
    with pytest.raises(FormatError, match="no DICOM images, not PT"):  # nothing is left of the folder
        read_dicom_pet(tmp_path)
    (tmp_path / "text.dcm").write_bytes(b"")
    with pytest.raises(FormatError, match="empty"):
        read_dicom_pet(tmp_path / "text.dcm")
    junk = b"\x08\x00" + RNG.bytes(5000)
    (tmp_path / "text.dcm").write_bytes(junk)
    with pytest.raises(FormatError):
        read_dicom_pet(tmp_path / "text.dcm")


def test_deflated_bombs_are_not_opened(tmp_path):
    dataset = next(series())
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    path = save(tmp_path / "a", [dataset]) / "IM0000"
    np.testing.assert_allclose(read_dicom_pet(path).image[:, :, 0], IMAGE[:, :, 0], rtol=1e-7)
    with path.open("ab") as stream:
        stream.truncate(8 * 2**20)
    with pytest.raises(FormatError, match="absurdly large"):
        read_dicom_pet(path)


# ---- several series and time frames ----------------------------------------------------------------------------------


def test_several_series_are_listed(tmp_path):
    other = generate_uid()
    folder = save(tmp_path / "a", series())
    save(folder, series(SeriesInstanceUID=other, SeriesNumber=9, SeriesDescription="uncorrected", RescaleSlope="1"))
    with pytest.raises(FormatError, match="several series; choose one by series=") as caught:
        read_dicom_pet(folder)
    for text in (SERIES, other, "number 9, 6 images", "uncorrected"):
        assert text in str(caught.value)
    assert_image(read_dicom_pet(folder, series=SERIES))
    for name in (9, "9", other):
        np.testing.assert_array_equal(read_dicom_pet(folder, series=name).image, STORED)
    with pytest.raises(FormatError, match="no series 5"):
        read_dicom_pet(folder, series=5)


def dynamic(n=3, kind="DYNAMIC", **changes):
    for i in range(n):
        begun = datetime(2024, 3, 1, 10, 30) + timedelta(seconds=60 * i)
        yield from series(
            SeriesType=[kind, "IMAGE"],
            AcquisitionTime=f"{begun:%H%M%S}",
            FrameReferenceTime=str(60000 * i + 29000),
            ActualFrameDuration=60000,
            RescaleSlope=str(i + 1),
            **changes,
        )


def test_time_frames_are_listed_and_chosen(tmp_path):
    folder = save(tmp_path / "a", dynamic())
    with pytest.raises(FormatError, match="holds 3 time frames; choose one by frame=") as caught:
        read_dicom_pet(folder)
    assert "frame=2: from 10:31:00, 60 s" in str(caught.value)
    for i in (1, 2, 3):
        image, grid, facts = read_dicom_pet(folder, frame=i)
        np.testing.assert_array_equal(image, i * STORED)
        assert grid == GRID
        assert (facts.frame, facts.n_frames, facts.frame_duration) == (i, 3, 60)
        assert facts.frame_start == datetime(2024, 3, 1, 10, 29 + i)
        assert facts.acquisition_time == datetime(2024, 3, 1, 10, 30)
    for wrong in (0, 4, "1"):
        with pytest.raises(FormatError, match=r"no frame .* \(1 to 3\)"):
            read_dicom_pet(folder, frame=wrong)
    with pytest.raises(FormatError, match="no frame 2"):
        read_dicom_pet(save(tmp_path / "b", series()), frame=2)


def test_a_frame_that_lacks_a_slice(tmp_path):
    """It stops the reading of that frame, and of no other; also where NumberOfSlices counts all frames."""
    for i, (lost, counted) in enumerate([(6 + 2, 6), (6 + 5, 6), (6 + 0, 18), (6 + 3, 18)]):
        datasets = list(dynamic())
        for dataset in datasets:
            dataset.NumberOfSlices = counted
        del datasets[lost]
        folder = save(tmp_path / str(i), datasets)
        for frame in (1, 3):
            np.testing.assert_array_equal(read_dicom_pet(folder, frame=frame).image, frame * STORED)
        with pytest.raises(FormatError, match=r"missing slices: 1 between|frame 2 has 5 of 6 slices"):
            read_dicom_pet(folder, frame=2)
        with pytest.raises(FormatError, match="3 time frames; choose one by frame="):
            read_dicom_pet(folder)


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [3.27, 2.0269, 4.07283, 1.0])
def test_positions_rounded_to_a_tenth_of_a_millimetre(tmp_path, spacing):
    """Some scanners write them so; the spacing is the announced one, and a missing slice is still noticed."""

    def rounded(lost=None, **changes):
        for k in range(40):
            position = [-3.0, -4.0, round(-61.3 + k * spacing, 1)]
            dataset = next(series([0], ImagePositionPatient=position, NumberOfSlices=40, **changes))
            if k != lost:
                yield dataset

    _, grid, _ = read_dicom_pet(save(tmp_path / "a", rounded(SpacingBetweenSlices=str(spacing))))
    assert grid.voxel_size[2] == spacing
    _, grid, _ = read_dicom_pet(save(tmp_path / "b", rounded(SliceThickness="5")))
    assert grid.voxel_size[2] == pytest.approx(spacing, abs=0.1 / 39)
    for lost in (1, 20):
        with pytest.raises(FormatError, match=r"missing slices: 1 between|unevenly spaced"):
            read_dicom_pet(save(tmp_path / f"c{lost}", rounded(lost)))


def test_a_slope_of_zero_is_a_slice_without_counts(tmp_path):
    datasets = list(series())
    datasets[2].RescaleSlope = "0"
    datasets[2].PixelData = bytes(len(datasets[2].PixelData))
    image, _, _ = read_dicom_pet(save(tmp_path / "a", datasets))
    assert not image[:, :, 2].any()
    np.testing.assert_allclose(np.delete(image, 2, 2), np.delete(IMAGE, 2, 2), rtol=1e-7)


@pytest.mark.parametrize("key", ["TriggerTime", "TemporalPositionIdentifier", "ImageIndex"])
def test_gates(tmp_path, key):
    datasets = list(dynamic(kind="GATED"))
    for i, dataset in enumerate(datasets):
        dataset.AcquisitionTime, dataset.FrameReferenceTime = "103000", "0"
        setattr(dataset, key, i + 1 if key == "ImageIndex" else i // 6 + 1)
    folder = save(tmp_path / "a", datasets)
    for i in (1, 2, 3):
        np.testing.assert_array_equal(read_dicom_pet(folder, frame=i).image, i * STORED)


def test_beds_are_one_frame(tmp_path):
    datasets = list(series(SeriesType=["WHOLE BODY", "IMAGE"]))
    for k, dataset in enumerate(datasets):
        dataset.AcquisitionTime = "103500" if k < 3 else "103000.5"
        dataset.FrameReferenceTime = "400000" if k < 3 else "100000"
    result = read_dicom_pet(save(tmp_path / "a", datasets))
    assert_image(result)
    assert (result.facts.n_frames, result.facts.n_beds) == (1, 2)
    assert result.facts.frame_reference_time == 100
    with pytest.raises(ValueError, match="2 beds of this image are not decay corrected"):
        suv_factor(dataclasses.replace(result.facts, decay_correction="NONE"))


# ---- facts and SUV ---------------------------------------------------------------------------------------------------


def facts_of(tmp_path, **changes):
    return read_dicom_pet(save(tmp_path / "a", series([0], **changes)) / "IM0000").facts


def test_facts(tmp_path):
    facts = facts_of(tmp_path)
    expected = {
        "units": "BQML",
        "decay_correction": "START",
        "corrections": ("ATTN", "SCAT", "DECY"),
        "series_type": "STATIC",
        "radionuclide": "F-18",
        "half_life": HALF_LIFE,
        "injected_dose": 350.0,
        "injection_time": datetime(2024, 3, 1, 9, 30),
        "series_time": datetime(2024, 3, 1, 10, 30, 0, 500000),
        "acquisition_time": datetime(2024, 3, 1, 10, 30, 0, 500000),
        "frame_duration": 300.0,
        "weight": 70.0,
        "height": 1.7,
        "sex": "F",
        "patient_position": "HFS",
        "series_description": "AC",
        "series_number": 4,
        "series_uid": SERIES,
        "manufacturer": "SIEMENS",
    }
    assert {name: getattr(facts, name) for name in expected} == expected
    assert facts.study["PatientName"] == "Doe^Jane"
    assert "Doe" not in repr(facts)


def test_suv_of_a_decaying_dose(tmp_path):
    dose = 350e6 * 2 ** (-3600.5 / HALF_LIFE)
    facts = facts_of(tmp_path)
    assert suv_factor(facts) == pytest.approx(70000 / dose, rel=1e-12)
    # James and Janmahasatian by hand for 70 kg and 1.7 m: body mass index 24.2215
    for kind, grams in {
        "body weight": 70000,
        "James lean body mass": 1000 * (1.07 * 70 - 148 * (70 / 170) ** 2),
        "Janmahasatian lean body mass": 1000 * 9270 * 70 / (8780 + 244 * 24.221453),
        "ideal body weight": 1000 * (45.5 + 0.91 * 18),
        "body surface area": 18097,  # cm2
    }.items():
        assert suv_factor(facts, kind) == pytest.approx(grams / dose, rel=1e-4)
    man = dataclasses.replace(facts, weight=80.0, height=1.8, sex="M")
    assert suv_factor(man, "james lean body mass") * dose == pytest.approx(62716, rel=1e-4)
    assert suv_factor(man, "Janmahasatian lean body mass") * dose == pytest.approx(61731, rel=1e-4)
    with pytest.raises(ValueError, match="unknown kind of SUV 'fat'; choose from body weight"):
        suv_factor(facts, "fat")


def test_an_image_of_the_whole_dose_in_the_whole_body_has_suv_one():
    """Independent of any formula for decay: what is injected, spread evenly, is 1 g/mL at every moment."""
    start = datetime(2024, 3, 1, 12)
    for correction, elapsed, mean in [
        ("START", 3600, 1.0),
        ("ADMIN", 0, 1.0),
        ("NONE", 3600, isotope("F-18").mean_decay(600)),
    ]:
        facts = PETFacts(
            units="BQML",
            decay_correction=correction,
            half_life=isotope("F-18").half_life,
            injected_dose=200.0,
            injection_time=start - timedelta(hours=1),
            series_time=start,
            acquisition_time=start,
            frame_start=start,
            frame_duration=600.0,
            weight=60.0,
        )
        becquerel_per_ml = 200e6 / 60e3 * isotope("F-18").decay(elapsed) * mean
        assert suv_factor(facts) * becquerel_per_ml == pytest.approx(1, rel=1e-9)


def test_over_midnight(tmp_path):
    times = {"SeriesTime": "002000", "AcquisitionTime": "002000"}
    facts = facts_of(
        tmp_path, **times, RadiopharmaceuticalInformationSequence=[tracer(RadiopharmaceuticalStartTime="231000")]
    )
    assert facts.injection_time == datetime(2024, 2, 29, 23, 10)
    assert suv_factor(facts) == pytest.approx(70000 / (350e6 * 2 ** (-4200 / HALF_LIFE)))


def test_injection_with_a_date_and_a_time_zone_comes_first(tmp_path):
    item = tracer(RadiopharmaceuticalStartTime="010000", RadiopharmaceuticalStartDateTime="20240301081500.0+0000")
    facts = facts_of(tmp_path, RadiopharmaceuticalInformationSequence=[item], TimezoneOffsetFromUTC="+0100")
    assert facts.injection_time == datetime(2024, 3, 1, 9, 15)


def test_a_dynamic_scan_may_begin_before_the_injection(tmp_path):
    item = tracer(RadiopharmaceuticalStartTime="103010")
    facts = facts_of(tmp_path, SeriesType=["DYNAMIC", "IMAGE"], RadiopharmaceuticalInformationSequence=[item])
    assert facts.injection_time == datetime(2024, 3, 1, 10, 30, 10)
    assert suv_factor(facts) == pytest.approx(70000 / (350e6 * 2 ** (9.5 / HALF_LIFE)))
    with pytest.raises(ValueError, match="half-lives apart"):
        suv_factor(dataclasses.replace(facts, series_type="STATIC"))


def test_a_time_of_day_is_not_enough_for_a_tracer_of_days(tmp_path):
    item = tracer(RadionuclideHalfLife="282240", RadionuclideTotalDose="40000000")
    item.RadionuclideCodeSequence[0].CodeMeaning = "^89^Zirconium"
    facts = facts_of(tmp_path, RadiopharmaceuticalInformationSequence=[item])
    assert (facts.radionuclide, facts.injection_time) == ("Zr-89", None)
    with pytest.raises(ValueError, match=r"date and time of the injection is needed.*replace\(facts, injection_time"):
        suv_factor(facts)


@pytest.mark.parametrize("vendor", ["GE", "Siemens", "frame reference", "acquisition"])
def test_series_made_after_the_scan(tmp_path, vendor):
    """SeriesTime is hours late; the scan began at 10:30:00.5, and this bed five minutes later."""
    datasets = list(series(SeriesTime="150000", AcquisitionTime="103500.5", FrameReferenceTime=None))
    for dataset in datasets:
        if vendor == "GE":
            dataset.Manufacturer = "GE MEDICAL SYSTEMS"
            dataset.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240301103000.50")
        if vendor == "Siemens":
            dataset.private_block(0x0071, "SIEMENS MED PT", create=True).add_new(0x22, "DT", "20240301103000.500")
        if vendor == "frame reference":
            dataset.FrameReferenceTime = str(round(1000 * (300 + mean_activity(300)), 3))
    facts = read_dicom_pet(save(tmp_path / "a", datasets)).facts
    late = 300 if vendor == "acquisition" else 0
    if vendor == "acquisition":
        with pytest.warns(UserWarning, match=r"FrameReferenceTime is missing.*where earlier beds were left out"):
            reference = decay_reference_time(facts)
        facts = dataclasses.replace(facts, decay_reference=reference)
    reference = decay_reference_time(facts)
    assert abs((reference - datetime(2024, 3, 1, 10, 30, 0, 500000)).total_seconds() - late) < 1e-3
    assert suv_factor(facts) == pytest.approx(70000 / (350e6 * 2 ** (-(3600.5 + late) / HALF_LIFE)), rel=1e-6)


WITHOUT_DATE = [{"AcquisitionDate": ""}, {"AcquisitionDate": None}, {"AcquisitionTime": ""}]


@pytest.mark.parametrize("empty", WITHOUT_DATE)
@pytest.mark.parametrize("images", ["all", "one"])
def test_a_series_made_later_without_the_date_of_its_acquisition(tmp_path, empty, images):
    """SeriesTime, four hours late, was taken as the scan's: SUV was 4.6 times too high, or the injection a day off."""
    datasets = list(series(SeriesTime="143000"))
    for dataset in datasets if images == "all" else datasets[3:4]:
        put(dataset, empty)
    facts = read_dicom_pet(save(tmp_path / "a", datasets)).facts
    assert (facts.acquisition_time, facts.injection_time) == (None, None)
    with pytest.raises(ValueError, match=r"date and time .* is needed.*dataclasses.replace\(facts, "):
        suv_factor(facts)
    with pytest.raises(ValueError, match=r"when the first image began \(AcquisitionDate, -Time\) is needed"):
        decay_reference_time(facts)
    said = {"acquisition_time": datetime(2024, 3, 1, 10, 30, 0, 500000), "injection_time": datetime(2024, 3, 1, 9, 30)}
    mended = dataclasses.replace(facts, frame_start=said["acquisition_time"], **said)
    assert suv_factor(mended) == pytest.approx(70000 / (350e6 * 2 ** (-3600.5 / HALF_LIFE)), rel=1e-6)


def test_the_moment_of_acquisition_in_one_attribute(tmp_path):
    datasets = list(series(SeriesTime="143000", AcquisitionDate="", AcquisitionDateTime="20240301103000.5"))
    facts = read_dicom_pet(save(tmp_path / "a", datasets)).facts
    assert decay_reference_time(facts) == datetime(2024, 3, 1, 10, 30, 0, 500000)
    assert suv_factor(facts) == pytest.approx(70000 / (350e6 * 2 ** (-3600.5 / HALF_LIFE)), rel=1e-6)


def test_frames_without_frame_reference_times(tmp_path):
    """Ordered by the times of their acquisition; over midnight only where the date tells."""

    def frames(begun, dates):
        for i, (time, date) in enumerate(zip(begun, dates)):
            times = {"AcquisitionTime": time, "AcquisitionDate": date, "FrameReferenceTime": None}
            yield from series(SeriesType=["DYNAMIC", "IMAGE"], RescaleSlope=str(i + 1), **times)

    for n, (begun, dates) in enumerate(
        [(("093000", "095900"), ("", "")), (("235900", "000100"), ("20240301", "20240302"))]
    ):
        folder = save(tmp_path / str(n), frames(begun, dates))
        for frame in (1, 2):
            np.testing.assert_array_equal(read_dicom_pet(folder, frame=frame).image, frame * STORED)
    for n, dates in enumerate([("", ""), ("20240301", "20240301")]):
        folder = save(tmp_path / f"midnight{n}", frames(("235900", "000100"), dates))
        with pytest.raises(FormatError, match="neither FrameReferenceTime nor AcquisitionDate tells their order"):
            read_dicom_pet(folder, frame=1)


def test_frame_reference_times_of_ge_count_to_the_start_of_the_frame():
    facts = PETFacts(
        decay_correction="START",
        manufacturer="GE MEDICAL SYSTEMS",
        series_time=datetime(2024, 3, 1, 15),
        acquisition_time=datetime(2024, 3, 1, 10, 35),
        frame_start=datetime(2024, 3, 1, 10, 35),
        frame_reference_time=300.0,
    )
    assert decay_reference_time(facts) == datetime(2024, 3, 1, 10, 30)
    mine = datetime(2024, 3, 1, 10, 29)
    assert decay_reference_time(dataclasses.replace(facts, decay_reference=mine)) == mine


def test_decay_factors_that_contradict_the_times_warn(tmp_path):
    factor = 2 ** (mean_activity(300) / HALF_LIFE)
    facts = facts_of(tmp_path, DecayFactor=f"{factor:.6f}")
    suv_factor(facts)
    late = dataclasses.replace(facts, decay_factor=factor * 2 ** (3600.5 / HALF_LIFE))  # corrected to the injection
    with pytest.warns(UserWarning, match="DecayFactor .* says 2024-03-01 09:30:00; .*decay_reference"):
        suv_factor(late)
    assert suv_factor(dataclasses.replace(late, decay_reference=late.injection_time)) == pytest.approx(7e4 / 350e6)


def test_units_of_philips_and_of_suv(tmp_path):
    datasets = list(series([0], Units="CNTS"))
    block = datasets[0].private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x00, "DS", "0.000512")
    block.add_new(0x09, "DS", "1.25")
    facts = read_dicom_pet(save(tmp_path / "a", datasets) / "IM0000").facts
    assert suv_factor(facts) == pytest.approx(0.000512)
    assert suv_factor(facts, "body surface area") == pytest.approx(0.000512 * 18097 / 70000, rel=1e-4)
    becquerel = dataclasses.replace(facts, units="BQML")
    assert suv_factor(dataclasses.replace(facts, philips_suv_factor=None)) == pytest.approx(
        1.25 * suv_factor(becquerel)
    )
    assert suv_factor(PETFacts(units="GML")) == 1
    assert suv_factor(PETFacts(units="GML", suv_type="LBMJANMA"), "Janmahasatian lean body mass") == 1
    body = {"weight": 70.0, "height": 1.7, "sex": "F"}
    lean = PETFacts(units="GML", suv_type="LBMJAMES128", **body)
    assert suv_factor(lean) == pytest.approx(70 / (1.07 * 70 - 148 * (70 / 170) ** 2))
    area = PETFacts(units="CM2ML", **body)
    assert suv_factor(area) * suv_factor(PETFacts(units="GML", **body), "body surface area") == pytest.approx(1)


def test_doses_in_megabecquerel_and_unknown_half_lives(tmp_path):
    item = tracer(RadionuclideTotalDose="350", RadionuclideHalfLife=None)
    facts = facts_of(tmp_path, RadiopharmaceuticalInformationSequence=[item])
    assert facts.injected_dose == 350
    assert facts.half_life == isotope("F-18").half_life


FULL = PETFacts(
    units="BQML",
    decay_correction="START",
    radionuclide="F-18",
    half_life=HALF_LIFE,
    injected_dose=350.0,
    injection_time=datetime(2024, 3, 1, 9, 30),
    series_time=datetime(2024, 3, 1, 10, 30),
    acquisition_time=datetime(2024, 3, 1, 10, 30),
    weight=70.0,
    height=1.7,
    sex="F",
)
BAD_FACTS = {
    "weight": ({"weight": None}, r"weight in kg is needed.*dataclasses.replace\(facts, weight="),
    "dose": ({"injected_dose": None}, r"injected dose in MBq is needed.*replace\(facts, injected_dose="),
    "half-life": ({"half_life": None}, r"half-life in s is needed.*replace\(facts, half_life="),
    "injection": ({"injection_time": None}, r"injection is needed.*replace\(facts, injection_time="),
    "times": (
        {"series_time": None, "acquisition_time": None},
        r"when the first image began \(AcquisitionDate, -Time\).*\(facts, acquisition_time=",
    ),
    "acquisition": ({"acquisition_time": None}, r"when the first image began.*\(facts, acquisition_time="),
    "series": ({"series_time": None}, r"time of the series \(SeriesDate, SeriesTime\).*\(facts, series_time="),
    "height": ({"height": None}, r"height in m is needed.*replace\(facts, height="),
    "sex": ({"sex": None}, "sex is needed"),
    "other sex": ({"sex": "O"}, "sex M or F, got 'O'"),
    "grams": ({"weight": 70000.0}, "given in g"),
    "centimetres": ({"height": 170.0}, "given in cm"),
    "minutes": ({"half_life": 109.8}, "given in minutes"),
    "too heavy for the formula": ({"weight": 250.0}, "the formula gives"),
    "injection after the scan": ({"injection_time": datetime(2024, 3, 1, 11)}, "half-lives apart"),
    "injection the day before": ({"injection_time": datetime(2024, 2, 29, 9)}, "half-lives apart"),
    "units": ({"units": "PROPCPS"}, "PROPCPS and the file does not give the factor"),
    "no units": ({"units": None}, "the image is in None"),
    "no attenuation correction": ({"corrections": ("DECY",)}, "lacks ATTN"),
    "no decay correction": ({"corrections": ("ATTN",)}, "lacks DECY"),
    "unknown decay correction": ({"decay_correction": None}, "expected START, ADMIN or NONE"),
    "unknown SUV": ({"units": "GML", "suv_type": "X"}, "unknown type 'X'"),
}


@pytest.mark.parametrize(("changes", "message"), list(BAD_FACTS.values()), ids=list(BAD_FACTS))
def test_facts_that_give_no_suv(changes, message):
    assert suv_factor(FULL, "James lean body mass") > 0
    with pytest.raises(ValueError, match=message):
        suv_factor(dataclasses.replace(FULL, **changes), "James lean body mass")


def test_several_tracers_are_not_guessed(tmp_path):
    facts = facts_of(tmp_path, RadiopharmaceuticalInformationSequence=[tracer(), tracer()])
    assert (facts.injected_dose, facts.half_life, facts.radionuclide) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("F^18^[^18^Fluorine]", "F-18"),
        ("18F-FDG", "F-18"),
        ("PSMA-11 Ga-68", "Ga-68"),
        ("^82^Rubidium", "Rb-82"),
        ("[11C]PiB", "C-11"),
        ("Fluorodeoxyglucose", None),
    ],
)
def test_names_of_radionuclides(tmp_path, text, name):
    item = tracer(RadionuclideCodeSequence=None, Radiopharmaceutical=text)
    assert facts_of(tmp_path, RadiopharmaceuticalInformationSequence=[item]).radionuclide == name


# ---- writing ---------------------------------------------------------------------------------------------------------


REQUIRED = """SOPClassUID SOPInstanceUID StudyInstanceUID Modality SeriesInstanceUID SeriesDate SeriesTime
NumberOfSlices SeriesType Units CountsSource DecayCorrection FrameOfReferenceUID InstanceNumber ImagePositionPatient
PixelSpacing ImageOrientationPatient SliceThickness SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated
BitsStored HighBit PixelRepresentation PixelData ImageType RescaleIntercept RescaleSlope FrameReferenceTime
ImageIndex"""
MAY_BE_EMPTY = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber StudyID
ReferringPhysicianName SeriesNumber CollimatorType CorrectedImage RadiopharmaceuticalInformationSequence
PatientOrientationCodeSequence PatientGantryRelationshipCodeSequence PositionReferenceIndicator Manufacturer
AcquisitionDate AcquisitionTime ActualFrameDuration"""


def written(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("signed", [False, True])
def test_values_come_back_within_half_a_step(tmp_path, signed):
    grid = ImageGrid((7, 5, 4), (math.pi, 1 / 3, 2.0**0.5), (-1e3 / 7, math.e, -0.1))
    image = RNG.gamma(0.3, 1e4, grid.shape) * 10.0 ** np.arange(-6, 6, 3)
    image[:, :, 2] = 0
    image -= 1e-7 if signed else 0
    write_dicom_pet(tmp_path / "a", image, grid)
    result = read_dicom_pet(tmp_path / "a")
    step = np.abs(image).max((0, 1)) / (32767 if signed else 65535)
    assert (np.abs(result.image - image) <= 0.501 * step).all()
    assert result.grid == grid
    slopes = [float(dataset.RescaleSlope) for dataset in written(tmp_path / "a")]
    np.testing.assert_allclose(slopes[:2], step[:2], rtol=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_written_series_is_a_pet_series(tmp_path):
    write_dicom_pet(tmp_path / "a", IMAGE, GRID)
    datasets = written(tmp_path / "a")
    assert len(datasets) == GRID.shape[2]
    for dataset in datasets:
        assert all(dataset.get(name) not in (None, "") for name in REQUIRED.split())
        assert all(name in dataset for name in MAY_BE_EMPTY.split())
        assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.128"
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert list(dataset.ImageType) == ["DERIVED", "PRIMARY"]
        assert (dataset.Units, dataset.DecayCorrection, dataset.Modality) == ("BQML", "NONE", "PT")
        for element in dataset.iterall():
            assert not element.tag.is_private
            assert element.VR not in ("DS", "CS") or len(str(element.value).split("\\")[0]) <= 16 or element.VM > 1
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == len(datasets)
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 1
    # a reader of its own: geometry from the attributes alone
    for k, dataset in enumerate(datasets):
        np.testing.assert_allclose(
            [float(x) for x in dataset.ImagePositionPatient],
            [GRID.origin[0], GRID.origin[1], GRID.origin[2] + k * GRID.voxel_size[2]],
        )
        values = dataset.pixel_array.T * float(dataset.RescaleSlope)
        np.testing.assert_allclose(values, IMAGE[:, :, k], atol=0.51 * float(dataset.RescaleSlope))


def test_patient_study_tracer_and_times_are_shared(tmp_path):
    source = list(series())
    for dataset in source:
        dataset.PatientBirthDate, dataset.StudyDescription = "19800101", "staging"
        dataset.private_block(0x0009, "GEMS_GENIE_1", create=True).add_new(0x40, "LO", "DOE,JANE")
    original = read_dicom_pet(save(tmp_path / "a", source))
    for like in (original, original.facts, source[0]):
        folder = tmp_path / "b"
        write_dicom_pet(folder, original.image, original.grid, like, overwrite=True, series_description="denoised")
        again = read_dicom_pet(folder)
        np.testing.assert_allclose(again.image, original.image, rtol=1e-3, atol=1)
        assert again.grid == original.grid
        for dataset in written(folder):
            assert dataset.StudyInstanceUID == STUDY
            assert dataset.FrameOfReferenceUID == FRAME
            assert dataset.SeriesInstanceUID != SERIES
            assert dataset.SOPInstanceUID not in [item.SOPInstanceUID for item in source]
            assert str(dataset.PatientName) == "Doe^Jane"
            assert dataset.PatientBirthDate == "19800101"
            assert dataset.StudyDescription == "staging"
            assert not any(element.tag.is_private for element in dataset.iterall())
            assert "DOE,JANE" not in str(dataset)
            code = dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideCodeSequence[0]
            assert (code.CodeValue, code.CodeMeaning) == ("77004003", "^18^Fluorine")
            assert dataset.PatientGantryRelationshipCodeSequence[0].CodeMeaning == "headfirst"
        new = {"series_description": "denoised", "series_number": 1004, "series_uid": again.facts.series_uid}
        new |= {"manufacturer": "emrecon", "decay_factor": again.facts.decay_factor, "study": again.facts.study}
        new["frame_reference_time"] = pytest.approx(original.facts.frame_reference_time)
        assert dataclasses.replace(original.facts, **new) == again.facts
        assert again.facts.decay_factor == pytest.approx(2 ** (mean_activity(300) / HALF_LIFE))
        assert suv_factor(again.facts) == suv_factor(original.facts)


def test_suv_survives_where_private_attributes_carried_the_time(tmp_path):
    source = next(series(SeriesTime="150000"))
    source.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240301102900")
    folder = save(tmp_path / "a", [source])
    original = read_dicom_pet(folder / "IM0000")
    assert decay_reference_time(original.facts) == datetime(2024, 3, 1, 10, 29)
    for correction in ("START", "ADMIN", "NONE"):
        write_dicom_pet(
            tmp_path / "b",
            *original[:2],
            original.facts,
            overwrite=True,
            decay_correction=correction,
            corrections=("ATTN",),
        )
        facts = dataclasses.replace(original.facts, decay_correction=correction, corrections=())
        again = read_dicom_pet(tmp_path / "b").facts
        assert suv_factor(again) == pytest.approx(suv_factor(facts), rel=1e-9)
        assert ("DECY" in again.corrections) == (correction != "NONE")


def test_unusual_values_are_written(tmp_path):
    for image in (
        np.zeros(GRID.shape),
        np.full(GRID.shape, 1e-300),
        np.full(GRID.shape, 3e38),
        np.ones(GRID.shape, bool),
        torch.from_numpy(IMAGE),
        STORED,
    ):
        write_dicom_pet(tmp_path / "a", image, GRID, overwrite=True, units="PROPCPS", weight=1 / 3)
        result = read_dicom_pet(tmp_path / "a")
        np.testing.assert_allclose(result.image, np.asarray(image, float), rtol=1e-3, atol=1)
        assert (result.facts.units, result.facts.weight) == ("PROPCPS", pytest.approx(1 / 3))


def test_what_cannot_be_written(tmp_path):
    nan = IMAGE.copy()
    nan[0, 0, 0] = np.nan
    for image, options, error, message in [
        (IMAGE[1:], {}, ValueError, "does not fit a grid"),
        (IMAGE[None], {}, ValueError, "one frame"),
        (nan, {}, ValueError, "NaN"),
        (1e39 * IMAGE.astype(float), {}, ValueError, "beyond float32"),
        (IMAGE.astype(complex), {}, ValueError, "real numbers"),
        (IMAGE, {"like": 3}, TypeError, "like must be PETFacts"),
        (IMAGE, {"dose": 3}, TypeError, "dose"),
        (IMAGE, {"decay_correction": "START"}, ValueError, "time when the first image began"),
    ]:
        with pytest.raises(error, match=message):
            write_dicom_pet(tmp_path / "a", image, GRID, **options)
    with pytest.raises(FileNotFoundError, match="parent folder does not exist"):
        write_dicom_pet(tmp_path / "none" / "a", IMAGE, GRID)
    assert not list(tmp_path.iterdir())


def test_folders_are_replaced_only_when_asked_and_only_series(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    write_dicom_pet(folder, IMAGE, GRID)  # an empty folder holds nothing to lose
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_dicom_pet(folder, 2 * IMAGE, GRID)
    np.testing.assert_allclose(read_dicom_pet(folder).image, IMAGE, rtol=1e-3, atol=1)
    smaller = ImageGrid((5, 4, 2), GRID.voxel_size)
    write_dicom_pet(folder, 2 * IMAGE[:, :, :2], smaller, overwrite=True)
    assert read_dicom_pet(folder).grid == smaller
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"notes\.txt is not of a series"):
        write_dicom_pet(folder, IMAGE, GRID, overwrite=True)
    with pytest.raises(FileExistsError, match="the path is a file"):
        write_dicom_pet(folder / "notes.txt", IMAGE, GRID, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("moment", ["save", "move"])
def test_an_interruption_leaves_what_was_there(tmp_path, monkeypatch, moment):
    write_dicom_pet(tmp_path / "a", IMAGE, GRID)
    calls = []

    def interrupted(self, *args, **options):
        calls.append(self)
        if len(calls) > (3 if moment == "save" else 1):
            raise KeyboardInterrupt
        return original(self, *args, **options)

    owner, name = (Dataset, "save_as") if moment == "save" else (os, "rename")
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, interrupted)
    if moment == "move":

        def rename(source, target):
            calls.append(source)
            if len(calls) == 2:
                raise KeyboardInterrupt
            original(source, target)

        monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        write_dicom_pet(tmp_path / "a", 2 * IMAGE, GRID, overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    np.testing.assert_allclose(read_dicom_pet(tmp_path / "a").image, IMAGE, rtol=1e-3, atol=1)


# ---- measured files --------------------------------------------------------------------------------------------------


def test_a_measured_slice():
    image, grid, facts = read_dicom_pet(real_data("dicom", "PT_suyashkumar_1.dcm"))
    assert image.shape == (168, 168, 1)
    assert grid.voxel_size == (4.07283, 4.07283, 5.0)
    assert grid.origin == (-342.11083849009, -528.74934994385, -278.5)
    assert image.max() == np.float32(1327 * 9.12329)
    assert (facts.units, facts.decay_correction, facts.radionuclide) == ("BQML", "START", "F-18")
    # 178.34 MBq at 14:17:00, the scan at 15:23:16.921, 69.7344 kg
    dose = 178340011.59668 * 2 ** (-3976.921 / 6586.2)
    assert suv_factor(facts) == pytest.approx(69734.4 / dose, rel=1e-9)
    assert image.max() * suv_factor(facts) == pytest.approx(7.194, abs=1e-3)


@pytest.mark.parametrize("name", ["NM1_UNC.dcm", "NM-MONO2-16-13x-heart.dcm"])
def test_measured_files_of_a_gamma_camera_are_named(name):
    with pytest.raises(FormatError, match=r"is NM \(gamma camera: planar or SPECT\), not PT"):
        read_dicom_pet(real_data("dicom", name))


def test_implicit_syntax(tmp_path):
    datasets = list(series())
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert_image(read_dicom_pet(save(tmp_path / "a", datasets)))


SEQUENCES = ("RadiopharmaceuticalInformationSequence", "RadionuclideCodeSequence", "RadiopharmaceuticalCodeSequence")


@pytest.mark.parametrize("keyword", [*SEQUENCES, "PixelSpacing", "Rows", "AcquisitionTime", "Units"])
@pytest.mark.parametrize(
    ("representation", "value"),
    [("US", 3), ("US", [1, 2]), ("FD", 1.5), ("LO", "text"), ("OB", b"ab"), ("AT", 0x00100010), ("SQ", [Dataset()])],
)
def test_attributes_of_another_type(tmp_path, keyword, representation, value):
    """Nothing but a FormatError, or the fact as missing: sequences may be stored as numbers, numbers as sequences."""

    def changed(dataset):
        inner = keyword in SEQUENCES[1:]
        place = dataset.RadiopharmaceuticalInformationSequence[0] if inner else dataset
        place[keyword] = pydicom.DataElement(keyword, representation, value)
        return dataset

    save(tmp_path, map(changed, series()))
    with contextlib.suppress(FormatError):
        facts = read_dicom_pet(tmp_path).facts
        with contextlib.suppress(ValueError):
            suv_factor(facts)
