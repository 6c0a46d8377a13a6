"""How long the parts of ``l2o splat`` take, told before they begin."""

from __future__ import annotations

from l2o_splat.system import usable_cores

SECONDS_OF_A_PHOTOGRAPH, SECONDS_OF_A_MEGAPIXEL = 0.5, 1.25
"""Features, mapping and undistortion of a photograph on one core: a fixed part, and one for each of its megapixels."""
SECONDS_OF_A_PAIR = 0.12
"""Matching of two photographs of one megapixel on one core; it grows with the features, which grow with the pixels."""
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
SECONDS_OF_RESULTS = 18.0
"""Imports, held-out pictures, files and pages."""


def posing_seconds(photographs: int, megapixels: float, sequential: bool) -> float:
    """What poses of some photographs take on this machine, seconds, roughly."""
    pairs = photographs * (min(NEIGHBOURS, photographs - 1) if sequential else (photographs - 1) / 2)
    of_photographs = photographs * (SECONDS_OF_A_PHOTOGRAPH + SECONDS_OF_A_MEGAPIXEL * megapixels)
    return (of_photographs + pairs * SECONDS_OF_A_PAIR * megapixels) / usable_cores() + 5.0


def posed_share(phase: str, share: float) -> float:
    """Share of the time for poses that has passed when some share of a phase is done."""
    first, last = POSING[phase]
    return first + (last - first) * share
