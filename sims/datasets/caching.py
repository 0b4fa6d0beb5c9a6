"""Simulated samples that are kept on disk, so that each of them is made once."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emrecon import __version__
from emrecon.projectors.core.files import atomic_stream

from .reading import SimulatedDataset


class CachedDataset:
    """The samples of a `SimulatedDataset`, each kept in a file once it has been made; otherwise as that data set.

    Args:
        dataset : what makes the samples.
        folder : where files go, in a subfolder of this source, these fields and this version of emrecon: other samples
            are never mixed up with them. Several processes may share it; a damaged file is made again.

    For simulations that take longer than reading, such as those of volumes, when they are met again in every epoch. For
    sets that are to be kept or passed on see `write_dataset`.

    Raises OSError that names the file where nothing can be written, and as the data set does.
    """

    def __init__(self, dataset: SimulatedDataset, folder: str | os.PathLike[str]) -> None:
        self.dataset, self.fields, self.numbers = dataset, dataset.fields, dataset.numbers
        about = {"source": dataset.source.describe(), "fields": sorted(dataset.fields), "version": __version__}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        self.folder = Path(folder).absolute() / digest[:16]

    def __len__(self) -> int:
        return len(self.dataset)

    def __repr__(self) -> str:
        return f"<CachedDataset of {self.dataset!r}>"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """Return several samples, of which those without a file are made together."""
        found = {int(index): self._read(int(index)) for index in indices}
        missing = [index for index, sample in found.items() if sample is None]
        for index, made in zip(missing, self.dataset.__getitems__(missing) if missing else ()):
            self._write(index, made)
            found[index] = made
        return [sample for index in indices if (sample := found[int(index)]) is not None]

    def _path(self, index: int) -> Path:
        return self.folder / f"{self.numbers[index]:08d}.npz"

    def _read(self, index: int) -> dict[str, np.ndarray] | None:
        try:
            with self._path(index).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                sample = {name: file[name] for name in self.fields}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None  # not there yet, or damaged
        same = all(sample[n].shape == f.shape and sample[n].dtype == f.dtype for n, f in self.fields.items())
        return sample if same else None

    def _write(self, index: int, sample: dict[str, np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_stream(self._path(index)) as stream:
            np.savez(stream, allow_pickle=False, **sample)
