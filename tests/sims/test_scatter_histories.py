"""Multiple scatter of simulated scans: photon histories beside the simulation of single scatter, also by recipe."""

import numpy as np
import pytest

from emrecon import sims

RECIPE = """
name = "tiny"
n = 2
seed = 3
outputs = ["counts", "scatter"]
[grid]
shape = [16, 16, 4]
voxel_size = [22.0, 22.0, 20.0]
[phantom]
kind = "torso"
[pet]
n_radial = 25
resolution = 0.0
scatter = "{scatter}"
{more}
randoms_fraction = 0.0
[pet.ring]
sides = 16
crystals_per_side = 3
radius = 330.0
rings = 3
ring_pitch = 40.0
energy_resolution = 0.12
[counts]
total = [1e5, 1e5]
"""


def scatter_of(kind, more=""):
    recipe = sims.parse_recipe(RECIPE.format(scatter=kind, more=f"{more}\nscatter_fraction = 0.3"))
    return sims.RecipeSource(recipe, 1).samples(range(1))["scatter"]


@pytest.mark.slow
def test_histories_add_a_wider_distribution_to_single_scatter():
    single, both = scatter_of("single"), scatter_of("histories", "histories = 40000")
    np.testing.assert_array_equal(both, scatter_of("histories", "histories = 40000"))
    assert both.sum() == pytest.approx(single.sum(), rel=0.2)  # both are scaled to the fraction
    width = [np.sqrt((part.sum((0, 1, 3)) * np.arange(-12, 13) ** 2).sum() / part.sum()) for part in (single, both)]
    assert width[1] > width[0]


def test_histories_without_their_scatter_are_refused():
    with pytest.raises(ValueError, match='histories are for scatter = "histories"'):
        scatter_of("single", "histories = 10")
