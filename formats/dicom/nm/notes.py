"""What a reader assumes where a file does not say it: told once, as a warning of the log "emrecon"."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

_LOG = logging.getLogger("emrecon")


@dataclass
class Notes:
    """Sentences about files, in order; those that several files share are told once."""

    said: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, path: Path, text: str) -> None:
        """Keep a sentence about a file."""
        paths = self.said.setdefault(text, [])
        if path not in paths:
            paths.append(path)

    def lines(self) -> tuple[str, ...]:
        """Return one line for each sentence, with the name of its file."""
        return tuple(f"{_named(paths)}: {text}" for text, paths in self.said.items())

    def tell(self) -> None:
        """Log all lines as warnings, which the command line prints as notes."""
        for line in self.lines():
            _LOG.warning("%s", line)


def _named(paths: list[Path]) -> str:
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"
