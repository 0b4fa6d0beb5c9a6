"""The tables of a training's recipe, as its TOML file has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field as Limit

from emrecon.sims.recipes import Table

Positive = Annotated[float, Limit(gt=0)]
Fraction = Annotated[float, Limit(ge=0, lt=1)]
Count = Annotated[int, Limit(ge=1, le=10**9)]
Whole = Annotated[int, Limit(ge=0)]
Level = Annotated[float, Limit(gt=0, le=1)]
Share = Annotated[float, Limit(gt=0, lt=1)]
Guide = Literal["guide", "mu"]


class DataTable(Table):
    """Where samples come from, and what the network sees of them.

    recipe : of a simulation, by name or as a file (beside this one); samples are simulated when they are needed. A
        list is of several sets, such as tracers or scanners, whose batches take turns; a recipe that is named again
        has other phantoms each time.
    folder : a data set that `emrecon simulate` has written, instead of a recipe.
    n : how many samples are simulated (default: the recipe's); a list for a list of recipes.
    level : of counts, one of the recipe's levels (default: the lowest); a list for a list of recipes.
    target : "truth" in kBq/mL, or "reconstruction", the recipe's image at its highest level.
    guide : what the network sees beside the image: the MR-like "guide", "mu", or a list of both, in its order.
    noise : False shows the network expected counts instead of Poisson ones, as SPECTnet was trained.
    views : of the SPECT camera, over the same arc, instead of the recipe's.
    keep : whether simulated samples are kept beside the weights, so that each is made once (default: volumes).
    floor : the least expected background of a bin, as a fraction of the mean counts per bin; it keeps the
        likelihood finite where the model expects no counts.
    """

    recipe: str | tuple[str, ...] | None = None
    folder: str | None = None
    n: Count | tuple[Count, ...] | None = None
    level: Level | tuple[Level, ...] | None = None
    target: Literal["truth", "reconstruction"] = "truth"
    guide: Guide | tuple[Guide, ...] | None = None
    batch_size: Count = 8
    noise: bool = True
    views: Count | None = None
    keep: bool | None = None
    floor: Fraction = 1e-3

    @property
    def guides(self) -> tuple[str, ...]:
        """What goes into the network beside the image, in its order."""
        return (self.guide,) if isinstance(self.guide, str) else self.guide or ()

    def each(self) -> list[DataTable]:
        """Return a table for each of several recipes; this one alone where there is one.

        Raises ValueError for lists that do not go together.
        """
        if not isinstance(self.recipe, tuple):
            for name in ("n", "level"):
                if isinstance(getattr(self, name), tuple):
                    raise ValueError(f"{name} is a list, and recipe is not; give as many recipes")
            return [self]
        if not self.recipe:
            raise ValueError("recipe is an empty list")
        found = []
        for k, recipe in enumerate(self.recipe):
            own: dict[str, Any] = {"recipe": recipe}
            for name in ("n", "level"):
                values = getattr(self, name)
                if isinstance(values, tuple) and len(values) != len(self.recipe):
                    raise ValueError(f"{name} lists {len(values)} numbers for {len(self.recipe)} recipes")
                own[name] = values[k] if isinstance(values, tuple) else values
            found.append(self.model_copy(update=own))
        return found


class NetworkTable(Table):
    """A network by name and its options; options that are left out have the values of the network's preset."""

    name: str
    dimensions: Literal[2, 3] | None = None
    n_modules: Count | None = None
    em_steps: Count | None = None
    subsets: Count | None = None
    width: Count | None = None
    depth: Count | None = None
    heads: Count | None = None
    dropout: Fraction | None = None
    channels: Count | None = None
    alpha: float | tuple[float, float] | None = None
    norm: Literal["batch", "instance", "group", "none"] | None = None
    initial: tuple[Whole, Count] | None = None
    tied: bool | None = None
    dual: bool | None = None
    grad: Literal["full", "checkpoint", "detach"] | None = None
    initial_beta: Positive | None = None
    beta_of_each: bool | None = None
    n_iterations: Count | None = None
    n_primal: Count | None = None
    n_dual: Count | None = None
    small: bool | None = None
    size: Count | None = None
    code: Count | None = None
    hidden: Count | None = None
    attenuation: Literal["projector", "guide"] | bool | None = None
    views: Count | None = None
    bins: Count | None = None
    patch: Count | None = None
    margin: Whole | None = None
    maps: Count | None = None
    start: Literal["transpose", "fbp", "osem"] | None = None
    n_slices: Count | None = None
    network: Literal["unet", "dilated", "chain", "lu-net"] | None = None
    levels: Count | None = None
    keep_measured: bool | None = None
    passes: Count | None = None
    kind: Literal["smoothed", "betas"] | None = None


class LossTable(Table):
    """What is minimised; "n2n" needs no target: the image from one part of the counts predicts the other part.

    share : for "n2n", the probability that a count goes to the part that the network sees; or [low, high], of which
        each step draws one, for a network that knows scans of all these counts.
    hide : for "completion", of networks of data: "views" but every n-th; an "arc" of views; neighbouring "bins", a gap
        or a failed block; PET "crystals", a block or an open ring; "coarse" bins, of which it makes fine ones.
    every : of "views", the n-th are measured, and 1 hides counts instead, with `share`, to denoise; of "coarse", n bins
        are one.
    n_hidden : views of an "arc", "bins" or "crystals" that are missing.
    perceptual, adversarial, penalty : for "wasserstein", DPIR-Net's: weights of the features and of the critic's
        opinion beside the squared error, and of the critic's gradient.
    critic_rate : the critic's learning rate over that of the network.
    """

    kind: Literal["relative-mse", "mse", "l1", "ssim", "n2n", "completion", "wasserstein"] = "relative-mse"
    share: Share | tuple[Share, Share] = 0.5
    hide: Literal["views", "arc", "bins", "crystals", "coarse"] = "views"
    every: Count = 2
    n_hidden: Count | None = None
    perceptual: Annotated[float, Limit(ge=0)] = 0.1
    adversarial: Annotated[float, Limit(ge=0)] = 0.01
    penalty: Annotated[float, Limit(ge=0)] = 10.0
    critic_rate: Positive = 1.0

    @property
    def hides(self) -> bool:
        """Whether a network of data sees only a part of the bins, not of the counts."""
        return self.kind == "completion" and (self.hide != "views" or self.every > 1)


class TrainingTable(Table):
    """The loop, by Adam; see `unrolled.train.Settings`.

    schedule : of the learning rate after `warmup` steps, "cosine" down to 0, "steps" that multiply it by `factor` at
        the `milestones`, or "constant".
    first_stages : of SPECTnet: steps of the autoencoder and of data to its codes, before `steps` of both together.
    weight_decay : the factor of the squared weights in the loss, of Adam.
    n_validation : samples of each validation, from the front of that part of the set; the test has as many.
    """

    steps: Count
    learning_rate: Positive = 1e-3
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    warmup: Whole = 0
    milestones: tuple[Count, ...] = ()
    factor: Positive = 0.1
    clip: Positive | None = 1.0
    ema: Fraction | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    validate_every: Count = 500
    n_validation: Count = 32
    patience: Count | None = None
    seed: Whole = 0
    first_stages: tuple[Count, Count] | None = None
    weight_decay: Annotated[float, Limit(ge=0)] = 0.0


class TransferTable(Table):
    """Weights to begin from.

    weights : a file .safetensors with its card (beside this one), or a name of those that come with emrecon; the
        network must be the same one.
    freeze : names of parts that do not learn, such as "denoisers.0"; * stands for any text.
    """

    weights: str
    freeze: tuple[str, ...] = ()


class FederatedTable(Table):
    """Federated averaging: every recipe of [data] is a site, which shares its weights and not its scans.

    local_steps : of every site between two averages; `steps` of [training] are those of each site in all.
    proximal : mu of FedProx, which pulls the sites' weights towards the average; 0 is FedAvg.
    local : names of weights and statistics that stay at their site; * stands for any text.
    optimiser : whether sites "keep" the memory of their optimiser from round to round, or "reset" it.
    """

    local_steps: Count
    proximal: Annotated[float, Limit(ge=0)] = 0.0
    local: tuple[str, ...] = ()
    optimiser: Literal["keep", "reset"] = "keep"


class TrainingRecipe(Table):
    """A training, as its file describes it."""

    name: str
    description: str = ""
    data: DataTable
    network: NetworkTable
    loss: LossTable = LossTable()
    training: TrainingTable
    transfer: TransferTable | None = None
    federated: FederatedTable | None = None
