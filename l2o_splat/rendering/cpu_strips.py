"""Where in a tile a Gaussian is drawn, and how opaque it is there: what all compositing kernels share.

A tile is cut into *strips* of ``STRIP_HEIGHT`` rows and these into *blocks* of ``BLOCK_WIDTH`` columns, so that a block
is one vector. The buffers of a tile hold block after block: all memory accesses are aligned, and few lanes of a vector
fall outside of a Gaussian that is a few pixels wide.

The exponent is taken apart along the row: with dy from the centre and u from the ridge of the row,

    ln(255 alpha) = ln(255 opacity) - precision_x u^2 / 2 - precision_y dy^2 / 2,    u = dx - slope dy,

which is the usual dx^T conic dx / 2 without the cancellation that it suffers for thin Gaussians.
"""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import inlined
from l2o_splat.lanes import (
    LANES,
    any_lane,
    ceiling,
    constant,
    floor,
    least,
    load,
    most,
    of_groups,
    root,
    select,
    store,
)
from l2o_splat.rendering.cpu_records import (
    CENTRE_X,
    CENTRE_Y,
    FIRST_COLUMN,
    FIRST_ROW,
    LAST_COLUMN,
    LAST_ROW,
    LOG_OPACITY,
    PRECISION_X,
    PRECISION_Y,
    REACH,
    RECORD_WIDTH,
    SLOPE,
    TILE_HEIGHT,
    TILE_WIDTH,
)

F, U = np.float32, np.uint64

BLOCK_WIDTH = 4
STRIP_HEIGHT = LANES // BLOCK_WIDTH
"""Rows of a strip, and so of a block."""
NUM_STRIPS = TILE_HEIGHT // STRIP_HEIGHT
BLOCKS_PER_STRIP = TILE_WIDTH // BLOCK_WIDTH
STEP = U(LANES)
"""Entries of a buffer from one block to the next in its strip."""
STRIP_STEP = U(BLOCKS_PER_STRIP * LANES)
"""Entries of a buffer from one strip to the next."""
PLANE = TILE_WIDTH * TILE_HEIGHT + 5 * 16
"""Entries per quantity in the buffer of a tile."""
BATCH = 32
"""Gaussians whose records are copied together; also how often it is checked whether a tile is finished."""
LEAST_LIGHT = F(1e-4)
"""A pixel is finished before the Gaussian that would let less light pass."""
_NEVER = F(1e9)

lane_numbers = constant(range(LANES))
"""0, 1, 2, ..."""
lane_columns = constant([lane % BLOCK_WIDTH for lane in range(LANES)])
"""Column of each lane in its block."""
lane_rows = constant([lane // BLOCK_WIDTH for lane in range(LANES)])
"""Row of each lane in its strip."""
_least_of_rows = of_groups("least_of_rows", "<", STRIP_HEIGHT)
_most_of_rows = of_groups("most_of_rows", ">", STRIP_HEIGHT)


@inlined
def exp_over_255(quarter):
    """exp(4 quarter) / 255 for 0 <= quarter <= ln(255) / 4, to 5e-7: a minimax polynomial to the fourth power."""
    second = quarter * quarter
    high = quarter * F(9.794021713648504e-05) + F(0.0002315890737719087)
    high = high * second + (quarter * F(0.002221256570649048) + F(0.010341471894894958))
    low = quarter * F(0.041735904620942) + F(0.12511782196793628)
    low = low * second + (quarter * F(0.2502450081032835) + F(0.2502447358845263))
    result = high * (second * second) + low
    result = result * result
    return result * result


@inlined
def row_start(row):
    """Where the first pixel of a row is to be found in a plane of a tile's buffer; its blocks are ``STEP`` apart."""
    return U(row // STRIP_HEIGHT) * STRIP_STEP + U(row % STRIP_HEIGHT * BLOCK_WIDTH)


@inlined
def in_row(column):
    """Where the pixel in a column is to be found, from the first one of its row."""
    return (U(column) // U(BLOCK_WIDTH)) * STEP + U(column) % U(BLOCK_WIDTH)


@inlined
def open_tile(light, rows, columns, open_from, open_to):
    """Let light pass through the pixels of a tile that are in the image, none through the others.

    Args:
        light: Out: first plane of the tile's buffer.
        open_from, open_to: Out: blocks of each strip between which light passes.
    """
    for strip in range(NUM_STRIPS):
        inside = (F(rows - strip * STRIP_HEIGHT) - lane_rows()) > F(0)
        for block in range(BLOCKS_PER_STRIP):
            in_image = inside & ((F(columns - block * BLOCK_WIDTH) - lane_columns()) > F(0))
            store(light, U(strip) * STRIP_STEP + U(block) * STEP, select(in_image, F(1), F(0)))
        open_from[strip] = 0
        open_to[strip] = (columns - 1) // BLOCK_WIDTH if strip * STRIP_HEIGHT < rows else -1


@inlined
def shrink(light, open_from, open_to):
    """Find the blocks between which light still passes in each strip of the tile; returns whether there are any."""
    any_open = False
    for strip in range(NUM_STRIPS):
        first, last, start = open_from[strip], open_to[strip], U(strip) * STRIP_STEP
        while first <= last and not any_lane(load(light, start + U(first) * STEP) > F(0)):
            first += 1
        while first <= last and not any_lane(load(light, start + U(last) * STEP) > F(0)):
            last -= 1
        open_from[strip], open_to[strip] = first, last
        any_open |= first <= last
    return any_open


@inlined
def copy_record(records, source, batch, target):
    """Copy a record to a row of the batch; both arrays are flat."""
    for column in range(0, RECORD_WIDTH, LANES):
        place = U(column)
        store(batch, U(target * RECORD_WIDTH) + place, load(records, U(source) * U(RECORD_WIDTH) + place))


@inlined
def ellipse_of(record, left, top):
    """A Gaussian's exponent over 4, with its centre counted from pixel (left, top).

    Returns:
        What u^2 and dy^2 are multiplied by, the value at the centre, the slope, and the column and row of the centre.
    """
    return (
        F(0.125) * record[PRECISION_X],
        F(0.125) * record[PRECISION_Y],
        F(0.25) * record[LOG_OPACITY],
        record[SLOPE],
        record[CENTRE_X] - F(left) - F(0.5),
        record[CENTRE_Y] - F(top) - F(0.5),
    )


@inlined
def find_spans(record, left, top, lows, highs, start):
    """First and last column in which a Gaussian is drawn, counted from ``left``, for the strips of a tile.

    Args:
        lows, highs: Out: ``[TILE_HEIGHT]``; those of a strip are at the number of its first row. ``highs`` is less than
            ``lows`` if there are none.
    """
    _, across, highest, slope, centre_x, centre_y = ellipse_of(record, left, top)
    first_row, last_row = record[FIRST_ROW] - F(top), record[LAST_ROW] - F(top)
    for row in range(0, TILE_HEIGHT, LANES):
        rows = lane_numbers() + F(row)
        dy = rows - centre_y
        ridge = dy * slope + centre_x
        value = highest - dy * dy * across
        # The margin is for rounding; the inner loops check every alpha anyway.
        half = root(most(value, F(0))) * record[REACH] + F(0.01)
        drawn = (value >= F(0)) & (rows >= first_row) & (rows <= last_row)
        low = most(ceiling(ridge - half), record[FIRST_COLUMN] - F(left))
        high = least(floor(ridge + half), record[LAST_COLUMN] - F(left))
        store(lows, U(start + row), _least_of_rows(select(drawn, low, _NEVER)))
        store(highs, U(start + row), _most_of_rows(select(drawn, high, -_NEVER)))


@inlined
def strips_of(record, top):
    """First strip of the tile in which the Gaussian may be drawn, and the strip after the last."""
    first, last = max(int(record[FIRST_ROW]) - top, 0), min(int(record[LAST_ROW]) - top, TILE_HEIGHT - 1)
    return first // STRIP_HEIGHT, last // STRIP_HEIGHT + 1


@inlined
def open_blocks(low, high, open_from, open_to):
    """First and last block between two columns of a strip through which light passes; the last may be less."""
    return max(int(low) // BLOCK_WIDTH, open_from), min(int(high) // BLOCK_WIDTH, open_to)


@inlined
def start_of_strip(ellipse, strip, block):
    """The lanes of a block: dy, u, and the exponent over 4 where u is 0; u grows by ``BLOCK_WIDTH`` a block."""
    _, across, highest, slope, centre_x, centre_y = ellipse
    dy = lane_rows() + (F(strip * STRIP_HEIGHT) - centre_y)
    u = lane_columns() + (F(block * BLOCK_WIDTH) - centre_x) - dy * slope
    return dy, u, highest - dy * dy * across
