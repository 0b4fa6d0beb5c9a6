"""The orbit of a camera as a small SVG drawing, seen from the feet: the patient's left is on the right."""

from __future__ import annotations

import numpy as np

_COLOURS = ("#1f6fb4", "#d9630b", "#2b8a3e", "#8a3fa0", "#b03060", "#5a5a5a")
_MOST_FACES = 16
_SIDE = 190  # pixels


def orbit_svg(middle: np.ndarray, along: np.ndarray, half: float, head: np.ndarray) -> str:
    """Return an SVG element of a camera's orbit.

    Args:
        middle : (views, 2) x and y of the middle of the detector's face, mm (LPS).
        along : (views, 2) unit vectors along the face.
        half : half of the width of the face, mm.
        head : (views,) the number of the head.

    A dot is where a head begins, a triangle which way it goes.
    """
    reach = 1.1 * float(np.hypot(np.linalg.norm(middle, axis=1).max(), half)) or 1.0
    parts = []
    for number, own in enumerate(np.unique(head)):
        chosen = head == own
        parts.append(_head(middle[chosen], along[chosen], half, _COLOURS[number % len(_COLOURS)], reach))
    letters = "".join(
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{0.11 * reach:.0f}" text-anchor="middle" fill="#666" '
        f'dominant-baseline="middle">{name}</text>'
        for name, x, y in (("R", -0.93, 0), ("L", 0.93, 0), ("A", 0, -0.93), ("P", 0, 0.93))
        for x, y in ((x * reach, y * reach),)
    )
    arm = f"{0.04 * reach:.1f}"
    cross = f'<path d="M-{arm} 0H{arm}M0 -{arm}V{arm}" {_line("#666", 1)}/>'
    box = f"{-reach:.1f} {-reach:.1f} {2 * reach:.1f} {2 * reach:.1f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SIDE}" height="{_SIDE}" viewBox="{box}" role="img" '
        f'aria-label="orbit seen from the feet">{"".join(parts)}{cross}{letters}</svg>'
    )


def _head(middle: np.ndarray, along: np.ndarray, half: float, colour: str, reach: float) -> str:
    n = len(middle)
    faces = [
        f"M{_at(middle[k] - half * along[k])}L{_at(middle[k] + half * along[k])}"
        for k in np.unique(np.linspace(0, n - 1, min(_MOST_FACES, n)).round().astype(int))
    ]
    path = "M" + "L".join(_at(point) for point in middle)
    x, y = middle[0]
    drawn = [
        f'<path d="{"".join(faces)}" {_line(colour, 1)} opacity="0.3"/>',
        f'<path d="{path}" {_line(colour, 1.5)}/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{0.03 * reach:.1f}" fill="{colour}"/>',
    ]
    if n > 1:
        to = min(max(1, n // 8), n - 1)
        step = middle[to] - middle[to - 1]
        length = float(np.linalg.norm(step))
        if length > 0:
            ahead = step / length * 0.06 * reach
            side = np.array([-ahead[1], ahead[0]]) * 0.6
            tip, back = middle[to] + ahead, middle[to] - 0.4 * ahead
            corners = " ".join(_at(point) for point in (tip, back + side, back - side))
            drawn.append(f'<polygon points="{corners}" fill="{colour}"/>')
    return "".join(drawn)


def _at(point: np.ndarray) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def _line(colour: str, width: float) -> str:
    return f'fill="none" stroke="{colour}" stroke-width="{width}" vector-effect="non-scaling-stroke"'
