"""Scans: what is accepted, what is refused, and what follows from one."""

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch

from emrecon.projectors import Scan, SPECTGeometry, SPECTProjector

GEOMETRY = SPECTGeometry.circular(6, 100, (5, 4), (3.0, 2.0), axial_shift=7.0)
COUNTS = np.random.default_rng(0).poisson(5.0, GEOMETRY.shape).astype(np.float32)


def test_defaults():
    scan = Scan(COUNTS, GEOMETRY)
    assert scan.counts is COUNTS
    assert (scan.background, scan.factors, scan.duration, scan.radionuclide, scan.energy_window) == (
        0,
        1,
        None,
        None,
        None,
    )
    with pytest.raises(FrozenInstanceError):
        scan.counts = 0


@pytest.mark.parametrize("name", ["99mTc", "tc99m", "TC-99M"])
def test_radionuclides_get_one_name(name):
    assert Scan(COUNTS, GEOMETRY, radionuclide=name).radionuclide == "Tc-99m"


@pytest.mark.parametrize(
    "counts",
    [COUNTS.astype(np.uint16), COUNTS > 3, COUNTS / 3, COUNTS[None], np.stack([COUNTS] * 2), torch.tensor(COUNTS)],
    ids=["integers", "booleans", "fractions", "one item", "batch", "torch"],
)
def test_counts_of_many_kinds(counts):
    scan = Scan(counts, GEOMETRY, background=np.ones((5, 4)), factors=np.ones((6, 1, 1)))
    assert scan.counts is counts


def bad_count(value):
    counts = COUNTS.copy()
    counts[1, 2, 3] = counts[0, 0, 0] = value
    return counts


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (bad_count(-2), r"2 counts are negative \(lowest -2\); are these corrected data\?"),
        (bad_count(np.nan), "2 counts are NaN or infinite"),
        (bad_count(np.inf), "2 counts are NaN or infinite"),
        (torch.tensor(bad_count(-2)), "2 counts are negative"),
        (COUNTS[:5], r"of shape \(5, 5, 4\) do not fit a geometry of \(6, 5, 4\)"),
        (COUNTS.swapaxes(1, 2), "do not fit"),
        (COUNTS[0], "do not fit"),
    ],
)
def test_counts_that_make_no_sense(counts, message):
    with pytest.raises(ValueError, match=message):
        Scan(counts, GEOMETRY)


@pytest.mark.parametrize(
    ("counts", "message"), [(COUNTS + 1j, "must be real numbers, got complex"), (COUNTS.tolist(), "expects an array")]
)
def test_counts_of_other_types(counts, message):
    with pytest.raises(TypeError, match=message):
        Scan(counts, GEOMETRY)


@pytest.mark.parametrize("name", ["background", "factors"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1.0, ValueError, "must be finite and not negative"),
        (np.nan, ValueError, "must be finite and not negative"),
        (-COUNTS - 1, ValueError, "must be finite and not negative"),
        (np.ones((7, 5, 4)), ValueError, "does not broadcast to counts"),
        (np.ones((2, 6, 5, 4)), ValueError, "does not broadcast to counts"),
        ([1, 2], TypeError, "must be a number or an array, got a list"),
    ],
)
def test_corrections_that_make_no_sense(name, value, error, message):
    with pytest.raises(error, match=f"Scan {name} .*{message}"):
        Scan(COUNTS, GEOMETRY, **{name: value})


@pytest.mark.parametrize(
    ("circumstances", "message"),
    [
        ({"duration": 0}, "duration must be positive"),
        ({"duration": -1}, "duration must be positive"),
        ({"duration": np.nan}, "duration must be positive"),
        ({"radionuclide": "kryptonite"}, "unknown radionuclide"),
        ({"energy_window": (150, 130)}, "energy_window must be"),
        ({"energy_window": (-1, 130)}, "energy_window must be"),
        ({"energy_window": (np.nan, 130)}, "energy_window must be"),
    ],
)
def test_circumstances_that_make_no_sense(circumstances, message):
    with pytest.raises(ValueError, match=message):
        Scan(COUNTS, GEOMETRY, **circumstances)


def test_the_default_grid_lies_under_the_detector():
    grid = Scan(COUNTS, GEOMETRY).default_grid()
    assert grid.shape == (5, 5, 4)
    assert grid.voxel_size == (3.0, 3.0, 2.0)
    np.testing.assert_allclose(grid.centre, [0, 0, 7])
    np.testing.assert_allclose(grid.coordinates()[2].ravel(), GEOMETRY.bin_centres()[1])


def test_the_model_takes_the_corrections_along():
    scan = Scan(COUNTS, GEOMETRY, background=COUNTS, factors=np.full((6, 1, 1), 2.0))
    A = SPECTProjector(scan.default_grid(), GEOMETRY)
    x = np.random.default_rng(1).random(A.in_shape)
    np.testing.assert_allclose(scan.model(A)(x), 2 * A(x) + COUNTS)


def test_subsets_keep_what_has_no_views():
    scan = Scan(np.stack([COUNTS] * 2), GEOMETRY, COUNTS, np.ones((5, 4)), 20.0, "I-131", (328, 400), "a test")
    part = scan.subset(1, 3)
    np.testing.assert_array_equal(part.counts, scan.counts[:, 1::3])
    np.testing.assert_array_equal(part.background, COUNTS[1::3])
    assert part.factors is scan.factors
    assert part.geometry == GEOMETRY.subset(1, 3)
    for name in ("duration", "radionuclide", "energy_window", "description", "study"):
        assert getattr(part, name) == getattr(scan, name)
    assert len(fields(scan)) == 9, "a new field must be carried over by subset"


def test_the_description_is_kept_and_not_shown():
    camera = SPECTGeometry.circular(3, 100, (4, 2), 4.0)
    scan = Scan(np.ones(camera.shape), camera, description="Doe^Jane, bone scan")
    assert scan.description == "Doe^Jane, bone scan"
    assert "Doe" not in repr(scan) + str(scan) + scan._repr_html_()
