"""The channelised Hotelling observer: the best linear observer of images seen through channels."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import linalg

from emrecon.projectors.core.arrays import Array

from .channels import channel_matrix, outputs_on_host

_WORST = 1e12  # condition of the channels' correlations: beyond, no digit of the template is to be trusted
_NOISES = ("channels", "decision")

Images = Array | Sequence[Array]


class Classes(NamedTuple):
    """Channel outputs of both classes, (n, C), and what is known of them."""

    absent: np.ndarray
    present: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """Mean of the present less that of the absent, (C,)."""
        return np.asarray(self.present.mean(0) - self.absent.mean(0))

    @property
    def covariance(self) -> np.ndarray:
        """(S_0 + S_1) / 2, (C, C)."""
        return np.asarray((covariance(self.absent) + covariance(self.present)) / 2)

    @property
    def pooled(self) -> np.ndarray:
        """((m - 1) S_0 + (n - 1) S_1) / (m + n - 2), (C, C)."""
        m, n = len(self.absent), len(self.present)
        return np.asarray(((m - 1) * covariance(self.absent) + (n - 1) * covariance(self.present)) / (m + n - 2))


class ChannelisedHotelling:
    """The channelised Hotelling observer: a linear template, trained on images with and without a signal.

    With v = U'g the channel outputs of an image, dv the difference of their means (present less absent), S_0 and S_1
    their covariances::

        w = S^-1 dv,   S = (S_0 + S_1) / 2,   score = w'v

    No other linear combination of the channels has a larger signal-to-noise ratio. An area under the ROC curve from
    the images that the template was made of is too large; use others, `held_out` or `leave_one_out`.

    Args:
        channels : a matrix (P, C) for images of P voxels, such as `laguerre_gauss_channels(...)`, or None for the
            voxels themselves (the Hotelling observer).
        internal_noise : alpha >= 0, how unsure the observer is of what it sees. With `noise_on` "channels", every
            channel output gets Gaussian noise of alpha times its standard deviation (S gets alpha^2 diag(S), so the
            template knows of it); with "decision" the score gets alpha times its own standard deviation.
        noise_on : "channels" or "decision".
        seed : of that noise; it depends on the seed and on the images given together, and is the same each time.

    Attributes, once `fit` has been called: `template_weights` w (C,), `template` U w in the shape of an image,
    `mean_absent` and `mean_present` (C,), and `resubstituted_snr` sqrt(dv' S^-1 dv), which is biased upwards
    (`snr_interval` corrects it).

    Images are (N, ...), NumPy, CuPy or torch, N first and then the image's axes, or a sequence of images.

    Raises ValueError for a negative noise, an unknown `noise_on`, and channels that are no matrix.

    Source: Barrett, Yao, Rolland & Myers 1993; internal noise as compared by Brankov 2013.
    """

    def __init__(
        self,
        channels: np.ndarray | Array | None = None,
        internal_noise: float = 0.0,
        noise_on: str = "channels",
        seed: int = 0,
    ) -> None:
        if not 0 <= internal_noise < math.inf:
            raise ValueError(f"ChannelisedHotelling: internal_noise must be finite and >= 0, got {internal_noise}")
        if noise_on not in _NOISES:
            raise ValueError(f"unknown noise_on {noise_on!r}; choose from {', '.join(_NOISES)}")
        if int(seed) != seed or seed < 0:
            raise ValueError(f"ChannelisedHotelling: a seed is a non-negative integer, got {seed}")
        self.channels = None if channels is None else channel_matrix(channels)
        self.internal_noise, self.noise_on, self.seed = float(internal_noise), noise_on, int(seed)
        self._fitted: _Fitted | None = None

    def __repr__(self) -> str:
        seen = "voxels" if self.channels is None else f"{self.channels.shape[1]} channels"
        noise = f", internal noise {self.internal_noise:g} on {self.noise_on}" if self.internal_noise else ""
        return f"<ChannelisedHotelling on {seen}{noise}, {'fitted' if self._fitted else 'not fitted'}>"

    def fit(self, absent: Images, present: Images) -> ChannelisedHotelling:
        """Make the template of images without (m, ...) and with the signal (n, ...); returns the observer.

        Raises ValueError for images of different sizes, NaN, fewer images than channels (m + n - 2 < C), and channel
        outputs whose covariance is singular.
        """
        both = classes(absent, present, self.channels)
        shape = _shape(present)
        S = both.covariance
        noise = self.internal_noise * np.sqrt(np.diag(S))
        if self.noise_on == "channels":
            S = S + np.diag(noise**2)
        require_regular(S, len(both.absent) + len(both.present), "ChannelisedHotelling.fit")
        w = solved(S, both.difference)
        decision = self.internal_noise * math.sqrt(max(float(w @ S @ w), 0.0))
        self._fitted = _Fitted(w, S, both.absent.mean(0), both.present.mean(0), noise, decision, shape)
        return self

    def scores(self, images: Images) -> np.ndarray:
        """Return the scores w'v of images (N, ...), (N,) float64: larger where the signal seems present.

        Raises ValueError before `fit`, and for images of another size or with NaN.
        """
        fitted = self._state("scores")
        outputs = outputs_on_host(images, self.channels, "ChannelisedHotelling.scores")
        if outputs.shape[1] != len(fitted.w):
            raise ValueError(
                f"ChannelisedHotelling.scores: images of {outputs.shape[1]} voxels, it was fitted to {len(fitted.w)}"
            )
        if not self.internal_noise:
            return np.asarray(outputs @ fitted.w)
        random = np.random.default_rng([self.seed, zlib.crc32(outputs.tobytes())])
        if self.noise_on == "channels":
            return np.asarray((outputs + random.normal(size=outputs.shape) * fitted.noise) @ fitted.w)
        return np.asarray(outputs @ fitted.w + fitted.decision * random.normal(size=len(outputs)))

    @property
    def template_weights(self) -> np.ndarray:
        """w = S^-1 dv, (C,)."""
        return self._state("template_weights").w

    @property
    def template(self) -> np.ndarray:
        """The template as an image, U w: a score is its product with an image."""
        fitted = self._state("template")
        w = fitted.w if self.channels is None else self.channels @ fitted.w
        return np.asarray(w.reshape(fitted.shape))

    @property
    def mean_absent(self) -> np.ndarray:
        """Mean channel outputs of the images without the signal, (C,)."""
        return self._state("mean_absent").absent

    @property
    def mean_present(self) -> np.ndarray:
        """Mean channel outputs of the images with the signal, (C,)."""
        return self._state("mean_present").present

    @property
    def resubstituted_snr(self) -> float:
        """sqrt(dv' S^-1 dv) of the images it was fitted to, biased upwards."""
        fitted = self._state("resubstituted_snr")
        product = max(float((fitted.present - fitted.absent) @ fitted.w), 0.0)
        if self.noise_on == "decision":
            product /= 1 + self.internal_noise**2
        return math.sqrt(product)

    def _state(self, name: str) -> _Fitted:
        if self._fitted is None:
            raise ValueError(f"ChannelisedHotelling.{name}: call fit(absent, present) first")
        return self._fitted


class _Fitted(NamedTuple):
    w: np.ndarray
    covariance: np.ndarray
    absent: np.ndarray
    present: np.ndarray
    noise: np.ndarray  # standard deviation of the internal noise of every channel
    decision: float  # and of the score
    shape: tuple[int, ...]


def classes(absent: Images, present: Images, channels: np.ndarray | None) -> Classes:
    """Return the channel outputs of both classes.

    Raises ValueError for images of different sizes, NaN, and less than two images in a class.
    """
    shapes = [_shape(images) for images in (absent, present)]
    if math.prod(shapes[0]) != math.prod(shapes[1]):
        raise ValueError(f"images without the signal have the shape {shapes[0]}, those with it {shapes[1]}")
    found = Classes(
        outputs_on_host(absent, channels, "images without the signal"),
        outputs_on_host(present, channels, "images with the signal"),
    )
    if min(len(outputs) for outputs in found) < 2:
        raise ValueError(f"an observer needs two images of each class or more, got {len(found[0])} and {len(found[1])}")
    return found


def covariance(outputs: np.ndarray) -> np.ndarray:
    """Return the covariance of channel outputs (N, C), with N - 1."""
    centred = outputs - outputs.mean(0)
    return np.asarray(centred.T @ centred / (len(outputs) - 1))


def solved(S: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return S^-1 right, worked out on correlations: channels may differ by orders of magnitude."""
    sd = np.sqrt(np.diag(S))
    factor = linalg.cho_factor(S / np.outer(sd, sd), lower=True)
    scale = sd if right.ndim == 1 else sd[:, None]
    return np.asarray(linalg.cho_solve(factor, right / scale) / scale)


def require_regular(S: np.ndarray, n_images: int, who: str) -> None:
    """Raise ValueError for a covariance that has no inverse, and say why."""
    n_channels = len(S)
    if n_images - 2 < n_channels:
        raise ValueError(
            f"{who}: {n_images} images of both classes for {n_channels} channels; the covariance needs "
            f"{n_channels + 2} or more, and several times as many to be of use"
        )
    variances = np.diag(S)
    constant = np.flatnonzero(~(variances > 0))
    if len(constant):
        names = ", ".join(map(str, constant[:8]))
        raise ValueError(f"{who}: the outputs of channels {names} do not vary; are the images without noise?")
    correlations = S / np.sqrt(np.outer(variances, variances))
    values = np.linalg.eigvalsh(correlations)
    if not values[0] * _WORST > values[-1]:
        raise ValueError(
            f"{who}: the covariance of the channel outputs is singular (condition above {_WORST:g}); two channels are "
            "the same, or one is a sum of others: take fewer"
        )


def _shape(images: Images) -> tuple[int, ...]:
    if hasattr(images, "shape"):
        if len(images.shape) < 2:
            raise ValueError(f"an observer needs images (N, ...), got shape {tuple(images.shape)}; add an axis?")
        return tuple(images.shape[1:])
    if len(images) == 0:
        raise ValueError("an observer needs images, got an empty sequence")
    return tuple(images[0].shape)
