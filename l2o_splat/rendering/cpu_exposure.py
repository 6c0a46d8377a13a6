""":func:`l2o_splat.rendering.exposure.exposed` and its derivative on the CPU, for one view."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from l2o_splat.kernel import helper, kernel

F = np.float32


def expose(rgb: Float[np.ndarray, "h w 3"], exposure: Float[np.ndarray, "3 4"]) -> Float[np.ndarray, "h w 3"]:
    """The colours that the photograph shows of those of the scene, all float32."""
    shown = np.empty_like(rgb)
    # Flat, red, green and blue of one pixel after the other: the compiler makes vectors of such loops only.
    _transform(rgb.reshape(-1), exposure[:, :3], exposure[:, 3], shown.reshape(-1))
    return shown


def expose_vjp(
    rgb: Float[np.ndarray, "h w 3"],
    exposure: Float[np.ndarray, "3 4"],
    v_shown: Float[np.ndarray, "h w 3"],
    v_rgb: Float[np.ndarray, "h w 3"],
    v_exposure: Float[np.ndarray, "3 4"],
) -> None:
    """Carry a gradient back through :func:`expose`.

    Args:
        rgb: Colours of the scene.
        exposure: ``[A | b]`` of the view.
        v_shown: Gradient of the colours that the photograph shows.
        v_rgb: Out: gradient of the colours of the scene; other memory than ``v_shown``.
        v_exposure: Out: gradient of the transform.
    """
    _sum_products(v_shown.reshape(-1), rgb.reshape(-1), rgb.shape[1], v_exposure)
    _transform(v_shown.reshape(-1), exposure[:, :3].T, np.zeros(3, F), v_rgb.reshape(-1))


@kernel
def _transform(colours, matrix, offset, result):
    """``matrix @ colour + offset`` of every pixel."""
    rr, rg, rb = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    gr, gg, gb = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    br, bg, bb = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    r0, g0, b0 = offset[0], offset[1], offset[2]
    for i in range(colours.size // 3):
        r, g, b = colours[3 * i], colours[3 * i + 1], colours[3 * i + 2]
        result[3 * i] = rr * r + rg * g + rb * b + r0
        result[3 * i + 1] = gr * r + gg * g + gb * b + g0
        result[3 * i + 2] = br * r + bg * g + bb * b + b0


@kernel
def _sum_products(gradient, rgb, width, sums):
    """Sums over pixels of each channel's gradient times red, green, blue and 1, to ``sums`` ``[3, 4]``."""
    # Those of a row stay in registers; those of all rows lose no digits.
    total = np.zeros((3, 4))
    for first in range(0, rgb.size // 3, width):
        of_red, of_green, of_blue = (F(0), F(0), F(0), F(0)), (F(0), F(0), F(0), F(0)), (F(0), F(0), F(0), F(0))
        for i in range(3 * first, 3 * (first + width), 3):
            r, g, b = rgb[i], rgb[i + 1], rgb[i + 2]
            of_red = _added(of_red, gradient[i], r, g, b)
            of_green = _added(of_green, gradient[i + 1], r, g, b)
            of_blue = _added(of_blue, gradient[i + 2], r, g, b)
        for c in range(4):
            total[0, c] += of_red[c]
            total[1, c] += of_green[c]
            total[2, c] += of_blue[c]
    sums[:] = total


@helper
def _added(sums, v, r, g, b):
    return sums[0] + v * r, sums[1] + v * g, sums[2] + v * b, sums[3] + v
