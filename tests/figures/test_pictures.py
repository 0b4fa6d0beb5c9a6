"""Pictures of images: sides of the patient, true proportions, positions in mm, overlays, projections and files."""

import re
from pathlib import Path

import numpy as np
import pytest

from emrecon import figures
from emrecon.figures import CT, Layer, Look
from emrecon.figures.planes import AXIAL, CORONAL, SAGITTAL, scale_length
from emrecon.figures.projections import turned_letters
from emrecon.figures.sheets import pixels
from emrecon.projectors import EnergyWindow, ImageGrid, SPECTGeometry

GRID = ImageGrid((8, 10, 6), (4.0, 3.0, 9.0), (-14.0, -20.0, 100.0))


def marked(i, j, k):
    image = np.zeros(GRID.shape, np.float32)
    image[i, j, k] = 1.0
    return image


def dark(figure, axis, shades):
    """Where the dark pixels of a panel are on average: from its left and from its top, as parts of its size."""
    box = axis.get_position()
    high, wide = shades.shape
    top, left = int((1 - box.y1) * high) + 3, int(box.x0 * wide) + 3
    inside = shades[top : int((1 - box.y0) * high) - 3, left : int(box.x1 * wide) - 3]
    rows, columns = np.nonzero(inside < 60)
    return columns.mean() / inside.shape[1], rows.mean() / inside.shape[0]


def test_left_back_and_head_are_where_radiologists_have_them():
    figure = figures.orthoviews(marked(7, 8, 4), GRID, at="max")  # at the left, the back and the head
    for axis in figure.axes:
        for text in axis.texts:
            text.set_visible(False)
        for line in axis.lines:
            line.set_visible(False)
    shades = pixels(figure).mean(2)
    axial, coronal, sagittal = (dark(figure, axis, shades) for axis in figure.axes[:3])
    assert axial == (pytest.approx(7.5 / 8, abs=0.03), pytest.approx(8.5 / 10, abs=0.03))
    assert coronal == (pytest.approx(7.5 / 8, abs=0.03), pytest.approx(1.5 / 6, abs=0.03))
    assert sagittal == (pytest.approx(8.5 / 10, abs=0.03), pytest.approx(1.5 / 6, abs=0.03))


def test_voxels_have_their_true_proportions_and_headings_their_places():
    figure = figures.orthoviews(marked(1, 2, 3), GRID, Look("Bq/mL"), at=(-9.0, -15.0, 126.0))
    width, height = figure.get_size_inches()
    scales = []
    for axis, plane in zip(figure.axes, (AXIAL, CORONAL, SAGITTAL)):
        box, size = axis.get_position(), plane.size(GRID)
        scales += [box.width * width / size[0], box.height * height / size[1]]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert {"axial\nz = 127 mm", "coronal\ny = \u221214 mm", "sagittal\nx = \u221210 mm"} <= set(texts)
    assert {"R", "L", "A", "P", "S", "I"} <= set(texts)
    assert figure.axes[3].get_ylabel() == "Bq/mL"


def test_places_outside_of_the_image_are_refused():
    with pytest.raises(ValueError, match=r"z = 200 mm is outside of the image, which lies from 95\.5 to 149\.5 mm"):
        figures.orthoviews(marked(0, 0, 0), GRID, at=(0, 0, 200))
    with pytest.raises(ValueError, match=r"shape \(2, 8, 10, 6\).*one frame at a time"):
        figures.orthoviews(np.zeros((2, *GRID.shape)), GRID)
    with pytest.raises(ValueError, match="mask 'liver' of shape"):
        figures.orthoviews(marked(0, 0, 0), GRID, masks={"liver": np.ones((2, 2, 2), bool)})


def test_an_image_of_one_slice_has_one_view():
    figure = figures.orthoviews(np.ones((5, 6, 1)), ImageGrid((5, 6, 1), 2.0))
    assert len(figure.axes) == 2


def test_an_image_below_is_drawn_where_it_is_in_the_patient():
    other = ImageGrid((16, 20, 20), (2.0, 1.5, 2.0), (-16.0, -25.0, 104.0))
    ramp = np.broadcast_to(other.coordinates()[2], other.shape)
    below = Layer(ramp, other, CT)
    np.testing.assert_allclose(below.at(AXIAL, 118.0), 118.0)  # between two slices
    assert below.at(AXIAL, 100.0) is None
    figure = figures.orthoviews(marked(3, 4, 2), GRID, under=below, at=(0, 0, 118), masks={"a": marked(3, 4, 2) > 0})
    lower, upper = figure.axes[0].images
    assert lower.get_extent() == [-17.0, 15.0, 4.25, -25.75]
    assert upper.get_extent() == [-16.0, 16.0, 8.5, -21.5]
    assert figure.axes[0].get_xlim() == (-16.0, 16.0)
    assert [axis.get_ylabel() for axis in figure.axes[3:5]] == ["", "HU"]
    assert float(upper.get_alpha().max()) == pytest.approx(0.75)


def test_montages_show_the_slices_that_were_chosen():
    image = np.ones(GRID.shape)

    def titles(**chosen):
        figure = figures.montage(image, GRID, **chosen)
        return [axis.get_title() for axis in figure.axes if axis.get_title()]

    assert titles(slices=3) == ["z = 109 mm", "z = 127 mm", "z = 145 mm"]
    assert titles(slices=[5, 0], plane="coronal") == ["y = \u22125 mm", "y = \u221220 mm"]
    assert titles(positions=[99.0]) == ["z = 100 mm"]
    for chosen, message in (([6], "no slice 6"), ([], "no slices"), (0, "at least one")):
        with pytest.raises(ValueError, match=message):
            figures.montage(image, GRID, slices=chosen)
    with pytest.raises(ValueError, match="unknown plane 'oblique'"):
        figures.montage(image, GRID, plane="oblique")


def test_maximum_projections():
    image = marked(6, 1, 2) + 0.5 * marked(6, 7, 2)
    figure = figures.maximum_projection(image, GRID, masks={"a": marked(6, 1, 2)})
    coronal, sagittal = (np.asarray(axis.images[0].get_array()) for axis in figure.axes[:2])
    np.testing.assert_array_equal(coronal, image.max(1).T)
    np.testing.assert_array_equal(sagittal, image.max(0).T)


def test_the_viewer_goes_around_the_patient_by_the_left():
    grid = ImageGrid((21, 21, 3), (2.0, 2.0, 4.0))
    image = np.zeros(grid.shape)
    image[18, 8, 1] = 1.0  # x = 16, y = -4 mm
    shown = []
    for figure in figures.rotating_projection(image, grid, n=4):
        panel = figure.axes[0].images[0]
        values, (left, right, *_) = np.asarray(panel.get_array()), panel.get_extent()
        column = int(values[1].argmax())
        shown.append(left + (column + 0.5) * (right - left) / values.shape[1])
    np.testing.assert_allclose(shown, [16, -4, -16, 4], atol=1.1)
    assert [turned_letters(angle) for angle in (0, 90, 180, 270)] == [("R", "L"), ("A", "P"), ("L", "R"), ("P", "A")]
    # of two, the one that the side points to more comes first
    assert turned_letters(45) == ("RA", "LP")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_files_are_the_same_every_time(tmp_path, suffix):
    starts = {".png": b"\x89PNG", ".svg": b"<?xml"}
    for name in ("a", "b"):
        figure = figures.orthoviews(np.ones((5, 6, 1)), ImageGrid((5, 6, 1), 2.0), title="costs $5 $")
        figures.save(figure, tmp_path / f"{name}{suffix}")
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert content.startswith(starts[suffix])
    assert content == (tmp_path / f"b{suffix}").read_bytes()


def test_animations_and_numbered_frames(tmp_path):
    from PIL import Image

    frames = figures.rotating_projection(marked(2, 2, 2), GRID, n=3)
    assert figures.save_frames(frames, tmp_path / "m.gif", dpi=40) == [tmp_path / "m.gif"]
    with Image.open(tmp_path / "m.gif") as animation:
        assert (animation.n_frames, animation.info["loop"]) == (3, 0)
    names = [path.name for path in figures.save_frames(frames, tmp_path / "m.png", dpi=40)]
    assert names == ["m-000.png", "m-001.png", "m-002.png"]
    with pytest.raises(ValueError, match=r"not 'm\.jpg'"):
        figures.save_frames(frames, tmp_path / "m.jpg")
    with pytest.raises(ValueError, match="at least one figure"):
        figures.save_frames([], tmp_path / "m.gif")


def test_scale_bars_have_round_lengths():
    assert [scale_length(most) for most in (130.0, 99.0, 20.0, 7.0)] == [
        (100.0, "10 cm"),
        (50.0, "5 cm"),
        (20.0, "2 cm"),
        (5.0, "5 mm"),
    ]


def test_a_comparison_shows_the_difference_and_the_profile():
    x = GRID.coordinates()[0]
    first = np.broadcast_to(x + 20.0, GRID.shape)
    second = first + 2.0
    figure = figures.comparison(
        first, second, GRID, Look("SUV"), names=("a", "b"), mask=marked(1, 1, 1) > 0, footer="x"
    )
    panels = [axis for axis in figure.axes if axis.images]
    np.testing.assert_allclose(np.asarray(panels[2].images[0].get_array()), 2.0)
    curves = next(axis for axis in figure.axes if axis.get_xlabel() == "mm along the line").lines
    np.testing.assert_allclose(curves[0].get_ydata(), curves[0].get_xdata() + 6.0)
    np.testing.assert_allclose(curves[1].get_ydata() - curves[0].get_ydata(), 2.0)


def test_profiles_are_interpolated_and_end_with_the_image():
    ramp = np.broadcast_to(sum(GRID.coordinates()), GRID.shape)
    distance, values = figures.profile(ramp, GRID, (-10, -17, 109), (10, 3, 129))
    steps = distance / np.sqrt(1200)
    np.testing.assert_allclose(values, -10 - 17 + 109 + 60 * steps, atol=1e-9)
    far, _ = figures.profile(ramp, GRID, (0, 0, 0), (0, 0, 110))
    assert far.min() >= 95
    for start, end in (((0, 0, 0), (0, 0, 1)), ((0, 0, 100), (0, 0, 100))):
        with pytest.raises(ValueError, match=r"outside of the image|from one point"):
            figures.profile(ramp, GRID, start, end)


def test_the_orbit_in_words_and_lines():
    head = SPECTGeometry.circular(4, [150, 160, 170, 180], (8, 4), 5.0, extent=180)
    other = SPECTGeometry.circular(4, 150, (8, 4), 5.0, start=180, extent=180)
    both = SPECTGeometry.heads(head, other)
    words = figures.orbit_words(both)
    assert words[0] == "head 0: 4 views, 0\u00b0 to 135\u00b0, radius 150 to 180 mm"
    assert words[2] == "8 x 4 bins of 5 x 5 mm"
    figure = figures.orbit(both)
    starts = [line.get_xydata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(starts, [[0, 150], [0, -150]], atol=1e-9)
    assert figure.axes[0].get_ylim()[0] > 0  # the back is below
    with pytest.raises(ValueError, match="needs the grid"):
        figures.orbit(both, image=np.ones((2, 2, 2)))


def test_curves_and_windows():
    figure = figures.convergence({"OSEM": ([1, 2], [3.0, 2.0])}, log=True)
    assert figure.axes[0].get_yscale() == "log"
    windows = [EnergyWindow(126, 154, "peak"), EnergyWindow(110, 126, "low"), EnergyWindow(154, 165, "high")]
    texts = [text.get_text() for text in figures.energy_windows(windows, radionuclide="Tc-99m").axes[0].texts]
    assert {"140.5", "peak  126\u2013154 keV"} <= set(texts)
    for make, message in (
        (lambda: figures.convergence({}), "at least one curve"),
        (lambda: figures.convergence({"a": ([1], [1, 2])}), "'a' needs as many"),
        (lambda: figures.convergence({"a": ([1], [0.0])}, log=True), "not positive"),
        (lambda: figures.energy_windows([]), "at least one window"),
        (lambda: figures.energy_windows(windows, counts=[1.0]), "3 windows and 1 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_images_side_by_side():
    images = {"a": np.ones((4, 6, 2)), "b": np.zeros((4, 6, 2))}
    figure = figures.side_by_side(images, {"top": (1, 2.0)}, {"b": "note"}, voxel_size=(2, 1, 5), unit="SUV")
    assert [axis.get_title() for axis in figure.axes if axis.images] == ["a", "b"]
    with pytest.raises(ValueError, match="of one shape"):
        figures.side_by_side({"a": np.ones((4, 6, 2)), "b": np.ones((4, 6, 3))}, {"": (0, 1.0)})


def test_no_global_state_and_no_display():
    for path in (Path(figures.__file__).parent).glob("*.py"):
        assert not re.search(r"import.*pyplot|matplotlib\.use", path.read_text()), path.name
