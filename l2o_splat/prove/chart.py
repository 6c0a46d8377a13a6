"""Curves as an inline SVG, which needs no script."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 150, 14, 36
TICKS = 5


def chart(curves: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str) -> str:
    """Draw curves of points (x, y), each with its name at its end; points that are not finite are left out."""
    shown = {name: [point for point in points if all(map(math.isfinite, point))] for name, points in curves.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return ""
    xs, ys = zip(*(point for points in shown.values() for point in points), strict=True)
    x_range, y_range = _padded(xs), _padded(ys)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    lines = []
    for tick in range(TICKS + 1):
        x, y = (low + (high - low) * tick / TICKS for low, high in (x_range, y_range))
        across, down = place(x, y).split(",")
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down}" y2="{down}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{down}" text-anchor="end" dominant-baseline="middle">{y:.4g}</text>')
        lines.append(f'<text x="{across}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:.4g}</text>')
    for index, (name, points) in enumerate(shown.items()):
        colour = f"var(--m{index % 8})"
        path = " ".join(place(*point) for point in points)
        across, down = place(*points[-1]).split(",")
        lines.append(f'<polyline class="curve" style="stroke:{colour}" points="{path}"/>')
        style = f'style="fill:{colour}" dominant-baseline="middle"'
        lines.append(f'<text x="{float(across) + 6:.1f}" y="{down}" {style}>{html.escape(name)}</text>')
    lines.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(x_title)}</text>'
    )
    lines.append(f'<text x="4" y="{TOP - 3}">{html.escape(y_title)}</text>')
    label = html.escape(f"{y_title} over {x_title}: {', '.join(shown)}")
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(lines)}</svg>'


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest of some values, apart from each other."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
