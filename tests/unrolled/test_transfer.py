"""Beginning from trained weights: what has to fit, what is said, what stays as it is, and several sets at once."""

import pytest
import torch
from network_cases import small_scan
from torch import nn

from emrecon import unrolled
from emrecon.unrolled.training.transfer import differences, fine_tuned, freeze, mixed_batches, start_from

ARGUMENTS = {"n_modules": 1, "width": 2}


def build(**arguments):
    with unrolled.seeded(len(str(arguments))):
        return unrolled.mapem_net(**ARGUMENTS | arguments)


@pytest.fixture
def saved(tmp_path):
    path, model = tmp_path / "fdg.safetensors", build()
    data = {"training": {"data": {"level": 1.0, "n": 3}, "simulation": {"pet": {"resolution": 4.0}, "seed": 1}}}
    unrolled.save_weights(path, model, unrolled.Card("mapem-net", ARGUMENTS, data))
    return path, model


def begin(path, model, arguments=None, **more):
    given = {"architecture": "mapem-net", "arguments": ARGUMENTS, "build": unrolled.mapem_net}
    return start_from(model, path, **given | ({} if arguments is None else {"arguments": arguments}) | more)


def test_weights_are_taken_and_what_differs_is_said(saved):
    path, first = saved
    model = build(grad="checkpoint")
    data = {"data": {"level": 0.5, "n": 9}, "simulation": {"pet": {"resolution": 4.0}, "seed": 7, "spect": None}}
    found = begin(path, model, ARGUMENTS | {"grad": "checkpoint", "dimensions": 2}, data=data)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), model.state_dict().values()))
    assert found.notes == ("grad: the default there, checkpoint here", "data.level: 1.0 there, 0.5 here")
    assert found.card.architecture == "mapem-net"
    assert list(differences({"a": (1, 2), "b": []}, {"a": [1, 2]})) == []


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        ({"guide_channels": 1}, {}, "a network with 0 guides, and the training is of one with 1"),
        ({"dimensions": 3}, {}, "a network with 2 dimensions, and the training is of one with 3"),
        ({"width": 3}, {}, r"other arguments\?; its card differs in width: 2 there, 3 here"),
        ({}, {"architecture": "em-net"}, "holds weights of 'mapem-net', the training is of 'em-net'"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(saved, arguments, more, message):
    model = build(**arguments)
    before = [w.clone() for w in model.state_dict().values()]
    with pytest.raises(ValueError, match=message):
        begin(saved[0], model, ARGUMENTS | arguments, **more)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values()))


def test_names_of_the_library_and_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"unknown weights 'mine'; name a file, \.safetensors, or choose"):
        begin("mine", build())
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        begin(tmp_path / "none.safetensors", build())
    card = unrolled.read_card(unrolled.pretrained_path("fbsem-net-brain-pet"))
    model = unrolled.fbsem_net(**card.arguments)
    found = start_from(model, "fbsem-net-brain-pet", architecture="fbsem-net", arguments=card.arguments)
    assert found.notes == ()


def test_frozen_parts_stay_with_their_statistics():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3, padding=1))
    names = freeze(model, ["0", "1"])
    assert names == ["0.bias", "0.weight", "1.bias", "1.weight"]
    before = {name: w.clone() for name, w in model.state_dict().items()}
    pairs = [(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8))]
    optimiser = torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    list(unrolled.train(model, lambda epoch: pairs, unrolled.Supervised(), optimiser, unrolled.Settings(2, 2)))
    for name, w in model.state_dict().items():
        assert torch.equal(w, before[name]) == (not name.startswith("2.")), name
    with pytest.raises(ValueError, match="nothing in Sequential is called 'head'; its parts are 0, 1, 2"):
        freeze(model, ["head"])
    with pytest.raises(ValueError, match="leaves nothing in Sequential to learn"):
        freeze(model, ["*"])


def test_one_scan_alone_tunes_a_copy():
    f = small_scan(batch=1)
    with unrolled.seeded(0):
        denoiser = unrolled.NetworkDenoiser(unrolled.SmallCNN(2, widths=(2, 2), residual=True), 2)
    before = [w.clone() for w in denoiser.parameters()]
    image = unrolled.OSEMPasses(2, 2)(f)
    own = fine_tuned(denoiser, {"x": image}, unrolled.Noise2Void(), steps=3, rate=1e-2, frozen=["body.layers.0"])
    assert all(torch.equal(a, b) for a, b in zip(before, denoiser.parameters()))
    changed = {n for (n, a), b in zip(own.named_parameters(), before) if not torch.equal(a, b)}
    assert changed
    assert not any(name.startswith("body.layers.0") for name in changed)
    assert not own.training
    again = fine_tuned(denoiser, {"x": image}, unrolled.Noise2Void(), steps=3, rate=1e-2, frozen=["body.layers.0"])
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), again.parameters()))


def test_sets_take_turns_and_say_which_they_are():
    def of(value, n):
        images = torch.full((2, 4, 4, 1), float(value))
        return lambda epoch: [({"x": images, "guide": images}, images)] * n

    mixed = mixed_batches([of(1, 3), of(2, 1)])
    assert [float(target.mean()) for _, target in mixed(0)] == [1, 2, 1, 1]
    told = list(mixed_batches([of(1, 1), of(2, 1)], condition=True)(0))
    for k, (arguments, target) in enumerate(told):
        assert arguments["guide"].shape == (2, 3, 4, 4, 1)
        assert arguments["guide"].mean((0, 2, 3, 4)).tolist() == [float(target.mean()), float(k == 0), float(k == 1)]
    with pytest.raises(ValueError, match="a set of batches"):
        mixed_batches([])
    with pytest.raises(ValueError, match="named arguments, target"):
        list(mixed_batches([lambda epoch: [torch.ones(1)]], condition=True)(0))
