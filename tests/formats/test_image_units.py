"""The unit of the values of an image: written, read, and shown by describe."""

import numpy as np
import pytest

from emrecon import formats
from emrecon.projectors import ImageGrid

GRID = ImageGrid((2, 3, 2), 4.0)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.h5", "a.hv", "a.h33"])
def test_the_unit_comes_back(tmp_path, name):
    path, image = tmp_path / name, np.ones(GRID.shape, np.float32)
    formats.write_image(path, image, GRID, unit="Bq/mL")
    assert formats.image_unit(path) == "Bq/mL"
    np.testing.assert_array_equal(formats.read_image(path)[0], image)
    formats.write_image(path, image, GRID)
    assert formats.image_unit(path) is None


@pytest.mark.parametrize("name", ["a.nii.gz", "a.h5"])
def test_describe_says_it(tmp_path, name):
    formats.write_image(tmp_path / name, np.ones(GRID.shape, np.float32), GRID, unit="SUV")
    assert formats.describe(tmp_path / name)["units"] == "SUV"
