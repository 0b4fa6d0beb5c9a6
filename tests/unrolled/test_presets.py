"""What the published networks are called with, and which normalisation they have."""

import inspect

import pytest
from torch import nn

from emrecon import unrolled

NETWORKS = (unrolled.mapem_net, unrolled.fbsem_net, unrolled.em_net)
BATCH = (nn.BatchNorm2d, nn.BatchNorm3d)


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_statistics_are_those_of_the_image_unless_asked(make, dimensions):
    assert not any(isinstance(m, BATCH) for m in make(dimensions, 2).modules())
    assert any(isinstance(m, BATCH) for m in make(dimensions, 2, norm="batch").modules())


def test_published_sizes_are_kept():
    assert unrolled.count_parameters(unrolled.fbsem_net(2)) == 28_612
    assert unrolled.count_parameters(unrolled.fbsem_net(2, guide_channels=1)) == 28_900


def test_sizes_can_be_chosen():
    small = unrolled.fbsem_net(2, 2, width=4, depth=3)
    assert unrolled.count_parameters(small) < 1000
    assert unrolled.count_parameters(unrolled.osem_varnet(2, width=4, norm="group")) < 500
    taken = inspect.signature(unrolled.transem).parameters
    assert {"width", "heads", "depth", "dropout", "norm"} <= taken.keys()
    assert taken["norm"].default == "instance"


def test_transem_takes_them():
    pytest.importorskip("monai")
    pytest.importorskip("einops")
    network = unrolled.transem(2, 2, width=8, heads=2, depth=2, dropout=0.1, norm="group")
    assert any(isinstance(m, nn.GroupNorm) for m in network.modules())
