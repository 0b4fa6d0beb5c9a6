"""Reconstruction: likelihoods, the steps that improve an image, and the loops that repeat them."""

if __name__ != "emrecon.recon":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.recon`")

from .em import Iterate, em_step, mlem, osem
from .likelihood import PoissonLikelihood
from .metrics import nrmse
from .run import Checkpoint, Log, ProgressBar, RelativeChange, run

__all__ = [
    "Checkpoint",
    "Iterate",
    "Log",
    "PoissonLikelihood",
    "ProgressBar",
    "RelativeChange",
    "em_step",
    "mlem",
    "nrmse",
    "osem",
    "run",
]
