"""Which frames of a scene are context and which are targets, as the papers' view samplers choose them.

Every sampler is a function of its arguments alone; what is random comes from the generator that it is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from l2o_splat.scenes.chunks.errors import ChunkError, TooFewFramesError
from l2o_splat.scenes.chunks.view_index import ViewIndex
from l2o_splat.view_sampling import farthest_points, spread_views


@dataclass(frozen=True)
class FrameGap:
    """How many frames lie from the first to the last context view; both ends of a range may be drawn."""

    start: tuple[int, int]
    """Smallest and largest gap of the first scene."""
    end: tuple[int, int]
    """Smallest and largest gap once ``warm_up`` scenes were drawn."""
    warm_up: int
    """Scenes over which the range goes linearly from ``start`` to ``end``; 0 begins at ``end``."""

    def at(self, index: int) -> tuple[int, int]:
        """The range of the scene of an index, rounded towards ``start``."""
        if index >= self.warm_up:
            return self.end
        low, high = (
            first + int((last - first) * index / self.warm_up) for first, last in zip(self.start, self.end, strict=True)
        )
        return low, high


def bounded_views(
    centres: Float[np.ndarray, "f 3"],
    num_context: int,
    num_target: int,
    gap: tuple[int, int],
    rng: np.random.Generator,
) -> ViewIndex:
    """Views from a window of the video, the training sampler of pixelSplat, DepthSplat and ReSplat.

    The window's length is drawn from ``gap``, as far as the video is that long, then its place. Its two ends are
    context views. The others are those in between that are farthest from the ones before (farthest points on camera
    centres). Targets are drawn from the rest of the window without replacement.

    This differs from ReSplat's ``boundedv2`` in two points. There farthest points begin at the view farthest from the
    mean of the window, so its ends need not be among them; here they always are, as in pixelSplat. And there a target
    may also be a context view, which tells nothing about new views.

    Args:
        centres: Camera centres of all frames, scene units.
        num_context: Context views; at least 2.
        num_target: Target views.
        gap: Smallest and largest number of frames from the first to the last context view.
        rng: Source of what is random.

    Returns:
        Both in ascending order.

    Raises:
        TooFewFramesError: The video is shorter than the smallest gap.
        ValueError: The smallest gap has no room for the views.
    """
    low, high = gap[0], min(gap[1], len(centres) - 1)
    if num_context < 2 or gap[0] + 1 < num_context + num_target:
        raise ValueError(
            f"{num_context} context and {num_target} target views were asked for from gaps of {gap[0]} frames; at "
            f"least 2 context views and a gap of {num_context + num_target - 1} are needed."
        )
    if high < low:
        raise TooFewFramesError(f"{len(centres)} frames are too few for a gap of {low}; {low + 1} are needed.")
    length = int(rng.integers(low, high, endpoint=True))
    first = int(rng.integers(len(centres) - length))
    last = first + length
    inner = list(range(first + 1, last))
    context = farthest_points(centres, inner, num_context, [first, last])
    rest = [frame for frame in inner if frame not in context]
    return _sorted(context, rng.choice(rest, num_target, replace=False).tolist())


def whole_scene_views(
    centres: Float[np.ndarray, "f 3"], num_context: int, num_target: int, rng: np.random.Generator
) -> ViewIndex:
    """Views from the whole video, for training as in Learn2Splat's dense setting (64 context views, 6 targets).

    Context views are spread over the scene by farthest points on camera centres, from the view farthest from the mean
    of all, so they are the same at every visit. Targets are drawn from the rest without replacement.

    Args:
        centres: Camera centres of all frames, scene units.
        num_context: Context views, at least 2; all but the targets where there are fewer.
        num_target: Target views.
        rng: Source of what is random.

    Returns:
        Both in ascending order.

    Raises:
        TooFewFramesError: There are not even 2 context views beside the targets.
    """
    count = min(num_context, len(centres) - num_target)
    if count < 2:
        raise TooFewFramesError(
            f"{len(centres)} frames are too few for {num_target} targets and 2 context views; {num_target + 2} are "
            "needed."
        )
    context = spread_views(centres, count)
    rest = sorted(set(range(len(centres))) - set(context))
    return _sorted(context, rng.choice(rest, num_target, replace=False).tolist())


def spread_evaluation_views(centres: Float[np.ndarray, "f 3"], num_context: int, num_target: int) -> ViewIndex:
    """Views to evaluate on, by the rule of ReSplat's index files for DL3DV; nothing is random.

    Context views are spread over the scene as in :func:`whole_scene_views`; targets are evenly spaced among the rest:
    of L frames that are left, in order, every floor(L / num_target)-th one, from the first.

    Args:
        centres: Camera centres of the frames to choose from, scene units.
        num_context: Context views.
        num_target: Target views.

    Returns:
        Both in ascending order.

    Raises:
        TooFewFramesError: There are fewer frames than views.
    """
    if len(centres) < num_context + num_target:
        raise TooFewFramesError(
            f"{len(centres)} frames are too few for {num_context} context and {num_target} target views; "
            f"{num_context + num_target} are needed."
        )
    context = spread_views(centres, num_context)
    rest = sorted(set(range(len(centres))) - set(context))
    return _sorted(context, rest[:: len(rest) // num_target][:num_target])


def indexed_views(views: ViewIndex, num_frames: int, key: str) -> ViewIndex:
    """The views that an evaluation index names for a scene, once it is clear that a training can use them.

    Raises:
        ChunkError: The index names a frame beyond the last, or a target is a context view too.
    """
    last = max(*views.context, *views.target)
    if last >= num_frames:
        raise ChunkError(
            f"The view index names frame {last} of scene {key}, which has frames 0 to {num_frames - 1}; use an index "
            "that was made for these chunks, or prepare the whole scene."
        )
    both = set(views.context) & set(views.target)
    if both:
        raise ChunkError(
            f"The view index names frame {min(both)} of scene {key} both as context and as target; a target must be a "
            "view that was not seen: take it out of one of them."
        )
    return views


def _sorted(context: list[int], target: list[int]) -> ViewIndex:
    return ViewIndex(tuple(sorted(context)), tuple(sorted(target)))
