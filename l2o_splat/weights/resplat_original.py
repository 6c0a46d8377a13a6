"""Reads ReSplat's original files: whole models, and depth networks alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from l2o_splat.weights.format import Weights, WeightsCard, refuse_non_finite
from l2o_splat.weights.resplat_zoo import LICENCE, RASTER, behaviour_of_layout, released

PREFIX = "encoder."
"""Prefix of all names in a whole model."""
_DEPTH_PARTS = ("backbone", "transformer", "pretrained", "regressor", "regressor_residual", "depth_head", "upsampler")
"""First segments of the names in a file with only the depth network."""
_UNUSED = re.compile(
    r"encoder\.update_feature\.(layer[34]|fc)\."  # Later stages of the ResNet, which are not used.
    r"|encoder\.depth_predictor\.pretrained\.mask_token$"
)
_OLD_NAME, _NEW_NAME = "encoder.render_error_mv_attn.", "encoder.update_error_attn."


def is_resplat(tensors: dict[str, Tensor]) -> bool:
    """Whether the names are those of a ReSplat file."""
    return any(name.startswith(PREFIX) for name in tensors) or _is_depth_alone(tensors)


def _is_depth_alone(tensors: dict[str, Tensor]) -> bool:
    first_segments = {name.split(".")[0] for name in tensors}
    return {"pretrained", "depth_head"} <= first_segments <= set(_DEPTH_PARTS)


def read_resplat(tensors: dict[str, Tensor], path: Path, training: dict[str, Any]) -> Weights:
    """Make weights from the tensors of a file.

    Tensors in float32 stay in the memory-mapped file; others are converted.

    Args:
        tensors: Named as in the file.
        path: The file; the behaviour of released files is known by their name.
        training: Training record; dropped tensors and the origin of the behaviour are added.

    Raises:
        WeightsError: If tensors hold NaN or infinite numbers.
    """
    if _is_depth_alone(tensors):
        tensors = {f"{PREFIX}depth_predictor.{name}": tensor for name, tensor in tensors.items()}
    named = {name.replace(_OLD_NAME, _NEW_NAME, 1): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in named.items() if not _UNUSED.match(name)}
    if dropped := sorted(named.keys() - kept.keys()):
        training = training | {"dropped_tensors": dropped}
    kept = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in kept.items()}
    refuse_non_finite(kept, path)
    entry = released(path)
    behaviour, known_by = (entry.behaviour, f"the released {entry.name}") if entry else behaviour_of_layout(kept)
    architecture = {"tensors": len(kept), "numbers": sum(tensor.numel() for tensor in kept.values())}
    card = WeightsCard(
        "resplat",
        architecture,
        behaviour=dict(behaviour),
        raster=dict(RASTER),
        licence=LICENCE if entry else "unknown",
        source=str(path),
        training=training | {"behaviour_of": known_by},
    )
    return Weights(kept, card)
