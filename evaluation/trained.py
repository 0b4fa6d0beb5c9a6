"""Trained networks as methods, and a control that paints the guide: what needs no training of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from emrecon import recon
from emrecon.projectors.core.arrays import like, to_numpy

from .methods import Images, Method
from .single import start_of, subsets_of

SHIPPED = ("fbsem-net", "mapem-net")
"""Architectures of which weights come with the library for brains."""
_LEVELS, _PASSES = 12, 4
_DARK = 0.05  # of the guide's largest value


def shipped_method(architecture: str, kind: str) -> Method:
    """Return a network whose weights come with the library: "fbsem-net" or "mapem-net", for "pet" or "spect".

    Raises ValueError where there are none.
    """
    from emrecon.unrolled import count_parameters, pretrained

    name = f"{architecture}-brain-{kind}"
    network, _ = pretrained(name)

    def images(case: Any) -> Images:
        import torch

        with torch.no_grad():
            yield 1, network(case.likelihood, guide=case.guide)

    title = {"fbsem-net": "FBSEM-Net", "mapem-net": "MAPEM-Net"}.get(architecture, architecture)
    n = count_parameters(network)
    return Method(f"shipped-{architecture}", f"{title}, shipped", "unrolled", images, sees_guide=True, parameters=n)


def painted_guide(case: Any) -> Images:
    """The guide, each of its levels painted with the mean of an OSEM image there: what its contours alone explain."""
    image = recon.run(recon.osem(case.likelihood, start_of(case), subsets_of(case)), _PASSES)
    values, guides = np.asarray(to_numpy(image), float), np.asarray(to_numpy(case.guide), float)
    guides = guides if guides.ndim == 4 else guides[:, 0]
    painted = np.stack([_painted(x, guide) for x, guide in zip(values, guides)])
    yield 1, like(painted.astype(np.float32), image)


def _painted(image: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """The image with its mean in each of a dozen levels of the guide: the dark, and equally full ones of the rest."""
    dark = _DARK * guide.max()
    bright = guide[guide > dark]
    inner = np.quantile(bright, np.linspace(0, 1, _LEVELS)[1:-1]) if bright.size else []
    edges = np.unique([dark, *inner])
    level = np.digitize(guide, edges).ravel()
    sums, n = (np.bincount(level, weights, len(edges) + 1) for weights in (image.ravel(), None))
    return (sums / np.maximum(n, 1))[level].reshape(image.shape)


PAINTED = Method("guide-painted", "guide, painted", "control", painted_guide, sees_guide=True)
"""A control that needs no training."""
