"""A method of reconstruction as a benchmark sees it: the images it goes through, and the settings to choose from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

Images = Iterator[tuple[int, Any]]
"""(iteration, images (B, x, y, z)) again and again; a method without iterations gives one pair."""

KINDS = ("classical", "prior", "unrolled", "deep image prior", "direct", "enhancement", "control", "own")


@dataclass(frozen=True)
class Method:
    """A method of reconstruction.

    Args:
        name : short, of plain letters, such as "map-rdp".
        title : for people, such as "MAP-RDP".
        kind : one of `KINDS`.
        images : (case, settings by keyword) -> (iteration, images) again and again; a network of one shot yields once.
        grid : the values of each setting that validation chooses among.
        shown : the iterations that it chooses among; empty: what `images` yields, to its end.
        sees_guide : whether the images depend on the case's guide.
        n_validation : how many validation scans choose.
        parameters : how many numbers were learned, or are fitted to a scan.

    Raises ValueError for another kind, and a setting without values.
    """

    name: str
    title: str
    kind: str
    images: Callable[..., Images]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    shown: tuple[int, ...] = ()
    sees_guide: bool = False
    n_validation: int = 12
    parameters: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"method '{self.name}': unknown kind '{self.kind}'; choose from {', '.join(KINDS)}")
        empty = [name for name, values in self.grid.items() if not values]
        if empty:
            raise ValueError(f"method '{self.name}': the setting '{empty[0]}' has no values to choose among")

    def settings(self) -> list[dict[str, Any]]:
        """Return all combinations of the grid; one, empty, where there is nothing to choose."""
        return [dict(zip(self.grid, values)) for values in product(*self.grid.values())]

    def at(self, case: Any, iteration: int | None = None, **settings: Any) -> Any:
        """Return the images of one iteration, or of the last.

        Raises ValueError where the method ends before that iteration.
        """
        last = None
        for n, images in self.images(case, **settings):
            last = images
            if n == iteration:
                return images
        if iteration is not None or last is None:
            raise ValueError(f"method '{self.name}' has no iteration {iteration}")
        return last
