"""RECON TOMO and RECON GATED TOMO: place, orientation, direction of stacking, scaling and unit."""

import numpy as np
import pydicom
import pytest
from nm_cases import scan, study
from pydicom.dataset import Dataset
from real_data import real_data

from emrecon import formats
from emrecon.projectors import ImageGrid

GRID = ImageGrid((5, 4, 3), (2.0, 3.0, 4.0), (-30.0, 50.0, -700.0))


def image(seed=3):
    """Values that are all different enough to show a wrong order."""
    return np.random.default_rng(seed).integers(1, 30000, GRID.shape).astype(np.float32)


def dataset(values, corner, cosines, spacing, slices):
    """A RECON TOMO of values (x, y, z): slices, rows and columns are taken along the axes that the cosines name."""
    made = Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.20"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    made.Modality, made.ImageType = "NM", ["DERIVED", "PRIMARY", "RECON TOMO", "EMISSION"]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    made.NumberOfFrames, made.Rows, made.Columns = values.shape
    made.FrameIncrementPointer = 0x00540080
    made.SliceVector, made.NumberOfSlices = list(range(1, values.shape[0] + 1)), values.shape[0]
    made.NumberOfEnergyWindows = made.NumberOfDetectors = made.NumberOfRotations = 1
    made.PixelSpacing, made.SpacingBetweenSlices = [spacing[1], spacing[0]], slices
    item = Dataset()
    item.ImagePositionPatient, item.ImageOrientationPatient = list(corner), list(cosines)
    made.DetectorInformationSequence = [item]
    made.PixelData = values.astype("<u2").tobytes()
    return made


def saved(folder, made):
    made.save_as(folder / "image", enforce_file_format=True)
    return folder / "image"


@pytest.mark.parametrize("upward", [True, False])
def test_the_sign_of_the_spacing(tmp_path, upward):
    values = image()
    stack = values.transpose(2, 1, 0) if upward else values.transpose(2, 1, 0)[::-1]
    z = -700.0 if upward else -692.0
    made = dataset(stack, (-30, 50, z), (1, 0, 0, 0, 1, 0), (2, 3), 4 if upward else -4)
    found, grid = formats.read_image(saved(tmp_path, made))
    assert grid == GRID
    assert np.array_equal(found, values)


def test_coronal_slices_seen_from_the_front(tmp_path):
    values = image()
    # columns to the left, rows to the feet: the normal points to the back
    stack = values.transpose(1, 2, 0)[:, ::-1]
    made = dataset(stack, (-30, 50, -692), (1, 0, 0, 0, 0, -1), (2, 4), 3)
    found, grid = formats.read_image(saved(tmp_path, made))
    assert grid == GRID
    assert np.array_equal(found, values)


def test_slices_in_any_order(tmp_path):
    values = image()
    made = dataset(values.transpose(2, 1, 0)[[2, 0, 1]], (-30, 50, -700), (1, 0, 0, 0, 1, 0), (2, 3), 4)
    made.SliceVector = [3, 1, 2]
    found, _ = formats.read_image(saved(tmp_path, made))
    assert np.array_equal(found, values)
    made.SliceVector = [3, 1, 1]
    with pytest.raises(formats.FormatError, match=r"SliceVector \(0054,0080\) gives several frames the same slice"):
        formats.read_image(saved(tmp_path, made))


def test_oblique_and_missing_orientations(tmp_path, notes):
    made = dataset(image().transpose(2, 1, 0), (0, 0, 0), (0.8, 0.6, 0, -0.6, 0.8, 0), (2, 3), 4)
    path = saved(tmp_path, made)
    with pytest.raises(formats.FormatError, match="oblique to the patient's axes"):
        formats.read_image(path)
    found, grid = formats.read_image(path, orientation=(1, 0, 0, 0, 1, 0), position=(1, 2, 3))
    assert found.shape == GRID.shape
    assert grid.origin == (1, 2, 3)
    made.DetectorInformationSequence = []
    found = formats.read_dicom_nm_image(saved(tmp_path, made))
    assert found.study.placement is None
    assert "ImageOrientationPatient (0020,0037) is missing" in notes()
    assert "centred on (0, 0, 0)" in notes()


@pytest.mark.parametrize("how", ["mapping", "rescale", "both", "private", "none"])
def test_scaling(tmp_path, notes, how):
    made = dataset(image().transpose(2, 1, 0), (-30, 50, -700), (1, 0, 0, 0, 1, 0), (2, 3), 4)
    factor, unit = 1.0, "counts"
    if how in ("rescale", "both"):
        made.RescaleSlope, made.RescaleIntercept, made.Units = "0.5", "0", "CNTS"
        factor = 0.5
    if how in ("mapping", "both"):
        code, item = Dataset(), Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "Bq/ml", "UCUM", "Becquerels/milliliter"
        item.MeasurementUnitsCodeSequence = [code]
        item.RealWorldValueSlope, item.RealWorldValueIntercept = 2.5, 0.0
        made.RealWorldValueMappingSequence = [item]
        factor, unit = 2.5, "Bq/mL"
    if how == "private":
        made.private_block(0x0033, "SIEMENS", create=True).add_new(0x38, "DS", "1000")
        factor, unit = 1e-3, "1/cm"
    found = formats.read_dicom_nm_image(saved(tmp_path, made))
    assert np.allclose(found.image, image() * factor)
    assert found.unit == unit
    if how == "both":
        assert "(x 2.5) is used, not RescaleSlope" in notes()
    if how in ("private", "none"):
        assert "pass" in notes()
    again = formats.read_dicom_nm_image(tmp_path / "image", scale=3, unit="Bq/mL")
    assert np.allclose(again.image, 3 * image())


def test_what_is_written_comes_back(tmp_path):
    values = image()
    formats.write_dicom_image(tmp_path / "a", values, GRID, unit="Bq/mL", study=study("FFP"))
    found = formats.read_dicom_nm_image(tmp_path / "a")
    assert np.allclose(found.image, values, atol=values.max() / 65535)
    assert np.allclose(found.grid.origin, np.add(GRID.origin, study().placement))
    assert found.unit == "Bq/mL"
    assert found.study.injected == study().injected
    with pytest.raises(formats.FormatError, match=r"RECON TOMO .* use read_image or read_dicom_nm_image"):
        formats.read_scan(tmp_path / "a")


def test_gates(tmp_path):
    values = np.stack([image(1), image(2)])
    made = dataset(values.transpose(0, 3, 2, 1).reshape(6, 4, 5), (-30, 50, -700), (1, 0, 0, 0, 1, 0), (2, 3), 4)
    made.ImageType = ["DERIVED", "PRIMARY", "RECON GATED TOMO", "EMISSION"]
    made.FrameIncrementPointer = [0x00540060, 0x00540070, 0x00540080]
    made.RRIntervalVector, made.TimeSlotVector, made.SliceVector = [1] * 6, [1, 1, 1, 2, 2, 2], [1, 2, 3] * 2
    made.NumberOfRRIntervals, made.NumberOfTimeSlots = 1, 2
    found = formats.read_dicom_nm_image(saved(tmp_path, made))
    assert np.array_equal(found.image, values)
    one, _ = formats.read_image(tmp_path / "image", gate=2)
    assert np.array_equal(one, values[1])


def test_real_files(notes):
    folder = real_data("dicom")
    heart = formats.read_dicom_nm_image(folder / "NM-MONO2-16-13x-heart.dcm")
    assert heart.image.shape == (64, 64, 13)
    assert heart.grid.voxel_size == (3.11583, 3.11583, 6.231669)
    assert heart.image.max() == 141
    assert "pass orientation=" in notes()
    body = formats.read_planar(folder / "NM1_UNC.dcm")
    assert (body.kind, body.counts.shape, body.pixel_size) == ("WHOLE BODY", (1, 1024, 256), (2.26, 2.26))
    assert int(body.counts.sum()) == 3596452
    assert body.radionuclide == "Tc-99m"
    assert body.durations[0] == pytest.approx(1210.434)
    for name, words in (("NM1_UNC.dcm", "WHOLE BODY"), ("PT_suyashkumar_1.dcm", "is PT, not NM")):
        with pytest.raises(formats.FormatError, match=words):
            formats.read_scan(folder / name)


def test_images_among_projections(tmp_path):
    values = image()
    formats.write_dicom_image(tmp_path / "image.dcm", values, GRID, unit="Bq/mL", study=study())
    formats.write_dicom_nm(tmp_path / "scan.dcm", scan())
    found, _ = formats.read_image(tmp_path)
    assert np.allclose(found, values, atol=values.max() / 65535)
    assert formats.read_scan(tmp_path).geometry.n_views == 8
