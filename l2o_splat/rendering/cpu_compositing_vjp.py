"""Compositing on the CPU: gradients of what :mod:`cpu_compositing` draws."""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import kernel
from l2o_splat.lanes import filled, least, load, select, store, store_totals
from l2o_splat.rendering.cpu_records import (
    BLUE,
    DEPTH,
    GREEN,
    RECORD_WIDTH,
    RED,
    SUMS_WIDTH,
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
P1, P2, P3, P4, P5, P6, P7, P8 = (U(k * PLANE) for k in range(1, 9))


@kernel
def composite_vjp(
    begin, end, tiles_x, records, tile_starts, tile_gaussians, limit,
    rgb, alpha, depth, v_rgb, v_alpha, v_depth, curvature, error, entry_sums,
):  # fmt: skip
    """Gradients of tiles ``begin`` to ``end`` of a view.

    The pass goes front to back once more. What the pixels behind a Gaussian add to the loss is what the whole pixel
    adds, known from the image, less what has been passed; nothing has to be divided by a small transmittance.

    Args:
        rgb, alpha, depth: What :func:`composite` has drawn; depth is None if it has no gradient.
        v_rgb, v_alpha, v_depth: The loss's gradients to them; those of alpha and depth may be None.
        curvature, error: ``[h, w]`` what the pixels count in two more sums; None if these are not wanted, the error
            alone or both.
        entry_sums: Out: ``[pairs, 16]``, a row per entry of ``tile_gaussians``. With v = d loss / d ln(alpha), the sums
            over the tile of v, v u, v u^2, v dy, v u dy, v dy^2, and the gradients to red, green, blue and depth.
            Then, with a curvature, the sums of the blending weights w, of w times the curvature and w times the error.
    """
    height, width = alpha.shape
    # The light that passes (0 when finished), what is behind, the gradients to red, green, blue and accumulated depth,
    # and the expected depth. Depths are taken relative to it: a weight w moves it by w (z - expected) / alpha. Then the
    # curvature and the error.
    pixels, zero = np.zeros(9 * PLANE, np.float32), filled(F(0))
    open_from, open_to = np.empty(NUM_STRIPS, np.int64), np.empty(NUM_STRIPS, np.int64)
    lows, highs = np.empty(BATCH * TILE_HEIGHT, np.float32), np.empty(BATCH * TILE_HEIGHT, np.float32)
    batch = np.empty((BATCH, RECORD_WIDTH), np.float32)
    flat_records, flat_batch, flat_sums = records.reshape(-1), batch.reshape(-1), entry_sums.reshape(-1)
    for tile in range(begin, end):
        left, top = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        columns, rows = min(TILE_WIDTH, width - left), min(TILE_HEIGHT, height - top)
        open_tile(pixels, rows, columns, open_from, open_to)
        for row in range(rows):
            y, start = top + row, row_start(row)
            for column in range(columns):
                x, p = left + column, start + in_row(column)
                v_red, v_green, v_blue = v_rgb[y, x, 0], v_rgb[y, x, 1], v_rgb[y, x, 2]
                pixels[p + P2], pixels[p + P3], pixels[p + P4] = v_red, v_green, v_blue
                behind = v_red * rgb[y, x, 0] + v_green * rgb[y, x, 1] + v_blue * rgb[y, x, 2]
                if v_alpha is not None:
                    behind -= v_alpha[y, x] * (F(1) - alpha[y, x])
                pixels[p + P1] = behind
                if depth is not None:
                    pixels[p + P5] = v_depth[y, x] / max(alpha[y, x], F(1e-10))
                    pixels[p + P6] = depth[y, x]
                if curvature is not None:
                    pixels[p + P7] = curvature[y, x]
                if error is not None:
                    pixels[p + P8] = error[y, x]

        any_open = True
        for offset in range(tile_starts[tile], tile_starts[tile + 1], BATCH):
            size = min(BATCH, tile_starts[tile + 1] - offset)
            if not any_open:
                entry_sums[offset : offset + size] = 0
                continue
            for i in range(size):
                copy_record(flat_records, tile_gaussians[offset + i], flat_batch, i)
            for i in range(size):
                find_spans(batch[i], left, top, lows, highs, i * TILE_HEIGHT)
            for i in range(size):
                record = batch[i]
                ellipse = ellipse_of(record, left, top)
                along = ellipse[0]
                red, green, blue, z = record[RED], record[GREEN], record[BLUE], record[DEPTH]
                s0, s1, s2, s3, s4 = zero, zero, zero, zero, zero
                s5, s6, s7, s8, s9 = zero, zero, zero, zero, zero
                s10, s11, s12 = zero, zero, zero
                first_strip, end_strip = strips_of(record, top)
                for strip in range(first_strip, end_strip):
                    span = i * TILE_HEIGHT + strip * STRIP_HEIGHT
                    first, last = open_blocks(lows[span], highs[span], open_from[strip], open_to[strip])
                    if first > last:
                        continue
                    dy, u, there = start_of_strip(ellipse, strip, first)
                    p = U(strip) * STRIP_STEP + U(first) * STEP
                    strip0, strip1 = zero, zero
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
                        by_red, by_green, by_blue = load(pixels, p + P2), load(pixels, p + P3), load(pixels, p + P4)
                        v_weight = by_red * red + by_green * green + by_blue * blue
                        if depth is not None:
                            by_z = load(pixels, p + P5)
                            v_weight = v_weight + by_z * (z - load(pixels, p + P6))
                            s9 = s9 + weight * by_z
                        behind = load(pixels, p + P1) - weight * v_weight
                        store(pixels, p + P1, behind)
                        v = value * (light * v_weight - behind / (F(1) - value))
                        v = select(goes_on & (free <= limit), v, F(0))
                        vu = v * u
                        strip0, strip1, s2 = strip0 + v, strip1 + vu, s2 + vu * u
                        s6, s7, s8 = s6 + weight * by_red, s7 + weight * by_green, s8 + weight * by_blue
                        if curvature is not None:
                            s10, s11 = s10 + weight, s11 + weight * load(pixels, p + P7)
                        if error is not None:
                            s12 = s12 + weight * load(pixels, p + P8)
                        p += STEP
                        u = u + F(BLOCK_WIDTH)
                    s0, s1 = s0 + strip0, s1 + strip1
                    s3, s4, s5 = s3 + strip0 * dy, s4 + strip1 * dy, s5 + strip0 * dy * dy
                sums = (s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12)
                store_totals(flat_sums, U(offset + i) * U(SUMS_WIDTH), sums)
            any_open = shrink(pixels, open_from, open_to)
