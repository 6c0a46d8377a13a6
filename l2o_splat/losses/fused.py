"""The photometric loss of one view and its gradient on the CPU, in one pass over the images."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from l2o_splat import threads
from l2o_splat.kernel import kernel
from l2o_splat.lanes import LANES, filled, load, magnitude, store, total, with_sign_of
from l2o_splat.losses import WINDOW, require_whole_window
from l2o_splat.losses.ssim_kernel import REACH, STRIP_WIDTH, WORKSPACE, l1_and_ssim

F = np.float32

LEAST_ROWS = 64
"""Fewest rows of a strip that are worth a job of their own: each job has to read 22 more."""


class ViewLoss(NamedTuple):
    """The loss of one view."""

    loss: float
    """``(1 - ssim_weight) l1 + ssim_weight dissimilarity``"""
    l1: float
    """Absolute difference, mean over the pixels that count and channels."""
    dissimilarity: float
    """1 - SSIM, mean over the windows that count and channels; 0 if the SSIM term has no weight."""
    squared_error: float | None
    """Squared difference, mean over the pixels that count and channels; None if no pixel counts."""


def view_loss(
    rendered: Float[np.ndarray, "h w 3"],
    image: Float[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"] | None,
    ssim_weight: float,
    gradient: Float[np.ndarray, "h w 3"] | None,
) -> ViewLoss:
    """The photometric loss of one view, as :func:`l2o_splat.losses.photometric_loss` defines it.

    The result is the same to the last bit for any number of threads.

    Args:
        rendered: Rendered view, float32, sRGB, not clamped.
        image: Photograph, float32, sRGB 0 to 1.
        mask: The pixels that count; None if all do.
        ssim_weight: Share of the SSIM term, 0 to 1.
        gradient: Out: derivative of the loss with respect to ``rendered``, float32; None if it is not needed.

    Raises:
        ValueError: If the arrays do not have these shapes and types, or the images are smaller than the SSIM window.
    """
    _check(rendered, image, mask, gradient)
    height, width, channels = rendered.shape
    masked, with_gradient = mask is not None, gradient is not None
    pixels, windows, whole = height * width, (height - REACH) * (width - REACH), _NO_MASK
    if ssim_weight:
        require_whole_window(height, width)
        whole = np.empty((height - REACH, width - REACH), bool) if masked else _NO_MASK
    if masked:
        pixels, windows = _count(mask, whole)
    l1_scale = F((1 - ssim_weight) / (channels * max(pixels, 1)))
    ssim_scale = F(-ssim_weight / (channels * max(windows, 1)))
    arguments = (
        rendered.reshape(-1), image.reshape(-1), mask if masked else _NO_MASK, masked, height, width,
        gradient.reshape(-1) if with_gradient else _NO_GRADIENT, with_gradient, l1_scale,
    )  # fmt: skip

    if ssim_weight:
        strips, chunks = _division(height, width)
        sums = np.zeros((strips, height, 3))

        def work(job: int) -> None:
            l1_and_ssim(job, job + 1, strips, chunks, *arguments, whole, ssim_scale, sums, _workspace())

        threads.run(work, strips * chunks)
    else:
        sums = np.zeros((1, height, 3))
        chunks = min(threads.get_free_threads(), height)
        bounds = [height * chunk // chunks for chunk in range(chunks + 1)]
        threads.run(lambda chunk: _l1(bounds[chunk], bounds[chunk + 1], *arguments, sums), chunks)

    absolute, squared, dissimilarity = sums.sum(axis=(0, 1)).tolist()
    l1 = absolute / (channels * max(pixels, 1))
    dissimilarity /= channels * max(windows, 1)
    loss = (1 - ssim_weight) * l1 + ssim_weight * dissimilarity
    return ViewLoss(loss, l1, dissimilarity, squared / (channels * pixels) if pixels else None)


_NO_MASK, _NO_GRADIENT = np.empty((0, 0), bool), np.empty(0, F)
_kept = threading.local()


def _workspace() -> Float[np.ndarray, " WORKSPACE"]:
    """The buffers of this thread, which fit in the cache; made once, aligned to whole vectors."""
    if not hasattr(_kept, "workspace"):
        numbers = np.zeros(WORKSPACE + LANES, F)
        skip = -numbers.ctypes.data % (4 * LANES) // 4
        _kept.workspace = numbers[skip : skip + WORKSPACE]
    return _kept.workspace


def _division(height: int, width: int) -> tuple[int, int]:
    """How many strips a view is cut into, and how many pieces each of these for the sake of several threads."""
    strips = 1
    while -(-width // strips) + (2 * REACH if strips > 1 else 0) >= STRIP_WIDTH:
        strips += 1
    count = threads.get_free_threads()
    return strips, 1 if strips % count == 0 else max(min(count, height // LEAST_ROWS), 1)


def _check(rendered: np.ndarray, image: np.ndarray, mask: np.ndarray | None, gradient: np.ndarray | None) -> None:
    shape = rendered.shape
    arrays = {"rendered": rendered, "image": image, "gradient": gradient}
    good = len(shape) == 3 and shape[2] == 3
    for array in arrays.values():
        if array is not None:
            good &= array.shape == shape and array.dtype == F and array.flags.c_contiguous
    if mask is not None:
        good &= mask.shape == shape[:2] and mask.dtype == bool
    if not good:
        arrays["mask"] = mask
        found = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in arrays.items() if a is not None)
        raise ValueError(
            f"The loss got {found}; contiguous float32 arrays [h, w, 3] of the same shape, and a mask [h, w] of "
            "booleans if there is one, are needed."
        )


@kernel
def _count(mask, whole):
    """Count the pixels and the windows that count, and mark the latter in ``whole`` ``[h-10, w-10]`` if it has room."""
    height, width = mask.shape
    above = np.zeros(width, np.int32)  # pixels that count, from this one upwards
    pixels, windows = 0, 0
    for row in range(height):
        for column in range(width):
            counts = mask[row, column]
            pixels += counts
            above[column] = above[column] + 1 if counts else 0
        if whole.size > 0 and row >= REACH:
            run = 0
            for column in range(width):
                run = run + 1 if above[column] >= WINDOW else 0
                if column >= REACH:
                    whole[row - REACH, column - REACH] = run >= WINDOW
                    windows += run >= WINDOW
    return pixels, windows


@kernel
def _l1(begin, end, rendered, image, mask, masked, height, width, gradient, with_gradient, l1_scale, sums):
    """Rows ``begin`` to ``end`` of the loss without its SSIM term; ``sums`` as in :func:`l1_and_ssim`."""
    for row in range(begin, end):
        start, size = row * width * 3, width * 3
        absolute, squared = filled(F(0)), filled(F(0))
        vectors = 0 if masked else size // LANES
        for i in range(start, start + vectors * LANES, LANES):
            difference = load(rendered, i) - load(image, i)
            absolute += magnitude(difference)
            squared += difference * difference
            if with_gradient:
                store(gradient, i, with_sign_of(l1_scale, difference))
        absolute_sum, squared_sum = total(absolute), total(squared)
        for k in range(vectors * LANES, size):
            difference = rendered[start + k] - image[start + k]
            if masked and not mask[row, k // 3]:
                difference = F(0)
            absolute_sum += abs(difference)
            squared_sum += difference * difference
            if with_gradient:
                gradient[start + k] = l1_scale * np.sign(difference)
        sums[0, row, 0], sums[0, row, 1] = absolute_sum, squared_sum
