"""The options of `emrecon reconstruct` as typed tables: one for each panel of its help, and of its TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, FiniteFloat

from emrecon.sims.recipes import Table

Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
NotNegative = Annotated[FiniteFloat, Field(ge=0)]


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


class Panel(Table):
    """A table whose keys are the names of options, with hyphens or underscores."""

    model_config = ConfigDict(alias_generator=_hyphens, populate_by_name=True)


class DataTable(Panel):
    """What was measured."""

    projections: Path | None = None
    header: tuple[str, ...] = ()
    max_ring_difference: Annotated[int, Field(ge=0)] | None = None
    beds: Literal["stitched", "joint"] | None = None
    frames: Literal["each", "summed"] | None = None
    gates: Literal["each", "summed"] | None = None

    @property
    def path(self) -> Path:
        """The file of projections or events."""
        if self.projections is None:
            raise ValueError("no file of projections is given")
        return self.projections


class PhysicsTable(Panel):
    """What is modelled, and on which grid."""

    mu: Path | None = None
    mu_series: str | None = None
    mu_unit: Literal["1/cm", "1/mm", "hu"] | None = None
    mu_kvp: Positive | None = None
    mu_shift: str | None = None
    mu_remove_bed: bool = False
    mu_cylinder: str | None = None
    collimator: str | None = None
    response: str | None = None
    energy: Positive | None = None
    intrinsic: NotNegative | None = None
    background: NotNegative | None = None
    norm: Path | None = None
    multiplicative: Path | None = None
    additive: Path | None = None
    randoms: Path | None = None
    scatter: str | None = None
    peak: str | None = None
    scatter_smoothing: NotNegative | None = None
    dew_k: str | None = None
    energy_resolution: Annotated[FiniteFloat, Field(gt=0, lt=1)] | None = None
    psf: NotNegative | None = None
    voxel: Positive | None = None


class QuantityTable(Panel):
    """What the numbers of the image are."""

    unit: str | None = None
    calibration: Positive | None = None
    calibration_phantom: str | None = None
    dead_time: str | None = None
    view_decay: bool | None = None
    timed_factors: bool | None = None
    decay_to: str | None = None
    started_at: str | None = None
    injected_at: str | None = None
    injected: Positive | None = None
    weight: Positive | None = None


class MethodTable(Panel):
    """How the image is found."""

    method: str = "osem"
    prior: str | None = None
    guide: tuple[Path, ...] = ()
    neighbours: int | None = None
    kappa: bool = False
    kernel: str | None = None
    order: str | None = None
    subsets: Count | None = None
    iterations: Count | None = None
    tolerance: NotNegative | None = None
    weights: Path | None = None
    network: str | None = None
    known: str | None = None
    known_region: Path | None = None
    body: Path | None = None
    mu_prior: str | None = None
    without_tof: bool = False
    filter: Positive | None = None


class OutputTable(Panel):
    """Where results go."""

    out: Path = Path("image.nii.gz")
    picture: Path | None = None
    mu_picture: Path | None = None
    uncertainty: Path | None = None
    mu_out: Path | None = None
    report: Path | None = None
    masks: tuple[Path, ...] = ()
    log: Path | None = None
    checkpoint: Path | None = None


class RunTable(Panel):
    """Where it runs, and what it prints."""

    device: str = "cpu"
    quiet: bool = False
    scratch: Path | None = None
    rank_timeout: Annotated[FiniteFloat, Field(ge=1)] | None = None


class Settings(Table):
    """All options of a run."""

    data: DataTable = DataTable()
    physics: PhysicsTable = PhysicsTable()
    quantity: QuantityTable = QuantityTable()
    method: MethodTable = MethodTable()
    output: OutputTable = OutputTable()
    run: RunTable = RunTable()
