"""Captures for meta-training: in our conventions, whichever of nerfstudio's dataparsers read them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.training_captures import read_training_capture
from l2o_splat.scenes.capture import Capture
from tests.captures import shared_capture
from tests.plugin.captures import FOCAL, HEIGHT, NUM_VIEWS, WIDTH, edit_transforms

NERFSTUDIO = ("nerfstudio-data", "--eval-mode", "interval")
COLMAP = ("colmap", "--colmap-path", "sparse/0")
AS_RECORDED = (*NERFSTUDIO, "--orientation-method", "none", "--center-method", "none", "--no-auto-scale-poses")


def files_of(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def project(capture: Capture, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [p 2] and depth [p] of the points in a view."""
    cameras = capture.views.cameras
    camera = capture.points.xyz @ cameras.viewmats[view, :3, :3].mT + cameras.viewmats[view, :3, 3]
    pixels = camera @ cameras.Ks[view].mT
    return pixels[:, :2] / pixels[:, 2:], camera[:, 2]


def colour_error(capture: Capture, shift: tuple[float, float]) -> float:
    """Median difference of the points' colours from what the images show at their pixels, plus a shift."""
    cameras, errors = capture.views.cameras, []
    size = torch.tensor([cameras.width, cameras.height])
    for view, image in enumerate(capture.views.images):
        pixels, depth = project(capture, view)
        pixels = pixels + torch.tensor(shift)
        seen = (depth > 0) & (pixels > 0.5).all(dim=1) & (pixels < size - 0.5).all(dim=1)
        places = (2 * pixels[seen] / size - 1)[None, None]
        # Without corners aligned, the centre of the top-left pixel is (0.5, 0.5).
        found = torch.nn.functional.grid_sample(image.permute(2, 0, 1)[None], places, align_corners=False)
        errors.append((found[0, :, 0].mT - capture.points.rgb[seen]).abs().mean(dim=1))
    return float(torch.cat(errors).median())


def test_views_points_and_world_are_those_of_the_files(tiny_capture):
    before = files_of(tiny_capture)
    capture = read_training_capture(tiny_capture, AS_RECORDED)
    assert files_of(tiny_capture) == before
    meta = json.loads((tiny_capture / "transforms.json").read_text())
    cameras = capture.views.cameras
    assert (len(cameras), cameras.width, cameras.height) == (NUM_VIEWS, WIDTH, HEIGHT)
    assert cameras.Ks[4].tolist() == [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]
    opencv_from_opengl_axes = np.diag([1.0, -1.0, -1.0, 1.0])
    for view, frame in enumerate(meta["frames"]):
        viewmat = np.linalg.inv(np.array(frame["transform_matrix"]) @ opencv_from_opengl_axes)
        assert cameras.viewmats[view].numpy() == pytest.approx(viewmat, abs=1e-5)
        with Image.open(tiny_capture / frame["file_path"]) as image:
            assert torch.equal(capture.views.images[view], torch.from_numpy(np.asarray(image) / np.float32(255)))
    lines = (tiny_capture / "points.ply").read_text().splitlines()[-60:]
    recorded = np.array([line.split() for line in lines], dtype=np.float64)
    assert capture.points.xyz.numpy() == pytest.approx(recorded[:, :3], abs=1e-5)
    assert capture.points.rgb.numpy() == pytest.approx(recorded[:, 3:] / 255, abs=1e-6)


def test_every_eighth_view_can_be_held_out(tiny_capture):
    everything = read_training_capture(tiny_capture, NERFSTUDIO)
    training = read_training_capture(tiny_capture, NERFSTUDIO, hold_out=True)
    assert len(training.views) == 7
    assert torch.equal(training.views.images, everything.views.images[1:8])
    assert torch.equal(training.views.cameras.viewmats, everything.views.cameras.viewmats[1:8])


def test_images_are_scaled_in_memory(tiny_capture):
    before = files_of(tiny_capture)
    half = read_training_capture(tiny_capture, NERFSTUDIO, scale=0.5)
    assert files_of(tiny_capture) == before
    assert half.views.images.shape == (NUM_VIEWS, HEIGHT // 2, WIDTH // 2, 3)
    assert half.views.cameras.Ks[0].tolist() == [[FOCAL / 2, 0, WIDTH / 4], [0, FOCAL / 2, HEIGHT / 4], [0, 0, 1]]
    full = read_training_capture(tiny_capture, NERFSTUDIO)
    blocks = full.views.images.reshape(NUM_VIEWS, HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(dim=(2, 4))
    assert (half.views.images - blocks).abs().mean() < 0.01
    with pytest.raises(CaptureError, match="scale is 0"):
        read_training_capture(tiny_capture, NERFSTUDIO, scale=0)


def test_alpha_is_put_on_black_and_masks_are_kept(tiny_capture):
    def add_masks(meta):
        for frame in meta["frames"]:
            path = tiny_capture / frame["file_path"]
            with Image.open(path) as image:
                opaque = np.asarray(image)
            Image.fromarray(np.dstack([opaque, np.full((HEIGHT, WIDTH), 51, np.uint8)])).save(path)
            mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
            mask[: len(frame["file_path"])] = 0
            frame["mask_path"] = f"mask-{path.name}"
            Image.fromarray(mask).save(tiny_capture / frame["mask_path"])

    opaque = read_training_capture(tiny_capture, NERFSTUDIO)
    edit_transforms(tiny_capture, add_masks)
    capture = read_training_capture(tiny_capture, NERFSTUDIO)
    assert torch.allclose(capture.views.images, opaque.views.images * 0.2, atol=1e-6)
    assert capture.views.masks.shape == (NUM_VIEWS, HEIGHT, WIDTH, 1)
    assert capture.views.masks[:, 14:].eq(1).all() and capture.views.masks[:, :14].eq(0).all()


def test_several_image_sizes_are_refused(tiny_capture):
    def crop(meta):
        frame = meta["frames"][8]  # Held out by the benchmark.
        with Image.open(tiny_capture / frame["file_path"]) as image:
            image.crop((0, 0, 40, 30)).save(tiny_capture / frame["file_path"])
        for other in meta["frames"]:
            other.update(w=WIDTH, h=HEIGHT)
        frame.update(w=40, h=30)
        del meta["w"], meta["h"]

    edit_transforms(tiny_capture, crop)
    with pytest.raises(CaptureError, match="several sizes \\(40 x 30, 48 x 36 pixels\\)"):
        read_training_capture(tiny_capture, NERFSTUDIO)
    assert len(read_training_capture(tiny_capture, NERFSTUDIO, hold_out=True).views) == 7


@pytest.mark.parametrize("colmap_model", [False, True])
def test_a_capture_without_points_is_refused_and_not_rewritten(tiny_capture, monkeypatch, colmap_model):
    edit_transforms(tiny_capture, lambda meta: meta.pop("ply_file_path"))
    if colmap_model:  # From which nerfstudio offers to make points, in the folder.
        (tiny_capture / "colmap/sparse/0").mkdir(parents=True)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    before = files_of(tiny_capture)
    with pytest.raises(CaptureError, match="no structure-from-motion points"):
        read_training_capture(tiny_capture, NERFSTUDIO)
    assert files_of(tiny_capture) == before


def test_a_folder_that_is_no_capture_has_a_sentence(tmp_path):
    with pytest.raises(CaptureError, match="nowhere does not exist"):
        read_training_capture(tmp_path / "nowhere", NERFSTUDIO)
    with pytest.raises(CaptureError, match="cannot read"):
        read_training_capture(tmp_path, NERFSTUDIO)


def test_both_formats_of_a_real_capture_agree():
    """The same relative poses and images, in two worlds; and in both the points lie where the images show them."""
    folder = shared_capture("banana_tiny")
    before = files_of(folder)
    captures = [read_training_capture(folder, words) for words in (COLMAP, NERFSTUDIO)]
    assert files_of(folder) == before
    colmap, nerfstudio = captures
    assert torch.equal(colmap.views.images, nerfstudio.views.images)
    assert torch.allclose(colmap.views.cameras.Ks, nerfstudio.views.cameras.Ks)
    relative = []
    for capture in captures:
        first_from_view = capture.views.cameras.viewmats[0].double() @ capture.views.cameras.viewmats.double().inverse()
        moves = first_from_view[:, :3, 3]
        relative.append((first_from_view[:, :3, :3], moves / moves.norm(dim=1).max()))
        assert len(capture.views) == 12 and len(capture.points) == 2000
        there = colour_error(capture, (0, 0))
        for shift in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
            assert there < 0.95 * colour_error(capture, shift)
    for ours, theirs in zip(*relative, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5)
    # Points as well: they fall on the same pixels, whatever their order.
    for view in (0, 11):
        places = [project(capture, view)[0].double() for capture in captures]
        nearest = torch.cdist(*places).amin(dim=1)
        assert nearest.max() < 0.05


def test_a_scaled_real_capture_has_the_same_poses_and_smaller_pixels():
    full, third = (read_training_capture(shared_capture("banana_tiny"), COLMAP, scale) for scale in (1.0, 0.34))
    assert third.views.images.shape == (12, 57, 87, 3)
    assert torch.equal(third.views.cameras.viewmats, full.views.cameras.viewmats)
    assert torch.allclose(project(third, 5)[0], 0.34 * project(full, 5)[0], atol=1e-3)
