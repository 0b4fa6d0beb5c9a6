"""Detection of lesions: tasks as pairs of scans without and with a lesion, observers of their images, and the study."""

from .cnn_observer import CNNObserver
from .tasks import DetectionTask, Drawn, Scans, bone_lesion, liver_lesion, lung_lesion, myocardial_defect, patches

__all__ = [
    "CNNObserver",
    "DetectionTask",
    "Drawn",
    "Scans",
    "bone_lesion",
    "liver_lesion",
    "lung_lesion",
    "myocardial_defect",
    "patches",
]
