"""What structure from motion says of the quality of a capture, one line each with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_REGISTERED = 0.95
"""Share of the photographs."""
_POINTS_PER_PHOTOGRAPH = 30
_ERROR = 1.5
"""Pixels."""
_PARALLAX = 4.0
"""Degrees."""


@dataclass(frozen=True)
class Quality:
    """One measure of a capture."""

    what: str
    """Its name and value."""
    good: bool
    advice: str
    """What to do where it is not good."""

    def __str__(self) -> str:
        return f"{self.what}: good" if self.good else f"{self.what}: weak; {self.advice}"


def qualities(registered: int, of: int, points: int, error: float, parallax: float) -> list[Quality]:
    """The measures of a posed capture, see :class:`l2o_splat.scenes.photos.PosedCapture`."""
    return [
        Quality(
            f"{registered} of {of} photographs have a pose",
            registered >= _REGISTERED * of,
            "take more photographs between those that are missing and the others, more than half of each shared with "
            "the next",
        ),
        Quality(
            f"{points} points",
            points >= _POINTS_PER_PHOTOGRAPH * registered,
            "the scene shows little detail: more light, sharper photographs, and something with texture beside the "
            "subject help",
        ),
        Quality(
            f"{error:.2f} px mean reprojection error",
            error <= _ERROR,
            "the poses are inexact: leave out blurred photographs and moving things, and keep zoom and focus fixed",
        ),
        Quality(
            f"{parallax:.1f} degrees median parallax",
            parallax >= _PARALLAX,
            "depth is uncertain: step aside between photographs instead of turning on the spot, or come nearer",
        ),
    ]


def median_parallax(model) -> float:
    """Median over the points of a ``pycolmap.Reconstruction`` of the widest angle between two rays, degrees."""
    centres = {i: image.projection_center() for i, image in model.images.items() if image.has_pose}
    widest = [
        _widest_angle(point.xyz, [centres[i] for i in {element.image_id for element in point.track.elements}])
        for point in model.points3D.values()
    ]
    return float(np.median(widest)) if widest else 0.0


def _widest_angle(point: np.ndarray, centres: Sequence[np.ndarray]) -> float:
    rays = np.array(centres) - point
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return float(np.degrees(np.arccos(np.clip((rays @ rays.T).min(), -1, 1))))
