"""Real heads: files that are not there are named with their package, and tissues, sides and displacements are right."""

from dataclasses import replace

import numpy as np
import pytest

from emrecon.formats import write_nifti
from emrecon.projectors import ImageGrid
from emrecon.projectors.core.errors import FormatError
from emrecon.sims import BodyGuideVariety, BodyLesions, BrainVariety, anatomy_files, random_real_brain, real_head
from emrecon.sims.recipes import recipe as recipes

NATIVE = ImageGrid((46, 54, 44), 4.0, (-90.0, -107.0, -70.0))
GRID = ImageGrid((40, 48, 1), 5.0)
FLAT = BrainVariety(lobes=0, asymmetry=0, reduced=(0, 0), smooth=0, texture=0)
NONE = BodyLesions((0, 0), guide_only=(0, 0))
STILL = BodyGuideVariety(0, 0, 0, 0, ("mr",), 0)
NAMES = ("Precentral_L", "Precentral_R", "Putamen_L", "Putamen_R", "Cerebelum_6_L", "Cerebelum_6_R")


@pytest.fixture(scope="module")
def colin(tmp_path_factory):
    """Files like those of the package, of a head of balls."""
    folder = tmp_path_factory.mktemp("templates")
    x, y, z = (c + np.zeros(NATIVE.shape) for c in NATIVE.coordinates())
    r = np.sqrt((x / 66) ** 2 + (y / 80) ** 2 + (z / 60) ** 2)
    brain = np.where(r < 0.75, 110.0, np.where(r < 0.93, 80.0, np.where(r < 1, 40.0, 0.0)))
    labels = np.where((r >= 0.75) & (r < 0.93), np.where(x > 0, 1.0, 2.0), 0.0)
    for number, side in ((3, 1), (4, -1)):
        labels[((x - side * 26) / 9) ** 2 + (y / 18) ** 2 + (z / 12) ** 2 < 1] = number
        labels[((x - side * 24) / 24) ** 2 + ((y - 40) / 22) ** 2 + ((z + 40) / 16) ** 2 < 1] = number + 2
    write_nifti(folder / "ch2bet.nii.gz", brain, NATIVE)
    write_nifti(folder / "ch2.nii.gz", np.where(r < 1.3, np.maximum(brain, 60.0), 0.0), NATIVE)
    write_nifti(folder / "aal.nii.gz", labels, NATIVE)
    (folder / "aal.nii.txt").write_text("".join(f"{k} {name} {2000 + k}\n" for k, name in enumerate(NAMES, 1)) + "\n")
    return folder


def test_missing_files_name_the_package(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no ch2.nii.gz; install the Debian package mricron-data, or give"):
        anatomy_files("colin27", tmp_path)
    with pytest.raises(FileNotFoundError, match="install the Python package nilearn"):
        anatomy_files("mni152", tmp_path)
    with pytest.raises(ValueError, match="unknown anatomy 'colin'; choose from colin27, mni152"):
        anatomy_files("colin")


def test_tissues_add_up_and_sides_are_the_patients(colin):
    head = real_head("colin27", colin)
    total = sum(head.parts.values())
    assert total.max() < 1.001
    x = head.grid.coordinates()[0]
    for side, sign in (("left", 1), ("right", -1)):
        for name in ("putamen", "cerebellum"):
            part = head.parts[f"{side} {name}"]
            assert sign * (part * x).sum() / part.sum() > 10, "left is +x"
    assert head.names[1:3] == NAMES[:2]
    white = head.parts["white"]
    centre = [np.abs(c).argmin() for c in head.grid.coordinates()]
    assert white[tuple(centre)] > 0.95


def test_activity_is_that_of_the_tissues(colin):
    brain, _, about = random_real_brain("colin27", 3, 2, FLAT, NONE, STILL, (0.0, 0.0), colin)
    image, (labels, names) = brain.activity(GRID), brain.labels(GRID)
    assert about["anatomy"] == "colin27"
    assert {"Precentral_L grey", "white", "left putamen"} <= set(names)
    for tissue in ("white", "Precentral_L grey"):
        inside = (labels == names.index(tissue)) & (brain.fraction(GRID, tissue) > 0.99)
        assert inside.any()
        np.testing.assert_allclose(image[inside], brain.uptake["grey" if "grey" in tissue else tissue], rtol=0.03)
    mu = brain.attenuation(GRID, 511.0)
    assert mu.max() > 0.13, "there is bone"
    assert mu[GRID.shape[0] // 2, GRID.shape[1] // 2, 0] == pytest.approx(0.0998, rel=0.05)


def test_regions_of_the_cortex_have_factors(colin):
    brain, _, _ = random_real_brain("colin27", 3, 2, replace(FLAT, lobes=0.3, asymmetry=0.3), NONE, STILL, folder=colin)
    assert brain.regional[0] == 1
    assert len(set(brain.regional[1:3])) == 2, "left and right are not alike"


def test_lesions_and_displaced_guides(colin):
    lesions = BodyLesions((2, 2), 0.5, (1, 1), (10.0, 14.0))
    brain, _, _ = random_real_brain("colin27", 5, 2, FLAT, lesions, STILL, (0.0, 0.0), colin)
    assert [m.in_emission for m in brain.lesions] == [True, True, False]
    labels, names = brain.labels(ImageGrid((90, 100, 1), 2.0))
    assert (labels == names.index("lesion 1")).sum() > 10
    plain, still, _ = random_real_brain("colin27", 5, 2, FLAT, NONE, STILL, (0.0, 0.0), colin)
    _, moved, _ = random_real_brain(
        "colin27", 5, 2, FLAT, NONE, BodyGuideVariety(6, 8, 0, 0, ("mr",), 0), (0.0, 0.0), colin
    )
    np.testing.assert_allclose(still(GRID), plain.t1(GRID))
    images = [guide(GRID) for guide in (still, moved)]
    middle = [np.array([(image * c).sum() / image.sum() for c in GRID.coordinates()[:2]]) for image in images]
    c, s = np.cos(np.radians(moved.angle)), np.sin(np.radians(moved.angle))
    turned = np.array([[c, -s], [s, c]]) @ middle[0] + np.array(moved.offset[:2])
    np.testing.assert_allclose(middle[1], turned, atol=0.15)


def test_recipes_read_heads_where_they_are(colin, tmp_path):
    from recipe_cases import SMALL_PET

    phantom = f'kind = "anatomy"\nsource = "colin27"\nfolder = "{colin}"\nslices = [0.0, 0.0]'
    text = SMALL_PET.replace('kind = "brain"\n\n[phantom.lesions]\nboth = 2', phantom)
    source = recipes.RecipeSource(recipes.parse_recipe(text))
    made = source.samples([0])
    assert made["counts"].sum() > 1e5
    assert len(source.describe()["phantom"]["sha256"]) == 64
    with pytest.raises(FormatError, match="mricron-data"):
        recipes.parse_recipe(text.replace(str(colin), str(tmp_path)))
