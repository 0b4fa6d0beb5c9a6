"""Networks against classical methods and against controls that see the guide alone, trained alike; and where things
change."""

from .suite import SUITE

__all__ = ["SUITE"]
