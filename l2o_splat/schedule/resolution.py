"""How large the photographs of a step are: small at first, and larger the sooner the more steps a run can afford."""

from __future__ import annotations

from l2o_splat.schedule.presets import Stages

LEAST_PIXELS = 8_000
"""A photograph is usually not reduced to fewer."""
WHOLE_STEPS, STEEPNESS = 270.0, 1.2
"""A size begins at a quarter of the budget if the whole budget would hold 270 steps at it; the fewer it would hold, the
later. Measured at half a megapixel and at an eighth, on a budget of a minute."""
EARLIEST = 0.12
"""Share of the budget at which the full size begins, however many steps there are."""
SKIPPED = 0.03
"""The run begins with the largest of the sizes that would begin before this share."""
PIXELS_OF_A_GAUSSIAN = 4.0
"""What a Gaussian costs in a view, in pixels."""


def image_stages(pixels: float, steps: float, sharpness: float = 1.0, least_pixels: float = LEAST_PIXELS) -> Stages:
    """The sizes of a run, as factors of the photographs' sides, and the share of the budget from which each holds.

    Args:
        pixels: Of a photograph at full size.
        steps: Steps at full size that the whole budget would hold.
        sharpness: The sizes begin as if it held this many times as many.
        least_pixels: A photograph is not reduced to fewer.
    """
    stages, scale = [], 1.0
    while True:
        odds = 3 * (sharpness * steps / (WHOLE_STEPS * scale**2)) ** STEEPNESS
        begin = 1 / (1 + odds)
        if scale == 1:
            begin = max(begin, EARLIEST)
        smallest = pixels * (scale / 2) ** 2 < least_pixels
        if begin < SKIPPED or smallest:
            return ((0.0, scale), *reversed(stages))
        stages.append((begin, scale))
        scale /= 2


def changed_from(stages: Stages, planned: Stages, progress: float) -> Stages:
    """Stages that have begun, followed by the larger sizes of another plan.

    Args:
        stages: Of the run so far.
        planned: What is to come, as a plan of the whole run.
        progress: Share of the budget that is spent.
    """
    begun = tuple(stage for stage in stages if stage[0] <= progress)
    largest = begun[-1][1]
    return (*begun, *((max(share, progress), scale) for share, scale in planned if scale > largest))


def relative_cost(scale: float, pixels: float, num_gaussians: int) -> float:
    """What a step on reduced photographs costs, full size 1.

    Args:
        scale: Factor of their sides.
        pixels: Of a photograph at full size.
        num_gaussians: In the scene.
    """
    fixed = PIXELS_OF_A_GAUSSIAN * num_gaussians
    return (pixels * scale**2 + fixed) / (pixels + fixed)
