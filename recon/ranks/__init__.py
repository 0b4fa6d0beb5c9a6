"""Several processes at one reconstruction: each holds a share of the views or events, and sums go over all of them."""

from .group import ALONE, LostRankError, RankGroup, join_ranks, ranks_of_job
from .sharing import ShardedLikelihood, ShardedProjector, SummedLikelihood, of_share, shard

__all__ = [
    "ALONE",
    "LostRankError",
    "RankGroup",
    "ShardedLikelihood",
    "ShardedProjector",
    "SummedLikelihood",
    "join_ranks",
    "of_share",
    "ranks_of_job",
    "shard",
]
