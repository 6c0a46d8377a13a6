"""Area averages of 8-bit photographs; :func:`l2o_splat.reduction.reduced_in_torch` says the same in torch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from l2o_splat.kernel import kernel


@kernel
def average_areas(pixels: UInt8[np.ndarray, "h w c"], reduced: UInt8[np.ndarray, "height width c"]) -> None:
    """Fill ``reduced`` with means over areas, rounded to the nearest whole number, halves up.

    In units of 1 / ``height`` a row is ``height`` high and a reduced row ``h``, so that all parts are whole numbers;
    sums of them stay far below 2^53, up to which doubles are exact.
    """
    h, w, c = pixels.shape
    height, width, _ = reduced.shape
    area = float(h * w)
    rows = pixels.reshape(h, w * c)
    sums = np.empty(w * c, np.float64)
    totals = np.empty(4, np.float64)
    for y in range(height):
        top, bottom = y * h, (y + 1) * h
        sums[:] = 0.0
        for row in range(top // height, (bottom - 1) // height + 1):
            part = float(min((row + 1) * height, bottom) - max(row * height, top))
            if c == 4:
                for x in range(w):
                    weight = part * rows[row, 4 * x + 3]
                    for channel in range(3):
                        sums[4 * x + channel] += weight * rows[row, 4 * x + channel]
                    sums[4 * x + 3] += weight
            else:
                for x in range(w * c):
                    sums[x] += part * rows[row, x]
        for x in range(width):
            left, right = x * w, (x + 1) * w
            totals[:] = 0.0
            for column in range(left // width, (right - 1) // width + 1):
                part = float(min((column + 1) * width, right) - max(column * width, left))
                for channel in range(c):
                    totals[channel] += part * sums[column * c + channel]
            if c == 4:
                alpha = totals[3]
                for channel in range(3):
                    reduced[y, x, channel] = np.uint8(totals[channel] / alpha + 0.5) if alpha > 0.0 else np.uint8(0)
                reduced[y, x, 3] = np.uint8(alpha / area + 0.5)
            else:
                for channel in range(c):
                    reduced[y, x, channel] = np.uint8(totals[channel] / area + 0.5)


@kernel
def check_areas(mask: Bool[np.ndarray, "h w"], counts: Bool[np.ndarray, "height width"]) -> None:
    """Fill ``counts`` with whether all pixels count that a reduced pixel covers a part of."""
    h, w = mask.shape
    height, width = counts.shape
    columns = np.empty(w, np.bool_)
    for y in range(height):
        columns[:] = True
        for row in range(y * h // height, ((y + 1) * h - 1) // height + 1):
            for x in range(w):
                columns[x] &= mask[row, x]
        for x in range(width):
            counts[y, x] = columns[x * w // width : ((x + 1) * w - 1) // width + 1].all()
