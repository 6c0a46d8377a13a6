"""Which Gaussians are drawn in which tile, front to back."""

from __future__ import annotations

import numpy as np

from l2o_splat.kernel import kernel
from l2o_splat.rendering.cpu_records import DEPTH


@kernel
def bin_into_tiles(records, tiles, tiles_x, tiles_y):
    """Lists of the Gaussians of each tile of a view, in the order of their numbers.

    A *pair* is a Gaussian in a tile. Pairs are numbered Gaussian after Gaussian; their *entries* in the lists come tile
    after tile.

    Args:
        records: ``[n, 16]``
        tiles: ``[n, 4]`` rectangle of tiles of each Gaussian.

    Returns:
        ``pair_starts [n + 1]``, the first pair of every Gaussian; ``tile_starts [tiles + 1]``, the first entry of
        every tile in the lists; the lists ``[pairs]`` of Gaussians, of pairs and of depths.
    """
    n = len(tiles)
    pair_starts, tile_starts = np.empty(n + 1, np.int32), np.zeros(tiles_x * tiles_y + 1, np.int32)
    pairs = 0
    for g in range(n):
        pair_starts[g] = pairs
        for tile_y in range(tiles[g, 1], tiles[g, 3]):
            for tile_x in range(tiles[g, 0], tiles[g, 2]):
                tile_starts[tile_y * tiles_x + tile_x + 1] += 1
                pairs += 1
    pair_starts[n] = pairs
    for tile in range(tiles_x * tiles_y):
        tile_starts[tile + 1] += tile_starts[tile]

    ends = tile_starts[:-1].copy()
    tile_gaussians, tile_pairs = np.empty(pairs, np.int32), np.empty(pairs, np.int32)
    tile_depths = np.empty(pairs, np.float32)
    pair = 0
    for g in range(n):
        for tile_y in range(tiles[g, 1], tiles[g, 3]):
            for tile_x in range(tiles[g, 0], tiles[g, 2]):
                place = ends[tile_y * tiles_x + tile_x]
                ends[tile_y * tiles_x + tile_x] += 1
                tile_gaussians[place], tile_pairs[place], tile_depths[place] = g, pair, records[g, DEPTH]
                pair += 1
    return pair_starts, tile_starts, tile_gaussians, tile_pairs, tile_depths


@kernel
def sort_tiles(begin, end, tile_starts, tile_gaussians, tile_pairs, tile_depths, entries):
    """Sort the Gaussians of tiles ``begin`` to ``end`` by depth, nearest first; those of one depth keep their order.

    Writes to ``entries`` ``[pairs]`` where in the sorted lists each pair is to be found.

    A radix sort of one byte after the other: positive floats are in the order of their bits.
    """
    longest = 0
    for tile in range(begin, end):
        longest = max(longest, tile_starts[tile + 1] - tile_starts[tile])
    keys, other_keys = np.empty(longest, np.uint32), np.empty(longest, np.uint32)
    places, other_places = np.empty(longest, np.int32), np.empty(longest, np.int32)
    gaussians = np.empty(longest, np.int32)
    counts = np.empty((4, 256), np.int32)
    depth_bits = tile_depths.view(np.uint32)
    for tile in range(begin, end):
        start, size = tile_starts[tile], tile_starts[tile + 1] - tile_starts[tile]
        counts[:] = 0
        for i in range(size):
            key = depth_bits[start + i]
            keys[i], places[i] = key, i
            gaussians[i] = tile_gaussians[start + i]
            for byte in range(4):
                counts[byte, (key >> np.uint32(8 * byte)) & np.uint32(255)] += 1
        for byte in range(4):
            shift = np.uint32(8 * byte)
            if size == 0 or counts[byte, (keys[0] >> shift) & np.uint32(255)] == size:
                continue
            total = 0
            for digit in range(256):
                counts[byte, digit], total = total, total + counts[byte, digit]
            for i in range(size):
                digit = (keys[i] >> shift) & np.uint32(255)
                place = counts[byte, digit]
                counts[byte, digit] += 1
                other_keys[place], other_places[place] = keys[i], places[i]
            keys, other_keys = other_keys, keys
            places, other_places = other_places, places
        for i in range(size):
            tile_gaussians[start + i] = gaussians[places[i]]
            entries[tile_pairs[start + places[i]]] = start + i
