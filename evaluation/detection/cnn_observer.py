"""A network as an observer: trained to tell the classes apart, its output estimates the ideal observer's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import Array, to_numpy

Images = Array | Sequence[Array]


class CNNObserver:
    """A convolutional network trained on images without and with a signal; scores are log-likelihood ratios.

    Minimising the cross entropy over as many images of each class makes the network's output the logarithm of
    p(g | present) / p(g | absent), which no observer beats. How near it comes is
    a matter of the number of images: compare with `recon.ChannelisedHotelling`, which it contains (a linear part).

    Args:
        width, depth : of the network, `unrolled.ImageClassifier`.
        steps : of training.
        batch : images in a step, half of each class.
        rate : of Adam.
        decay : of weights (decoupled).
        held : part of the images that chooses when training was best.
        seed : of weights, order and that part.

    `fit` and `scores` are those of an observer of `recon.observers`; images of both classes have one shape. It needs
    torch.

    Raises ValueError for numbers out of range.

    Source: Kupinski et al. 2001 (networks as ideal observers); Zhou et al. 2019 (convolutional ones).
    """

    def __init__(
        self,
        width: int = 8,
        depth: int = 2,
        *,
        steps: int = 600,
        batch: int = 128,
        rate: float = 2e-3,
        decay: float = 0.05,
        held: float = 0.2,
        seed: int = 0,
    ) -> None:
        if min(width, steps) < 1 or depth < 0 or batch < 2 or not rate > 0 or not 0 < held < 1 or decay < 0:
            raise ValueError(f"CNNObserver: width {width}, depth {depth}, steps {steps}, batch {batch}, held {held}")
        self.width, self.depth, self.steps, self.batch = width, depth, steps, batch
        self.rate, self.decay, self.held, self.seed = rate, decay, held, seed
        self._network: Any = None
        self._shape: tuple[int, ...] = ()
        self._mean = self._sd = 0.0

    def fit(self, absent: Images, present: Images) -> CNNObserver:
        """Train on images without (m, ...) and with the signal (n, ...); returns the observer.

        Raises ValueError for images of different shapes, NaN, and less than ten of a class.
        """
        import torch

        from emrecon import unrolled

        both = [_stacked(images) for images in (absent, present)]
        if both[0].shape[1:] != both[1].shape[1:]:
            raise ValueError(f"images without the signal are {both[0].shape[1:]}, those with it {both[1].shape[1:]}")
        if min(map(len, both)) < 10:
            raise ValueError(f"CNNObserver.fit needs ten images of each class, got {len(both[0])} and {len(both[1])}")
        together = np.concatenate(both)
        self._shape, self._mean, self._sd = together.shape[1:], float(together.mean()), float(together.std()) or 1.0
        random = np.random.default_rng(self.seed)
        parts = [np.split(random.permutation(images), [math.ceil(self.held * len(images))]) for images in both]
        tested, trained = ([self._tensor(part[k]) for part in parts] for k in (0, 1))
        with unrolled.seeded(self.seed):
            network = unrolled.ImageClassifier(self._shape, self.width, self.depth)
        optimiser = torch.optim.AdamW(network.parameters(), self.rate, weight_decay=self.decay)
        labels = [torch.full((len(images),), float(k)) for k, images in enumerate(tested)]
        held_images, held_labels = torch.cat(tested), torch.cat(labels)

        def entropy(model: Any, batch: Any, generator: Any = None) -> Any:
            images, classes = batch
            return torch.nn.functional.binary_cross_entropy_with_logits(model(images), classes)

        settings = unrolled.Settings(
            self.steps, validate_every=max(1, self.steps // 20), watch="entropy", seed=self.seed, patience=8
        )
        best = None
        for record in unrolled.train(
            network,
            _balanced(trained, self.batch, self.seed),
            entropy,
            optimiser,
            settings,
            validate=lambda model: {"entropy": float(entropy(model, (held_images, held_labels)))},
            networks=[network],
        ):
            best = record.weights if record.improved or best is None else best
        network.load_state_dict(best)
        self._network = network.eval()
        return self

    def scores(self, images: Images) -> np.ndarray:
        """Return the log-likelihood ratio of images (N, ...), (N,).

        Raises ValueError before `fit`, and for images of another shape.
        """
        import torch

        if self._network is None:
            raise ValueError("CNNObserver.scores: call fit(absent, present) first")
        stacked = _stacked(images)
        if stacked.shape[1:] != self._shape:
            raise ValueError(f"CNNObserver.scores: it was fitted to images {self._shape}, got {stacked.shape[1:]}")
        with torch.no_grad():
            parts = [self._network(self._tensor(stacked[i : i + 1000])) for i in range(0, len(stacked), 1000)]
        return np.concatenate([np.asarray(part, float) for part in parts]) if parts else np.zeros(0)

    def _tensor(self, images: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(((images - self._mean) / self._sd).astype(np.float32))


def _balanced(classes: Sequence[Any], size: int, seed: int) -> Callable[[int], Iterable[Any]]:
    """Epoch -> batches with half of each class, in an order that the epoch decides; the larger class is seen once."""
    import torch

    half = max(1, size // 2)
    n = max(len(images) for images in classes)

    def batches(epoch: int) -> Iterable[Any]:
        random = np.random.default_rng([seed, epoch])
        orders = [np.resize(random.permutation(len(images)), n) for images in classes]
        for start in range(0, n, half):
            chosen = [images[order[start : start + half]] for images, order in zip(classes, orders)]
            labels = [torch.full((len(images),), float(k)) for k, images in enumerate(chosen)]
            yield torch.cat(chosen), torch.cat(labels)

    return batches


def _stacked(images: Images) -> np.ndarray:
    values = to_numpy(images) if hasattr(images, "shape") else np.stack([to_numpy(one) for one in images])
    if values.ndim < 3:
        raise ValueError(f"CNNObserver takes images (N, x, y) or (N, x, y, z), got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("CNNObserver: images hold NaN or infinite values")
    return values
