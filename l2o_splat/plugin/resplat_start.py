"""The start of a scene from a few of the capture's photographs: ReSplat's initial model inside nerfstudio."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from l2o_splat.initializers.context_views import choose_context, choose_evenly, depth_range, lonely_views
from l2o_splat.initializers.resplat import DepthRange, InitialScene, ReSplatInitializer
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.optim.learn2splat import Learn2SplatRule
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.datamanager import L2ODataManager
from l2o_splat.views import PinholeCameras, Views
from l2o_splat.weights import Weights
from l2o_splat.weights.resplat import read_tensors

OPTION = "--pipeline.initialization.context"
MOST_TIMES_TRAINED = 2
"""Views that the networks take together, in multiples of those they were trained with; the published tables of an
8-view model end at 16 views."""


@dataclass
class ContextConfig:
    """Which photographs ReSplat's initial model sees, and how. They are the same in every update, and in every step of
    the rule anchored, which without such a model takes some as well."""

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


def start_from_context(
    weights: Weights, options: ContextConfig, datamanager: L2ODataManager, background: Tensor
) -> InitialScene:
    """A scene in nerfstudio's units and world frame, from context views that are chosen here.

    Args:
        weights: Of ReSplat.
        options: Which views, and how they are shown.
        datamanager: Has the photographs, on the device of the scene.
        background: ``[3]``, put under photographs with an alpha channel, sRGB 0 to 1.

    Raises:
        ValueError: If the weights cannot be used, or the capture does not suit them (``CaptureError``).
    """
    device = background.device
    outputs = datamanager.train_dataparser_outputs
    scale = float(outputs.dataparser_scale)
    behaviour = options.behaviour()
    config = read_tensors(weights, behaviour).config
    indices = _choose(datamanager, options, config)
    views = datamanager.train_views(indices, background)
    near_far = config.near * scale, config.far * scale
    if (options.depth_range or config.depth_range) == "points":
        near_far = _range_of_points(datamanager, views.cameras)
    near, far = (torch.as_tensor(limits) for limits in near_far)
    near, far = float(near.min()), float(far.max())
    names = [outputs.image_filenames[i].name for i in indices]
    _check_overlap(views.cameras, names, near, far)
    initializer = ReSplatInitializer.from_weights(weights, **behaviour).to(device)
    CONSOLE.log(
        f"ReSplat starts from {len(indices)} of {len(datamanager.train_dataset)} training views, and its weights were "
        f"trained with {config.context_views}: {', '.join(names)}. Depths between {near:.3g} and "
        f"{far:.3g} scene units are considered. Weights: {weights.card.source}, licence "
        f"{weights.card.licence}."
    )
    begin = time.perf_counter()
    scene = initializer(views, scale, near_far)
    size = scene.context.cameras
    CONSOLE.log(
        f"The initial model took {time.perf_counter() - begin:.1f} s for {len(indices)} views of {size.width} x "
        f"{size.height} pixels."
    )
    return scene


def context_of_update(
    weights: Weights, options: ContextConfig, datamanager: L2ODataManager, background: Tensor
) -> Views:
    """Context views for an update of a scene that starts from points; arguments as for :func:`start_from_context`.

    Raises:
        ValueError: If the weights were not trained on such starts, or the capture does not suit them.
    """
    config = read_tensors(weights, options.behaviour()).config
    if config.update_starts != "any":
        raise ValueError(
            f"The update of the weights from {weights.card.source} was trained on scenes of its own initial model "
            "only; set --pipeline.initialization.source to resplat, or use weights such as resplat-mini."
        )
    views = datamanager.train_views(_choose(datamanager, options, config), background)
    # The range is used for depths alone, which an update does not predict.
    return ReSplatInitializer.from_weights(weights, **options.behaviour()).show(views, 1.0, (1.0, 2.0)).views


def features_for(rule: UpdateRule, features: Float[Tensor, "n f"]) -> Float[Tensor, "n f"] | None:
    """The initial model's features, if a rule starts from such.

    ReSplat's own always does, learn2splat where its weights have a projection of that width.
    """
    parts = list(rule.modules())
    if any(isinstance(part, ReSplatRule) for part in parts):
        return features
    networks = [part.network for part in parts if isinstance(part, Learn2SplatRule)]
    widths = {getattr(network.shape, "feature_width", None) for network in networks}
    return features if features.shape[1] in widths else None


def choose_training_views(datamanager: L2ODataManager, options: ContextConfig, default: int) -> list[int]:
    """Indices of context views among the training views, in the order of the capture.

    Args:
        datamanager: Has the cameras.
        options: How many, and how they are chosen.
        default: How many where the options do not say; all where there are fewer.

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


def _choose(datamanager: L2ODataManager, options: ContextConfig, config: ReSplatConfig) -> list[int]:
    """Context views that suit the networks."""
    if options.num_views is not None and options.num_views < 2:
        raise CaptureError(
            f"{options.num_views} context view was asked for; ReSplat finds depths by comparing views, so "
            f"{OPTION}.num-views must be at least 2."
        )
    indices = choose_training_views(datamanager, options, config.context_views)
    together = min(len(indices), config.views_at_once or len(indices))
    most = MOST_TIMES_TRAINED * config.context_views
    if together > most:
        raise CaptureError(
            f"{together} context views at once are more than {MOST_TIMES_TRAINED} times the {config.context_views} "
            f"that these weights were trained with; use windows of views with {OPTION}.views-at-once "
            f"{config.context_views}, or at most {most} views with {OPTION}.num-views."
        )
    return indices


def _range_of_points(datamanager: L2ODataManager, cameras: PinholeCameras) -> DepthRange:
    """Nearest and farthest depth of the capture's sparse points in each view, scene units."""
    points = datamanager.train_dataparser_outputs.metadata.get("points3D_xyz")
    if points is None:
        raise CaptureError(
            "The capture holds no structure-from-motion points, from which the range of depths comes; add points "
            f"(`l2o photos` makes them), or use weights with a range of their own and {OPTION}.depth-range weights."
        )
    return depth_range(points.to(cameras.Ks.device), cameras)


def _check_overlap(cameras: PinholeCameras, names: list[str], near: float, far: float) -> None:
    """Refuse a context most of which cannot be compared, and name views that cannot."""
    alone = [names[view] for view in lonely_views(cameras, near, far)]
    if 2 * len(alone) > len(names):
        raise CaptureError(
            f"{len(alone)} of {len(names)} context views look away from all others ({alone[0]} is the first), and "
            "ReSplat finds depths where views overlap; use photographs of one place from several sides, or check the "
            "poses."
        )
    if alone:
        CONSOLE.log(
            f"[bold yellow]No other context view sees what {', '.join(alone)} shows, so depths there are guesses."
        )
