"""Methods that hold networks: trained ones from a file of weights, and deep image priors fitted to the scan itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array
from emrecon.projectors.core.progress import stage
from emrecon.recon import CountsLikelihood, Iterate, Likelihood
from emrecon.recon.likelihoods import knows_counts, require_counts, start_image
from emrecon.recon.methods import matching

from . import options

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from emrecon.unrolled.training.weights import Card

NETWORKS = {
    "mapem-net": "mapem_net",
    "fbsem-net": "fbsem_net",
    "bcd-net": "bcd_net",
    "em-net": "em_net",
    "osem-varnet": "osem_varnet",
    "transem": "transem",
    "lpd": "learned_primal_dual",
    "post-unet": "post_unet",
    "spectnet": "spectnet",
    "deeppet": "deeppet",
    "automap": "automap",
    "radon-inversion": "radon_inversion",
    "back-projection": "back_projection_net",
    "sinogram-net": "sinogram_net",
    "fusion": "fusion_net",
    "dual-tracer": "dual_tracer_net",
}
"""The presets of `unrolled.methods.PRESETS`, written down for machines without torch."""
DEEP_PRIORS = {"dip-recon": 100, "dip-ot": 60}
"""Deep image priors, and how many iterations they make unless told otherwise."""
DEEP_NETWORKS = ("unet", "chain")
"""The networks that a deep image prior can have."""
METHODS = (*NETWORKS, *DEEP_PRIORS)
PRETRAINED = ("fbsem-net-brain-pet", "fbsem-net-brain-spect", "mapem-net-brain-pet", "mapem-net-brain-spect")
"""`unrolled.pretrained_names()`, written down for machines without torch."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with its weights, in eval mode, and the card that came with them.

    path : the file of weights.  name : the file's name, or that of weights that come with emrecon.
    """

    path: Path
    name: str
    network: Module
    card: Card

    @property
    def dimensions(self) -> int:
        """2 for a network of slices, 3 of volumes."""
        from emrecon.unrolled.networks.reconstructor import dimensions_of

        return dimensions_of(self.network)

    @property
    def guide_channels(self) -> int:
        """How many guides it takes."""
        from emrecon.unrolled.networks.reconstructor import guides_of

        return guides_of(self.network)


@dataclass(frozen=True, eq=False)
class Engine:
    """A learned method on one scan, with torch; iterates from `at` on."""

    name: str
    parts: list[CountsLikelihood]
    guide: Array | None
    at: Iterate
    trained: Trained | None = None
    network: str | None = None

    def iterates(self) -> Iterator[Iterate]:
        """Return the iterates; a trained network has one, its image."""
        if self.trained is not None:
            return iter([Iterate(1, self._applied(self.trained.network))])
        start = self.at if self.at.state else None
        dimensions = 2 if self.at.image.shape[-1] == 1 else 3
        channels = 1 if self.guide is None or self.guide.ndim == 3 else len(self.guide)
        prior = _deep_prior(self.name, self.network, dimensions, channels)
        made: Iterator[Iterate] = prior.iterates(self.parts, start, guide=self.guide)
        return made

    def objective(self, x: Array) -> float:
        """Return the negative log-likelihood: what a network has learned to minimise is not known."""
        return float(sum(part.value(x) for part in self.parts))

    def going_on_from(self, at: Iterate) -> Engine:
        """Return the same engine, to go on from an iterate of tensors."""
        return replace(self, at=at)

    def _applied(self, network: Module) -> Array:
        import torch

        guide = {} if self.guide is None else {"guide": self.guide}
        given = self.parts if len(self.parts) > 1 else self.parts[0]
        with stage("network"), torch.no_grad():
            return network(given, **guide)

    def __str__(self) -> str:
        if self.trained is None:
            subsets, seen = _number(len(self.parts), "subset"), "noise" if self.guide is None else "guided"
            return f"{self.name}, {self.network}, {subsets}, {seen}"
        card = self.trained.card
        return f"{self.name} of {self.trained.name}, {card.parameters} parameters"


def registry() -> dict[str, Callable[..., Module]]:
    """Return what builds each network; raises ImportError that names the extra where torch is missing."""
    require("torch")
    presets: dict[str, Callable[..., Module]] = importlib.import_module("emrecon.unrolled.methods").PRESETS
    return presets


def options_of(build: Callable[..., Module]) -> set[str]:
    """Return the keyword arguments that a preset takes, with those that it hands on."""
    found: set[str] = importlib.import_module("emrecon.unrolled.methods").preset_options(build)
    return found


def n_subsets(network: Module) -> int:
    """Return the subsets of views that a network passes over in a module."""
    return int(getattr(network, "subsets", None) or 1)


def load(method: str, weights: Path | None, n_guides: int) -> Trained | None:
    """Return the network of a method with its weights, None for methods without training.

    weights : a file, or one of the names `PRETRAINED`; a file of that name comes first.
    n_guides : how many guide images there are.

    Raises typer.BadParameter, which names the option, for options that do not go together, ValueError for unusable
    files, ImportError that names the extra where torch or safetensors is missing.
    """
    if method not in NETWORKS:
        return None
    if weights is None:
        own = [name for name in PRETRAINED if name.startswith(method)]
        raise typer.BadParameter(
            f"{method} needs a file of weights, .safetensors, such as `emrecon train` writes"
            + (f", or those that come with emrecon: {', '.join(own)}" if own else ""),
            param_hint="--weights",
        )
    if method == "dual-tracer":
        raise typer.BadParameter(
            "dual-tracer takes the frames of a scan together, and this command reconstructs them one by one; load the "
            "network in Python (unrolled.load_network) and call it with the likelihood of all frames",
            param_hint="--method",
        )
    known = registry()
    require("safetensors.torch")
    files = importlib.import_module("emrecon.unrolled.training.weights")
    path = _weights_file(weights)
    card = files.read_card(path)
    if card.architecture != method:
        does = f"; use --method {card.architecture}" if card.architecture in known else ""
        raise typer.BadParameter(
            f"{weights} holds weights of {card.architecture!r}, not of {method}{does}", param_hint="--weights"
        )
    network, card = files.load_network(path, known)
    trained = Trained(path, weights.name, network, card)
    if n_guides and not trained.guide_channels:
        raise typer.BadParameter(f"{weights} was trained without a guide, and does not use one", param_hint="--guide")
    if n_guides != trained.guide_channels:
        message = f"{weights} was trained with {_guide_names(trained)}, got {n_guides or 'none'}"
        raise typer.BadParameter(message, param_hint="--guide")
    return trained


def check(method: str, trained: Trained | None, grid: ImageGrid) -> None:
    """Refuse a network of volumes for an image of one slice."""
    if trained is not None and trained.dimensions == 3 and grid.shape[2] == 1:
        raise ValueError(f"{trained.name} holds a {method} of volumes (3-D), and this image has one slice")


def notes(trained: Trained | None, grid: ImageGrid, kind: str) -> list[str]:
    """Return warnings where a network was trained on other voxels, another field of view or other scans.

    kind : "PET" or "SPECT".  As far as the card tells.
    """
    simulation = trained.card.data if trained is not None else None
    for key in ("training", "simulation"):
        simulation = simulation.get(key) if isinstance(simulation, dict) else None
    if trained is None:
        return []
    several = simulation if isinstance(simulation, list) else [simulation]  # of sets that were trained on together
    told = [_unlike(trained, one, grid, kind) for one in several if isinstance(one, dict)]
    return min(told, key=len, default=[])


def _unlike(trained: Trained, simulation: dict[str, Any], grid: ImageGrid, kind: str) -> list[str]:
    """In what a scan is unlike those of a simulation."""
    found = []
    taught = [name for name in ("PET", "SPECT") if simulation.get(name.lower())]
    if taught and kind not in taught:
        found.append(f"{trained.name} was trained on {taught[0]}, and this is {kind}")
    size = simulation["grid"].get("voxel_size") if isinstance(simulation.get("grid"), dict) else None
    if isinstance(size, list) and not np.allclose(size[:2], grid.voxel_size[:2], rtol=0.05):
        there, here = (" x ".join(f"{edge:.3g}" for edge in sizes) for sizes in (size, grid.voxel_size))
        found.append(f"{trained.name} was trained on voxels of {there} mm, and these have {here} mm")
    shape = simulation["grid"].get("shape") if isinstance(simulation.get("grid"), dict) else None
    if isinstance(size, list) and isinstance(shape, list):
        field = [n * edge for n, edge in zip(shape[:2], size[:2])]
        own = [n * edge for n, edge in zip(grid.shape[:2], grid.voxel_size[:2])]
        if not np.allclose(field, own, rtol=0.15):
            there, here = (" x ".join(f"{edge:.0f}" for edge in edges) for edges in (field, own))
            found.append(
                f"{trained.name} was trained on images of {there} mm, and these have {here} mm; the scale that it "
                "gives an image depends on the field of view"
            )
    return found


def scan_notes(engine: object, grid: ImageGrid) -> list[str]:
    """Return a warning for everything measured of the scan that a trained network's card does not know of.

    And which of its views a network of data predicts.
    """
    if not isinstance(engine, Engine) or engine.trained is None:
        return []
    return [*_views_notes(engine, engine.trained), *_card_notes(engine, engine.trained, grid)]


def _views_notes(engine: Engine, trained: Trained) -> list[str]:
    """How many views of a scan a network of data predicts."""
    scan = getattr(trained.network, "scan", None)
    views = engine.parts[0].model.projector.out_shape[0]
    if not hasattr(trained.network, "completion") or scan is None or len(engine.parts) > 1 or views >= scan["views"]:
        return []
    return [f"{trained.name} predicts {scan['views'] - views} of {scan['views']} views; {views} are measured"]


def _card_notes(engine: Engine, trained: Trained, grid: ImageGrid) -> list[str]:
    if not all(part.sensitivity_has_factors for part in engine.parts):
        return []  # of single events no background of bins is known
    from emrecon.unrolled.training import domain

    card = trained.card
    if not isinstance(card.data, dict) or domain.STATISTICS not in card.data:
        return []
    with stage("measuring the scan"):
        found = domain.scan_statistics(engine.parts, engine.guide, voxel_size=grid.voxel_size)
    return domain.scan_notes(card, found)


def fit_notes(engine: object, image: np.ndarray) -> list[str]:
    """Return a warning where a trained network's image explains the counts worse than its card lets expect."""
    if not isinstance(engine, Engine) or engine.trained is None:
        return []
    import torch

    from emrecon.unrolled.training.fit import fit_note

    shown = torch.as_tensor(image, dtype=torch.float32, device=engine.at.image.device)
    found = fit_note(engine.trained.card, shown, engine.parts)
    return [] if found is None else [found]


def torch_device(device: str) -> torch.device:
    """Return torch's device; raises ImportError where torch is missing, or sees no GPU."""
    require("torch")
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ImportError("torch sees no CUDA device; leave out --device cuda, or install a torch that is built for it")
    return torch.device(device)


def moved(parts: Sequence[Likelihood], device: torch.device) -> list[CountsLikelihood]:
    """Return the likelihoods with torch data on a device, float32; raises TypeError for those of other data."""
    import torch

    def tensor(values: Array) -> Array:
        return torch.from_numpy(np.array(values, np.float32)).to(device)

    for part in parts:
        require_counts(part, "a network")
    return [part.converted(tensor) for part in parts if knows_counts(part)]


def prepare(
    method: str,
    trained: Trained | None,
    parts: Sequence[Likelihood],
    guide: np.ndarray | None,
    device: torch.device,
    network: str | None = None,
) -> Engine:
    """Return the method on a scan, at its beginning.

    network : of a deep image prior, one of `DEEP_NETWORKS`.
    """
    import torch

    own = moved(parts, device)
    shown = None if guide is None else torch.from_numpy(np.array(guide, np.float32)).to(device)
    ones = start_image(own[0])
    if trained is not None:
        trained.network.to(device)
    return Engine(method, own, shown, Iterate(0, ones), trained, network)


def deep_network(method: str, network: str | None) -> str | None:
    """Return the network of a deep image prior, the U-Net unless told, None for other methods."""
    if method not in DEEP_PRIORS:
        return None
    with options.named_by_option():
        return DEEP_NETWORKS[0] if network is None else matching(network, DEEP_NETWORKS, "network")


def _deep_prior(name: str, network: str | None, dimensions: int, channels: int) -> Any:
    """A deep image prior as published, with its U-Net, or with a chain and fits that suit it."""
    unrolled = importlib.import_module("emrecon.unrolled")
    if network != "chain":
        return unrolled.DIPRecon() if name == "dip-recon" else unrolled.dip_ot()
    if name == "dip-recon":
        chain, fit = unrolled.dip_chain(dimensions, channels, norm="none"), unrolled.Fit("adam", 40, 2e-3)
        return unrolled.DIPRecon(chain, rho=0.1, em_steps=1, fit=fit)
    return unrolled.dip_ot(unrolled.dip_chain(dimensions, channels), fit=unrolled.Fit("adam", 10, 5e-3))


def _weights_file(weights: Path) -> Path:
    """The file of weights that is meant, by path or by name; raises typer.BadParameter where there is no such one."""
    if weights.is_file() or weights.suffix:
        return weights
    shown = f"a file of weights, or one of those that come with emrecon: {', '.join(PRETRAINED)}"
    with options.named_by_option():
        name = matching(str(weights), PRETRAINED, "weights", shown=shown)
    found: Path = importlib.import_module("emrecon.unrolled.training.shipped").pretrained_path(name)
    return found


def _guide_names(trained: Trained) -> str:
    n, data = trained.guide_channels, trained.card.data
    shown = data.get("guide") if isinstance(data, dict) else None
    names = shown if isinstance(shown, list) and len(shown) == n else [shown] * n
    said = ", then ".join("the attenuation map" if name == "mu" else "such as MR or CT" for name in names)
    return f"{_number(n, 'guide image')} ({said})"


def _number(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n > 1)}"


def require(module: str) -> None:
    """Import a package that networks need; raises ImportError that names the extra where it is missing."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f'networks need {package}: pip install "emrecon[torch]" ({error})') from error
