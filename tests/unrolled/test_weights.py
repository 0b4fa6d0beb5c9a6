"""Weights come back as they were, and files that are wrong, truncated or hostile are refused with the fact."""

import json
import os
import pickle
import struct
from dataclasses import replace

import pytest
import torch
from torch import nn

from emrecon import unrolled
from emrecon.projectors.core.errors import FormatError
from emrecon.unrolled.training.weights import (
    Card,
    card_path,
    count_parameters,
    load_network,
    load_weights,
    read_card,
    save_weights,
)

safetensors = pytest.importorskip("safetensors.torch")


class Network(nn.Module):
    def __init__(self, channels=4, dtype=torch.float32):
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, dtype=dtype)
        self.norm = nn.BatchNorm2d(channels, dtype=dtype)
        self.layers = nn.ModuleList([self.first] * 3)  # tied: one tensor, several names
        self.register_buffer("table", torch.arange(3), persistent=False)


class LooksAtValues(Network):
    """A builder that torch's meta device cannot follow."""

    def __init__(self, channels=4):
        super().__init__(channels)
        if float(torch.ones(1).sum()) != 1:
            raise ValueError("no")


REGISTRY = {"small": Network, "looks": LooksAtValues}
CARD = Card("small", {"channels": 5}, data={"recipe": "ellipses", "seed": 3}, scale="mean", metrics={"nrmse": 0.25})


def network(channels=5, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(channels)


@pytest.fixture
def path(tmp_path):
    save_weights(tmp_path / "w.safetensors", network(), CARD)
    return tmp_path / "w.safetensors"


def rewrite(path, tensors=None, data=None, **changes):
    """Replace the weights by others, with a card that agrees."""
    import hashlib

    data = safetensors.save(tensors) if data is None else data
    path.write_bytes(data)
    card = json.loads(card_path(path).read_text())
    card_path(path).write_text(json.dumps(card | {"sha256": hashlib.sha256(data).hexdigest()} | changes))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_there_and_back(path):
    other = network(seed=1)
    assert not same(other, network())
    card = load_weights(path, other, architecture="small")
    assert same(other, network())
    assert card.data == CARD.data
    assert card.metrics == {"nrmse": 0.25}
    assert card.parameters == count_parameters(network()) == 5 * 9 + 5 + 10
    assert card.version
    built, again = load_network(path, REGISTRY)
    assert same(built, network())
    assert again == card == read_card(path)
    assert not built.training
    assert torch.equal(built.table, torch.arange(3))


def test_tied_tensors_are_written_once(path):
    assert set(safetensors.load(path.read_bytes())) == {
        "first.weight",
        "first.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    built, _ = load_network(path, REGISTRY)
    assert built.layers[2].weight is built.first.weight


def test_builders_that_look_at_values(path, tmp_path):
    save_weights(tmp_path / "l.safetensors", LooksAtValues(3), Card("looks", {"channels": 3}))
    built, _ = load_network(tmp_path / "l.safetensors", REGISTRY)
    assert built.first.weight.device.type == "cpu"


def test_a_failed_save_leaves_the_old_files(path):
    before = path.read_bytes(), card_path(path).read_bytes()
    broken = network(seed=1)
    with torch.no_grad():
        broken.first.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"w\.safetensors: first\.bias holds NaN"):
        save_weights(path, broken, CARD)
    for bad in (replace(CARD, metrics={"nrmse": float("nan")}), replace(CARD, data=object())):
        with pytest.raises(ValueError, match="must be JSON"):
            save_weights(path, network(seed=1), bad)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_weights(path, network(seed=1), CARD, overwrite=False)
    assert before == (path.read_bytes(), card_path(path).read_bytes())
    assert len(list(path.parent.iterdir())) == 2
    with pytest.raises(ValueError, match=r"\.safetensors files"):
        save_weights(path.with_suffix(".pt"), network(), CARD)


def test_a_failed_load_leaves_the_module(path):
    tensors = safetensors.load(path.read_bytes())
    tensors["norm.running_var"][0] = float("inf")
    rewrite(path, tensors)
    module = network(seed=1)
    with pytest.raises(ValueError, match=r"norm\.running_var holds NaN or infinite"):
        load_weights(path, module)
    assert same(module, network(seed=1))


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def refused(path, match, error=ValueError):
    for load in (lambda: load_weights(path, network()), lambda: load_network(path, REGISTRY)):
        with pytest.raises(error, match=match) as caught:
            load()
        assert path.stem in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_never_opened(path, tmp_path, protocol):
    rewrite(path, data=pickle.dumps(Bomb(tmp_path / "exploded"), protocol))
    refused(path, "is a pickle" if protocol > 1 else "is not a safetensors file")
    assert not (tmp_path / "exploded").exists()
    torch.save(network(), path)
    rewrite(path, data=path.read_bytes())
    refused(path, "is a pickle")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 8) + b"{{{{{{{{",
        struct.pack("<Q", 2**63 - 1),
        b"not weights at all, but of some length",
        struct.pack("<Q", 70) + b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}      ' + b"\0" * 4,
    ],
)
def test_hostile_headers(path, data):
    rewrite(path, data=data)
    refused(path, "is not a safetensors file, or is damaged" if data else "is empty")


def test_truncated_changed_and_exchanged_files(path, tmp_path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    refused(path, rf"\({len(whole) - 8} bytes\) does not have the SHA-256")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(path, "does not have the SHA-256")
    save_weights(tmp_path / "other.safetensors", network(seed=2), CARD)
    path.write_bytes((tmp_path / "other.safetensors").read_bytes())
    refused(path, "card belongs to other weights")
    path.unlink()
    refused(path, "weights of the card .* are missing", FileNotFoundError)
    card_path(path).unlink()
    refused(path, "card of .* is missing", FileNotFoundError)


def test_other_names_shapes_types_and_architectures(path):
    tensors = safetensors.load(path.read_bytes())
    rewrite(path, {name.replace("first", "second"): w for name, w in tensors.items()})
    refused(path, r"another architecture; missing: first.bias, first.weight; unknown: second.bias, second.weight")
    rewrite(path, tensors | {"first.bias": torch.zeros(6)})
    refused(path, r"first.bias is \(6,\) torch.float32, the network has \(5,\)")
    rewrite(path, tensors | {"first.bias": torch.zeros(5, dtype=torch.float64)})
    refused(path, r"torch.float64, the network has \(5,\) torch.float32")
    rewrite(path, tensors)
    with pytest.raises(ValueError, match="holds weights of 'small', not of 'looks'"):
        load_weights(path, network(), architecture="looks")
    with pytest.raises(ValueError, match=r"first.weight is \(5, 1, 3, 3\) .* other arguments"):
        load_weights(path, network(7))
    with pytest.raises(ValueError, match="needs the architecture 'small'; known are unet"):
        load_network(path, {"unet": Network})


@pytest.mark.parametrize("arguments", [{"width": 5}, {"channels": -1}, {"channels": "many"}])
def test_arguments_that_build_nothing(path, arguments):
    rewrite(path, safetensors.load(path.read_bytes()), arguments=arguments)
    with pytest.raises(ValueError, match=r"w\.safetensors: 'small' cannot be built"):
        load_network(path, REGISTRY)


@pytest.mark.parametrize("value", [10**9, [2, 10**9]])
def test_absurd_numbers_build_nothing(path, value):
    save_weights(path, Network(), Card("net", {"channels": value}))

    def builds(channels):
        raise AssertionError("was built")

    with pytest.raises(ValueError, match="is too large to build"):
        load_network(path, {"net": builds})


def test_absurd_sizes_cost_no_memory(path):
    rewrite(path, safetensors.load(path.read_bytes()), arguments={"channels": 4096})
    with pytest.raises(FormatError, match="much larger than its weights"):
        load_network(path, REGISTRY)


class Looks(nn.Module):
    """Many layers whose size is known from values alone, so that they cannot be sketched."""

    def __init__(self, layers, width):
        super().__init__()
        width = int(torch.tensor([width]).sum())
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))


def test_building_ends_where_it_grows_beyond_the_file(path):
    """4096 modules of width 4096 took minutes and all memory."""
    builders = {
        unrolled.mapem_net: {"n_modules": 4096, "width": 4096, "tied": False},
        unrolled.fbsem_net: {"n_modules": 4096, "guide_channels": 4096},
        unrolled.bcd_net: {"n_modules": 4096, "channels": 4096},
        unrolled.learned_primal_dual: {"n_iterations": 4096, "width": 4096},
        Looks: {"layers": 4096, "width": 4096},
    }
    for build, arguments in builders.items():
        save_weights(path, Network(), Card("large", arguments))
        with pytest.raises(FormatError, match="much larger than its weights"):
            load_network(path, {"large": build})
    assert isinstance(load_network(path, {"large": lambda **_: Network()})[0], Network)


def test_pipes_and_devices_are_not_read(path):
    where = card_path(path)
    card = where.read_bytes()
    for target in (where, path):
        target.unlink()
        target.symlink_to("/dev/zero")
        refused(path, "folder or a device|are missing", (FormatError, FileNotFoundError))
        target.unlink()
        os.mkfifo(target)
        refused(path, "folder or a device|are missing", (FormatError, FileNotFoundError))
        target.unlink()
        where.write_bytes(card)


def test_wrong_cards(path):
    where, good = card_path(path), json.loads(card_path(path).read_text())
    for text, match in [
        ("", "is empty"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "its format is not"),
        (json.dumps(good | {"format": "other"}), "its format is not"),
        (json.dumps(good | {"schema_version": 2}), "schema version 2"),
        (json.dumps(good | {"code": "x"}), "missing fields: nothing; unknown fields: code"),
        (json.dumps({k: v for k, v in good.items() if k != "sha256"}), "missing fields: sha256"),
        (json.dumps(good | {"arguments": ["channels"]}), "arguments must be dict, got list"),
        (json.dumps(good | {"architecture": ["small"]}), "architecture must be str"),
        (" " * (1 << 20) + json.dumps(good), "more than 1048576 bytes"),
    ]:
        where.write_text(text)
        refused(path, match)
    where.write_bytes(b"\xff\xfe{}")
    refused(path, "is not text in UTF-8")


def test_a_missing_safetensors_names_the_extra(path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"emrecon\[learned\]"):
        load_weights(path, network())


# ---- compiled modules, and cards of older versions -------------------------------------------------------------------


def compiled(module):
    """Under the names that torch.compile gives, without a compiler."""
    return torch.compile(module, backend="eager")


@pytest.mark.parametrize("what", ["whole", "a part", "parallel"])
def test_weights_of_compiled_modules_have_plain_names(path, what):
    network, other = (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 3)) for _ in range(2))
    wrapped = {
        "whole": lambda: compiled(network),
        "a part": lambda: nn.Sequential(network[0], compiled(network[1])),
        "parallel": lambda: nn.DataParallel(network),
    }[what]()
    card = save_weights(path, wrapped, Card("chain"))
    assert card.parameters == count_parameters(network)
    loaded, _ = load_network(path, {"chain": lambda: other})
    for a, b in zip(network.parameters(), loaded.parameters()):
        assert torch.equal(a, b)
    with torch.no_grad():
        network[0].weight.zero_()
    load_weights(path, wrapped)  # and back into the compiled one
    assert torch.equal(network[0].weight, loaded[0].weight)


def test_a_card_without_norm_means_what_it_meant(path):
    from emrecon.unrolled import mapem_net

    former = mapem_net(2, 2, width=4, norm="batch")
    save_weights(path, former, Card("mapem-net", {"dimensions": 2, "n_modules": 2, "width": 4}))
    loaded, card = load_network(path, {"mapem-net": mapem_net})
    assert card.arguments["norm"] == "batch"
    assert loaded.state_dict().keys() == former.state_dict().keys()
