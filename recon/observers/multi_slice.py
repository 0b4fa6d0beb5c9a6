"""Hotelling observers that page through the slices of a volume."""

from __future__ import annotations

import numpy as np

from emrecon.projectors.core.arrays import Array, to_numpy

from .channels import channel_matrix, outputs_on_host
from .hotelling import ChannelisedHotelling, Images

_WAYS = ("slices", "central", "joint")


class MultiSliceHotelling:
    """The multi-slice channelised Hotelling observer: channels of images in every slice, then all slices together.

    ::

        "slices"    t_k = w_k'v_k with the template of each slice, and a Hotelling observer on t (slices,)
        "central"   the template of one slice in every slice, t_k = w'v_k, and a Hotelling observer on t
        "joint"     one Hotelling observer on the outputs of all channels and slices (C slices,)

    Args:
        channels : (P, C) of images of P = x y voxels, such as `laguerre_gauss_channels((x, y), ...)`.
        way : one of these. "joint" can use most and needs the most images.
        slice_number : the one "central" is trained on; default: the middle.

    Volumes are (N, x, y, z) with slices along z. Both steps are trained on the same images: score others.

    Raises ValueError for an unknown way.

    Source: Chen, Bowsher, Baydush et al. 2002 (all slices); Platisa et al. 2011 (the other ways).
    """

    def __init__(self, channels: np.ndarray | Array, way: str = "slices", slice_number: int | None = None) -> None:
        if way not in _WAYS:
            raise ValueError(f"unknown way {way!r}; choose from {', '.join(_WAYS)}")
        if slice_number is not None and way != "central":
            raise ValueError(f"MultiSliceHotelling: way {way!r} has no slice number; it is for 'central'")
        self.channels, self.way, self.slice_number = channel_matrix(channels), way, slice_number
        self._each: tuple[np.ndarray, ...] = ()
        self._last: ChannelisedHotelling | None = None

    def fit(self, absent: Images, present: Images) -> MultiSliceHotelling:
        """Train on volumes without (m, x, y, z) and with the signal (n, x, y, z); returns the observer.

        Raises ValueError as `ChannelisedHotelling.fit` does, in every slice, and for anything but volumes.
        """
        both = [self._outputs(images) for images in (absent, present)]
        n_slices = both[0].shape[1]
        if both[1].shape[1] != n_slices:
            raise ValueError(f"volumes without the signal have {n_slices} slices, those with it {both[1].shape[1]}")
        self._each = ()
        if self.way == "slices":
            self._each = tuple(self._template(both, k) for k in range(n_slices))
        elif self.way == "central":
            k = n_slices // 2 if self.slice_number is None else self.slice_number
            if not 0 <= k < n_slices:
                raise ValueError(f"MultiSliceHotelling: slice number {k} of {n_slices} slices; count from 0")
            self._each = (self._template(both, k),) * n_slices
        self._last = ChannelisedHotelling().fit(*(self._reduced(outputs) for outputs in both))
        return self

    def scores(self, images: Images) -> np.ndarray:
        """Return scores (N,) of volumes (N, x, y, z).

        Raises ValueError before `fit`, and for volumes of another size.
        """
        if self._last is None:
            raise ValueError("MultiSliceHotelling.scores: call fit(absent, present) first")
        return self._last.scores(self._reduced(self._outputs(images)))

    def _outputs(self, images: Images) -> np.ndarray:
        """Channel outputs (N, slices, C)."""
        volumes = to_numpy(images) if hasattr(images, "shape") else np.stack([to_numpy(one) for one in images])
        if volumes.ndim != 4:
            raise ValueError(f"MultiSliceHotelling expects volumes (N, x, y, z), got shape {volumes.shape}")
        n, n_slices = len(volumes), volumes.shape[3]
        slices = np.moveaxis(volumes, 3, 1).reshape(n * n_slices, *volumes.shape[1:3])
        return outputs_on_host(slices, self.channels, "MultiSliceHotelling").reshape(n, n_slices, -1)

    def _template(self, both: list[np.ndarray], k: int) -> np.ndarray:
        return ChannelisedHotelling().fit(*(outputs[:, k] for outputs in both)).template_weights

    def _reduced(self, outputs: np.ndarray) -> np.ndarray:
        if not self._each:
            return outputs.reshape(len(outputs), -1)
        if outputs.shape[1] != len(self._each):
            raise ValueError(f"MultiSliceHotelling: {outputs.shape[1]} slices, but it was fitted to {len(self._each)}")
        return np.asarray(np.einsum("nkc,kc->nk", outputs, np.stack(self._each)))
