"""Sets on disks that lose bits, of former versions, or by someone who means harm."""

import hashlib
import json
import os
import shutil

import h5py
import numpy as np
import pytest
from fuzz_seeds import old_style
from toy_sets import Toy

from emrecon.projectors.core.errors import FormatError
from emrecon.sims.datasets.reading import Dataset
from emrecon.sims.datasets.shards import Plan, is_sound
from emrecon.sims.datasets.writing import write_dataset

SIZE = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A complete set of five shards."""
    folder = tmp_path_factory.mktemp("damaged") / "set"
    assert write_dataset(Toy(), folder, shard_size=SIZE).complete
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it."""
    shutil.copytree(made, tmp_path / "set")
    return tmp_path / "set"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_flipped_bit_is_noticed_and_mended(made, folder):
    """Of single flips one in eight hits no sample, and a few stay without an error of HDF5."""
    random = np.random.default_rng(0)
    whole, plan = contents(made), Plan.read(made)
    for shard in plan.shards:
        for _ in range(60):
            data = bytearray(whole[shard.name])
            data[random.integers(len(data))] ^= 1 << random.integers(8)
            (folder / shard.name).write_bytes(data)
            assert not is_sound(plan, folder, shard)
    done = write_dataset(Toy(), folder, shard_size=SIZE)
    assert (done.n_made, done.complete) == (60, True)
    assert contents(folder) == whole


@pytest.mark.parametrize("n", [1, 95])
def test_short_shards_are_refused_and_mended(made, folder, n):
    path = folder / "shard-00001.h5"
    path.write_bytes(path.read_bytes()[:-n])
    assert write_dataset(Toy(), folder, shard_size=SIZE).n_made == SIZE
    assert contents(folder) == contents(made)


def as_of_0_2_0(path):
    """A shard without a digest, with texts of variable length."""
    old_style(path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 1


def test_shards_of_0_2_0_are_read_and_kept(folder):
    before = Dataset(folder)[13]
    for path in folder.glob("shard-*"):
        as_of_0_2_0(path)
    assert all(np.array_equal(Dataset(folder)[13][name], values) for name, values in before.items())
    kept = contents(folder)
    assert write_dataset(Toy(), folder, shard_size=SIZE).n_made == 0
    assert contents(folder) == kept
    path = folder / "shard-00002.h5"
    with h5py.File(path) as file:
        place = file["activity"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 20] ^= 16
    path.write_bytes(data)
    assert write_dataset(Toy(), folder, shard_size=SIZE).n_made == SIZE


def test_a_damaged_heap_of_an_old_shard_does_not_hang(folder):
    path = folder / "shard-00000.h5"
    as_of_0_2_0(path)
    whole = path.read_bytes()
    place = whole.index(b"GCOL") + 16
    path.write_bytes(whole[:place] + bytes(64) + whole[place + 64 :])
    with pytest.raises(FormatError, match=r"shard-00000\.h5: the heap of texts"):
        Dataset(folder)[0]


def linked(file, kind):
    del file["activity"]
    file["activity"] = kind


def external_values(file):
    del file["dose"]
    file.create_dataset("dose", (SIZE,), "f8", external=[("/etc/passwd", 0, 8 * SIZE)])


def replaced(**options):
    def change(file):
        del file["counts"]
        file.create_dataset("counts", **options)

    return change


HOSTILE = {
    "external link": lambda file: linked(file, h5py.ExternalLink("/etc/other.h5", "x")),
    "soft link": lambda file: linked(file, h5py.SoftLink("/dose")),
    "external values": external_values,
    "other dtype": replaced(data=np.zeros((SIZE, 6, 5)), chunks=(1, 6, 5)),
    "texts": replaced(shape=(SIZE, 6, 5), dtype=h5py.string_dtype(), chunks=(1, 6, 5)),
    "other shape": replaced(data=np.zeros((SIZE, 6, 4), "u2"), chunks=(1, 6, 4)),
    "huge chunks": replaced(shape=(SIZE, 6, 5), maxshape=(None,) * 3, dtype="u2", chunks=(2**10, 2**10, 2**10)),
    "not chunked": replaced(data=np.zeros((SIZE, 6, 5), "u2")),
    "group": lambda file: (file.__delitem__("counts"), file.create_group("counts")),
    "no fingerprint": lambda file: file.attrs.__delitem__("fingerprint"),
    "fingerprint of numbers": lambda file: file.attrs.__setitem__("fingerprint", [1.0, 2]),
    "variable number": lambda file: file.attrs.__setitem__("n_samples", "many"),
    "first sample": lambda file: file.attrs.__setitem__("first_sample", 3),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_shards(folder, change):
    path = folder / "shard-00000.h5"
    footer = path.read_bytes()[-95:]
    with h5py.File(path, "r+") as file:
        change(file)
    path.write_bytes(path.read_bytes() + footer)
    with pytest.raises(FormatError, match=r"shard-00000\.h5"):
        Dataset(folder)[0]


def manifest_of(folder, **changes):
    """Write the manifest with changes and a fingerprint that fits them."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text()) | changes
    own = {key: value for key, value in content.items() if key not in ("shards", "fingerprint")}
    canonical = json.dumps(own, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(content | {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest()}))


def field(**changes):
    return [{"name": "counts", "shape": [6, 5], "dtype": "uint16", "unit": "", "description": ""} | changes]


MANIFESTS = {
    "n": {"n": 10**12, "split": {}},
    "n of a text": {"n": "many"},
    "n of a float": {"n": 60.0},
    "n true": {"n": True},
    "batch": {"batch": 0},
    "shards": {"n": 10**9, "shard_size": 1, "split": {}},
    "list of a split": {"split": [[0, 60]]},
    "long split": {"split": {"train": [0, 10**12]}},
    "three ends": {"split": {"train": [0, 60, 2]}},
    "texts": {"split": {"train": "0"}},
    "fields": {"fields": {}},
    "no fields": {"fields": []},
    "field of a number": {"fields": [3]},
    "huge field": {"fields": field(shape=[2**20, 2**20])},
    "negative": {"fields": field(shape=[-1])},
    "shape of a text": {"fields": field(shape="ab")},
    "dtype of a list": {"fields": field(dtype=["u2"])},
    "unit of a list": {"fields": field(unit=["m"])},
    "path": {"fields": field(name="../x")},
    "name of a number": {"fields": field(name=3)},
    "recipe": {"recipe": [1]},
    "version": {"library_version": 3},
    "schema": {"schema_version": "new"},
}


@pytest.mark.parametrize("changes", MANIFESTS.values(), ids=MANIFESTS)
def test_hostile_manifests(folder, changes):
    manifest_of(folder, **changes)
    with pytest.raises(FormatError, match=r"manifest\.json|shard-00000\.h5"):
        Dataset(folder)[0]
    with pytest.raises(FormatError, match=r"manifest\.json|belongs to another set"):
        write_dataset(Toy(), folder, shard_size=SIZE)


@pytest.mark.parametrize("text", ["", "[" * 10**5, '{"a":' * 900, "[1]", "null", "\0", "9" * 10**4, '{"n": 1e999}'])
def test_manifests_that_are_none(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(FormatError, match=r"manifest\.json"):
        Dataset(folder)


def test_devices_are_not_read(folder):
    (folder / "shard-00000.h5").unlink()
    os.mkfifo(folder / "shard-00000.h5")
    with pytest.raises(FormatError, match=r"shard-00000\.h5 is a folder or a device"):
        Dataset(folder)[0]
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(FormatError, match=r"manifest\.json is a folder or a device"):
        Dataset(folder)
