"""Coordinates that a scene from elsewhere may have, and which of them shows a capture's photographs best."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.bench.ply import PlyFrame
from l2o_splat.errors import L2OError
from l2o_splat.frame import Frame
from l2o_splat.gaussians import Gaussians
from l2o_splat.metrics import psnr
from l2o_splat.plugin.datamanager import L2ODataManager
from l2o_splat.plugin.model import L2OModel

VIEWS_THAT_DECIDE = 4
"""Training views that tell the frame of a scene."""
LEGACY_TRANSFORM = [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
"""What nerfstudio takes for the ``applied_transform`` of old captures with a COLMAP model beside them."""


class UnknownFrameError(L2OError, ValueError):
    """In no frame does a scene show the photographs; the message says how far it is from that."""


def possible_frames(data: L2ODataManager, capture: str | Path | None) -> dict[PlyFrame, Frame]:
    """The frame of the cameras as seen from each of the coordinates that a scene may have.

    Args:
        data: Holds the cameras.
        capture: Folder of the capture, or its JSON; None if it is a built-in one.
    """
    outputs = data.train_dataparser_outputs
    whole = _homogeneous(outputs.dataparser_transform)
    changed = whole @ _homogeneous(torch.tensor(_applied_transform(capture))).inverse()
    scale = float(outputs.dataparser_scale)
    return {"dataparser": Frame(), "capture": _frame(whole, scale), "transforms": _frame(changed, scale)}


def place(
    gaussians: Gaussians, frame: PlyFrame, data: L2ODataManager, model: L2OModel, capture: str | Path | None
) -> tuple[Gaussians, PlyFrame]:
    """Gaussians in the frame of the cameras, and the frame that they were in.

    Args:
        gaussians: Of the SH degree of the model.
        frame: Of the Gaussians; ``detect`` takes the one that shows the training photographs best.
        data: Holds cameras and photographs.
        model: Draws; its scene is another one afterwards if the frame was detected.
        capture: See :func:`possible_frames`.

    Raises:
        UnknownFrameError: If no frame shows the photographs better than their mean colours do.
    """
    frames = possible_frames(data, capture)
    # Coordinates of a capture can be larger than float32 holds.
    placed = {
        name: seen_from.to_local(gaussians.to(torch.float64)).to(torch.float32)
        for name, seen_from in frames.items()
        if frame in (name, "detect")
    }
    if frame != "detect":
        return placed[frame], frame
    quality = {}
    for name, candidate in placed.items():
        model.set_gaussians(candidate)
        quality[name], flat = _training_quality(data, model)
    best = max(quality, key=quality.get)
    if quality[best] <= flat:
        raise UnknownFrameError(
            f"shows the training photographs no better than their mean colour does ({quality[best]:.1f} dB) in any of "
            f"the frames {', '.join(quality)}"
        )
    return placed[best], best


def _applied_transform(capture: str | Path | None) -> list[list[float]]:
    """What leads from the original coordinates of a capture to those of its transforms.json, ``[3, 4]``."""
    unchanged = torch.eye(4)[:3].tolist()
    if capture is None:
        return unchanged
    path = Path(capture) if Path(capture).suffix == ".json" else Path(capture) / "transforms.json"
    if not path.is_file():
        return unchanged
    has_model = (path.parent / "colmap" / "sparse" / "0").exists()
    content = json.loads(path.read_text(encoding="utf-8"))
    return content.get("applied_transform", LEGACY_TRANSFORM if has_model else unchanged)


def _homogeneous(transform: Float[Tensor, "3 4"]) -> Float[Tensor, "4 4"]:
    return torch.cat([transform.double(), torch.eye(4, dtype=torch.float64)[3:]])


def _frame(transform: Float[Tensor, "4 4"], scale: float) -> Frame:
    rotation, offset = transform[:3, :3], transform[:3, 3]
    return Frame(rotation.T, -rotation.T @ offset, scale)


@torch.no_grad()
def _training_quality(data: L2ODataManager, model: L2OModel) -> tuple[float, float]:
    """Mean PSNR (dB) of some training views, and that of images of their mean colours."""
    spacing = max(len(data.train_dataset) // VIEWS_THAT_DECIDE, 1)
    of_scene, of_colour = [], []
    for group in data.photographs_by_size(range(0, len(data.train_dataset), spacing), model.background_here):
        views = group.views()
        drawn = model.show(views).images.clamp(0, 1)
        for view in range(len(views)):
            photograph, mask = views.images[view], None if views.masks is None else views.masks[view]
            flat = photograph.mean(dim=(0, 1)).expand_as(photograph)
            if (found := psnr(drawn[view], photograph, mask)) is not None:
                of_scene.append(found)
                of_colour.append(psnr(flat, photograph, mask))
    return statistics.fmean(of_scene), statistics.fmean(of_colour)
