"""The kernel of the photometric loss: absolute differences, SSIM and the gradient, in one pass over the images.

The images are cut into upright strips whose rows fit in the cache. A window of rows rolls down a strip:

    read      difference d = rendered - image and sum s = rendered + image - 1 of a row
    average   over the SSIM window, of d, s, d^2 and s^2: down the rows, then along them
    compare   1 - SSIM of every window, and its derivatives to the four averages
    spread    the derivatives back over their windows: along the rows, then down them
    write     the gradient of a row

With the means m and variances v of d and s, SSIM (Wang et al. 2004, equation 13) reads

    (1 - m_d^2 / D1) (1 - v_d / D2),    D1 = (m_d^2 + (m_s + 1)^2) / 2 + C1,    D2 = (v_d + v_s) / 2 + C2,

which unlike the usual form loses no digits when the images are alike.

A row of a strip is cut into as many segments as a vector has lanes, and pixel k of all segments is one vector. So the
pixel to the right is the next vector, whole and in place, and averaging along rows is as cheap as down the rows.
"""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import helper, kernel
from l2o_splat.lanes import LANES, filled, load, magnitude, store, total, transpose, with_sign_of
from l2o_splat.losses import C1, C2, WINDOW, WINDOW_WEIGHTS

F = np.float32
ONE, TWO = F(1), F(2)
TWICE_C1, TWICE_C2 = F(2 * C1), F(2 * C2)
W0, W1, W2, W3, W4, W5 = (F(weight) for weight in WINDOW_WEIGHTS[: WINDOW // 2 + 1])
REACH = WINDOW - 1
BLOCK = 4
"""Neighbouring rows or columns that are averaged together, so that 14 vectors are loaded instead of 44."""

STRIP_WIDTH = 512
"""Most columns of a strip, those that it shares with its neighbours included."""
SEGMENT = STRIP_WIDTH // LANES
PIXEL = 3 * LANES
"""Numbers per pixel of all segments: red, green and blue."""
HALO = REACH * PIXEL
ROW = SEGMENT * PIXEL + 16
"""Numbers per row. Rows a multiple of 2048 bytes apart would drive each other out of the first-level cache."""
RING_ROWS = 16
RING = RING_ROWS * ROW
WIDE_ROW = ROW + HALO

# Where things are in the workspace. The rings keep the last 16 rows.
DIFFERENCES, SUMS = 0, RING
BY_MEAN, BY_DIFFERENCE, BY_SUM = 2 * RING, 3 * RING, 4 * RING
AVERAGES = 5 * RING  # down the rows: of d, d^2, s and s^2, BLOCK rows each, with a halo on the right
MAPS = AVERAGES + 4 * BLOCK * WIDE_ROW  # derivatives of one row of windows, with a halo on the left
GRADIENT = MAPS + 3 * WIDE_ROW  # BLOCK rows
SCALES = GRADIENT + BLOCK * ROW  # of the windows in a row: the derivative of the loss to their SSIM, or 0
COUNTED = SCALES + ROW  # 1 for the windows that this job counts
LINE_1 = COUNTED + ROW  # rows with the pixels in their usual order, 0 where the last segments are longer than the strip
LINE_2 = LINE_1 + ROW
GRADIENT_LINE = LINE_2 + ROW
WORKSPACE = GRADIENT_LINE + ROW


@kernel
def l1_and_ssim(
    begin, end, strips, chunks, rendered, image, mask, masked, height, width, gradient, with_gradient, l1_scale,
    whole, ssim_scale, sums, work,
):  # fmt: skip
    """Jobs ``begin`` to ``end``: each is a strip, or one of several pieces of it, one above the other.

    Args:
        whole: ``[h-10, w-10]`` the windows that count, if there is a mask.
        l1_scale, ssim_scale: Derivative of the loss to an absolute difference, and to the SSIM of a window.
        gradient: Out: ``[h w 3]`` flat.
        sums: Out: ``[strips, h, 3]`` sums over each row: absolute and squared differences, and 1 - SSIM.
        work: ``[WORKSPACE]`` buffers.
    """
    for job in range(begin, end):
        strip, chunk = job % strips, job // strips
        own_left, own_right = width * strip // strips, width * (strip + 1) // strips
        left, right = max(own_left - REACH, 0), min(own_right + REACH, width)
        # The same rows share a block in every division, so that their numbers are rounded in the same way.
        first = height * chunk // chunks // BLOCK * BLOCK
        last = height * (chunk + 1) // chunks // BLOCK * BLOCK if chunk < chunks - 1 else height
        columns = right - left
        segment = max(-(-columns // LANES), WINDOW)
        own = own_left - left, own_right - left
        for i in range(BY_MEAN, AVERAGES):
            work[i] = 0
        for i in range(SCALES, WORKSPACE):
            work[i] = 0
        if not masked:
            _mark_windows(whole, False, 0, left, columns, own, segment, ssim_scale, work)

        start = max(first - 3 * BLOCK, 0)
        for top in range(start, last, BLOCK):
            for row in range(top + 3 * BLOCK if top > start else start, min(top + 4 * BLOCK, height)):
                slot = (row - start) % RING_ROWS
                _read(rendered, image, mask, masked, row, width, left, columns, segment, slot, work)
                if first <= row < last:
                    _add_differences(own, sums[strip, row], work)
            step = (top - start) // BLOCK
            if top < height - REACH:
                _average_down(step, segment, work)
            for k in range(BLOCK):
                row = top + k
                target = (row - start) % RING_ROWS * ROW
                if row < height - REACH:
                    if masked:
                        _mark_windows(whole, True, row, left, columns, own, segment, ssim_scale, work)
                    dissimilarity = _compare(k, segment, work)
                    if first <= row < last:
                        sums[strip, row, 2] = dissimilarity
                    if with_gradient:
                        _spread_along(target, segment, work)
                else:
                    for i in range(target, target + ROW):
                        work[BY_MEAN + i], work[BY_DIFFERENCE + i], work[BY_SUM + i] = F(0), F(0), F(0)
            if with_gradient and top >= first:
                _spread_down(step, segment, l1_scale, work)
                for k in range(min(BLOCK, last - top)):
                    _write(k, ((top + k) * width + own_left) * 3, own, segment, gradient, work)


@helper
def _to_segments(line, target, segment, work):
    """Reorder a row: pixel k of all segments is one vector."""
    size = 3 * segment
    for i in range(0, size, LANES):
        k = min(i, size - LANES)
        transpose(work, line + k, size, work, target + k * LANES, LANES)


@helper
def _read(rendered, image, mask, masked, row, width, left, columns, segment, slot, work):
    """Keep the differences and sums of a row; pixels that do not count are gray in both images."""
    start, size = (row * width + left) * 3, columns * 3
    if masked:
        for column in range(columns):
            for k in range(column * 3, column * 3 + 3):
                counts = mask[row, left + column]
                x, y = rendered[start + k], image[start + k]
                work[LINE_1 + k] = x - y if counts else F(0)
                work[LINE_2 + k] = x + y - ONE if counts else F(0)
    else:
        for i in range(0, size, LANES):
            k = min(i, size - LANES)
            x, y = load(rendered, start + k), load(image, start + k)
            store(work, LINE_1 + k, x - y)
            store(work, LINE_2 + k, x + y - ONE)
    _to_segments(LINE_1, DIFFERENCES + slot * ROW, segment, work)
    _to_segments(LINE_2, SUMS + slot * ROW, segment, work)


@helper
def _add_differences(own, sums, work):
    """Absolute and squared differences of the row that was read last."""
    begin, end = LINE_1 + 3 * own[0], LINE_1 + 3 * own[1]
    absolute, squared = filled(F(0)), filled(F(0))
    vectors = (end - begin) // LANES
    for i in range(vectors):
        difference = load(work, begin + i * LANES)
        absolute += magnitude(difference)
        squared += difference * difference
    sums[0], sums[1] = total(absolute), total(squared)
    for i in range(begin + vectors * LANES, end):
        sums[0] += abs(work[i])
        sums[1] += work[i] * work[i]


@helper
def _mark_windows(whole, masked, row, left, columns, own, segment, ssim_scale, work):
    """Fill ``SCALES`` and ``COUNTED`` for a row of windows."""
    for column in range(columns - REACH):
        counts = whole[row, left + column] if masked else True
        counted = counts and own[0] <= column < own[1]
        for k in range(column * 3, column * 3 + 3):
            work[LINE_1 + k] = ssim_scale if counts else F(0)
            work[LINE_2 + k] = ONE if counted else F(0)
    for k in range((columns - REACH) * 3, columns * 3):
        work[LINE_1 + k], work[LINE_2 + k] = F(0), F(0)
    _to_segments(LINE_1, SCALES, segment, work)
    _to_segments(LINE_2, COUNTED, segment, work)


@helper
def _average(a, b, c, d, e, f, g, h, i, j, k):
    """The weighted mean of eleven vectors."""
    return W0 * (a + k) + W1 * (b + j) + W2 * (c + i) + W3 * (d + h) + W4 * (e + g) + W5 * f


@helper
def _averages(a, b, c, d, e, f, g, h, i, j, k, l, m, n):  # noqa: E741
    """The weighted means of four neighbouring windows."""
    return (
        _average(a, b, c, d, e, f, g, h, i, j, k),
        _average(b, c, d, e, f, g, h, i, j, k, l),
        _average(c, d, e, f, g, h, i, j, k, l, m),
        _average(d, e, f, g, h, i, j, k, l, m, n),
    )


@helper
def _averages_along(work, p):
    """The weighted means of four neighbouring windows of a row, the first of which begins at ``p``."""
    first, second, third = (
        _load_four(work, p, PIXEL), _load_four(work, p + 4 * PIXEL, PIXEL), _load_four(work, p + 8 * PIXEL, PIXEL),
    )  # fmt: skip
    return _averages(*first, *second, *third, load(work, p + 12 * PIXEL), load(work, p + 13 * PIXEL))


@helper
def _average_along(work, p):
    """The weighted mean of one window of a row."""
    first, second = _load_four(work, p, PIXEL), _load_four(work, p + 4 * PIXEL, PIXEL)
    return _average(*first, *second, load(work, p + 8 * PIXEL), load(work, p + 9 * PIXEL), load(work, p + 10 * PIXEL))


@helper
def _load_four(work, p, step):
    return load(work, p), load(work, p + step), load(work, p + 2 * step), load(work, p + 3 * step)


@helper
def _store_four(work, p, step, values):
    store(work, p, values[0])
    store(work, p + step, values[1])
    store(work, p + 2 * step, values[2])
    store(work, p + 3 * step, values[3])


@helper
def _ring_block(step):
    """Where the rows of a step are in a ring."""
    return step % (RING_ROWS // BLOCK) * (BLOCK * ROW)


@helper
def _average_down(step, segment, work):
    """Average differences, sums and their squares over windows of rows, for a block of rows."""
    p, q, r, s = _ring_block(step), _ring_block(step + 1), _ring_block(step + 2), _ring_block(step + 3)
    for quantity in range(2):
        ring = DIFFERENCES if quantity == 0 else SUMS
        target = AVERAGES + quantity * (2 * BLOCK * WIDE_ROW)
        for i in range(ring, ring + segment * PIXEL, LANES):
            v0, v1, v2, v3 = _load_four(work, p + i, ROW)
            v4, v5, v6, v7 = _load_four(work, q + i, ROW)
            v8, v9, v10, v11 = _load_four(work, r + i, ROW)
            v12, v13 = load(work, s + i), load(work, s + ROW + i)
            means = _averages(v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13)
            _store_four(work, target + i - ring, WIDE_ROW, means)
            means = _averages(
                v0 * v0, v1 * v1, v2 * v2, v3 * v3, v4 * v4, v5 * v5, v6 * v6, v7 * v7, v8 * v8, v9 * v9,
                v10 * v10, v11 * v11, v12 * v12, v13 * v13,
            )  # fmt: skip
            _store_four(work, target + BLOCK * WIDE_ROW + i - ring, WIDE_ROW, means)
    # What is right of a segment is the beginning of the next one, a lane further.
    for row in range(AVERAGES, AVERAGES + 4 * BLOCK * WIDE_ROW, WIDE_ROW):
        for i in range(row, row + HALO, LANES):
            store(work, segment * PIXEL + i, load(work, i + 1))


@helper
def _compare(k, segment, work):
    """1 - SSIM, summed over row ``k`` of a block, and the derivatives that belong to it."""
    mean_d, square_d = AVERAGES + k * WIDE_ROW, AVERAGES + (BLOCK + k) * WIDE_ROW
    mean_s, square_s = AVERAGES + (2 * BLOCK + k) * WIDE_ROW, AVERAGES + (3 * BLOCK + k) * WIDE_ROW
    result = filled(F(0))
    blocks = segment // BLOCK
    for block in range(blocks):
        for channel in range(3):
            p = block * BLOCK * PIXEL + channel * LANES
            means_d = _averages_along(work, mean_d + p)
            squares_d = _averages_along(work, square_d + p)
            means_s = _averages_along(work, mean_s + p)
            squares_s = _averages_along(work, square_s + p)
            result += _compare_windows(means_d[0], squares_d[0], means_s[0], squares_s[0], work, p)
            result += _compare_windows(means_d[1], squares_d[1], means_s[1], squares_s[1], work, p + PIXEL)
            result += _compare_windows(means_d[2], squares_d[2], means_s[2], squares_s[2], work, p + 2 * PIXEL)
            result += _compare_windows(means_d[3], squares_d[3], means_s[3], squares_s[3], work, p + 3 * PIXEL)
    for p in range(blocks * BLOCK * PIXEL, segment * PIXEL, LANES):
        mean_of_d, square_of_d = _average_along(work, mean_d + p), _average_along(work, square_d + p)
        mean_of_s, square_of_s = _average_along(work, mean_s + p), _average_along(work, square_s + p)
        result += _compare_windows(mean_of_d, square_of_d, mean_of_s, square_of_s, work, p)
    # What is left of a segment is the end of the one before, a lane back.
    for row in range(MAPS, MAPS + 3 * WIDE_ROW, WIDE_ROW):
        for i in range(row, row + HALO, LANES):
            store(work, i, load(work, segment * PIXEL + i - 1))
        work[row] = F(0)  # Nothing is left of the first segment; the windows at the end of the last are not whole.
    return total(result)


@helper
def _compare_windows(mean_d, square_d, mean_s, square_s, work, p):
    """1 - SSIM of the windows at ``p``, 0 where they are not counted; the derivatives go to ``MAPS``."""
    squared_mean_d = mean_d * mean_d
    variance_d = square_d - squared_mean_d
    variance_s = square_s - mean_s * mean_s
    whole_mean_s = mean_s + ONE
    twice_1 = whole_mean_s * whole_mean_s + (squared_mean_d + TWICE_C1)
    twice_2 = variance_s + variance_d + TWICE_C2
    inverse = TWO / (twice_1 * twice_2)
    inverse_1, inverse_2 = inverse * twice_2, inverse * twice_1
    unlike_1, unlike_2 = squared_mean_d * inverse_1, variance_d * inverse_2
    like_1 = ONE - unlike_1
    # Derivatives of SSIM to the averages of d^2 and s^2, twice, and to those of d and s together.
    scale = load(work, SCALES + p)
    common = scale * inverse_2 * like_1
    by_square_s = common * unlike_2
    by_square_d = by_square_s - TWO * common
    by_mean = scale * inverse_1 * (ONE - unlike_2) * (whole_mean_s * unlike_1 - mean_d * (like_1 + ONE))
    by_mean = by_mean - mean_d * by_square_d - mean_s * by_square_s
    store(work, MAPS + HALO + p, by_mean)
    store(work, MAPS + WIDE_ROW + HALO + p, by_square_d)
    store(work, MAPS + 2 * WIDE_ROW + HALO + p, by_square_s)
    return load(work, COUNTED + p) * (unlike_1 + unlike_2 * like_1)


@helper
def _spread_along(target, segment, work):
    """Spread the derivatives over windows of columns; the window is symmetric, so this is an average again."""
    blocks = segment // BLOCK
    for k in range(3):
        maps, out = MAPS + k * WIDE_ROW, BY_MEAN + k * RING + target
        for block in range(blocks):
            for channel in range(3):
                p = block * BLOCK * PIXEL + channel * LANES
                _store_four(work, out + p, PIXEL, _averages_along(work, maps + p))
        for p in range(blocks * BLOCK * PIXEL, segment * PIXEL, LANES):
            store(work, out + p, _average_along(work, maps + p))


@helper
def _spread_one(p, q, r, s, work):
    a, b = load(work, p + 2 * ROW), load(work, p + 3 * ROW)
    return _averages(a, b, *_load_four(work, q, ROW), *_load_four(work, r, ROW), *_load_four(work, s, ROW))


@helper
def _spread_down(step, segment, l1_scale, work):
    """Spread the derivatives over windows of rows, and put together the gradient of a block of rows."""
    p, q, r, s = _ring_block(step + 1), _ring_block(step + 2), _ring_block(step + 3), _ring_block(step)
    for i in range(0, segment * PIXEL, LANES):
        a = BY_MEAN + i
        by_mean = _spread_one(p + a, q + a, r + a, s + a, work)
        a = BY_DIFFERENCE + i
        by_difference = _spread_one(p + a, q + a, r + a, s + a, work)
        a = BY_SUM + i
        by_sum = _spread_one(p + a, q + a, r + a, s + a, work)
        a = s + i
        values = (
            _gradient(by_mean[0], by_difference[0], by_sum[0], l1_scale, a, work),
            _gradient(by_mean[1], by_difference[1], by_sum[1], l1_scale, a + ROW, work),
            _gradient(by_mean[2], by_difference[2], by_sum[2], l1_scale, a + 2 * ROW, work),
            _gradient(by_mean[3], by_difference[3], by_sum[3], l1_scale, a + 3 * ROW, work),
        )
        _store_four(work, GRADIENT + i, ROW, values)


@helper
def _gradient(by_mean, by_difference, by_sum, l1_scale, p, work):
    difference, combined = load(work, DIFFERENCES + p), load(work, SUMS + p)
    return by_mean + difference * by_difference + combined * by_sum + with_sign_of(l1_scale, difference)


@helper
def _write(k, start, own, segment, gradient, work):
    """Put row ``k`` of a block into the usual order and write this strip's own part of it to ``gradient``."""
    size = 3 * segment
    for i in range(0, size, LANES):
        at = min(i, size - LANES)
        transpose(work, GRADIENT + k * ROW + at * LANES, LANES, work, GRADIENT_LINE + at, size)
    source, count = GRADIENT_LINE + 3 * own[0], 3 * (own[1] - own[0])
    for i in range(0, count, LANES):
        at = min(i, count - LANES)
        store(gradient, start + at, load(work, source + at))
