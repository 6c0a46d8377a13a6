"""Compositing on the CPU: images, their gradients and their tangents, tile by tile.

The Gaussians of a tile are drawn front to back. In every row of the tile the span of pixels in which a Gaussian's
alpha reaches 1/255 is solved for, then filled 16 pixels at a time, in loops that the compiler turns into vector
instructions. The exponent is taken apart along the row: with dy from the centre and u from the ridge of the row,

    ln(255 alpha) = ln(255 opacity) - precision_x u^2 / 2 - precision_y dy^2 / 2,    u = dx - slope dy,

which is the usual dx^T conic dx / 2 without the cancellation that it suffers for thin Gaussians.

The three kernels share :func:`_find_spans` and :func:`_exp_over_255`, and so agree on which pixels are drawn.
Changing a line of the inner loops may keep them from being vectorised: run ``benchmarks/rasterizer.py`` afterwards.
What they need is a trip count known in advance, unsigned indices (signed ones may count from the end, which numba
has to check) into one flat buffer, and selections instead of branches.
"""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import inlined, kernel
from l2o_splat.rendering.cpu_records import (
    BLUE,
    CENTRE_X,
    CENTRE_Y,
    DEPTH,
    FIRST_COLUMN,
    FIRST_ROW,
    GREEN,
    LAST_COLUMN,
    LAST_ROW,
    LOG_OPACITY,
    PRECISION_X,
    PRECISION_Y,
    RECORD_WIDTH,
    RED,
    SLOPE,
    SPLAT_WIDTH,
    TILE_HEIGHT,
    TILE_WIDTH,
)

F, U = np.float32, np.uint64

LANES = 16
STEP = U(LANES)
PLANE = TILE_WIDTH * TILE_HEIGHT + LANES
"""Numbers per quantity in the buffer of a tile: one for every pixel, and room for lanes beyond the last row."""
P1, P2, P3, P4, P5, P6 = (U(k * PLANE) for k in range(1, 7))
S1, S2, S3, S4, S5, S6, S7, S8, S9 = (U(k * LANES) for k in range(1, 10))
BATCH = 32
"""Gaussians whose records are copied together; also how often it is checked whether a tile is finished."""
LEAST_LIGHT = F(1e-4)
"""A pixel is finished before the Gaussian that would let less light pass."""


@inlined
def _exp_over_255(quarter):
    """exp(4 quarter) / 255 for 0 <= quarter <= ln(255) / 4, to 5e-7: a minimax polynomial to the fourth power."""
    second = quarter * quarter
    high = F(9.794021713648504e-05) * quarter + F(0.0002315890737719087)
    high = high * second + (F(0.002221256570649048) * quarter + F(0.010341471894894958))
    low = F(0.041735904620942) * quarter + F(0.12511782196793628)
    low = low * second + (F(0.2502450081032835) * quarter + F(0.2502447358845263))
    root = high * (second * second) + low
    return (root * root) * (root * root)


@inlined
def _copy_row(source, source_row, target, row):
    # Entry by entry: numba takes seconds to compile an assignment of whole rows.
    for column in range(target.shape[1]):
        target[row, column] = source[source_row, column]


@inlined
def _find_spans(record, left, top, open_from, open_to, first, count, start, peak):
    """Where a Gaussian is drawn in each row of the tile at pixel (left, top).

    Args:
        open_from, open_to: Columns between which light still passes in each row.
        first: Out: first column, counted from ``left``.
        count: Out: number of pixels; not positive if there are none.
        start: Out: u at the first pixel.
        peak: Out: ln(255 alpha) / 4 on the ridge.
    """
    along, across = F(0.125) * record[PRECISION_X], F(0.125) * record[PRECISION_Y]
    centre_x, centre_y = record[CENTRE_X] - F(left) - F(0.5), record[CENTRE_Y] - F(top) - F(0.5)
    first_column, last_column = record[FIRST_COLUMN] - F(left), record[LAST_COLUMN] - F(left)
    for row in range(TILE_HEIGHT):
        dy = F(row) - centre_y
        ridge = centre_x + record[SLOPE] * dy
        value = F(0.25) * record[LOG_OPACITY] - across * dy * dy
        # The margin is for rounding; the inner loops check every alpha anyway.
        half = np.sqrt(max(value, F(0)) / along) + F(0.01)
        low = max(np.ceil(ridge - half), first_column, open_from[row])
        high = min(np.floor(ridge + half), last_column, open_to[row])
        first[row] = np.int32(low)
        count[row] = np.int32(high - low) + np.int32(1) if value >= F(0) else np.int32(0)
        start[row] = low - ridge
        peak[row] = value


@inlined
def _rows_of(record, top, rows):
    """First row of the tile in which the Gaussian may be drawn, and the row after the last."""
    return max(int(record[FIRST_ROW]) - top, 0), min(int(record[LAST_ROW]) - top + 1, rows)


@inlined
def _shrink(light, rows, open_from, open_to):
    """Find the columns between which light still passes in each row of the tile; returns whether there are any."""
    any_open = False
    for row in range(rows):
        low, high = int(open_from[row]), int(open_to[row])
        while low <= high and not light[row * TILE_WIDTH + low] > F(0):
            low += 1
        while low <= high and not light[row * TILE_WIDTH + high] > F(0):
            high -= 1
        open_from[row], open_to[row] = low, high
        any_open |= low <= high
    return any_open


@kernel
def composite(begin, end, tiles_x, records, tile_starts, tile_gaussians, limit, background, rgb, alpha, depth):
    """Draw tiles ``begin`` to ``end`` of a view.

    Args:
        records: ``[n, 16]``; ``tile_starts`` and ``tile_gaussians`` list those of each tile, front to back.
        limit: Largest alpha.
        background: ``[3]``
        rgb, alpha, depth: Out: ``[h, w, 3]``, ``[h, w]`` and ``[h, w]`` (expected depth).
    """
    height, width = alpha.shape
    # The light that passes (negative when finished), and alpha, red, green, blue and depth so far. Alpha is not left
    # to be 1 - light, which has few digits where little is drawn.
    pixels = np.empty(6 * PLANE, np.float32)
    open_from, open_to = np.empty(TILE_HEIGHT, np.float32), np.empty(TILE_HEIGHT, np.float32)
    first, count = np.empty(TILE_HEIGHT, np.int32), np.empty(TILE_HEIGHT, np.int32)
    start, peak = np.empty(TILE_HEIGHT, np.float32), np.empty(TILE_HEIGHT, np.float32)
    batch = np.empty((BATCH, RECORD_WIDTH), np.float32)
    for tile in range(begin, end):
        left, top = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        columns, rows = min(TILE_WIDTH, width - left), min(TILE_HEIGHT, height - top)
        pixels[:] = 0
        for row in range(rows):
            open_from[row], open_to[row] = 0, columns - 1
            for column in range(columns):
                pixels[row * TILE_WIDTH + column] = 1

        for offset in range(tile_starts[tile], tile_starts[tile + 1], BATCH):
            size = min(BATCH, tile_starts[tile + 1] - offset)
            for i in range(size):
                _copy_row(records, tile_gaussians[offset + i], batch, i)
            for i in range(size):
                record = batch[i]
                along = F(0.125) * record[PRECISION_X]
                red, green, blue, z = record[RED], record[GREEN], record[BLUE], record[DEPTH]
                _find_spans(record, left, top, open_from, open_to, first, count, start, peak)
                first_row, end_row = _rows_of(record, top, rows)
                for row in range(first_row, end_row):
                    here, there, left_over = start[row], peak[row], int(count[row])
                    stop = here + F(left_over) - F(0.5)
                    p = U(row * TILE_WIDTH + first[row])
                    while left_over > 0:
                        for lane in range(STEP):
                            u = here + F(lane)
                            quarter = there - along * u * u
                            value = min(_exp_over_255(max(quarter, F(0))), limit)
                            value = value if (quarter >= F(0)) & (u < stop) else F(0)
                            before = pixels[p + lane]
                            light = max(before, F(0))
                            weight = light * value
                            after = light - weight
                            goes_on = after > LEAST_LIGHT
                            weight = weight if goes_on else F(0)
                            pixels[p + lane] = after if goes_on else -abs(before)
                            pixels[p + lane + P1] += weight
                            pixels[p + lane + P2] += weight * red
                            pixels[p + lane + P3] += weight * green
                            pixels[p + lane + P4] += weight * blue
                            pixels[p + lane + P5] += weight * z
                        p += STEP
                        here += F(LANES)
                        left_over -= LANES
            if not _shrink(pixels, rows, open_from, open_to):
                break

        for row in range(rows):
            for column in range(columns):
                p, y, x = row * TILE_WIDTH + column, top + row, left + column
                light = abs(pixels[p])
                for c in range(3):
                    rgb[y, x, c] = pixels[p + (2 + c) * PLANE] + light * background[c]
                alpha[y, x] = pixels[p + PLANE]
                depth[y, x] = pixels[p + 5 * PLANE] / max(pixels[p + PLANE], F(1e-10))


@kernel
def composite_vjp(
    begin, end, tiles_x, records, tile_starts, tile_gaussians, limit,
    rgb, alpha, depth, v_rgb, v_alpha, v_depth, entry_sums,
):  # fmt: skip
    """Gradients of tiles ``begin`` to ``end`` of a view.

    The pass goes front to back once more. What the pixels behind a Gaussian add to the loss is what the whole pixel
    adds, known from the image, less what has been passed; nothing has to be divided by a small transmittance.

    Args:
        rgb, alpha, depth: What :func:`composite` has drawn, and ``v_...`` the loss's gradients to them.
        entry_sums: Out: ``[pairs, 10]``, a row per entry of ``tile_gaussians``. With v = d loss / d ln(alpha), the sums
            over the tile of v, v u, v u^2, v dy, v u dy, v dy^2, and the gradients to red, green, blue and depth.
    """
    height, width = alpha.shape
    # The light that passes (0 when finished), what is behind, the gradients to red, green, blue and accumulated depth,
    # and the expected depth. Depths are taken relative to it: a weight w moves it by w (z - expected) / alpha.
    pixels = np.empty(7 * PLANE, np.float32)
    sums = np.empty(SPLAT_WIDTH * LANES, np.float32)
    open_from, open_to = np.empty(TILE_HEIGHT, np.float32), np.empty(TILE_HEIGHT, np.float32)
    first, count = np.empty(TILE_HEIGHT, np.int32), np.empty(TILE_HEIGHT, np.int32)
    start, peak = np.empty(TILE_HEIGHT, np.float32), np.empty(TILE_HEIGHT, np.float32)
    batch = np.empty((BATCH, RECORD_WIDTH), np.float32)
    for tile in range(begin, end):
        left, top = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        columns, rows = min(TILE_WIDTH, width - left), min(TILE_HEIGHT, height - top)
        pixels[:] = 0
        for row in range(rows):
            open_from[row], open_to[row] = 0, columns - 1
            for column in range(columns):
                p, y, x = row * TILE_WIDTH + column, top + row, left + column
                behind = -v_alpha[y, x] * (F(1) - alpha[y, x])
                for c in range(3):
                    pixels[p + (2 + c) * PLANE] = v_rgb[y, x, c]
                    behind += v_rgb[y, x, c] * rgb[y, x, c]
                pixels[p] = 1
                pixels[p + PLANE] = behind
                pixels[p + 5 * PLANE] = v_depth[y, x] / max(alpha[y, x], F(1e-10))
                pixels[p + 6 * PLANE] = depth[y, x]

        any_open = True
        for offset in range(tile_starts[tile], tile_starts[tile + 1], BATCH):
            size = min(BATCH, tile_starts[tile + 1] - offset)
            if not any_open:
                for i in range(size):
                    for k in range(SPLAT_WIDTH):
                        entry_sums[offset + i, k] = 0
                continue
            for i in range(size):
                _copy_row(records, tile_gaussians[offset + i], batch, i)
            for i in range(size):
                record = batch[i]
                along = F(0.125) * record[PRECISION_X]
                red, green, blue, z = record[RED], record[GREEN], record[BLUE], record[DEPTH]
                _find_spans(record, left, top, open_from, open_to, first, count, start, peak)
                sums[:] = 0
                first_row, end_row = _rows_of(record, top, rows)
                for row in range(first_row, end_row):
                    here, there, left_over = start[row], peak[row], int(count[row])
                    stop = here + F(left_over) - F(0.5)
                    p = U(row * TILE_WIDTH + first[row])
                    dy = F(top + row) + F(0.5) - record[CENTRE_Y]
                    while left_over > 0:
                        for lane in range(STEP):
                            u = here + F(lane)
                            quarter = there - along * u * u
                            free = _exp_over_255(max(quarter, F(0)))
                            value = min(free, limit)
                            value = value if (quarter >= F(0)) & (u < stop) else F(0)
                            light = pixels[p + lane]
                            weight = light * value
                            after = light - weight
                            goes_on = after > LEAST_LIGHT
                            weight = weight if goes_on else F(0)
                            pixels[p + lane] = after if goes_on else F(0)
                            v_red, v_green = pixels[p + lane + P2], pixels[p + lane + P3]
                            v_blue, v_z = pixels[p + lane + P4], pixels[p + lane + P5]
                            v_weight = v_red * red + v_green * green + v_blue * blue
                            v_weight += v_z * (z - pixels[p + lane + P6])
                            behind = pixels[p + lane + P1] - weight * v_weight
                            pixels[p + lane + P1] = behind
                            v = value * (light * v_weight - behind / (F(1) - value))
                            v = v if goes_on & (free <= limit) else F(0)
                            vu, vy = v * u, v * dy
                            sums[lane] += v
                            sums[lane + S1] += vu
                            sums[lane + S2] += vu * u
                            sums[lane + S3] += vy
                            sums[lane + S4] += vy * u
                            sums[lane + S5] += vy * dy
                            sums[lane + S6] += weight * v_red
                            sums[lane + S7] += weight * v_green
                            sums[lane + S8] += weight * v_blue
                            sums[lane + S9] += weight * v_z
                        p += STEP
                        here += F(LANES)
                        left_over -= LANES
                for k in range(SPLAT_WIDTH):
                    total = F(0)
                    for lane in range(LANES):
                        total += sums[k * LANES + lane]
                    entry_sums[offset + i, k] = total
            any_open = _shrink(pixels, rows, open_from, open_to)


@kernel
def composite_jvp(
    begin, end, tiles_x, records, d_splats, tile_starts, tile_gaussians, limit, background,
    alpha, depth, d_rgb, d_alpha, d_depth,
):  # fmt: skip
    """Tangents of tiles ``begin`` to ``end`` of a view.

    Args:
        d_splats: ``[n, 10]`` tangents of the first ten columns of ``records``.
        alpha, depth: What :func:`composite` has drawn.
        d_rgb, d_alpha, d_depth: Out: tangents of the images.
    """
    height, width = alpha.shape
    # The light that passes (0 when finished), and tangents of alpha, red, green, blue and depth so far.
    pixels = np.empty(6 * PLANE, np.float32)
    open_from, open_to = np.empty(TILE_HEIGHT, np.float32), np.empty(TILE_HEIGHT, np.float32)
    first, count = np.empty(TILE_HEIGHT, np.int32), np.empty(TILE_HEIGHT, np.int32)
    start, peak = np.empty(TILE_HEIGHT, np.float32), np.empty(TILE_HEIGHT, np.float32)
    batch, d_batch = np.empty((BATCH, RECORD_WIDTH), np.float32), np.empty((BATCH, SPLAT_WIDTH), np.float32)
    for tile in range(begin, end):
        left, top = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        columns, rows = min(TILE_WIDTH, width - left), min(TILE_HEIGHT, height - top)
        pixels[:] = 0
        for row in range(rows):
            open_from[row], open_to[row] = 0, columns - 1
            for column in range(columns):
                pixels[row * TILE_WIDTH + column] = 1

        for offset in range(tile_starts[tile], tile_starts[tile + 1], BATCH):
            size = min(BATCH, tile_starts[tile + 1] - offset)
            for i in range(size):
                _copy_row(records, tile_gaussians[offset + i], batch, i)
                _copy_row(d_splats, tile_gaussians[offset + i], d_batch, i)
            for i in range(size):
                record, d_splat = batch[i], d_batch[i]
                along = F(0.125) * record[PRECISION_X]
                red, green, blue, z = record[RED], record[GREEN], record[BLUE], record[DEPTH]
                d_red, d_green, d_blue, d_z = d_splat[RED], d_splat[GREEN], d_splat[BLUE], d_splat[DEPTH]
                _find_spans(record, left, top, open_from, open_to, first, count, start, peak)
                first_row, end_row = _rows_of(record, top, rows)
                for row in range(first_row, end_row):
                    here, there, left_over = start[row], peak[row], int(count[row])
                    stop = here + F(left_over) - F(0.5)
                    p = U(row * TILE_WIDTH + first[row])
                    dy = F(top + row) + F(0.5) - record[CENTRE_Y]
                    # d ln(alpha) = constant + linear u + quadratic u^2 in this row.
                    du = record[SLOPE] * d_splat[CENTRE_Y] - d_splat[CENTRE_X] - d_splat[SLOPE] * dy
                    constant = d_splat[LOG_OPACITY] + record[PRECISION_Y] * dy * d_splat[CENTRE_Y]
                    constant -= F(0.5) * d_splat[PRECISION_Y] * dy * dy
                    linear, quadratic = -record[PRECISION_X] * du, F(-0.5) * d_splat[PRECISION_X]
                    while left_over > 0:
                        for lane in range(STEP):
                            u = here + F(lane)
                            quarter = there - along * u * u
                            free = _exp_over_255(max(quarter, F(0)))
                            value = min(free, limit)
                            value = value if (quarter >= F(0)) & (u < stop) else F(0)
                            light = pixels[p + lane]
                            weight = light * value
                            after = light - weight
                            goes_on = after > LEAST_LIGHT
                            weight = weight if goes_on else F(0)
                            pixels[p + lane] = after if goes_on else F(0)
                            d_log = constant + u * (linear + u * quadratic)
                            d_log = d_log if free <= limit else F(0)
                            d_weight = value * (light * d_log - pixels[p + lane + P1])
                            d_weight = d_weight if goes_on else F(0)
                            pixels[p + lane + P1] += d_weight
                            pixels[p + lane + P2] += d_weight * red + weight * d_red
                            pixels[p + lane + P3] += d_weight * green + weight * d_green
                            pixels[p + lane + P4] += d_weight * blue + weight * d_blue
                            pixels[p + lane + P5] += d_weight * z + weight * d_z
                        p += STEP
                        here += F(LANES)
                        left_over -= LANES
            if not _shrink(pixels, rows, open_from, open_to):
                break

        for row in range(rows):
            for column in range(columns):
                p, y, x = row * TILE_WIDTH + column, top + row, left + column
                d_covered = pixels[p + PLANE]
                for c in range(3):
                    d_rgb[y, x, c] = pixels[p + (2 + c) * PLANE] - d_covered * background[c]
                d_alpha[y, x] = d_covered
                d_depth[y, x] = (pixels[p + 5 * PLANE] - depth[y, x] * d_covered) / max(alpha[y, x], F(1e-10))
