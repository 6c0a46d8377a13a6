"""Each fault has its own sentence, said before any work starts."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.plugin.captures import edit_transforms, last_checkpoint, method_config, train, write_tiny_capture


def refuse(config, *expected: str) -> str:
    with pytest.raises(SystemExit) as caught:
        train(config)
    message = str(caught.value)
    assert message.startswith("l2o_splat: ")
    for part in expected:
        assert part in message, message
    assert not list(config.get_base_dir().rglob("*.ckpt"))
    return message


def test_data_that_does_not_exist(tmp_path):
    refuse(method_config(tmp_path / "nowhere", tmp_path / "out"), "nowhere does not exist", "give the folder")


def test_a_folder_that_is_no_capture(tmp_path):
    (tmp_path / "empty").mkdir()
    refuse(method_config(tmp_path / "empty", tmp_path / "out"), "cannot read", "l2o photos")


def test_no_images(tiny_capture, tmp_path):
    edit_transforms(tiny_capture, lambda meta: meta.update(frames=[]))
    refuse(method_config(tiny_capture, tmp_path / "out"), "no", "image")


def test_images_that_are_not_there(tiny_capture, tmp_path):
    (tiny_capture / "images/003.png").unlink()
    refuse(method_config(tiny_capture, tmp_path / "out"), "1 of 7 images do not exist", "003.png")


def test_fewer_than_two_views(tmp_path):
    capture = write_tiny_capture(tmp_path / "capture", num_views=2)
    refuse(method_config(capture, tmp_path / "out"), "only one training view", "at least two")


def test_missing_points_when_they_are_asked_for(tiny_capture, tmp_path):
    edit_transforms(tiny_capture, lambda meta: meta.pop("ply_file_path"))
    config = method_config(tiny_capture, tmp_path / "out")
    config.pipeline.initialization.source = "sfm"
    refuse(config, "no structure-from-motion points", "source random")


def test_an_image_of_another_size_than_its_camera_says(tiny_capture, tmp_path):
    Image.new("RGB", (24, 18)).save(tiny_capture / "images/003.png")
    refuse(method_config(tiny_capture, tmp_path / "out"), "003.png is 24 x 18 pixels, its camera says 48 x 36")


def test_an_unreadable_image(tiny_capture, tmp_path):
    path = tiny_capture / "images/003.png"
    path.write_bytes(path.read_bytes()[:200])
    refuse(method_config(tiny_capture, tmp_path / "out"), "003.png cannot be read as an image", "save it again")


def test_a_camera_with_nan_pose(tiny_capture, tmp_path):
    def spoil(meta):
        meta["frames"][3]["transform_matrix"][1][3] = float("nan")

    edit_transforms(tiny_capture, spoil)
    refuse(method_config(tiny_capture, tmp_path / "out"), "NaN or infinite", "repair it")


def test_distortion_that_cannot_be_undone(tiny_capture, tmp_path):
    edit_transforms(tiny_capture, lambda meta: meta.update(k1=0.1, k2=0.01, k3=0.001, k4=0.3))
    refuse(method_config(tiny_capture, tmp_path / "out"), "k4", "undistort the capture first")


def test_a_camera_model_that_cannot_be_drawn(tiny_capture, tmp_path):
    edit_transforms(tiny_capture, lambda meta: meta.update(camera_model="EQUIRECTANGULAR"))
    refuse(method_config(tiny_capture, tmp_path / "out"), "EQUIRECTANGULAR", "pinhole")


def test_a_checkpoint_of_another_rule(tiny_capture, tmp_path):
    first = method_config(tiny_capture, tmp_path / "first", "l2o-adam", steps=2)
    train(first)
    kept = last_checkpoint(first).read_bytes()
    second = method_config(tiny_capture, tmp_path / "second", "l2o-adam-tuned", steps=2)
    second.load_dir = first.get_checkpoint_dir()
    refuse(second, "was trained with rule", "resume with the same rule")
    assert last_checkpoint(first).read_bytes() == kept


def test_weights_that_are_not_there(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path / "out", "learn2splat")
    config.optimizers["gaussians"]["optimizer"].weights = "learn2splat-maxi"
    refuse(config, "learn2splat-maxi is neither a file or folder nor a known name (", "gain-mini", "random:SEED")


def test_half_a_finish(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path / "out")
    config.optimizers["gaussians"]["optimizer"].finish_with = "adam-x5"
    refuse(config, "needs both", "finish-after")


def test_fewer_gaussians_than_neighbours(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path / "out", "learn2splat")
    config.pipeline.initialization.num_points = 3
    refuse(config, "3 Gaussians", "4")


def test_a_checkpoint_of_other_weights(tiny_capture, tmp_path):
    first = method_config(tiny_capture, tmp_path / "first", "learn2splat", steps=2)
    train(first)
    kept = last_checkpoint(first).read_bytes()
    second = method_config(tiny_capture, tmp_path / "second", "learn2splat", steps=2)
    second.optimizers["gaussians"]["optimizer"].weights = "random:1"
    second.load_dir = first.get_checkpoint_dir()
    refuse(second, "was trained with rule", "same rule, weights")
    assert last_checkpoint(first).read_bytes() == kept


@pytest.mark.parametrize("option", ["mixed_precision", "use_grad_scaler"])
def test_mixed_precision(tiny_capture, tmp_path, option):
    config = method_config(tiny_capture, tmp_path / "out")
    setattr(config, option, True)
    refuse(config, "float32 gradients", "--mixed-precision")


def test_gradient_accumulation(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path / "out")
    config.gradient_accumulation_steps = {"gaussians": 4}
    refuse(config, "gradient accumulation is on", "views-per-step")


def test_masked_pixels_change_nothing(tiny_capture, tmp_path):
    """Two captures that differ only under the mask train to the same scene."""
    mask = np.full((36, 48), 255, np.uint8)
    mask[:, 30:] = 0
    Image.fromarray(mask).save(tiny_capture / "mask.png")

    def add_masks(meta):
        for frame in meta["frames"]:
            frame["mask_path"] = "mask.png"

    edit_transforms(tiny_capture, add_masks)
    clean = train(method_config(tiny_capture, tmp_path / "clean", steps=4)).pipeline.model.gaussians.pack()
    for path in (tiny_capture / "images").iterdir():
        pixels = np.array(Image.open(path))
        pixels[:, 30:] = 255 - pixels[:, 30:]
        Image.fromarray(pixels).save(path)
    spoiled = train(method_config(tiny_capture, tmp_path / "spoiled", steps=4)).pipeline.model.gaussians.pack()
    assert (clean == spoiled).all()
    assert json.loads((tiny_capture / "transforms.json").read_text())["frames"][0]["mask_path"] == "mask.png"
