"""What does not fit in memory is refused before work begins, with an estimate and what would fit."""

import math
import os
import resource

import numpy as np
import pytest
from cli_cases import emrecon
from recipe_cases import SMALL_SPECT

from emrecon import formats, recon
from emrecon.projectors import DenseOperator, ImageGrid, PETScanner, PETSinogram, Scan, SPECTGeometry, resample
from emrecon.projectors.core import memory
from emrecon.projectors.core.memory import available_memory, require_memory
from emrecon.projectors.core.operator import LinearOperator
from emrecon.recon.problem import cubes, pet_grid
from emrecon.sims import uniform_cylinder
from emrecon.sims.recipes import RecipeError
from emrecon.sims.recipes.recipe import parse_recipe

GIB = 2.0**30
GRID = ImageGrid((64, 64, 32), 4.0)
CAMERA = SPECTGeometry.circular(8, 150, (64, 32), 4.0)


@pytest.fixture
def one_gib(monkeypatch):
    """A machine with one GiB free, whatever this one has."""
    for where in ("emrecon.projectors.core.memory", "emrecon.recon.problem.grids", "emrecon.sims.recipes.recipe"):
        monkeypatch.setattr(f"{where}.available_memory", lambda: GIB)


def test_the_memory_that_is_free_is_less_than_what_there_is():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() < 4 * total


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "max", "memory.current": "5"}, math.inf),
        ({"memory.max": "1000", "memory.current": "900", "memory.stat": "anon 1\ninactive_file 300\n"}, 400),
        ({}, math.inf),
    ],
)
def test_limits_of_containers_count(tmp_path, files, free):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert min([math.inf, *memory._left_in(tmp_path, "")]) == free


def test_the_limit_of_the_process_counts(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**50, 2**50))
    assert 2**49 < next(memory._process()) < 2**50


def test_an_estimate_has_a_unit(one_gib):
    require_memory(0.9 * GIB, "this")
    with pytest.raises(MemoryError, match=r"^this needs about 2.5 GiB of memory, and 1 GiB are free; that\?$"):
        require_memory(2.5 * GIB, "this", "that?")
    with pytest.raises(MemoryError, match="more memory than any machine has"):
        require_memory(math.inf, "this")


@pytest.mark.parametrize("voxel", [0.5, 0.1, 1e-3, 1e-300, 5e-324])
@pytest.mark.parametrize("subsets", [1, 8, 40])
def test_the_voxel_size_that_is_said_to_fit_does_fit(one_gib, voxel, subsets):
    with pytest.raises(recon.ArgumentError, match="GiB are free") as caught:
        cubes(GRID, voxel, subsets)
    least = float(str(caught.value).split("cubes of ")[1].split(" mm")[0])
    grid = cubes(GRID, least, subsets)
    assert 0.6 * GIB < 4 * (8 + subsets) * math.prod(grid.shape) <= 1.02 * GIB


@pytest.mark.parametrize("voxel", [1e300, 300, float("inf")])
def test_voxels_are_not_larger_than_the_field_of_view(voxel):
    with pytest.raises(recon.ArgumentError, match="larger than the field of view, 256 x 256 x 128 mm"):
        cubes(GRID, voxel)


@pytest.mark.parametrize("kind", ["spect", "pet"])
def test_problems_refuse_grids_without_memory(one_gib, kind):
    huge = ImageGrid((4000, 4000, 4000), 0.1)
    if kind == "spect":
        make, scan = recon.spect_problem, Scan(np.ones(CAMERA.shape, np.float32), CAMERA)
    else:
        scanner = PETScanner.polygon(sides=8, crystals_per_side=4, radius=60, rings=2, ring_pitch=5, name="small")
        sinogram = PETSinogram(scanner)
        make, scan = recon.pet_problem, Scan(np.ones(sinogram.shape, np.float32), sinogram)
        assert pet_grid(scan).shape
    with pytest.raises(recon.ArgumentError, match=r"voxels in 8 subsets needs about 3.725 TiB") as caught:
        make(scan, grid=huge)
    assert caught.value.argument == "grid"


def test_sinograms_whose_factors_do_not_fit_are_refused(monkeypatch):
    scanner = PETScanner.polygon(sides=8, crystals_per_side=4, radius=60, rings=2, ring_pitch=5, name="small")
    sinogram = PETSinogram(scanner)
    monkeypatch.setattr(memory, "available_memory", lambda: 1000.0)
    monkeypatch.setattr("emrecon.recon.problem.grids.available_memory", lambda: GIB)
    with pytest.raises(MemoryError, match=r"the factors of .* needs about .* KiB of memory, and 1000 bytes are free"):
        recon.pet_problem(Scan(np.ones(sinogram.shape, np.float32), sinogram))


class Wide(LinearOperator):
    in_shape, out_shape = (1,), (2**31,)

    def _forward(self, x):
        raise AssertionError("it began")

    _adjoint = _forward


def test_operators_refuse_results_without_memory(one_gib):
    with pytest.raises(MemoryError, match=r"the result of <Wide .*2147483648.*> needs about 8 GiB"):
        Wide()(np.ones(1, np.float32))
    assert DenseOperator(np.ones((2, 3)), (3,), (2,))(np.ones(3)).shape == (2,)


def test_images_of_phantoms_and_maps_are_refused_too(one_gib):
    huge = ImageGrid((4000, 4000, 4000), 0.1)
    with pytest.raises(MemoryError, match="4000x4000x4000 voxels"):
        uniform_cylinder(radius=30, height=20).activity(huge)
    with pytest.raises(MemoryError, match="4000x4000x4000 voxels"):
        resample(np.zeros(GRID.shape, np.float32), GRID, huge)


@pytest.mark.parametrize(("old", "new"), [("[24, 24, 1]", "[9000, 9000, 1]"), ("views = 12", "views = 9000000")])
def test_recipes_are_refused_with_the_line(one_gib, old, new):
    with pytest.raises(RecipeError, match=r"my\.toml, line .* do not fit in memory: about .* GiB, and 1 GiB are free"):
        parse_recipe(SMALL_SPECT.replace(old, new), "my.toml")


@pytest.mark.parametrize(
    ("voxel", "words"),
    [("0.01", "cubes of"), ("1e300", "larger than the field of view"), ("1e-300", "more memory than any machine has")],
)
def test_the_command_says_what_would_fit(tmp_path, voxel, words):
    formats.write_scan(tmp_path / "s.h5", Scan(np.ones(CAMERA.shape, np.float32), CAMERA))
    done = emrecon("reconstruct", tmp_path / "s.h5", "--voxel", voxel, "--out", tmp_path / "i.nii", check=2)
    assert "--voxel" in done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "spectnet", "--n", 10**12),
        ("simulate", "spectnet", "--workers", 10**6),
        ("train", "fbsem-pet", "--steps", 10**15),
        ("demo", "--counts", "1e30"),
        ("demo", "--counts", "nan"),
    ],
)
def test_numbers_beyond_sense_are_wrong_usage(tmp_path, arguments):
    done = emrecon(*arguments, "--out", tmp_path / "out", check=2)
    assert arguments[-2] in done.stderr
    assert not (tmp_path / "out").exists()
