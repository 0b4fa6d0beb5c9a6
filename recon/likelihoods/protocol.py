"""What engines ask of a likelihood, and the questions they put to objects of any class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Protocol, Self, TypeGuard

from emrecon.projectors import AcquisitionModel
from emrecon.projectors.core.arrays import Array, array_namespace, as_real, like


class Likelihood(Protocol):
    """A function f(x) of images (..., x, y, z) that says how badly they explain data; engines minimise it.

    These four are enough for every engine that takes gradients, and for `osem`, whose step is then that of
    `recon.em_step` for any likelihood. A class of your own needs no base class::

        class Gaussian:                                     # f(x) = |A x - y|^2 / 2
            def __init__(self, y, A):
                self.y, self.A = y, A
                self.sensitivity = A.T(A(A.ones_image()))
            def value(self, x):
                return ((self.A(x) - self.y) ** 2).sum() / 2
            def gradient(self, x):
                return self.A.T(self.A(x) - self.y)
            def subset(self, k, n):
                return Gaussian(self.y[k::n], self.A.subset(k, n))

    What else an object has is used where it helps: `value_and_gradient(x)` saves a projection, `sensitivity_like(x)`
    follows the array, `start_image()` or `ones_image()` is the default start, `hessian_vector(x, v)` serves
    `recon.spatial_weights` and maps of uncertainty, `image_shape` is checked against the start, `is_empty` tells of a
    subset without data, `seen_like(x)` of the voxels that are seen (default: those with a sensitivity above 0), and
    `fisher_vector(x, v)` is the covariance of the gradient over the noise of the data, applied to v, where that is not
    the Hessian.
    """

    def value(self, x: Array) -> Array:
        """Return f(x), one number for each item of a batch."""
        ...

    def gradient(self, x: Array) -> Array:
        """Return the gradient at x, of the shape of x."""
        ...

    @property
    def sensitivity(self) -> Array:
        """s > 0, an image that makes x / s the scale of a step; 0 where nothing is seen. For Poisson data A'1."""
        ...

    def subset(self, k: int, n: int) -> Self:
        """Return the likelihood of the k-th of n parts of the data; all n add up to the whole."""
        ...


class CountsLikelihood(Likelihood, Protocol):
    """A likelihood of Poisson counts, which expectation maximisation and primal-dual engines know from inside.

    `recon.PoissonLikelihood` and `recon.ListmodeLikelihood` are two of them.
    """

    @property
    def model(self) -> AcquisitionModel:
        """The `AcquisitionModel` that expects ybar."""
        ...

    @property
    def sensitivity_has_factors(self) -> bool:
        """Whether the sensitivity is A'1 of the model; otherwise it is given apart, as for events."""
        ...

    def ratio(self, x: Array) -> Array:
        """Return y / ybar of every bin, 0 where nothing is measured or expected."""
        ...

    def ratio_and_slope(self, x: Array) -> tuple[Array, Array]:
        """Return y / ybar, and y / ybar^2, its derivative by -ybar."""
        ...

    def counts_like(self, ybar: Array) -> Array:
        """Return the counts y of every bin, in the library, device and precision of ybar."""
        ...

    def converted(self, convert: Callable[[Array], Array]) -> Self:
        """Return the likelihood with its own arrays as `convert` makes them, on another device, say."""
        ...

    def total_counts(self, x: Array) -> Array | int:
        """Return the sum of the counts of each item, (..., 1, 1, 1), like x."""
        ...

    def sensitivity_like(self, x: Array) -> Array:
        """Return the sensitivity in the library, device and precision of x."""
        ...


_NEEDED = ("value", "gradient", "sensitivity", "subset")
_COUNTS = ("model", "ratio", "counts_like", "total_counts", "sensitivity_like", "sensitivity_has_factors")


def require_likelihood(f: object, who: str = "this engine") -> None:
    """Raise TypeError that names what is missing where `f` cannot be minimised by engines that take gradients."""
    _require(f, _NEEDED, f"{who} takes a likelihood, or a list of them,", "see recon.Likelihood")


def require_counts(f: object, who: str) -> None:
    """Raise TypeError that names what is missing where `f` is not a likelihood of Poisson counts."""
    _require(f, _COUNTS, f"{who} takes a likelihood of Poisson counts, or a list of them,", "use osem, svrg or lbfgsb?")


def _require(f: object, names: tuple[str, ...], expects: str, advice: str) -> None:
    missing = [name for name in names if not hasattr(f, name)]
    if missing:
        raise TypeError(f"{expects} and {type(f).__name__} has no {', '.join(missing)}; {advice}")


def knows_counts(f: Any) -> TypeGuard[CountsLikelihood]:
    """Whether `f` is a likelihood of Poisson counts with a model that expects them."""
    return hasattr(f, "ratio") and hasattr(f, "model")


def sensitivity_like(f: Likelihood, x: Array) -> Array:
    """Return the sensitivity of f in the library, device and precision of x."""
    own = getattr(f, "sensitivity_like", None)
    sensitivity: Array = own(x) if own is not None else like(f.sensitivity, x)
    return sensitivity


def seen_voxels(likelihood: Any) -> Array:
    """Return which voxels the data see, as booleans (x, y, z), or (B, x, y, z) where items of a batch see others.

    Engines keep all other voxels at 0, whatever the start and the prior say.

    Args:
        likelihood : any `Likelihood`, a list of them (what any of them sees), an `Objective` or a `Problem`.
    """
    whole = getattr(likelihood, "likelihood", likelihood)
    parts = getattr(whole, "parts", whole)
    listed = list(parts) if isinstance(parts, Sequence) else [parts]
    return seen_like(listed, as_real(listed[0].sensitivity))


def seen_like(parts: Sequence[Likelihood], x: Array) -> Array:
    """Return the booleans of `seen_voxels` in the library and on the device of x."""
    return reduce(lambda a, b: a | b, (_seen_by(part, x) for part in parts))


def only_seen(x: Array, parts: Sequence[Likelihood]) -> Array:
    """Return an image with 0 in the voxels that none of the parts sees."""
    xp = array_namespace(x)
    return xp.where(seen_like(parts, x), x, xp.zeros_like(x))


def _seen_by(part: Likelihood, x: Array) -> Array:
    own = getattr(part, "seen_like", None)
    seen: Array = sensitivity_like(part, x) > 0 if own is None else own(x)
    return seen


def value_and_gradient(f: Likelihood, x: Array) -> tuple[Array, Array]:
    """Return f(x) and its gradient, by one projection forth and back where f can."""
    own = getattr(f, "value_and_gradient", None)
    both: tuple[Array, Array] = own(x) if own is not None else (f.value(x), f.gradient(x))
    return both


def image_shape(f: Likelihood) -> tuple[int, ...]:
    """Return the shape of the images that f takes, without leading axes."""
    shape = getattr(f, "image_shape", None)
    return tuple(f.sensitivity.shape if shape is None else shape)


def start_image(f: Likelihood) -> Array:
    """Return the image to start from where none is given: f's own, or ones where the sensitivity is not 0."""
    for name in ("start_image", "ones_image"):
        if hasattr(f, name):
            image: Array = getattr(f, name)()
            return image
    sensitivity = as_real(f.sensitivity)
    xp = array_namespace(sensitivity)
    return xp.where(sensitivity > 0, xp.ones_like(sensitivity), xp.zeros_like(sensitivity))
