"""A scene from a PLY on the held-out views of a capture, as if it were a run that takes no step."""

from __future__ import annotations

from pathlib import Path

import torch

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.memory import PeakMemory
from l2o_splat.bench.ply import PlyFrame
from l2o_splat.bench.run_log import RunLog
from l2o_splat.bench.spec import RunSpec
from l2o_splat.environment import commit, machine
from l2o_splat.gaussians import Gaussians
from l2o_splat.plugin.bench.config import run_config
from l2o_splat.plugin.bench.held_out import HeldOutViews
from l2o_splat.plugin.capture_frames import UnknownFrameError, place
from l2o_splat.plugin.pipeline import L2OPipeline
from l2o_splat.ply import read_ply


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
    ply, model = spec.ply, pipeline.model
    try:
        placed, frame = place(gaussians, ply.frame, pipeline.datamanager, model, spec.data)
    except UnknownFrameError as error:
        raise BenchError(f"{ply.path} {error}; use a PLY of this capture, in the coordinates of its poses.") from error
    model.set_gaussians(placed)
    return frame
