"""Photographs and masks of every kind on their way through the data manager, and a sentence for each fault of masks."""

import json

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.datamanager import L2ODataManager, L2ODataManagerConfig
from l2o_splat.plugin.photographs import photograph_and_mask
from l2o_splat.scenes.orientation import Turning
from tests.plugin.captures import edit_transforms


def read(capture, scale=1.0, **options) -> L2ODataManager:
    parser = NerfstudioDataParserConfig(data=capture, eval_mode="interval", **options)
    return L2ODataManagerConfig(dataparser=parser, camera_res_scale_factor=scale).setup(device="cpu")


def images(manager) -> torch.Tensor:
    return torch.stack(
        [photograph_and_mask(data, torch.zeros(3))[0] for data in (*manager.cached_train, *manager.cached_eval)]
    )


def with_masks(capture, mask: Image.Image, name="mask.png"):
    mask.save(capture / name)
    edit_transforms(capture, lambda meta: [frame.update(mask_path=name) for frame in meta["frames"]])


def half_mask() -> np.ndarray:
    mask = np.zeros((36, 48), np.uint8)
    mask[:, 20:] = 255
    return mask


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_ordinary_photographs_are_those_of_nerfstudio(tiny_capture, mode, scale):
    for path in (tiny_capture / "images").iterdir():
        image = Image.open(path).convert(mode)
        if mode == "RGBA":
            image.putalpha(Image.fromarray(half_mask()))
        image.save(path)
    manager = read(tiny_capture, scale)
    theirs = InputDataset(manager.train_dataparser_outputs, scale)
    background = torch.tensor([0.1, 0.5, 1.0])
    for i, data in enumerate(manager.cached_train):
        expected = theirs.get_image_float32(i)
        if mode == "RGBA":
            expected = expected[..., 3:] * expected[..., :3] + (1 - expected[..., 3:]) * background
        assert data["image"].dtype == torch.uint8
        assert torch.equal(photograph_and_mask(data, background)[0], expected)
        assert (manager.train_dataset.get_numpy_image(i) == theirs.get_numpy_image(i)).all()


def test_the_colour_that_a_capture_wants_under_its_photographs(tiny_capture):
    """As nerfstudio puts it there in floats; our background does not show."""
    for path in (tiny_capture / "images").iterdir():
        image = Image.open(path)
        image.putalpha(77)
        image.save(path)
    dataset = read(tiny_capture).train_dataset
    dataset._dataparser_outputs.alpha_color = torch.tensor([1.0, 0.5, 0.25])
    stored, floats = (dataset.get_data(3, image_type) for image_type in ("uint8", "float32"))
    assert torch.equal(photograph_and_mask(stored, torch.zeros(3))[0], floats["image"])


@pytest.mark.parametrize("model", [{"k1": -0.2}, {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0.02}])
def test_undistorted_photographs_are_those_of_floats_rounded_to_8_bits(tiny_capture, model):
    with_masks(tiny_capture, Image.fromarray(half_mask()))
    edit_transforms(tiny_capture, lambda meta: meta.update(model))
    parser = NerfstudioDataParserConfig(data=tiny_capture, eval_mode="interval")
    managers = [
        L2ODataManagerConfig(dataparser=parser, cache_images_type=kind).setup(device="cpu")
        for kind in ("uint8", "float32")
    ]
    stored, floats = (manager.cached_train[0] for manager in managers)
    assert (stored["image"].dtype, stored["mask"].dtype) == (torch.uint8, torch.bool)
    assert torch.equal(stored["mask"], floats["mask"])
    rounding = photograph_and_mask(stored, torch.zeros(3))[0] - floats["image"]
    assert 0.4 / 255 < rounding.abs().max() < 0.501 / 255
    assert torch.equal(managers[0].train_cameras.fx, managers[1].train_cameras.fx)


@pytest.mark.parametrize("mode", ["P", "CMYK", "I;16"])
def test_photographs_of_other_modes(tiny_capture, mode):
    before = images(read(tiny_capture))
    for path in (tiny_capture / "images").iterdir():
        image = Image.open(path)
        if mode == "I;16":
            Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257).save(path)
        elif mode == "P":
            image.quantize(256).save(path)
        else:
            image.convert("CMYK").save(path, format="TIFF")
    after = images(read(tiny_capture))
    if mode == "I;16":
        before = (before @ torch.tensor([0.299, 0.587, 0.114]))[..., None]
    assert (after - before).abs().mean() < 0.02


@pytest.mark.parametrize("posed_upright", [True, False])
@pytest.mark.parametrize("views", [slice(0, None, 2), slice(1, 4)])
def test_upside_down_photographs_follow_their_poses(tiny_capture, posed_upright, views):
    """Tagged photographs are turned if the poses are those of the turned ones, and left alone if not."""
    before = images(read(tiny_capture))
    tag = Image.Exif()
    tag[0x112] = 3
    meta = json.loads((tiny_capture / "transforms.json").read_text())
    for frame in meta["frames"][views]:
        path = tiny_capture / frame["file_path"]
        image = Image.open(path)
        (image.transpose(Image.Transpose.ROTATE_180) if posed_upright else image).save(path, exif=tag)
        if not posed_upright:
            # The pixels stay, so the pose is theirs; the scene is upside down in it.
            pose = np.array(frame["transform_matrix"])
            pose[:, :2] *= -1
            frame["transform_matrix"] = pose.tolist()
    (tiny_capture / "transforms.json").write_text(json.dumps(meta))
    manager = read(tiny_capture)
    assert torch.equal(images(manager), before)
    expected = Turning.POSED_TURNED if posed_upright else Turning.POSED_STORED
    assert set(manager.train_dataset.turning) == {Turning.NO_TAG, expected}


def test_a_quarter_turn_that_the_camera_does_not_have(tiny_capture, capsys):
    before = images(read(tiny_capture))
    tag = Image.Exif()
    tag[0x112] = 6
    path = tiny_capture / "images/003.png"
    Image.open(path).save(path, exif=tag)
    assert torch.equal(images(read(tiny_capture)), before)
    said = "".join(capsys.readouterr().out.split())
    assert "003.png" in said and "notturned" in said


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_masks_of_any_mode(tiny_capture, mode, scale):
    with_masks(tiny_capture, Image.fromarray(half_mask()).convert(mode))
    mask = read(tiny_capture, scale).cached_train[0]["mask"]
    assert mask.dtype == torch.bool
    assert tuple(mask.shape) == (int(36 * scale), int(48 * scale), 1)
    assert torch.equal(mask[0, :, 0], torch.arange(int(48 * scale)) >= 20 * scale)


def refuse(capture, message, **options):
    with pytest.raises(CaptureError, match=message) as caught:
        read(capture, **options)
    assert "\n" not in str(caught.value)


def test_masks_that_do_not_exist(tiny_capture):
    edit_transforms(tiny_capture, lambda meta: [f.update(mask_path="masks/none.png") for f in meta["frames"]])
    refuse(tiny_capture, "7 of 7 masks do not exist, the first is .*none.png of 001.png")


def test_one_mask_that_does_not_exist(tiny_capture):
    with_masks(tiny_capture, Image.fromarray(half_mask()))
    edit_transforms(tiny_capture, lambda meta: meta["frames"][2].update(mask_path="other.png"))
    refuse(tiny_capture, "1 of 7 masks do not exist, the first is .*other.png of 002.png")


@pytest.mark.parametrize("without", [0, 5])
def test_masks_for_some_frames(tiny_capture, without):
    with_masks(tiny_capture, Image.fromarray(half_mask()))
    edit_transforms(tiny_capture, lambda meta: meta["frames"][without].pop("mask_path"))
    refuse(tiny_capture, f"8 of 9 frames a mask_path, the first without is images/00{without}.png")


@pytest.mark.parametrize("value", [None, 3, ""])
def test_a_mask_path_that_is_none(tiny_capture, value):
    edit_transforms(tiny_capture, lambda meta: [frame.update(mask_path=value) for frame in meta["frames"]])
    refuse(tiny_capture, "'mask_path' of frame 0 in .*; text is needed")


@pytest.mark.parametrize("size", [(24, 18), (36, 48)])
def test_a_mask_of_another_size(tiny_capture, size):
    with_masks(tiny_capture, Image.new("L", size, 255))
    refuse(tiny_capture, f"mask.png is {size[0]} x {size[1]} pixels, its photograph 001.png is 48 x 36")


def test_a_mask_that_is_no_image(tiny_capture):
    with_masks(tiny_capture, Image.fromarray(half_mask()))
    (tiny_capture / "mask.png").write_bytes(b"no")
    refuse(tiny_capture, "The mask of 001.png cannot be used: .*mask.png")


def test_masks_that_leave_nothing(tiny_capture, capsys):
    with_masks(tiny_capture, Image.fromarray(half_mask()))
    Image.new("L", (48, 36)).save(tiny_capture / "black.png")
    edit_transforms(tiny_capture, lambda meta: meta["frames"][4].update(mask_path="black.png"))
    read(tiny_capture)
    said = "".join(capsys.readouterr().out.split())
    assert "1masks" in said and "black.png" in said
    with_masks(tiny_capture, Image.new("L", (48, 36)))
    refuse(tiny_capture, "All 7 masks leave no pixel")


def test_a_mask_colour(tiny_capture):
    refuse(tiny_capture, "no masks to apply it to", mask_color=(1.0, 0.0, 0.0))
    with_masks(tiny_capture, Image.fromarray(half_mask()))
    assert images(read(tiny_capture, mask_color=(1.0, 0.0, 0.0)))[0, 0, 0].tolist() == [1, 0, 0]


def test_photographs_that_are_read_are_not_read_again(tiny_capture):
    """The viewer asks for them in floats, of the size of their cameras, also where they were undistorted."""
    edit_transforms(tiny_capture, lambda meta: meta.update(k1=-0.2))
    manager = read(tiny_capture)
    for path in (tiny_capture / "images").iterdir():
        path.unlink()
    for i, data in enumerate(manager.cached_train):
        shown = manager.train_dataset[i]["image"]
        assert torch.equal(shown, data["image"].float() / 255)
        assert shown.shape[1] == int(manager.train_dataset.cameras.width[i])
