"""Simulated samples that are kept on disk: the same ones, made once, and made again where a file is damaged."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from toy_sets import Toy

from emrecon.sims.datasets.caching import CachedDataset
from emrecon.sims.datasets.reading import SimulatedDataset


class Counting(SimulatedDataset):
    """Says which samples it makes."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.made = []

    def __getitems__(self, indices):
        self.made += [int(i) for i in indices]
        return super().__getitems__(indices)


def same(a, b):
    return all(np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in b)


def test_samples_are_made_once_and_are_the_same(tmp_path):
    plain = SimulatedDataset(Toy(), "train")
    counting = Counting(Toy(), "train")
    cached = CachedDataset(counting, tmp_path)
    for indices in ([3, 0, 3], [0, 1], [-1]):
        for found, expected in zip(cached.__getitems__(indices), plain.__getitems__(indices), strict=True):
            assert same(found, expected)
    assert counting.made == [3, 0, 1, -1]
    again = Counting(Toy(), "train")  # a run that goes on
    assert same(CachedDataset(again, tmp_path)[1], plain[1])
    assert again.made == []
    assert same(pickle.loads(pickle.dumps(cached))[3], plain[3])
    assert (len(cached), cached.fields) == (len(plain), plain.fields)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:200] + b"x" + b[201:]])
def test_damaged_files_are_made_again(tmp_path, damage):
    CachedDataset(Counting(Toy(), "train"), tmp_path)[2]
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(damage(path.read_bytes()))
    counting = Counting(Toy(), "train")
    assert same(CachedDataset(counting, tmp_path)[2], SimulatedDataset(Toy(), "train")[2])
    assert counting.made == [2]


def test_other_samples_are_not_mixed_up(tmp_path):
    CachedDataset(Counting(Toy(), "train"), tmp_path)[0]
    other = Counting(replace(Toy(), seed=5), "train")
    assert same(CachedDataset(other, tmp_path)[0], SimulatedDataset(replace(Toy(), seed=5), "train")[0])
    assert other.made == [0]
    fewer = Counting(Toy(), "train", ["dose"])
    assert set(CachedDataset(fewer, tmp_path)[0]) == {"dose"}
