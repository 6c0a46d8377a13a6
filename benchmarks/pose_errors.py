"""How far the training poses of runs are from the true ones: ``python benchmarks/pose_errors.py TRUE CONFIG ...``.

TRUE is the capture with the true poses, each CONFIG the ``config.yml`` of a run on it or on a copy that
``benchmarks/disturb_poses.py`` has made. Prints the mean error of the training poses as the capture has them and as the
run has refined them, after the best similarity, and held-out PSNR three times: with the held-out views as they were
posed, carried over by the similarity from the training poses to the refined ones, and carried over by that from the
true ones, which only an experiment knows.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.utils.eval_utils import eval_setup
from torch import Tensor

from l2o_splat.frame import Frame
from l2o_splat.metrics import psnr
from l2o_splat.plugin.photographs import HeldOutViews, photograph_and_mask
from l2o_splat.plugin.pipeline import L2OPipeline
from l2o_splat.plugin.saved_capture import frame_between, poses_to_local


def true_poses(capture: Path, pipeline: L2OPipeline) -> Float[Tensor, "v 3 4"]:
    """True poses of the training views, in the frame of the run."""
    frames = json.loads((capture / "transforms.json").read_text())["frames"]
    by_name = {Path(frame["file_path"]).name: frame["transform_matrix"][:3] for frame in frames}
    outputs = pipeline.datamanager.train_dataset._dataparser_outputs
    poses = torch.tensor([by_name[path.name] for path in outputs.image_filenames], dtype=torch.float64)
    transform, scale = outputs.dataparser_transform.double(), float(outputs.dataparser_scale)
    centres = scale * (transform[:, :3] @ poses[:, :, 3:] + transform[:, 3:])
    return torch.cat([transform[:, :3] @ poses[:, :, :3], centres], dim=2)


def errors(true: Float[Tensor, "v 3 4"], found: Float[Tensor, "v 3 4"], distance: float) -> str:
    """Mean error of poses, but for one similarity."""
    aligned = poses_to_local(frame_between(true, found), true)
    traces = (aligned[:, :, :3].mT @ found[:, :, :3]).diagonal(dim1=1, dim2=2).sum(dim=1)
    turn = torch.rad2deg(((traces - 1) / 2).clamp(-1, 1).acos()).mean()
    shift = (aligned[:, :, 3] - found[:, :, 3]).norm(dim=1).mean() / distance
    return f"{float(turn):.3f} degrees, {100 * float(shift):.3f} %"


def quality(pipeline: L2OPipeline, frame: Frame) -> float:
    """Mean PSNR of the views held out, seen from their poses in a frame."""
    cameras, values = pipeline.datamanager.eval_dataset.cameras.to(pipeline.device), []
    cameras.camera_to_worlds = poses_to_local(frame, cameras.camera_to_worlds)
    with torch.no_grad():
        for camera, data in HeldOutViews(cameras, pipeline.datamanager.cached_eval):
            outputs = pipeline.model.get_outputs_for_camera(camera)
            photograph, mask = photograph_and_mask(data, outputs["background"])
            values.append(psnr(outputs["rgb"], photograph, mask))
    return sum(values) / len(values)


def measure(capture: Path, config: Path) -> str:
    """One line for a run."""
    with redirect_stdout(sys.stderr):
        _, pipeline, _, _ = eval_setup(config)
    posed = pipeline.datamanager.train_dataset.cameras.camera_to_worlds.double()
    true, poses = true_poses(capture, pipeline), getattr(pipeline.model, "camera_optimizer", None)
    refined = posed if poses is None else poses.refined_poses(posed)
    distance = 1.0 if poses is None else float(poses.distance)
    frames = Frame(), frame_between(refined, posed).inverse, frame_between(true, refined)
    measured = ", ".join(f"{quality(pipeline, frame):.2f}" for frame in frames)
    moved = "" if poses is None else f"; poses {errors(true, posed, distance)} to {errors(true, refined, distance)}"
    return f"{config}: PSNR {measured}{moved}"


if __name__ == "__main__":
    for path in sys.argv[2:]:
        print(measure(Path(sys.argv[1]), Path(path)))
