"""Compositing on the CPU: the images, tile by tile.

The Gaussians of a tile are drawn front to back; :mod:`cpu_strips` says where. The three kernels (images here, gradients
in :mod:`cpu_compositing_vjp`, tangents in :mod:`cpu_compositing_jvp`) share its functions, and so agree on which
pixels are drawn. Run ``benchmarks/rasterizer.py`` after a change of the inner loops.
"""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import kernel
from l2o_splat.lanes import least, load, most, select, store
from l2o_splat.rendering.cpu_records import (
    BLUE,
    DEPTH,
    GREEN,
    RECORD_WIDTH,
    RED,
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
def composite(begin, end, tiles_x, records, tile_starts, tile_gaussians, limit, background, rgb, alpha, depth):
    """Draw tiles ``begin`` to ``end`` of a view.

    Args:
        records: ``[n, 16]``; ``tile_starts`` and ``tile_gaussians`` list those of each tile, front to back.
        limit: Largest alpha.
        background: ``[3]``
        rgb, alpha, depth: Out: ``[h, w, 3]``, ``[h, w]`` and ``[h, w]`` (expected depth); depth may be None.
    """
    height, width = alpha.shape
    # The light that passes (0 when finished), and alpha, red, green, blue and depth so far. Alpha is not left to be
    # 1 - light, which has few digits where little is drawn.
    pixels = np.empty(6 * PLANE, np.float32)
    open_from, open_to = np.empty(NUM_STRIPS, np.int64), np.empty(NUM_STRIPS, np.int64)
    lows, highs = np.empty(BATCH * TILE_HEIGHT, np.float32), np.empty(BATCH * TILE_HEIGHT, np.float32)
    batch = np.empty((BATCH, RECORD_WIDTH), np.float32)
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
            for i in range(size):
                find_spans(batch[i], left, top, lows, highs, i * TILE_HEIGHT)
            for i in range(size):
                record = batch[i]
                ellipse = ellipse_of(record, left, top)
                along = ellipse[0]
                red, green, blue, z = record[RED], record[GREEN], record[BLUE], record[DEPTH]
                first_strip, end_strip = strips_of(record, top)
                for strip in range(first_strip, end_strip):
                    span = i * TILE_HEIGHT + strip * STRIP_HEIGHT
                    first, last = open_blocks(lows[span], highs[span], open_from[strip], open_to[strip])
                    if first > last:
                        continue
                    _, u, there = start_of_strip(ellipse, strip, first)
                    p = U(strip) * STRIP_STEP + U(first) * STEP
                    for _ in range(last - first + 1):
                        quarter = there - u * along * u
                        value = select(quarter >= F(0), least(exp_over_255(quarter), limit), F(0))
                        light = load(pixels, p)
                        weight = light * value
                        after = light - weight
                        goes_on = after > LEAST_LIGHT
                        weight = select(goes_on, weight, F(0))
                        store(pixels, p, select(goes_on, after, F(0)))
                        store(pixels, p + P1, load(pixels, p + P1) + weight)
                        store(pixels, p + P2, load(pixels, p + P2) + weight * red)
                        store(pixels, p + P3, load(pixels, p + P3) + weight * green)
                        store(pixels, p + P4, load(pixels, p + P4) + weight * blue)
                        if depth is not None:
                            store(pixels, p + P5, load(pixels, p + P5) + weight * z)
                        p += STEP
                        u = u + F(BLOCK_WIDTH)
            if not shrink(pixels, open_from, open_to):
                break

        for p in range(U(0), U(TILE_WIDTH * TILE_HEIGHT), STEP):
            covered = load(pixels, p + P1)
            light = F(1) - covered
            store(pixels, p + P2, load(pixels, p + P2) + light * background[0])
            store(pixels, p + P3, load(pixels, p + P3) + light * background[1])
            store(pixels, p + P4, load(pixels, p + P4) + light * background[2])
            if depth is not None:
                store(pixels, p + P5, load(pixels, p + P5) / most(covered, F(1e-10)))
        for row in range(rows):
            y, start = top + row, row_start(row)
            for column in range(columns):
                x, p = left + column, start + in_row(column)
                alpha[y, x] = pixels[p + P1]
                rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2] = pixels[p + P2], pixels[p + P3], pixels[p + P4]
                if depth is not None:
                    depth[y, x] = pixels[p + P5]
