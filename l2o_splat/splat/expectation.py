"""How long the parts of ``l2o splat`` take, told before they begin."""

from __future__ import annotations

from l2o_splat.system import usable_cores

SECONDS_OF_A_PHOTOGRAPH = 2.0
"""Features, mapping and undistortion of a photograph of two megapixels, on one core."""
SECONDS_OF_A_PAIR = 0.35
"""Matching of two photographs, on one core."""
NEIGHBOURS = 10
"""Pairs per photograph in sequential matching."""
POSING = {
    "frames": (0.0, 0.1),
    "reading": (0.0, 0.05),
    "features": (0.05, 0.25),
    "matching": (0.25, 0.6),
    "mapping": (0.6, 0.85),
    "global mapping": (0.85, 0.93),
    "rest": (0.93, 0.95),
    "undistorting": (0.95, 1.0),
}
"""Between which shares of the time for poses each of its phases lies, roughly."""
SECONDS_OF_A_START = 20.0
"""Imports, reading and held-out evaluation of a training, which are not part of its budget."""
SECONDS_OF_RESULTS = 25.0
"""Imports, held-out pictures, files and pages."""


def posing_seconds(photographs: int, sequential: bool) -> float:
    """What poses of some photographs take on this machine, seconds, roughly."""
    pairs = photographs * (min(NEIGHBOURS, photographs - 1) if sequential else (photographs - 1) / 2)
    return (SECONDS_OF_A_PHOTOGRAPH * photographs + SECONDS_OF_A_PAIR * pairs) / usable_cores() + 5.0


def posed_share(phase: str, share: float) -> float:
    """Share of the time for poses that has passed when some share of a phase is done."""
    first, last = POSING[phase]
    return first + (last - first) * share
