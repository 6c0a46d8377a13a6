"""What `ns-render` and the viewer get from a run: paths, photographs to compare with, and sentences."""

import copy
import math
import sys
import threading
import types

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_interpolated_camera_path
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from nerfstudio.plugins.registry import discover_methods
from PIL import Image

from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.errors import PluginError
from l2o_splat.plugin.held_out_quality import mean_quality
from tests.plugin.captures import edit_transforms, write_tiny_capture


def data_manager(folder, test_mode="test", saved=None, **options):
    config = copy.deepcopy(discover_methods()[0]["l2o-adam"].pipeline.datamanager)
    config.data, config.saved_capture = folder, saved
    for name, value in options.items():
        setattr(config.dataparser if hasattr(config.dataparser, name) else config, name, value)
    return config.setup(device="cpu", test_mode=test_mode)


@pytest.fixture
def within_ns_render(monkeypatch):
    """As if this process were `ns-render`."""
    monkeypatch.setitem(sys.modules, "nerfstudio.scripts.render", types.ModuleType("render"))


@pytest.mark.parametrize(("views", "path"), [(8, 8), (4, 4), (9, 2), (17, 3)])
def test_a_path_has_training_views_if_fewer_than_two_are_held_out(within_ns_render, tmp_path, views, path):
    manager = data_manager(write_tiny_capture(tmp_path / "capture", num_views=views))
    held_out = len(manager.eval_dataset)
    manager.offer_paths()
    cameras = manager.eval_dataset.cameras
    assert len(cameras) == path and len(manager.eval_dataset) == held_out
    assert len(get_interpolated_camera_path(cameras, steps=3, order_poses=False)) == 3 * (path - 1)
    assert len(manager.train_dataset.cameras) == views - held_out


def test_a_path_without_any_view_held_out(within_ns_render, tiny_capture):
    manager = data_manager(tiny_capture, eval_mode="fraction", train_split_fraction=1.0)
    manager.offer_paths()
    assert len(manager.eval_dataset) == 0 and len(manager.eval_dataset.cameras) == 9


@pytest.mark.parametrize(("width", "height", "expected"), [(48, 36, (48, 36)), (47, 35, (46, 34)), (49, 36, (48, 36))])
def test_a_path_has_full_size_and_even_sides(within_ns_render, tiny_capture, width, height, expected):
    edit_transforms(tiny_capture, lambda meta: meta.update(w=width, h=height, cx=width / 2 + 0.7, cy=height / 2 - 0.3))
    manager = data_manager(tiny_capture, camera_res_scale_factor=0.5)
    manager.offer_paths()
    for dataset in (manager.train_dataset, manager.eval_dataset):
        path = get_interpolated_camera_path(dataset.cameras, steps=2, order_poses=False)
        assert (int(path.width[0]), int(path.height[0])) == expected
        torch.testing.assert_close(path.fx[:, 0], torch.full((len(path),), 50.0))


def test_evaluation_beside_a_path_sees_the_photographs_own_cameras(within_ns_render, tiny_capture):
    manager = data_manager(tiny_capture, camera_res_scale_factor=0.5)
    before = manager.fixed_indices_eval_dataloader
    manager.offer_paths()
    after = manager.fixed_indices_eval_dataloader
    assert len(before) == len(after) == 2
    for (camera, data), (again, data_again) in zip(before, after, strict=True):
        assert int(again.width) == 24 and torch.equal(camera.camera_to_worlds, again.camera_to_worlds)
        assert torch.equal(data["image"], data_again["image"])


def test_other_commands_see_the_capture_as_it_is(tiny_capture):
    manager = data_manager(tiny_capture, camera_res_scale_factor=0.5)
    manager.offer_paths()
    assert len(manager.eval_dataset.cameras) == 2 and int(manager.eval_dataset.cameras.width[0]) == 24


@pytest.mark.parametrize("model", [{"k1": -0.2}, {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0.02}])
@pytest.mark.parametrize("split", ["train_dataset", "eval_dataset"])
def test_renders_are_compared_with_undistorted_photographs(within_ns_render, tiny_capture, model, split):
    edit_transforms(tiny_capture, lambda meta: meta.update(model))
    trained = data_manager(tiny_capture, test_mode="val")
    wanted = {"train_dataset": trained.cached_train, "eval_dataset": trained.cached_eval}[split]
    shown = getattr(data_manager(tiny_capture, saved=trained.capture()), split)
    found = list(FixedIndicesEvalDataloader(shown))
    assert len(found) == len(wanted)
    for index, (camera, batch) in enumerate(found):
        torch.testing.assert_close(batch["image"], wanted[index]["image"].float() / 255)
        torch.testing.assert_close(camera.fx[0], getattr(trained, split).cameras.fx[index])
        assert not math.isclose(float(camera.fx), 50.0, rel_tol=1e-4)


def test_renders_are_compared_with_transparent_photographs_on_the_background(within_ns_render, tiny_capture):
    wanted = {}
    for path in (tiny_capture / "images").iterdir():
        image = Image.open(path).convert("RGB")
        wanted[path.name] = (torch.from_numpy(np.array(image)).float() / 255 * 51 + 204) / 255
        image.putalpha(51)
        image.save(path)
    config = copy.deepcopy(discover_methods()[0]["l2o-adam"].pipeline.datamanager)
    config.data, config.saved_capture = tiny_capture, data_manager(tiny_capture).capture()
    config.saved_background = (1.0, 1.0, 1.0)
    shown = config.setup(device="cpu", test_mode="test").eval_dataset
    for path, (_, batch) in zip(shown.image_filenames, FixedIndicesEvalDataloader(shown), strict=True):
        torch.testing.assert_close(batch["image"], wanted[path.name], atol=1e-3, rtol=0)


def test_a_split_of_nothing_to_render(within_ns_render, tiny_capture):
    options = {"eval_mode": "fraction", "train_split_fraction": 1.0}
    saved = data_manager(tiny_capture, **options).capture()
    with pytest.raises(CaptureError, match="nothing to render; use --split train"):
        _ = data_manager(tiny_capture, saved=saved, **options).eval_dataset._dataparser_outputs


def test_pointcloud_export_says_what_it_lacks(tiny_capture):
    sampler = data_manager(tiny_capture).train_pixel_sampler  # The viewer looks at every attribute.
    assert sampler is not None
    with pytest.raises(PluginError, match="`ns-export gaussian-splat` exports the Gaussians"):
        sampler.num_rays_per_batch = 8


@pytest.fixture
def model():
    config = copy.deepcopy(discover_methods()[0]["l2o-adam"].pipeline.model)
    built = config.setup(scene_box=None, num_train_data=2).eval()
    xyz = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    built.set_gaussians(gaussians_from_points(xyz, torch.full((20, 3), 200, dtype=torch.uint8)))
    return built


def camera(kind=CameraType.PERSPECTIVE):
    pose = torch.eye(4)[None, :3]
    pose[:, 2, 3] = 3.0
    return Cameras(pose, fx=40.0, fy=40.0, cx=16.0, cy=12.0, width=32, height=24, camera_type=kind)


def test_single_rays_are_refused_in_a_sentence(model):
    ones = torch.ones(1, 3)
    rays = RayBundle(origins=ones, directions=ones, pixel_area=ones[:, :1], metadata={})
    with pytest.raises(PluginError, match="a rasterizer draws whole images.*no --render-nearest-camera"):
        model(rays)


@pytest.mark.parametrize("kind", [CameraType.EQUIRECTANGULAR, CameraType.ORTHOPHOTO])
def test_a_camera_that_cannot_be_drawn_ends_a_command_but_not_the_viewer(model, kind, capsys):
    with pytest.raises(PluginError, match=f"A {kind.name} camera cannot be rasterized"):
        model.get_outputs(camera(kind))
    drawn = []
    viewer = threading.Thread(target=lambda: drawn.append(model.get_outputs(camera(kind))))
    viewer.start()
    viewer.join()
    assert drawn[0]["rgb"].shape == (24, 32, 3) and not drawn[0]["accumulation"].any()
    assert f"A {kind.name} camera cannot be rasterized" in " ".join(capsys.readouterr().out.split())


def test_a_crop_of_nothing_is_drawn_as_background(model):
    whole = model.get_outputs_for_camera(camera())
    empty = model.get_outputs_for_camera(camera(), OrientedBox.from_params((9.0,) * 3, (0.0,) * 3, (1.0,) * 3))
    assert whole["rgb"].std() > 0 and whole.keys() == empty.keys()
    for name, image in empty.items():
        assert image.shape == whole[name].shape and torch.isfinite(image).all()
    assert not empty["rgb"].any()


@pytest.mark.parametrize(("spoiled", "reason"), [(True, "draws NaN"), (False, "images are equal")])
def test_only_numbers_that_json_can_hold_are_reported(model, capsys, spoiled, reason):
    photograph = model.get_outputs(camera())["rgb"].detach()
    if spoiled:
        model.get_outputs_for_camera = lambda camera: {"rgb": torch.full_like(photograph, math.nan)}
    metrics = mean_quality(model, [(camera(), {"image": photograph})], "eval")
    assert "psnr" not in metrics and all(map(math.isfinite, metrics.values()))
    assert reason in " ".join(capsys.readouterr().out.split())
