"""The sums of :mod:`evidence` on the CPU: weights of the pixels, which the compositing kernel sums up."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2o_splat import threads
from l2o_splat.kernel import kernel
from l2o_splat.rendering.cpu_records import CURVATURE, ERROR, RED, VISIBILITY
from l2o_splat.rendering.evidence import (
    BLUR,
    LEAST_DIFFERENCE,
    TOLERATED_ERROR,
    ColourEvidence,
    Evidence,
    EvidenceKind,
    evidence_from,
)

F = np.float32
ROWS_PER_JOB = 64
_NO_MASK = np.empty((0, 0), bool)


def weigh_pixels(
    rendered: Float[np.ndarray, "h w 3"],
    image: Float[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"] | None,
    ssim_weight: float,
    kinds: Collection[EvidenceKind],
    sensitivity: float = 1.0,
) -> tuple[Float[np.ndarray, "h w"] | None, Float[np.ndarray, "h w"] | None]:
    """Curvatures and excess error of the pixels of a view, as :mod:`evidence` defines them.

    Args:
        rendered: Rendered view in the exposure of its photograph, float32, sRGB, not clamped.
        image: Photograph, float32, sRGB 0 to 1.
        mask: The pixels that count; None if all do.
        ssim_weight: Share of the SSIM term in the loss.
        kinds: What is wanted of the view. To save compilations there are curvatures whenever there is anything.
        sensitivity: Of the view's exposure, see :func:`l2o_splat.rendering.exposure.sensitivities`.
    """
    if not kinds:
        return None, None
    height, width, _ = rendered.shape
    pixels = height * width if mask is None else max(int(mask.sum()), 1)
    scale = F(sensitivity * (1 - ssim_weight) / (3 * pixels))
    curvature = np.empty((height, width), F)
    error = np.empty((height, width), F) if "error" in kinds else None
    masked = mask is not None
    mask = mask if masked else _NO_MASK

    def work(job: int) -> None:
        begin, end = job * ROWS_PER_JOB, min((job + 1) * ROWS_PER_JOB, height)
        _write_curvature(begin, end, rendered, image, mask, masked, scale, F(LEAST_DIFFERENCE), curvature)
        if error is not None:
            _write_error(begin, end, rendered, image, mask, masked, F(TOLERATED_ERROR), BLUR // 2, error)

    threads.run(work, -(-height // ROWS_PER_JOB))
    return curvature, error


def evidence_of(
    splat_sums: Float[np.ndarray, "v n 16"], centres: Float[Tensor, "v 3"], degree: int, kinds: Collection[EvidenceKind]
) -> Evidence:
    """The evidence in the sums of all views, whose memory the colours share."""
    sums = torch.from_numpy(splat_sums)
    colours = ColourEvidence(sums[..., RED : RED + 3], sums[..., CURVATURE], centres, degree)
    return evidence_from(kinds, sums[..., VISIBILITY], colours, sums[..., ERROR])


@kernel
def _write_curvature(begin, end, rendered, image, mask, masked, scale, least_difference, curvature):
    """Rows ``begin`` to ``end`` of :func:`evidence.curvatures`; ``scale`` is that of an absolute difference."""
    for y in range(begin, end):
        for x in range(rendered.shape[1]):
            red = abs(rendered[y, x, 0] - image[y, x, 0])
            green = abs(rendered[y, x, 1] - image[y, x, 1])
            blue = abs(rendered[y, x, 2] - image[y, x, 2])
            curvature[y, x] = scale / max((red + green + blue) / F(3), least_difference)
        if masked:
            for x in range(rendered.shape[1]):
                if not mask[y, x]:
                    curvature[y, x] = F(0)


@kernel
def _write_error(begin, end, rendered, image, mask, masked, tolerated_error, reach, error):
    """Rows ``begin`` to ``end`` of :func:`evidence.excess_errors`; the box reaches so many pixels to each side."""
    height, width, _ = rendered.shape
    # Sums over the rows of the box: absolute differences of a column, and its pixels that count.
    sums, counts = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(begin, end):
        sums[:], counts[:] = 0, 0
        for row in range(max(y - reach, 0), min(y + reach + 1, height)):
            for x in range(width):
                if masked and not mask[row, x]:
                    continue
                for c in range(3):
                    sums[x] += abs(rendered[row, x, c] - image[row, x, c])
                counts[x] += F(1)
        for x in range(width):
            if masked and not mask[y, x]:
                error[y, x] = 0
                continue
            total, count = F(0), F(0)
            for column in range(max(x - reach, 0), min(x + reach + 1, width)):
                total += sums[column]
                count += counts[column]
            error[y, x] = max(total / (F(3) * count) - tolerated_error, F(0))
