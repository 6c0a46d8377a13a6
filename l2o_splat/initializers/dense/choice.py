"""Which cells of pixels become Gaussians: large ones where a photograph is even, single pixels where it is not.

Each view is a quadtree of cells of 1, 2, 4 and 8 pixels across. A cell is split if the squared differences of its
colours from their mean sum to more than a threshold, the same for all views, or if its depths are no plane.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from l2o_splat import threads
from l2o_splat.initializers.dense.depths import Depths
from l2o_splat.kernel import helper, kernel

LEVELS = 4
"""Cells are 1, 2, ... 2^(LEVELS - 1) pixels across."""
ROUGHNESS = 0.01
"""Root mean square distance of a cell's inverse depths from a plane, relative, above which it is split."""
GUESSED = 0.03
"""Weight of the error of a pixel on whose depth views do not agree: what one view shows is soon learnt too well."""
BISECTIONS = 40
NO_PLANE = np.float32(1e4)
"""Error of a cell whose depths are just no plane, more than colours can make."""
HIGHEST = np.float32(1e8)
EMPTY = np.float32(-1.0)


@helper
def fitted_plane(inverse, used, top, bottom, left, right, cx, cy, centre, gate):
    """Least squares plane through inverse depths in a window that differ from ``centre`` by less than a share.

    Returns inverse depth at (cx, cy), its changes to the right and down, and the root mean square residual.
    """
    n = sx = sy = sxx = sxy = syy = s = sxs = sys = ss = 0.0
    for y in range(top, bottom):
        for x in range(left, right):
            if used[y, x] and abs(inverse[y, x] - centre) <= gate * centre:
                dx, dy, q = x + 0.5 - cx, y + 0.5 - cy, inverse[y, x] - centre
                n += 1
                sx += dx
                sy += dy
                sxx += dx * dx
                sxy += dx * dy
                syy += dy * dy
                s += q
                sxs += dx * q
                sys += dy * q
                ss += q * q
    if n == 0:
        return centre, 0.0, 0.0, 0.0
    mx, my, m = sx / n, sy / n, s / n
    # A little weight against slopes, for windows of one row or one pixel.
    xx, xy, yy = sxx / n - mx * mx + 1e-3, sxy / n - mx * my, syy / n - my * my + 1e-3
    xq, yq = sxs / n - mx * m, sys / n - my * m
    determinant = xx * yy - xy * xy
    a, b = (yy * xq - xy * yq) / determinant, (xx * yq - xy * xq) / determinant
    residual = max(ss / n - m * m - a * xq - b * yq, 0.0)
    return centre + m - a * mx - b * my, a, b, np.sqrt(residual)


@kernel
def cell_errors(image, owned, inverse, trusted, errors):
    """What it costs not to split each cell.

    Args:
        image: ``[h, w, 3]``, both multiples of the largest cell.
        owned: ``[h, w]`` pixels that are to be covered.
        inverse: ``[h, w]`` inverse depths.
        trusted: ``[h, w]`` where views agree on them.
        errors: ``[levels, h, w]`` written in the first ``h / 2^l`` rows and ``w / 2^l`` columns of level l: summed
            squared colour differences, more than ``NO_PLANE``, or ``EMPTY``.
    """
    height, width = owned.shape
    for level in range(errors.shape[0]):
        size = 1 << level
        for r in range(height // size):
            for c in range(width // size):
                n, agreed, depth = 0, 0, 0.0
                red = green = blue = squares = 0.0
                for y in range(r * size, (r + 1) * size):
                    for x in range(c * size, (c + 1) * size):
                        if owned[y, x]:
                            n += 1
                            agreed += trusted[y, x]
                            depth += inverse[y, x]
                            red += image[y, x, 0]
                            green += image[y, x, 1]
                            blue += image[y, x, 2]
                            for k in range(3):
                                squares += image[y, x, k] ** 2
                if n == 0:
                    errors[level, r, c] = EMPTY
                    continue
                weight = (agreed + GUESSED * (n - agreed)) / n
                errors[level, r, c] = weight * max(squares - (red * red + green * green + blue * blue) / n, 0.0)
                if level > 0 and agreed > 0:
                    depth /= n
                    _, _, _, residual = fitted_plane(
                        inverse, owned, r * size, (r + 1) * size, c * size, (c + 1) * size,
                        (c + 0.5) * size, (r + 0.5) * size, depth, 10.0,
                    )  # fmt: skip
                    if residual > ROUGHNESS * depth:
                        errors[level, r, c] = min(NO_PLANE * residual / (ROUGHNESS * depth), HIGHEST)


@kernel
def leaves(errors, threshold, cells):
    """The cells that are not split, given a threshold.

    Args:
        errors: ``[levels, h, w]`` of :func:`cell_errors`.
        threshold: Error above which a cell is split.
        cells: ``[m, 3]`` int32; level, row and column of each are written as far as there is room.

    Returns:
        How many there are.
    """
    levels, height, width = errors.shape
    found = 0
    stack = np.empty((4 * levels, 3), np.int32)
    top = levels - 1
    for r in range(height >> top):
        for c in range(width >> top):
            stack[0] = top, r, c
            depth = 1
            while depth > 0:
                depth -= 1
                level, row, column = stack[depth]
                error = errors[level, row, column]
                if error < 0:
                    continue
                if level > 0 and error > threshold:
                    for child in range(4):
                        stack[depth, 0] = level - 1
                        stack[depth, 1] = 2 * row + child // 2
                        stack[depth, 2] = 2 * column + child % 2
                        depth += 1
                    continue
                if found < len(cells):
                    cells[found, 0], cells[found, 1], cells[found, 2] = level, row, column
                found += 1
    return found


def choose_cells(
    owned: Bool[np.ndarray, "v h w"],
    depths: Depths,
    most: int,
) -> list[Int[np.ndarray, "n 3"]]:
    """Cells (level, row, column) of each view that cover the owned pixels, at most so many in all."""
    views, height, width = owned.shape
    errors = np.empty((views, LEVELS, height, width), np.float32)
    threads.run(
        lambda v: cell_errors(depths.colours[v], owned[v], depths.inverse[v], depths.trusted[v], errors[v]), views
    )
    none = np.empty((0, 3), np.int32)

    def counts(threshold: float) -> list[int]:
        return threads.run(lambda v: leaves(errors[v], np.float32(threshold), none), views)

    low, high = np.log(1e-6), np.log(2.0 * HIGHEST)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sum(counts(np.exp(middle))) > most else (low, middle)
    threshold = np.exp(high)
    found = [np.empty((count, 3), np.int32) for count in counts(threshold)]
    threads.run(lambda v: leaves(errors[v], np.float32(threshold), found[v]), views)
    starts = np.cumsum([0, *map(len, found)])
    if starts[-1] <= most:
        return found
    # Even the largest cells are too many: some of them, evenly.
    kept = np.linspace(0, starts[-1] - 1, most).astype(int)
    return [cells[kept[(kept >= a) & (kept < b)] - a] for cells, a, b in zip(found, starts, starts[1:], strict=False)]
