"""The PET projectors: battery, chords, ellipsoids, time of flight, list-mode, and a plain projector to compare with."""

import numpy as np
import pytest
from battery import check_operator, mismatch, relative_error
from pet_cases import GRID, SCANNER, SINOGRAMS, TOF, events_of_every_bin, listmode, projector
from plain_joseph import plain_joseph

from emrecon.projectors import ImageGrid, ListmodeProjector, PETProjector, PETScanner, PETSinogram, TimeOfFlight
from emrecon.sims import Ellipsoid, Phantom, Region


@pytest.mark.parametrize("case", SINOGRAMS)
def test_sinogram_battery(case):
    check_operator(projector(case), positive=True)


@pytest.mark.parametrize("timed", [False, True])
def test_listmode_battery(timed):
    check_operator(listmode(timed), positive=True)


@pytest.mark.parametrize("case", ["span 1", "span 3", "mashed, trimmed", "flat"])
def test_equals_a_plain_projector(case):
    A = projector(case)
    x = np.random.default_rng(0).normal(size=A.in_shape)
    expected = plain_joseph(x, A.grid, *A.sinogram.line_ends())
    np.testing.assert_allclose(A(x), expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("timed", [False, True])
def test_listmode_equals_the_sinogram_of_the_same_events(timed):
    sinogram = PETSinogram(SCANNER, tof=TOF if timed else None)
    A = PETProjector(GRID, sinogram)
    L = ListmodeProjector(GRID, SCANNER, events_of_every_bin(sinogram), tof=sinogram.tof)
    x, y = np.random.default_rng(0).normal(size=GRID.shape), np.random.default_rng(1).normal(size=sinogram.shape)
    np.testing.assert_allclose(L(x), A(x).ravel(), atol=1e-12 * np.abs(A(x)).max())
    np.testing.assert_allclose(L.T(y.ravel()), A.T(y), atol=1e-12 * np.abs(A.T(y)).max())


@pytest.fixture(scope="module")
def dmi():
    return PETScanner.named("dmi")


@pytest.mark.slow
def test_an_image_of_ones_gives_the_chord_length(dmi):
    sinogram = PETSinogram(dmi, n_radial=301).subset(3, 34)
    grid = ImageGrid((130, 126, 71), 2.78)
    first, second = sinogram.line_ends()
    low, way = np.array(grid.origin) - 1.39, second - first
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.stack([(low - first) / way, (low + 2.78 * np.array(grid.shape) - first) / way])
    inside = np.minimum(crossings.max(0).min(-1), 1) - np.maximum(np.nanmin(crossings, 0).max(-1), 0)
    chord = np.clip(inside, 0, None) * np.linalg.norm(way, axis=-1)
    error = (PETProjector(grid, sinogram)(np.ones(grid.shape)) - chord) / 2.78
    assert abs(error.mean()) < 0.01
    assert abs(error[chord > 0].mean()) < 0.01
    assert abs(error[chord > 100].mean()) < 0.01
    assert np.mean(np.abs(error) > 1 / 2.78) < 0.01  # parallelproj: 8 % of the lines are off by more than 1 mm


def test_ellipsoid_integrals_converge_with_the_grid(dmi):
    phantom = Phantom((Region("head", Ellipsoid((10, -15, 5), (80, 100, 60), 20), 1.0),))
    sinogram = PETSinogram(dmi, span=5, max_ring_difference=32, n_radial=121).subset(5, 68)
    first, second = sinogram.line_ends()
    exact = phantom.line_integral(first, second - first)
    errors, totals = [], []
    for size in (8.0, 4.0, 2.0):
        grid = ImageGrid((int(224 / size), int(240 / size), int(160 / size)), size)
        y = PETProjector(grid, sinogram)(phantom.activity(grid))
        errors.append(relative_error(y, exact))
        totals.append(abs(y.sum() / exact.sum() - 1))
    assert errors[0] / errors[1] > 1.8  # edges are one voxel wide: halved with the voxel
    assert errors[1] / errors[2] > 1.8
    assert errors[2] < 0.012
    assert totals[0] / totals[1] > 3
    assert totals[2] < 3e-4


def test_tof_bins_add_up_to_the_projection_without(dmi):
    grid = ImageGrid((60, 60, 71), (4.0, 4.0, 2.78))
    timed = PETSinogram(dmi, tof=True, n_radial=81, max_ring_difference=4).subset(0, 136)
    x = np.random.default_rng(0).normal(size=grid.shape)
    bins = PETProjector(grid, timed)(x)
    whole = PETProjector(grid, timed.without_tof())(x)
    np.testing.assert_allclose(bins.sum(2), whole, atol=1e-12 * np.abs(whole).max())


def test_a_point_falls_into_the_tof_bins_of_its_position(dmi):
    grid = ImageGrid((81, 81, 3), 2.0)
    x = np.zeros(grid.shape)
    x[70, 30, 1] = 1  # at (60, -20, 0) mm
    timed = PETSinogram(dmi, tof=True, max_ring_difference=1).subset(0, 8)
    y = PETProjector(grid, timed)(x)
    whole = y.sum(2)
    first, second = timed.line_ends()
    way = second - first
    length = np.linalg.norm(way, axis=-1)
    s = ((np.array([60, -20, 0]) - (first + second) / 2) * way).sum(-1) / length
    seen = whole > 0.5
    assert seen.sum() > 25
    expected = timed.tof.weights(s[seen])
    found = np.moveaxis(y, 2, -1)[seen] / whole[seen, None]
    np.testing.assert_allclose(found, expected, atol=0.02)
    mean = found @ timed.tof.centres
    np.testing.assert_allclose(mean, s[seen], atol=1.5)  # a voxel is 2 mm wide


def test_signed_tof_data_whose_bins_cancel_are_back_projected():
    A = projector("TOF")
    y = np.zeros(A.out_shape)
    y[3, 11, 2, 4], y[3, 11, 4, 4] = 1, -1
    image = A.T(y)
    assert np.abs(image).max() > 0.1
    assert abs(np.vdot(A(image), y) - np.vdot(image, image)) < 1e-12 * np.vdot(image, image)


def test_mirrored_and_turned_images_give_mirrored_and_turned_sinograms():
    scanner = PETScanner.polygon(sides=8, crystals_per_side=3, radius=80, rings=3, ring_pitch=6)
    sinogram, grid = PETSinogram(scanner, n_radial=23), ImageGrid((9, 9, 5), 6.0)
    A, x = PETProjector(grid, sinogram), np.random.default_rng(0).random((9, 9, 5))
    quarter = np.rot90(x, axes=(0, 1))  # x towards y
    np.testing.assert_allclose(A(quarter)[6:], A(x)[:6], atol=1e-12)
    swapped = sinogram.michelogram[::-1, ::-1][tuple(np.array([p[0] for p in sinogram.ring_pairs]).T)]
    np.testing.assert_allclose(A(x[:, :, ::-1]), A(x)[..., swapped], atol=1e-12)


def test_large_precision_and_repeatability(dmi):
    grid = ImageGrid((50, 50, 71), (6.0, 6.0, 2.78))
    for timed in (None, True):
        A = PETProjector(grid, PETSinogram(dmi, tof=timed, max_ring_difference=8, n_radial=151).subset(0, 68))
        assert mismatch(A, "float32") < 1e-6
        y = np.random.default_rng(0).normal(size=A.out_shape).astype(np.float32)
        assert np.array_equal(A.T(y), A.T(y))
        x = np.random.default_rng(0).random(A.in_shape)
        assert relative_error(A(x.astype(np.float32)), A(x)) < 2e-6


def test_lines_outside_the_image_and_images_outside_the_ring():
    far = PETProjector(ImageGrid((4, 4, 2), 5.0, (500, 500, 0)), PETSinogram(SCANNER))
    assert not far(np.ones(far.in_shape)).any()
    wide = PETProjector(ImageGrid((41, 41, 5), 8.0), PETSinogram(SCANNER))
    first, second = wide.sinogram.line_ends()
    inside = wide(np.ones(wide.in_shape))
    length = np.linalg.norm(second - first, axis=-1)
    assert (inside < length + 12).all()  # lines end at the crystals


def test_scanners_without_rings_serve_listmode():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 3))
    scanner = PETScanner(100 * points / np.linalg.norm(points, axis=1, keepdims=True))
    events = np.array([(i, j) for i in range(30) for j in range(i)])
    grid = ImageGrid((8, 7, 6), (6.0, 5.0, 7.0))
    L = ListmodeProjector(grid, scanner, events)
    x = rng.normal(size=L.in_shape)
    first, second = scanner.positions[events[:, 0]], scanner.positions[events[:, 1]]
    way = np.abs(second - first)
    axial = way[:, 2] > way[:, :2].max(1)
    assert 50 < axial.sum() < 300
    transaxial = plain_joseph(x, grid, first, second)
    np.testing.assert_allclose(L(x)[~axial], transaxial[~axial], atol=1e-11)
    # lines along the axis are those of the image with z in the place of x
    turned = ImageGrid((6, 7, 8), (7.0, 5.0, 6.0))
    expected = plain_joseph(np.transpose(x, (2, 1, 0)), turned, first[:, ::-1], second[:, ::-1])
    steepest = axial & (way[:, 2] > way[:, :2].max(1))
    np.testing.assert_allclose(L(x)[steepest], expected[steepest], atol=1e-11)
    check_operator(L.subset(1, 9), positive=True)


def test_lines_parallel_to_the_axis():
    scanner = PETScanner([[3.0, 1.0, -50.0], [3.0, 1.0, 50.0], [0.0, -50.0, 0.0]])
    L = ListmodeProjector(ImageGrid((5, 5, 5), 10.0), scanner, np.array([[0, 1], [1, 0], [0, 2]]))
    np.testing.assert_allclose(L(np.ones(L.in_shape))[:2], 50, rtol=1e-12)


def test_events_come_from_a_file_in_chunks(tmp_path, monkeypatch):
    from emrecon.projectors.pet import listmode as module

    L = listmode(True, 500)
    path = tmp_path / "events.npy"
    np.save(path, L.events.astype(np.int16))
    mapped = ListmodeProjector(GRID, SCANNER, np.load(path, mmap_mode="r"), tof=TOF)
    x, y = np.random.default_rng(0).normal(size=GRID.shape), np.random.default_rng(1).normal(size=500)
    monkeypatch.setattr(module, "_CHUNK", 64)
    np.testing.assert_array_equal(mapped(x), L(x))
    np.testing.assert_allclose(mapped.T(y), L.T(y), rtol=1e-12, atol=1e-12)
    assert isinstance(mapped.subset(1, 3).events, np.memmap)


def test_bad_events_and_arguments_are_explained():
    with pytest.raises(ValueError, match=r"\(n, 3\) integers"):
        ListmodeProjector(GRID, SCANNER, np.zeros((4, 2), int), tof=TOF)
    with pytest.raises(ValueError, match="integers"):
        ListmodeProjector(GRID, SCANNER, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="no time of flight"):
        ListmodeProjector(GRID, SCANNER, np.zeros((4, 3), int), tof=True)
    x = np.ones(GRID.shape)
    for events, message in (
        ([[0, 72, 0]], "crystals 0 to 72"),
        ([[-1, 5, 0]], "crystals -1 to 5"),
        ([[4, 4, 0]], "same crystal"),
        ([[0, 5, 7]], "TOF bins 7"),
    ):
        with pytest.raises(ValueError, match=message):
            ListmodeProjector(GRID, SCANNER, np.array(events), tof=TOF)(x)
    with pytest.raises(TypeError, match="PETSinogram"):
        PETProjector(GRID, SCANNER)
    assert ListmodeProjector(GRID, SCANNER, np.zeros((0, 3), int), tof=TOF)(x).shape == (0,)


def test_a_batch_of_flat_images_equals_one_by_one():
    A = projector("flat TOF")
    x = np.random.default_rng(0).normal(size=(70, *A.in_shape))
    y = A(x)
    np.testing.assert_allclose(y[17], A(x[17]), atol=1e-12)
    np.testing.assert_allclose(A.T(y)[69], A.T(y[69]), atol=1e-11)


@pytest.mark.parametrize("items", [1, 3])
def test_one_slice_in_the_plane_equals_the_middle_of_three(items):
    sinogram = PETSinogram(PETScanner.polygon(sides=6, crystals_per_side=4, radius=60, rings=1, ring_pitch=5))
    flat, thick = (ImageGrid((7, 6, nz), (8.0, 7.0, 4.0)) for nz in (1, 3))
    x = np.random.default_rng(0).random((items, 7, 6, 1))
    between = np.concatenate([0 * x, x, 0 * x], -1)
    A, B = PETProjector(flat, sinogram), PETProjector(thick, sinogram)
    np.testing.assert_allclose(A(x), B(between), rtol=1e-12, atol=1e-12)
    y = np.random.default_rng(1).random((items, *A.out_shape))
    np.testing.assert_allclose(A.T(y), B.T(y)[..., 1:2], rtol=1e-12, atol=1e-12)


def test_str_names_the_kernels():
    assert "numba" in str(projector("TOF"))
    assert "7 TOF bins" in str(listmode(True))
    assert repr(projector("span 1")) == "<PETProjector (7,6,5) -> (12,23,9)>"
    assert TimeOfFlight(3, 10.0, 20.0).centres.tolist() == [-10, 0, 10]
