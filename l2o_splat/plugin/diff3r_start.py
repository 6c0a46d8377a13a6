"""The start of a scene that is held near its anchor: what must hold, its context views, and its precision."""

from __future__ import annotations

import time
from dataclasses import fields

from jaxtyping import Float
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.checks import check_background, check_fixed_gaussians
from l2o_splat.implicit.heuristic import heuristic_precision
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.datamanager import L2ODataManager
from l2o_splat.plugin.resplat_start import OPTION, ContextConfig, choose_training_views
from l2o_splat.rendering import RasterSettings
from l2o_splat.views import Views

NUM_VIEWS = 8
"""Context views where neither options nor weights say how many."""


def check_anchored(model: ModelConfig) -> None:
    """Refuse models with which nothing could be held, before any long work.

    Raises:
        ValueError: If the background is random, or the model densifies.
    """
    check_background(model.background_color)
    check_fixed_gaussians(densifies=isinstance(model, SplatfactoModelConfig))


def context_beside_points(options: ContextConfig, datamanager: L2ODataManager, background: Tensor) -> Views:
    """Context views of a scene that starts from points, at the size that is trained at; says which.

    Args:
        options: How many, and how they are chosen; the others are for networks.
        datamanager: Has the photographs, on the device of the scene.
        background: ``[3]``, put under photographs with an alpha channel, sRGB 0 to 1.

    Raises:
        CaptureError: If options have no effect here, or the training views do not suit.
    """
    idle = [
        entry.name.replace("_", "-")
        for entry in fields(ContextConfig)
        if entry.name not in ("num_views", "choice") and getattr(options, entry.name) != entry.default
    ]
    if idle:
        raise CaptureError(
            f"{OPTION}.{idle[0]} is set, but only networks look at it and this scene starts from points; leave it out "
            "(--pipeline.datamanager.camera-res-scale-factor makes images smaller)."
        )
    indices = choose_training_views(datamanager, options, NUM_VIEWS)
    names = [datamanager.train_dataparser_outputs.image_filenames[i].name for i in indices]
    CONSOLE.log(
        f"The scene is refined on {len(indices)} of {len(datamanager.train_dataset)} training views, all of them in "
        f"every step: {', '.join(names)}."
    )
    return datamanager.train_views(indices, background)


def precision_without_head(gaussians: Gaussians, context: Views, settings: RasterSettings) -> Float[Tensor, "n 5"]:
    """The heuristic precision, for starts from which no network predicts one; says so.

    Raises:
        ValueError: If the context views see nothing of the scene.
    """
    begin = time.perf_counter()
    precision = heuristic_precision(gaussians, ContextViews(context, settings))
    CONSOLE.log(
        "Heuristic precision: no network predicts one for this start, so it was measured on the context views, in "
        f"{time.perf_counter() - begin:.1f} s."
    )
    return precision
