"""Poses of training views that are a little off, and their refinement beside the scene."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup
from scipy.spatial.transform import Rotation

from l2o_splat.frame import Frame
from l2o_splat.plugin.camera_optimizer import FINAL_FACTOR, FIRST_DECAY, SECOND_DECAY, PoseOptimizerConfig
from l2o_splat.plugin.saved_capture import frame_between, poses_to_local
from l2o_splat.scenes.capture import write_capture
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.views import PinholeCameras, opencv_from_opengl
from tests.plugin.captures import edit_transforms, last_checkpoint, look_at_origin, method_config, train


def refining(config, mode="SO3xR3", lr=1e-3):
    config.pipeline.model.camera_optimizer = PoseOptimizerConfig(mode=mode, lr=lr)
    return config


def random_poses(count, seed=0):
    """Camera-to-world matrices, OpenGL axes, around the origin."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(count, 3))
    return torch.from_numpy(np.stack([look_at_origin(3 * c / np.linalg.norm(c))[:3] for c in centres]))


# A capture with disturbed poses ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    """A procedural capture, and a copy whose training poses are off by 0.5 degrees and 1 % of the distance."""
    folder = tmp_path_factory.mktemp("captures")
    options = ProceduralOptions(num_views=32, width=120, height=90, num_points=3000, trajectory="orbit")
    write_capture(folder / "true", generate(3, options))
    shutil.copytree(folder / "true", folder / "off")
    edit_transforms(folder / "off", disturb)
    return folder


def disturb(meta):
    random = np.random.default_rng(0)
    poses = np.array([frame["transform_matrix"] for frame in meta["frames"]])
    # The cameras of an orbit look at what is in its middle.
    distance = np.linalg.norm(poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0), axis=1).mean()
    for view, frame in enumerate(meta["frames"]):
        if view % 8:
            turn, shift = random.normal(size=(2, 3))
            turn = Rotation.from_rotvec(np.radians(0.5) * turn / np.linalg.norm(turn)).as_matrix()
            poses[view, :3, :3] = turn @ poses[view, :3, :3]
            poses[view, :3, 3] += 0.01 * distance * shift / np.linalg.norm(shift)
            frame["transform_matrix"] = poses[view].tolist()


def psnr_of(trainer) -> float:
    return trainer.pipeline.get_average_eval_image_metrics()["psnr"]


def true_poses(folder: Path, trainer):
    """True poses of the training views in the frame of a run."""
    meta = json.loads((folder / "transforms.json").read_text())
    poses = torch.tensor([frame["transform_matrix"][:3] for frame in meta["frames"]], dtype=torch.float64)
    outputs = trainer.pipeline.datamanager.train_dataparser_outputs
    transform, scale = outputs.dataparser_transform.double(), outputs.dataparser_scale
    poses = poses[[view for view in range(len(poses)) if view % 8]]
    axes, centres = transform[:, :3] @ poses[:, :, :3], transform[:, :3] @ poses[:, :, 3:] + transform[:, 3:]
    return torch.cat([axes, scale * centres], dim=2)


def errors(true, found):
    """Mean angle (degrees) and distance between poses, but for one similarity."""
    aligned = poses_to_local(frame_between(true, found), true)
    turns = Rotation.from_matrix((aligned[:, :, :3].mT @ found[:, :, :3]).numpy()).magnitude()
    return np.degrees(turns).mean(), float((aligned[:, :, 3] - found[:, :, 3]).norm(dim=1).mean())


def test_refinement_recovers_the_quality_that_disturbed_poses_cost(captures, tmp_path):
    runs = {}
    for name, capture, mode in (("true", "true", "off"), ("off", "off", "off"), ("refined", "off", "SO3xR3")):
        config = refining(method_config(captures / capture, tmp_path / name, "l2o-adam-tuned", steps=150), mode)
        config.preset, config.pipeline.datamanager.views_per_step = "fast", 8
        config.schedule.controller = "none"
        config.optimizers["gaussians"]["optimizer"].horizon = None
        runs[name] = train(config)
    psnr = {name: psnr_of(trainer) for name, trainer in runs.items()}
    assert psnr["refined"] - psnr["off"] > 0.5 * (psnr["true"] - psnr["off"]) > 0.5, psnr

    pipeline = runs["refined"].pipeline
    true = true_poses(captures / "true", runs["refined"])
    posed = pipeline.datamanager.train_dataset.cameras.camera_to_worlds.double()
    before, after = errors(true, posed), errors(true, pipeline.model.camera_optimizer.refined_poses(posed))
    assert after[0] < 0.5 * before[0] and after[1] < 0.5 * before[1], (before, after)


# Which poses move -------------------------------------------------------------------------------------------------


def moved_views(trainer) -> list[int]:
    return trainer.pipeline.model.camera_optimizer.pose_adjustment.detach().any(dim=1).nonzero().flatten().tolist()


@pytest.mark.parametrize("method", ["l2o-adam", "l2o-adam-tuned", "learn2splat"])
@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_all_training_views_move_by_at_most_their_rate_in_a_step(tiny_capture, tmp_path, method, mode):
    trainer = train(refining(method_config(tiny_capture, tmp_path, method, steps=4), mode))
    poses = trainer.pipeline.model.camera_optimizer
    assert moved_views(trainer) == list(range(7))
    assert poses.pose_adjustment.abs().max() <= 1.01e-3 * poses.steps.max()
    # 3 of 7 views in each of 4 steps.
    assert int(poses.steps.sum()) == 12
    assert poses.distance == pytest.approx(
        3 * trainer.pipeline.datamanager.train_dataparser_outputs.dataparser_scale, 0.2
    )


def test_diff3r_moves_its_context_views(tiny_capture, tmp_path):
    config = refining(method_config(tiny_capture, tmp_path, "diff3r", steps=3))
    config.pipeline.initialization.source, config.pipeline.initialization.context.num_views = "auto", 4
    trainer = train(config)
    assert len(moved_views(trainer)) == 4
    assert sorted(trainer.pipeline.model.camera_optimizer.steps.tolist()) == [0] * 3 + [3] * 4


def test_a_rate_of_nothing_changes_nothing(tiny_capture, tmp_path):
    """Bit for bit, across growth and reduced photographs: refined cameras begin as those of the capture."""
    scenes = []
    for mode in ("off", "SO3xR3"):
        config = refining(method_config(tiny_capture, tmp_path / mode, "l2o-adam-tuned", steps=12), mode, lr=1e-30)
        config.preset, config.schedule.growth = "fast", 1.5
        config.optimizers["gaussians"]["optimizer"].horizon = None
        scenes.append(train(config).pipeline.model.gaussians.detach().pack())
        saved = torch.load(last_checkpoint(config), weights_only=True)
        assert any("camera" in name for name in saved["pipeline"]) == (mode != "off")
        assert saved["optimizers"].keys() == {"gaussians"}
    assert torch.equal(*scenes)


# Checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carried", [False, True])
def test_a_saved_run_evaluates_as_it_did(tiny_capture, tmp_path, carried):
    config = refining(method_config(tiny_capture, tmp_path, steps=6), lr=0.02)
    config.pipeline.model.camera_optimizer.carry_held_out = carried
    trainer = train(config)
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    poses = [p.model.camera_optimizer.pose_adjustment for p in (trainer.pipeline, pipeline)]
    assert torch.equal(*poses)
    assert pipeline.get_average_eval_image_metrics()["psnr"] == psnr_of(trainer)
    cameras = [pair[0].camera_to_worlds for pair in pipeline.datamanager.fixed_indices_eval_dataloader]
    held_out, posed = torch.cat(cameras), pipeline.datamanager.train_dataset.cameras.camera_to_worlds.double()
    frame = frame_between(pipeline.model.camera_optimizer.refined_poses(posed), posed).inverse
    expected = pipeline.datamanager.eval_dataset.cameras.camera_to_worlds
    if carried:
        assert (held_out - expected).abs().max() > 1e-3
        expected = poses_to_local(frame, expected)
    torch.testing.assert_close(held_out, expected)


def test_runs_from_before_are_refined_from_where_they_are(tiny_capture, tmp_path):
    before = method_config(tiny_capture, tmp_path / "before", steps=3)
    train(before)
    after = refining(method_config(tiny_capture, tmp_path / "after", steps=3))
    after.load_dir = before.get_checkpoint_dir()
    trainer = train(after)
    assert trainer.completed_step == 5 and len(moved_views(trainer)) > 3
    back = method_config(tiny_capture, tmp_path / "back", steps=3)
    back.load_dir = after.get_checkpoint_dir()
    with pytest.raises(
        SystemExit, match="trained with refined poses, and --pipeline.model.camera-optimizer.mode is off"
    ):
        train(back)


def test_poses_follow_their_photographs_when_the_capture_changes(tiny_capture, tmp_path):
    config = refining(method_config(tiny_capture, tmp_path / "out", steps=4))
    poses = train(config).pipeline.model.camera_optimizer.pose_adjustment.detach()
    # Photographs 1 to 7 were trained on; without 3, it is 1, 2, 4, 5, 6, 7 and 8 of the names that there were.
    edit_transforms(tiny_capture, lambda meta: meta["frames"].pop(3))
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    now = pipeline.model.camera_optimizer.pose_adjustment.detach()
    assert torch.equal(now[:6], poses[[0, 1, 3, 4, 5, 6]])
    assert not now[6:].any()


# Refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_before_the_capture_is_read(tmp_path):
    config = refining(method_config(tmp_path / "no capture", tmp_path / "out", "resplat"))
    with pytest.raises(SystemExit, match="mode is SO3xR3, and the rule resplat follows no gradients"):
        config.setup(local_rank=0, world_size=1)
    for lr in (0.0, float("nan")):
        config = refining(method_config(tmp_path / "no capture", tmp_path / "out"), lr=lr)
        with pytest.raises(SystemExit, match=f"--pipeline.model.camera-optimizer.lr is {lr}; a rate above 0 is needed"):
            config.setup(local_rank=0, world_size=1)


# The optimizer by itself ------------------------------------------------------------------------------------------


def test_it_is_adam_in_the_steps_that_show_a_view():
    poses = PoseOptimizerConfig(mode="SO3xR3", lr=0.01).setup(num_cameras=3, device="cpu")
    expected = torch.nn.Parameter(torch.zeros(2, 6))
    adam = torch.optim.Adam([expected], lr=0.01, betas=(FIRST_DECAY, SECOND_DECAY), eps=0.0)
    generator = torch.Generator().manual_seed(0)
    for step in range(10):
        gradient = torch.randn(3, 6, generator=generator)
        gradient[2] = 0 if step % 2 else float("nan")
        poses.pose_adjustment.grad, expected.grad = gradient, gradient[:2].clone()
        adam.param_groups[0]["lr"] = 0.01 * FINAL_FACTOR ** (step / 10)
        poses.step(step / 10)
        adam.step()
    torch.testing.assert_close(poses.pose_adjustment[:2].detach(), expected.detach())
    assert not poses.pose_adjustment[2].any() and poses.steps.tolist() == [10, 10, 0]
    assert poses.pose_adjustment.grad is None


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_cameras_and_poses_move_alike(mode):
    """Camera-from-world matrices in OpenCV axes, and camera-to-world ones in OpenGL axes."""
    poses = random_poses(5)
    optimizer = PoseOptimizerConfig(mode=mode).setup(num_cameras=5, device="cpu").double()
    optimizer.distance.fill_(2.5)
    viewmats = opencv_from_opengl(poses)
    cameras = PinholeCameras(viewmats, torch.eye(3, dtype=torch.float64).repeat(5, 1, 1), 8, 8)
    assert torch.equal(optimizer.refined(cameras, [0, 1, 2, 3, 4]).viewmats, viewmats)
    generator = torch.Generator().manual_seed(0)
    optimizer.pose_adjustment.data = 0.1 * torch.randn(5, 6, generator=generator, dtype=torch.float64)
    moved = optimizer.refined_poses(poses)
    found = optimizer.refined(cameras[[3, 1]], [3, 1]).viewmats
    torch.testing.assert_close(found, opencv_from_opengl(moved)[[3, 1]], atol=2e-5, rtol=0)
    if mode == "SO3xR3":
        shift = (poses[:, :, :3].mT @ (moved - poses)[:, :, 3:])[:, :, 0]
        torch.testing.assert_close(shift, 2.5 * optimizer.pose_adjustment[:, :3].detach())


def test_the_similarity_between_cameras():
    """Exact where there is one; from axes alone where all cameras are in one place."""
    poses, generator = random_poses(6), np.random.default_rng(2)
    turn = torch.from_numpy(Rotation.from_rotvec(generator.normal(size=3)).as_matrix())
    moved = poses_to_local(Frame(turn, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 1.7), poses)
    for some in (slice(None), slice(0, 2)):
        frame = frame_between(poses[some], moved[some])
        assert frame.scale == pytest.approx(1.7)
        torch.testing.assert_close(poses_to_local(frame, poses), moved)
    alone = frame_between(poses[:1], moved[:1])
    assert alone.scale == 1
    torch.testing.assert_close(poses_to_local(alone, poses[:1]), moved[:1])
