"""What the kernels of the cpu backend hand to one another.

One *record* per Gaussian and view holds the Gaussian as the camera sees it, in ``RECORD_WIDTH`` float32 numbers
(one cache line). Its first ``SPLAT_WIDTH`` numbers, the *splat*, are what the parameters are differentiated through;
gradients and tangents of a splat have the same columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from l2o_splat.kernel import helper

RECORD_WIDTH = 16
SPLAT_WIDTH = 10
SUMS_WIDTH = 16
"""Numbers per row of what tiles sum up about a Gaussian: as many as of a splat, the three below, and zeros up to one
cache line."""

CENTRE_X, CENTRE_Y = 0, 1
"""Projected mean, pixels."""
PRECISION_X, SLOPE, PRECISION_Y = 2, 3, 4
"""The blurred covariance [[xx, xy], [xy, yy]] as 1 / (xx - xy^2 / yy), xy / yy and 1 / yy."""
LOG_OPACITY = 5
"""ln(255 opacity), so that 0 is the smallest alpha that is drawn."""
RED, GREEN, BLUE, DEPTH = 6, 7, 8, 9
"""Colour after the clamp at 0, and camera z in scene units."""
FIRST_COLUMN, FIRST_ROW, LAST_COLUMN, LAST_ROW = 10, 11, 12, 13
"""Pixels in which the Gaussian may be drawn, inclusive."""
REACH = 14
"""sqrt(8 / precision_x)."""

VISIBILITY, CURVATURE, ERROR = 10, 11, 12
"""Columns of the sums of :mod:`evidence`; zeros where they are not asked for."""

TILE_WIDTH, TILE_HEIGHT = 64, 16
"""Tile that is composited as one, pixels. The image does not depend on it."""


class Parameters(NamedTuple):
    """The six tensors of the Gaussians (or of their gradients or tangents) as float32 arrays."""

    means: np.ndarray
    scales: np.ndarray
    quats: np.ndarray
    opacities: np.ndarray
    features_dc: np.ndarray
    features_rest: np.ndarray


class Camera(NamedTuple):
    """One pinhole camera, in tuples of Python floats; a matrix is a tuple of its rows."""

    rotation: tuple
    """3 x 3, camera from world."""
    translation: tuple
    """3, camera from world."""
    centre: tuple
    """3, in the world."""
    focal: tuple
    """2, pixels."""
    principal: tuple
    """2, pixels."""
    lowest_slope: tuple
    """x / z and y / z at which the affine projection stops following the Gaussian."""
    highest_slope: tuple


@helper
def camera_of(cameras, view):
    """The camera of a view, out of ``[v, 23]`` numbers in the order of the fields of :class:`Camera`."""
    c = cameras[view]
    return Camera(
        ((c[0], c[1], c[2]), (c[3], c[4], c[5]), (c[6], c[7], c[8])),
        (c[9], c[10], c[11]),
        (c[12], c[13], c[14]),
        (c[15], c[16]),
        (c[17], c[18]),
        (c[19], c[20]),
        (c[21], c[22]),
    )


class Rules(NamedTuple):
    """Settings of a rendering in the form the kernels use."""

    width: int
    height: int
    near: float
    far: float
    eps2d: float
    degree: int
    """SH degree that is drawn."""
    antialiased: bool
    compensation_floor: float
    three_sigma_tiles: bool
    """Whether a Gaussian ends with the 16-pixel tiles that its three-sigma square touches (gsplat 1.4)."""
    alpha_limit: np.float32
