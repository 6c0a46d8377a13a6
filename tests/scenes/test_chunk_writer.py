"""Captures as chunks: what is written is read again, by this package and as pixelSplat's loader reads it."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from l2o_splat.scenes.capture import Capture, Points
from l2o_splat.scenes.chunks.camera_rows import cameras_of_rows
from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.folder import ChunkFolder
from l2o_splat.scenes.chunks.points import read_scene_points
from l2o_splat.scenes.chunks.view_index import read_view_index
from l2o_splat.scenes.chunks.writer import ChunkWriter
from l2o_splat.views import Views
from tests.scenes.chunk_files import camera_rows, photograph


def capture(frames: int = 5, seed: int = 0, points: int = 40) -> Capture:
    cameras = cameras_of_rows(camera_rows(frames), 60, 40, "a test")
    images = np.stack([photograph(seed + frame, 60, 40) for frame in range(frames)])
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(points, 2, generator=generator) * torch.tensor([60.0, 40.0])
    xyz = cameras[:1].unproject(pixels, torch.rand(1, points, generator=generator) + 2)[0]
    rgb = torch.randint(256, (points, 3), generator=generator) / 255
    return Capture(Views(cameras, torch.from_numpy(images).float() / 255), Points(xyz, rgb))


def test_frames_cameras_and_points_come_back(tmp_path):
    captures = {name: capture(5, 10 * i) for i, name in enumerate("abc")}
    ChunkWriter(scenes_per_chunk=2, evaluation_views=(2, 2)).write(tmp_path / "train", captures.items())
    folder = ChunkFolder(tmp_path / "train")
    assert folder.chunks == {"000000.torch": ("a", "b"), "000001.torch": ("c",)}
    for key, written in captures.items():
        scene = folder.scene(key)
        views = scene.decode(range(5))
        assert torch.allclose(views.cameras.Ks, written.views.cameras.Ks, atol=1e-4)
        assert torch.equal(views.cameras.viewmats, written.views.cameras.viewmats)
        assert (views.images - written.views.images).abs().mean() < 0.01
        points = read_scene_points(tmp_path / "train" / "points", key, scene.cameras)
        assert torch.equal(points.xyz, written.points.xyz) and torch.allclose(points.rgb, written.points.rgb)


def test_a_chunk_holds_what_loaders_of_the_format_expect(tmp_path):
    ChunkWriter().write(tmp_path / "test", [("a", capture())])
    (entry,) = torch.load(tmp_path / "test" / "000000.torch", weights_only=True)
    assert (entry["key"], entry["url"], entry["timestamps"].dtype) == ("a", "", torch.int64)
    assert entry["cameras"].shape == (5, 18) and entry["cameras"].dtype == torch.float32
    # Intrinsics in units of the image size, two zeros, and the matrix from world to camera row by row.
    assert entry["cameras"].numpy() == pytest.approx(camera_rows(5).numpy(), abs=1e-6)
    first = Image.open(BytesIO(entry["images"][0].numpy().tobytes()))
    assert first.format == "JPEG" and first.size == (60, 40)


def test_frames_are_reduced_as_at_training(tmp_path):
    written = capture()
    ChunkWriter(size=(32, 32), quality=100).write(tmp_path / "small", [("a", written)])
    ChunkWriter(quality=100).write(tmp_path / "whole", [("a", written)])
    small, whole = (ChunkFolder(tmp_path / name).scene("a") for name in ("small", "whole"))
    one, other = small.decode(range(5)), whole.decode(range(5), (32, 32))
    assert one.images.shape == other.images.shape == (5, 32, 32, 3)
    assert torch.allclose(one.cameras.Ks, other.cameras.Ks, atol=1e-4)
    assert (one.images - other.images).abs().max() < 0.03


def test_views_to_evaluate_on_are_written_or_said_to_be_missing(tmp_path):
    said = []
    captures = [("long", capture(9)), ("short", capture(5))]
    ChunkWriter(evaluation_views=(4, 3)).write(tmp_path / "test", captures, said.append)
    index = read_view_index(tmp_path / "test" / "evaluation_index.json")
    assert index["short"] is None and len(said) == 1 and "short" in said[0] and "7 are needed" in said[0]
    assert len(index["long"].context) == 4 and len(index["long"].target) == 3


def test_masks_are_said_to_be_left_out_and_captures_without_points_get_no_file(tmp_path):
    bare = capture(points=0)
    masked = Capture(Views(bare.views.cameras, bare.views.images, torch.ones(5, 40, 60, 1)), bare.points)
    said = []
    ChunkWriter(evaluation_views=(2, 2)).write(tmp_path / "train", [("a", masked)], said.append)
    assert said == ["a: its masks are left out; chunks hold none."]
    assert not (tmp_path / "train" / "points").exists()


def test_nothing_is_left_behind_when_a_capture_fails(tmp_path):
    def captures():
        yield "a", capture()
        raise ChunkError("the second capture is damaged")

    with pytest.raises(ChunkError, match="second capture"):
        ChunkWriter(scenes_per_chunk=1).write(tmp_path / "train", captures())
    with pytest.raises(ChunkError, match="Two captures are named a"):
        ChunkWriter().write(tmp_path / "train", [("a", capture()), ("a", capture())])
    with pytest.raises(ChunkError, match="cannot be reduced to 64 x 64"):
        ChunkWriter(size=(64, 64)).write(tmp_path / "train", [("a", capture())])
    assert list(tmp_path.iterdir()) == []
    ChunkWriter().write(tmp_path / "train", [("a", capture())])
    with pytest.raises(ChunkError, match="already holds something"):
        ChunkWriter().write(tmp_path / "train", [("a", capture())])
    with pytest.raises(ChunkError, match="a quality of 1 to 100"):
        ChunkWriter(quality=0)
