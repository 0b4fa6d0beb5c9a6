"""The engine that `emrecon reconstruct` runs: a method by name, or one that holds a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import typer

from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.recon import METHODS, Checkpoint, Iterate, JointOptions, MethodEngine, Problem, run
from emrecon.recon.methods import Method, choose, matching, prepare
from emrecon.recon.problem import digest
from emrecon.recon.running import Callback

from .. import learned, options
from .settings import MethodTable, Settings
from .uses import check_method


class Engine(Protocol):
    """What the command runs: where it stands, its iterates from there on, and what they minimise."""

    @property
    def at(self) -> Iterate: ...
    def iterates(self) -> Iterator[Iterate]: ...
    def objective(self, x: Array) -> Array | float: ...


@dataclass(frozen=True, eq=False)
class Choice:
    """A method as it was asked for, with its network where it has one, and how long it runs.

    method : by name, with its prior, kernel and order.  trained : a network with its weights.
    deep : the network of a deep image prior.
    """

    method: Method
    trained: learned.Trained | None
    deep: str | None
    subsets: int
    iterations: int

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.method.name

    @property
    def is_learned(self) -> bool:
        """Whether it holds a network and runs on torch."""
        return self.name in learned.METHODS

    @property
    def one_by_one(self) -> bool:
        """Whether frames or gates are reconstructed one by one, not in one batch: networks take one scan."""
        return self.is_learned or self.method.takes_one_image

    def done(self, settings: Settings) -> Settings:
        """Return the settings with the names and numbers that were used."""
        used: dict[str, str | int] = {"method": self.name}
        if self.trained is None:
            used |= {"subsets": self.subsets, "iterations": self.iterations}
        return settings.model_copy(update={"method": settings.method.model_copy(update=used)})

    def signature(self, problem: Problem, guide: np.ndarray | None, joint: JointOptions | None = None) -> str:
        """Return what must be the same when a run goes on."""
        deep = f" {self.deep}" if self.deep else ""
        plain = f"{problem.signature}, {self.method}{deep}, guide {digest(guide)}"
        if joint is None:
            return plain
        region = None if joint.known is None else joint.known.region
        return f"{plain}, {joint.known}, {joint.penalty!r}, regions {digest(region, joint.body)}"

    def check_device(self, device: str) -> None:
        """Raise typer.BadParameter for an unknown device, ImportError for one that does not work here."""
        if device not in ("cpu", "cuda"):
            raise typer.BadParameter(f'must be "cpu" or "cuda", got {device!r}', param_hint="--device")
        try:
            to_device(np.zeros(1, np.float32), device)
        except RuntimeError as error:  # CuPy's: no driver, no device
            raise ImportError(f"CuPy cannot use a CUDA device here: {error}; leave out --device cuda") from error
        if self.is_learned:
            learned.torch_device(device)

    def beginning(self, engine: Engine) -> list[str]:
        """Return what to say about where the engine starts."""
        if engine.at.iteration:
            return [f"going on after iteration {engine.at.iteration}"]
        if self.is_learned or not METHODS[self.name].first_pass:
            return []
        n = engine.problem.n_subsets if isinstance(engine, MethodEngine) else self.subsets
        return [f"starting from one pass of OSEM with {n} subset{'s' * (n > 1)}"]

    def prepare(
        self,
        problem: Problem,
        guide: np.ndarray | None,
        device: str,
        keeper: Checkpoint | None,
        joint: JointOptions | None = None,
    ) -> Engine:
        """Return the engine on a problem, to go on from the checkpoint where there is one."""
        if self.is_learned:
            on, name = learned.torch_device(device), self.name
            own = learned.prepare(name, self.trained, problem.parts, guide, on, self.deep)
            saved = _saved(keeper, self.iterations, own.at.image)
            return own if saved is None else own.going_on_from(saved)
        saved = _moved(_saved(keeper, self.iterations), device)
        return prepare(self.method, problem, guide, to_device(problem.start, device), saved, joint)


def choose_method(settings: Settings) -> Choice:
    """Return the method that the options ask for; raises typer.BadParameter that names the option that is wrong."""
    table = settings.method
    with options.named_by_option():
        name = matching(table.method, (*METHODS, *learned.METHODS), "method")
        check_method(settings, name)
        method = Method(name) if name in learned.METHODS else _plain_method(name, table)
    trained = learned.load(name, table.weights, len(table.guide))
    deep = learned.deep_network(name, table.network)
    if trained is not None:
        return Choice(method, trained, None, 1, 1)  # the network divides the scan itself
    usual = 1 if deep else 8
    return Choice(method, None, deep, table.subsets or usual, table.iterations or learned.DEEP_PRIORS.get(name, 4))


def iterate(engine: Engine, iterations: int, callbacks: Sequence[Callback]) -> Iterate:
    """Go on until `iterations` are done in all; return the last iterate, with its image on the host."""
    last = engine.at
    if last.iteration < iterations:
        seen: deque[Iterate] = deque(maxlen=1)
        run(engine.iterates(), iterations - last.iteration, seen.append, *callbacks)
        last = seen[0]
    return last._replace(image=to_numpy(last.image))


def to_device(image: Array, device: str) -> Array:
    """Return an array on the CPU as it is, or on the GPU as CuPy's."""
    if device == "cpu":
        return image
    from emrecon.projectors.core.cuda import import_cupy

    return import_cupy().asarray(image)


def _plain_method(name: str, table: MethodTable) -> Method:
    return choose(
        name,
        table.prior,
        order=table.order,
        n_guides=len(table.guide),
        neighbours=table.neighbours,
        kappa=table.kappa,
        kernel=table.kernel,
    )


def _saved(keeper: Checkpoint | None, iterations: int, like: Array | None = None) -> Iterate | None:
    """Where an earlier run got to, unless that is further than this one is to go; arrays are those of `like`."""
    saved = keeper.load(like) if keeper else None
    if keeper and saved and saved.iteration > iterations:
        message = f"{keeper.path} has {saved.iteration} iterations behind it already; ask for more, or use another file"
        raise typer.BadParameter(message, param_hint="--iterations")
    return saved


def _moved(at: Iterate | None, device: str) -> Iterate | None:
    """A saved iterate with all its arrays on the device; what an engine counts stays on the host."""
    if at is None:
        return None
    state = {name: to_device(value, device) if value.ndim else value for name, value in at.state.items()}
    return Iterate(at.iteration, to_device(at.image, device), state)
