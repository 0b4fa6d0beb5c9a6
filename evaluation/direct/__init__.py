"""Networks that reconstruct in one pass, OSEM, and networks with the physics inside, trained for the same time."""

from .suite import SUITE

__all__ = ["SUITE"]
