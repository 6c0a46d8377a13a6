"""Where a point appears in a view, for kernels."""

from __future__ import annotations

from l2o_splat.kernel import helper


@helper
def project(point, viewmat, K, width, height):
    """Pixel coordinates x, y and camera z of a point; the depth is 0 where the view does not show it.

    Args:
        point: ``[3]`` world frame, scene units.
        viewmat: ``[4, 4]``
        K: ``[3, 3]``
        width: Of the view, pixels.
        height: Of the view, pixels.
    """
    x, y, z = point
    depth = viewmat[2, 0] * x + viewmat[2, 1] * y + viewmat[2, 2] * z + viewmat[2, 3]
    if not depth > 0:
        return 0.0, 0.0, 0.0
    u = K[0, 0] * (viewmat[0, 0] * x + viewmat[0, 1] * y + viewmat[0, 2] * z + viewmat[0, 3]) / depth + K[0, 2]
    v = K[1, 1] * (viewmat[1, 0] * x + viewmat[1, 1] * y + viewmat[1, 2] * z + viewmat[1, 3]) / depth + K[1, 2]
    if not (u >= 0 and u < width and v >= 0 and v < height):
        return 0.0, 0.0, 0.0
    return u, v, depth
