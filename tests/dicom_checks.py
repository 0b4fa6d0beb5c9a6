"""What programs that are not ours say of DICOM files: dicom3tools' checker, and dcm2niix."""

import re
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest


def errors_of(path):
    """The errors that `dciodvfy` (dicom3tools) finds in a file."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return re.findall(r"^Error - (.*)$", said.stdout + said.stderr, re.MULTILINE)


def converted(path, folder):
    """(values (x, y, z, ...) in LPS order, voxel size, position of the first voxel in LPS) of what dcm2niix makes."""
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    folder.mkdir()
    source = path
    if path.is_file():
        source = folder / "in"
        source.mkdir()
        shutil.copy(path, source)
    command = ["dcm2niix", "-z", "n", "-b", "n", "-f", "made", "-o", str(folder), str(source)]
    subprocess.run(command, capture_output=True, check=True)
    (file,) = folder.glob("*.nii")
    volume = nib.as_closest_canonical(nib.load(file))
    values, affine = np.asarray(volume.dataobj, float), volume.affine
    assert np.allclose(affine[:3, :3], np.diag(np.diag(affine)[:3]), atol=1e-5)
    size = np.diag(affine)[:3]
    first = affine[:3, 3] + [size[0] * (values.shape[0] - 1), size[1] * (values.shape[1] - 1), 0]
    return values[::-1, ::-1], size, first * [-1, -1, 1]
