"""Ranges that random phantoms draw from."""

Range = tuple[float, float]


def require_range(what: str, ends: tuple[float, float], least: float, most: float) -> None:
    """Raise ValueError unless least <= low <= high <= most."""
    low, high = ends
    if not least <= low <= high <= most:
        raise ValueError(f"{what} must be a range (low, high) within {least:g} to {most:g}, got {tuple(ends)}")
