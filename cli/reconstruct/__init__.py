"""`emrecon reconstruct`: from a file of projections to an image, by way of data, problem, engine and output."""

from .command import reconstruct

__all__ = ["reconstruct"]
