"""The card of a simulated set: card.json, README.md and a picture of examples, made from its files alone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors.core.files import atomic_path

from .shards import Field, Plan, open_shard

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CARD, README, EXAMPLES = "card.json", "README.md", "examples.png"
_N_EXAMPLES = 6
_LICENCE = "to be stated by whoever publishes the set"

_FEW = 16  # an axis shorter than that holds levels, not slices


def write_card(folder: Path, plan: Plan) -> None:
    """Write card.json, README.md and examples.png beside the shards of a complete set.

    They depend on the plan and the shards alone (no date, no machine), so every rank writes the same.

    Raises FileNotFoundError or FormatError where a shard is missing or damaged.
    """
    sizes, examples = _sizes(folder, plan), _examples(plan)
    card = plan.content | {
        "emrecon_schema": "simulated-set-card",
        "fingerprint": plan.fingerprint,
        "sizes": sizes,
        "examples": examples,
        "licence": _LICENCE,
    }
    picture, text = io.BytesIO(), json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    _picture(folder, plan, examples).savefig(
        picture, dpi=100, format="png", metadata={"Software": f"emrecon {plan.library_version}"}
    )
    contents = (picture.getvalue(), text.encode(), _readme(plan, sizes, examples).encode())
    for name, content in zip((EXAMPLES, CARD, README), contents):
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)


def has_card(folder: Path) -> bool:
    """Whether the three files of the card are there."""
    return all((folder / name).exists() for name in (CARD, README, EXAMPLES))


def _sizes(folder: Path, plan: Plan) -> dict[str, int]:
    return {
        "files": len(plan.shards),
        "bytes": sum((folder / shard.name).stat().st_size for shard in plan.shards),
        "bytes_uncompressed": plan.n * plan.sample_bytes,
    }


def _examples(plan: Plan) -> list[int]:
    """The first sample of phantoms that are spread over the set."""
    n_phantoms = -(-plan.n // plan.samples_per_phantom)
    n = min(_N_EXAMPLES, n_phantoms)
    return [k * n_phantoms // n * plan.samples_per_phantom for k in range(n)]


def _readme(plan: Plan, sizes: dict[str, int], examples: list[int]) -> str:
    parts = [
        f"| {name} | {len(part)} | {part.start} to {part.stop - 1} | {-(-len(part) // plan.samples_per_phantom)} |"
        for name, part in plan.split.items()
        if part
    ]
    fields = [
        f"| `{name}` | {' x '.join(map(str, f.shape)) or '1'} | {f.dtype} | {f.unit} | {_cell(f.description)} |"
        for name, f in plan.fields.items()
    ]
    parameters = [f"| `{name}` | {_cell(value)} |" for name, value in _flat(plan.recipe)]
    ratio = sizes["bytes_uncompressed"] / sizes["bytes"]
    return "\n".join(
        [
            f"# {plan.n} simulated samples",
            "",
            f"Made by emrecon {plan.library_version}. Every sample is a function of its number and of the",
            "parameters below: the same recipe and version make the same files.",
            "",
            f"![Samples {', '.join(map(str, examples))}]({EXAMPLES})",
            "",
            "## What a sample holds",
            "",
            "| field | shape | type | unit | what it is |",
            "|---|---|---|---|---|",
            *fields,
            "",
            "## Split",
            "",
            f"No phantom is in two parts; {plan.samples_per_phantom} samples show the same one.",
            "",
            "| part | samples | numbers | phantoms |",
            "|---|---|---|---|",
            *parts,
            "",
            "## Files",
            "",
            f"{sizes['files']} HDF5 files of {plan.shard_size} samples, {_size(sizes['bytes'])} "
            f"({_size(sizes['bytes_uncompressed'])} uncompressed, {ratio:.1f} times more).",
            f"Fingerprint of the set: `{plan.fingerprint}`.",
            "",
            "```python",
            "from emrecon.sims.datasets import Dataset, loader",
            "",
            f'data = Dataset("path/to/this/folder", split="{next(iter(plan.split), "train")}")',
            f"sample = data[0]  # a dict of arrays: {', '.join(plan.fields)}",
            "for batch in loader(data, batch_size=32, workers=2, seed=0):",
            "    ...  # a dict of torch tensors",
            "```",
            "",
            "## Parameters",
            "",
            "| parameter | value |",
            "|---|---|",
            *parameters,
            "",
            "## Licence",
            "",
            f"{_LICENCE.capitalize()}.",
            "",
        ]
    )


def _flat(value: object, at: str = "") -> Iterator[tuple[str, object]]:
    """Names with dots and plain values; short lists of numbers stay whole."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list) and any(isinstance(inner, (dict, list)) for inner in value):
        for k, inner in enumerate(value):
            yield from _flat(inner, f"{at}[{k}]")
    else:
        yield at, value


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")


def _size(n_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes} bytes"


def _picture(folder: Path, plan: Plan, indices: list[int]) -> Figure:
    # No pyplot: it keeps figures in a global and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples = [_sample(folder, plan, index) for index in indices]
    figure = Figure(figsize=(1.9 * len(samples) + 0.6, 2.0 * len(plan.fields)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(plan.fields), len(samples), squeeze=False)
    for row, (name, field) in zip(axes, plan.fields.items()):
        for axis, sample in zip(row, samples):
            _draw(axis, sample[name])
        row[0].set_ylabel(_label(name, field), fontsize=8)
    for axis, index in zip(axes[0], indices):
        axis.set_title(f"sample {index}", fontsize=8)
    return figure


def _label(name: str, field: Field) -> str:
    # a dollar sign would begin a formula
    return (f"{name} ({field.unit})" if field.unit else name).replace("$", r"\$")


def _draw(axis: Axes, values: np.ndarray) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    values = np.squeeze(values)
    while values.ndim > 2:  # the first level, the middle slice
        axis_left_out = int(np.argmin(values.shape))
        n = values.shape[axis_left_out]
        values = values.take(0 if n < _FEW else n // 2, axis_left_out)
    if values.ndim == 2:
        axis.imshow(values.T.astype(np.float32), cmap="gray", interpolation="nearest", aspect="auto")
    elif values.ndim == 1:
        axis.plot(values.astype(np.float64), linewidth=0.8)
    else:
        axis.text(0.5, 0.5, f"{values.item():.5g}", ha="center", va="center", transform=axis.transAxes)


def _sample(folder: Path, plan: Plan, index: int) -> dict[str, np.ndarray]:
    shard = plan.shards[index // plan.shard_size]
    with open_shard(plan, folder, shard) as file:
        return {name: np.asarray(file[name][index - shard.first]) for name in plan.fields}
