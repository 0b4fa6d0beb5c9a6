"""Methods of the user's own: found by path or by weights, and refused with one clear line."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from emrecon import unrolled
from emrecon.evaluation.own import MethodError, is_own, own_method, own_methods
from emrecon.unrolled.training.weights import Card, save_weights

MODULE = """
import numpy as np
import torch
number = 3
class Net:
    def __call__(self, likelihood, start=None, *, guide=None):
        return likelihood.ones
    def method(self, likelihood, start=None, *, guide=None):
        return 2 * likelihood.ones
net = Net()
class Blind(torch.nn.Module):
    guide_channels = 0
    def forward(self, likelihood, start=None, *, guide=None):
        return likelihood.ones
blind = Blind()
def ones(likelihood, start=None, *, guide=None):
    return likelihood.ones
def in_float64(likelihood, start=None, *, guide=None):
    return np.asarray(likelihood.ones, np.float64)
def no_guide(likelihood, start=None):
    return likelihood.ones
def too_many(likelihood, start, more, *, guide=None):
    return likelihood.ones
def nan(likelihood, start=None, *, guide=None):
    return likelihood.ones * np.nan
def one_scan(likelihood, start=None, *, guide=None):
    return likelihood.ones[0]
def nothing(likelihood, start=None, *, guide=None):
    return None
def words(likelihood, start=None, *, guide=None):
    return np.full(likelihood.ones.shape, "x")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def case(xp=torch):
    ones = xp.ones((2, 3, 3, 1))
    return SimpleNamespace(likelihood=SimpleNamespace(ones=ones), truth=ones, guide=None)


@pytest.mark.parametrize("name", ["ones", "net", "net.method", "blind", "in_float64"])
def test_a_path_is_a_method(module, name):
    method = own_method(f"{module}:{name}")
    ((iteration, images),) = method.images(case())
    assert iteration == 1
    assert images.dtype == torch.float32
    assert images.shape == (2, 3, 3, 1)
    assert (method.kind, method.title) == ("own", f"{module}:{name}")
    assert method.sees_guide is (name != "blind")
    assert method.name.startswith("own-mine-")


def test_numpy_scans_give_numpy_images(module):
    images = own_method(f"{module}:ones").at(case(np))
    assert isinstance(images, np.ndarray)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "has no 'missing'"),
        ("number", "is a int, which cannot be called"),
        ("Net", "is a class; give an object of it"),
        ("no_guide", "is not called as .likelihood, start=None, ., guide=None. -> image"),
        ("too_many", "missing a required argument: 'more'"),
        ("not a name", "is not package.module:name"),
    ],
)
def test_what_cannot_be_called_is_refused_at_once(module, name, message):
    with pytest.raises(MethodError, match=message):
        own_method(f"{module}:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "18 voxels of 18 that are NaN"),
        ("one_scan", r"shape \(3, 3, 1\), not \(2, 3, 3, 1\)"),
        ("nothing", "returned a NoneType"),
        ("words", "numbers of the kind <U1"),
    ],
)
def test_unusable_images_are_refused(module, name, message):
    method = own_method(f"{module}:{name}")
    with pytest.raises(MethodError, match=message):
        method.at(case(np))


def test_modules_that_are_not_there_or_fail_are_said(module, tmp_path):
    with pytest.raises(MethodError, match="cannot import no_such_module: ModuleNotFoundError"):
        own_method("no_such_module:f")
    (tmp_path / "fails_at_once.py").write_text("1 / 0")
    with pytest.raises(MethodError, match="cannot import fails_at_once: ZeroDivisionError"):
        own_method("fails_at_once:f")
    with pytest.raises(MethodError, match="given twice"):
        own_methods([f"{module}:ones", "osem", f"{module}:ones"])
    assert [method.title for method in own_methods(["osem", f"{module}:ones"])] == [f"{module}:ones"]


def test_weights_are_a_method(tmp_path):
    network = unrolled.mapem_net(n_modules=1, width=2)
    path = tmp_path / "mine.safetensors"
    card = Card("mapem-net", {"dimensions": 2, "n_modules": 1, "width": 2}, {}, "", {}, "")
    save_weights(path, network, card)
    method = own_method(str(path))
    assert (method.name, method.title, method.sees_guide) == ("own-mine", "mapem-net of mine.safetensors", False)
    with pytest.raises(MethodError, match="nowhere"):
        own_method(str(tmp_path / "nowhere.safetensors"))
    path.write_bytes(b"no weights")
    with pytest.raises(MethodError, match="mine"):
        own_method(str(path))
    assert is_own("a:b")
    assert is_own("a.safetensors")
    assert not is_own("map-rdp")
