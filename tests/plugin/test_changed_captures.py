"""A checkpoint knows its capture: one that has grown is brought into its frame, another one is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from nerfstudio.scripts.exporter import ExportGaussianSplat
from nerfstudio.utils.eval_utils import eval_setup
from plyfile import PlyData
from scipy.spatial.transform import Rotation

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.photographs import pinhole_cameras
from l2o_splat.plugin.saved_capture import SavedCapture, frame_of_saved, photograph_names, poses_to_local
from tests.plugin.captures import (
    colmap_parser,
    data_manager,
    edit_transforms,
    last_checkpoint,
    method_config,
    train,
    write_colmap_model,
    write_tiny_capture,
)
from tests.plugin.console import printed, refuse


def saved(poses, names=None) -> SavedCapture:
    names = names or [f"images/{i:03d}.png" for i in range(len(poses))]
    return SavedCapture(names, poses, names, poses[:, :, 3].float(), 1.0, torch.eye(4, dtype=torch.float64)[:3], 1.0)


def random_poses(n: int = 6, seed: int = 0) -> torch.Tensor:
    axes = torch.from_numpy(Rotation.random(n, random_state=seed).as_matrix())
    centres = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3, 1)))
    return torch.cat([axes, centres], dim=2)


def moved(poses, seed: int = 1, scale: float = 0.37) -> torch.Tensor:
    """The same cameras in another world."""
    turn = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    centres = scale * turn @ poses[:, :, 3:] + torch.tensor([[0.3], [-2.0], [0.7]])
    return torch.cat([turn @ poses[:, :, :3], centres], dim=2).float().double()


@pytest.mark.parametrize("kept", [slice(0, 6), slice(1, 4)], ids=["all", "some gone"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_frame_of_a_checkpoint_is_found(kept, seed):
    before = random_poses()
    names = saved(before).names
    now = moved(torch.cat([before[kept], random_poses(3, seed=9)]), seed)
    present = saved(now, [*names[kept], "images/a.png", "images/b.png", "images/c.png"])
    frame = frame_of_saved(saved(before), present)
    found = poses_to_local(frame, present.poses)
    torch.testing.assert_close(found[: len(names[kept])], before[kept], rtol=0, atol=1e-6)
    assert not frame.is_identity and frame.scale == pytest.approx(1 / 0.37, rel=1e-6)


def test_an_unmoved_frame_is_left_alone():
    poses = random_poses()
    assert frame_of_saved(saved(poses), saved(poses)).is_identity
    # As another machine might compute it.
    assert frame_of_saved(saved(poses), saved(poses + 1e-7 * random_poses(seed=3))).is_identity


def test_other_captures_and_other_poses_are_refused():
    before = random_poses()
    other = saved(before, [f"images/IMG_{i}.png" for i in range(6)])
    with pytest.raises(CaptureError, match="another capture: none of its 6 photographs .*IMG_0.png"):
        frame_of_saved(saved(before), other)
    with pytest.raises(CaptureError, match="no one rotation, shift and scale"):
        frame_of_saved(saved(before), saved(random_poses(seed=5)))
    changed = moved(before)
    changed[2, :, 3] += 0.01
    with pytest.raises(CaptureError, match=r"images/002.png is off by"):
        frame_of_saved(saved(before), saved(changed))
    mirrored = before * torch.tensor([[1.0], [1.0], [-1.0]])
    with pytest.raises(CaptureError, match="no one rotation, shift and scale"):
        frame_of_saved(saved(before), saved(mirrored))
    with pytest.raises(CaptureError, match="Only 1 of the 6 photographs"):
        frame_of_saved(saved(before), saved(moved(before)[:1]))


def test_what_is_saved_is_plain_data(tmp_path):
    record = saved(random_poses())
    torch.save(record.state(), tmp_path / "record.pt")
    loaded = SavedCapture.from_state(torch.load(tmp_path / "record.pt", weights_only=True))
    assert loaded.names == record.names and torch.equal(loaded.poses, record.poses)
    assert SavedCapture.from_state({}) is None


def test_names_do_not_depend_on_where_the_capture_lies(tmp_path):
    folder = tmp_path / "a/capture"
    assert photograph_names([folder / "images_2/walk/0.png"], folder) == ["images/walk/0.png"]
    assert photograph_names([folder / "images/0.png"], folder / "transforms.json") == ["images/0.png"]
    assert photograph_names([tmp_path / "cache/images/0.png"], folder) == ["images/0.png"]


def keep_frames(capture, count):
    edit_transforms(capture, lambda meta: meta.update(frames=meta["frames"][:count]))


@pytest.mark.parametrize("form", ["nerfstudio-data", "colmap"])
def test_cameras_and_points_come_into_the_frame_of_the_checkpoint(form, tmp_path, capsys):
    def read(count):
        capture = write_tiny_capture(tmp_path / f"capture{count}", num_views=9)
        keep_frames(capture, count)
        return data_manager(write_colmap_model(capture), colmap_parser() if form == "colmap" else None)

    before, now = read(6), read(9)
    record, names = before.capture(), now.capture().names
    points = now.train_dataparser_outputs.metadata["points3D_xyz"].clone()
    now.follow(record)
    assert "3 photographs added" in printed(capsys)
    rows = [names.index(name) for name in record.names]
    torch.testing.assert_close(now.capture().poses[rows], record.poses, rtol=0, atol=2e-6)
    outputs, earlier = now.train_dataparser_outputs, before.train_dataparser_outputs
    assert not torch.allclose(outputs.metadata["points3D_xyz"], points, atol=1e-3), "the frame had not moved"
    torch.testing.assert_close(outputs.metadata["points3D_xyz"], earlier.metadata["points3D_xyz"], rtol=0, atol=2e-6)
    torch.testing.assert_close(outputs.dataparser_transform, earlier.dataparser_transform, rtol=0, atol=1e-5)
    assert outputs.dataparser_scale == pytest.approx(earlier.dataparser_scale, rel=1e-5)
    assert now.view_sampler.views(0)
    # Once there, it stays.
    poses = now.capture().poses
    now.follow(record)
    assert torch.equal(now.capture().poses, poses)


def test_a_grown_capture_goes_on_and_evaluates_and_exports(tmp_path, capsys):
    capture = write_tiny_capture(tmp_path / "capture", num_views=9)
    everything = (capture / "transforms.json").read_text()
    keep_frames(capture, 6)
    config = method_config(capture, tmp_path / "out", "learn2splat", steps=3)
    first = train(config)
    camera, photograph = first.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    expected = first.pipeline.model.get_outputs_for_camera(camera)["rgb"]
    file = torch.load(last_checkpoint(config), weights_only=True)
    assert file["pipeline"]["_extra_state"]["names"][0].startswith("images/")

    # Evaluation shows the same picture, although nerfstudio reads other poses now.
    (capture / "transforms.json").write_text(everything)
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    camera, again = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    assert torch.equal(again["image"], photograph["image"])
    shown = pipeline.model.get_outputs_for_camera(camera)["rgb"]
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-3)
    capsys.readouterr()

    # Training goes on with scene and state as they are.
    resumed = method_config(capture, tmp_path / "resumed", "learn2splat", steps=1)
    resumed.load_dir = config.get_checkpoint_dir()
    trainer = resumed.setup(local_rank=0, world_size=1)
    trainer.setup()
    assert "3 photographs added" in printed(capsys)
    assert torch.equal(trainer.pipeline.model.means, file["pipeline"]["_model.gauss_params.means"])
    optimizer = trainer.optimizers.optimizers["gaussians"]
    assert optimizer.inner_step == 3 and optimizer.rule_state is not None
    trainer.base_dir.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(3)
    record = torch.load(last_checkpoint(resumed), weights_only=True)["pipeline"]["_extra_state"]
    assert len(record["names"]) == 9
    assert torch.equal(record["centres"], file["pipeline"]["_extra_state"]["centres"])

    # A checkpoint of another capture is refused.
    other = write_tiny_capture(tmp_path / "other", num_views=9)
    (other / "images").rename(other / "photos")
    edit_transforms(
        other,
        lambda meta: [
            frame.update(file_path=frame["file_path"].replace("images", "photos")) for frame in meta["frames"]
        ],
    )
    elsewhere = method_config(other, tmp_path / "elsewhere", "learn2splat", steps=1)
    elsewhere.load_checkpoint = last_checkpoint(config)
    refuse(elsewhere, "belongs to another capture: none of its 6 photographs")

    # The scene is exported without its photographs.
    shutil.rmtree(capture)
    ExportGaussianSplat(load_config=config.get_base_dir() / "config.yml", output_dir=tmp_path / "ply").main()
    vertices = PlyData.read(tmp_path / "ply/splat.ply")["vertex"]
    means = file["pipeline"]["_model.gauss_params.means"].numpy()
    assert np.array_equal(np.stack([vertices[axis] for axis in "xyz"], axis=1), means)


def test_photographs_of_a_step_have_the_cameras_of_the_frame_that_the_capture_is_in(tiny_capture):
    """Also if steps were taken before the capture was brought into the frame of a checkpoint."""
    manager = data_manager(tiny_capture, test_mode="val")
    (before,) = manager.next_train_photographs(3, torch.zeros(3))
    present = manager.capture()
    poses, centres = present.poses.clone(), present.centres + torch.tensor([0.5, -1.0, 2.0])
    poses[:, :, 3] += torch.tensor([0.5, -1.0, 2.0])
    manager.follow(replace(present, poses=poses, centres=centres))
    (after,) = manager.next_train_photographs(3, torch.zeros(3))
    moved = before.cameras.centres + torch.tensor([0.5, -1.0, 2.0])
    torch.testing.assert_close(after.cameras.centres, moved, rtol=0, atol=1e-5)
    indices = torch.tensor(manager.view_sampler.views(3))
    assert after.cameras.viewmats.equal(pinhole_cameras(manager.train_cameras[indices]).viewmats)
    assert after.cameras.Ks.equal(before.cameras.Ks) and all(map(torch.equal, after.stored, before.stored))
