"""NEMA's image-quality numbers: regions of interest, contrast, variability and the lung residual."""

from dataclasses import replace

import numpy as np
import pytest

from emrecon.projectors import ImageGrid
from emrecon.recon.metrics.image_quality import ImageQualityLayout, _disc, nema_image_quality
from emrecon.sims.phantoms.nema import NEMA_SPHERES, nema_iec_body, nema_layout

GRID = ImageGrid((300, 228, 9), (1.0, 1.0, 5.0))
COARSE = ImageGrid((80, 62, 13), (4.0, 4.0, 4.0), (-159, -123, -24))
NEW, OLD = ImageQualityLayout(**nema_layout()), ImageQualityLayout(**nema_layout(8, cold=(28, 37)))
SPHERES = ImageQualityLayout(
    centres=[(20, 10, 4), (-21.3, 5.2, 4)],
    diameters=[20, 13],
    ratios=[4, 0],
    background_centres=[(0, -30), (7.7, 41.1), (-30, -30)],
    slices=[-8, 4],
    lung_centre=(0, 0),
)


def painted(layout, contrast, background=2.0, lung=0.0):
    """An image whose regions of interest hold exactly these values: rows of constant pixels around each."""
    image = np.full(COARSE.shape, background)
    x, y, _ = COARSE.coordinates()
    for (cx, cy, cz), diameter, value in zip(layout.centres, layout.diameters, contrast):
        near = (np.abs(x - cx) < diameter / 2 + 4) & (np.abs(y - cy) < diameter / 2 + 4)
        image[near[..., 0], round((cz - COARSE.origin[2]) / 4)] = value
    near = (np.abs(x) < 8) & (np.abs(y) < 8)
    image[near[..., 0]] = np.where(image[near[..., 0]] == background, lung, image[near[..., 0]])
    return image


@pytest.mark.parametrize("centre", [(0.0, 0.0), (3.3, -7.1), (0.5, 0.25)])
@pytest.mark.parametrize("diameter", [37.0, 10.0, 1.5])
def test_a_disc_has_its_area_and_its_centre(centre, diameter):
    grid = ImageGrid((60, 50, 1), (1.0, 1.3, 2.0))
    x, y, weight = _disc(grid, centre, diameter)
    assert weight.sum() * 1.0 * 1.3 == pytest.approx(np.pi * diameter**2 / 4, rel=5e-4)
    assert 0 <= weight.min() <= weight.max() <= 1 + 1e-12
    cx, cy, _ = grid.coordinates()
    assert (weight * cx[x, :, 0]).sum() / weight.sum() == pytest.approx(centre[0], abs=0.05)
    assert (weight * cy[0, y, 0]).sum() / weight.sum() == pytest.approx(centre[1], abs=0.05)


def test_pixels_count_with_the_part_inside():
    grid = ImageGrid((9, 9, 1), (2.0, 3.0, 1.0))
    x, y, weight = _disc(grid, (0.7, -0.4), 9.0)
    fine = (np.arange(400) + 0.5) / 400 - 0.5
    cx, cy, _ = grid.coordinates()
    for i, j in np.ndindex(weight.shape):
        px, py = cx[x][i, 0, 0] + 2 * fine[:, None], cy[:, y][0, j, 0] + 3 * fine
        inside = (np.hypot(px - 0.7, py + 0.4) < 4.5).mean()
        assert weight[i, j] == pytest.approx(inside, abs=2e-3)


def test_the_formulas():
    table = nema_image_quality(painted(SPHERES, [5.0, 0.5]), COARSE, SPHERES)
    hot, cold = table.spheres
    assert (hot.mean, hot.background, hot.diameter, hot.ratio) == pytest.approx((5, 2, 20, 4))
    assert hot.contrast == pytest.approx(100 * (5 / 2 - 1) / (4 - 1))
    assert cold.contrast == pytest.approx(100 * (1 - 0.5 / 2))
    assert (hot.variability, cold.variability) == pytest.approx((0, 0), abs=1e-12)
    assert "75.0" in str(table)
    assert "lung residual" in str(table)


def test_variability_is_that_of_all_regions_in_all_slices():
    image = painted(SPHERES, [5.0, 0.5])
    values = np.zeros((3, 2))
    x, y, _ = COARSE.coordinates()
    for k, (cx, cy) in enumerate(SPHERES.background_centres):
        for s, z in enumerate((4, 7)):
            values[k, s] = 2 + 0.1 * k + 0.3 * s
            image[((np.abs(x - cx) < 14) & (np.abs(y - cy) < 14))[..., 0], z] = values[k, s]
    hot, cold = nema_image_quality(image, COARSE, SPHERES).spheres
    for sphere in (hot, cold):
        assert sphere.background == pytest.approx(values.mean())
        assert sphere.variability == pytest.approx(100 * values.std(ddof=1) / values.mean())


def test_lung_residual():
    assert NEW.lung_diameter == 30
    grid, image = GRID, np.ones(GRID.shape)
    x, y, _ = grid.coordinates()
    image[(np.hypot(x, y) < 17)[..., 0]] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert nema_image_quality(image, grid, NEW).lung_residual == pytest.approx(50)  # every other slice
    without = ImageQualityLayout(**nema_layout(lung=False))
    table = nema_image_quality(image, grid, without)
    assert table.lung_residual is None
    assert "lung" not in str(table)


def test_the_phantom_itself_has_full_contrast_and_no_variability():
    for arguments, layout in (((4.0,), NEW), ((8.0, 1.0, (28, 37)), OLD)):
        image = nema_iec_body(*arguments).activity(ImageGrid(GRID.shape, GRID.voxel_size), 2)
        table = nema_image_quality(image, GRID, layout)
        contrast = {sphere.diameter: sphere.contrast for sphere in table.spheres}
        # pixels of 1 mm and slices of 5 mm that the walls cross are all that is missing
        assert 95 < contrast[37] < 100
        assert 90 < contrast[28] < 100
        assert 60 < contrast[10] < 90
        assert max(sphere.variability for sphere in table.spheres) < 1e-4
        assert table.lung_residual == 0
        assert [sphere.diameter for sphere in table.spheres] == list(NEMA_SPHERES)


def test_variability_of_white_noise():
    """Noise of known size: the mean of a disc varies with sqrt(sum w^2) / sum w of that of a pixel."""
    random, n, noise = np.random.default_rng(5), 20, 0.3
    squares = np.zeros(6)
    for _ in range(n):
        image = np.zeros(COARSE.shape, np.float32)
        image[:] = 2 + noise * random.normal(size=COARSE.shape)
        squares += np.square([s.variability for s in nema_image_quality(image, COARSE, NEW).spheres]) / n
    for measured, diameter in zip(np.sqrt(squares), NEMA_SPHERES):
        # regions are at different places within the pixels
        factors = []
        for centre in NEW.background_centres:
            weight = _disc(COARSE, centre, diameter)[2]
            factors.append((weight**2).sum() / weight.sum() ** 2)
        theory = 100 * noise / 2 * np.sqrt(np.mean(factors))
        assert measured == pytest.approx(theory, rel=4 / np.sqrt(2 * 59 * n))


def test_the_nearest_slice_is_taken():
    image = painted(SPHERES, [5.0, 0.5])
    z = np.array([[0, 0, 1.9]])
    for shift, contrast in ((z, 50), (z * 1.2, 0)):
        moved = ImageQualityLayout(
            SPHERES.centres + shift,
            SPHERES.diameters,
            SPHERES.ratios,
            SPHERES.background_centres,
            SPHERES.slices,
        )
        assert nema_image_quality(image, COARSE, moved).spheres[0].contrast == pytest.approx(contrast)


def test_tensors():
    torch = pytest.importorskip("torch")
    image = painted(SPHERES, [5.0, 0.5]).astype(np.float32)
    tensor = torch.from_numpy(image).requires_grad_()
    assert nema_image_quality(tensor, COARSE, SPHERES) == nema_image_quality(image, COARSE, SPHERES)


def test_impossible_measurements():
    image = painted(SPHERES, [5.0, 0.5])
    with pytest.raises(ValueError, match=r"shape \(80, 62, 12\) does not fit a grid of \(80, 62, 13\)"):
        nema_image_quality(image[..., 1:], COARSE, SPHERES)
    with pytest.raises(ValueError, match="is the phantom where the layout is"):
        nema_image_quality(0 * image, COARSE, SPHERES)
    narrow = ImageGrid((18, 30, 13), 4.0, (-32, -38, -24))
    with pytest.raises(ValueError, match=r"disc of 13 mm at \(-30.0, -30.0\) mm reaches out of 18x30x13"):
        nema_image_quality(np.ones(narrow.shape), narrow, SPHERES)
    flat = ImageGrid((80, 62, 2), 4.0, (-159, -123, 0))
    with pytest.raises(ValueError, match="no slice at z = -8 mm"):
        nema_image_quality(np.ones(flat.shape), flat, SPHERES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centres": [(1, 2)]}, r"centres must be finite and of shape \(2, 3\)"),
        ({"ratios": [4]}, "ratios must be"),
        ({"ratios": [4, 1]}, "not 1"),
        ({"ratios": [4, -1]}, ">= 0"),
        ({"diameters": [20, 0]}, "positive"),
        ({"diameters": [20, np.nan]}, "finite"),
        ({"lung_diameter": 0}, "positive"),
        ({"background_centres": [(0, 0)], "slices": [0]}, "two background regions"),
        ({"background_centres": [0, 0, 0]}, r"shape \(1, 2\)"),
        ({"slices": []}, "slices"),
    ],
)
def test_impossible_layouts(changes, message):
    values = {name: getattr(SPHERES, name) for name in SPHERES.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        ImageQualityLayout(**values | changes)


def test_whole_pixels_are_those_with_their_centre_inside():
    grid = ImageGrid((21, 21, 1), (2.0, 2.0, 2.0))
    x, y, weight = _disc(grid, (0.3, -0.4), 11.0, whole=True)
    cx, cy, _ = grid.coordinates()
    assert np.array_equal(weight, np.hypot(cx[x][..., 0] - 0.3, cy[:, y][..., 0] + 0.4) <= 5.5)
    with pytest.raises(ValueError, match="no pixel's centre"):
        _disc(grid, (1.0, 1.0), 2.0, whole=True)


def test_searching_finds_the_sphere_beside_its_place():
    layout = ImageQualityLayout(**{**nema_layout(), "slices": [-4.0, 4.0]})
    image = painted(layout, [5.0] * 6)
    away = layout.moved((8.0, -4.0, 4.0))
    values = [nema_image_quality(image, COARSE, away, search=s).spheres for s in (0.0, 8.0)]
    assert all(sphere.mean < 5 - 1e-9 for sphere in values[0])
    assert [sphere.mean for sphere in values[1]] == pytest.approx([5.0] * 6)
    with pytest.raises(ValueError, match="search must be"):
        nema_image_quality(image, COARSE, layout, search=-1)
    with pytest.raises(ValueError, match="choose from parts, whole"):
        nema_image_quality(image, COARSE, layout, pixels="half")


def test_a_layout_turns_with_its_phantom():
    turned = NEW.moved((3.0, -2.0, 5.0), 90)
    assert turned.centres[0] == pytest.approx((3, 57.2 - 2, 5))
    assert turned.slices == pytest.approx(NEW.slices + 5)
    assert turned.lung_centre == pytest.approx((3, -2))
    assert turned.moved((2.0, 3.0, -5.0), -90).background_centres == pytest.approx(
        NEW.background_centres @ np.eye(2) + np.array([-2 + 2, -3 + 3])
    )


def test_the_lung_residual_of_every_slice():
    image = painted(SPHERES, [5.0, 0.5])
    x, y, _ = COARSE.coordinates()
    for k, value in ((4, 0.4), (7, 0.6)):
        image[(np.hypot(x, y) < 19)[..., 0], k] = value
    found = nema_image_quality(image, COARSE, replace(SPHERES, centres=[(60, 10, 4), (-60, 5.2, 4)]))
    assert found.lung_residuals == pytest.approx([20.0, 30.0])
    assert found.lung_residual == pytest.approx(25.0)
