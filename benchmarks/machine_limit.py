"""How far compositing is from what the processor can do: ``python benchmarks/machine_limit.py``.

Counts the blocks of pixels (one vector each) in which Gaussians are drawn, multiplies them by the arithmetic of one
block, and divides by the time on one thread. Beside it stand the rate of a loop of nothing but multiply-adds on
vectors, and the bytes that a step has to move against the rate of a copy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import torch

if not __package__:  # Run as a program.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rasterizer import describe_machine, feed_forward_scene, row
from l2o_splat.lanes import LANES, filled, load, total
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering.cpu_records import SUMS_WIDTH, TILE_HEIGHT, TILE_WIDTH
from l2o_splat.rendering.cpu_scene import ProjectedScene, empty_images
from l2o_splat.rendering.cpu_strips import BLOCK_WIDTH, STRIP_HEIGHT, find_spans, strips_of

FORWARD, BACKWARD = 37, 59
"""Additions, multiplications, comparisons and selections per pixel in the inner loops of both kernels, a fused
multiply-add counting twice; one division of the backward loop counts once."""
BYTES_PER_SPLAT = 64 + 64 + 2 * 64 + 2 * SUMS_WIDTH * 4 + 8
"""A Gaussian in a view: its record is written once and read three times, its sums are written and read."""
BYTES_PER_GAUSSIAN = 2 * 59 * 4 + 59 * 4
"""Its parameters are read twice and its gradients written."""
BYTES_PER_PIXEL = 4 * (3 + 1) + 4 * (3 + 3 + 3) + 4 * (3 + 3 + 1)
"""Images written; render, photograph and gradient in the loss; gradient and image read back."""


@numba.njit
def multiply_adds(numbers, rounds):
    """Multiply-adds of ten chains of vectors."""
    a, b = load(numbers, 0), load(numbers, LANES)
    c, d, e, f, g = a, b, a, b, a
    h, i, j, k, m = b, a, b, a, b
    for _ in range(rounds):
        c, d, e, f, g = c * a + b, d * a + b, e * a + b, f * a + b, g * a + b
        h, i, j, k, m = h * a + b, i * a + b, j * a + b, k * a + b, m * a + b
    return total(c + d + e + f + g + h + i + j + k + m + filled(np.float32(0)))


@numba.njit
def count_blocks(records, tile_starts, tile_gaussians, tiles_x):
    """Blocks in which Gaussians are drawn while light passes everywhere."""
    lows, highs = np.empty(TILE_HEIGHT, np.float32), np.empty(TILE_HEIGHT, np.float32)
    blocks = 0
    for tile in range(len(tile_starts) - 1):
        left, top = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        for entry in range(tile_starts[tile], tile_starts[tile + 1]):
            record = records[tile_gaussians[entry]]
            find_spans(record, left, top, lows, highs, 0)
            first, end = strips_of(record, top)
            for strip in range(first, end):
                low = max(int(lows[strip * STRIP_HEIGHT]) // BLOCK_WIDTH, 0)
                high = min(int(highs[strip * STRIP_HEIGHT]) // BLOCK_WIDTH, TILE_WIDTH // BLOCK_WIDTH - 1)
                blocks += max(high - low + 1, 0)
    return blocks


def least_seconds(call: Callable[[], object], budget: float) -> float:
    """Processor time of one call, the least of as many as fit in a budget."""
    call()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        begin = time.process_time()
        call()
        best = min(best, time.process_time() - begin)
    return best


def measure(n: int, size: tuple[int, int], budget: float) -> tuple[int, float, float]:
    """Pixels in which the Gaussians of a scene are drawn, and seconds of compositing forward and backward."""
    gaussians, cameras = feed_forward_scene(n, size)
    scene = ProjectedScene(gaussians, cameras, RasterSettings())
    tiles, images = scene.bin(0), empty_images((size[1], size[0]))
    drawn = LANES * count_blocks(scene.records[0], tiles.starts, tiles.gaussians, -(-size[0] // TILE_WIDTH))
    sums, v_rgb = scene.empty_splat_sums(), np.ones((size[1], size[0], 3), np.float32)
    forward = least_seconds(lambda: scene.draw(0, tiles, images), budget)
    backward = least_seconds(lambda: scene.differentiate(0, tiles, images, v_rgb, None, None, sums[0]), budget)
    return drawn, forward, backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for each measured call")
    budget = parser.parse_args().budget
    torch.set_num_threads(1)
    rounds, numbers = 1_000_000, np.full(2 * LANES, 0.5, np.float32)
    peak = 2 * 10 * LANES * rounds / least_seconds(lambda: multiply_adds(numbers, rounds), budget) / 1e9
    source = np.ones(64 << 20, np.float32)
    target = source.copy()
    copied = 2 * source.nbytes / least_seconds(lambda: np.copyto(target, source), budget) / 1e9
    print(f"{describe_machine()}; multiply-adds {peak:.0f} GFLOP/s, copy {copied:.1f} GB/s, one thread\n")
    row(
        "Gaussians", "image", "M pixels drawn", "forward GFLOP/s", "of the limit", "backward GFLOP/s", "of the limit",
        "MB of a view with its loss", "ms at the rate of a copy",
    )  # fmt: skip
    row(*["---"] * 9)
    for n, size in ((5_000, (960, 540)), (20_000, (960, 540)), (100_000, (960, 540)), (57_344, (448, 256))):
        drawn, forward, backward = measure(n, size, budget)
        moved = (n * (BYTES_PER_SPLAT + BYTES_PER_GAUSSIAN) + size[0] * size[1] * BYTES_PER_PIXEL) / 1e6
        rates = (FORWARD * drawn / forward / 1e9, BACKWARD * drawn / backward / 1e9)
        cells = [cell for rate in rates for cell in (f"{rate:.0f}", f"{rate / peak:.0%}")]
        row(f"{n:,}", f"{size[1]}x{size[0]}", f"{drawn / 1e6:.0f}", *cells, f"{moved:.0f}", f"{moved / copied:.1f}")


if __name__ == "__main__":
    main()
