"""Compositing on the CPU: tangents of what :mod:`cpu_compositing` draws."""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import kernel
from l2o_splat.lanes import least, load, select, store
from l2o_splat.rendering.cpu_records import (
    BLUE,
    CENTRE_X,
    CENTRE_Y,
    DEPTH,
    GREEN,
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
from l2o_splat.rendering.cpu_strips import (
    BATCH,
    BLOCK_WIDTH,
    LEAST_LIGHT,
    NUM_STRIPS,
    PLANE,
    STEP,
    STRIP_HEIGHT,
    STRIP_STEP,
    copy_record,
    ellipse_of,
    exp_over_255,
    find_spans,
    in_row,
    open_blocks,
    open_tile,
    row_start,
    shrink,
    start_of_strip,
    strips_of,
)

F, U = np.float32, np.uint64
P1, P2, P3, P4, P5 = (U(k * PLANE) for k in range(1, 6))


@kernel
def composite_jvp(
    begin, end, tiles_x, records, d_splats, tile_starts, tile_gaussians, limit, background,
    alpha, depth, d_rgb, d_alpha, d_depth,
):  # fmt: skip
    """Tangents of tiles ``begin`` to ``end`` of a view.

    Args:
        d_splats: ``[n, 10]`` tangents of the first ten columns of ``records``.
        alpha, depth: What :func:`composite` has drawn.
        d_rgb, d_alpha, d_depth: Out: tangents of the images; the last may be None.
    """
    height, width = alpha.shape
    # The light that passes (0 when finished), and tangents of alpha, red, green, blue and depth so far.
    pixels = np.empty(6 * PLANE, np.float32)
    open_from, open_to = np.empty(NUM_STRIPS, np.int64), np.empty(NUM_STRIPS, np.int64)
    lows, highs = np.empty(BATCH * TILE_HEIGHT, np.float32), np.empty(BATCH * TILE_HEIGHT, np.float32)
    batch, d_batch = np.empty((BATCH, RECORD_WIDTH), np.float32), np.empty((BATCH, SPLAT_WIDTH), np.float32)
    flat_records, flat_batch = records.reshape(-1), batch.reshape(-1)
    for tile in range(begin, end):
        left, top = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        columns, rows = min(TILE_WIDTH, width - left), min(TILE_HEIGHT, height - top)
        pixels[:] = 0
        open_tile(pixels, rows, columns, open_from, open_to)

        for offset in range(tile_starts[tile], tile_starts[tile + 1], BATCH):
            size = min(BATCH, tile_starts[tile + 1] - offset)
            for i in range(size):
                copy_record(flat_records, tile_gaussians[offset + i], flat_batch, i)
                for column in range(SPLAT_WIDTH):
                    d_batch[i, column] = d_splats[tile_gaussians[offset + i], column]
            for i in range(size):
                find_spans(batch[i], left, top, lows, highs, i * TILE_HEIGHT)
            for i in range(size):
                record, d_splat = batch[i], d_batch[i]
                ellipse = ellipse_of(record, left, top)
                along = ellipse[0]
                red, green, blue, z = record[RED], record[GREEN], record[BLUE], record[DEPTH]
                d_red, d_green, d_blue, d_z = d_splat[RED], d_splat[GREEN], d_splat[BLUE], d_splat[DEPTH]
                # d ln(alpha) = constant + linear u + quadratic u^2 in each row.
                from_centre = record[SLOPE] * d_splat[CENTRE_Y] - d_splat[CENTRE_X]
                by_dy, by_dy2 = record[PRECISION_Y] * d_splat[CENTRE_Y], F(0.5) * d_splat[PRECISION_Y]
                quadratic = F(-0.5) * d_splat[PRECISION_X]
                first_strip, end_strip = strips_of(record, top)
                for strip in range(first_strip, end_strip):
                    span = i * TILE_HEIGHT + strip * STRIP_HEIGHT
                    first, last = open_blocks(lows[span], highs[span], open_from[strip], open_to[strip])
                    if first > last:
                        continue
                    dy, u, there = start_of_strip(ellipse, strip, first)
                    constant = dy * (by_dy - dy * by_dy2) + d_splat[LOG_OPACITY]
                    linear = (dy * d_splat[SLOPE] - from_centre) * record[PRECISION_X]
                    p = U(strip) * STRIP_STEP + U(first) * STEP
                    for _ in range(last - first + 1):
                        quarter = there - u * along * u
                        free = exp_over_255(quarter)
                        value = select(quarter >= F(0), least(free, limit), F(0))
                        light = load(pixels, p)
                        weight = light * value
                        after = light - weight
                        goes_on = after > LEAST_LIGHT
                        weight = select(goes_on, weight, F(0))
                        store(pixels, p, select(goes_on, after, F(0)))
                        d_log = select(free <= limit, constant + u * (linear + u * quadratic), F(0))
                        d_weight = select(goes_on, value * (light * d_log - load(pixels, p + P1)), F(0))
                        store(pixels, p + P1, load(pixels, p + P1) + d_weight)
                        store(pixels, p + P2, load(pixels, p + P2) + d_weight * red + weight * d_red)
                        store(pixels, p + P3, load(pixels, p + P3) + d_weight * green + weight * d_green)
                        store(pixels, p + P4, load(pixels, p + P4) + d_weight * blue + weight * d_blue)
                        if d_depth is not None:
                            store(pixels, p + P5, load(pixels, p + P5) + d_weight * z + weight * d_z)
                        p += STEP
                        u = u + F(BLOCK_WIDTH)
            if not shrink(pixels, open_from, open_to):
                break

        for row in range(rows):
            y, start = top + row, row_start(row)
            for column in range(columns):
                x, p = left + column, start + in_row(column)
                d_covered = pixels[p + P1]
                for c in range(3):
                    d_rgb[y, x, c] = pixels[p + U(2 + c) * U(PLANE)] - d_covered * background[c]
                d_alpha[y, x] = d_covered
                if d_depth is not None:
                    d_depth[y, x] = (pixels[p + P5] - depth[y, x] * d_covered) / max(alpha[y, x], F(1e-10))
