"""RT structure sets and DICOM segmentations for tests: spheres as contours, and masks by highdicom."""

import numpy as np
from ct_cases import FRAME
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CENTRE, RADIUS = np.array([4.0, -222.0, 1036.0]), 25.0
"""Of a sphere, in the patient's LPS mm."""


def circle(radius, x, y, z, n=90, turn=1):
    angle = turn * np.linspace(0, 2 * np.pi, n, endpoint=False)
    # a polygon of the circle's own area
    radius = radius * np.sqrt(np.pi / (n / 2 * np.sin(2 * np.pi / n)))
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle), np.full(n, float(z))], 1)


def sphere(centre=CENTRE, radius=RADIUS, thickness=3.0, axis=2):
    """Contours of a sphere on slices perpendicular to an axis."""
    found = []
    for height in np.arange(-radius + thickness / 2, radius, thickness):
        points = circle(np.sqrt(radius**2 - height**2), 0, 0, height)
        found.append(np.roll(points, axis - 2, 1)[:, :] + centre)
    return found


def item(**values):
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def write_structures(path, structures, kind="CLOSED_PLANAR", frame=FRAME, **changes):
    """Write an RTSTRUCT: (name, contours) each."""
    dataset = item(Modality="RTSTRUCT", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", SOPInstanceUID=generate_uid())
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName = "Doe^Jane"
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures, 1):
        dataset.StructureSetROISequence.append(
            item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame, ROIGenerationAlgorithm="")
        )
        parts = [
            item(
                ContourGeometricType=kind,
                NumberOfContourPoints=len(points),
                ContourData=[f"{value:.3f}" for value in np.ravel(points)],
            )
            for points in contours
        ]
        dataset.ROIContourSequence.append(item(ReferencedROINumber=number, ContourSequence=parts))
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_segments(path, source, values, kind, names, **options):
    """Write a SEG of slices: (segments, x, y, z) values, or labels (x, y, z); source: CT datasets from the feet up."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, 1)
    ]
    made = hd.seg.Segmentation(
        source_images=source,
        pixel_array=values.T,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="emrecon",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    made.save_as(path)
    return path
