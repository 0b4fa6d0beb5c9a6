"""Training sets: written in shards, read in batches."""

from .caching import CachedDataset
from .ranks import rank_and_size
from .reading import Batches, Dataset, Field, SimulatedDataset, Source, loader
from .shards import MANIFEST
from .writing import Written, write_dataset

__all__ = [
    "MANIFEST",
    "Batches",
    "CachedDataset",
    "Dataset",
    "Field",
    "SimulatedDataset",
    "Source",
    "Written",
    "loader",
    "rank_and_size",
    "write_dataset",
]
