"""Which photographs of a capture are context views: those that networks see, and that some rules refine a scene on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import Literal

from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from l2o_splat.initializers.context_views import check_context, choose_context, choose_evenly, fit
from l2o_splat.optim.rule import ContextNeeds
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.datamanager import L2ODataManager
from l2o_splat.views import Views

OPTION = "--pipeline.initialization.context"
MOST_TIMES_TRAINED = 2
"""Views that the networks take together, in multiples of those they were trained with; the published tables of an
8-view model end at 16 views."""


@dataclass
class ContextConfig:
    """Which photographs ReSplat's initial model sees, and how. They are the same in every update, and in every step of
    the rule proximal, which takes some as well if there is no such model."""

    num_views: int | None = None
    """Context views. None takes as many as the weights were trained with (8 without any), or all that there are."""
    choice: Literal["farthest", "uniform"] = "farthest"
    """farthest: spread over the camera centres. uniform: at even distances along the capture."""
    views_at_once: int | None = None
    """Predict the scene from so many views at a time; the update sees all. None: all at once."""
    depth_range: Literal["weights", "points"] | None = None
    """Depths considered: those of the weights' training, or those of the capture's sparse points. None: as the weights
    say."""
    longer_side: int | None = None
    """Larger context views are reduced to this, pixels. None: as the weights were trained with."""
    fit: Literal["squeeze", "crop", "enlarge"] | None = None
    """How their sides become what the networks need: each reduced by its own factor, cut, or enlarged. None: as the
    weights say."""

    def behaviour(self) -> dict[str, int | str]:
        """Options that replace those of the weights."""
        named = {"views_at_once": self.views_at_once, "longer_side": self.longer_side, "fit": self.fit}
        return {name: value for name, value in named.items() if value is not None}


def context_of_rule(
    needs: ContextNeeds, options: ContextConfig, datamanager: L2ODataManager, background: Tensor
) -> Views:
    """Context views for a rule whose scene starts without any.

    Args:
        needs: Of the rule.
        options: What the user chose.
        datamanager: Has the photographs, on the device of the scene.
        background: ``[3]``, put under photographs with an alpha channel, sRGB 0 to 1.

    Raises:
        ValueError: If options have no effect here, or the training views do not suit.
    """
    if needs.longer_side is None:
        return _context_to_train_on(needs, options, datamanager, background)
    indices = choose_for_networks(datamanager, options, needs.num_views, needs.least_views, options.views_at_once)
    views = datamanager.train_views(indices, background)
    check_context(views, needs.least_views, needs.portrait)
    fitted = fit(views, needs.size_multiple, options.longer_side or needs.longer_side, options.fit or needs.fit)
    return fitted.blanked(background)


def _context_to_train_on(
    needs: ContextNeeds, options: ContextConfig, datamanager: L2ODataManager, background: Tensor
) -> Views:
    """Views at the size that is trained at; prints which."""
    idle = [
        entry.name.replace("_", "-")
        for entry in fields(ContextConfig)
        if entry.name not in ("num_views", "choice") and getattr(options, entry.name) != entry.default
    ]
    if idle:
        raise CaptureError(
            f"{OPTION}.{idle[0]} is set, but it concerns only networks and this scene starts from points; leave it out "
            "(--pipeline.datamanager.camera-res-scale-factor makes images smaller)."
        )
    indices = choose_training_views(datamanager, options, needs.num_views)
    names = [datamanager.train_dataparser_outputs.image_filenames[i].name for i in indices]
    CONSOLE.log(
        f"The scene is refined on {len(indices)} of {len(datamanager.train_dataset)} training views, all of them in "
        f"every step: {', '.join(names)}."
    )
    return datamanager.train_views(indices, background)


def choose_training_views(datamanager: L2ODataManager, options: ContextConfig, default: int) -> list[int]:
    """Indices of context views among the training views, in the order of the capture.

    Args:
        datamanager: Has the cameras.
        options: How many, and how they are chosen.
        default: How many if the options do not say; all if there are fewer.

    Raises:
        CaptureError: If the views have several sizes, or there are fewer than asked for.
    """
    cameras = datamanager.train_cameras
    sizes = Counter(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True))
    if len(sizes) > 1:
        found = ", ".join(f"{count} of {width} x {height}" for (width, height), count in sizes.most_common())
        raise CaptureError(
            f"The training views have {len(sizes)} sizes ({found} pixels), but context views are of one size; bring "
            "the photographs to the same size, or leave the others out."
        )
    available = len(cameras)
    if options.num_views is not None and not 1 <= options.num_views <= available:
        raise CaptureError(
            f"{options.num_views} context views were asked for, and the capture has {available} training views; give "
            f"{OPTION}.num-views at least 1 and at most these, or leave it out."
        )
    count = min(options.num_views or default, available)
    if options.choice == "uniform":
        return choose_evenly(available, count)
    return choose_context(cameras.camera_to_worlds[:, :3, 3], count)


def choose_for_networks(
    datamanager: L2ODataManager, options: ContextConfig, trained: int, least: int, at_once: int | None
) -> list[int]:
    """Indices of context views that suit networks.

    Args:
        datamanager: Has the cameras.
        options: How many, and how they are chosen.
        trained: Views that the networks were trained with, taken if the options do not say.
        least: Fewest views that they can compare.
        at_once: Views that they see together; None for all.

    Raises:
        CaptureError: If there are too few or too many, or the training views do not suit.
    """
    if options.num_views is not None and options.num_views < least:
        raise CaptureError(
            f"{options.num_views} context view was asked for; ReSplat finds depths by comparing views, so "
            f"{OPTION}.num-views must be at least {least}."
        )
    indices = choose_training_views(datamanager, options, trained)
    together = min(len(indices), at_once or len(indices))
    most = MOST_TIMES_TRAINED * trained
    if together > most:
        raise CaptureError(
            f"{together} context views at once are more than {MOST_TIMES_TRAINED} times the {trained} "
            f"that these weights were trained with; use windows of views with {OPTION}.views-at-once "
            f"{trained}, or at most {most} views with {OPTION}.num-views."
        )
    return indices
