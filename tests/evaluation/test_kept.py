"""Arrays that are kept: made once, replaced where damaged, and nothing of a file that was cut off."""

import numpy as np
import pytest

from emrecon.evaluation.kept import kept


def test_made_once_and_made_again_where_damaged(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"a": np.arange(6.0).reshape(2, 3), "b": np.float32(2)}

    path = tmp_path / "new" / "arrays.npz"
    for _ in range(2):
        np.testing.assert_array_equal(kept(path, make)["a"], np.arange(6.0).reshape(2, 3))
    assert len(calls) == 1
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive", whole.replace(b"\x93NUMPY", b"\x93NUMPX")):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(kept(path, make)["b"], np.float32(2))
    assert len(calls) == 5
    assert path.read_bytes() == whole
    kept(None, make)
    assert len(calls) == 6


def test_what_fails_leaves_no_file(tmp_path):
    def make():
        raise RuntimeError("no light")

    with pytest.raises(RuntimeError, match="no light"):
        kept(tmp_path / "arrays.npz", make)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="pickle"):  # objects are not kept: they could not be read safely
        np.load(_with_objects(tmp_path), allow_pickle=False)["a"]
    assert kept(tmp_path / "objects.npz", lambda: {"a": np.ones(1)})["a"] == 1


def _with_objects(folder):
    np.savez(folder / "objects.npz", a=np.array([{}], object))
    return folder / "objects.npz"
