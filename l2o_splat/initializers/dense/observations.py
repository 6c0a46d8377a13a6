"""Which sparse points each view sees: those of the colour of their pixel that no nearer point hides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from l2o_splat import threads
from l2o_splat.initializers.dense.projection import project
from l2o_splat.initializers.dense.working_views import WorkingViews
from l2o_splat.kernel import kernel

COLOUR_TOLERANCE = 0.12
"""Largest difference (mean of the channels, sRGB 0 to 1) of a point from its pixel's surroundings."""
POINTS_PER_CELL = 4
"""Mean number of points of a cell of the depth buffer."""
HIDDEN = 0.12
"""A point this share farther away than the surface in front of it is hidden."""


@kernel
def observe(points, colours, viewmat, K, image, counted, visible, places, inverse):
    """Decide which points a view sees.

    A coarse depth buffer holds the second nearest of the points in each cell whose colour suits (a single one may be
    wrong). It replaces the tracks of a reconstruction, which many captures lack.

    Args:
        points: ``[p, 3]`` world frame, scene units.
        colours: ``[p, 3]`` sRGB, 0 to 1.
        viewmat: ``[4, 4]``
        K: ``[3, 3]``
        image: ``[h, w, 3]``
        counted: ``[h, w]``
        visible: ``[p]`` bool; written.
        places: ``[p, 2]`` pixel coordinates x, y of the points; written where visible.
        inverse: ``[p]`` inverse camera z; written where visible.
    """
    height, width = image.shape[:2]
    suited = 0
    for i in range(len(points)):
        visible[i] = False
        u, v, depth = project(points[i], viewmat, K, width, height)
        if not depth > 0:
            continue
        column, row = int(u), int(v)
        if not counted[row, column]:
            continue
        best = np.float32(9.0)
        for r in range(max(row - 1, 0), min(row + 2, height)):
            for c in range(max(column - 1, 0), min(column + 2, width)):
                difference = np.float32(0.0)
                for k in range(3):
                    difference += abs(image[r, c, k] - colours[i, k])
                best = min(best, difference / 3)
        if best > COLOUR_TOLERANCE:
            continue
        visible[i] = True
        places[i, 0], places[i, 1], inverse[i] = u, v, 1 / depth
        suited += 1
    if suited == 0:
        return
    cell = max(np.sqrt(height * width * POINTS_PER_CELL / suited), 2.0)
    rows, columns = int(height / cell) + 1, int(width / cell) + 1
    nearest = np.zeros((rows, columns, 2), np.float64)
    for i in range(len(points)):
        if visible[i]:
            r, c = int(places[i, 1] / cell), int(places[i, 0] / cell)
            if inverse[i] > nearest[r, c, 0]:
                nearest[r, c, 1] = nearest[r, c, 0]
                nearest[r, c, 0] = inverse[i]
            elif inverse[i] > nearest[r, c, 1]:
                nearest[r, c, 1] = inverse[i]
    for i in range(len(points)):
        if visible[i]:
            r, c = int(places[i, 1] / cell), int(places[i, 0] / cell)
            visible[i] = inverse[i] * (1 + HIDDEN) >= nearest[r, c, 1]


@dataclass(frozen=True)
class Sightings:
    """The sparse points in each view."""

    visible: Bool[np.ndarray, "v p"]
    places: Float[np.ndarray, "v p 2"]
    """Pixel coordinates x, y where visible; float32."""
    inverse: Float[np.ndarray, "v p"]
    """Inverse camera z where visible; float32."""

    def in_view(self, v: int) -> tuple[Int[np.ndarray, "s 2"], Float[np.ndarray, " s"]]:
        """Pixels (column, row) and inverse depths of the points that view ``v`` sees."""
        seen = self.visible[v]
        return self.places[v, seen].astype(np.int64), self.inverse[v, seen]


def sight(views: WorkingViews, points: Float[np.ndarray, "p 3"], colours: Float[np.ndarray, "p 3"]) -> Sightings:
    """Decide which points each view sees.

    Args:
        views: The views.
        points: World frame, scene units; float64.
        colours: sRGB, 0 to 1; float32.
    """
    size = len(views), len(points)
    found = Sightings(np.zeros(size, bool), np.zeros((*size, 2), np.float32), np.zeros(size, np.float32))

    def look(v: int) -> None:
        view = views.viewmats[v], views.Ks[v], views.images[v], views.counted[v]
        observe(points, colours, *view, found.visible[v], found.places[v], found.inverse[v])

    threads.run(look, len(views))
    return found
