"""A scene from a PLY on the held-out views of a capture, as if it were a run that takes no step."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.memory import PeakMemory
from l2o_splat.bench.ply import PlyFrame
from l2o_splat.bench.run_log import RunLog
from l2o_splat.bench.spec import RunSpec
from l2o_splat.environment import commit, machine
from l2o_splat.frame import Frame
from l2o_splat.gaussians import Gaussians
from l2o_splat.metrics import psnr
from l2o_splat.plugin.bench.config import run_config
from l2o_splat.plugin.bench.held_out import HeldOutViews
from l2o_splat.plugin.datamanager import L2ODataManager
from l2o_splat.plugin.pipeline import L2OPipeline
from l2o_splat.ply import read_ply

VIEWS_THAT_DECIDE = 4
"""Training views that tell the frame of a PLY."""
LEGACY_TRANSFORM = [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
"""What nerfstudio takes for the ``applied_transform`` of old captures with a COLMAP model beside them."""


def measure_ply(spec: RunSpec, folder: Path, log: RunLog, pictures: bool) -> None:
    """Measure the scene of a spec's PLY, and log it as a run without steps.

    Raises:
        BenchError: If no frame suits the PLY.
    """
    gaussians = read_ply(spec.ply.path)
    config = run_config(spec, folder).pipeline
    config.model.sh_degree = gaussians.sh_degree
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline: L2OPipeline = config.setup(device=device, test_mode="val")
    memory, data = PeakMemory(device), pipeline.datamanager
    frame = _place(pipeline, gaussians, spec)
    log.write(
        "start",
        loading_seconds=0.0,
        initializer_seconds=0.0,
        other_initializer_seconds=0.0,
        training_views=len(data.train_dataset),
        held_out_views=len(data.eval_dataset),
        machine=machine(),
        commit=commit(),
        ply_frame=frame,
    )
    held_out = HeldOutViews(pipeline, memory.left_out)
    log.write("evaluation", **held_out.measure(0))
    if pictures:
        for when in ("start", "end"):
            held_out.save_pictures(folder, when)
    log.write("end", status="ok", reason="", peak_memory_mib=memory.mib)


def _place(pipeline: L2OPipeline, gaussians: Gaussians, spec: RunSpec) -> PlyFrame:
    """Put the Gaussians into the model, in the frame of its cameras; return the frame that they were in."""
    ply, frames = spec.ply, possible_frames(pipeline.datamanager, spec.data)
    if ply.frame != "detect":
        pipeline.model.set_gaussians(frames[ply.frame].to_local(gaussians))
        return ply.frame
    quality = {}
    for name, frame in frames.items():
        pipeline.model.set_gaussians(frame.to_local(gaussians))
        quality[name], flat = _training_quality(pipeline)
    best = max(quality, key=quality.get)
    if quality[best] <= flat:
        raise BenchError(
            f"{ply.path} shows the training photographs no better than their mean colour does ({quality[best]:.1f} dB) "
            f"in any of the frames {', '.join(quality)}; use a PLY of this capture, in the coordinates of its poses."
        )
    pipeline.model.set_gaussians(frames[best].to_local(gaussians))
    return best


def possible_frames(data: L2ODataManager, folder: str | None) -> dict[PlyFrame, Frame]:
    """The frame of the cameras as seen from each of the coordinates that a PLY may have.

    Args:
        data: Holds the cameras.
        folder: Of the capture; None if it is a built-in one.
    """
    outputs = data.train_dataparser_outputs
    whole = _homogeneous(outputs.dataparser_transform)
    changed = whole @ _homogeneous(torch.tensor(_applied_transform(folder))).inverse()
    scale = float(outputs.dataparser_scale)
    return {"dataparser": Frame(), "capture": _frame(whole, scale), "transforms": _frame(changed, scale)}


def _applied_transform(folder: str | None) -> list[list[float]]:
    """What leads from the original coordinates of a capture to those of its transforms.json, ``[3, 4]``."""
    unchanged = torch.eye(4)[:3].tolist()
    if folder is None or not (path := Path(folder) / "transforms.json").is_file():
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
def _training_quality(pipeline: L2OPipeline) -> tuple[float, float]:
    """Mean PSNR (dB) of some training views, and that of images of their mean colours."""
    data, model = pipeline.datamanager, pipeline.model
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
